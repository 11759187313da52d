//! What a rule may look at: the names there are, what lies behind each, and what it can never be.

use latchkey_policy::serde_json::{self, Value, json};

// What an expression may name; `outcome` only after a reset.
pub const VARIABLES: [&str; 4] = ["question", "hour", "minute", "weekday"];
pub const TYPES: [&str; 10] = ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "uint"];

// What the interpreter is given, and the macros that the parser writes out.
pub const FUNCTIONS: [&str; 13] = [
    "bool", "bytes", "contains", "double", "dyn", "endsWith", "int", "matches", "secondsSince", "size", "startsWith",
    "string", "type",
];
pub const MACROS: [&str; 5] = ["all", "exists", "exists_one", "filter", "map"];

// Has every field that a question has.
const QUESTION: &str = include_str!("../../base-question.json");

const ROLES: &[&str] = &["member", "help-desk", "org-admin", "operator"];
const FACTORS: &[&str] = &["totp", "passkey", "recovery-codes"];
const CHANNELS: &[&str] = &["api", "console", "cli"];
const RESULTS: &[&str] = &["done", "denied", "failed"];

// Texts that are one of a few words; `[]` stands for the elements of a list.
const WORDS: [(&str, &[&str]); 8] = [
    ("question.actor.role", ROLES),
    ("question.target.role", ROLES),
    ("question.target.factors[].kind", FACTORS),
    ("question.request.channel", CHANNELS),
    ("question.history.ofTarget[].outcome", RESULTS),
    ("question.history.byActor[].outcome", RESULTS),
    ("outcome.kind", RESULTS),
    ("outcome.removed[].kind", FACTORS),
];

const RANGES: [(&str, i64, i64); 3] = [("hour", 0, 23), ("minute", 0, 59), ("weekday", 1, 7)];

// What may be null: there, and without a value.
const NULLABLE: [&str; 12] = [
    "question.actor.name",
    "question.target.name",
    "question.target.lastLoginAt",
    "question.target.factors[].lastUsedAt",
    "question.request.ip",
    "question.request.userAgent",
    "question.request.reason",
    "question.request.ticket",
    "question.history.ofTarget[].ticket",
    "question.history.byActor[].ticket",
    "outcome.removed[].lastUsedAt",
    "outcome.denial",
];

pub fn words(path: &str) -> Option<&'static [&'static str]> {
    WORDS.iter().find(|(of, _)| *of == path).map(|(_, words)| *words)
}

pub fn range(path: &str) -> Option<(i64, i64)> {
    RANGES.iter().find(|(of, ..)| *of == path).map(|(_, from, to)| (*from, *to))
}

pub fn nullable(path: &str) -> bool {
    NULLABLE.contains(&path)
}

// Every variable, with all that can be there: lists have an element, and nothing of the question is null.
pub fn full() -> Result<Value, String> {
    let mut question: Value = serde_json::from_str(QUESTION).map_err(|error| error.to_string())?;
    let past = json!([{
        "at": "2026-02-17T09:00:00Z", "actorId": question["actor"]["id"], "targetId": question["target"]["id"],
        "outcome": "done", "ticket": "INC-1",
    }]);
    question["target"]["factors"][1]["lastUsedAt"] = question["target"]["factors"][0]["lastUsedAt"].clone();
    let history = question["history"].as_object_mut().ok_or("no history")?;
    for (name, value) in history {
        *value = if name.contains("Resets") { json!(1) } else { past.clone() };
    }
    question["attributes"] = json!([{ "name": "name", "value": "value" }]);
    // Effects are of many forms, so nothing is known of one.
    let outcome = json!({
        "kind": "done", "removed": question["target"]["factors"], "effects": [], "denial": null,
        "approvedBy": [question["actor"]["id"]],
    });
    Ok(json!({ "question": question, "outcome": outcome, "hour": 10, "minute": 30, "weekday": 3 }))
}

// The same with everything absent that can be: nothing happened before, and nobody said more than they had to.
pub fn empty() -> Result<Value, String> {
    let mut variables = full()?;
    strip("", &mut variables);
    Ok(variables)
}

fn strip(path: &str, value: &mut Value) {
    match value {
        _ if nullable(path) => *value = Value::Null,
        Value::Array(items) => items.clear(),
        Value::Number(_) if path.contains("Resets") => *value = json!(0),
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                strip(&path, value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latchkey_policy::types::{Channel, FactorKind, Outcome, Question, ResultKind, Role};

    #[test]
    fn the_samples_are_questions_and_outcomes() {
        for sample in [full().unwrap(), empty().unwrap()] {
            serde_json::from_value::<Question>(sample["question"].clone()).unwrap();
            serde_json::from_value::<Outcome>(sample["outcome"].clone()).unwrap();
        }
    }

    #[test]
    fn the_words_are_the_contracts() {
        fn read<T: serde::de::DeserializeOwned>(words: &[&str]) -> Vec<T> {
            words.iter().map(|word| serde_json::from_value(json!(word)).unwrap()).collect()
        }
        use {Channel::*, FactorKind::*, ResultKind::*, Role::*};
        assert_eq!(read::<Role>(ROLES), [Member, HelpDesk, OrgAdmin, Operator]);
        assert_eq!(read::<FactorKind>(FACTORS), [Totp, Passkey, RecoveryCodes]);
        assert_eq!(read::<Channel>(CHANNELS), [Api, Console, Cli]);
        assert_eq!(read::<ResultKind>(RESULTS), [Done, Denied, Failed]);
    }

    #[test]
    fn paths_lead_somewhere() {
        let sample = full().unwrap();
        let words = WORDS.iter().map(|(path, _)| *path);
        for path in words.chain(RANGES.map(|(path, ..)| path)).chain(NULLABLE) {
            let pointer = format!("/{}", path.replace("[]", "/0").replace('.', "/"));
            assert!(sample.pointer(&pointer).is_some(), "{path}");
        }
    }
}
