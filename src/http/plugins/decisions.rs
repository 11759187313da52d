//! Response bodies for policy decisions: what policies were asked at a reset, and what they answered.

use poem_openapi::types::Example;
use poem_openapi::{Enum, Object};
use serde_json::{Value, json};
use uuid::Uuid;

use super::words::{HookBody, ModeBody, hooks};
use crate::domain::policy::{Answer, Mode};
use crate::http::schema::Time;
use crate::service::plugins::{
    Asked, CallEnd, DecidedCall, DecisionRecord, Decisions, Failure, LogLevel, LogLine, Usage,
};

/// What policies were asked at a reset, and what each of them answered.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyDecisions", rename_all = "camelCase", example)]
pub struct DecisionsBody {
    /// Id of the audit entry of the reset.
    pub entry_id: Uuid,
    /// When the audit entry was written.
    pub at: Time,
    /// The question, the same for every policy; `plugins/README.md` describes its fields.
    pub question: Value,
    /// The intended outcome of the reset, as first shown to policies at the hook `after-reset`; absent if none
    /// was called at that hook.
    #[oai(skip_serializing_if_is_none)]
    pub outcome: Option<Value>,
    /// The calls, in order.
    pub calls: Vec<PolicyCallBody>,
}

/// A call of a policy.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyCall", rename_all = "camelCase")]
pub struct PolicyCallBody {
    /// Id of the binding, which may have been removed since.
    pub binding_id: Uuid,
    /// Name of the plugin.
    pub plugin: String,
    /// Version of the plugin.
    pub version: String,
    /// SHA-256 digest of the plugin file, in hexadecimal.
    pub digest: String,
    /// Configuration of the call.
    pub config: Value,
    /// SHA-256 digest of the configuration's text, in hexadecimal.
    pub config_digest: String,
    /// Hook of the call.
    pub hook: HookBody,
    /// Whether the answer counted: `enforce` or `monitor`.
    pub mode: ModeBody,
    /// Which version of the binding was called, and why.
    pub asked: AskedBody,
    /// Percentage of users for whom the version tried as a canary counted at that time; null if there was no
    /// canary.
    #[oai(nullable)]
    pub canary_percent: Option<u8>,
    /// The plugin's answer, unmodified; absent if the call failed.
    #[oai(skip_serializing_if_is_none)]
    pub answer: Option<Value>,
    /// Why there is no answer; null if there is one.
    #[oai(nullable)]
    pub failure: Option<PolicyFailureBody>,
    /// SHA-256 digest, in hexadecimal, of an answer that was too long to be kept, in which case `answer` has
    /// only its beginning; null otherwise.
    #[oai(nullable)]
    pub answer_digest: Option<String>,
    /// Effects that the plugin requested and did not get.
    pub refused: Vec<RefusedEffectBody>,
    /// Formal faults in the answer that were corrected.
    pub repaired: Vec<String>,
    /// Lines that the plugin logged.
    pub log: Vec<PolicyLogBody>,
    /// Number of log lines dropped because they exceeded the plugin's limits.
    pub log_dropped: u32,
    /// Resources that the call used.
    pub usage: PolicyUsageBody,
    /// Number of consecutive failures of this version at this hook, including this call; 0 after an answer.
    pub failures_in_a_row: u32,
}

/// Which version of a binding was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "PolicyAsked", rename_all = "kebab-case")]
pub enum AskedBody {
    /// The current version.
    Current,
    /// The previous version, because the user was not in the canary's share.
    VersionBefore,
    /// The previous version, because the current one failed.
    Fallback,
}

/// Failure of a call that gave no usable answer.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyFailure", rename_all = "camelCase")]
pub struct PolicyFailureBody {
    /// Cause: `trap`, `deadline`, `memory`, `fuel`, `stack`, `bad-answer`, `hook-error`, `instantiation` or
    /// `busy`.
    pub cause: String,
    /// Details, for people.
    pub detail: String,
}

/// An effect that was requested and refused.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyRefusedEffect", rename_all = "camelCase")]
pub struct RefusedEffectBody {
    /// The effect; long texts are truncated.
    pub effect: Value,
    /// Why it was refused.
    pub why: String,
}

/// A line that a policy logged.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyLogLine", rename_all = "camelCase")]
pub struct PolicyLogBody {
    /// Severity of the line.
    pub level: LogLevelBody,
    /// Text of the line.
    pub message: String,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "PolicyLogLevel", rename_all = "kebab-case")]
pub enum LogLevelBody {
    /// Details for the plugin's author.
    Debug,
    /// An ordinary event.
    Info,
    /// An unexpected event.
    Warn,
    /// An error.
    Error,
}

