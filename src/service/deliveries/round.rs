//! One round of sending.
//!
//! A round is claimed in the database before it is sent: on a disk that can't be written, the sending could not
//! be recorded either, and people would receive the same message once a second. No organisation's receiver
//! delays the others': each organisation has its share of a round, and a host that does not answer is skipped
//! for the rest of it. The same holds for the mail server, so that mail is tried again after minutes, not hours.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;

use super::{WAITS_SECS, listing};
use crate::domain::Result;
use crate::service::Services;
use crate::store::deliveries::{self, Channel, DeliveryRow, Due};

/// The longest wait, with an allowance for a clock that was set back a little: a later time was set by a clock
/// that was ahead.
const LONGEST_WAIT_SECS: i64 = WAITS_SECS[WAITS_SECS.len() - 1] + 3600;
/// Time after which a delivery that was sent but not recorded is sent again, in seconds: soon after a crash,
/// but not every second when the disk accepts only some writes. Rounds do not overlap, so one may take longer.
pub(in crate::service) const CLAIMED_SECS: i64 = 10;
/// Maximum number of deliveries per round.
const ROUND: u32 = 64;
/// Calls to one organisation's webhook per round: each may take long to fail.
const WEBHOOKS_OF_ONE: u32 = 4;

/// Returns the due deliveries after postponing them. If that can't be written, nothing is sent.
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
    // Slow if much is due: determining whose turn it is takes reading all of it.
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

/// Hosts that did not answer in this round. Their other deliveries stay claimed and come up again once the claim
/// has expired.
#[derive(Default)]
pub(super) struct SilentHosts(Mutex<HashSet<String>>);

impl SilentHosts {
    /// True if the delivery goes to one of these hosts.
    pub(super) fn receives(&self, row: &DeliveryRow) -> bool {
        host(row).is_some_and(|host| self.known().contains(&host))
    }

    /// Records that the delivery's host did not answer.
    pub(super) fn note(&self, row: &DeliveryRow) {
        self.known().extend(host(row));
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the host that a delivery goes to; all mail goes to one server. `None`: it never waits for an answer.
fn host(row: &DeliveryRow) -> Option<String> {
    match row.channel {
        Channel::Mail => Some("the mail server".to_owned()),
        Channel::Webhook => listing::webhook_host(row),
        Channel::Syslog => None,
    }
}
