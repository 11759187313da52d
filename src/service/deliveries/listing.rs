//! Deliveries as the operator sees them, and orders to try again.

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

/// A delivery, for operators.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverySummary {
    /// Its name, as the receiver sees it.
    pub id: String,
    /// What it tells of: the type of its entry in the trail; absent where that is gone.
    pub kind: Option<String>,
    /// By which way.
    pub channel: Channel,
    /// To whom: an address, or the host of a webhook; absent once it was sent, and for syslog.
    pub recipient: Option<String>,
    /// Slug of the organisation; `None`: the node's own.
    pub organization: Option<String>,
    /// What has become of it.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next, where it is owed.
    pub next_attempt_at: Option<Timestamp>,
    /// Why it did not arrive.
    pub last_error: Option<String>,
    /// When it was owed.
    pub created_at: Timestamp,
    /// Sequence of the entry of what it tells of.
    pub audit_sequence: Option<u64>,
    #[serde(skip)]
    number: i64,
}

/// Deliveries in those states, the newest first.
///
/// # Errors
/// [`Error::Internal`] when the store fails.
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

/// To whom it goes. Of a webhook only the host: its path may be a secret.
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

/// The host of a webhook's call.
pub(super) fn webhook_host(row: &DeliveryRow) -> Option<String> {
    if row.channel != Channel::Webhook {
        return None;
    }
    let payload: Value = serde_json::from_str(&row.payload).ok()?;
    webhook::host_of(payload["url"].as_str()?)
}

/// Owes deliveries again that were given up or wait for their next attempt: those of these names, or all
/// that were given up. Says how many; it is on the record.
///
/// # Errors
/// [`Error::NotFound`] for a name that no such delivery has.
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
