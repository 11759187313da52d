//! Where the tree's nodes are kept.
//!
//! Leaf `n` completes `1 + trailing ones of n` nodes: itself, and each full subtree that ends with it.
//! Their hashes stand together beside the entry, lowest first, so that an append writes no page of its
//! own for the tree, reads one node on average, and any proof is O(log n) look-ups of entries.

use super::Hash32;

/// A full subtree: `index` counts those of its level from the left; leaves are level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Height of the subtree.
    pub level: u8,
    /// Which one of its level.
    pub index: u64,
}

impl Node {
    /// The sequence of the entry that keeps the node's hash: the subtree's last leaf.
    #[must_use]
    pub fn kept_by(self) -> u64 {
        ((self.index + 1) << self.level) - 1
    }

    /// The node's hash among those that the entry keeps.
    #[must_use]
    pub fn among(self, hashes: &[u8]) -> Option<Hash32> {
        hashes
            .chunks_exact(32)
            .nth(usize::from(self.level))
            .and_then(|hash| hash.try_into().ok())
    }
}

/// How many nodes entry `sequence` completes, itself among them.
#[must_use]
pub fn completed_by(sequence: u64) -> u32 {
    1 + sequence.trailing_ones()
}

/// The hash of a node over its two halves (RFC 6962 §2.1).
#[must_use]
pub fn parent_hash(left: Hash32, right: Hash32) -> Hash32 {
    tlog_tiles::node_hash(tlog_tiles::Hash(left), tlog_tiles::Hash(right)).0
}
