//! A fair semaphore: permits rotate among waiting organisations, so that a caller waits only behind its own
//! organisation's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::account::OrganizationId;

/// The party on whose behalf a permit is taken; `None` is the node itself.
pub type Party = Option<OrganizationId>;

/// The semaphore. Cheap to clone; clones share the permits.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: HashMap<Party, VecDeque<oneshot::Sender<Turn>>>,
    /// Each waiting party once, in the order of their next turns.
    round: VecDeque<Party>,
}

/// A permit, released when dropped.
#[derive(Debug)]
pub struct Turn(Option<Turns>);

impl Turns {
    /// Returns a semaphore with `count` permits.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: count,
            waiting: HashMap::new(),
            round: VecDeque::new(),
        })))
    }

    /// Waits for a permit; waiting parties take turns. Drop the future to stop waiting.
    pub async fn take(&self, party: Party) -> Turn {
        let turn = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Turn(Some(self.clone()));
            }
            let (give, turn) = oneshot::channel();
            let State { waiting, round, .. } = &mut *state;
            let queue = waiting.entry(party).or_insert_with(|| {
                round.push_back(party);
                VecDeque::new()
            });
            queue.push_back(give);
            turn
        };
        turn.await.expect("a sender is kept until it has given the turn")
    }

    fn give_back(&self) {
        let mut state = self.state();
        while let Some(party) = state.round.pop_front() {
            let State { waiting, round, .. } = &mut *state;
            let Some(queue) = waiting.get_mut(&party) else {
                continue;
            };
            let next = queue.pop_front();
            if queue.is_empty() {
                waiting.remove(&party);
            } else {
                round.push_back(party);
            }
            let Some(next) = next else { continue };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // The waiter has gone. Disarm the permit: dropping it would re-enter this function and deadlock.
                Err(mut turn) => drop(turn.0.take()),
            }
        }
        state.free += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    const fn id(n: u128) -> OrganizationId {
        OrganizationId(Uuid::from_u128(n))
    }

    const ONE: Party = Some(id(1));
    const TWO: Party = Some(id(2));

    /// Queues for a permit in the order of calls, and appends the party to `order` when it gets one.
    fn queue(turns: &Turns, of: Party, order: &Arc<Mutex<Vec<Party>>>) -> tokio::task::JoinHandle<()> {
        let (turns, order) = (turns.clone(), Arc::clone(order));
        tokio::spawn(async move {
            let _turn = turns.take(of).await;
            order.lock().unwrap().push(of);
        })
    }

    #[tokio::test]
    async fn who_comes_later_for_another_party_does_not_wait_behind_a_crowd() {
        let turns = Turns::new(1);
        let held = turns.take(None).await;
        let order = Arc::default();
        let mut waiting: Vec<_> = (0..5).map(|_| queue(&turns, ONE, &order)).collect();
        tokio::task::yield_now().await;
        waiting.push(queue(&turns, TWO, &order));
        waiting.push(queue(&turns, None, &order));
        tokio::task::yield_now().await;
        drop(held);
        for one in waiting {
            one.await.unwrap();
        }
        let came = order.lock().unwrap().clone();
        assert_eq!(came[..4], [ONE, TWO, None, ONE], "in rotation");
        assert_eq!(came.len(), 7);
        assert!(turns.state().waiting.is_empty() && turns.state().round.is_empty());
        assert_eq!(turns.state().free, 1);
    }

    #[tokio::test]
    async fn who_gives_up_takes_no_turn() {
        let turns = Turns::new(1);
        let held = turns.take(ONE).await;
        for _ in 0..3 {
            let waited = tokio::time::timeout(Duration::from_millis(5), turns.take(ONE)).await;
            assert!(waited.is_err(), "it is held");
        }
        let order = Arc::default();
        let last = queue(&turns, ONE, &order);
        tokio::task::yield_now().await;
        drop(held);
        last.await.unwrap();
        assert_eq!(turns.state().free, 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_than_so_many_have_one_at_a_time() {
        let turns = Turns::new(2);
        let at_once = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks: Vec<_> = (0..100_u128)
            .map(|n| {
                let (turns, at_once) = (turns.clone(), Arc::clone(&at_once));
                tokio::spawn(async move {
                    let _turn = turns.take(Some(id(n % 3))).await;
                    let now = at_once.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert!(now < 2);
                    tokio::task::yield_now().await;
                    at_once.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(turns.state().free, 2);
    }
}
