//! What one round sends.
//!
//! It is claimed before: on a disk that takes no writing, it could not be noted either that it was sent, and people
//! would be told the same once a second. And no organisation's receiver holds up the others': each has its share of a
//! round, and a host that does not answer is left alone for the rest of it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;

use super::{WAITS_SECS, listing};
use crate::domain::Result;
use crate::service::Services;
use crate::store::deliveries::{self, Channel, DeliveryRow, Due};

/// The longest wait, with room for a clock that is put back a little: whatever is to be tried later was put off by
/// a clock that was ahead.
const LONGEST_WAIT_SECS: i64 = WAITS_SECS[WAITS_SECS.len() - 1] + 3600;
/// What was sent and could not be noted comes again after this long, in seconds: after a crash that is soon, and where
/// the disk takes some writing and then none, not every second. Rounds follow each other, so that one may take longer.
pub(in crate::service) const CLAIMED_SECS: i64 = 10;
/// Sent at most so many in one round.
const ROUND: u32 = 64;
/// Calls of one organisation's webhook in one round: each may take long to fail.
const WEBHOOKS_OF_ONE: u32 = 4;

/// What is due, put off before it is sent. Where that can't be written, nothing is sent.
///
/// # Errors
/// As [`super::send_due`].
pub(super) async fn claim_due(services: &Services, channel: Channel) -> Result<Vec<DeliveryRow>> {
    let at = services.clock.now();
    let due = Due {
        channel,
        at,
        at_the_latest: at + SignedDuration::from_secs(LONGEST_WAIT_SECS),
        share: match channel {
            Channel::Webhook => WEBHOOKS_OF_ONE,
            Channel::Mail | Channel::Syslog => ROUND,
        },
        limit: ROUND,
    };
    // Long where much is due: whose turn it is, all of it says.
    let due = services
        .store
        .read_long(None, move |db| deliveries::find_due(db, &due))
        .await?;
    if due.is_empty() {
        return Ok(due);
    }
    let until = at + SignedDuration::from_secs(CLAIMED_SECS);
    services
        .store
        .write(move |tx| {
            let mut claimed = Vec::new();
            for row in &due {
                if deliveries::update_claimed(tx, row, until)? {
                    claimed.push(row.clone());
                }
            }
            Ok(claimed)
        })
        .await
}

/// The hosts of webhooks that did not answer in this round. Whatever else goes there stays claimed, and comes up
/// again once that is over.
#[derive(Default)]
pub(super) struct SilentHosts(Mutex<HashSet<String>>);

impl SilentHosts {
    /// Whether a call goes to one of them.
    pub(super) fn receives(&self, row: &DeliveryRow) -> bool {
        listing::webhook_host(row).is_some_and(|host| self.known().contains(&host))
    }

    /// Its host did not answer.
    pub(super) fn note(&self, row: &DeliveryRow) {
        self.known().extend(listing::webhook_host(row));
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
