//! Golden cases: a question, a configuration, and the answer that must come out.
//!
//! Authors keep them as files beside a plugin (`latchkey plugin test`), and they can be embedded in the plugin
//! file in a custom section, where installation runs them. A case calls the plugin exactly as a reset would,
//! but without the host's vetting: it pins what the *plugin* answers.

mod embedding;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serde_path_to_error::Segment;

use super::background_calls::Errand;
use super::printable::printable;
use super::record::{CallEnd, Failure, FailureCause, LogLine, Usage};
use super::v1::{Ran, Reply};
use crate::domain::policy::{Outcome, Question};
pub use embedding::{embed, embedded};

/// A case as an author writes it: `question` and `outcome` may be partial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// One sentence on what the case shows.
    pub description: String,
    /// Function of the plugin to call.
    pub hook: CaseHook,
    /// Configuration passed to the plugin.
    #[serde(default = "empty")]
    pub config: Value,
    /// Question, merged over the base question (JSON merge patch, RFC 7396).
    #[serde(default = "empty")]
    pub question: Value,
    /// Outcome, merged over "done, with the target's factors removed". Only for `after-reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Value>,
    /// Expected answer: an object with one of `allow`, `deny`, `require-approval`, `effects`, `ok`, `error`,
    /// `failure`.
    pub expect: Value,
}

fn empty() -> Value {
    json!({})
}

/// The function that a case calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaseHook {
    /// `before-reset`
    BeforeReset,
    /// `after-reset`
    AfterReset,
    /// `check-config`
    CheckConfig,
}

/// The result of a case.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseReport {
    /// The case's description.
    pub description: String,
    /// Whether the answer was the expected one.
    pub passed: bool,
    /// Differences, if any: path, expected value, actual value.
    pub differences: Vec<String>,
    /// The plugin's answer.
    pub answer: Value,
    /// Lines that the plugin logged.
    pub log: Vec<LogLine>,
    /// Resources that the call used.
    pub usage: Usage,
}

/// A case that can't be run.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The text is not a case.
    #[error("it is not a golden case: {0}")]
    Format(String),
    /// The merged question or outcome is incomplete or invalid.
    #[error("/{part}{path}: {reason}")]
    Part {
        /// "question" or "outcome".
        part: &'static str,
        /// Position of the error, a JSON Pointer (RFC 6901).
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// More cases, or more bytes of them, than a file may have.
    #[error("{0}")]
    TooMany(String),
    /// All cases together run for too long.
    #[error(
        "together they take more than {limit_secs} s of processor time, which is the limit; leave some out"
    )]
    TooLong {
        /// Seconds allowed.
        limit_secs: u64,
    },
}

impl CaseError {
    /// Returns whether the outcome is at fault.
    #[must_use]
    pub fn is_about_outcome(&self) -> bool {
        matches!(self, Self::Part { part: "outcome", .. })
    }
}

impl Case {
    /// Parses a case.
    ///
    /// # Errors
    /// The text is not JSON, or not in the form of a case.
    pub fn parse(text: &str) -> Result<Self, CaseError> {
        // serde would accept an array of the fields in order.
        if text.trim_start().starts_with('[') {
            return Err(CaseError::Format(
                "a case must be an object, not an array".to_owned(),
            ));
        }
        let case: Self =
            serde_json::from_str(text).map_err(|error| CaseError::Format(printable(&error.to_string())))?;
        let Some((kind, expected)) = case
            .expect
            .as_object()
            .filter(|o| o.len() == 1)
            .and_then(|o| o.iter().next())
        else {
            return Err(CaseError::Format(
                "expect must be an object with one field".to_owned(),
            ));
        };
        let kinds: &[&str] = match case.hook {
            CaseHook::BeforeReset => &["allow", "deny", "require-approval", "error", "failure"],
            CaseHook::AfterReset => &["effects", "error", "failure"],
            CaseHook::CheckConfig => &["ok", "error", "failure"],
        };
        if !kinds.contains(&kind.as_str()) {
            return Err(CaseError::Format(format!(
                "expect must be one of {}, not {}",
                kinds.join(", "),
                printable(kind)
            )));
        }
        let cause = |expected: &Value| FailureCause::ALL.iter().any(|cause| expected == cause.as_str());
        if kind == "failure" && !cause(expected) {
            return Err(CaseError::Format(format!(
                "failure must be one of {}, not {}",
                FailureCause::ALL.map(FailureCause::as_str).join(", "),
                printable(&expected.to_string())
            )));
        }
        if case.outcome.is_some() && case.hook != CaseHook::AfterReset {
            return Err(CaseError::Format(
                "only after-reset may have an outcome".to_owned(),
            ));
        }
        Ok(case)
    }

    /// Returns the same case with question and outcome written out in full, so that it no longer needs `base`.
    ///
    /// # Errors
    /// The merged question or outcome is incomplete or invalid.
    pub fn resolved(&self, base: &Value) -> Result<Self, CaseError> {
        let mut question = base.clone();
        merge_patch(&mut question, &self.question);
        let question: Question = part("question", &question)?;
        let outcome = if self.hook == CaseHook::AfterReset {
            let mut outcome = json!({ "kind": "done", "removed": question.target.factors, "effects": [] });
            merge_patch(&mut outcome, self.outcome.as_ref().unwrap_or(&empty()));
            let outcome: Outcome = part("outcome", &outcome)?;
            Some(serde_json::to_value(outcome).map_err(unwritten("outcome"))?)
        } else {
            None
        };
        let question = serde_json::to_value(question).map_err(unwritten("question"))?;
        Ok(Self {
            question,
            outcome,
            ..self.clone()
        })
    }
}

