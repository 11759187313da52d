//! What a check of the trail came to.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use super::checkpoint::Checkpoint;

/// Findings are listed up to this many; more are counted.
pub const FINDINGS_LISTED: usize = 1000;
/// As many of the newest entries may be unsigned: what the schedule leaves while a server runs (a checkpoint at
/// each 1,000 entries, by default), with room for what is written while one is signed.
pub const UNSIGNED_ENTRIES: u64 = 10_000;
/// For so long may the trail have gone on unsigned, from the first such entry to the newest: the schedule is a
/// minute by default.
pub const UNSIGNED_SPAN: SignedDuration = SignedDuration::from_mins(5);

/// What a check without given keys rests on.
pub const OWN_KEYS: &str = "the keys in the trail itself: whoever can write it could have replaced them";

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tampering {
    /// An entry does not say what it said when it was written.
    Edited,
    /// An entry is gone.
    Missing,
    /// The newest entries are gone.
    CutOff,
    /// An entry stands at the place of another.
    Reordered,
    /// An entry stands twice.
    Duplicated,
    /// Entries and all their hashes were made anew; a signed checkpoint says otherwise.
    Rewritten,
    /// A checkpoint bears no signature of the log.
    ForgedCheckpoint,
    /// A hash beside an entry was changed; the entry is intact.
    HashChanged,
    /// Something was erased or pruned, and no entry says so.
    RemovalNotRecorded,
    /// A table that is derived from the trail does not agree with it.
    DerivedDataChanged,
    /// The database has a trigger, a view, a table or an index that is not ours, or lacks one that is.
    SchemaChanged,
    /// A place can't be read at all.
    Unreadable,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was done.
    pub kind: Tampering,
    /// The first entry it concerns.
    pub first: u64,
    /// The last entry it concerns.
    pub last: u64,
    /// One sentence.
    pub text: String,
}

/// What a check came to, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is wrong, and what the schedule may leave is all that is unsigned.
    Intact,
    /// Something is wrong.
    Tampered,
    /// Nothing is known to be wrong, but nobody trusted vouches for it.
    Unsigned,
    /// Nothing is wrong, but a checkpoint that was given is of a history that was given up on purpose.
    Superseded,
    /// Nothing is wrong, but a checkpoint that was given could not be compared with what is here.
    NotCompared,
}

/// What an export holds of the trail, where it does not hold all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// Only this organisation's entries.
    pub organization_id: Option<Uuid>,
    /// Only entries from this time on.
    pub from: Option<Timestamp>,
    /// Only entries up to this time.
    pub to: Option<Timestamp>,
    /// How often something was left out.
    pub gaps: u64,
    /// How many entries were, others' among them.
    pub left_out: u64,
}

/// A checkpoint that does not fit, and need not: its log was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Voided {
    /// Where it was found.
    pub source: String,
    /// Its log.
    pub origin: String,
    /// How many entries it is over.
    pub size: u64,
    /// The entry that records it.
    pub given_up_by: u64,
}

/// A checkpoint that nothing could be compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotCompared {
    /// Where it was found; of several there, the smallest is named.
    pub source: String,
    /// How many entries it is over.
    pub size: u64,
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was checked is a part; `None`: it is the whole trail.
    pub scope: Option<Scope>,
    /// No keys were given, and those that the trail itself names were believed: that finds damage, and whoever
    /// changed something without the signing key, but nobody who put keys of their own there.
    pub trusted_own_keys: bool,
    /// Entries that were there.
    pub entries: u64,
    /// Of these, pruned to their hashes.
    pub pruned: u64,
    /// Of these, with something erased.
    pub erased: u64,
    /// How many entries the trail should have.
    pub size: u64,
    /// The root of the tree, in hexadecimal; `None` with a hole in it.
    pub root: Option<String>,
    /// Up to here, signed checkpoints vouch for every entry.
    pub vouched_size: u64,
    /// Signed checkpoints that fit.
    pub checkpoints: u64,
    /// The time of the first entry that no checkpoint vouches for.
    pub unsigned_since: Option<Timestamp>,
    /// The latest time of an entry.
    pub newest_at: Option<Timestamp>,
    /// Checkpoints of logs that were given up.
    pub voided: Vec<Voided>,
    /// Checkpoints over so many entries that what is around the last of them is not here: each place where such were
    /// found.
    pub not_compared: Vec<NotCompared>,
    /// What is wrong, by place.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub further_findings: u64,
    /// What is not wrong, but worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty() && self.further_findings == 0
    }

    /// How many of the newest entries no checkpoint vouches for.
    #[must_use]
    pub fn unsigned(&self) -> u64 {
        self.size.saturating_sub(self.vouched_size)
    }

    /// The verdict, given where the checkpoints were found that must count. So many entries may be unsigned as
    /// `allowed` says; without, as many as a server leaves that signs as it does by default.
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

    /// A whole entry bears this time.
    pub(super) fn seen(&mut self, at: Timestamp) {
        self.unsigned_since.get_or_insert(at);
        self.newest_at = self.newest_at.max(Some(at));
    }

    /// A checkpoint vouches for the first `size` entries.
    pub(super) fn vouched(&mut self, size: u64) {
        self.vouched_size = size;
        self.unsigned_since = None;
    }
}

/// A checkpoint whose signature was checked, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// Where it was found: "the database", a file name.
    pub source: String,
}

/// Findings under way: one may turn out to be something else, or nothing.
#[derive(Debug, Default)]
pub(super) struct Findings {
    listed: Vec<Option<Finding>>,
    further: u64,
}

/// The place of a finding that is only counted.
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

    /// Whether something wrong with the entries from `first` to before `end` is known already.
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

/// Whether a finding says something of the entries that it names.
fn concerns_entries(kind: Tampering) -> bool {
    !matches!(
        kind,
        Tampering::ForgedCheckpoint | Tampering::DerivedDataChanged | Tampering::SchemaChanged
    )
}
