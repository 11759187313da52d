//! The inputs and results of an evaluation: bindings, decision records, failures.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Prepared;
use super::engine::Limits;
use crate::domain::policy::{Answer, Decision, Effect, Grants, Hook, Mode, RefusedEffect};

/// SHA-256 of a module or a configuration; shown and stored as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Encodes as hex without allocating: a reset writes eight of them.
    fn hex<'a>(&self, text: &'a mut [u8; 64]) -> &'a str {
        hex::encode_to_slice(self.0, text).expect("64 digits for 32 bytes");
        std::str::from_utf8(text).expect("hex is ASCII")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hex(&mut [0; 64]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl std::str::FromStr for Digest {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.hex(&mut [0; 64]))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A plugin bound to an organisation (or to the node), ready to be called.
#[derive(Clone, Debug)]
pub struct BoundPlugin {
    /// The binding.
    pub binding_id: Uuid,
    /// The plugin's name, from its manifest.
    pub name: String,
    /// The version that is bound.
    pub current: PluginVersion,
    /// Whether its answers count.
    pub mode: Mode,
    /// What a failure means for the reset.
    pub on_failure: OnFailure,
    /// Limits of one call.
    pub limits: Limits,
    /// The previous version, for the targets outside a canary's share and for fallback after a failure.
    pub before: Option<PluginVersion>,
}

/// A module together with its configuration.
#[derive(Clone, Debug)]
pub struct PluginVersion {
    /// The plugin's version, from its manifest.
    pub version: String,
    /// The compiled module, which has the digest.
    pub prepared: Arc<Prepared>,
    /// The configuration as JSON text, exactly as the plugin receives it.
    pub config: Arc<str>,
    /// SHA-256 of `config`.
    pub config_digest: Digest,
    /// The hooks at which it is asked.
    pub hooks: Vec<Hook>,
    /// How far back it is shown earlier resets, in days, from its manifest.
    pub history_days: u16,
    /// Effects that the operator granted and the manifest wants.
    pub grants: Grants,
}

/// What a plugin's failure means for the reset, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnFailure {
    /// Action for causes not named in `causes`.
    #[serde(default)]
    pub otherwise: FailureAction,
    /// Actions for single causes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<(FailureCause, FailureAction)>,
}

impl OnFailure {
    /// Returns a rule with the same action for every cause.
    #[must_use]
    pub fn always(action: FailureAction) -> Self {
        Self {
            otherwise: action,
            causes: vec![],
        }
    }

    /// Returns the action for a failure of this cause.
    #[must_use]
    pub fn action(&self, cause: FailureCause) -> FailureAction {
        if cause == FailureCause::Busy {
            // A caller who floods an organisation's slots, or others who take the node's memory, must not get its
            // policies skipped.
            return FailureAction::Deny;
        }
        self.causes
            .iter()
            .find(|(c, _)| *c == cause)
            .map_or(self.otherwise, |(_, action)| *action)
    }
}

/// What follows from a plugin's failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// The reset does not happen (fail closed).
    #[default]
    Deny,
    /// The reset continues as if the plugin were not bound.
    Skip,
    /// The previous version is asked instead, that is, the last one whose answers counted. If there is none, or
    /// it fails too, the reset does not happen.
    LastGoodVersion,
}

/// Why a call gave no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCause {
    /// The guest trapped: `unreachable`, a division by zero, an access out of bounds …
    Trap,
    /// The wall-clock budget ran out.
    Deadline,
    /// The guest asked for more memory or table elements than it may have.
    Memory,
    /// The fuel ran out.
    Fuel,
    /// The stack ran out.
    Stack,
    /// The answer can't be read: invalid UTF-8, an invalid pointer, too large.
    BadAnswer,
    /// The hook itself returned an error.
    HookError,
    /// No instance could be created.
    Instantiation,
    /// All of the organisation's slots were taken for too long, or other calls left too little memory.
    Busy,
}

impl FailureCause {
    /// All causes.
    pub const ALL: [Self; 9] = [
        Self::Trap,
        Self::Deadline,
        Self::Memory,
        Self::Fuel,
        Self::Stack,
        Self::BadAnswer,
        Self::HookError,
        Self::Instantiation,
        Self::Busy,
    ];

