//! The memory that all calls together may use.
//!
//! A quarter is divided evenly: each call is guaranteed its share whatever the others take, so small policies
//! are never affected. Another quarter is for calls that no reset waits for, so that they take nothing that a reset
//! needs. The half that is left is for resets: it goes to those who ask first, but an organisation may hold only as
//! much of it as it leaves free. So alone it gets half of that, two get a third each, and a newcomer always finds
//! some.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Linear memory budget of all calls of the node.
pub(in crate::plugin_host) struct MemoryBudget {
    total: u64,
    /// Guaranteed bytes of each call.
    each: u64,
    resets: Mutex<Shared>,
    aside: Mutex<Shared>,
}

/// For whom a call's memory is taken.
#[derive(Clone, Copy, Debug)]
pub(in crate::plugin_host) enum Party<'a> {
    /// The organisation, by id, whose reset waits for the call.
    Organization(&'a str),
    /// Nobody's reset.
    Aside,
}

/// What goes to those who ask first.
struct Shared {
    /// Bytes still free.
    left: u64,
    /// Bytes that each organisation holds.
    held: HashMap<String, u64>,
}

impl MemoryBudget {
    pub(in crate::plugin_host) fn new(total: u64, concurrent_calls: u32) -> Self {
        let calls = u64::from(concurrent_calls.max(1));
        let each = total / 4 / calls;
        let aside = total / 4;
        Self {
            total,
            each,
            resets: Mutex::new(Shared::of(total - each * calls - aside)),
            aside: Mutex::new(Shared::of(aside)),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn beyond_each(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.each)
    }

    fn shared(&self, organization: Option<&str>) -> MutexGuard<'_, Shared> {
        let shared = organization.map_or(&self.aside, |_| &self.resets);
        // Nothing that can panic runs while it is locked.
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn of(left: u64) -> Self {
        Self {
            left,
            held: HashMap::new(),
        }
    }

    fn take(&mut self, organization: Option<&str>, more: u64) -> bool {
        let Some(left) = self.left.checked_sub(more) else {
            return false;
        };
        if let Some(organization) = organization {
            let held = self.held.get(organization).copied().unwrap_or_default() + more;
            if held > left {
                return false;
            }
            self.held.insert(organization.to_owned(), held);
        }
        self.left = left;
        true
    }

    fn give_back(&mut self, organization: Option<&str>, bytes: u64) {
        self.left += bytes;
        if let Some(organization) = organization
            && let Some(held) = self.held.get_mut(organization)
        {
            *held -= bytes;
            if *held == 0 {
                self.held.remove(organization);
            }
        }
    }
}

/// The memory of one call; returned to the budget when dropped.
pub(super) struct Memory {
    budget: Arc<MemoryBudget>,
    /// The organisation whose reset waits for the call.
    organization: Option<String>,
    bytes: u64,
}

impl Memory {
    pub(super) fn none_of(budget: Arc<MemoryBudget>, party: Party<'_>) -> Self {
        Self {
            budget,
            organization: match party {
                Party::Organization(id) => Some(id.to_owned()),
                Party::Aside => None,
            },
            bytes: 0,
        }
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
        let organization = self.organization.as_deref();
        let taken = more == 0 || self.budget.shared(organization).take(organization, more);
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
            let organization = self.organization.as_deref();
            self.budget.shared(organization).give_back(organization, taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 for each of ten calls, 100 for those aside, 200 for those of resets.
    fn budget() -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(400, 10))
    }

    fn left(budget: &MemoryBudget) -> (u64, u64) {
        (budget.shared(Some("a")).left, budget.shared(None).left)
    }

    #[test]
    fn each_call_has_its_share_and_the_rest_goes_to_who_asks_first() {
        let budget = budget();
        let call = |organization| Memory::none_of(Arc::clone(&budget), Party::Organization(organization));
        let (mut one, mut two, mut three) = (call("a"), call("b"), call("c"));
        assert!(one.grow(4) && one.grow(110), "half of what is shared");
        assert!(two.grow(40) && !two.grow(100), "90 would leave only 10");
        assert_eq!(two.bytes(), 40, "it has what it had");
        assert!(two.grow(60) && !two.grow(61));
        assert!(three.grow(35) && !three.grow(36));
        let mut four = call("a");
        assert!(four.grow(10), "its own share");
        assert!(!four.grow(11), "its organisation holds more than is left");
        drop(one);
        assert!(four.grow(72) && !four.grow(73));
        drop((two, three, four));
        assert_eq!(left(&budget), (200, 100), "whole again");
        assert!(budget.shared(Some("a")).held.is_empty());
    }

    #[test]
    fn what_no_reset_waits_for_takes_nothing_that_one_needs() {
        let budget = budget();
        let mut aside = Memory::none_of(Arc::clone(&budget), Party::Aside);
        assert!(aside.grow(110) && !aside.grow(111), "all that is for those aside");
        assert_eq!(left(&budget), (200, 0));
        let mut next = Memory::none_of(Arc::clone(&budget), Party::Aside);
        assert!(next.grow(10) && !next.grow(11));
        drop((aside, next));
        assert_eq!(left(&budget), (200, 100));
    }
}
