//! What a check of the trail came to.

use serde::Serialize;

use super::checkpoint::Checkpoint;

/// Findings are listed up to this many; more are counted.
pub const FINDINGS_LISTED: usize = 1000;
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

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
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
                .any(|f| f.last >= first && f.first < end && f.kind != Tampering::ForgedCheckpoint)
    }

    pub fn into_report(self, report: &mut Report) {
        report.findings = self.listed.into_iter().flatten().collect();
        report.findings.sort_by_key(|finding| finding.first);
        report.further_findings = self.further;
    }
}
