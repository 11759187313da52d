//! Rate-limited calls on the record: one entry per caller and window, with a count, so that a flood
//! can't fill the disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::domain::Result;
use crate::domain::account::{Principal, UserId};
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::service::{RequestContext, Services};
use crate::store::audit;

/// How long refusals of one caller are counted into one entry.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// Refusals by rate limit that are not recorded yet. Only authenticated callers get here, so there
/// are at most as many as users and verbs.
#[derive(Debug, Default)]
pub struct Floods(Mutex<HashMap<(UserId, EventType), Flood>>);

#[derive(Clone, Debug)]
struct Flood {
    since: Timestamp,
    refused: u64,
    event: Event,
}

impl Floods {
    /// Counts a refusal.
    pub fn count(&self, principal: &Principal, context: &RequestContext, event_type: EventType, quota: &str) {
        let mut floods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let flood = floods
            .entry((principal.user.id, event_type))
            .or_insert_with(|| Flood {
                since: context.at,
                refused: 0,
                event: Event::by(principal, event_type)
                    .from_request(&context.request_id, context.ip_text().as_deref())
                    .ended(AuditResult::Denied, "Too many requests")
                    .with("quota", quota),
            });
        flood.refused += 1;
    }

    fn take_due(&self, at: Timestamp, all: bool) -> Vec<Flood> {
        let mut floods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = floods.extract_if(|_, flood| all || at.duration_since(flood.since) >= WINDOW);
        due.map(|(_, flood)| flood).collect()
    }
}

/// Records the floods whose window is over, or `all` of them at shutdown. Says how many.
///
/// # Errors
/// When the trail can't be written.
pub async fn record_floods(services: &Services, all: bool) -> Result<usize> {
    let at = services.clock.now();
    let due = services.floods.take_due(at, all);
    let count = due.len();
    for flood in due {
        let entry_id = services.entropy.uuid(at);
        let event = flood
            .event
            .with("refused", flood.refused)
            .with("since", flood.since.to_string())
            .with("windowSecs", WINDOW.as_secs());
        services
            .store
            .write(move |tx| audit::append_entry(tx, at, entry_id, &event).map(|_| ()))
            .await?;
    }
    Ok(count)
}
