//! Messages to the outside world: queued in the transaction of the change they report, sent after it commits,
//! at least once.
//!
//! # How to queue a delivery
//!
//! 1. Before the transaction, create an [`OwedDelivery`]: [`super::notices::mail`] and
//!    [`super::notices::sealed_mail`] for mail, [`webhook`] for a signed call, [`syslog`] for a message.
//! 2. In the transaction, after appending the entry, call [`owe`]`(tx, &deliveries, entry.sequence, at)`.
//!
//! While the server runs, [`send_while`] sends each channel's deliveries once a second, several concurrently. A
//! delivery that is not confirmed is retried under the same name ([`name_of`]: `Message-ID`, `webhook-id`)
//! after the waits of [`WAITS_SECS`]. After the last attempt, or if it can never arrive, it is given up: it
//! becomes `dead`, with an entry ([`EventType::DeliveryDead`]) in the same transaction. No state is kept in
//! memory: after a crash, everything unconfirmed is still queued.
//!
//! # How to forward a stream
//!
//! A forwarder of *every* trail entry should queue nothing: the trail itself is the queue, and a position in
//! it, saved after each confirmed message, records what was sent. Such a forwarder uses
//! [`Courier::write_syslog`] and [`Courier::call_webhook`] (in [`Services::courier`]) and [`wait_secs`] for its
//! back-off; [`KeyRing::webhook_secret`]`(None)` is the node's own signing secret.
//!
//! [`Courier::write_syslog`]: crate::courier::Courier::write_syslog
//! [`Courier::call_webhook`]: crate::courier::Courier::call_webhook
//! [`KeyRing::webhook_secret`]: crate::keys::KeyRing::webhook_secret

mod listing;
mod round;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::notices::{read_mail, wants_receipt};
use super::{Services, trail};
use crate::courier::{Severity, SyslogMessage, Undelivered, WebhookCall};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::{ActorRef, AuditResult, Event, EventType, Resource};
use crate::store::challenges::Purpose;
use crate::store::deliveries::{self, DeliveryRow};
use crate::store::{Transaction, audit, challenges};

pub use crate::store::deliveries::{Channel, DeliveryState, OwedDelivery, OwedLink};
pub use listing::{DeliverySummary, list_deliveries, retry_deliveries};
pub(super) use round::CLAIMED_SECS;
use round::{SilentHosts, claim_due};

/// Waits after the first, second, … failed attempt, in seconds: long enough to bridge a weekend.
pub const WAITS_SECS: [i64; 11] = [
    5, 30, 120, 600, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400,
];
/// Deliveries that one channel sends concurrently.
const SIDE_BY_SIDE: usize = 8;
/// How often to check for due deliveries.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long sent deliveries, and undeliverable ones, are kept, in hours.
const SENT_HOURS: i64 = 7 * 24;
const DEAD_HOURS: i64 = 90 * 24;
/// Rows deleted per transaction, and transactions per run; the rest is left to the next run.
const FORGOTTEN_AT_ONCE: usize = 1000;
const FORGOTTEN_IN_A_ROW: usize = 20;

/// Queues deliveries in the transaction of the change they report. `sequence` is that of its entry.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) if the store fails.
pub fn owe(tx: &Transaction<'_>, owed: &[OwedDelivery], sequence: u64, at: Timestamp) -> Result<()> {
    for delivery in owed {
        deliveries::insert_delivery(tx, delivery, sequence, at)?;
        if let Some(link) = &delivery.link {
            let (purpose, about) = (Purpose::NotMe, sequence.to_be_bytes());
            challenges::insert_challenge(
                tx,
                link.user,
                &link.hash,
                purpose,
                Some(&about),
                at,
                link.expires_at,
            )?;
        }
    }
    Ok(())
}