    /// Returns the name used in JSON, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Fuel => "fuel",
            Self::Stack => "stack",
            Self::BadAnswer => "bad-answer",
            Self::HookError => "hook-error",
            Self::Instantiation => "instantiation",
            Self::Busy => "busy",
        }
    }
}

/// A call that gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {detail}", cause.as_str())]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// Kind of failure.
    pub cause: FailureCause,
    /// Description, from the engine or, for a hook error, from the plugin (at most 500 characters).
    pub detail: String,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallEnd {
    /// With an answer, exactly as the plugin gave it.
    Answer(Answer),
    /// Without a usable answer.
    Failure(Failure),
}

/// Severity of a plugin's log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Detail for the plugin's author.
    Debug,
    /// Ordinary event.
    Info,
    /// Something unexpected.
    Warn,
    /// Something wrong.
    Error,
}

/// A line that a plugin logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogLine {
    /// Severity.
    pub level: LogLevel,
    /// The text.
    pub message: String,
}

/// Resources that a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Usage {
    /// Wall-clock time from the creation of the instance to the end of the call, µs.
    pub elapsed_micros: u64,
    /// Linear memory at the end of the call, which is its peak, bytes.
    pub peak_memory_bytes: u64,
    /// Fuel consumed, if it is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
}

/// Which version of a binding was asked, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// The bound version.
    #[default]
    Current,
    /// The previous version, since the target is not in the canary's share.
    VersionBefore,
    /// The previous version, since the bound one failed.
    Fallback,
}

impl Asked {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_current(&self) -> bool {
        *self == Self::Current
    }
}

/// One call as it is recorded with the reset: enough to replay and to explain it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DecisionRecord {
    /// The binding.
    pub binding_id: Uuid,
    /// Name of the plugin.
    pub plugin: String,
    /// Version of the plugin.
    pub version: String,
    /// SHA-256 of the plugin file as installed.
    pub digest: Digest,
    /// SHA-256 of the configuration text.
    pub config_digest: Digest,
    /// Hook that was called.
    pub hook: Hook,
    /// Whether the answer counted: enforced or monitored.
    pub mode: Mode,
    /// Which version of the binding was asked.
    #[serde(default, skip_serializing_if = "Asked::is_current")]
    pub asked: Asked,
    /// The canary's share in percent, if the binding is a canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<u8>,
    /// For `after-reset`, in records of earlier versions of this program: all effects collected so far that it was
    /// shown, if they are more than the first plugin was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects_so_far: Option<Vec<Effect>>,
    /// For `after-reset`: the effects that it was shown beyond those that the call recorded before it was shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects_added: Vec<Effect>,
    /// How the call ended.
    pub end: CallEnd,
    /// SHA-256 of `end` as JSON, if `end` was too long to keep: then `end` has only its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_digest: Option<Digest>,
    /// Effects that the plugin asked for and the host refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedEffect>,
    /// Corrections that the host made to the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<String>,
    /// Lines that the plugin logged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<LogLine>,
    /// Number of log lines beyond the quota, dropped.
    #[serde(default)]
    pub log_dropped: u32,
    /// Resources that the call used.
    pub usage: Usage,
    /// Consecutive failures of this version of the binding at this hook, this one included; 0 after an answer, and
    /// where it got no slot.
    #[serde(default)]
    pub failures_in_a_row: u32,
}

/// A failure that ends the reset (fail closed).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin} {version} (sha256:{digest}) failed, {failure}")]
pub struct PluginFailure {
    /// The binding.
    pub binding_id: Uuid,
    /// Name of the plugin.
    pub plugin: String,
    /// Version of the plugin.
    pub version: String,
    /// SHA-256 of the plugin file.
    pub digest: Digest,
    /// The failure of the call.
    pub failure: Failure,
}

/// The combined result of all bound plugins.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The combined decision; always [`Decision::Allow`] for `after-reset`. Meaningless if `failure` is set.
    pub decision: Decision,
    /// Vetted effects to commit with the reset (if it is carried out).
    pub effects: Vec<Effect>,
    /// Every call, in order; if the organisation got no slot, the calls that would have been made.
    pub records: Vec<DecisionRecord>,
    /// Bindings whose bound version failed and whose previous version answered instead.
    pub fell_back: Vec<Uuid>,
    /// Set if a plugin failed and its binding says that the reset must then not happen: answer 500, change
    /// nothing.
    pub failure: Option<PluginFailure>,
}
