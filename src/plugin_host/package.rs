//! Reads a plugin file and reports precisely what is wrong with it, before anything is compiled or stored.
//!
//! A plugin is a component that exports `latchkey:policy/hooks` and imports at most `latchkey:policy/log`.
//! A core module with the contract embedded (as wit-bindgen leaves it) is turned into a component here, so
//! authors need no tool beyond their compiler.

mod contracts;
mod core_module;
mod effort;
mod error;

use std::borrow::Cow;
use std::collections::BTreeSet;

use semver::Version;
use wasmparser::{ComponentExternalKind, KnownCustom, Parser, Payload};

pub use contracts::{CONTRACT_WIT, Contracts, contract_version};
use core_module::componentize;
pub(super) use effort::judge as judge_effort;
pub use error::PackageError;

use super::printable::printable;
use super::record::Digest;

/// A plugin file that passed the checks and may be compiled.
#[derive(Debug)]
pub struct Package<'a> {
    /// SHA-256 of the file as given; the plugin's identity.
    pub digest: Digest,
    /// The component: the file itself, or the result of converting the core module.
    pub component: Cow<'a, [u8]>,
    /// Whether the file was a core module.
    pub from_core_module: bool,
    /// Interfaces imported, with version.
    pub imports: Vec<String>,
    /// Names exported, with version.
    pub exports: Vec<String>,
    /// Version of the contract that it was built for.
    pub contract: Version,
    /// Compilers and tools named in the file, such as "Rust" or "componentize-py 0.25".
    pub producers: Vec<String>,
}

/// Reads and checks a plugin file against the contracts of this host. Does not compile.
///
/// # Errors
/// Every refusal that can be determined without compiling.
pub fn read(bytes: &[u8]) -> Result<Package<'_>, PackageError> {
    Contracts::released().read(bytes)
}

impl Contracts {
    /// Reads and checks a plugin file against these contracts. Does not compile.
    ///
    /// # Errors
    /// Every refusal that can be determined without compiling.
    pub fn read<'a>(&self, bytes: &'a [u8]) -> Result<Package<'a>, PackageError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(PackageError::TooLarge {
                size: bytes.len(),
                limit: FILE_BYTES_MAX,
            });
        }
        let digest = Digest::of(bytes);
        let from_core_module = Parser::is_core_wasm(bytes);
        let component = if Parser::is_component(bytes) {
            Cow::Borrowed(bytes)
        } else if from_core_module {
            Cow::Owned(componentize(bytes, self)?)
        } else {
            return Err(PackageError::NotWasm {
                found: looks_like(bytes),
            });
        };

        let surface = Surface::of(&component)?;
        for import in &surface.imports {
            self.judge_import(import, &surface.producers, &component)?;
        }
        let contract = self.hooks_version(&surface.exports)?;
        Ok(Package {
            digest,
            component,
            from_core_module,
            imports: surface.imports,
            exports: surface.exports,
            contract,
            producers: surface.producers.into_iter().collect(),
        })
    }

    fn judge_import(
        &self,
        import: &str,
        producers: &BTreeSet<String>,
        component: &[u8],
    ) -> Result<(), PackageError> {
        if import.starts_with("wasi:") {
            return Err(PackageError::ImportsWasi {
                import: import.to_owned(),
                remedy: remedy(producers, component),
            });
        }
        let (interface, version) = import.split_once('@').unwrap_or((import, ""));
        match interface {
            "latchkey:policy/log" | "latchkey:policy/types" => self.spoken(interface, version).map(drop),
            _ => Err(PackageError::ImportNotProvided {
                import: import.to_owned(),
            }),
        }
    }

    fn hooks_version(&self, exports: &[String]) -> Result<Version, PackageError> {
        let found = exports
            .iter()
            .find_map(|export| export.strip_prefix("latchkey:policy/hooks@"));
        let Some(version) = found else {
            let found = exports.iter().take(10).cloned().collect();
            return Err(PackageError::MissingExport {
                supported: self.newest(),
                found,
            });
        };
        self.spoken("latchkey:policy/hooks", version)
    }
}

/// The imports, exports and producers of a component.
#[derive(Default)]
struct Surface {
    imports: Vec<String>,
    exports: Vec<String>,
    producers: BTreeSet<String>,
}

