//! Failed logins for accounts that don't exist: the first few from an address in a window are recorded
//! individually, the rest are counted in a single entry, so that a stranger who invents e-mail addresses can't
//! fill the disk.

use super::{RequestContext, Services};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::Event;
use crate::limiter::address_key;
use crate::service::refusals::Counts;

/// Failures from one address in a window that are recorded individually.
const TOLD_APART: u64 = 5;
/// IPv6 addresses are grouped by site prefix (RFC 6177 §2); an IPv4 address counts as a whole.
const SITE_BYTES: usize = 6;
/// Addresses counted separately; any beyond these share one count.
const ADDRESSES: usize = 10_000;

/// Failures that are not yet recorded.
#[derive(Debug, Default)]
pub struct Strangers(Counts<Key>);

/// The organisation and the address; `None` for all addresses beyond the limit.
type Key = (OrganizationId, Option<Vec<u8>>);

impl Strangers {
    /// Counts a failure, and returns its entry if it is to be recorded individually.
    pub(super) fn count(
        &self,
        organization: OrganizationId,
        context: &RequestContext,
        mut event: Event,
    ) -> Option<Event> {
        let mut address = address_key(context.ip);
        address.truncate(SITE_BYTES);
        let mut key = (organization, Some(address));
        if !self.0.has_room_for(&key, ADDRESSES) {
            key.1 = None;
            event.ip_address = None;
        }
        let is_counted = self.0.count(TOLD_APART, key, context.at, || {
            let mut one_for_all = event.clone();
            // The sixth invented e-mail address carries no information.
            one_for_all.actor.email = None;
            one_for_all
        });
        (!is_counted).then_some(event)
    }
}

/// Records the failures whose window is over, or `all` of them at shutdown, in one transaction. Returns how
/// many entries there were.
///
/// # Errors
/// If the trail can't be written; the failures then remain counted.
pub async fn record_strangers(services: &Services, all: bool) -> Result<usize> {
    services.strangers.0.record(services, all).await
}
