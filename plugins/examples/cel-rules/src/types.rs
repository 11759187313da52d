//! Finds what can be told of an expression without a question: names that mean nothing, values of the wrong
//! type, and comparisons that never hold. So a mistake is an error when the configuration is saved, and not a
//! rule that lets everything pass, or a failure in the middle of the night.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators as op},
};
use latchkey_policy::{serde_json::Value, time};

use crate::schema::{self, FUNCTIONS, MACROS, TYPES, VARIABLES};

// `variables` have a value for everything that can be named.
pub fn check(expression: &IdedExpr, variables: &Value, with_outcome: bool) -> Result<(), String> {
    Checker { variables, with_outcome, bound: Vec::new() }.condition(expression)
}

struct Checker<'a> {
    variables: &'a Value,
    with_outcome: bool,
    // Variables of the macros around: `past` in `exists(past, …)`.
    bound: Vec<(&'a str, Known<'a>)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Any,
    Null,
    Bool,
    Number,
    Text,
    List,
    Fields,
}

// What is known of an expression: its kind, and what it stands for where the way down from a variable is plain.
#[derive(Clone)]
struct Known<'a> {
    kind: Kind,
    place: Option<Place<'a>>,
}

#[derive(Clone)]
struct Place<'a> {
    // As the rule has it: `past.ticket`.
    shown: String,
    // As the schema has it: `question.history.ofTarget[].ticket`.
    path: String,
    value: &'a Value,
}

// An operand with what is known of it.
type Operand<'a> = (&'a IdedExpr, Known<'a>);

impl<'a> Checker<'a> {
    fn look(&mut self, expression: &'a IdedExpr) -> Result<Known<'a>, String> {
        match &expression.expr {
            Expr::Unspecified => Ok(Kind::Any.into()),
            Expr::Literal(literal) => Ok(Kind::of_literal(literal).into()),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let of = self.look(&select.operand)?;
                let field = of.field(&select.field)?;
                if select.test { field.presence() } else { Ok(field) }
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                list.elements.iter().try_for_each(|element| self.look(element).map(drop))?;
                Ok(Kind::List.into())
            }
            Expr::Map(map) => self.entries(map.entries.iter().map(|entry| &entry.expr)),
            Expr::Struct(made) => self.entries(made.entries.iter().map(|entry| &entry.expr)),
            Expr::Comprehension(each) => self.comprehension(each),
        }
    }

    fn condition(&mut self, expression: &'a IdedExpr) -> Result<(), String> {
        let known = self.look(expression)?;
        must_be(Kind::Bool, &(expression, known), "true or false")
    }

    fn entries(&mut self, entries: impl Iterator<Item = &'a EntryExpr>) -> Result<Known<'a>, String> {
        for entry in entries {
            match entry {
                EntryExpr::StructField(field) => self.look(&field.value)?,
                EntryExpr::MapEntry(entry) => {
                    self.look(&entry.key)?;
                    self.look(&entry.value)?
                }
            };
        }
        Ok(Kind::Any.into())
    }

    fn variable(&self, name: &str) -> Result<Known<'a>, String> {
        if let Some((_, known)) = self.bound.iter().rev().find(|(bound, _)| *bound == name) {
            return Ok(known.clone());
        }
        if TYPES.contains(&name) {
            return Ok(Kind::Any.into());
        }
        match name {
            "outcome" if !self.with_outcome => {
                Err("only effects may look at the outcome: it is not known before the reset".into())
            }
            _ => match self.variables.get(name) {
                Some(value) => Ok(Place { shown: name.into(), path: name.into(), value }.into()),
                None => Err(format!("there is no variable {name}; there are {}", VARIABLES.join(", "))),
            },
        }
    }

