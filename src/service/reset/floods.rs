//! Calls refused without work being done, for a rate limit or a full queue, on the record: one entry per
//! caller, verb and window, with a count, so that a flood can neither fill the disk nor the writer's queue. What
//! is refused again and again for another reason is counted like that, too, after the first times.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::domain::Result;
use crate::domain::account::{Principal, UserId};
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::service::{RequestContext, Services};
use crate::store::audit;

/// How long refusals of one caller are counted into one entry.
pub(crate) const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// Refusals of one caller, verb and window that are entries of their own; further ones are only counted.
const ENTRIES_EACH: u64 = 10;

/// Refusals that are not recorded yet. Only authenticated callers get here, so there are at most as many as
/// users and verbs, three times.
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
    /// Refusals that are entries of their own.
    entries: u64,
    /// Those that are not.
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

    /// Counts a refusal because too much waits already: its entry would only have to wait behind it.
    pub fn count_busy(&self, principal: &Principal, context: &RequestContext, event_type: EventType) {
        self.add((principal.user.id, event_type, Cause::Busy), context.at, || {
            refusal(principal, context, event_type).ended(AuditResult::Failure, "The server was busy")
        });
    }

    /// Counts a refusal for whatever other reason, and says whether the caller has had so many of that verb in
    /// this window that it is no entry of its own.
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

    /// Counts what comes after the first so many. Whether this one did.
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

    /// Takes back what could not be recorded: together with what was counted since it is due at once.
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

/// Records the floods whose window is over, or `all` of them at shutdown, in one transaction. Says how many.
///
/// # Errors
/// When the trail can't be written; they are counted on then.
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

/// Records what was counted since a time into an entry each, in one transaction.
///
/// # Errors
/// When the trail can't be written.
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