/// Creates a webhook call: `{type, timestamp, data}` as in Standard Webhooks, `type` as dot-separated words. It
/// is signed with the organisation's secret when it is sent.
#[must_use]
pub fn webhook(
    organization: Option<OrganizationId>,
    url: &str,
    r#type: &str,
    at: Timestamp,
    data: Value,
) -> OwedDelivery {
    let body = json!({ "type": r#type, "timestamp": format!("{at:.3}"), "data": data }).to_string();
    OwedDelivery {
        organization_id: organization,
        channel: Channel::Webhook,
        payload: json!({ "url": url, "body": body }).to_string(),
        link: None,
    }
}

/// Creates a syslog message for the operator's target. `kind` is its MSGID.
#[must_use]
pub fn syslog(organization: Option<OrganizationId>, at: Timestamp, kind: &str, text: &str) -> OwedDelivery {
    OwedDelivery {
        organization_id: organization,
        channel: Channel::Syslog,
        payload: json!({ "at": at.to_string(), "kind": kind, "text": text }).to_string(),
        link: None,
    }
}

/// Sends due deliveries, each channel independently, until `stopped` is true; sends in progress are completed
/// first.
pub async fn send_while(services: Arc<Services>, stopped: tokio::sync::watch::Receiver<bool>) {
    let channels = Channel::ALL.map(|channel| {
        let services = &services;
        in_rounds(stopped.clone(), move || async move {
            match send_due(services, channel).await {
                Ok(sent) => sent > 0,
                Err(error) => {
                    tracing::error!(?error, channel = channel.as_str(), "could not send deliveries");
                    false
                }
            }
        })
    });
    futures_util::future::join_all(channels).await;
}

/// Runs rounds until `stopped` is true: the next one at once if a round says that there is more, otherwise after a
/// pause.
pub(super) async fn in_rounds<F: Future<Output = bool>>(
    mut stopped: tokio::sync::watch::Receiver<bool>,
    round: impl Fn() -> F,
) {
    while !*stopped.borrow() {
        if !round().await {
            let _ = tokio::time::timeout(LOOK_EVERY, stopped.changed()).await;
        }
    }
}

/// Sends one round of a channel's due deliveries and returns how many were attempted.
///
/// # Errors
/// [`Error::Busy`](crate::domain::Error::Busy) or [`Error::Internal`](crate::domain::Error::Internal); a
/// delivery whose outcome could not be recorded is sent again.
pub async fn send_due(services: &Services, channel: Channel) -> Result<usize> {
    Ok(send_round(services, channel, &|| {}).await?.tried)
}

/// The result of sending.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Number of deliveries attempted.
    pub tried: usize,
    /// Deliveries that did not arrive.
    pub failed: Vec<Failed>,
}

/// A delivery that did not arrive.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// The delivery's name, as the receiver sees it.
    pub id: String,
    /// The cause.
    pub why: String,
}

