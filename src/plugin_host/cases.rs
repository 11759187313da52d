//! Golden cases: a question, a configuration, and the answer that must come out.
//!
//! Authors keep them as files beside a plugin (`latchkey plugin test`), and they can travel inside the
//! plugin file in a custom section, where installation runs them. A case calls the plugin exactly as a
//! reset would, without the host's vetting: it pins what the *plugin* says.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wasmparser::{Parser, Payload};

use super::aside::Errand;
use super::printable::printable;
use super::record::{CallEnd, Failure, FailureCause, LogLine, Usage};
use super::v1::{Ran, Reply};
use crate::domain::policy::{Outcome, Question};

/// A case as an author writes it: question and outcome may be partial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows, in a sentence.
    pub description: String,
    /// Which function of the plugin.
    pub hook: CaseHook,
    /// The configuration.
    #[serde(default = "empty")]
    pub config: Value,
    /// Merged over the base question (JSON merge patch, RFC 7396).
    #[serde(default = "empty")]
    pub question: Value,
    /// Merged over "done, with the target's factors removed". Only for `after-reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Value>,
    /// The answer: one of `allow`, `deny`, `require-approval`, `effects`, `ok`, `error`, `failure`.
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

/// What came of a case.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseReport {
    /// The case's description.
    pub description: String,
    /// Whether the answer was the expected one.
    pub passed: bool,
    /// Where it was not: a path, what was expected, what came.
    pub differences: Vec<String>,
    /// The answer.
    pub answer: Value,
    /// Lines it logged.
    pub log: Vec<LogLine>,
    /// What it used up.
    pub usage: Usage,
}

/// A case that can't be run.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// Not a case.
    #[error("it is not a golden case: {0}")]
    Format(String),
    /// Question or outcome do not come out whole.
    #[error("its {part} is not complete or has unknown fields: {reason}")]
    Part {
        /// "question" or "outcome".
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// More of them than a file may have, or more bytes.
    #[error("{0}")]
    TooMany(String),
    /// All of them together run for too long.
    #[error(
        "together they take more than {limit_secs} s of processor time, which is the limit; leave some out"
    )]
    TooLong {
        /// Seconds allowed.
        limit_secs: u64,
    },
}

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    /// It is no JSON, or not of a case's form.
    pub fn parse(text: &str) -> Result<Self, CaseError> {
        let case: Self =
            serde_json::from_str(text).map_err(|error| CaseError::Format(printable(&error.to_string())))?;
        let Some((kind, _)) = case
            .expect
            .as_object()
            .filter(|o| o.len() == 1)
            .and_then(|o| o.iter().next())
        else {
            return Err(CaseError::Format("expect is an object with one field".to_owned()));
        };
        let kinds: &[&str] = match case.hook {
            CaseHook::BeforeReset => &["allow", "deny", "require-approval", "error", "failure"],
            CaseHook::AfterReset => &["effects", "error", "failure"],
            CaseHook::CheckConfig => &["ok", "error", "failure"],
        };
        if !kinds.contains(&kind.as_str()) {
            return Err(CaseError::Format(format!(
                "expect is one of {}, not {}",
                kinds.join(", "),
                printable(kind)
            )));
        }
        if case.outcome.is_some() && case.hook != CaseHook::AfterReset {
            return Err(CaseError::Format("only after-reset has an outcome".to_owned()));
        }
        Ok(case)
    }

    /// The same case with its question and outcome written out, so that it no longer needs `base`.
    ///
    /// # Errors
    /// What comes out is not a whole question or outcome.
    pub fn resolved(&self, base: &Value) -> Result<Self, CaseError> {
        let part = incomplete;
        let mut question = base.clone();
        merge_patch(&mut question, &self.question);
        let question: Question = serde_json::from_value(question).map_err(part("question"))?;
        let outcome = if self.hook == CaseHook::AfterReset {
            let mut outcome = json!({ "kind": "done", "removed": question.target.factors, "effects": [] });
            merge_patch(&mut outcome, self.outcome.as_ref().unwrap_or(&empty()));
            let outcome: Outcome = serde_json::from_value(outcome).map_err(part("outcome"))?;
            Some(serde_json::to_value(outcome).map_err(part("outcome"))?)
        } else {
            None
        };
        let question = serde_json::to_value(question).map_err(part("question"))?;
        Ok(Self {
            question,
            outcome,
            ..self.clone()
        })
    }
}

