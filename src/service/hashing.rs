//! Password hashing off the async workers. Each hash takes tens of milliseconds and 19 MiB, so at most
//! one per core runs at a time, and a flood of logins is told to come again instead of piling up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::domain::{Error, Result};

/// Hashes that may wait for each core: about a second of work.
const WAITING_PER_CORE: usize = 32;

/// Runs hashes, so many at a time.
#[derive(Clone, Debug)]
pub struct Hashing {
    running: Arc<Semaphore>,
    admitted: Arc<AtomicUsize>,
    limit: usize,
}

impl Default for Hashing {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, usize::from))
    }
}

impl Hashing {
    /// At most `cores` at a time.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(cores)),
            admitted: Arc::new(AtomicUsize::new(0)),
            limit: cores * (1 + WAITING_PER_CORE),
        }
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already; [`Error::Internal`] when `work` panics.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let _place = self.admit()?;
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Error::Internal("hashing ended".to_owned()))?;
        tokio::task::spawn_blocking(move || {
            // Held by the work, not by the one who waits for it: who hangs up frees no core.
            let _permit = permit;
            work()
        })
        .await
        .map_err(|_| Error::Internal("a hash ended early".to_owned()))
    }

    fn admit(&self) -> Result<Place> {
        let place = Place(Arc::clone(&self.admitted));
        if self.admitted.fetch_add(1, Ordering::Relaxed) >= self.limit {
            return Err(Error::Busy { retry_after_secs: 1 });
        }
        Ok(place)
    }
}

/// A place in the queue, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_flood_is_told_to_come_again_and_the_rest_is_served() {
        let hashing = Hashing::new(1);
        let work = || std::thread::sleep(Duration::from_millis(2));
        let flood: Vec<_> = (0..100).map(|_| hashing.run(work)).collect();
        let answers = futures_util::future::join_all(flood).await;
        let refused = answers
            .iter()
            .filter(|a| matches!(a, Err(Error::Busy { .. })))
            .count();
        assert_eq!(refused, 100 - hashing.limit);
        assert!(hashing.run(work).await.is_ok(), "places are given back");
    }

    #[tokio::test]
    async fn a_panic_costs_no_core() {
        let hashing = Hashing::new(1);
        assert!(hashing.run(|| panic!("expected by the test")).await.is_err());
        assert_eq!(hashing.run(|| 7).await, Ok(7));
    }
}
