//! Golden cases run natively, so that `cargo test` needs neither wasm nor the appliance.
//!
//! The same files are what `latchkey plugin test` runs against the built module. A case is
//! `{"description", "hook", "config", "question", "outcome", "expect"}`; `question` is merged
//! (RFC 7396) over a base question, `outcome` over a reset that was done.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Policy,
    config::parse,
    types::{Approval, Denial, Effect, Outcome, Question, Verdict},
};

const BASE_QUESTION: &str = include_str!("../base-question.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    description: String,
    hook: CaseHook,
    config: Value,
    #[serde(default = "nothing")]
    question: Value,
    #[serde(default = "nothing")]
    outcome: Value,
    expect: Answer,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CaseHook {
    BeforeReset,
    AfterReset,
    CheckConfig,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Allow(Vec<Effect>),
    Deny(Denial),
    RequireApproval(Approval),
    Effects(Vec<Effect>),
    Error(String),
    Failure(String),
    Ok(bool),
}

/// The question that cases start from: a Wednesday morning, nothing out of the ordinary.
///
/// # Panics
/// Never: the text is part of this crate and tested.
#[must_use]
pub fn question() -> Question {
    serde_json::from_str(BASE_QUESTION).expect("the base question is well-formed")
}

/// Runs every `*.json` in `folder` and panics with all that differ.
///
/// # Panics
/// If the folder has no case, a case is malformed, or an answer is not the expected one.
pub fn run<P: Policy>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no golden case", folder.display());
    let failures: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            run_one::<P>(&text).err().map(|reason| format!("{}: {reason}", file.display()))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} cases differ\n{}", failures.len(), files.len(), failures.join("\n"));
}

fn run_one<P: Policy>(text: &str) -> Result<(), String> {
    let case: Case = serde_json::from_str(text).map_err(|error| format!("not a golden case: {error}"))?;
    let failure = match &case.expect {
        Answer::Failure(cause) => Some(cause.as_str()),
        _ => None,
    };
    // What the sandbox ends (a trap, a deadline) it alone can show; a hook's own error is one of its failures, too.
    if failure.is_some_and(|cause| cause != "hook-error") {
        return Ok(());
    }
    let answer = answer::<P>(&case).map_err(|error| format!("not a golden case: {error}"))?;
    if answer == case.expect || failure.is_some() && matches!(answer, Answer::Error(_)) {
        return Ok(());
    }
    let pretty = |answer: &Answer| serde_json::to_string_pretty(answer).expect("an answer has a JSON form");
    Err(format!("{}\nexpected {}\ngot {}", case.description, pretty(&case.expect), pretty(&answer)))
}

fn answer<P: Policy>(case: &Case) -> Result<Answer, serde_json::Error> {
    let config = match parse::<P::Config>(&case.config.to_string()) {
        Ok(config) => config,
        Err(error) => return Ok(Answer::Error(error)),
    };
    // The host saves no configuration that `check` refuses, so the hooks never see one.
    if let Err(error) = P::check(&config) {
        return Ok(Answer::Error(error));
    }
    let mut question: Value = serde_json::from_str(BASE_QUESTION)?;
    merge(&mut question, &case.question);
    let question: Question = serde_json::from_value(question)?;
    Ok(match case.hook {
        CaseHook::CheckConfig => Answer::Ok(true),
        CaseHook::BeforeReset => match P::before_reset(&question, &config) {
            Ok(Verdict::Allow(effects)) => Answer::Allow(effects),
            Ok(Verdict::Deny(denial)) => Answer::Deny(denial),
            Ok(Verdict::RequireApproval(approval)) => Answer::RequireApproval(approval),
            Err(error) => Answer::Error(error),
        },
        CaseHook::AfterReset => {
            let mut outcome = json!({"kind": "done", "removed": question.target.factors, "effects": [],
                "denial": null, "approvedBy": []});
            merge(&mut outcome, &case.outcome);
            let outcome: Outcome = serde_json::from_value(outcome)?;
            P::after_reset(&question, &outcome, &config).map_or_else(Answer::Error, Answer::Effects)
        }
    })
}

// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

#[cfg(test)]
mod tests {
    use super::{Value, json, merge, question};

    #[test]
    fn merges_as_rfc_7396_appendix_a_says() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[1]}), json!([1]), json!([1])),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1,2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} {patch}");
        }
    }

    #[test]
    fn the_base_question_round_trips() {
        let base = question();
        let json = serde_json::to_value(&base).expect("has a JSON form");
        assert_eq!(serde_json::from_str::<Value>(super::BASE_QUESTION).expect("is JSON"), json);
    }
}
