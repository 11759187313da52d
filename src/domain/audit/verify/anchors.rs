//! The signed checkpoints: what they vouch for, what they contradict, and which of them no longer count because
//! their log was given up.

use super::super::checkpoint::LogKey;
use super::super::frontier::Fit;
use super::super::report::{Anchor, FINDINGS_LISTED, NotCompared, Tampering, Voided};
use super::Verifier;
use super::keys::retired;
use super::places::hash_was_wrong;

/// An entry that records that a log was given up.
#[derive(Debug)]
pub(super) struct Abandonment {
    /// Name of the log.
    pub origin: String,
    /// Sequence of the entry; checkpoints of the log that cover more entries than precede it no longer count.
    pub sequence: u64,
    /// Key of the log that followed, which signed the statement that this one was given up; `None` if no valid
    /// statement was found.
    pub by: Option<LogKey>,
    /// Whether another trusted log has signed that entry. Until then anybody may have written it.
    pub vouched: bool,
    /// What happened, in one sentence.
    pub text: String,
}

/// Number of compared checkpoints kept before they are dropped together.
const ANCHORS_KEPT: usize = 1024;

/// A checkpoint that does not match, unless its log was given up; it stands for the larger ones of the same kind.
#[derive(Debug)]
pub(super) struct Contradiction {
    anchor: Anchor,
    kind: Tampering,
    from: u64,
    largest: u64,
}

impl Verifier {
    /// Adds a checkpoint found on the way.
    pub fn anchor(&mut self, anchor: Anchor) {
        let size = anchor.checkpoint.size;
        if size < self.frontier.size() {
            self.note(format!(
                "a checkpoint over {size} entries comes too late to be compared"
            ));
            return;
        }
        if self.next_anchor > ANCHORS_KEPT {
            self.anchors.drain(..std::mem::take(&mut self.next_anchor));
        }
        let later = &self.anchors[self.next_anchor..];
        let at = later.partition_point(|other| other.checkpoint.size <= size);
        // A file may repeat the same checkpoint on every line. One from another source is kept separately.
        let known = later[..at].iter().rev();
        let mut known = known.take_while(|other| other.checkpoint.size == size);
        if !known.any(|other| *other == anchor) {
            self.anchors.insert(self.next_anchor + at, anchor);
        }
    }

    /// Skips the checkpoints over fewer than `size` entries: there is nothing to compare them with.
    pub(super) fn pass_anchors(&mut self, size: u64) {
        let rest = &self.anchors[self.next_anchor..];
        let passed = rest.partition_point(|anchor| anchor.checkpoint.size < size);
        for Anchor { checkpoint, source } in &rest[..passed] {
            // One per source, since a file may have a checkpoint on every line; all other sources have few.
            let known = &mut self.report.not_compared;
            if known.iter().all(|other| other.source != *source) {
                known.push(NotCompared {
                    source: source.clone(),
                    size: checkpoint.size,
                });
            }
            if self.report.notes.len() < FINDINGS_LISTED {
                self.report.notes.push(format!(
                    "the checkpoint in {source} over {} entries could not be compared: what is around it is not here",
                    checkpoint.size
                ));
            }
        }
        self.next_anchor += passed;
    }

    /// Compares the root with every checkpoint over exactly the entries so far.
    pub(super) fn check_anchors(&mut self) {
        while let Some(anchor) = self.anchors.get(self.next_anchor) {
            let size = anchor.checkpoint.size;
            if size != self.frontier.size() {
                break;
            }
            self.next_anchor += 1;
            // A key that was changed because it leaked may be in someone else's hands by now.
            if let Some(by) = self.retired_by(&anchor.checkpoint) {
                let (last, text) = (size.saturating_sub(1), retired(&anchor.source, size, by));
                self.findings.add(Tampering::ForgedCheckpoint, last, last, text);
                continue;
            }
            let fit = self.frontier.fits(&anchor.checkpoint.root);
            if let Fit::IfHashWasWrong(finding) = fit {
                hash_was_wrong(&mut self.findings, &mut self.suspects, finding);
            }
            match fit {
                Fit::Yes | Fit::IfHashWasWrong(_) => {
                    // The same checkpoint may be stored in several places.
                    let another = self.report.checkpoints == 0 || self.report.vouched_size != size;
                    self.report.checkpoints += u64::from(another);
                    self.report.vouched(size);
                    for abandonment in &mut self.abandoned {
                        abandonment.vouched |=
                            size > abandonment.sequence && abandonment.origin != anchor.checkpoint.origin;
                    }
                }
                Fit::No => {
                    let (anchor, from) = (anchor.clone(), self.report.vouched_size);
                    if self.is_given_up(&anchor) {
                        self.contradict(anchor, Tampering::Rewritten, from);
                        continue;
                    }
                    // A problem below explains it, and one checkpoint that fails explains the next.
                    if !self.anchor_failed && !self.findings.concern(from, size) {
                        let last = size.saturating_sub(1);
                        let text = rewritten(from, last, &anchor.source);
                        self.findings.add(Tampering::Rewritten, from, last, text);
                    }
                    self.anchor_failed = true;
                }
                Fit::Unknown => {
                    let from = self.report.vouched_size;
                    if !self.findings.concern(from, size) {
                        let text = format!(
                            "hashes are missing among those of the entries {from} to {}: the checkpoint in {} can't \
                             be compared",
                            size.saturating_sub(1),
                            anchor.source
                        );
                        self.findings
                            .add(Tampering::HashChanged, from, size.saturating_sub(1), text);
                    }
                }
            }
        }
    }