impl Surface {
    fn of(component: &[u8]) -> Result<Self, PackageError> {
        let mut surface = Self::default();
        // Instances are what a policy exports, so they come first, the last one before the others.
        let (mut instances, mut others) = (Vec::new(), Vec::new());
        let mut names = 0_u64;
        // Nested modules and components are walked too (for their producers); `depth` keeps their imports and
        // exports apart from the outer ones.
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(component) {
            match payload.map_err(invalid)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    within_names(&mut names, imports.count())?;
                    for import in imports {
                        surface
                            .imports
                            .push(printable(import.map_err(invalid)?.name.name));
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    within_names(&mut names, exports.count())?;
                    for export in exports {
                        let export = export.map_err(invalid)?;
                        let text = printable(export.name.name);
                        match export.kind {
                            ComponentExternalKind::Instance => instances.push(text),
                            _ => others.push(text),
                        }
                    }
                }
                Payload::CustomSection(section) => note_producers(&section, &mut surface.producers),
                _ => {}
            }
        }
        surface.exports = instances.into_iter().rev().chain(others).collect();
        Ok(surface)
    }
}

/// Counts the names of a section before they are read.
fn within_names(names: &mut u64, more: u32) -> Result<(), PackageError> {
    *names += u64::from(more);
    if *names <= NAMES_MAX {
        return Ok(());
    }
    Err(PackageError::TooComplex {
        reason: format!("imports and exports = {names}; the limit is {NAMES_MAX}"),
    })
}

fn note_producers(section: &wasmparser::CustomSectionReader<'_>, producers: &mut BTreeSet<String>) {
    let KnownCustom::Producers(fields) = section.as_known() else {
        return;
    };
    // Producers are informative only: a broken section is no reason to refuse the file.
    for field in fields.into_iter().flatten() {
        for value in field.values.into_iter().flatten() {
            if producers.len() < PRODUCERS_KEPT {
                let text = format!("{} {}", value.name, value.version);
                producers.insert(printable(text.trim()).chars().take(80).collect());
            }
        }
    }
}

/// Returns the flag that avoids WASI, for the plugin's language if it is recognised, otherwise for each
/// language.
fn remedy(producers: &BTreeSet<String>, file: &[u8]) -> String {
    // The more specific ones come first: a Python component contains C, a QuickJS component Rust and C.
    let lower: Vec<String> = producers
        .iter()
        .map(|p| format!("{} ", p.to_lowercase()))
        .collect();
    let made_by = |marks: &[&str]| marks.iter().any(|mark| lower.iter().any(|p| p.starts_with(mark)));
    let contains = |text: &str| file.windows(text.len()).any(|part| part == text.as_bytes());
    let told = if made_by(&["componentize-py", "python"]) || contains("componentize_py") {
        Some(PYTHON)
    } else if made_by(&["componentize-", "javascript", "starlingmonkey", "quickjs"])
        || contains("componentize_qjs")
    {
        Some(JAVASCRIPT)
    } else if made_by(&["go ", "tinygo"]) {
        Some(GO)
    } else if made_by(&["rust"]) {
        Some(RUST)
    } else if made_by(&["clang", "c11", "c17", "c_plus_plus"]) {
        Some(C)
    } else {
        None
    };
    match told {
        Some(advice) => advice.to_owned(),
        // A core module is C or Rust: interpreters come as components.
        None if Parser::is_core_wasm(file) => [C, RUST].join("; "),
        None => [PYTHON, JAVASCRIPT, GO, RUST, C].join("; "),
    }
}

const PYTHON: &str = "Python: componentize-py … componentize --stub-wasi";
const JAVASCRIPT: &str =
    "JavaScript: componentize-qjs --sync --stub-wasi, or componentize-js with all features disabled";
const GO: &str = "Go can't do without WASI and is not supported yet";
const RUST: &str = "Rust: build for wasm32-unknown-unknown, not wasm32-wasip1 or wasm32-wasip2";
const C: &str = "C: build a reactor (-mexec-model=reactor) without stdio, files, clock or environment";

fn looks_like(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "the file is empty",
        [0, b'a', b's', b'm', ..] => "a WebAssembly header of an unknown version",
        [0x7f, b'E', b'L', b'F', ..] => "a native library or program (ELF)",
        [b'M', b'Z', ..] => "a Windows program",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive",
        [0x1f, 0x8b, ..] => "a gzip file",
        _ if bytes.trim_ascii_start().starts_with(b"(") => "WebAssembly text",
        _ if std::str::from_utf8(bytes).is_ok() => "a text file",
        _ => "unknown bytes",
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn invalid(error: wasmparser::BinaryReaderError) -> PackageError {
    PackageError::Invalid(printable(&error.to_string()))
}

/// Largest plugin file, in bytes. JavaScript (in `SpiderMonkey`) and Python plugins have 12 and 18 MB.
pub const FILE_BYTES_MAX: usize = 32 << 20;
/// A policy exports one interface and imports two.
const NAMES_MAX: u64 = 1_000;
const PRODUCERS_KEPT: usize = 32;

#[cfg(test)]
#[path = "package_tests.rs"]
pub(super) mod tests;
