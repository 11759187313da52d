//! Live tails of the trail: how many there may be, and their end when the appliance stops.

use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::account::OrganizationId;
use crate::domain::{Error, Result};
use crate::store::places::Places;

/// Maximum number of concurrent tails on the whole node; one organisation alone may have half of them.
const TAILS: usize = 64;
/// When a reader that found no place may try again, in seconds.
const RETRY_SECS: u64 = 10;

/// The readers who follow the trail: their places, and a signal for tails to end. Otherwise they would continue for
/// up to 15 minutes, and each would delay the stop for the whole grace period. Their readers reconnect with
/// `Last-Event-ID`.
#[derive(Debug)]
pub struct Tails {
    end: watch::Sender<bool>,
    places: Arc<Places>,
}

/// The place of a tail, given back when dropped.
#[derive(Debug)]
pub struct TailPlace(Arc<Places>, OrganizationId);

impl Default for Tails {
    fn default() -> Self {
        Self {
            end: watch::Sender::new(false),
            places: Arc::new(Places::new(TAILS)),
        }
    }
}

impl Tails {
    /// Takes a place for a tail of an organisation.
    ///
    /// # Errors
    /// [`Error::Busy`] if all places are taken, or the organisation has as many as are left free.
    pub fn take(&self, organization: OrganizationId) -> Result<TailPlace> {
        if self.places.take(Some(organization)) {
            Ok(TailPlace(Arc::clone(&self.places), organization))
        } else {
            Err(Error::Busy {
                retry_after_secs: RETRY_SECS,
            })
        }
    }

    /// Ends all current tails, and every later one as soon as it begins.
    pub fn end(&self) {
        self.end.send_replace(true);
    }

    /// Waits until tails have to end.
    pub async fn ended(&self) {
        let mut end = self.end.subscribe();
        // The sender lives as long as this borrows it.
        let _ = end.wait_for(|ended| *ended).await;
    }
}

impl Drop for TailPlace {
    fn drop(&mut self) {
        self.0.give_back(std::iter::once(Some(self.1)));
    }
}
