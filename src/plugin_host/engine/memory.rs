//! The memory that all calls together may use.
//!
//! A quarter is divided evenly: each call is guaranteed its share whatever the others take, so small policies
//! are never affected. The rest is given out first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Linear memory budget of all calls of the node.
pub(in crate::plugin_host) struct MemoryBudget {
    total: u64,
    /// Guaranteed bytes of each call.
    each: u64,
    /// Bytes still free in the shared part.
    left: AtomicU64,
}

impl MemoryBudget {
    pub(in crate::plugin_host) fn new(total: u64, concurrent_calls: u32) -> Self {
        let calls = u64::from(concurrent_calls.max(1));
        let each = total / 4 / calls;
        Self {
            total,
            each,
            left: AtomicU64::new(total - each * calls),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn beyond_each(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.each)
    }
}

/// The memory of one call; returned to the budget when dropped.
pub(super) struct Memory {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Memory {
    pub(super) fn none_of(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Grows to `after` bytes; returns false if the other calls have left too little.
    pub(super) fn grow(&mut self, after: u64) -> bool {
        let more = self.budget.beyond_each(after) - self.budget.beyond_each(self.bytes);
        let taken = more == 0
            || self
                .budget
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(more)
                })
                .is_ok();
        if taken {
            self.bytes = after;
        }
        taken
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let taken = self.budget.beyond_each(self.bytes);
        if taken > 0 {
            self.budget.left.fetch_add(taken, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_share_and_the_rest_goes_to_who_asks_first() {
        let budget = Arc::new(MemoryBudget::new(400, 10)); // 10 each, 300 for all
        let call = || Memory::none_of(Arc::clone(&budget));
        let (mut one, mut two, mut three) = (call(), call(), call());
        assert!(one.grow(4) && one.grow(200) && two.grow(100));
        assert!(!two.grow(200), "190 and 190 are more than 300");
        assert_eq!(two.bytes(), 100, "it has what it had");
        assert!(two.grow(120) && !two.grow(121));
        assert!(three.grow(10), "its own share");
        assert!(!three.grow(11));
        drop(one);
        assert!(two.grow(200));
        drop((two, three));
        assert_eq!(budget.left.load(Ordering::Relaxed), 300, "whole again");
    }
}