    fn comprehension(&mut self, each: &'a ComprehensionExpr) -> Result<Known<'a>, String> {
        let range = self.look(&each.iter_range)?;
        let start = self.look(&each.accu_init)?;
        let outside = self.bound.len();
        self.bound.push((&each.iter_var, range.element(&each.iter_var)));
        self.bound.extend(each.iter_var2.as_deref().map(|name| (name, Kind::Any.into())));
        // `filter` gives back elements of the list that it goes through.
        let gathered = if keeps_elements(&each.loop_step, &each.iter_var) { range } else { start };
        self.bound.push((&each.accu_var, gathered));
        self.look(&each.loop_cond)?;
        self.look(&each.loop_step)?;
        let result = self.look(&each.result);
        self.bound.truncate(outside);
        result
    }

    fn call(&mut self, call: &'a CallExpr) -> Result<Known<'a>, String> {
        let operands = call.target.as_deref().into_iter().chain(&call.args);
        let operands: Vec<Operand> =
            operands.map(|operand| Ok((operand, self.look(operand)?))).collect::<Result<_, String>>()?;
        let kind = match (call.func_name.as_str(), operands.as_slice()) {
            (op::EQUALS | op::NOT_EQUALS, [left, right]) => {
                comparable(left, right)?;
                Kind::Bool
            }
            (op::IN, [left, right]) => {
                match &right.0.expr {
                    Expr::List(list) => {
                        for element in &list.elements {
                            comparable(left, &(element, self.look(element)?))?;
                        }
                    }
                    _ if right.1.kind == Kind::List => comparable(left, &(right.0, right.1.element("what it holds")))?,
                    _ => {}
                }
                Kind::Bool
            }
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [left, right]) => {
                alike(left, right, "can't be compared")?;
                Kind::Bool
            }
            (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT, operands) => {
                operands.iter().try_for_each(|operand| must_be(Kind::Bool, operand, "true or false"))?;
                Kind::Bool
            }
            (op::CONDITIONAL, [condition, yes, no]) => {
                must_be(Kind::Bool, condition, "true or false")?;
                if yes.1.kind == no.1.kind { yes.1.kind } else { Kind::Any }
            }
            (op::INDEX, [of, (index, _)]) => {
                return match literal_text(index) {
                    Some(field) if of.1.kind == Kind::Fields => of.1.field(field),
                    _ => Ok(of.1.element(&format!("{}[…]", named(of)))),
                };
            }
            (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [left, right]) => {
                if left.1.kind == right.1.kind && left.1.kind != Kind::List { left.1.kind } else { Kind::Any }
            }
            (op::NEGATE | op::NOT_STRICTLY_FALSE | op::OPT_INDEX | op::OPT_SELECT, _) => Kind::Any,
            (name, operands) => function(name, operands)?,
        };
        Ok(kind.into())
    }
}

fn function(name: &str, operands: &[Operand]) -> Result<Kind, String> {
    if MACROS.contains(&name) {
        return Err(format!("{name} takes a variable and an expression, as in question.history.ofTarget.{name}(past, …)"));
    }
    if !FUNCTIONS.contains(&name) {
        return Err(format!("there is no function {name}; there are {}, {}", FUNCTIONS.join(", "), MACROS.join(", ")));
    }
    match name {
        "contains" | "endsWith" | "matches" | "startsWith" => {
            operands.iter().try_for_each(|operand| must_be(Kind::Text, operand, &format!("text, which {name} takes")))?;
            if name == "matches"
                && let Some(pattern) = operands.last().and_then(|(pattern, _)| literal_text(pattern))
            {
                regex_lite::Regex::new(pattern).map_err(|error| format!("{pattern:?} is no regular expression: {error}"))?;
            }
            Ok(Kind::Bool)
        }
        "secondsSince" => {
            for operand in operands {
                let no_time = |value: &Value| value.as_str().is_some_and(|text| time::parse(text).is_none());
                if operand.1.place.as_ref().is_some_and(|place| no_time(place.value)) {
                    return Err(format!("{} is not a time, which secondsSince takes", named(operand)));
                }
                must_be(Kind::Text, operand, "a time, which secondsSince takes")?;
            }
            Ok(Kind::Number)
        }
        "size" | "int" | "double" => Ok(Kind::Number),
        "string" => Ok(Kind::Text),
        "bool" => Ok(Kind::Bool),
        _ => Ok(Kind::Any),
    }
}

// Whether the two can be equal at all.
fn comparable(left: &Operand, right: &Operand) -> Result<(), String> {
    for (side, other) in [(left, right), (right, left)] {
        if let Some(place) = &side.1.place {
            place.can_be(&other.0.expr)?;
        }
    }
    alike(left, right, "are never equal")
}

fn alike(left: &Operand, right: &Operand, but: &str) -> Result<(), String> {
    let unknown = |operand: &Operand| matches!(operand.1.kind, Kind::Any | Kind::Null);
    if unknown(left) || unknown(right) || left.1.kind == right.1.kind {
        return Ok(());
    }
    Err(format!("{} is {}, {} is {}: the two {but}", named(left), left.1.kind.name(), named(right), right.1.kind.name()))
}

fn must_be(kind: Kind, operand: &Operand, what: &str) -> Result<(), String> {
    if operand.1.kind == Kind::Any || operand.1.kind == kind {
        return Ok(());
    }
    Err(format!("{} is {}, not {what}", named(operand), operand.1.kind.name()))
}

fn named((expression, known): &Operand) -> String {
    match (&known.place, &expression.expr) {
        (Some(place), _) => place.shown.clone(),
        (None, Expr::Literal(LiteralValue::String(text))) => format!("{:?}", text.inner()),
        (None, Expr::Literal(LiteralValue::Int(number))) => number.inner().to_string(),
        (None, Expr::Call(call)) if FUNCTIONS.contains(&call.func_name.as_str()) => format!("{}(…)", call.func_name),
        _ => "what is computed".into(),
    }
}

fn literal_text(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

// `condition ? @result + [past] : @result`, as the parser writes `filter`.
fn keeps_elements(step: &IdedExpr, variable: &str) -> bool {
    match &step.expr {
        Expr::Call(call) if matches!(call.func_name.as_str(), op::CONDITIONAL | op::ADD) => {
            call.args.get(1).is_some_and(|then| keeps_elements(then, variable))
        }
        Expr::List(list) => matches!(list.elements.as_slice(), [IdedExpr { expr: Expr::Ident(name), .. }] if name == variable),
        _ => false,
    }
}

impl<'a> Known<'a> {
    fn field(&self, field: &str) -> Result<Self, String> {
        let Some(place) = &self.place else { return Ok(Kind::Any.into()) };
        match place.value {
            Value::Object(fields) => match fields.get(field) {
                Some(value) => Ok(place.below(&format!(".{field}"), value)),
                None => {
                    let known: Vec<_> = fields.keys().map(String::as_str).collect();
                    Err(format!("{} has no {field}; it has {}", place.shown, known.join(", ")))
                }
            },
            Value::Null => Ok(Kind::Any.into()),
            _ => Err(format!("{} is {} and has no {field}", place.shown, self.kind.name())),
        }
    }

    fn element(&self, shown: &str) -> Self {
        match &self.place {
            Some(Place { path, value: Value::Array(items), .. }) => match items.first() {
                Some(value) => Place { shown: shown.into(), path: format!("{path}[]"), value }.into(),
                None => Kind::Any.into(),
            },
            _ => Kind::Any.into(),
        }
    }

    // `has` asks whether there is such a field, and a question has all of them.
    fn presence(&self) -> Result<Self, String> {
        match &self.place {
            Some(Place { shown, path, .. }) if schema::nullable(path) => {
                Err(format!("has({shown}) is always true, since what is absent is null: write {shown} != null, or == null for the opposite"))
            }
            Some(Place { shown, .. }) => Err(format!("has({shown}) is always true: leave it out")),
            None => Ok(Kind::Bool.into()),
        }
    }
}

impl<'a> Place<'a> {
    fn below(&self, step: &str, value: &'a Value) -> Known<'a> {
        Place { shown: format!("{}{step}", self.shown), path: format!("{}{step}", self.path), value }.into()
    }

    // What is absent is null, and null is not the empty string: a rule that waits for one never holds.
    fn can_be(&self, other: &Expr) -> Result<(), String> {
        let Expr::Literal(literal) = other else { return Ok(()) };
        let Self { shown, path, .. } = self;
        match literal {
            LiteralValue::String(text) if text.inner().is_empty() && schema::nullable(path) => {
                Err(format!("{shown} is never \"\", since what is absent is null: write == null, or != null for the opposite"))
            }
            LiteralValue::String(text) => match schema::words(path) {
                Some(words) if !words.contains(&text.inner()) => {
                    Err(format!("{shown} is never {:?}; it is one of {}", text.inner(), words.join(", ")))
                }
                _ => Ok(()),
            },
            LiteralValue::Int(number) => match schema::range(path) {
                Some((from, to)) if !(from..=to).contains(number.inner()) => {
                    Err(format!("{shown} is never {}; it is from {from} to {to}", number.inner()))
                }
                _ => Ok(()),
            },
            LiteralValue::Null if !schema::nullable(path) => Err(format!("{shown} is never null")),
            _ => Ok(()),
        }
    }
}

impl<'a> From<Place<'a>> for Known<'a> {
    fn from(place: Place<'a>) -> Self {
        let kind = match place.value {
            Value::Null => Kind::Any,
            Value::Bool(_) => Kind::Bool,
            Value::Number(_) => Kind::Number,
            Value::String(_) => Kind::Text,
            Value::Array(_) => Kind::List,
            Value::Object(_) => Kind::Fields,
        };
        Self { kind, place: Some(place) }
    }
}

impl From<Kind> for Known<'_> {
    fn from(kind: Kind) -> Self {
        Self { kind, place: None }
    }
}

impl Kind {
    fn of_literal(literal: &LiteralValue) -> Self {
        match literal {
            LiteralValue::Boolean(_) => Self::Bool,
            LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Self::Number,
            LiteralValue::String(_) => Self::Text,
            LiteralValue::Null => Self::Null,
            LiteralValue::Bytes(_) => Self::Any,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "text",
            Self::List => "a list",
            Self::Fields => "an object",
        }
    }
}
