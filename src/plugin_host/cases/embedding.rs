//! Golden cases embedded in a plugin file: a custom section that each installation reads.

use serde_json::Value;
use wasmparser::{Parser, Payload};

use super::{Case, CaseError};

/// Returns the resolved cases embedded in a plugin file; empty if there are none.
///
/// # Errors
/// The file or a section is malformed, or all sections together hold too many cases.
pub fn embedded(bytes: &[u8]) -> Result<Vec<Case>, CaseError> {
    let (mut cases, mut size) = (Vec::new(), 0);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| CaseError::Format(error.to_string()))?;
        if let Payload::CustomSection(section) = payload
            && section.name() == SECTION
        {
            // Checked before parsing: parsed values take several times the size of their text.
            size += section.data().len();
            if size > CASES_BYTES_MAX {
                return Err(too_large());
            }
            let text =
                std::str::from_utf8(section.data()).map_err(|error| CaseError::Format(error.to_string()))?;
            let values: Vec<Value> =
                serde_json::from_str(text).map_err(|error| CaseError::Format(error.to_string()))?;
            if cases.len() + values.len() > CASES_MAX {
                return Err(too_many());
            }
            for value in values {
                cases.push(Case::parse(&value.to_string())?);
            }
        }
    }
    Ok(cases)
}

/// Returns the plugin file with these resolved cases embedded, in place of any that it has.
///
/// # Errors
/// The file is not WebAssembly, or there are too many cases or bytes of them.
pub fn embed(bytes: &[u8], cases: &[Case]) -> Result<Vec<u8>, CaseError> {
    let format = |error: &dyn std::fmt::Display| CaseError::Format(error.to_string());
    if cases.len() > CASES_MAX {
        return Err(too_many());
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut depth = 0_u32;
    let mut kept = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| format(&error))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == SECTION => {
                // A section is preceded by its id (one byte) and its size (LEB128).
                let range = section.range();
                let head = 1 + leb128(range.end - range.start).len();
                plain.extend_from_slice(&bytes[kept..range.start - head]);
                kept = range.end;
            }
            _ => {}
        }
    }
    plain.extend_from_slice(&bytes[kept..]);

    let text = serde_json::to_vec(cases).map_err(|error| format(&error))?;
    if text.len() > CASES_BYTES_MAX {
        return Err(too_large());
    }
    let mut body = leb128(SECTION.len());
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(&text);
    plain.push(0);
    plain.extend_from_slice(&leb128(body.len()));
    plain.extend_from_slice(&body);
    Ok(plain)
}

fn too_many() -> CaseError {
    CaseError::TooMany(format!("there are more than {CASES_MAX} of them"))
}

fn too_large() -> CaseError {
    let mebibytes = CASES_BYTES_MAX >> 20;
    CaseError::TooMany(format!("they have more than {mebibytes} MiB"))
}

fn leb128(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7f).expect("seven bits");
        n >>= 7;
        if n == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Name of the custom section that holds the cases.
pub(super) const SECTION: &str = "latchkey-cases";
pub(super) const CASES_MAX: usize = 500;
pub(super) const CASES_BYTES_MAX: usize = 4 << 20;
