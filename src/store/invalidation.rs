//! Tracks whose standing recent commits may have changed, so that cached reads of all other users stay valid.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::account::UserId;

/// Number of commits whose users are remembered; a reader that is further behind must read again.
const REMEMBERED: usize = 256;

/// The users whose standing (account, role, organisation, sessions) a change may alter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Any user's.
    Everybody,
    /// Only these users'.
    Users(Vec<UserId>),
}

impl Touched {
    /// No user's.
    pub const NOBODY: Self = Self::Users(Vec::new());

    /// Adds the users of `others`.
    pub(super) fn and(&mut self, others: &Self) {
        match (self, others) {
            (Self::Users(users), Self::Users(others)) => users.extend(others),
            (everybody, _) => *everybody = Self::Everybody,
        }
    }
}

/// Counts commits, and remembers which users the latest ones touched.
#[derive(Debug, Default)]
pub(super) struct Commits {
    count: AtomicU64,
    latest: Mutex<VecDeque<Touched>>,
}

impl Commits {
    pub(super) fn generation(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Counts a commit. The writer calls it before it answers the commit's callers.
    pub(super) fn note(&self, touched: Touched) {
        let mut latest = self.latest();
        if latest.len() == REMEMBERED {
            latest.pop_front();
        }
        latest.push_back(touched);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Returns the current generation and the users that the commits after `generation` touched.
    pub(super) fn since(&self, generation: u64) -> (u64, Touched) {
        let latest = self.latest();
        let now = self.generation();
        let missed = usize::try_from(now - generation).unwrap_or(usize::MAX);
        let Some(first) = latest.len().checked_sub(missed) else {
            return (now, Touched::Everybody);
        };
        let mut all = Touched::NOBODY;
        latest.iter().skip(first).for_each(|touched| all.and(touched));
        (now, all)
    }

    fn latest(&self) -> MutexGuard<'_, VecDeque<Touched>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn users(ids: &[u128]) -> Touched {
        Touched::Users(ids.iter().map(|id| UserId(Uuid::from_u128(*id))).collect())
    }

    #[test]
    fn who_was_touched_since_is_known_as_far_back_as_is_remembered() {
        let commits = Commits::default();
        assert_eq!(commits.since(0), (0, Touched::NOBODY));
        commits.note(users(&[1]));
        commits.note(users(&[2, 3]));
        assert_eq!(commits.since(0), (2, users(&[1, 2, 3])));
        assert_eq!(commits.since(1), (2, users(&[2, 3])));
        commits.note(Touched::Everybody);
        commits.note(users(&[4]));
        assert_eq!(commits.since(1), (4, Touched::Everybody));
        assert_eq!(commits.since(3), (4, users(&[4])));
        (0..REMEMBERED).for_each(|_| commits.note(Touched::NOBODY));
        assert_eq!(commits.since(4), (260, Touched::NOBODY));
        assert_eq!(commits.since(3), (260, Touched::Everybody), "not remembered");
    }
}
