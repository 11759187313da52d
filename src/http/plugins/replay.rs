//! A replay as JSON.

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

/// Which decisions to replay.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PolicyReplayRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    example
)]
pub struct ReplayRequest {
    /// From when on: such as `30d` or `12h`, or a time; absent: 30 days.
    #[oai(validator(max_length = 40))]
    pub since: Option<String>,
    /// Only this binding's; absent: those of every plugin of that name. Answers that did not count are compared only
    /// where none did.
    pub binding_id: Option<Uuid>,
    /// Another configuration; absent: the one that each decision was made with.
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

/// A decision that would have been another.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyDifference", rename_all = "camelCase")]
pub struct DifferenceBody {
    /// When it was made.
    pub at: Time,
    /// Id of the audit entry that records it.
    pub entry_id: Uuid,
    /// Whose reset: an e-mail address.
    pub target: String,
    /// At which hook.
    pub hook: HookBody,
    /// Id of the binding whose answer is recorded, which may be gone.
    #[oai(skip_serializing_if_is_none)]
    pub binding_id: Option<Uuid>,
    /// Whether that answer counted: `enforce` or `monitor`.
    #[oai(skip_serializing_if_is_none)]
    pub mode: Option<ModeBody>,
    /// The version that answered.
    #[oai(skip_serializing_if_is_none)]
    pub recorded_version: Option<String>,
    /// SHA-256 of its file, hexadecimal.
    #[oai(skip_serializing_if_is_none)]
    pub recorded_digest: Option<String>,
    /// The answer as it is recorded; null where nobody was asked.
    pub recorded: Value,
    /// What the plugin answers.
    pub replayed: Value,
}

/// What a replay comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "PolicyReplayVerdict", rename_all = "kebab-case")]
pub enum ReplayVerdictBody {
    /// Everything could be compared, and nothing would have been decided otherwise.
    Clean,
    /// Something would have been.
    Differs,
    /// Nothing would have been, as far as could be looked and compared: `complete` and `notComparable` say why.
    Incomplete,
    /// There was no answer to compare with: nobody was asked in that time, or every call had failed.
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

/// What a replay found.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyReplay", rename_all = "camelCase")]
pub struct ReplayReportBody {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file, hexadecimal.
    pub digest: String,
    /// From when on.
    pub since: Time,
    /// Whether something was compared, nothing could not be, and nothing would have been decided otherwise.
    pub clean: bool,
    /// What the replay comes to.
    pub verdict: ReplayVerdictBody,
    /// Whether a plugin of this name was asked in that time. If not, it is compared with "allow".
    pub asked_before: bool,
    /// Resets looked at.
    pub resets: u64,
    /// Answers compared.
    pub compared: u64,
    /// The same, byte for byte.
    pub same: u64,
    /// Others.
    pub differing: u64,
    /// Of the differing: the plugin failed.
    pub failed: u64,
    /// Of the differing: the recorded call had failed, and the plugin answers.
    pub mended: u64,
    /// Calls that failed when they were recorded, for a cause that need not come again: a deadline, for example.
    pub not_comparable: u64,
    /// Answers that did not count (mode `monitor`) and were left out, since others did.
    pub watched: u64,
    /// Whether all there is was looked at, not only the newest.
    pub complete: bool,
    /// The first hundred differences.
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