/// Sends all due deliveries of a channel, each once, and returns the result. Calls `attempted` after each attempt,
/// and `go_on` before each round; if that returns `Break`, the deliveries not tried by then stay owed.
///
/// # Errors
/// As [`send_due`].
pub async fn send_all_due(
    services: &Services,
    channel: Channel,
    attempted: &(dyn Fn() + Sync),
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Sent> {
    let mut all = Sent::default();
    while go_on().is_continue() {
        // Failed deliveries are postponed, so this loop ends.
        let round = send_round(services, channel, attempted).await?;
        if round.tried == 0 {
            break;
        }
        all.tried += round.tried;
        all.failed.extend(round.failed);
    }
    Ok(all)
}

async fn send_round(services: &Services, channel: Channel, attempted: &(dyn Fn() + Sync)) -> Result<Sent> {
    let due = claim_due(services, channel).await?;
    let (tried, silent) = (due.len(), SilentHosts::default());
    let noted: Vec<Result<Option<Failed>>> = futures_util::stream::iter(due)
        .map(|row| attempt(services, row, &silent))
        .buffer_unordered(SIDE_BY_SIDE)
        .inspect(|_| attempted())
        .collect()
        .await;
    let noted = noted.into_iter().collect::<Result<Vec<_>>>()?;
    let failed = noted.into_iter().flatten().collect();
    Ok(Sent { tried, failed })
}

/// Sends one delivery and records the outcome; returns it if it did not arrive.
async fn attempt(services: &Services, row: DeliveryRow, silent: &SilentHosts) -> Result<Option<Failed>> {
    if silent.receives(&row) {
        return Ok(Some(Failed {
            id: name_of(services, &row),
            why: "its host does not answer".to_owned(),
        }));
    }
    let outcome = send(services, &row).await;
    if matches!(outcome, Err(Undelivered::Unanswered(_))) {
        silent.note(&row);
    }
    let (id, created_at, at) = (row.id, row.created_at, services.clock.now());
    let Err(failure) = outcome else {
        let noted = services
            .store
            .write(move |tx| deliveries::update_sent(tx, id, created_at, at))
            .await;
        return noted.map(|()| None);
    };
    let why = failure.to_string();
    let failed = Some(Failed {
        id: name_of(services, &row),
        why: why.clone(),
    });
    tracing::warn!(
        delivery = name_of(services, &row),
        channel = row.channel.as_str(),
        attempt = row.attempts + 1,
        why,
        "not delivered"
    );
    let wait = wait_secs(row.attempts).filter(|_| !matches!(failure, Undelivered::Never(_)));
    if let Some(secs) = wait {
        let next = at + SignedDuration::from_secs(secs);
        let noted = services
            .store
            .write(move |tx| deliveries::update_failed(tx, id, created_at, &why, next))
            .await;
        return noted.map(|()| failed);
    }
    let event = dead_letter(services, &row, &why);
    let entry_id = services.entropy.uuid(at);
    let noted = services
        .store
        .write(move |tx| {
            if deliveries::update_dead(tx, id, created_at, &why, at)? {
                audit::append_entry(tx, at, entry_id, &event)?;
            }
            Ok(())
        })
        .await;
    noted.map(|()| failed)
}

async fn send(services: &Services, row: &DeliveryRow) -> Result<(), Undelivered> {
    let (name, at) = (name_of(services, row), services.clock.now());
    let unreadable = || Undelivered::Never("the delivery can't be read".into());
    match row.channel {
        Channel::Mail => {
            let mut mail = read_mail(&services.keys, &row.payload).map_err(|_| unreadable())?;
            if wants_receipt(&row.payload) {
                mail.body.push_str(&receipt_of(services, row).await);
            }
            services.courier.send_mail(&name, &mail, at).await
        }
        Channel::Webhook => {
            let call: OwedCall = serde_json::from_str(&row.payload).map_err(|_| unreadable())?;
            let secret = services.keys.webhook_secret(row.organization_id);
            let call = WebhookCall {
                name: &name,
                url: &call.url,
                secret: secret.as_slice(),
                body: &call.body,
                at,
            };
            services.courier.call_webhook(&call).await
        }
        Channel::Syslog => {
            let message: OwedMessage = serde_json::from_str(&row.payload).map_err(|_| unreadable())?;
            let message = SyslogMessage {
                at: message.at,
                severity: Severity::Notice,
                kind: &message.kind,
                data: None,
                text: &message.text,
            };
            services.courier.write_syslog(&message).await
        }
    }
}

/// Returns the proof appended to a mail, which shows that the reported entry is in the trail; empty if it can't
/// be produced.
async fn receipt_of(services: &Services, row: &DeliveryRow) -> String {
    let Some(sequence) = row.audit_sequence else {
        return String::new();
    };
    match trail::bare_receipt(services, sequence).await {
        Ok(receipt) => format!(
            "\nWhat follows proves that this is on record, and can't be taken off it unnoticed: save this mail's \
             text, and check it with latchkey audit check-receipt and the public key that your administrators \
             give you.\n\n{receipt}"
        ),
        Err(error) => {
            tracing::error!(?error, "could not make a receipt for a notice");
            String::new()
        }
    }
}

#[derive(Deserialize)]
struct OwedCall {
    url: String,
    body: String,
}

#[derive(Deserialize)]
struct OwedMessage {
    at: Timestamp,
    kind: String,
    text: String,
}

/// Returns how long to wait after this attempt, given the number of failed ones before it; `None`: give up.
#[must_use]
pub fn wait_secs(failed_before: u32) -> Option<i64> {
    WAITS_SECS.get(usize::try_from(failed_before).ok()?).copied()
}

/// Returns the name under which a delivery is sent: the same for each attempt, and never reused for another
/// delivery, even if an older database is restored.
#[must_use]
pub fn name_of(services: &Services, row: &DeliveryRow) -> String {
    let hash = Sha256::new()
        .chain_update(b"latchkey delivery\n")
        .chain_update(services.keys.fingerprint())
        .chain_update(row.id.to_be_bytes())
        .chain_update(row.created_at.as_millisecond().to_be_bytes())
        .finalize();
    format!("msg_{}", hex::encode(&hash[..16]))
}

/// Returns the entry of a delivery that was given up; it does not include the contents, which may hold names.
fn dead_letter(services: &Services, row: &DeliveryRow, why: &str) -> Event {
    let name = name_of(services, row);
    let event = Event::new(EventType::DeliveryDead, row.organization_id, ActorRef::system())
        .on(Resource::other("DELIVERY", name, None))
        .ended(AuditResult::Failure, why)
        .with("channel", row.channel.as_str())
        .with("attempts", row.attempts + 1);
    let event = match row.audit_sequence {
        Some(sequence) => event.with("about", sequence),
        None => event,
    };
    match type_of(row) {
        Some(r#type) if row.organization_id.is_none() => event.with("call", r#type),
        _ => event,
    }
}

/// Returns the type of a webhook call.
fn type_of(row: &DeliveryRow) -> Option<String> {
    let call: OwedCall = serde_json::from_str(&row.payload).ok()?;
    let body: Value = serde_json::from_str(&call.body).ok()?;
    body["type"].as_str().map(str::to_owned)
}

/// Deletes deliveries that ended long ago, in batches, and returns how many. Called periodically.
///
/// # Errors
/// [`Error::Busy`](crate::domain::Error::Busy) or [`Error::Internal`](crate::domain::Error::Internal); the rest
/// is left to the next run.
pub async fn forget_ended(services: &Services) -> Result<usize> {
    let now = services.clock.now();
    let mut forgotten = 0;
    for (state, hours) in [
        (DeliveryState::Sent, SENT_HOURS),
        (DeliveryState::Dead, DEAD_HOURS),
    ] {
        let before = now - SignedDuration::from_hours(hours);
        for _ in 0..FORGOTTEN_IN_A_ROW {
            let some = services
                .store
                .write(move |tx| deliveries::delete_ended(tx, state, before, FORGOTTEN_AT_ONCE))
                .await?;
            forgotten += some;
            if some < FORGOTTEN_AT_ONCE {
                break;
            }
        }
    }
    Ok(forgotten)
}
