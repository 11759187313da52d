//! Failed logins for accounts that don't exist: the first few of an address in a window are entries of their own, the
//! others are counted into one, so that a stranger who invents addresses can't fill the disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use super::{RequestContext, Services};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::Event;
use crate::limiter::address_key;
use crate::service::reset::{WINDOW, record_counted};

/// Failures from one address in a window that are entries of their own.
const TOLD_APART: u64 = 5;
/// Of an IPv6 address the site counts (RFC 6177 §2), an IPv4 address as a whole.
const SITE_BYTES: usize = 6;
/// Addresses that are counted apart; whoever comes with more shares one count.
const ADDRESSES: usize = 10_000;

/// Failures that are not recorded yet.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<HashMap<Key, Count>>);

/// The organisation, and the address: none for all that are too many.
type Key = (OrganizationId, Option<Vec<u8>>);

#[derive(Clone, Debug)]
struct Count {
    since: Timestamp,
    failed: u64,
    /// The first that has no entry of its own.
    event: Option<Event>,
}

impl Strangers {
    /// Counts a failure, and gives its entry back where it is to have one of its own.
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
        // Which of the invented addresses came sixth says nothing.
        event.actor.email = None;
        count.event.get_or_insert(event);
        None
    }

    fn take_due(&self, at: Timestamp, all: bool) -> Vec<(Key, Count)> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = counts.extract_if(|_, count| all || at.duration_since(count.since) >= WINDOW);
        due.collect()
    }

    /// Takes back what could not be recorded: together with what was counted since it is due at once.
    fn take_back(&self, due: Vec<(Key, Count)>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, count) in due {
            let since = counts.get(&key).map_or(0, |later| later.failed);
            let failed = count.failed + since;
            counts.insert(key, Count { failed, ..count });
        }
    }
}

/// Records the failures whose window is over, or `all` of them at shutdown, in one transaction. Says how many entries
/// there were.
///
/// # Errors
/// When the trail can't be written; they are counted on then.
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
