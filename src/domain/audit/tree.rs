//! Where the tree's nodes are stored.
//!
//! Leaf `n` completes `1 + trailing ones of n` nodes: itself, and each full subtree that ends with it. Their
//! hashes are stored together beside the entry, lowest first, so that an append writes no page of its own for the
//! tree and reads one node on average, and any proof takes O(log n) look-ups of entries.

use super::Hash32;

/// A full subtree. Leaves are level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Height of the subtree.
    pub level: u8,
    /// Position among the subtrees of its level, from the left.
    pub index: u64,
}

impl Node {
    /// Returns the sequence of the entry that stores the node's hash: the subtree's last leaf.
    #[must_use]
    pub fn kept_by(self) -> u64 {
        ((self.index + 1) << self.level) - 1
    }

    /// Returns the node's hash from those that the entry stores.
    #[must_use]
    pub fn among(self, hashes: &[u8]) -> Option<Hash32> {
        hashes
            .chunks_exact(32)
            .nth(usize::from(self.level))
            .and_then(|hash| hash.try_into().ok())
    }
}

/// Returns the number of nodes that entry `sequence` completes, itself included.
#[must_use]
pub fn completed_by(sequence: u64) -> u32 {
    1 + sequence.trailing_ones()
}

/// Returns the hash of a node over its two halves (RFC 6962 §2.1).
#[must_use]
pub fn parent_hash(left: Hash32, right: Hash32) -> Hash32 {
    tlog_tiles::node_hash(tlog_tiles::Hash(left), tlog_tiles::Hash(right)).0
}

/// Returns the levels of the full subtrees that cover `first..end`, from left to right.
pub fn subtrees(first: u64, end: u64) -> impl Iterator<Item = u8> {
    let mut at = first;
    std::iter::from_fn(move || {
        let rest = end.checked_sub(at).filter(|rest| *rest > 0)?;
        let aligned = if at == 0 { 63 } else { at.trailing_zeros() };
        let level = aligned.min(rest.ilog2()).min(62);
        at += 1 << level;
        Some(u8::try_from(level).expect("a level is below 64"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtrees_cover_a_range_without_overlap() {
        for first in 0..40_u64 {
            for end in first..40 {
                let mut at = first;
                for level in subtrees(first, end) {
                    assert_eq!(at % (1 << level), 0, "{first}..{end}");
                    at += 1 << level;
                }
                assert_eq!(at, end);
            }
        }
    }
}
