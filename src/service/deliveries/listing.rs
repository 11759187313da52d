//! Deliveries as listed for the operator, and orders to retry them.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Channel, DeliveryState, name_of};
use crate::courier::webhook;
use crate::domain::audit::{ActorRef, Event, EventType};
use crate::domain::{Error, Result};
use crate::service::{RequestContext, Services};
use crate::store::deliveries::{self, DeliveryRow};
use crate::store::{accounts, audit};

/// A delivery as shown to operators.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverySummary {
    /// Its name, as the receiver sees it.
    pub id: String,
    /// Type of the trail entry that it reports; absent if that entry is gone.
    pub kind: Option<String>,
    /// The channel it is sent through.
    pub channel: Channel,
    /// The recipient: a mail address or a webhook's host; absent once it was sent, and for syslog.
    pub recipient: Option<String>,
    /// Slug of the organisation; `None` for the node's own deliveries.
    pub organization: Option<String>,
    /// Current state.
    pub state: DeliveryState,
    /// Number of attempts.
    pub attempts: u32,
    /// Time of the next attempt, if it is still to be sent.
    pub next_attempt_at: Option<Timestamp>,
    /// Cause of the last failure.
    pub last_error: Option<String>,
    /// When it was queued.
    pub created_at: Timestamp,
    /// Sequence number of the trail entry that it reports.
    pub audit_sequence: Option<u64>,
    #[serde(skip)]
    number: i64,
}

/// Returns deliveries in the given states, newest first.
///
/// # Errors
/// [`Error::Internal`] if the store fails.
pub fn list_deliveries(
    services: &Services,
    states: &[DeliveryState],
    limit: u32,
) -> Result<Vec<DeliverySummary>> {
    services.store.read(|db| {
        let slugs = accounts::find_organizations(db)?;
        let slug = |id| slugs.iter().find(|o| Some(o.id) == id).map(|o| o.slug.clone());
        let rows = deliveries::page_deliveries(db, states, limit)?;
        rows.into_iter()
            .map(|row| {
                Ok(DeliverySummary {
                    id: name_of(services, &row),
                    kind: match row.audit_sequence {
                        Some(sequence) => audit::find_event_type(db, sequence)?,
                        None => None,
                    },
                    channel: row.channel,
                    recipient: recipient(&row),
                    organization: slug(row.organization_id),
                    state: row.state,
                    attempts: row.attempts,
                    next_attempt_at: (row.state == DeliveryState::Owed).then_some(row.next_attempt_at),
                    last_error: row.last_error,
                    created_at: row.created_at,
                    audit_sequence: row.audit_sequence,
                    number: row.id,
                })
            })
            .collect()
    })
}

/// Returns the recipient. For a webhook only the host: its path may be a secret.
fn recipient(row: &DeliveryRow) -> Option<String> {
    match row.channel {
        Channel::Mail => {
            let payload: Value = serde_json::from_str(&row.payload).ok()?;
            payload["to"].as_str().map(str::to_owned)
        }
        Channel::Webhook => webhook_host(row),
        Channel::Syslog => None,
    }
}

/// Returns the host of a webhook call.
pub(super) fn webhook_host(row: &DeliveryRow) -> Option<String> {
    if row.channel != Channel::Webhook {
        return None;
    }
    let payload: Value = serde_json::from_str(&row.payload).ok()?;
    webhook::host_of(payload["url"].as_str()?)
}

/// Queues deliveries again that were given up or wait for their next attempt: those with the given names, or
/// all that were given up. Returns how many; this is recorded in the trail.
///
/// # Errors
/// [`Error::NotFound`] if no such delivery has that name.
pub fn retry_deliveries(services: &Services, names: &[String]) -> Result<usize> {
    let candidates = [DeliveryState::Owed, DeliveryState::Dead];
    let all = list_deliveries(services, &candidates, u32::MAX)?;
    let mut numbers = Vec::new();
    for name in names {
        let found = all.iter().find(|delivery| delivery.id == *name);
        numbers.push(
            found
                .map(|delivery| delivery.number)
                .ok_or_else(|| Error::NotFound {
                    what: "Delivery",
                    id: name.clone(),
                })?,
        );
    }
    if names.is_empty() {
        let dead = all
            .iter()
            .filter(|delivery| delivery.state == DeliveryState::Dead);
        numbers.extend(dead.map(|delivery| delivery.number));
    }
    if numbers.is_empty() {
        return Ok(0);
    }
    let context = RequestContext::cli(services);
    let at = context.at;
    let entry_id: Uuid = services.entropy.uuid(at);
    services.store.write_blocking(move |tx| {
        let mut again = 0;
        for number in &numbers {
            again += usize::from(deliveries::update_owed_again(tx, *number, at)?);
        }
        let event = Event::new(EventType::DeliveryRetry, None, ActorRef::operator())
            .from_request(&context.request_id, None)
            .with("deliveries", again);
        audit::append_entry(tx, at, entry_id, &event)?;
        Ok(again)
    })
}
