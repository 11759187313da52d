//! Every reason for refusing a plugin file, with a message that says what to do.

use semver::Version;

use crate::plugin_host::record::Failure;

/// Why a plugin file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The file is larger than a plugin may be.
    #[error("the file has {size} bytes; a plugin has at most {limit}")]
    TooLarge {
        /// Bytes of the file.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The file is not WebAssembly.
    #[error("this is not WebAssembly: {found}. Give the .wasm file that the build made")]
    NotWasm {
        /// What the file looks like.
        found: &'static str,
    },
    /// A core module without the contract embedded.
    #[error(
        "this is a core module without the policy contract inside; build it with wit-bindgen against the world \
         latchkey:policy/policy, or make a component of it with `wasm-tools component new`"
    )]
    NotAComponent,
    /// A core module with the contract that can't become a component.
    #[error("this core module does not fit the contract that is embedded in it: {0}")]
    Componentize(String),
    /// It imports the system interface.
    #[error("imports {import}, but policies are pure and get no WASI. {remedy}")]
    ImportsWasi {
        /// The first such import.
        import: String,
        /// The flag that avoids the import, by language.
        remedy: String,
    },
    /// It imports something that a policy does not get.
    #[error(
        "imports {import}, which this appliance does not provide (a policy gets latchkey:policy/log and nothing else)"
    )]
    ImportNotProvided {
        /// Name of the import.
        import: String,
    },
    /// It was built for an unsupported contract version.
    #[error("{interface} is of contract version {found}; this appliance speaks {supported}")]
    WrongVersion {
        /// The interface, without its version.
        interface: String,
        /// The version found.
        found: String,
        /// The newest version supported here.
        supported: Version,
    },
    /// It does not export the hooks that the host calls.
    #[error("does not export latchkey:policy/hooks@{supported}; it exports {}", list(.found))]
    MissingExport {
        /// The newest version supported here.
        supported: Version,
        /// What it exports instead.
        found: Vec<String>,
    },
    /// Broken, or using features or sizes that are not allowed.
    #[error("this component is not valid here: {0}")]
    Invalid(String),
    /// Compiling it could take more time or memory than the appliance allows.
    #[error("this is too complex to compile here: {reason}")]
    TooComplex {
        /// The function, and the quantity that is too large.
        reason: String,
    },
    /// Compiling it took too long.
    #[error("compiling it takes more than {limit_secs} s, which is the limit")]
    CompileTime {
        /// Seconds allowed.
        limit_secs: u64,
    },
    /// `describe` failed.
    #[error("its `describe` failed, {0}")]
    Describe(#[source] Failure),
    /// The manifest that `describe` returned is not acceptable.
    #[error("its manifest is not acceptable: {field}: {reason}")]
    Manifest {
        /// Field at fault.
        field: &'static str,
        /// What is wrong with the field.
        reason: String,
    },
    /// The host itself is in trouble (disk, threads).
    #[error("the plugin host can't do this now: {0}")]
    Host(String),
}

impl PackageError {
    /// Returns a stable code for programs.
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
