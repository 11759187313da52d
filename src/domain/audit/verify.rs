//! Checks a trail from its first entry to its last in one pass and in constant memory, and reports for each
//! problem which entries it affects and what was done to them.

mod anchors;
mod keys;
mod places;
mod removed;

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::checkpoint::LogKeys;
use super::frontier::{Frontier, Peak};
use super::leaf::{Chain, Hash32};
use super::record::{Content, Record};
use super::removals::Removals;
use super::report::{Anchor, FINDINGS_LISTED, Findings, Report, Scope, Tampering};
use super::tree::subtrees;
use anchors::{Abandonment, Contradiction};
use keys::{Changed, Waiting};
use places::weigh;
use removed::Times;

/// Maximum edited entries that are tried at each other's positions.
const SUSPECTS_TRIED: usize = 64;
/// Maximum organisations whose chains are followed, and maximum holes and removals remembered: bounds the memory
/// that a hostile file can use. An installation has fewer.
const REMEMBERED: usize = 1 << 20;

/// A check in progress.
#[derive(Debug)]
pub struct Verifier {
    frontier: Frontier,
    /// Checkpoints by size, ascending; those before `next_anchor` have been checked.
    anchors: Vec<Anchor>,
    next_anchor: usize,
    anchor_failed: bool,
    /// Whether every entry from the first to the last is expected; otherwise the file is a part of the trail.
    complete: bool,
    heads: HashMap<Option<Uuid>, Head>,
    /// First and last entry of each hole, with the index of its finding.
    holes: BTreeMap<(u64, u64), usize>,
    removals: Removals,
    times: Times,
    suspects: Vec<(usize, Record)>,
    /// Entries that record that a log was given up.
    abandoned: Vec<Abandonment>,
    /// Checkpoints that do not match; wrong unless one of the abandonments counts.
    contradicted: Vec<Contradiction>,
    /// Trusted keys.
    keys: LogKeys,
    /// Entries that record a change of the key.
    changed: Vec<Changed>,
    /// Checkpoints signed by keys that are not trusted so far.
    waiting: Vec<Waiting>,
    findings: Findings,
    report: Report,
}

/// The state of an organisation's chain so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of entries before the newest.
    pub index: u64,
    /// Sequence of the newest entry.
    pub sequence: u64,
    /// Sequence of the one before it.
    pub previous: Option<u64>,
    /// Number of pruned entries.
    pub pruned: u64,
}

impl Verifier {
    /// Creates a check against these checkpoints. `complete`: of every entry, of the node or of an organisation;
    /// otherwise of a part, whose beginning and end need not be the trail's.
    #[must_use]
    pub fn new(mut anchors: Vec<Anchor>, complete: bool) -> Self {
        anchors.sort_by_key(|anchor| anchor.checkpoint.size);
        Self {
            frontier: Frontier::default(),
            anchors,
            next_anchor: 0,
            anchor_failed: false,
            complete,
            heads: HashMap::new(),
            holes: BTreeMap::new(),
            removals: Removals::default(),
            times: Times::default(),
            suspects: Vec::new(),
            abandoned: Vec::new(),
            contradicted: Vec::new(),
            keys: LogKeys::default(),
            changed: Vec::new(),
            waiting: Vec::new(),
            findings: Findings::default(),
            report: Report::default(),
        }
    }