/// Resources used by a call.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyUsage", rename_all = "camelCase")]
pub struct PolicyUsageBody {
    /// Wall-clock time in microseconds.
    pub elapsed_micros: u64,
    /// Size of the linear memory at the end of the call, in bytes.
    pub peak_memory_bytes: u64,
    /// Fuel consumed; null where the node does not count it.
    #[oai(nullable)]
    pub fuel: Option<u64>,
}

impl From<Decisions> for DecisionsBody {
    fn from(decisions: Decisions) -> Self {
        Self {
            entry_id: decisions.entry_id,
            at: Time(decisions.at),
            question: decisions.question,
            outcome: decisions.outcome,
            calls: decisions.calls.into_iter().map(PolicyCallBody::from).collect(),
        }
    }
}

impl From<DecidedCall> for PolicyCallBody {
    fn from(call: DecidedCall) -> Self {
        let record: DecisionRecord = call.record;
        let refused = record.refused.iter().map(|refused| RefusedEffectBody {
            effect: json!(refused.effect),
            why: refused.why.clone(),
        });
        let (answer, failure) = match record.end {
            CallEnd::Answer(answer) => (Some(json!(answer)), None),
            CallEnd::Failure(failure) => (None, Some(failure.into())),
        };
        Self {
            binding_id: record.binding_id,
            plugin: record.plugin,
            version: record.version,
            digest: record.digest.to_string(),
            config: call.config,
            config_digest: record.config_digest.to_string(),
            hook: hooks(&[record.hook]).remove(0),
            mode: match record.mode {
                Mode::Enforce => ModeBody::Enforce,
                Mode::Monitor => ModeBody::Monitor,
                Mode::Canary(_) => ModeBody::Canary,
            },
            asked: match record.asked {
                Asked::Current => AskedBody::Current,
                Asked::VersionBefore => AskedBody::VersionBefore,
                Asked::Fallback => AskedBody::Fallback,
            },
            canary_percent: record.canary,
            answer,
            failure,
            answer_digest: record.end_digest.map(|digest| digest.to_string()),
            refused: refused.collect(),
            repaired: record.repaired,
            log: record.log.into_iter().map(PolicyLogBody::from).collect(),
            log_dropped: record.log_dropped,
            usage: record.usage.into(),
            failures_in_a_row: record.failures_in_a_row,
        }
    }
}

impl From<Failure> for PolicyFailureBody {
    fn from(failure: Failure) -> Self {
        Self {
            cause: failure.cause.as_str().to_owned(),
            detail: failure.detail,
        }
    }
}

impl From<LogLine> for PolicyLogBody {
    fn from(line: LogLine) -> Self {
        Self {
            level: match line.level {
                LogLevel::Debug => LogLevelBody::Debug,
                LogLevel::Info => LogLevelBody::Info,
                LogLevel::Warn => LogLevelBody::Warn,
                LogLevel::Error => LogLevelBody::Error,
            },
            message: line.message,
        }
    }
}

impl From<Usage> for PolicyUsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            elapsed_micros: usage.elapsed_micros,
            peak_memory_bytes: usage.peak_memory_bytes,
            fuel: usage.fuel,
        }
    }
}

impl Example for DecisionsBody {
    fn example() -> Self {
        let denial = Answer::Deny(crate::domain::policy::Denial {
            code: "ticket-missing".into(),
            message: "A reset needs a ticket.".into(),
            allowed_from: None,
            because: Vec::new(),
        });
        Self {
            entry_id: Uuid::from_u128(0x019c_7063_9f40_7cc3_98c4_dc0c_0c07_398f),
            at: Time(jiff::Timestamp::constant(1_771_410_600, 0)),
            question: json!({
                "actor": { "email": "admin@acme.example", "role": "org-admin" },
                "target": { "email": "dev@acme.example", "role": "member" },
                "request": { "channel": "api", "reason": "Lost phone", "ticket": null },
            }),
            outcome: None,
            calls: vec![PolicyCallBody {
                binding_id: Uuid::from_u128(0x019c_7063_1c2b_7a52_8a61_2f4d_5c9e_7b10),
                plugin: "ticket-required".into(),
                version: "1.0.0".into(),
                digest: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae".into(),
                config: json!({ "pattern": "(INC|CHG)-[0-9]{4,7}" }),
                config_digest: "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9".into(),
                hook: HookBody::BeforeReset,
                mode: ModeBody::Enforce,
                asked: AskedBody::Current,
                canary_percent: None,
                answer: Some(json!(denial)),
                failure: None,
                answer_digest: None,
                refused: Vec::new(),
                repaired: Vec::new(),
                log: vec![PolicyLogBody {
                    level: LogLevelBody::Info,
                    message: "no ticket was given".into(),
                }],
                log_dropped: 0,
                usage: PolicyUsageBody {
                    elapsed_micros: 84,
                    peak_memory_bytes: 1_114_112,
                    fuel: None,
                },
                failures_in_a_row: 0,
            }],
        }
    }
}
