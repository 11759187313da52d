//! Enumerations and limits of plugins and bindings as JSON, and their conversion from and to the services'
//! types.

use poem_openapi::{Enum, Object};
use serde::Deserialize;

use crate::domain::policy::{Hook, Mode};
use crate::domain::{Error, Result};
use crate::service::plugins::{FailureAction, FailureCause, Limits, OnFailure};

/// A point of a reset at which plugins are called.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyHook", rename_all = "kebab-case")]
pub enum HookBody {
    /// Before the reset: decides whether it may happen.
    BeforeReset,
    /// After the decision: adds effects to the outcome.
    AfterReset,
}

/// Whether a policy's answers count.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyMode", rename_all = "kebab-case")]
pub enum ModeBody {
    /// Answers count.
    Enforce,
    /// Answers are only recorded.
    Monitor,
    /// Answers count for the resets of some users; for the others, those of the previous version count.
    Canary,
}

/// What happens if a policy fails.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyFailureAction", rename_all = "kebab-case")]
pub enum ActionBody {
    /// The reset is refused.
    Deny,
    /// The reset continues as if the policy were not bound.
    Skip,
    /// The previous version is called; if there is none, the reset is refused.
    LastGoodVersion,
}

/// What happens if a policy fails, by cause.
#[derive(Clone, Debug, Default, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PolicyOnFailure",
    rename_all = "camelCase",
    deny_unknown_fields,
    skip_serializing_if_is_none
)]
pub struct OnFailureBody {
    /// For all causes that are absent here; `deny` if absent.
    pub otherwise: Option<ActionBody>,
    /// The plugin trapped.
    pub trap: Option<ActionBody>,
    /// The call exceeded its deadline.
    pub deadline: Option<ActionBody>,
    /// The plugin requested more memory than its limit.
    pub memory: Option<ActionBody>,
    /// The call ran out of fuel.
    pub fuel: Option<ActionBody>,
    /// The call exhausted the stack.
    pub stack: Option<ActionBody>,
    /// The plugin's answer can't be read.
    pub bad_answer: Option<ActionBody>,
    /// The plugin returned an error.
    pub hook_error: Option<ActionBody>,
    /// The plugin could not be instantiated.
    pub instantiation: Option<ActionBody>,
}

/// Resource limits of a call, as requested. Absent fields have their default.
#[derive(Clone, Copy, Debug, Default, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "PolicyLimitsRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsRequest {
    /// Wall-clock time in milliseconds, 5 to 1000; 50 if absent.
    pub deadline_ms: Option<u32>,
    /// Linear memory in bytes, 1 MiB to 256 MiB; 64 MiB if absent.
    pub memory_bytes: Option<u64>,
    /// Number of table elements, at most 200,000; 100,000 if absent.
    pub table_elements: Option<u32>,
    /// Fuel, where the node counts it; 0 means no limit, as if absent.
    pub fuel: Option<u64>,
    /// Size of the strings and lists in an answer in bytes, 4 KiB to 4 MiB; 256 KiB if absent.
    pub answer_bytes: Option<u32>,
    /// Number of log lines kept, at most 1000; 50 if absent.
    pub log_lines: Option<u32>,
    /// Size of the log kept in bytes, at most 256 KiB; 8 KiB if absent.
    pub log_bytes: Option<u32>,
}

/// Resource limits of a call.
#[derive(Clone, Copy, Debug, Object)]
#[oai(rename = "PolicyLimits", rename_all = "camelCase")]
pub struct LimitsBody {
    /// Wall-clock time in milliseconds, 5 to 1000.
    pub deadline_ms: u32,
    /// Linear memory in bytes, 1 MiB to 256 MiB.
    pub memory_bytes: u64,
    /// Number of table elements, at most 200,000.
    pub table_elements: u32,
    /// Fuel, where the node counts it; 0 means no limit.
    pub fuel: u64,
    /// Size of the strings and lists in an answer in bytes, 4 KiB to 4 MiB.
    pub answer_bytes: u32,
    /// Number of log lines kept, at most 1000.
    pub log_lines: u32,
    /// Size of the log kept in bytes, at most 256 KiB.
    pub log_bytes: u32,
}

