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
    serde_json, time,
    types::{Outcome, Question},
};

use crate::{rule::Rule, schema, types};

pub struct Evaluator {
    context: Context<'static, 'static>,
}

impl Evaluator {
    pub fn new(question: &Question, outcome: Option<&Outcome>) -> Result<Self, String> {
        let local = time::local(question);
        let numbers = [("hour", local.hour), ("minute", local.minute), ("weekday", local.weekday)];
        let mut variables: Vec<_> = numbers.into_iter().map(|(name, number)| (name, Value::Int(number.into()))).collect();
        variables.push(("question", value(question)?));
        if let Some(outcome) = outcome {
            variables.push(("outcome", value(outcome)?));
        }
        Self::with(variables, question.request.at)
    }

    fn with<'v>(variables: impl IntoIterator<Item = (&'v str, Value)>, now: u64) -> Result<Self, String> {
        let mut context = Context::with_env(Arc::new(Env::stdlib()));
        for (name, value) in variables {
            context.add_variable_from_value(name, value);
        }
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

// What can be told about an expression without a question: from its words, and by trying it on two made-up ones.
pub struct Trial {
    variables: serde_json::Value,
    full: Evaluator,
    empty: Evaluator,
}

impl Trial {
    pub fn new() -> Result<Self, String> {
        let variables = schema::full()?;
        let evaluator = |variables: &serde_json::Value| {
            let at = variables.pointer("/question/request/at").and_then(|at| time::parse(at.as_str()?));
            let given = variables.as_object().into_iter().flatten();
            let given = given.map(|(name, given)| Ok((name.as_str(), value(given)?))).collect::<Result<Vec<_>, String>>()?;
            Evaluator::with(given, at.unwrap_or_default())
        };
        Ok(Self { full: evaluator(&variables)?, empty: evaluator(&schema::empty()?)?, variables })
    }

    pub fn check(&self, when: &str, with_outcome: bool) -> Result<(), String> {
        let parsed = parse(when)?;
        types::check(&parsed, &self.variables, with_outcome)?;
        tried(&parsed, &self.full, "with every field given", |error| {
            // What is in a field can't be known: int(question.request.ticket) may well be a number.
            matches!(error, ExecutionError::FunctionError { .. } | ExecutionError::IndexOutOfBounds(_))
        })?;
        tried(&parsed, &self.empty, "with no earlier reset, and nothing that may be null", |error| {
            !matches!(error, ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_))
        })
    }
}