/// The question that cases are merged over where no `base-question.json` is found.
#[must_use]
pub fn base_question() -> Value {
    serde_json::from_str(BASE_QUESTION).unwrap_or_default()
}

/// The cases that travel inside a plugin file, resolved. None if there are none.
///
/// # Errors
/// The file or the section is malformed, or there are too many in all its sections together.
pub fn embedded(bytes: &[u8]) -> Result<Vec<Case>, CaseError> {
    let (mut cases, mut size) = (Vec::new(), 0);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| CaseError::Format(error.to_string()))?;
        if let Payload::CustomSection(section) = payload
            && section.name() == SECTION
        {
            // As values they take several times their size as text.
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

/// The plugin file with resolved cases inside, instead of those it may have.
///
/// # Errors
/// The file is no WebAssembly, or there are too many cases or bytes of them.
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
                // Its id and length stand before it: one byte and a LEB128 of the section's size.
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

impl Case {
    /// The call that it makes.
    pub(super) fn errand(&self) -> Result<Errand, CaseError> {
        let config = self.config.to_string();
        let question = || {
            Question::deserialize(&self.question)
                .map(Box::new)
                .map_err(incomplete("question"))
        };
        Ok(match self.hook {
            CaseHook::CheckConfig => Errand::CheckConfig(config),
            CaseHook::BeforeReset => Errand::BeforeReset(question()?, config),
            CaseHook::AfterReset => {
                let value = self.outcome.as_ref().unwrap_or(&Value::Null);
                let outcome = Outcome::deserialize(value).map_err(incomplete("outcome"))?;
                Errand::AfterReset(question()?, Box::new(outcome), config)
            }
        })
    }

    /// What came of that call, beside what should have.
    pub(super) fn judge(&self, ran: Ran) -> Result<CaseReport, CaseError> {
        let answer = match ran.reply {
            Ok(Reply::Answer(answer)) => serde_json::to_value(answer).map_err(incomplete("answer"))?,
            Ok(Reply::Config(Ok(()))) => json!({ "ok": true }),
            Ok(Reply::Config(Err(text))) => json!({ "error": text }),
            Ok(Reply::Manifest(_)) => unreachable!("a case never asks for the manifest"),
            Err(Failure {
                cause: FailureCause::HookError,
                detail,
            }) => json!({ "error": detail }),
            Err(failure) => json!({ "failure": failure.cause, "detail": failure.detail }),
        };
        let mut differences = Vec::new();
        compare("", &self.expect, &comparable(&answer), &mut differences);
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

fn incomplete(part: &'static str) -> impl Fn(serde_json::Error) -> CaseError {
    move |error| CaseError::Part {
        part,
        reason: printable(&error.to_string()),
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

/// A failure is expected by its cause alone; its text may change between versions.
fn comparable(answer: &Value) -> Value {
    match answer.get("failure") {
        Some(cause) => json!({ "failure": cause }),
        None => answer.clone(),
    }
}

/// Exact, except that `null` and a missing field are the same.
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

/// JSON merge patch (RFC 7396 §2).
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

/// The custom section in which cases travel.
const SECTION: &str = "latchkey-cases";
const CASES_MAX: usize = 500;
const CASES_BYTES_MAX: usize = 4 << 20;
const DIFFERENCES_MAX: usize = 50;
/// The question that cases are merged over where there is no other, as text.
pub const BASE_QUESTION: &str = include_str!("../../plugins/examples/base-question.json");

#[cfg(test)]
#[path = "cases_tests.rs"]
mod tests;
