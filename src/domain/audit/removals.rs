//! What was erased or pruned must be exactly what some entry records as erased or pruned.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::leaf::Hash32;

/// A part of an entry that can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedPart {
    /// Everything but the hashes.
    All,
    /// The actor's data.
    Actor,
    /// The subject's data.
    Subject,
}

/// Counts removed parts in the order of their entries, and hashes which they are: SHA-256 over, for
/// each, the sequence (8 bytes, big-endian) and one byte: `p` (pruned), `a` (actor) or `s` (subject).
#[derive(Clone, Debug, Default)]
pub struct Removal {
    first: u64,
    count: u64,
    digest: Sha256,
}

impl Removal {
    /// One more.
    pub fn add(&mut self, sequence: u64, part: RemovedPart) {
        if self.count == 0 {
            self.first = sequence;
        }
        self.count += 1;
        self.digest.update(sequence.to_be_bytes());
        self.digest.update(match part {
            RemovedPart::All => b"p",
            RemovedPart::Actor => b"a",
            RemovedPart::Subject => b"s",
        });
    }

    /// The first entry with a removed part.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many parts.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Which.
    #[must_use]
    pub fn digest(&self) -> Hash32 {
        self.digest.clone().finalize().into()
    }
}

/// Removals by the entry that should record them.
#[derive(Debug, Default)]
pub(super) struct Removals(HashMap<u64, Removal>);

impl Removals {
    pub fn add(&mut self, by: u64, sequence: u64, part: RemovedPart) {
        self.0.entry(by).or_default().add(sequence, part);
    }

    pub fn take(&mut self, by: u64) -> Removal {
        self.0.remove(&by).unwrap_or_default()
    }

    pub fn drain(&mut self) -> Vec<(u64, Removal)> {
        let mut removals: Vec<_> = self.0.drain().collect();
        removals.sort_by_key(|(by, _)| *by);
        removals
    }
}
