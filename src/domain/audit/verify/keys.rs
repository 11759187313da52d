//! Which keys are trusted: the given ones and those that they vouch for on the way. And what a retired key can
//! still vouch for: nothing after the entry that retired it.

use super::super::checkpoint::{Checkpoint, CheckpointError, LogKey, LogKeys};
use super::super::frontier::Fit;
use super::super::key_change::KeyChange;
use super::super::report::{Anchor, FINDINGS_LISTED, Tampering};
use super::Verifier;

/// Maximum checkpoints that may wait for their key; an installation has some thousands.
const WAITING: usize = 1 << 16;

/// A change of keys that an entry records.
#[derive(Debug)]
pub(super) struct Changed {
    sequence: u64,
    from: LogKey,
    /// Whether the previous key signed it.
    vouched: bool,
}

/// A checkpoint of a trusted log, signed with a key that is not trusted, or not yet.
#[derive(Debug)]
pub(super) struct Waiting {
    note: String,
    told: Checkpoint,
    source: String,
    /// How it matched, if that could be determined on arrival.
    fit: Option<Fit>,
    /// Whether it is a finding if no trusted key signed it; otherwise it is only a remark.
    must_count: bool,
}

impl Verifier {
    /// Trusts these keys.
    pub fn trust(&mut self, keys: &LogKeys) {
        for key in keys.iter() {
            self.keys.add(key.clone());
        }
    }

    /// Trusts the keys named in the checked data itself, for lack of others.
    pub fn trust_own(&mut self, keys: &LogKeys) {
        self.report.trusted_own_keys = true;
        self.trust(keys);
    }

    /// Returns the keys trusted so far.
    #[must_use]
    pub fn keys(&self) -> &LogKeys {
        &self.keys
    }

    /// Offers a checkpoint that is claimed to be of this log. If no trusted key signed it, it waits: an entry may
    /// vouch for its key, or show that it was the previous key.
    ///
    /// # Errors
    /// [`CheckpointError`] if it can't count, whatever follows.
    pub fn offer(&mut self, note: &str, source: &str, must_count: bool) -> Result<(), CheckpointError> {
        let error = match self.keys.open(note) {
            Ok(checkpoint) => {
                self.anchor(Anchor {
                    checkpoint,
                    source: source.to_owned(),
                });
                return Ok(());
            }
            Err(error) => error,
        };
        let told = super::super::checkpoint::unchecked(note)
            .filter(|told| self.keys.iter().any(|key| key.origin() == told.origin));
        match told {
            Some(told) if error == CheckpointError::UnknownKey && self.waiting.len() < WAITING => {
                let fit = (told.size == self.frontier.size()).then(|| self.frontier.fits(&told.root));
                self.waiting.push(Waiting {
                    note: note.to_owned(),
                    told,
                    source: source.to_owned(),
                    fit,
                    must_count,
                });
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Handles an entry that records a change of the key.
    pub(super) fn key_changed(&mut self, sequence: u64, change: KeyChange) {
        if self.changed.len() == FINDINGS_LISTED {
            let text = "the key was changed more often than can be checked".to_owned();
            self.findings.add(Tampering::Unreadable, sequence, sequence, text);
            return;
        }
        let vouched = match change.is_vouched_for(sequence) {
            Some(Ok(())) => {
                let by = self.retired_before(&change.from, sequence);
                if let Some(by) = by {
                    let text = format!(
                        "entry {sequence} says that a key vouches for another one, and it does not count: entry {by} \
                         retired the key"
                    );
                    self.findings
                        .add(Tampering::ForgedCheckpoint, sequence, sequence, text);
                }
                by.is_none()
            }
            Some(Err(error)) => {
                let text = format!(
                    "entry {sequence} says that the key before vouches for another one, and what it shows does not \
                     count: {error}"
                );
                self.findings
                    .add(Tampering::ForgedCheckpoint, sequence, sequence, text);
                false
            }
            None => {
                self.note(format!(
                    "entry {sequence} says that the log is signed with another key from there on, and the key before \
                     does not vouch for it: who trusts the one need not trust the other"
                ));
                false
            }
        };
        let KeyChange { from, to, .. } = change;
        if vouched && self.keys.contains(&from) && !self.keys.contains(&to) {
            self.note(format!(
                "from entry {sequence} on another key signs, which the key before vouches for; keep it: {to}"
            ));
            self.keys.add(to);
            for waiting in std::mem::take(&mut self.waiting) {
                match self.keys.open(&waiting.note) {
                    Ok(checkpoint) => self.anchor(Anchor {
                        checkpoint,
                        source: waiting.source,
                    }),
                    Err(_) => self.waiting.push(waiting),
                }
            }
        }
        self.changed.push(Changed {
            sequence,
            from,
            vouched,
        });
    }

    /// Returns the entry that retired the key of a checkpoint, if the checkpoint covers more than that entry.
    pub(super) fn retired_by(&self, checkpoint: &Checkpoint) -> Option<u64> {
        // The key's last checkpoint covers the entry itself.
        self.retired_before(checkpoint.key.as_ref()?, checkpoint.size.saturating_sub(1))
    }

    /// Returns the entry before `place` that retired the key.
    pub(in super::super) fn retired_before(&self, key: &LogKey, place: u64) -> Option<u64> {
        let retired = |change: &&Changed| change.vouched && change.from == *key && change.sequence < place;
        self.changed.iter().find(retired).map(|change| change.sequence)
    }

    /// Settles the checkpoints still waiting at the end: one by the predecessor of a trusted key is in order if
    /// it matches.
    pub(super) fn settle_waiting(&mut self) {
        let signed = self.report.vouched_size;
        for waiting in std::mem::take(&mut self.waiting) {
            let Waiting {
                note,
                told,
                source,
                fit,
                must_count,
            } = waiting;
            // A trusted signature over that entry confirms which key was the previous one; what that key signed
            // up to there is genuine.
            let of = |change: &&Changed| {
                change.sequence < signed && LogKeys::new(vec![change.from.clone()]).open(&note).is_ok()
            };
            let before = self.changed.iter().find(of).map(|change| change.sequence);
            let (size, last) = (told.size, told.size.saturating_sub(1));
            match before {
                Some(by) if size <= by + 1 => {
                    if fit == Some(Fit::No) && !self.findings.concern(0, size) {
                        let text = super::anchors::rewritten(0, last, &source);
                        self.findings.add(Tampering::Rewritten, 0, last, text);
                    }
                }
                Some(by) => {
                    let text = retired(&source, size, by);
                    self.findings.add(Tampering::ForgedCheckpoint, last, last, text);
                }
                None => {
                    let text = format!(
                        "the checkpoint in {source} over {size} entries does not count: no trusted key has signed it, \
                         and none vouches here for the key that has"
                    );
                    if must_count {
                        self.findings.add(Tampering::ForgedCheckpoint, last, last, text);
                    } else {
                        self.note(text);
                    }
                }
            }
        }
    }
}

pub(super) fn retired(source: &str, size: u64, by: u64) -> String {
    format!(
        "the checkpoint in {source} over {size} entries does not count: entry {by} retired the key that has signed it"
    )
}
