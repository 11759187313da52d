//! Entries in the wrong place, and changes of hashes instead of entries.

use super::super::frontier::Doubt;
use super::super::record::Record;
use super::super::report::{Findings, Tampering};
use super::{REMEMBERED, Verifier};

impl Verifier {
    /// Handles an entry that should have come before.
    pub(super) fn out_of_order(&mut self, sequence: u64) {
        // Holes do not overlap, so the last one that begins before the entry is the right one.
        let hole = self
            .holes
            .range(..=(sequence, u64::MAX))
            .next_back()
            .map(|(range, finding)| (*range, *finding))
            .filter(|((_, last), _)| *last >= sequence);
        let Some(((first, last), finding)) = hole else {
            let text = format!("entry {sequence} stands here a second time");
            self.findings.add(Tampering::Duplicated, sequence, sequence, text);
            return;
        };
        // The entry is not missing after all; the rest of the hole still is.
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

    pub(super) fn hole(&mut self, end: u64) {
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
        if self.holes.len() < REMEMBERED {
            self.holes.insert((first, last), finding);
        }
    }

    /// Finds edited entries that are only in the wrong place.
    pub(super) fn try_places(&mut self) {
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

pub(super) fn weigh(findings: &mut Findings, suspects: &mut Vec<(usize, Record)>, doubt: Doubt) -> usize {
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

pub(super) fn hash_was_wrong(findings: &mut Findings, suspects: &mut Vec<(usize, Record)>, finding: usize) {
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