fn tried(parsed: &IdedExpr, on: &Evaluator, how: &str, may_be: impl Fn(&ExecutionError) -> bool) -> Result<(), String> {
    match on.context.resolve(parsed) {
        Ok(Value::Bool(_)) => Ok(()),
        Ok(other) => Err(format!("tried on a question {how}, it gives {}, not a bool", other.type_of())),
        Err(error) if may_be(&error) => Ok(()),
        Err(error) => Err(format!("tried on a question {how}, it fails: {error}")),
    }
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

#[cfg(test)]
mod tests {
    fn check(when: &str, with_outcome: bool) -> Result<(), String> {
        super::Trial::new().unwrap().check(when, with_outcome)
    }

    #[test]
    fn what_can_never_hold_or_never_be_told_is_refused() {
        for (when, reason) in [
            (r#"question.actor.role == "ORG_ADMIN""#, "never \"ORG_ADMIN\"; it is one of member, help-desk, org-admin, operator"),
            (r#"question.target.role in ["member", "ORG_ADMIN"]"#, "question.target.role is never \"ORG_ADMIN\""),
            (r#"weekday == "sat""#, "weekday is a number, \"sat\" is text: the two are never equal"),
            ("weekday in [0, 6]", "weekday is never 0; it is from 1 to 7"),
            ("24 != hour", "hour is never 24"),
            (r#"question.request.ticket in [""]"#, "question.request.ticket is never \"\""),
            ("question.target.email == null", "question.target.email is never null"),
            (r#"question.history.ofTarget.exists(r, r.outcome == "Done")"#, "r.outcome is never \"Done\"; it is one of done"),
            (r#"question.history.ofTarget.exists(r, r.outcom == "done")"#, "r has no outcom; it has actorId, at"),
            (r#"question.history.ofTarget.filter(r, true).exists(r, r.outcome == "Done")"#, "r.outcome is never \"Done\""),
            (r#"question.history.ofTarget[0].outcom == "done""#, "question.history.ofTarget[…] has no outcom"),
            (r#"question.target.factors.exists(f, f.kind == "otp")"#, "totp, passkey, recovery-codes"),
            (r#"question["target"]["emial"] == "a""#, "question.target has no emial"),
            ("question.target.email", "question.target.email is text, not true or false"),
            ("question.target.active && question.target.email", "question.target.email is text, not true or false"),
            ("question.request.ticket == null || question.target.email.size()", "size(…) is a number, not true or false"),
            (r#"question.target.email.endswith("x")"#, "there is no function endswith; there are bool, "),
            (r#"question.request.ticket == null || question.target.email.endswith("x")"#, "there is no function endswith"),
            (r#"question.target.email.matches("[")"#, "\"[\" is no regular expression"),
            (r#"question.history.actorResetsLastDay.startsWith("2")"#, "is a number, not text, which startsWith takes"),
            (r#"question.history.targetResetsLastDay < "2""#, "the two can't be compared"),
            ("question.history.ofTarget.exists(true)", "exists takes a variable and an expression"),
            ("secondsSince(question.target.email) > 1", "not a time"),
            ("1 / 0 == 1", "it fails: Division by zero"),
            ("10 / question.history.actorResetsLastDay > 5", "with no earlier reset, and nothing that may be null, it fails"),
            ("dyn(question.target.email)", "it gives string, not a bool"),
        ] {
            let refused = check(when, false).expect_err(when);
            assert!(refused.contains(reason), "{when}: {refused}");
        }
    }

    #[test]
    fn what_may_hold_is_taken() {
        for when in [
            r#"question.actor.role == "org-admin" && weekday in [6, 7]"#,
            r#"question.history.ofTarget.filter(r, r.outcome != "failed").size() > 1"#,
            r#"question.history.byActor.map(r, r.targetId).exists(id, id == question.target.id)"#,
            "question.history.byActor.exists_one(r, r.ticket == question.request.ticket)",
            // Fails without a ticket: the reset is refused then, and the entry says why.
            r#"question.request.ticket.matches("^[0-9]+$") && int(question.request.ticket) > 5"#,
            "int(question.request.ticket) > 5",
            "secondsSince(question.target.lastLoginAt) > 3600",
            r#"question.history.ofTarget[0].ticket == null"#,
            r#"question["target"]["email"].endsWith("@acme.example")"#,
            r#"question.attributes.exists(a, a.name == "x" && a.value == "")"#,
            r#"question.request.at < "2026-12-24T00:00:00Z""#,
            r#"(question.target.name == null ? question.target.email : question.target.name).contains("x")"#,
            r#"{"a": 1}["a"] + question.target.activeSessions == 2"#,
        ] {
            check(when, false).unwrap_or_else(|reason| panic!("{when}: {reason}"));
        }
        for when in [
            r#"outcome.kind == "done" && outcome.denial == null"#,
            r#"outcome.removed.exists(f, f.kind == "totp" && f.lastUsedAt == null)"#,
            r#"outcome.approvedBy.exists(id, id != question.actor.id)"#,
            r#""require-enrolment-code" in outcome.effects"#,
            "outcome.effects.exists(effect, has(effect.notify))",
            "outcome.approvedBy.size() == 0",
        ] {
            check(when, true).unwrap_or_else(|reason| panic!("{when}: {reason}"));
        }
        assert!(check(r#"outcome.kind == "DONE""#, true).is_err());
    }

    #[test]
    fn every_function_that_is_named_is_there() {
        for name in crate::schema::FUNCTIONS {
            let called = |call: String| match super::Evaluator::with([], 0).unwrap().context.resolve(&super::parse(&call).unwrap()) {
                Err(cel::ExecutionError::UndeclaredReference(_)) => false,
                Ok(_) | Err(_) => true,
            };
            assert!(called(format!("{name}('1')")) || called(format!("'1'.{name}('1')")), "{name}");
        }
    }
}
