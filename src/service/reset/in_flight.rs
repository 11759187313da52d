//! Resets in progress. Counts in a question include them, so that a budget cannot be overrun by concurrent
//! requests: each one sees those that entered before it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::domain::account::UserId;
use crate::domain::policy::History;
use crate::service::mandate::Mandate;

/// Counts resets in progress by actor, target and organisation. Memory is bounded by the requests being served.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<HashMap<Key, u32>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Actor(Uuid),
    Target(Uuid),
    Organization(Uuid),
}

/// A reset in progress; it is uncounted on drop, however it ended.
#[derive(Debug)]
pub struct UnderWay<'a> {
    in_flight: &'a InFlight,
    keys: [Key; 3],
}

impl InFlight {
    /// Counts a reset as in progress until the value is dropped.
    pub fn enter(&self, mandate: &Mandate, target: UserId) -> UnderWay<'_> {
        let keys = [
            Key::Actor(mandate.actor.0),
            Key::Target(target.0),
            Key::Organization(mandate.organization.0),
        ];
        let mut counts = self.counts();
        for key in keys {
            *counts.entry(key).or_default() += 1;
        }
        drop(counts);
        UnderWay {
            in_flight: self,
            keys,
        }
    }

    /// Returns the counts of other resets in progress. Read this before the store: a reset that commits in
    /// between is then counted twice, never missed.
    pub fn others(&self, mandate: &Mandate, target: UserId) -> Others {
        let counts = self.counts();
        let others = |key| counts.get(&key).map_or(0, |n| n.saturating_sub(1));
        Others {
            of_target: others(Key::Target(target.0)),
            by_actor: others(Key::Actor(mandate.actor.0)),
            in_organization: others(Key::Organization(mandate.organization.0)),
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Key, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts of other resets in progress.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    of_target: u32,
    by_actor: u32,
    in_organization: u32,
}

impl Others {
    /// Adds them to the counts from the store.
    pub fn add_to(self, history: &mut History) {
        history.target_resets_last_day += self.of_target;
        history.target_resets_last_30_days += self.of_target;
        history.actor_resets_last_hour += self.by_actor;
        history.actor_resets_last_day += self.by_actor;
        history.organization_resets_last_hour += self.in_organization;
        history.organization_resets_last_day += self.in_organization;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut counts = self.in_flight.counts();
        for key in self.keys {
            if let Some(count) = counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&key);
                }
            }
        }
    }
}
