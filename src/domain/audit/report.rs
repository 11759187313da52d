//! The result of checking a trail.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use super::checkpoint::Checkpoint;

/// Maximum findings listed; further ones are only counted.
pub const FINDINGS_LISTED: usize = 1000;
/// Maximum entries at the end of the trail that may be unsigned by default: those that a running server has not
/// yet signed (it signs a checkpoint every 1,000 entries by default), with room for what is written meanwhile.
pub const UNSIGNED_ENTRIES: u64 = 10_000;
/// Maximum time from the first unsigned entry to the newest one; a checkpoint is signed every minute by default.
pub const UNSIGNED_SPAN: SignedDuration = SignedDuration::from_mins(5);

/// What a check without given keys relies on.
pub const OWN_KEYS: &str = "the keys in the trail itself: whoever can write it could have replaced them";

/// The kind of tampering found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tampering {
    /// An entry's content was changed after it was written.
    Edited,
    /// An entry is missing.
    Missing,
    /// The newest entries are missing.
    CutOff,
    /// An entry stands in the place of another.
    Reordered,
    /// An entry occurs twice.
    Duplicated,
    /// Entries and all their hashes were recreated; a signed checkpoint contradicts them.
    Rewritten,
    /// A checkpoint has no valid signature of the log.
    ForgedCheckpoint,
    /// A hash beside an entry was changed; the entry is intact.
    HashChanged,
    /// Something was erased or pruned without an entry that records it.
    RemovalNotRecorded,
    /// A table derived from the trail does not agree with it.
    DerivedDataChanged,
    /// The database has a trigger, view, table or index that is not part of the schema, or lacks one that is.
    SchemaChanged,
    /// An entry can't be read at all.
    Unreadable,
}

/// One problem that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Kind of tampering.
    pub kind: Tampering,
    /// Sequence of the first entry affected.
    pub first: u64,
    /// Sequence of the last entry affected.
    pub last: u64,
    /// One sentence.
    pub text: String,
}

/// The overall result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is wrong, and no more is unsigned than the signing schedule leaves.
    Intact,
    /// Something is wrong.
    Tampered,
    /// Nothing is known to be wrong, but no trusted key vouches for it.
    Unsigned,
    /// Nothing is wrong, but a given checkpoint belongs to a history that was given up on purpose.
    Superseded,
    /// Nothing is wrong, but a given checkpoint could not be compared: the entries where it ends are not here.
    NotCompared,
}

/// The part of the trail that an export holds, if it does not hold all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// The only organisation exported; absent: all.
    pub organization_id: Option<Uuid>,
    /// Earliest time exported.
    pub from: Option<Timestamp>,
    /// Latest time exported.
    pub to: Option<Timestamp>,
    /// Number of gaps.
    pub gaps: u64,
    /// Number of entries left out, those of other organisations included.
    pub left_out: u64,
}

/// A checkpoint that does not match and need not, since its log was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Voided {
    /// Where the checkpoint was found.
    pub source: String,
    /// Name of its log.
    pub origin: String,
    /// Number of entries that it covers.
    pub size: u64,
    /// Sequence of the entry that records that the log was given up.
    pub given_up_by: u64,
}

