//! Bounds how hard a file is to compile, before it is compiled.
//!
//! cranelift's time and memory grow with the size of the code, which the file limit bounds, except in one
//! respect: each place where control flow meets may need a value for each local variable of its function (SSA
//! form), parameters included, so a file of 300 KB could ask for gigabytes. That product is bounded here, for each
//! function and for all of a file together. Real compilers stay below it: Python's interpreter has a function with
//! 192,000 and 5.6 million in all, the JavaScript one 110,000 and 640,000. What a compilation takes nevertheless is
//! bounded where it runs.

mod nesting;

use wasmparser::{BlockType, CompositeInnerType, FunctionBody, Operator, Parser, Payload};

use super::{PackageError, invalid};

/// Refuses files that nest too many instances, or with a function that is too large, with too many functions, or
/// that would make the compiler keep too many values.
pub(in crate::plugin_host) fn judge(component: &[u8]) -> Result<(), PackageError> {
    nesting::judge(component)?;
    let mut module = Module::default();
    let (mut functions, mut all_values) = (0_u64, 0_u64);
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(invalid)? {
            Payload::Version { .. } => module = Module::default(),
            Payload::TypeSection(types) => {
                for group in types {
                    let types = group.map_err(invalid)?.into_types();
                    module
                        .types
                        .extend(types.map(|ty| Signature::of(&ty.composite_type.inner)));
                }
            }
            Payload::FunctionSection(types) => {
                functions += u64::from(types.count());
                within("functions", functions, FUNCTIONS_MAX)?;
                for index in types {
                    module.functions.push(index.map_err(invalid)?);
                }
            }
            Payload::CodeSectionEntry(body) => {
                let values = module.values_of_next(&body)?;
                all_values = all_values.saturating_add(values);
                within(
                    "local variables × branches of all functions",
                    all_values,
                    ALL_VALUES_MAX,
                )?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn within(what: &str, found: u64, limit: u64) -> Result<(), PackageError> {
    if found <= limit {
        return Ok(());
    }
    Err(PackageError::TooComplex {
        reason: format!("{what} = {found}; the limit is {limit}"),
    })
}

/// What is known of a module before its code.
#[derive(Default)]
struct Module {
    types: Vec<Signature>,
    /// Type of each function that has code.
    functions: Vec<u32>,
    /// Functions whose code was read.
    read: usize,
}

impl Module {
    /// Judges the next function by itself, and returns its values.
    fn values_of_next(&mut self, body: &FunctionBody<'_>) -> Result<u64, PackageError> {
        let function = self.read;
        self.read += 1;
        let of = |what: &str| format!("function {function} of a module has {what}");
        let range = body.range();
        let bytes = (range.end - range.start) as u64;
        within(&of("bytes of code"), bytes, FUNCTION_BYTES_MAX)?;
        let own = self.functions.get(function).copied().unwrap_or(u32::MAX);
        let values = self
            .values(body, self.signature(own).parameters)
            .map_err(invalid)?;
        within(&of("local variables × branches"), values, VALUES_MAX)?;
        Ok(values)
    }

    /// Returns an upper bound of the values that merging control flow can need: (parameters, locals and what a
    /// block takes or gives) × branches.
    fn values(&self, body: &FunctionBody<'_>, parameters: u64) -> wasmparser::Result<u64> {
        let mut locals = parameters;
        for group in body.get_locals_reader()? {
            locals += u64::from(group?.0);
        }
        let (mut branches, mut block_width) = (1_u64, 0);
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            match operators.read()? {
                Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                    branches += 1;
                    block_width = block_width.max(self.block_width(blockty));
                }
                Operator::Br { .. } | Operator::BrIf { .. } | Operator::Else => branches += 1,
                Operator::BrTable { targets } => branches += u64::from(targets.len()) + 1,
                _ => {}
            }
        }
        Ok((locals + block_width).saturating_mul(branches))
    }

    fn block_width(&self, ty: BlockType) -> u64 {
        match ty {
            BlockType::Empty => 0,
            BlockType::Type(_) => 1,
            BlockType::FuncType(index) => {
                let ty = self.signature(index);
                ty.parameters.max(ty.results)
            }
        }
    }

    /// Returns the signature of a type; the widest there can be for one that is not there, which the compiler
    /// refuses.
    fn signature(&self, index: u32) -> Signature {
        let known = self.types.get(index as usize);
        known.copied().unwrap_or(Signature::WIDEST)
    }
}

/// How many values a function or a block takes and gives.
#[derive(Clone, Copy)]
struct Signature {
    parameters: u64,
    results: u64,
}

impl Signature {
    /// wasmparser's own limits.
    const WIDEST: Self = Self {
        parameters: 1_000,
        results: 1_000,
    };

    fn of(ty: &CompositeInnerType) -> Self {
        match ty {
            CompositeInnerType::Func(ty) => Self {
                parameters: ty.params().len() as u64,
                results: ty.results().len() as u64,
            },
            _ => Self::WIDEST,
        }
    }
}

/// Python's largest function has 430 KB.
const FUNCTION_BYTES_MAX: u64 = 2 << 20;
/// Ten seconds.
const VALUES_MAX: u64 = 400_000;
const ALL_VALUES_MAX: u64 = 20_000_000;
/// A Python plugin has 13,500.
const FUNCTIONS_MAX: u64 = 100_000;
