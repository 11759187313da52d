//! Bounds how hard a module is to compile, before it is compiled.
//!
//! A compilation can't be stopped, and its memory is the appliance's. cranelift's time and memory grow with the
//! size of the code, which the file limit bounds, except in one respect: each place where control flow meets
//! may need a value for each local variable of its function (SSA form), so a file of 300 KB could ask for
//! gigabytes. That product is bounded here. Real compilers stay far below it: Python's interpreter has 180,000
//! at most, the JavaScript one 97,000.

use wasmparser::{BlockType, FunctionBody, Operator, Parser, Payload};

use super::PackageError;

/// Refuses modules with a function that is too large, or that would make the compiler keep too many values.
pub(in crate::plugin_host) fn judge(component: &[u8]) -> Result<(), PackageError> {
    let mut function = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(super::invalid)? {
            Payload::CodeSectionStart { .. } => function = 0,
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                let bytes = range.end - range.start;
                if bytes > FUNCTION_BYTES_MAX {
                    return Err(PackageError::TooComplex {
                        reason: format!(
                            "function {function} of a module has {bytes} bytes of code; the limit is {FUNCTION_BYTES_MAX}"
                        ),
                    });
                }
                let values = values(&body).map_err(super::invalid)?;
                if values > VALUES_MAX {
                    return Err(PackageError::TooComplex {
                        reason: format!(
                            "function {function} of a module has local variables × branches = {values}; the limit is \
                             {VALUES_MAX}"
                        ),
                    });
                }
                function += 1;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns an upper bound of the values that merging control flow can need: (locals and block parameters) ×
/// branches.
fn values(body: &FunctionBody<'_>) -> wasmparser::Result<u64> {
    let mut locals = 0_u64;
    for group in body.get_locals_reader()? {
        locals += u64::from(group?.0);
    }
    let (mut branches, mut wide_blocks) = (1_u64, false);
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        match operators.read()? {
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                branches += 1;
                wide_blocks |= matches!(blockty, BlockType::FuncType(_));
            }
            Operator::Br { .. } | Operator::BrIf { .. } | Operator::Else => branches += 1,
            Operator::BrTable { targets } => branches += u64::from(targets.len()) + 1,
            _ => {}
        }
    }
    let parameters = if wide_blocks { BLOCK_PARAMETERS_MAX } else { 1 };
    Ok((locals + parameters).saturating_mul(branches))
}

/// Python's largest function has 430 KB.
const FUNCTION_BYTES_MAX: usize = 2 << 20;
const VALUES_MAX: u64 = 1_000_000;
/// wasmparser's own limit.
const BLOCK_PARAMETERS_MAX: u64 = 1_000;