    /// Handles the checkpoints over more entries than are present.
    pub(super) fn beyond_the_end(&mut self) {
        let size = self.frontier.size();
        self.report.size = size;
        self.report.root = self.frontier.root().map(hex::encode);
        let rest = self.anchors.split_off(self.next_anchor);
        // The last checkpoint that is certain to count covers the most of those that count.
        let counts = rest.iter().rposition(|anchor| !self.is_given_up(anchor));
        for anchor in rest.into_iter().skip(counts.unwrap_or(0)) {
            self.contradict(anchor, Tampering::CutOff, size);
        }
    }

    /// Returns whether an entry so far claims that the checkpoint no longer counts. The claim need not be true.
    fn is_given_up(&self, anchor: &Anchor) -> bool {
        self.abandoned.iter().any(|abandonment| abandonment.voids(anchor))
    }

    /// Returns whether the log that followed has made a valid statement and is trusted, or was given up in turn by
    /// one that is. A checkpoint over the entry is not enough: the server signs over any entry, and under any log
    /// name that the database holds.
    fn followed(&self, abandonment: &Abandonment) -> bool {
        let given_up = |origin: &str| self.abandoned.iter().any(|later| later.origin == origin);
        let retired = |key: &LogKey| self.retired_before(key, abandonment.sequence).is_some();
        let by = abandonment.by.as_ref();
        by.is_some_and(|by| (self.keys.contains(by) || given_up(by.origin())) && !retired(by))
    }

    /// Records a mismatch. Called in ascending order of size: where one checkpoint need not match, the larger
    /// ones of its log need not either.
    fn contradict(&mut self, anchor: Anchor, kind: Tampering, from: u64) {
        let largest = anchor.checkpoint.size;
        let same = |known: &&mut Contradiction| {
            known.kind == kind
                && known.anchor.source == anchor.source
                && known.anchor.checkpoint.origin == anchor.checkpoint.origin
        };
        if let Some(known) = self.contradicted.iter_mut().find(same) {
            known.largest = known.largest.max(largest);
        } else {
            self.contradicted.push(Contradiction {
                anchor,
                kind,
                from,
                largest,
            });
        }
    }

    /// Reports every mismatch as wrong, except checkpoints of a log whose giving up another trusted log has
    /// signed.
    pub(super) fn judge_contradictions(&mut self) {
        // The newest first: trust in the current log extends to the statements of the logs that it replaced.
        for abandonment in std::mem::take(&mut self.abandoned).into_iter().rev() {
            if abandonment.vouched && self.followed(&abandonment) {
                self.note(abandonment.text.clone());
                self.abandoned.push(abandonment);
                continue;
            }
            let Abandonment { origin, sequence, .. } = &abandonment;
            self.note(match &abandonment.by {
                Some(by) => format!(
                    "entry {sequence} says that the log {origin} was given up there, and no checkpoint by a \
                     trusted key of the log that followed vouches for it: it does not count. If it was done on \
                     purpose, ask for the new key, {by}"
                ),
                None => format!(
                    "entry {sequence} says that the log {origin} was given up there, and has no valid statement \
                     of a log that followed: it does not count"
                ),
            });
        }
        self.abandoned.reverse();
        let here = self.frontier.size();
        let mut told = [self.anchor_failed, false];
        for contradiction in std::mem::take(&mut self.contradicted) {
            let Contradiction {
                anchor,
                kind,
                from,
                largest: size,
            } = contradiction;
            if let Some(abandonment) = self.abandoned.iter().find(|one| one.voids(&anchor)) {
                self.report.voided.push(Voided {
                    source: anchor.source,
                    origin: anchor.checkpoint.origin,
                    size,
                    given_up_by: abandonment.sequence,
                });
                continue;
            }
            // One mismatch explains the next.
            let told = &mut told[usize::from(kind == Tampering::CutOff)];
            if std::mem::replace(told, true) {
                continue;
            }
            let (last, source) = (size.saturating_sub(1), anchor.source);
            let text = if kind == Tampering::CutOff {
                self.report.size = size;
                self.report.root = None;
                format!(
                    "the trail is cut off: the checkpoint in {source} is over {size} entries, {here} are here, the \
                     newest {} are gone",
                    size - here
                )
            } else {
                rewritten(from, last, &source)
            };
            self.findings.add(kind, from, last, text);
        }
    }
}

impl Abandonment {
    fn voids(&self, anchor: &Anchor) -> bool {
        anchor.checkpoint.origin == self.origin && anchor.checkpoint.size > self.sequence
    }
}

pub(super) fn rewritten(first: u64, last: u64, source: &str) -> String {
    format!(
        "entries {first} to {last} were rewritten, hashes and all: the checkpoint in {source} says otherwise"
    )
}
