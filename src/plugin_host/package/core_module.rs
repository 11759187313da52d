//! Makes a component of a core module, as a plain compiler produces it.

use std::collections::BTreeSet;

use wasmparser::{Parser, Payload};

use super::{Contracts, PackageError, invalid, note_producers, remedy};
use crate::plugin_host::printable;

/// Makes a component of a core module, guided by the names of its imports and exports. The contract is always
/// our own text, in the version that the exports name. The custom section that wit-bindgen leaves is dropped
/// unread: a hand-written one could crash its reader (a package that depends on itself overflows the stack).
pub(super) fn componentize(module: &[u8], contracts: &Contracts) -> Result<Vec<u8>, PackageError> {
    let (mut named, mut wasi, mut unknown) = (None, None, None);
    let mut producers = BTreeSet::new();
    let mut kept: Vec<u8> = module.iter().copied().take(HEADER_BYTES).collect();
    let mut read = HEADER_BYTES;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(invalid)?;
        if let Some((_, content)) = payload.as_section() {
            let is_contract = matches!(&payload, Payload::CustomSection(section)
                if section.name().starts_with("component-type"));
            if !is_contract {
                // Sections follow each other without a gap. The start of a code section is reported before its
                // end is read.
                let section = module.get(read..content.end);
                let section =
                    section.ok_or_else(|| PackageError::Invalid("the file ends in its code".into()))?;
                kept.extend_from_slice(section);
            }
            read = content.end;
        }
        match payload {
            Payload::CustomSection(section) => note_producers(&section, &mut producers),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let module = import.map_err(invalid)?.module;
                    if module.starts_with("wasi") {
                        wasi.get_or_insert_with(|| printable(module));
                    } else if module.contains('/') && !module.starts_with("latchkey:policy/") {
                        unknown.get_or_insert_with(|| printable(module));
                    }
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let name = export.map_err(invalid)?.name;
                    if let Some((version, _)) = name.strip_prefix(CORE_HOOKS).and_then(|n| n.split_once('#'))
                    {
                        let version = contracts.spoken(HOOKS, version)?;
                        named.get_or_insert(version);
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(import) = wasi {
        return Err(PackageError::ImportsWasi {
            remedy: remedy(&producers, module),
            import,
        });
    }
    if let Some(import) = unknown {
        return Err(PackageError::ImportNotProvided { import });
    }
    let version = named.ok_or(PackageError::NotAComponent)?;
    // The tool that makes the component compares whole names, including the version.
    let contract = contracts
        .text(&version)
        .ok_or_else(|| PackageError::WrongVersion {
            interface: HOOKS.to_owned(),
            found: version.to_string(),
            supported: contracts.newest(),
        })?;
    embed_contract(&mut kept, contract).map_err(|error| PackageError::Host(format!("{error:#}")))?;
    wit_component::ComponentEncoder::default()
        .module(&kept)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| PackageError::Componentize(printable(&format!("{error:#}"))))
}

/// Adds the custom section that wit-bindgen would have written.
fn embed_contract(module: &mut Vec<u8>, contract: &str) -> anyhow::Result<()> {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("policy.wit", contract)?;
    let world = resolve.select_world(&[package], Some("policy"))?;
    wit_component::embed_component_metadata(module, &resolve, world, wit_component::StringEncoding::UTF8)
}

/// Magic and version (WebAssembly core specification, §5.5.16).
const HEADER_BYTES: usize = 8;
const HOOKS: &str = "latchkey:policy/hooks";
/// Prefix of the names under which a core module exports the hooks.
const CORE_HOOKS: &str = "latchkey:policy/hooks@";