pub(super) fn mode(mode: Option<ModeBody>, percent: Option<u8>) -> Result<Option<Mode>> {
    match (mode, percent) {
        (None, None) => Ok(None),
        (Some(ModeBody::Enforce), None) => Ok(Some(Mode::Enforce)),
        (Some(ModeBody::Monitor), None) => Ok(Some(Mode::Monitor)),
        (Some(ModeBody::Canary) | None, Some(percent)) => Ok(Some(Mode::Canary(percent))),
        (Some(ModeBody::Canary), None) => Err(Error::field("canaryPercent", "is missing")),
        (Some(ModeBody::Enforce | ModeBody::Monitor), Some(_)) => {
            Err(Error::field("canaryPercent", "is allowed only with mode canary"))
        }
    }
}

pub(super) fn hooks(hooks: &[Hook]) -> Vec<HookBody> {
    let body = |hook: &Hook| match hook {
        Hook::BeforeReset => HookBody::BeforeReset,
        Hook::AfterReset => HookBody::AfterReset,
    };
    hooks.iter().map(body).collect()
}

pub(super) fn from_hooks(hooks: Vec<HookBody>) -> Vec<Hook> {
    let hook = |body| match body {
        HookBody::BeforeReset => Hook::BeforeReset,
        HookBody::AfterReset => Hook::AfterReset,
    };
    hooks.into_iter().map(hook).collect()
}

impl From<ActionBody> for FailureAction {
    fn from(body: ActionBody) -> Self {
        match body {
            ActionBody::Deny => Self::Deny,
            ActionBody::Skip => Self::Skip,
            ActionBody::LastGoodVersion => Self::LastGoodVersion,
        }
    }
}

impl From<FailureAction> for ActionBody {
    fn from(action: FailureAction) -> Self {
        match action {
            FailureAction::Deny => Self::Deny,
            FailureAction::Skip => Self::Skip,
            FailureAction::LastGoodVersion => Self::LastGoodVersion,
        }
    }
}

impl From<OnFailureBody> for OnFailure {
    fn from(body: OnFailureBody) -> Self {
        let causes = [
            (FailureCause::Trap, body.trap),
            (FailureCause::Deadline, body.deadline),
            (FailureCause::Memory, body.memory),
            (FailureCause::Fuel, body.fuel),
            (FailureCause::Stack, body.stack),
            (FailureCause::BadAnswer, body.bad_answer),
            (FailureCause::HookError, body.hook_error),
            (FailureCause::Instantiation, body.instantiation),
        ];
        Self {
            otherwise: body.otherwise.map(Into::into).unwrap_or_default(),
            causes: causes
                .into_iter()
                .filter_map(|(cause, action)| Some((cause, action?.into())))
                .collect(),
        }
    }
}

impl From<OnFailure> for OnFailureBody {
    fn from(on_failure: OnFailure) -> Self {
        let of = |cause| {
            let named = on_failure.causes.iter().find(|(named, _)| *named == cause);
            named.map(|(_, action)| ActionBody::from(*action))
        };
        Self {
            otherwise: Some(on_failure.otherwise.into()),
            trap: of(FailureCause::Trap),
            deadline: of(FailureCause::Deadline),
            memory: of(FailureCause::Memory),
            fuel: of(FailureCause::Fuel),
            stack: of(FailureCause::Stack),
            bad_answer: of(FailureCause::BadAnswer),
            hook_error: of(FailureCause::HookError),
            instantiation: of(FailureCause::Instantiation),
        }
    }
}

impl From<LimitsRequest> for Limits {
    fn from(asked: LimitsRequest) -> Self {
        let usual = Self::default();
        Self {
            deadline_ms: asked.deadline_ms.unwrap_or(usual.deadline_ms),
            memory_bytes: asked.memory_bytes.unwrap_or(usual.memory_bytes),
            table_elements: asked.table_elements.unwrap_or(usual.table_elements),
            fuel: asked.fuel.unwrap_or(usual.fuel),
            answer_bytes: asked.answer_bytes.unwrap_or(usual.answer_bytes),
            log_lines: asked.log_lines.unwrap_or(usual.log_lines),
            log_bytes: asked.log_bytes.unwrap_or(usual.log_bytes),
        }
    }
}

impl From<Limits> for LimitsBody {
    fn from(limits: Limits) -> Self {
        Self {
            deadline_ms: limits.deadline_ms,
            memory_bytes: limits.memory_bytes,
            table_elements: limits.table_elements,
            fuel: limits.fuel,
            answer_bytes: limits.answer_bytes,
            log_lines: limits.log_lines,
            log_bytes: limits.log_bytes,
        }
    }
}
