//! Finds names in an expression that mean nothing, so that a misspelling is an error when the
//! configuration is saved and not a failure in the middle of the night.

use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr, LiteralValue, SelectExpr, operators},
};
use latchkey_policy::serde_json::{self, Value};

// What an expression may name; `outcome` only after a reset.
pub const VARIABLES: [&str; 4] = ["question", "hour", "minute", "weekday"];
const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "uint"];

// Has every field that a question has.
const QUESTION: &str = include_str!("../../base-question.json");

// Fields of the question that may be null: there, and without a value.
const NULLABLE: [&str; 7] = [
    "question.actor.name",
    "question.target.name",
    "question.target.lastLoginAt",
    "question.request.ip",
    "question.request.userAgent",
    "question.request.reason",
    "question.request.ticket",
];
// The same of what its lists hold: past resets and factors.
const NULLABLE_IN_LISTS: [&str; 2] = ["ticket", "lastUsedAt"];

pub struct Names<'a> {
    question: Value,
    with_outcome: bool,
    // Variables of the macros around: `past` in `exists(past, …)`.
    bound: Vec<&'a str>,
}

impl<'a> Names<'a> {
    pub fn check(expression: &'a IdedExpr, with_outcome: bool) -> Result<(), String> {
        let question = serde_json::from_str(QUESTION).map_err(|error| error.to_string())?;
        Self { question, with_outcome, bound: Vec::new() }.walk(expression)
    }

    fn walk(&mut self, expression: &'a IdedExpr) -> Result<(), String> {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                self.walk(&select.operand)?;
                self.field(&select.operand, &select.field)?;
                if select.test { self.presence(select) } else { Ok(()) }
            }
            Expr::Call(call) => {
                if matches!(call.func_name.as_str(), operators::EQUALS | operators::NOT_EQUALS) {
                    self.comparison(&call.args)?;
                }
                call.target.iter().try_for_each(|target| self.walk(target))?;
                call.args.iter().try_for_each(|argument| self.walk(argument))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.walk(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(made) => made.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Comprehension(each) => {
                self.walk(&each.iter_range)?;
                self.walk(&each.accu_init)?;
                let outside = self.bound.len();
                self.bound.extend([each.iter_var.as_str(), each.accu_var.as_str()]);
                self.bound.extend(each.iter_var2.as_deref());
                let inside = [&each.loop_cond, &each.loop_step, &each.result];
                inside.into_iter().try_for_each(|part| self.walk(part))?;
                self.bound.truncate(outside);
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: &'a EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::StructField(field) => self.walk(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.walk(&entry.key)?;
                self.walk(&entry.value)
            }
        }
    }

    fn variable(&self, name: &str) -> Result<(), String> {
        if VARIABLES.contains(&name) || TYPES.contains(&name) || self.bound.contains(&name) {
            return Ok(());
        }
        match name {
            "outcome" if self.with_outcome => Ok(()),
            "outcome" => Err("only effects may look at the outcome: it is not known before the reset".into()),
            _ => Err(format!("there is no variable {name}; there are {}", VARIABLES.join(", "))),
        }
    }

    // Only where the way down from `question` is plain.
    fn field(&self, of: &IdedExpr, field: &str) -> Result<(), String> {
        match self.reach(of) {
            Some((path, Value::Object(fields))) if !fields.contains_key(field) => {
                let known: Vec<_> = fields.keys().map(String::as_str).collect();
                Err(format!("{path} has no {field}; it has {}", known.join(", ")))
            }
            _ => Ok(()),
        }
    }

    // `has` asks whether there is such a field, and a question has all of them.
    fn presence(&self, select: &SelectExpr) -> Result<(), String> {
        if let Some(path) = self.nullable(select) {
            return Err(format!("has({path}) is always true, since what is absent is null: write {path} != null, or == null for the opposite"));
        }
        match self.reach(&select.operand) {
            Some((path, _)) => Err(format!("has({path}.{0}) is always true: leave it out", select.field)),
            None => Ok(()),
        }
    }

    // What is absent is null, and null is not the empty string: a rule that waits for one never holds.
    fn comparison(&self, sides: &[IdedExpr]) -> Result<(), String> {
        let empty = |side: &IdedExpr| matches!(&side.expr, Expr::Literal(LiteralValue::String(text)) if text.inner().is_empty());
        let (true, Some(path)) = (sides.iter().any(empty), sides.iter().find_map(|side| self.nullable_field(side))) else {
            return Ok(());
        };
        Err(format!("{path} is never \"\", since what is absent is null: write == null, or != null for the opposite"))
    }

    fn nullable_field(&self, expression: &IdedExpr) -> Option<String> {
        match &expression.expr {
            Expr::Select(select) if !select.test => self.nullable(select),
            _ => None,
        }
    }

    fn nullable(&self, select: &SelectExpr) -> Option<String> {
        let field = select.field.as_str();
        if let Some((of, _)) = self.reach(&select.operand) {
            return Some(format!("{of}.{field}")).filter(|path| NULLABLE.contains(&path.as_str()));
        }
        let of = match &select.operand.expr {
            Expr::Ident(name) if self.bound.contains(&name.as_str()) => name.as_str(),
            Expr::Call(call) if call.func_name == operators::INDEX => "[…]",
            _ => return None,
        };
        NULLABLE_IN_LISTS.contains(&field).then(|| format!("{of}.{field}"))
    }

    fn reach(&self, expression: &IdedExpr) -> Option<(String, &Value)> {
        match &expression.expr {
            Expr::Ident(name) if name == "question" && !self.bound.contains(&"question") => {
                Some((name.clone(), &self.question))
            }
            Expr::Select(select) => {
                let (path, value) = self.reach(&select.operand)?;
                Some((format!("{path}.{}", select.field), value.get(&select.field)?))
            }
            _ => None,
        }
    }
}
