//! Every reason for which a plugin file is refused, in words that say what to do.

use semver::Version;

use crate::plugin_host::record::Failure;

/// Why a plugin file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// More bytes than a plugin may have.
    #[error("the file has {size} bytes; a plugin has at most {limit}")]
    TooLarge {
        /// Bytes of the file.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// No WebAssembly at all.
    #[error("this is not WebAssembly: {found}. Give the .wasm file that the build made")]
    NotWasm {
        /// What it looks like.
        found: &'static str,
    },
    /// A core module without the contract inside.
    #[error(
        "this is a core module without the policy contract inside; build it with wit-bindgen against the world \
         latchkey:policy/policy, or make a component of it with `wasm-tools component new`"
    )]
    NotAComponent,
    /// A core module with the contract that can't become a component.
    #[error("this core module does not fit the contract that is embedded in it: {0}")]
    Componentize(String),
    /// It wants the system interface.
    #[error("imports {import}, but policies are pure and get no WASI. {remedy}")]
    ImportsWasi {
        /// The first such import.
        import: String,
        /// The flag that avoids it, by language.
        remedy: String,
    },
    /// It wants something that a policy does not get.
    #[error(
        "imports {import}, which this appliance does not provide (a policy gets latchkey:policy/log and nothing else)"
    )]
    ImportNotProvided {
        /// Name of the import.
        import: String,
    },
    /// Built for another contract.
    #[error("{interface} is of contract version {found}; this appliance speaks {supported}")]
    WrongVersion {
        /// The interface, without its version.
        interface: String,
        /// The version found.
        found: String,
        /// The newest version spoken here.
        supported: Version,
    },
    /// It does not export what the host calls.
    #[error("does not export latchkey:policy/hooks@{supported}; it exports {}", list(.found))]
    MissingExport {
        /// The newest version spoken here.
        supported: Version,
        /// What it exports instead.
        found: Vec<String>,
    },
    /// Broken, or beyond the features and sizes that are allowed.
    #[error("this component is not valid here: {0}")]
    Invalid(String),
    /// Compiling it could take more time or memory than the appliance gives.
    #[error("this is too complex to compile here: {reason}")]
    TooComplex {
        /// Which function, and what there is too much of.
        reason: String,
    },
    /// The compiler took too long.
    #[error("compiling it takes more than {limit_secs} s, which is the limit")]
    CompileTime {
        /// Seconds allowed.
        limit_secs: u64,
    },
    /// `describe` gave no answer.
    #[error("its `describe` failed, {0}")]
    Describe(#[source] Failure),
    /// What `describe` said is not acceptable.
    #[error("its manifest is not acceptable: {field}: {reason}")]
    Manifest {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The host itself is in trouble (disk, threads).
    #[error("the plugin host can't do this now: {0}")]
    Host(String),
}

impl PackageError {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::NotWasm { .. } => "not-wasm",
            Self::NotAComponent => "not-a-component",
            Self::Componentize(_) => "contract-mismatch",
            Self::ImportsWasi { .. } => "imports-wasi",
            Self::ImportNotProvided { .. } => "import-not-provided",
            Self::WrongVersion { .. } => "wrong-contract-version",
            Self::MissingExport { .. } => "missing-export",
            Self::Invalid(_) => "invalid-component",
            Self::TooComplex { .. } => "too-complex",
            Self::CompileTime { .. } => "compile-time-exceeded",
            Self::Describe(_) => "describe-failed",
            Self::Manifest { .. } => "invalid-manifest",
            Self::Host(_) => "host-trouble",
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}
