//! The request for a replay, and its report.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use crate::domain::account::OrganizationId;
use crate::domain::policy::{Hook, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::Digest;

/// A replay to run.
#[derive(Clone, Debug)]
pub struct Replay {
    /// SHA-256 of the candidate's file, which is installed.
    pub plugin_digest: Digest,
    /// Organisation whose resets are replayed; for the operator, absent: everybody's.
    pub organization: Option<OrganizationId>,
    /// Start of the period.
    pub since: Timestamp,
    /// The decisions that the candidate is compared with.
    pub follow: Follow,
    /// The candidate's configuration; absent: the one that each decision was made with.
    pub config: Option<Value>,
}

/// The decisions that a candidate is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Those of every plugin with the candidate's name.
    Name,
    /// Those of one binding.
    Binding(Uuid),
    /// Those that counted, of these bindings, by versions of the candidate's plugin.
    Counted(Vec<Uuid>),
}

/// A decision that would differ.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// When the recorded decision was made.
    pub at: Timestamp,
    /// Id of the audit entry that records it.
    pub entry_id: Uuid,
    /// The user whose reset it was.
    pub target: String,
    /// Hook that was called.
    pub hook: Hook,
    /// The version whose answer is recorded; absent if no version was asked.
    #[serde(flatten)]
    pub answered: Option<Answered>,
    /// The recorded answer; null if no version was asked.
    pub recorded: Value,
    /// The candidate's answer.
    pub replayed: Value,
}

/// The version that gave a recorded answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answered {
    /// Id of the binding, which may be removed.
    #[serde(rename = "bindingId")]
    pub binding: Uuid,
    /// Whether the answer counted.
    pub mode: Mode,
    /// The version that answered.
    #[serde(rename = "recordedVersion")]
    pub version: String,
    /// SHA-256 of its file.
    #[serde(rename = "recordedDigest")]
    pub digest: Digest,
}

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    /// The candidate's name.
    pub plugin: String,
    /// The candidate's version.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: Digest,
    /// Start of the period.
    pub since: Timestamp,
    /// Whether a plugin of this name was asked in the period. If not, the candidate is compared with "allow", as
    /// if it had been bound.
    pub asked_before: bool,
    /// Resets examined.
    pub resets: u64,
    /// Answers compared.
    pub compared: u64,
    /// Of these, identical byte for byte.
    pub same: u64,
    /// Of these, different.
    pub differing: u64,
    /// Of the differing, those where the candidate failed.
    pub failed: u64,
    /// Of the differing, those where the recorded call had failed and the candidate answers.
    pub mended: u64,
    /// Recorded calls that failed for a cause that need not recur, for example a deadline, so that they can't be
    /// compared.
    pub not_comparable: u64,
    /// Answers that did not count and were left out, because others did.
    pub watched: u64,
    /// Whether all recorded resets were examined, not only the newest.
    pub complete: bool,
    /// The first differences.
    pub differences: Vec<Difference>,
}

/// The overall verdict of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayVerdict {
    /// Everything could be compared, and no decision would differ.
    Clean,
    /// At least one decision would differ.
    Differs,
    /// No decision would differ, but not everything could be examined and compared.
    Incomplete,
    /// There was no answer to compare with: no version was asked in the period, or every call had failed.
    NothingCompared,
}

impl ReplayReport {
    /// Returns the overall verdict.
    #[must_use]
    pub fn verdict(&self) -> ReplayVerdict {
        if self.differing > 0 {
            ReplayVerdict::Differs
        } else if !self.complete {
            ReplayVerdict::Incomplete
        } else if self.compared == 0 {
            ReplayVerdict::NothingCompared
        } else if self.not_comparable > 0 {
            ReplayVerdict::Incomplete
        } else {
            ReplayVerdict::Clean
        }
    }

    /// Returns whether there was something to compare with, everything could be compared, and no decision would
    /// differ.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.verdict() == ReplayVerdict::Clean
    }
}

/// Parses the start of a period: `30d`, `12h`, or an RFC 3339 time.
///
/// # Errors
/// [`Error::Validation`] for the field `since`.
pub fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp> {
    let bad = || Error::field("since", "must be a span such as 30d or 12h, or an RFC 3339 time");
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let (number, hours_each) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "d")) => (number, 24),
        Some((number, "h")) => (number, 1),
        _ => return Err(bad()),
    };
    let number: i64 = number.parse().map_err(|_| bad())?;
    if !(1..=100_000).contains(&number) {
        return Err(bad());
    }
    Ok(now - SignedDuration::from_hours(number * hours_each))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_span_or_a_time() {
        let now: Timestamp = "2026-02-18T10:30:00Z".parse().expect("a time");
        let since = |text: &str| parse_since(text, now).map(|at| at.to_string());
        assert_eq!(since("30d"), Ok("2026-01-19T10:30:00Z".into()));
        assert_eq!(since("12h"), Ok("2026-02-17T22:30:00Z".into()));
        assert_eq!(since("2026-01-01T00:00:00Z"), Ok("2026-01-01T00:00:00Z".into()));
        for bad in ["", "d", "0d", "-1d", "30", "30w", "100001d", "ä", "yesterday"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
