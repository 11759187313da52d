//! Failed logins for accounts that don't exist: the first few from an address in a window are recorded
//! individually, the rest are counted in a single entry, so that a stranger who invents e-mail addresses can't
//! fill the disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use super::{RequestContext, Services};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::Event;
use crate::limiter::address_key;
use crate::service::reset::{WINDOW, record_counted};

/// Failures from one address in a window that are recorded individually.
const TOLD_APART: u64 = 5;
/// IPv6 addresses are grouped by site prefix (RFC 6177 §2); an IPv4 address counts as a whole.
const SITE_BYTES: usize = 6;
/// Addresses counted separately; any beyond these share one count.
const ADDRESSES: usize = 10_000;

/// Failures that are not yet recorded.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<HashMap<Key, Count>>);

/// The organisation and the address; `None` for all addresses beyond the limit.
type Key = (OrganizationId, Option<Vec<u8>>);

#[derive(Clone, Debug)]
struct Count {
    since: Timestamp,
    failed: u64,
    /// The first failure that was not recorded individually.
    event: Option<Event>,
}

impl Strangers {
    /// Counts a failure, and returns its entry if it is to be recorded individually.
    pub(super) fn count(
        &self,
        organization: OrganizationId,
        context: &RequestContext,
        mut event: Event,
    ) -> Option<Event> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut address = address_key(context.ip);
        address.truncate(SITE_BYTES);
        let mut key = (organization, Some(address));
        if counts.len() >= ADDRESSES && !counts.contains_key(&key) {
            key.1 = None;
            event.ip_address = None;
        }
        let count = counts.entry(key).or_insert_with(|| Count {
            since: context.at,
            failed: 0,
            event: None,
        });
        count.failed += 1;
        if count.failed <= TOLD_APART {
            return Some(event);
        }
        // The sixth invented e-mail address carries no information.
        event.actor.email = None;
        count.event.get_or_insert(event);
        None
    }

    fn take_due(&self, at: Timestamp, all: bool) -> Vec<(Key, Count)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = counts.extract_if(|_, count| all || at.duration_since(count.since) >= WINDOW);
        due.collect()
    }

    /// Takes back counts that could not be recorded; together with later ones they are due at once.
    fn take_back(&self, due: Vec<(Key, Count)>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, count) in due {
            let since = counts.get(&key).map_or(0, |later| later.failed);
            let failed = count.failed + since;
            counts.insert(key, Count { failed, ..count });
        }
    }
}

/// Records the failures whose window is over, or `all` of them at shutdown, in one transaction. Returns how
/// many entries there were.
///
/// # Errors
/// If the trail can't be written; the failures then remain counted.
pub async fn record_strangers(services: &Services, all: bool) -> Result<usize> {
    let mut due = services.strangers.take_due(services.clock.now(), all);
    due.retain(|(_, count)| count.event.is_some());
    let counted = due
        .iter()
        .filter_map(|(_, count)| Some((count.event.clone()?, count.failed - TOLD_APART, count.since)));
    match record_counted(services, counted.collect()).await {
        Ok(()) => Ok(due.len()),
        Err(error) => {
            services.strangers.take_back(due);
            Err(error)
        }
    }
}
