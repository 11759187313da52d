//! Request and response bodies for replays.

use jiff::Timestamp;
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::words::{HookBody, ModeBody, hooks};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::policy::Mode;
use crate::http::schema::Time;
use crate::service::plugins::{
    Difference, Follow, Replay, ReplayReport, ReplayVerdict, parse_digest, parse_since,
};

/// A request to replay past decisions.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PolicyReplayRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    example
)]
pub struct ReplayRequest {
    /// Start of the period: an age such as `30d` or `12h`, or an RFC 3339 time; `30d` if absent.
    #[oai(validator(max_length = 40))]
    pub since: Option<String>,
    /// Compare only with decisions of this binding; with those of every plugin of the same name if absent.
    /// Answers that did not count (mode `monitor`) are compared only if none counted.
    pub binding_id: Option<Uuid>,
    /// Configuration to replay with; the one that each decision was made with if absent.
    pub config: Option<Value>,
}

impl Example for ReplayRequest {
    fn example() -> Self {
        Self {
            since: Some("30d".into()),
            binding_id: None,
            config: None,
        }
    }
}

impl ReplayRequest {
    pub(super) fn into_replay(
        self,
        digest: &str,
        organization: OrganizationId,
        now: Timestamp,
    ) -> Result<Replay> {
        Ok(Replay {
            plugin_digest: parse_digest(digest)?,
            organization: Some(organization),
            since: parse_since(self.since.as_deref().unwrap_or("30d"), now)?,
            follow: self.binding_id.map_or(Follow::Name, Follow::Binding),
            config: self.config,
        })
    }
}

/// A decision that would have been different.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyDifference", rename_all = "camelCase")]
pub struct DifferenceBody {
    /// When the recorded decision was made.
    pub at: Time,
    /// Id of the audit entry that records it.
    pub entry_id: Uuid,
    /// E-mail address of the user who was to be reset.
    pub target: String,
    /// Hook of the decision.
    pub hook: HookBody,
    /// Id of the binding whose answer is recorded, which may have been removed since.
    #[oai(skip_serializing_if_is_none)]
    pub binding_id: Option<Uuid>,
    /// Whether the recorded answer counted: `enforce` or `monitor`.
    #[oai(skip_serializing_if_is_none)]
    pub mode: Option<ModeBody>,
    /// Version of the plugin that gave the recorded answer.
    #[oai(skip_serializing_if_is_none)]
    pub recorded_version: Option<String>,
    /// SHA-256 digest, in hexadecimal, of the plugin file that gave the recorded answer.
    #[oai(skip_serializing_if_is_none)]
    pub recorded_digest: Option<String>,
    /// The recorded answer; null if no policy was called.
    pub recorded: Value,
    /// The answer in the replay.
    pub replayed: Value,
}

/// Verdict of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "PolicyReplayVerdict", rename_all = "kebab-case")]
pub enum ReplayVerdictBody {
    /// Everything could be compared, and every decision would have been the same.
    Clean,
    /// At least one decision would have been different.
    Differs,
    /// No difference was found, but not everything could be examined or compared: see `complete` and
    /// `notComparable`.
    Incomplete,
    /// There was no answer to compare with: no policy was called in the period, or every call had failed.
    NothingCompared,
}

impl From<ReplayVerdict> for ReplayVerdictBody {
    fn from(verdict: ReplayVerdict) -> Self {
        match verdict {
            ReplayVerdict::Clean => Self::Clean,
            ReplayVerdict::Differs => Self::Differs,
            ReplayVerdict::Incomplete => Self::Incomplete,
            ReplayVerdict::NothingCompared => Self::NothingCompared,
        }
    }
}

/// Report of a replay.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyReplay", rename_all = "camelCase")]
pub struct ReplayReportBody {
    /// Name of the replayed plugin.
    pub plugin: String,
    /// Version of the replayed plugin.
    pub version: String,
    /// SHA-256 digest of the replayed plugin file, in hexadecimal.
    pub digest: String,
    /// Start of the period.
    pub since: Time,
    /// True if the verdict is `clean`: at least one answer was compared, none could not be, and none would have
    /// been different.
    pub clean: bool,
    /// Verdict of the replay.
    pub verdict: ReplayVerdictBody,
    /// Whether a plugin of this name was called in the period. If not, the replay is compared with "allow".
    pub asked_before: bool,
    /// Number of resets examined.
    pub resets: u64,
    /// Number of answers compared.
    pub compared: u64,
    /// Number of answers that are the same, byte for byte.
    pub same: u64,
    /// Number of answers that differ.
    pub differing: u64,
    /// Number of differing answers where the plugin failed in the replay.
    pub failed: u64,
    /// Number of differing answers where the recorded call had failed and the plugin answers in the replay.
    pub mended: u64,
    /// Number of recorded calls that had failed for a cause that may not recur, such as a deadline, and can't
    /// be compared.
    pub not_comparable: u64,
    /// Number of answers that did not count (mode `monitor`) and were left out because others did.
    pub watched: u64,
    /// Whether every reset of the period was examined, and not only the newest.
    pub complete: bool,
    /// The differences, at most the first hundred.
    pub differences: Vec<DifferenceBody>,
}

impl From<ReplayReport> for ReplayReportBody {
    fn from(report: ReplayReport) -> Self {
        Self {
            clean: report.is_clean(),
            verdict: report.verdict().into(),
            plugin: report.plugin,
            version: report.version,
            digest: report.digest.to_string(),
            since: Time(report.since),
            asked_before: report.asked_before,
            resets: report.resets,
            compared: report.compared,
            same: report.same,
            differing: report.differing,
            failed: report.failed,
            mended: report.mended,
            not_comparable: report.not_comparable,
            watched: report.watched,
            complete: report.complete,
            differences: report.differences.into_iter().map(DifferenceBody::from).collect(),
        }
    }
}

impl From<Difference> for DifferenceBody {
    fn from(difference: Difference) -> Self {
        let answered = difference.answered.as_ref();
        Self {
            binding_id: answered.map(|answered| answered.binding),
            mode: answered.map(|answered| match answered.mode {
                Mode::Monitor => ModeBody::Monitor,
                Mode::Enforce | Mode::Canary(_) => ModeBody::Enforce,
            }),
            recorded_version: answered.map(|answered| answered.version.clone()),
            recorded_digest: answered.map(|answered| answered.digest.to_string()),
            at: Time(difference.at),
            entry_id: difference.entry_id,
            target: difference.target,
            hook: hooks(&[difference.hook]).remove(0),
            recorded: difference.recorded,
            replayed: difference.replayed,
        }
    }
}
