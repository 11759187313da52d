//! The interpreter: parses expressions, gives them the question, and runs them.

use std::sync::Arc;

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value,
    extractors::This,
    objects::{Key, Map},
    parser::PrattParser,
};
use latchkey_policy::{
    serde::Serialize,
    time,
    types::{Outcome, Question},
};

use crate::{names::Names, rule::Rule};

pub struct Evaluator {
    context: Context<'static, 'static>,
}

impl Evaluator {
    pub fn new(question: &Question, outcome: Option<&Outcome>) -> Result<Self, String> {
        let local = time::local(question);
        let mut context = Context::with_env(Arc::new(Env::stdlib()));
        context.add_variable_from_value("question", value(question)?);
        context.add_variable_from_value("hour", i64::from(local.hour));
        context.add_variable_from_value("minute", i64::from(local.minute));
        context.add_variable_from_value("weekday", i64::from(local.weekday));
        if let Some(outcome) = outcome {
            context.add_variable_from_value("outcome", value(outcome)?);
        }
        let now = question.request.at;
        context
            .add_function("secondsSince", move |at: Arc<String>| match time::parse(&at) {
                Some(at) => Ok((now as i64).saturating_sub(at as i64) / 1000),
                None => Err(ExecutionError::function_error("secondsSince", format!("{at:?} is no RFC 3339 time"))),
            })
            .and_then(|()| context.add_function("matches", matches))
            .map_err(|error| error.to_string())?;
        Ok(Self { context })
    }

    // A rule that can't be told is an error, never a "no": the host then refuses the reset.
    pub fn holds(&self, rule: &Rule) -> Result<bool, String> {
        let failed = |reason: String| format!("rule {}: {reason}", rule.name);
        match self.context.resolve(&parse(&rule.when).map_err(failed)?) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(failed(format!("`when` gave {}, not a bool", other.type_of()))),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

// What can be told about an expression without a question.
pub fn check(when: &str, with_outcome: bool) -> Result<(), String> {
    Names::check(&parse(when)?, with_outcome)
}

fn parse(when: &str) -> Result<IdedExpr, String> {
    PrattParser::new().parse(when).map_err(|errors| match errors.errors.first() {
        Some(error) => format!("column {}: {}", error.pos.1, error.msg),
        None => errors.to_string(),
    })
}

// The whole text has to hold a match, as in CEL's own `matches`: anchors are the rule's business.
fn matches(This(text): This<Arc<String>>, pattern: Arc<String>) -> Result<bool, ExecutionError> {
    let pattern = regex_lite::Regex::new(&pattern);
    pattern.map(|pattern| pattern.is_match(&text)).map_err(|error| ExecutionError::function_error("matches", error))
}

fn value(of: &impl Serialize) -> Result<Value, String> {
    cel::to_value(of).map(signed).map_err(|error| error.to_string())
}

// Counts are unsigned in the contract; in CEL a literal such as 1 is signed, and the two do not add up.
fn signed(value: Value) -> Value {
    match value {
        Value::UInt(number) => Value::Int(i64::try_from(number).unwrap_or(i64::MAX)),
        Value::List(items) => Value::List(Arc::new(Arc::unwrap_or_clone(items).into_iter().map(signed).collect())),
        Value::Map(Map { map }) => {
            let entries = Arc::unwrap_or_clone(map).into_iter();
            Value::Map(Map { map: Arc::new(entries.map(|(key, value): (Key, Value)| (key, signed(value))).collect()) })
        }
        other => other,
    }
}
