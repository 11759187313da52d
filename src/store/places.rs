//! A fair quota: places in the writer's queue, or of readers who follow the trail, shared so that no organisation
//! can take them all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::turns::Party;
use crate::domain::account::OrganizationId;

/// A limited number of places. An organisation may hold at most as many as are left free: alone it gets half of
/// them, two get a third each, and a newcomer always finds some. The node itself may take all.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<OrganizationId, usize>,
}

impl Places {
    /// Returns so many places, all free.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
        }
    }

    /// Takes a place; returns false if there is none for that party.
    pub fn take(&self, party: Party) -> bool {
        let mut taken = self.taken();
        let free = self.limit - taken.all;
        let theirs = party.and_then(|organization| taken.of.get(&organization).copied());
        if free == 0 || theirs.is_some_and(|theirs| theirs >= free) {
            return false;
        }
        taken.all += 1;
        if let Some(organization) = party {
            *taken.of.entry(organization).or_default() += 1;
        }
        true
    }

    /// Gives back one place for each of `parties`.
    pub fn give_back(&self, parties: impl Iterator<Item = Party>) {
        let mut taken = self.taken();
        for party in parties {
            taken.all -= 1;
            let Some(organization) = party else { continue };
            let theirs = taken.of.entry(organization).or_default();
            *theirs -= 1;
            if *theirs == 0 {
                taken.of.remove(&organization);
            }
        }
    }

    /// Number of places taken.
    #[must_use]
    pub fn taken_count(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: Party = Some(OrganizationId(Uuid::from_u128(1)));
    const B: Party = Some(OrganizationId(Uuid::from_u128(2)));
    const C: Party = Some(OrganizationId(Uuid::from_u128(3)));
    const D: Party = Some(OrganizationId(Uuid::from_u128(4)));

    fn takes(places: &Places, party: Party) -> usize {
        (0..100).take_while(|_| places.take(party)).count()
    }

    #[test]
    fn whoever_comes_next_finds_a_place_and_the_node_gets_the_last() {
        let places = Places::new(16);
        assert_eq!(takes(&places, A), 8, "alone: half");
        assert_eq!(takes(&places, B), 4);
        assert_eq!(takes(&places, C), 2);
        assert_eq!(takes(&places, A), 0, "has more than is free");
        assert_eq!(takes(&places, None), 2);
        assert_eq!(takes(&places, D), 0);
        places.give_back([A, A, None].into_iter());
        assert_eq!(takes(&places, D), 2);
        assert_eq!(places.taken_count(), 15);
    }

    #[test]
    fn one_place_is_somebodys_and_what_is_given_back_leaves_no_trace() {
        let places = Places::new(1);
        assert_eq!(takes(&places, A), 1);
        assert_eq!(takes(&places, None), 0);
        places.give_back([A].into_iter());
        assert!(places.taken().of.is_empty());
        assert_eq!(takes(&places, B), 1);
    }
}
