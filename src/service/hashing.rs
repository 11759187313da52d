//! Password hashing off the async workers. Each hash takes tens of milliseconds and 19 MiB, so at most one per
//! core runs at a time, and excess logins are told to retry instead of piling up. Turns are shared fairly among
//! organisations.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::{Error, Result};
use crate::store::turns::{Party, Turns};

/// Hashes that may wait per core: about a second of work.
const WAITING_PER_CORE: usize = 32;

/// Runs a bounded number of hashes at a time.
#[derive(Clone, Debug)]
pub struct Hashing {
    turns: Turns,
    admitted: Arc<Mutex<Admitted>>,
    limit: usize,
}

/// Number of hashes running or waiting, in total and by organisation.
#[derive(Debug, Default)]
struct Admitted {
    all: usize,
    of: HashMap<Party, usize>,
}

impl Default for Hashing {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, usize::from))
    }
}

impl Hashing {
    /// Returns an instance that runs at most `cores` hashes at a time.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            turns: Turns::new(cores),
            admitted: Arc::default(),
            limit: cores * (1 + WAITING_PER_CORE),
        }
    }

    /// Runs `work` on a blocking thread when it is the organisation's turn.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many hashes wait already, or half as many for this organisation;
    /// [`Error::Internal`] if `work` panics.
    pub async fn run<T: Send + 'static>(
        &self,
        party: Party,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let _place = self.admit(party)?;
        let turn = self.turns.take(party).await;
        tokio::task::spawn_blocking(move || {
            // Held by the work, not by its caller: a client that disconnects frees no core.
            let _turn = turn;
            work()
        })
        .await
        .map_err(|_| Error::Internal("a hash ended early".to_owned()))
    }

    fn admit(&self, party: Party) -> Result<Place> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let of = admitted.of.get(&party).copied().unwrap_or(0);
        if admitted.all >= self.limit || of >= self.limit / 2 {
            return Err(Error::Busy { retry_after_secs: 1 });
        }
        admitted.all += 1;
        admitted.of.insert(party, of + 1);
        Ok(Place(Arc::clone(&self.admitted), party))
    }
}

/// A place in the queue, released on drop.
struct Place(Arc<Mutex<Admitted>>, Party);

impl Drop for Place {
    fn drop(&mut self) {
        let mut admitted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.all -= 1;
        if let Some(of) = admitted.of.get_mut(&self.1) {
            *of -= 1;
            if *of == 0 {
                admitted.of.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::account::OrganizationId;

    #[tokio::test]
    async fn a_flood_is_told_to_come_again_and_the_rest_is_served() {
        let hashing = Hashing::new(1);
        let work = || std::thread::sleep(Duration::from_millis(2));
        let organization = |n| Some(OrganizationId(Uuid::from_u128(n)));
        let flood: Vec<_> = (0..100)
            .map(|n| hashing.run(organization(u128::from(n >= 80)), work))
            .collect();
        let answers = futures_util::future::join_all(flood).await;
        let refused = |answers: &[Result<()>]| {
            let busy = answers.iter().filter(|a| matches!(a, Err(Error::Busy { .. })));
            busy.count()
        };
        assert_eq!(refused(&answers[..80]), 80 - hashing.limit / 2, "half for one");
        assert_eq!(
            refused(&answers[80..]),
            20 - (hashing.limit - hashing.limit / 2).min(hashing.limit / 2),
            "the rest for others"
        );
        assert!(hashing.run(None, work).await.is_ok(), "places are given back");
        assert!(hashing.admitted.lock().unwrap().of.is_empty());
    }

    #[tokio::test]
    async fn a_panic_costs_no_core() {
        let hashing = Hashing::new(1);
        assert!(
            hashing
                .run(None, || panic!("expected by the test"))
                .await
                .is_err()
        );
        assert_eq!(hashing.run(None, || 7).await, Ok(7));
    }
}
