//! The record of calls refused without doing any work, for a rate limit or a full queue: one entry per caller,
//! operation and window, with a count, so that a flood fills neither the disk nor the writer's queue. Repeated
//! refusals for other reasons are counted likewise after the first few.

use jiff::Timestamp;

use super::counted::Counts;
use crate::domain::Result;
use crate::domain::account::{Principal, UserId};
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::service::{RequestContext, Services};

/// Refusals per caller, operation and window that are recorded individually; further ones are only counted.
const ENTRIES_EACH: u64 = 10;

/// Refusals not yet recorded. Only authenticated callers get here, so there are at most three per user and
/// operation.
#[derive(Debug, Default)]
pub struct Floods(Counts<Key>);

type Key = (UserId, EventType, Cause);

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    RateLimit,
    Busy,
    Repeated,
}

impl Floods {
    /// Counts a refusal by rate limit.
    pub fn count(&self, principal: &Principal, context: &RequestContext, event_type: EventType, quota: &str) {
        self.add(
            (principal.user.id, event_type, Cause::RateLimit),
            context.at,
            || {
                refusal(principal, context, event_type)
                    .ended(AuditResult::Denied, "Too many requests")
                    .with("quota", quota)
            },
        );
    }

    /// Counts a refusal for a full queue: its entry would only add to the queue.
    pub fn count_busy(&self, principal: &Principal, context: &RequestContext, event_type: EventType) {
        self.add((principal.user.id, event_type, Cause::Busy), context.at, || {
            refusal(principal, context, event_type).ended(AuditResult::Failure, "The server was busy")
        });
    }

    /// Counts a refusal for any other reason. Returns true if the caller has had so many for that operation in
    /// this window that it is not recorded individually.
    pub fn count_repeated(
        &self,
        principal: &Principal,
        context: &RequestContext,
        event_type: EventType,
    ) -> bool {
        let key = (principal.user.id, event_type, Cause::Repeated);
        self.0.count(ENTRIES_EACH, key, context.at, || {
            refusal(principal, context, event_type).ended(AuditResult::Denied, "Refused again and again")
        })
    }

    fn add(&self, key: Key, at: Timestamp, event: impl FnOnce() -> Event) {
        self.0.count(0, key, at, event);
    }
}

fn refusal(principal: &Principal, context: &RequestContext, event_type: EventType) -> Event {
    Event::by(principal, event_type).from_request(&context.request_id, context.ip)
}

/// Records the refusals whose window is over, or `all` of them at shutdown. Returns the number of entries.
///
/// # Errors
/// If the trail can't be written; the refusals then remain counted.
pub async fn record_floods(services: &Services, all: bool) -> Result<usize> {
    services.floods.0.record(services, all).await
}
