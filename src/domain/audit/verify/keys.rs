//! Which keys count: those that were given, and those that they vouch for on the way. And what a key that was
//! retired has still to say: nothing after its last word.

use super::super::checkpoint::{Checkpoint, CheckpointError, LogKey, LogKeys};
use super::super::frontier::Fit;
use super::super::key_change::KeyChange;
use super::super::report::{Anchor, FINDINGS_LISTED, Tampering};
use super::Verifier;

/// Checkpoints that may wait for their key; an installation keeps some thousands.
const WAITING: usize = 1 << 16;

/// A change of keys that an entry records.
#[derive(Debug)]
pub(super) struct Changed {
    sequence: u64,
    from: LogKey,
    /// The key before has signed it.
    vouched: bool,
}

/// A checkpoint of a log that is trusted, by a key that is not, or not yet.
#[derive(Debug)]
pub(super) struct Waiting {
    note: String,
    told: Checkpoint,
    source: String,
    /// How it fits, where that could be seen when it came.
    fit: Option<Fit>,
    /// That no key counts that has signed it, is a finding; else only worth knowing.
    must_count: bool,
}

impl Verifier {
    /// Trusts these keys.
    pub fn trust(&mut self, keys: &LogKeys) {
        for key in keys.iter() {
            self.keys.add(key.clone());
        }
    }

    /// Trusts the keys that what is checked names itself, for want of others.
    pub fn trust_own(&mut self, keys: &LogKeys) {
        self.report.trusted_own_keys = true;
        self.trust(keys);
    }

    /// The keys that are trusted so far.
    #[must_use]
    pub fn keys(&self) -> &LogKeys {
        &self.keys
    }

    /// A checkpoint that somebody says is of this log. Where no key counts that has signed it, it waits: an
    /// entry may vouch for its key, or show that it was the key before.
    ///
    /// # Errors
    /// [`CheckpointError`] when it can't count, whatever comes.
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

    /// An entry that says that the key was changed.
    pub(super) fn key_changed(&mut self, sequence: u64, change: KeyChange) {
        if self.changed.len() == FINDINGS_LISTED {
            let text = "the key was changed more often than can be checked".to_owned();
            self.findings.add(Tampering::Unreadable, sequence, sequence, text);
            return;
        }
        let vouched = match change.is_vouched_for(sequence) {
            Some(Ok(())) => true,
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

    /// The entry by which the key of a checkpoint was retired, where it is over more than that.
    pub(super) fn retired_by(&self, checkpoint: &Checkpoint) -> Option<u64> {
        // Its last word is over the entry itself.
        self.retired_before(checkpoint.key.as_ref()?, checkpoint.size.saturating_sub(1))
    }

    /// The entry before `place` by which a key was retired.
    pub(in super::super) fn retired_before(&self, key: &LogKey, place: u64) -> Option<u64> {
        let retired = |change: &&Changed| change.vouched && change.from == *key && change.sequence < place;
        self.changed.iter().find(retired).map(|change| change.sequence)
    }

    /// What waits for its key at the end: that of a key before one that counts is in order, where it fits.
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
            // Who signed over the entry says which key was before; what it signed until then is its own.
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
