//! Turns for replays, so that an organisation that replays without end does not keep others from replaying.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::account::OrganizationId;

/// One turn for each organisation, and one for the operator (`None`).
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Option<OrganizationId>, Arc<Semaphore>>>);

/// A turn; it ends when dropped.
pub(super) type Turn = OwnedSemaphorePermit;

impl Turns {
    /// Takes the turn, unless it is taken.
    pub(super) fn take_now(&self, whose: Option<OrganizationId>) -> Option<Turn> {
        self.of(whose).try_acquire_owned().ok()
    }

    /// Takes the turn once it is free.
    pub(super) async fn take(&self, whose: Option<OrganizationId>) -> Turn {
        let turn = self.of(whose).acquire_owned().await;
        turn.expect("the semaphore is never closed")
    }

    fn of(&self, whose: Option<OrganizationId>) -> Arc<Semaphore> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A holder of a turn, and a task waiting for one, also hold a reference.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(whose).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn each_organisation_has_one_and_a_turn_comes_back() {
        let turns = Turns::default();
        let [one, other] = [1, 2].map(|n| Some(OrganizationId(Uuid::from_u128(n))));
        let taken = turns.take_now(one).expect("it is free");
        assert!(turns.take_now(one).is_none());
        assert!(turns.take_now(other).is_some() && turns.take_now(None).is_some());
        let waits = turns.take(one);
        tokio::pin!(waits);
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(taken);
        let next = waits.await;
        assert!(turns.take_now(one).is_none());
        drop(next);
        assert!(turns.take_now(one).is_some());
        drop(turns.take_now(None));
        let kept = turns.0.lock().expect("no panic").len();
        assert!(kept <= 1, "what nobody holds is forgotten");
    }
}
