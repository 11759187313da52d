//! The record of calls refused without doing any work, for a rate limit or a full queue: one entry per caller,
//! operation and window, with a count, so that a flood fills neither the disk nor the writer's queue. Repeated
//! refusals for other reasons are counted likewise after the first few.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::domain::Result;
use crate::domain::account::{Principal, UserId};
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::service::{RequestContext, Services};
use crate::store::audit;

/// How long one caller's refusals are counted into one entry.
pub(crate) const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// Refusals per caller, operation and window that are recorded individually; further ones are only counted.
const ENTRIES_EACH: u64 = 10;

/// Refusals not yet recorded. Only authenticated callers get here, so there are at most three per user and
/// operation.
#[derive(Debug, Default)]
pub struct Floods(Mutex<HashMap<Key, Flood>>);

type Key = (UserId, EventType, Cause);

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    RateLimit,
    Busy,
    Repeated,
}

#[derive(Clone, Debug)]
struct Flood {
    since: Timestamp,
    /// Refusals that were recorded individually.
    entries: u64,
    /// Refusals that were only counted.
    refused: u64,
    event: Event,
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
        self.count_beyond(ENTRIES_EACH, key, context.at, || {
            refusal(principal, context, event_type).ended(AuditResult::Denied, "Refused again and again")
        })
    }

    fn add(&self, key: Key, at: Timestamp, event: impl FnOnce() -> Event) {
        self.count_beyond(0, key, at, event);
    }

    /// Counts a refusal beyond the first `first` ones. Returns true if this is one of them.
    fn count_beyond(&self, first: u64, key: Key, at: Timestamp, event: impl FnOnce() -> Event) -> bool {
        let mut floods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let flood = floods.entry(key).or_insert_with(|| Flood {
            since: at,
            entries: 0,
            refused: 0,
            event: event(),
        });
        if flood.entries < first {
            flood.entries += 1;
            return false;
        }
        flood.refused += 1;
        true
    }

    fn take_due(&self, at: Timestamp, all: bool) -> Vec<(Key, Flood)> {
        let mut floods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = floods.extract_if(|_, flood| all || at.duration_since(flood.since) >= WINDOW);
        due.filter(|(_, flood)| flood.refused > 0).collect()
    }

    /// Takes back counts that could not be recorded; together with later ones they are due at once.
    fn take_back(&self, due: Vec<(Key, Flood)>) {
        let mut floods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, flood) in due {
            let since = floods.get(&key).map_or(0, |later| later.refused);
            let refused = flood.refused + since;
            floods.insert(key, Flood { refused, ..flood });
        }
    }
}

fn refusal(principal: &Principal, context: &RequestContext, event_type: EventType) -> Event {
    Event::by(principal, event_type).from_request(&context.request_id, context.ip_text().as_deref())
}

/// Records the floods whose window is over, or `all` of them at shutdown, in one transaction. Returns how many.
///
/// # Errors
/// If the trail can't be written; the refusals then remain counted.
pub async fn record_floods(services: &Services, all: bool) -> Result<usize> {
    let due = services.floods.take_due(services.clock.now(), all);
    let counted = due
        .iter()
        .map(|(_, flood)| (flood.event.clone(), flood.refused, flood.since));
    match record_counted(services, counted.collect()).await {
        Ok(()) => Ok(due.len()),
        Err(error) => {
            services.floods.take_back(due);
            Err(error)
        }
    }
}

/// Records each count, with the time since which it was counted, as an entry; all in one transaction.
///
/// # Errors
/// If the trail can't be written.
pub(crate) async fn record_counted(services: &Services, counted: Vec<(Event, u64, Timestamp)>) -> Result<()> {
    if counted.is_empty() {
        return Ok(());
    }
    let at = services.clock.now();
    let entries: Vec<_> = counted
        .into_iter()
        .map(|(event, refused, since)| {
            let event = event
                .with("refused", refused)
                .with("since", since.to_string())
                .with("windowSecs", WINDOW.as_secs());
            (services.entropy.uuid(at), event)
        })
        .collect();
    services
        .store
        .write(move |tx| {
            for (id, event) in &entries {
                audit::append_entry(tx, at, *id, event)?;
            }
            Ok(())
        })
        .await
}
