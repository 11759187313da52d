//! What a replay is asked for, and what it found.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use crate::domain::account::OrganizationId;
use crate::domain::policy::{Hook, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::Digest;

/// What to replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The candidate, installed.
    pub plugin_digest: Digest,
    /// Whose resets; for the operator, absent: everybody's.
    pub organization: Option<OrganizationId>,
    /// From when on.
    pub since: Timestamp,
    /// Whose decisions the candidate is compared with.
    pub follow: Follow,
    /// The candidate's configuration; absent: the one that each decision was made with.
    pub config: Option<Value>,
}

/// Whose decisions a candidate is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Those of every plugin with the candidate's name.
    Name,
    /// Those of one binding.
    Binding(Uuid),
    /// Those that counted, of these bindings, by versions of the candidate.
    Counted(Vec<Uuid>),
}

/// A decision that would have been another.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// When it was made.
    pub at: Timestamp,
    /// Id of the entry that records it.
    pub entry_id: Uuid,
    /// Whose reset.
    pub target: String,
    /// At which hook.
    pub hook: Hook,
    /// Whose answer is recorded; absent where nobody was asked.
    #[serde(flatten)]
    pub answered: Option<Answered>,
    /// The answer as it is recorded; null where nobody was asked.
    pub recorded: Value,
    /// What the candidate answers.
    pub replayed: Value,
}

/// Whose answer a difference is to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answered {
    /// The binding, which may be gone.
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

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    /// The candidate's name.
    pub plugin: String,
    /// The candidate's version.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: Digest,
    /// From when on.
    pub since: Timestamp,
    /// Whether a plugin of this name was ever asked in that time. If not, the candidate is compared with
    /// "allow": how it would have been to have it.
    pub asked_before: bool,
    /// Resets looked at.
    pub resets: u64,
    /// Answers compared.
    pub compared: u64,
    /// Of these, the same byte for byte.
    pub same: u64,
    /// Of these, others.
    pub differing: u64,
    /// Of the differing, those where the candidate failed.
    pub failed: u64,
    /// Of the differing, those where the recorded call had failed and the candidate answers.
    pub mended: u64,
    /// Calls that failed when they were recorded for a cause that another time may not have, a deadline for
    /// example: there is nothing to compare with.
    pub not_comparable: u64,
    /// Answers that did not count and were left out, since others did.
    pub watched: u64,
    /// Whether all there is was looked at, not only the newest.
    pub complete: bool,
    /// The first of the differences.
    pub differences: Vec<Difference>,
}

/// What a replay comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayVerdict {
    /// Everything could be compared, and nothing would have been decided otherwise.
    Clean,
    /// Something would have been.
    Differs,
    /// Nothing would have been, as far as could be looked and compared.
    Incomplete,
    /// There was no answer to compare with: nobody was asked in that time, or every call had failed.
    NothingCompared,
}

impl ReplayReport {
    /// What it comes to.
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

    /// Whether there was something to compare with, all of it could be compared, and nothing would have been
    /// decided otherwise.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.verdict() == ReplayVerdict::Clean
    }
}

/// How far back: `30d`, `12h`, or an RFC 3339 time.
///
/// # Errors
/// [`Error::Validation`] for the field `since`.
pub fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp> {
    let bad = || Error::field("since", "must be such as 30d, 12h, or an RFC 3339 time");
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
