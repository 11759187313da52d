//! Limits the concurrent evaluations: per organisation, so that one with runaway plugins does not affect
//! another, and for the whole node, so that the instance pool never runs dry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots for evaluations.
pub(super) struct Slots {
    per_organization: usize,
    organizations: Mutex<HashMap<String, Arc<Semaphore>>>,
    node: Arc<Semaphore>,
    wait: Duration,
}

/// A slot of the organisation and one of the node; freed when dropped.
pub(super) struct Slot {
    _node: OwnedSemaphorePermit,
    _organization: OwnedSemaphorePermit,
}

impl Slots {
    pub(super) fn new(per_organization: u32, total: u32, wait: Duration) -> Self {
        Self {
            per_organization: per_organization as usize,
            organizations: Mutex::new(HashMap::new()),
            node: Arc::new(Semaphore::new(total as usize)),
            wait,
        }
    }

    /// Waits for a slot, first come, first served; returns `None` on timeout.
    pub(super) async fn take(&self, organization: &str) -> Option<Slot> {
        let own = self.of(organization);
        // The organisation's own queue comes first, so that a task waiting there holds no slot of the node.
        if let Ok(permit) = Arc::clone(&own).try_acquire_owned()
            && let Ok(node) = Arc::clone(&self.node).try_acquire_owned()
        {
            return Some(Slot {
                _node: node,
                _organization: permit,
            });
        }
        let both = async {
            let organization = own.acquire_owned().await.ok()?;
            let node = Arc::clone(&self.node).acquire_owned().await.ok()?;
            Some(Slot {
                _node: node,
                _organization: organization,
            })
        };
        tokio::time::timeout(self.wait, both).await.ok().flatten()
    }

    fn of(&self, organization: &str) -> Arc<Semaphore> {
        // A panic elsewhere can't leave the map half-changed, so poisoning is harmless.
        let mut organizations = self.organizations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = organizations.get(organization) {
            return Arc::clone(semaphore);
        }
        if organizations.len() >= ORGANIZATIONS_KEPT {
            // Drop the semaphores that are not in use.
            organizations.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        let semaphore = Arc::new(Semaphore::new(self.per_organization));
        organizations.insert(organization.to_owned(), Arc::clone(&semaphore));
        semaphore
    }
}

const ORGANIZATIONS_KEPT: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_organisation_cannot_take_anothers_slots() {
        let slots = Slots::new(2, 8, Duration::from_millis(20));
        let _one = slots.take("a").await.expect("free");
        let two = slots.take("a").await.expect("free");
        assert!(slots.take("a").await.is_none(), "a third at once");
        assert!(slots.take("b").await.is_some(), "another organisation");
        drop(two);
        assert!(slots.take("a").await.is_some(), "freed");
    }

    #[tokio::test]
    async fn the_node_has_a_bound_and_waiting_ends_when_a_slot_comes_free() {
        let slots = Arc::new(Slots::new(2, 2, Duration::from_secs(5)));
        let one = slots.take("a").await.expect("free");
        let _two = slots.take("b").await.expect("free");
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take("c").await.is_some() }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        drop(one);
        assert!(waiting.await.expect("no panic"));
    }

    #[tokio::test]
    async fn the_table_of_organisations_stays_bounded() {
        let slots = Slots::new(1, 8, Duration::from_millis(5));
        let held = slots.take("held").await.expect("free");
        for n in 0..2 * ORGANIZATIONS_KEPT {
            drop(slots.take(&n.to_string()).await.expect("free"));
        }
        assert!(slots.organizations.lock().expect("no panic").len() <= ORGANIZATIONS_KEPT);
        assert!(slots.take("held").await.is_none(), "a held slot is not forgotten");
        drop(held);
    }
}
