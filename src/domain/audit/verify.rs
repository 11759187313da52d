//! Checks a trail from its first entry to its last in one pass and in constant memory, and says of each
//! thing that is wrong which entries it concerns and what was done to them.

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

/// Edited entries that are tried at each other's places.
const SUSPECTS_TRIED: usize = 64;
/// Organisations whose chains are followed, and holes and removals that are remembered: what a hostile file may
/// take of the memory. An installation has fewer.
const REMEMBERED: usize = 1 << 20;

/// A check under way.
#[derive(Debug)]
pub struct Verifier {
    frontier: Frontier,
    /// By size, ascending; those below `next_anchor` were checked.
    anchors: Vec<Anchor>,
    next_anchor: usize,
    anchor_failed: bool,
    /// From the first entry on to the last; else the file begins and ends somewhere.
    complete: bool,
    heads: HashMap<Option<Uuid>, Head>,
    /// First and last of each hole, and the finding that it is.
    holes: BTreeMap<(u64, u64), usize>,
    removals: Removals,
    times: Times,
    suspects: Vec<(usize, Record)>,
    /// Entries that say that a log was given up.
    abandoned: Vec<Abandonment>,
    /// Checkpoints that do not fit, unless one of those counts.
    contradicted: Vec<Contradiction>,
    /// Keys that count.
    keys: LogKeys,
    /// Entries that say that the key was changed.
    changed: Vec<Changed>,
    /// Checkpoints by keys that do not count so far.
    waiting: Vec<Waiting>,
    findings: Findings,
    report: Report,
}

/// What is known of a chain so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Entries before the newest.
    pub index: u64,
    /// Place of the newest.
    pub sequence: u64,
    /// Place of the one before it.
    pub previous: Option<u64>,
    /// How many were pruned.
    pub pruned: u64,
}

impl Verifier {
    /// A check against these checkpoints. `complete`: of every entry, of the node or of an organisation;
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

    /// The place that is looked for next.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.frontier.size()
    }

    /// Something wrong that was found outside, such as a checkpoint that is forged.
    pub fn finding(&mut self, kind: Tampering, first: u64, last: u64, text: String) {
        self.findings.add(kind, first, last, text);
    }

    /// What the trail is only a part of.
    pub fn scope(&mut self, scope: Scope) {
        self.report.scope = Some(scope);
    }

    /// Each chain so far, and its newest entry.
    pub fn heads(&self) -> impl Iterator<Item = (Option<Uuid>, &Head)> {
        self.heads
            .iter()
            .map(|(organization, head)| (*organization, head))
    }

    /// Nothing wrong so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Something wrong is known of the entries from `first` to `last`.
    #[must_use]
    pub fn is_suspect(&self, first: u64, last: u64) -> bool {
        self.findings.concern(first, last.saturating_add(1))
    }

    /// Something worth knowing.
    pub fn note(&mut self, text: String) {
        // A file may give rise to one a line.
        if self.report.notes.len() < FINDINGS_LISTED {
            self.report.notes.push(text);
        }
    }

    /// The next place.
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
            // Its own words about its chain can't be trusted; the next entry's can.
            self.advance(&record);
            if self.suspects.len() < SUSPECTS_TRIED {
                self.suspects.push((finding, record));
            }
        } else {
            self.check_chain(&record);
            self.check_removals(&record);
        }
    }

    /// Places that the file leaves out on purpose, by the hashes of the subtrees that cover them.
    ///
    /// # Errors
    /// When the hashes are not those that cover `first..end`, or these places are not next.
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

    /// A place that can't be read.
    pub fn unreadable(&mut self, sequence: u64, problem: &str) {
        let text = format!("entry {sequence} can't be read: {problem}");
        self.findings.add(Tampering::Unreadable, sequence, sequence, text);
        if sequence >= self.frontier.size() {
            self.check_anchors();
            self.pass_anchors(sequence + 1);
            self.frontier.leave_hole(sequence + 1);
        }
    }

    /// The end. What is missing at the end is told by the checkpoints.
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
            let text = format!("beside entry {sequence} not exactly the hashes are kept that belong there");
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

    /// Makes an entry its chain's newest, and says which was before.
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
        // What is known to be wrong before explains a chain that does not close.
        let from = before.map_or(0, |head| head.sequence);
        if expected == (index, previous) || self.findings.concern(from, sequence) {
            return;
        }
        let count = index.saturating_sub(expected.0);
        let text = match previous {
            Some(previous) => format!(
                "before entry {sequence}, {count} of its organisation's entries are missing, the last of them entry {previous}"
            ),
            None => format!("entry {sequence} says that it is its organisation's first, and is not"),
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
