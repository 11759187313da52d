//! Checks a trail from its first entry to its last in one pass and in constant memory, and says of each
//! thing that is wrong which entries it concerns and what was done to them.

mod removed;

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::frontier::{Doubt, Fit, Frontier, Peak};
use super::leaf::{Chain, Hash32};
use super::record::Record;
use super::removals::Removals;
use super::report::{Anchor, Findings, Report, Tampering};
use super::tree::subtrees;

/// Edited entries that are tried at each other's places.
const SUSPECTS_TRIED: usize = 64;

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
    /// The newest index and sequence of each chain.
    heads: HashMap<Option<Uuid>, (u64, u64)>,
    /// First and last of each hole, and the finding that it is.
    holes: BTreeMap<(u64, u64), usize>,
    removals: Removals,
    suspects: Vec<(usize, Record)>,
    /// Logs that were given up, and how many entries of theirs still count.
    abandoned: HashMap<String, u64>,
    findings: Findings,
    report: Report,
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
            suspects: Vec::new(),
            abandoned: HashMap::new(),
            findings: Findings::default(),
            report: Report::default(),
        }
    }

    /// The place that is looked for next.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.frontier.size()
    }

    /// A further checkpoint, found on the way.
    pub fn anchor(&mut self, anchor: Anchor) {
        if anchor.checkpoint.size < self.frontier.size() {
            self.note(format!(
                "a checkpoint over {} entries comes too late to be compared",
                anchor.checkpoint.size
            ));
            return;
        }
        let later = &self.anchors[self.next_anchor..];
        let at = later.partition_point(|other| other.checkpoint.size <= anchor.checkpoint.size);
        self.anchors.insert(self.next_anchor + at, anchor);
    }

    /// Something wrong that was found outside, such as a checkpoint that is forged.
    pub fn finding(&mut self, kind: Tampering, first: u64, last: u64, text: String) {
        self.findings.add(kind, first, last, text);
    }

    /// Entries so far of which only the hashes are left.
    #[must_use]
    pub fn pruned(&self) -> u64 {
        self.report.pruned
    }

    /// Nothing wrong so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Something worth knowing.
    pub fn note(&mut self, text: String) {
        self.report.notes.push(text);
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
        if let Some(finding) = suspicion {
            // Its own words about its chain can't be trusted; the next entry's can.
            self.heads
                .insert(record.organization_id, (record.chain.index, sequence));
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
        let size = self.frontier.size();
        let claimed = self.anchors[self.next_anchor..]
            .iter()
            .rfind(|anchor| !is_abandoned(&self.abandoned, anchor));
        if let Some(anchor) = claimed {
            let claimed = anchor.checkpoint.size;
            let text = format!(
                "the trail is cut off: the checkpoint in {} is over {claimed} entries, {size} are here, the newest {} are gone",
                anchor.source,
                claimed - size
            );
            self.findings.add(Tampering::CutOff, size, claimed - 1, text);
            self.report.size = claimed;
        } else {
            self.report.size = size;
            self.report.root = self.frontier.root().map(hex::encode);
        }
        self.try_places();
        self.unrecorded_removals();
        self.findings.into_report(&mut self.report);
        self.report
    }

    /// An entry that should have come before.
    fn out_of_order(&mut self, sequence: u64) {
        let hole = self
            .holes
            .iter()
            .map(|(range, finding)| (*range, *finding))
            .find(|((first, last), _)| (*first..=*last).contains(&sequence));
        let Some(((first, last), finding)) = hole else {
            let text = format!("entry {sequence} stands here a second time");
            self.findings.add(Tampering::Duplicated, sequence, sequence, text);
            return;
        };
        // It is not missing after all; what else was missing still is.
        self.holes.remove(&(first, last));
        self.findings.withdraw(finding);
        if first < sequence {
            self.missing(first, sequence - 1);
        }
        if sequence < last {
            self.missing(sequence + 1, last);
        }
        self.report.entries += 1;
        let after = self.frontier.size() - 1;
        let text = format!("entry {sequence} stands after entry {after}, out of its place");
        self.findings.add(Tampering::Reordered, sequence, sequence, text);
    }

    fn hole(&mut self, end: u64) {
        self.check_anchors();
        self.missing(self.frontier.size(), end - 1);
        self.pass_anchors(end);
        self.frontier.leave_hole(end);
    }

    fn missing(&mut self, first: u64, last: u64) {
        let text = if first == last {
            format!("entry {first} is missing")
        } else {
            format!("entries {first} to {last} are missing")
        };
        let finding = self.findings.add(Tampering::Missing, first, last, text);
        self.holes.insert((first, last), finding);
    }

    /// Leaves out the checkpoints over fewer than `size` entries: there is nothing to compare them with.
    fn pass_anchors(&mut self, size: u64) {
        let rest = &self.anchors[self.next_anchor..];
        self.next_anchor += rest.partition_point(|anchor| anchor.checkpoint.size < size);
    }

    /// Compares the root with every checkpoint over exactly the entries so far.
    fn check_anchors(&mut self) {
        while let Some(anchor) = self.anchors.get(self.next_anchor) {
            let size = anchor.checkpoint.size;
            if size != self.frontier.size() {
                break;
            }
            self.next_anchor += 1;
            let fit = self.frontier.fits(&anchor.checkpoint.root);
            if let Fit::IfHashWasWrong(finding) = fit {
                hash_was_wrong(&mut self.findings, &mut self.suspects, finding);
            }
            match fit {
                Fit::Yes | Fit::IfHashWasWrong(_) => {
                    // The same one may be kept in several places.
                    let another = self.report.checkpoints == 0 || self.report.vouched_size != size;
                    self.report.checkpoints += u64::from(another);
                    self.report.vouched_size = size;
                }
                Fit::No if !is_abandoned(&self.abandoned, anchor) => {
                    let first = self.report.vouched_size;
                    // What is wrong below explains it, and one checkpoint that fails explains the next.
                    if !self.anchor_failed && !self.findings.concern(first, size) {
                        let last = size.saturating_sub(1);
                        let text = format!(
                            "entries {first} to {last} were rewritten, hashes and all: the checkpoint in {} says otherwise",
                            anchor.source
                        );
                        self.findings.add(Tampering::Rewritten, first, last, text);
                    }
                    self.anchor_failed = true;
                }
                Fit::No | Fit::Unknown => {}
            }
        }
    }

    fn check_hash_count(&mut self, record: &Record) {
        let expected = 32 * super::tree::completed_by(record.sequence) as usize;
        if record.hashes.len() != expected && !record.hashes.is_empty() {
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

    fn check_chain(&mut self, record: &Record) {
        let Chain { index, previous } = record.chain;
        let sequence = record.sequence;
        let before = self.heads.insert(record.organization_id, (index, sequence));
        let expected = match before {
            Some((index, sequence)) => (index + 1, Some(sequence)),
            None if self.complete => (0, None),
            None => return,
        };
        // What is known to be wrong before explains a chain that does not close.
        let from = before.map_or(0, |(_, sequence)| sequence);
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

    /// Which edited entries are only at the wrong place.
    fn try_places(&mut self) {
        for (finding, record) in &self.suspects {
            let place = self
                .suspects
                .iter()
                .filter(|(_, other)| other.sequence != record.sequence)
                .find(|(_, other)| {
                    let hash = record.leaf_hash_at(other.sequence);
                    hash == other.kept_leaf_hash() || hash == record.kept_leaf_hash()
                });
            if let Some((_, other)) = place {
                self.findings.change(*finding, |finding| {
                    finding.kind = Tampering::Reordered;
                    finding.text = format!(
                        "at place {} stands the entry that belongs at place {}",
                        record.sequence, other.sequence
                    );
                });
            }
        }
    }
}

fn is_abandoned(abandoned: &HashMap<String, u64>, anchor: &Anchor) -> bool {
    abandoned
        .get(&anchor.checkpoint.origin)
        .is_some_and(|kept| anchor.checkpoint.size > *kept)
}

fn weigh(findings: &mut Findings, suspects: &mut Vec<(usize, Record)>, doubt: Doubt) -> usize {
    match doubt {
        Doubt::HashWasWrong(finding) => {
            hash_was_wrong(findings, suspects, finding);
            finding
        }
        Doubt::New { first, last } => {
            let text = format!(
                "one of the entries {first} to {last} was replaced together with its hash, or a hash beside entry \
                 {last} was changed"
            );
            findings.add(Tampering::Edited, first, last, text)
        }
    }
}

fn hash_was_wrong(findings: &mut Findings, suspects: &mut Vec<(usize, Record)>, finding: usize) {
    suspects.retain(|(of, _)| *of != finding);
    findings.change(finding, |finding| {
        finding.kind = Tampering::HashChanged;
        finding.first = finding.last;
        finding.text = format!(
            "a hash beside entry {} was changed; the entries themselves are intact",
            finding.last
        );
    });
}