/// Returns the question that cases are merged over where no `base-question.json` is found.
#[must_use]
pub fn base_question() -> Value {
    serde_json::from_str(BASE_QUESTION).unwrap_or_default()
}

impl Case {
    /// Returns the call that the case makes.
    pub(super) fn errand(&self) -> Result<Errand, CaseError> {
        let config = self.config.to_string();
        let question = || part::<Question>("question", &self.question).map(Box::new);
        Ok(match self.hook {
            CaseHook::CheckConfig => Errand::CheckConfig(config),
            CaseHook::BeforeReset => Errand::BeforeReset(question()?, config),
            CaseHook::AfterReset => {
                let outcome: Outcome = part("outcome", self.outcome.as_ref().unwrap_or(&Value::Null))?;
                Errand::AfterReset(question()?, Box::new(outcome), config)
            }
        })
    }

    /// Compares what the call gave with what was expected.
    pub(super) fn judge(&self, ran: Ran) -> Result<CaseReport, CaseError> {
        let hook_error = matches!(&ran.reply, Err(failure) if failure.cause == FailureCause::HookError);
        let answer = match ran.reply {
            Ok(Reply::Answer(answer)) => serde_json::to_value(answer).map_err(unwritten("answer"))?,
            Ok(Reply::Config(Ok(()))) => json!({ "ok": true }),
            Ok(Reply::Config(Err(text))) => json!({ "error": text }),
            Ok(Reply::Manifest(_)) => unreachable!("a case never asks for the manifest"),
            Err(Failure {
                cause: FailureCause::HookError,
                detail,
            }) => json!({ "error": detail }),
            Err(failure) => json!({ "failure": failure.cause, "detail": failure.detail }),
        };
        // A case may expect a hook's own error by its text, or as the failure that the host makes of it.
        let as_failure = hook_error && self.expect.get("failure").is_some();
        let got = if as_failure {
            json!({ "failure": FailureCause::HookError })
        } else {
            comparable(&answer)
        };
        let mut differences = Vec::new();
        compare("", &self.expect, &got, &mut differences);
        for difference in &mut differences {
            *difference = printable(difference);
        }
        Ok(CaseReport {
            description: printable(&self.description),
            passed: differences.is_empty(),
            differences,
            answer,
            log: ran.log,
            usage: ran.usage,
        })
    }
}

/// Parses a complete question or outcome; the error has the path of the fault.
fn part<T: DeserializeOwned>(part: &'static str, value: &Value) -> Result<T, CaseError> {
    serde_path_to_error::deserialize(value).map_err(|error| CaseError::Part {
        part,
        path: printable(&pointer(error.path())),
        reason: printable(&error.inner().to_string()),
    })
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    let segments = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    });
    segments.flat_map(|segment| ["/".to_owned(), segment]).collect()
}

fn unwritten(part: &'static str) -> impl Fn(serde_json::Error) -> CaseError {
    move |error| CaseError::Part {
        part,
        path: String::new(),
        reason: error.to_string(),
    }
}

impl From<&CallEnd> for Value {
    fn from(end: &CallEnd) -> Self {
        match end {
            CallEnd::Answer(answer) => serde_json::to_value(answer).unwrap_or(Self::Null),
            CallEnd::Failure(failure) => json!({ "failure": failure.cause, "detail": failure.detail }),
        }
    }
}

/// Reduces a failure to its cause: its text may change between versions.
fn comparable(answer: &Value) -> Value {
    match answer.get("failure") {
        Some(cause) => json!({ "failure": cause }),
        None => answer.clone(),
    }
}

/// Compares exactly, except that `null` equals a missing field.
fn compare(path: &str, expected: &Value, got: &Value, differences: &mut Vec<String>) {
    if differences.len() >= DIFFERENCES_MAX {
        return;
    }
    match (expected, got) {
        (Value::Object(want), Value::Object(have)) => {
            let names = want
                .keys()
                .chain(have.keys().filter(|name| !want.contains_key(*name)));
            for name in names {
                let at = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                let field = |object: &serde_json::Map<String, Value>| {
                    object.get(name).cloned().unwrap_or(Value::Null)
                };
                compare(&at, &field(want), &field(have), differences);
            }
        }
        (Value::Array(want), Value::Array(have)) => {
            for n in 0..want.len().max(have.len()) {
                let at = format!("{path}[{n}]");
                match (want.get(n), have.get(n)) {
                    (Some(want), Some(have)) => compare(&at, want, have, differences),
                    (Some(want), None) => differences.push(format!("{at}: expected {want}, got nothing")),
                    (None, Some(have)) => differences.push(format!("{at}: expected nothing, got {have}")),
                    (None, None) => {}
                }
            }
        }
        _ if expected == got => {}
        (Value::Null, _) => differences.push(format!("{path}: expected nothing, got {got}")),
        (_, Value::Null) => differences.push(format!("{path}: expected {expected}, got nothing")),
        _ => differences.push(format!("{path}: expected {expected}, got {got}")),
    }
}

/// Applies a JSON merge patch (RFC 7396 §2).
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = empty();
    }
    let Value::Object(object) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            object.shift_remove(name);
        } else {
            merge_patch(object.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

const DIFFERENCES_MAX: usize = 50;
/// JSON text of the built-in base question; see [`base_question`].
pub const BASE_QUESTION: &str = include_str!("../../plugins/examples/base-question.json");

#[cfg(test)]
#[path = "cases_tests.rs"]
mod tests;