/// A checkpoint that could not be compared with anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotCompared {
    /// Where it was found.
    pub source: String,
    /// Number of entries it covers; the smallest number if several were found there.
    pub size: u64,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The part of the trail that was checked; `None`: the whole trail.
    pub scope: Option<Scope>,
    /// Whether, for lack of given keys, those in the trail itself were trusted: that detects damage, and changes
    /// made without the signing key, but not somebody who put keys of their own there.
    pub trusted_own_keys: bool,
    /// Entries present.
    pub entries: u64,
    /// Of these, pruned to their hashes.
    pub pruned: u64,
    /// Of these, with an erased part.
    pub erased: u64,
    /// Number of entries that the trail should have.
    pub size: u64,
    /// Root of the tree, in hexadecimal; `None` if it has a hole.
    pub root: Option<String>,
    /// Number of entries that signed checkpoints vouch for, from the beginning.
    pub vouched_size: u64,
    /// Number of signed checkpoints that match.
    pub checkpoints: u64,
    /// Time of the first entry that no checkpoint vouches for.
    pub unsigned_since: Option<Timestamp>,
    /// Latest time of an entry.
    pub newest_at: Option<Timestamp>,
    /// Checkpoints of logs that were given up.
    pub voided: Vec<Voided>,
    /// Checkpoints that could not be compared, because the entries where they end are not here; one for each
    /// source.
    pub not_compared: Vec<NotCompared>,
    /// Problems found, by position.
    pub findings: Vec<Finding>,
    /// Number of findings beyond those listed.
    pub further_findings: u64,
    /// Remarks on what is not wrong, but worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty() && self.further_findings == 0
    }

    /// Returns the number of entries at the end that no checkpoint vouches for.
    #[must_use]
    pub fn unsigned(&self) -> u64 {
        self.size.saturating_sub(self.vouched_size)
    }

    /// Returns the verdict. `given` names the sources of checkpoints that must count. Up to `allowed` entries may
    /// be unsigned; without it, as many as a server that signs by the default schedule leaves.
    #[must_use]
    pub fn verdict(&self, given: &[String], allowed: Option<u64>) -> Verdict {
        let span = self.unsigned_since.zip(self.newest_at);
        let recent = span.is_none_or(|(since, newest)| newest.duration_since(since) <= UNSIGNED_SPAN);
        let may_be_unsigned = match allowed {
            Some(allowed) => self.unsigned() <= allowed,
            None => {
                self.unsigned() == 0
                    || (self.vouched_size > 0 && self.unsigned() <= UNSIGNED_ENTRIES && recent)
            }
        };
        if !self.is_intact() {
            Verdict::Tampered
        } else if self.voided.iter().any(|voided| given.contains(&voided.source)) {
            Verdict::Superseded
        } else if self.not_compared.iter().any(|one| given.contains(&one.source)) {
            Verdict::NotCompared
        } else if may_be_unsigned {
            Verdict::Intact
        } else {
            Verdict::Unsigned
        }
    }

    /// Notes the time of a whole entry.
    pub(super) fn seen(&mut self, at: Timestamp) {
        self.unsigned_since.get_or_insert(at);
        self.newest_at = self.newest_at.max(Some(at));
    }

    /// Notes that a checkpoint vouches for the first `size` entries.
    pub(super) fn vouched(&mut self, size: u64) {
        self.vouched_size = size;
        self.unsigned_since = None;
    }
}

/// A checkpoint whose signature was verified, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Where it was found: "the database", or a file name.
    pub source: String,
}

/// Findings in progress: one may turn out to be something else, or nothing.
#[derive(Debug, Default)]
pub(super) struct Findings {
    listed: Vec<Option<Finding>>,
    further: u64,
}

/// Index of a finding that is only counted.
const NOT_LISTED: usize = usize::MAX;

impl Findings {
    pub fn add(&mut self, kind: Tampering, first: u64, last: u64, text: String) -> usize {
        if self.listed.len() == FINDINGS_LISTED {
            self.further += 1;
            return NOT_LISTED;
        }
        self.listed.push(Some(Finding {
            kind,
            first,
            last,
            text,
        }));
        self.listed.len() - 1
    }

    pub fn change(&mut self, at: usize, change: impl FnOnce(&mut Finding)) {
        if let Some(Some(finding)) = self.listed.get_mut(at) {
            change(finding);
        }
    }

    pub fn withdraw(&mut self, at: usize) {
        if let Some(finding) = self.listed.get_mut(at) {
            *finding = None;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.further == 0 && self.listed.iter().all(Option::is_none)
    }

    /// Returns whether a problem is already known with an entry in `first..end`.
    pub fn concern(&self, first: u64, end: u64) -> bool {
        self.further > 0
            || self
                .listed
                .iter()
                .flatten()
                .any(|f| f.last >= first && f.first < end && concerns_entries(f.kind))
    }

    pub fn into_report(self, report: &mut Report) {
        report.findings = self.listed.into_iter().flatten().collect();
        report.findings.sort_by_key(|finding| finding.first);
        report.further_findings = self.further;
    }
}

/// Returns whether a finding is about the entries that it names.
fn concerns_entries(kind: Tampering) -> bool {
    !matches!(
        kind,
        Tampering::ForgedCheckpoint | Tampering::DerivedDataChanged | Tampering::SchemaChanged
    )
}