    /// Returns the sequence expected next.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.frontier.size()
    }

    /// Adds a problem that was found elsewhere, such as a forged checkpoint.
    pub fn finding(&mut self, kind: Tampering, first: u64, last: u64, text: String) {
        self.findings.add(kind, first, last, text);
    }

    /// Sets the part of the trail that is checked.
    pub fn scope(&mut self, scope: Scope) {
        self.report.scope = Some(scope);
    }

    /// Returns the state of each chain so far.
    pub fn heads(&self) -> impl Iterator<Item = (Option<Uuid>, &Head)> {
        self.heads
            .iter()
            .map(|(organization, head)| (*organization, head))
    }

    /// Returns whether nothing wrong was found so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Returns whether something wrong is known about the entries from `first` to `last`.
    #[must_use]
    pub fn is_suspect(&self, first: u64, last: u64) -> bool {
        self.findings.concern(first, last.saturating_add(1))
    }

    /// Adds a remark.
    pub fn note(&mut self, text: String) {
        // Bounded, since a file may cause one per line.
        if self.report.notes.len() < FINDINGS_LISTED {
            self.report.notes.push(text);
        }
    }

    /// Checks the next record.
    pub fn record(&mut self, record: Record) {
        let sequence = record.sequence;
        if sequence < self.frontier.size() {
            self.out_of_order(sequence);
            return;
        }
        if sequence > self.frontier.size() {
            self.hole(sequence);
        }
        self.check_anchors();
        self.report.entries += 1;
        self.check_hash_count(&record);
        let leaf = self.check_leaf(&record);
        let suspicion = leaf.suspicion;
        let kept = record.hashes.get(32..).unwrap_or_default();
        let (findings, suspects) = (&mut self.findings, &mut self.suspects);
        self.frontier
            .grow(leaf, kept, |doubt| weigh(findings, suspects, doubt));
        if let Content::Whole(body) = &record.content {
            self.report.seen(body.at);
        }
        if let Some(finding) = suspicion {
            // An edited entry's own statement about its chain can't be trusted; the next entry's can.
            self.advance(&record);
            if self.suspects.len() < SUSPECTS_TRIED {
                self.suspects.push((finding, record));
            }
        } else {
            self.check_chain(&record);
            self.check_removals(&record);
        }
    }

    /// Skips entries that the file leaves out on purpose, given the hashes of the subtrees that cover them.
    ///
    /// # Errors
    /// The hashes do not cover `first..end`, or these entries are not next.
    pub fn gap(&mut self, first: u64, end: u64, hashes: &[Hash32]) -> Result<(), String> {
        let expected = self.frontier.size();
        if first < expected {
            return Err(format!(
                "places from {first} on are left out, but {expected} is next"
            ));
        }
        if end < first || subtrees(first, end).take(hashes.len() + 1).count() != hashes.len() {
            return Err(format!(
                "the hashes do not cover the places from {first} to {end}"
            ));
        }
        if first > expected {
            self.hole(first);
        }
        match &mut self.report.scope {
            Some(scope) => {
                scope.gaps += 1;
                scope.left_out += end - first;
            }
            None if self.complete && end > first => {
                let text = format!(
                    "entries {first} to {} were left out of a trail that claims to be whole",
                    end - 1
                );
                self.findings.add(Tampering::Missing, first, end - 1, text);
            }
            None => {}
        }
        for (level, hash) in subtrees(first, end).zip(hashes) {
            self.check_anchors();
            self.frontier.grow_by_subtree(level, Some(*hash));
            self.pass_anchors(self.frontier.size());
        }
        Ok(())
    }

    /// Records an entry that can't be read.
    pub fn unreadable(&mut self, sequence: u64, problem: &str) {
        let text = format!("entry {sequence} can't be read: {problem}");
        self.findings.add(Tampering::Unreadable, sequence, sequence, text);
        if sequence >= self.frontier.size() {
            self.check_anchors();
            self.pass_anchors(sequence + 1);
            self.frontier.leave_hole(sequence + 1);
        }
    }

    /// Ends the check and returns the report. Entries missing at the end are detected by the checkpoints.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.check_anchors();
        self.beyond_the_end();
        self.settle_waiting();
        self.judge_contradictions();
        if self.report.root.is_none() && self.findings.is_empty() {
            let text = "hashes are missing: no checkpoint can be compared with what is here".to_owned();
            let last = self.frontier.size().saturating_sub(1);
            self.findings.add(Tampering::HashChanged, 0, last, text);
        }
        self.try_places();
        self.unrecorded_removals();
        self.findings.into_report(&mut self.report);
        self.report
    }

    fn check_hash_count(&mut self, record: &Record) {
        let expected = 32 * super::tree::completed_by(record.sequence) as usize;
        if record.hashes.len() != expected {
            let sequence = record.sequence;
            let text =
                format!("the hashes stored beside entry {sequence} are not exactly those that belong there");
            self.findings
                .add(Tampering::HashChanged, sequence, sequence, text);
        }
    }

    fn check_leaf(&mut self, record: &Record) -> Peak {
        let sequence = record.sequence;
        let kept = record.kept_leaf_hash();
        let computed = record.leaf_hash_at(sequence);
        if computed.is_none() {
            self.report.pruned += 1;
        }
        let mut peak = Peak {
            level: 0,
            hash: kept.or(computed),
            alternative: None,
            suspicion: None,
        };
        if kept.is_some() && computed.is_some() && kept != computed {
            let shifted = [sequence + 1, sequence.wrapping_sub(1)]
                .into_iter()
                .find(|place| record.leaf_hash_at(*place) == kept);
            let (kind, text) = match shifted {
                Some(place) => (
                    Tampering::Reordered,
                    format!("at place {sequence} stands the entry that belongs at place {place}"),
                ),
                None => (
                    Tampering::Edited,
                    format!(
                        "entry {sequence} was edited: what it says does not have the hash that was kept of it"
                    ),
                ),
            };
            peak.suspicion = Some(self.findings.add(kind, sequence, sequence, text));
            peak.alternative = computed;
        }
        peak
    }

    /// Makes an entry the newest of its chain; returns the previous state of the chain.
    fn advance(&mut self, record: &Record) -> Option<Head> {
        let before = self.heads.get(&record.organization_id).copied();
        if before.is_none() && self.heads.len() == REMEMBERED {
            let (at, text) = (
                record.sequence,
                "there are too many organisations to check".to_owned(),
            );
            self.findings.add(Tampering::Unreadable, at, at, text);
            return None;
        }
        let known = before.unwrap_or_default();
        let head = Head {
            index: record.chain.index,
            sequence: record.sequence,
            previous: record.chain.previous,
            pruned: known.pruned + u64::from(matches!(record.content, Content::Pruned { .. })),
        };
        self.heads.insert(record.organization_id, head);
        before
    }

    fn check_chain(&mut self, record: &Record) {
        let Chain { index, previous } = record.chain;
        let sequence = record.sequence;
        let before = self.advance(record);
        let expected = match before {
            Some(head) => (head.index.saturating_add(1), Some(head.sequence)),
            None if self.complete => (0, None),
            None => return,
        };
        // A problem already known before this entry explains a chain that does not match.
        let from = before.map_or(0, |head| head.sequence);
        if expected == (index, previous) || self.findings.concern(from, sequence) {
            return;
        }
        let count = index.saturating_sub(expected.0);
        let text = match previous {
            Some(previous) => format!(
                "before entry {sequence}, {count} of its organisation's entries are missing, the last of them entry {previous}"
            ),
            None => format!("entry {sequence} says that it is its organisation's first, but it is not"),
        };
        let last = previous.unwrap_or(sequence);
        self.findings.add(
            Tampering::Missing,
            if count > 1 { from + 1 } else { last },
            last,
            text,
        );
    }
}
