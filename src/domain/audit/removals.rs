//! Erased and pruned parts, which must be exactly those that some entry records as erased or pruned.

use std::collections::HashMap;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

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

/// Counts removed parts in the order of their entries, and hashes their identity: SHA-256 over, for each, the
/// sequence (8 bytes, big-endian) and one byte: `p` (pruned), `a` (actor) or `s` (subject).
#[derive(Clone, Debug, Default)]
pub struct Removal {
    first: u64,
    count: u64,
    digest: Sha256,
}

impl Removal {
    /// Adds a removed part.
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

    /// Returns the sequence of the first entry with a removed part.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Returns the number of parts.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the digest over the parts.
    #[must_use]
    pub fn digest(&self) -> Hash32 {
        self.digest.clone().finalize().into()
    }
}

/// The removals that one entry should record, as far as they have been seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// The removed parts.
    pub removal: Removal,
    /// Organisation of the first one; the inner `None` is the node.
    pub organizations: Option<Option<Uuid>>,
    /// Whether they belong to more than one organisation.
    pub mixed: bool,
    /// Latest time of a whole entry before one of the pruned ones, whose own time must be about as late.
    pub latest: Option<Timestamp>,
}

/// Removals by the sequence of the entry that should record them.
#[derive(Debug, Default)]
pub(super) struct Removals(HashMap<u64, Pending>);

impl Removals {
    /// Returns the removals that entry `by` should record.
    pub fn of(&mut self, by: u64) -> &mut Pending {
        self.0.entry(by).or_default()
    }

    /// Returns whether the removals of entry `by` can be tracked with at most `most` such entries.
    pub fn has_room(&self, by: u64, most: usize) -> bool {
        self.0.len() < most || self.0.contains_key(&by)
    }

    pub fn take(&mut self, by: u64) -> Pending {
        self.0.remove(&by).unwrap_or_default()
    }

    pub fn drain(&mut self) -> Vec<(u64, Removal)> {
        let mut removals: Vec<_> = self
            .0
            .drain()
            .map(|(by, pending)| (by, pending.removal))
            .collect();
        removals.sort_by_key(|(by, _)| *by);
        removals
    }
}

impl Pending {
    /// Adds a removed part of an entry of this organisation.
    pub fn add(&mut self, sequence: u64, part: RemovedPart, organization: Option<Uuid>) {
        self.mixed |= *self.organizations.get_or_insert(organization) != organization;
        self.removal.add(sequence, part);
    }
}
