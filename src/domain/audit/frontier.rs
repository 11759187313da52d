//! The tree grown leaf by leaf in O(log n) memory, and compared with the stored hashes.
//!
//! Where the computed and the stored hash differ, the stored one is carried on and the computed one remembered as
//! its alternative: the next hash above, ultimately the signed root, shows which of the two was right, and so
//! whether an entry or a hash was tampered with.

use super::leaf::Hash32;
use super::tree::{parent_hash, subtrees};

/// The full subtrees from left to right, each at most once per level.
#[derive(Clone, Debug, Default)]
pub(super) struct Frontier {
    peaks: Vec<Peak>,
    size: u64,
}

/// A full subtree at the right edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peak {
    pub level: u8,
    /// `None` below a hole that nothing vouches for.
    pub hash: Option<Hash32>,
    /// The hash that it would be if the stored one was wrong.
    pub alternative: Option<Hash32>,
    /// Index of the finding that the difference caused.
    pub suspicion: Option<usize>,
}

/// The result of merging two subtrees whose hashes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Stored and computed hash differ, first seen here: one of these leaves or the hash was changed.
    New { first: u64, last: u64 },
    /// The stored hash behind that finding was wrong; what it covers is intact.
    HashWasWrong(usize),
}

/// How a signed root matches the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is the root.
    Yes,
    /// It is the root if the stored hash behind that finding was wrong.
    IfHashWasWrong(usize),
    /// It is not the root.
    No,
    /// Unknown, since the tree has a hole.
    Unknown,
}

impl Frontier {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Grows by one leaf. `kept` holds the stored hashes of the subtrees that it completes, lowest first; empty
    /// if none were stored. `doubt` receives each difference and returns the index of its finding.
    pub fn grow(&mut self, leaf: Peak, kept: &[u8], mut doubt: impl FnMut(Doubt) -> usize) {
        self.size += 1;
        let last = self.size - 1;
        let mut right = leaf;
        let mut kept = kept.chunks_exact(32);
        while let Some(left) = self.peaks.pop_if(|peak| peak.level == right.level) {
            let hash = kept.next().and_then(|hash| hash.try_into().ok());
            right = merge(left, right, hash, last, &mut doubt);
        }
        self.peaks.push(right);
    }

    /// Grows by a subtree whose leaves are not examined.
    pub fn grow_by_subtree(&mut self, level: u8, hash: Option<Hash32>) {
        self.size += 1 << level;
        let last = self.size - 1;
        let mut right = Peak {
            level,
            hash,
            alternative: None,
            suspicion: None,
        };
        while let Some(left) = self.peaks.pop_if(|peak| peak.level == right.level) {
            right = merge(left, right, None, last, &mut |_| 0);
        }
        self.peaks.push(right);
    }

    /// Grows to `size` by unknown leaves.
    pub fn leave_hole(&mut self, size: u64) {
        for level in subtrees(self.size, size) {
            self.grow_by_subtree(level, None);
        }
    }

    /// Returns the root over the carried hashes (RFC 6962 §2.1); `None` if there is a hole.
    pub fn root(&self) -> Option<Hash32> {
        self.root_with(None)
    }

    /// Compares `root` with the tree's root.
    pub fn fits(&self, root: &Hash32) -> Fit {
        match self.root() {
            None => Fit::Unknown,
            Some(own) if own == *root => Fit::Yes,
            Some(_) => self
                .peaks
                .iter()
                .enumerate()
                .find(|(at, peak)| {
                    peak.alternative.is_some() && self.root_with(Some(*at)).as_ref() == Some(root)
                })
                .and_then(|(_, peak)| peak.suspicion)
                .map_or(Fit::No, Fit::IfHashWasWrong),
        }
    }

    fn root_with(&self, alternative_at: Option<usize>) -> Option<Hash32> {
        let mut root: Option<Hash32> = None;
        for (at, peak) in self.peaks.iter().enumerate().rev() {
            let hash = if alternative_at == Some(at) {
                peak.alternative?
            } else {
                peak.hash?
            };
            root = Some(root.map_or(hash, |right| parent_hash(hash, right)));
        }
        root.or(Some(tlog_tiles::EMPTY_HASH.0))
    }
}

fn merge(
    left: Peak,
    right: Peak,
    kept: Option<Hash32>,
    last: u64,
    doubt: &mut impl FnMut(Doubt) -> usize,
) -> Peak {
    let level = left.level + 1;
    let computed = left.hash.zip(right.hash).map(|(l, r)| parent_hash(l, r));
    let mut peak = Peak {
        level,
        hash: kept.or(computed),
        alternative: None,
        suspicion: None,
    };
    let (Some(kept), Some(computed)) = (kept, computed) else {
        return peak;
    };
    if kept == computed {
        return peak;
    }
    // Does the difference disappear if a stored hash below was wrong?
    for (l, r) in [
        (left.alternative, right.hash),
        (left.hash, right.alternative),
        (left.alternative, right.alternative),
    ] {
        if l.zip(r).is_some_and(|(l, r)| parent_hash(l, r) == kept) {
            for (wrong, of) in [(l != left.hash, left), (r != right.hash, right)] {
                if let (true, Some(finding)) = (wrong, of.suspicion) {
                    doubt(Doubt::HashWasWrong(finding));
                }
            }
            return peak;
        }
    }
    peak.alternative = Some(computed);
    // A difference above is explained by one already known below.
    peak.suspicion = Some(left.suspicion.or(right.suspicion).unwrap_or_else(|| {
        doubt(Doubt::New {
            first: last + 1 - (1 << level),
            last,
        })
    }));
    peak
}
