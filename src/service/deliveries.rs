//! What must reach the outside world: owed in the transaction of what it tells of, sent after it, at least
//! once.
//!
//! # How to owe something
//!
//! 1. Outside of the transaction make an [`OwedDelivery`]: [`super::notices::mail`] and
//!    [`super::notices::sealed_mail`] for mail, [`webhook`] for a signed call, [`syslog`] for a message.
//! 2. In the transaction, after the entry was appended: [`owe`]`(tx, &deliveries, entry.sequence, at)`.
//!
//! That is all. While the server runs, [`send_while`] sends each channel's deliveries once a second, several
//! side by side. A delivery that is not confirmed is sent again, under the same name ([`name_of`]:
//! `Message-ID`, `webhook-id`), after the waits of [`WAITS_SECS`]; after the last one, or where it can never
//! arrive, it is given up: `dead`, with an entry ([`EventType::DeliveryDead`]) in the same transaction. Nothing
//! is remembered in memory: after a crash, whatever was not confirmed is still owed.
//!
//! # How to forward a stream
//!
//! Whoever forwards *every* entry of the trail should owe nothing: the trail itself is the list of what is to
//! be sent, and a place in it, kept after each confirmed message, says what was. Such a forwarder takes
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

/// How long to wait after the first, second, … attempt that failed, in seconds: a week's end is bridged.
pub const WAITS_SECS: [i64; 11] = [
    5, 30, 120, 600, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400,
];
/// Sent side by side by one channel.
const SIDE_BY_SIDE: usize = 8;
/// How often it is looked what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What was sent is remembered for this long, what was given up for longer, in hours.
const SENT_HOURS: i64 = 7 * 24;
const DEAD_HOURS: i64 = 90 * 24;
/// Forgotten in one change, and changes in a row; the rest is done the next time.
const FORGOTTEN_AT_ONCE: usize = 1000;
const FORGOTTEN_IN_A_ROW: usize = 20;

/// Owes deliveries, in the transaction of what they tell of. `sequence` is that of its entry.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when the store fails.
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

/// A call of a webhook: `{type, timestamp, data}` as Standard Webhooks wants it, `type` in words with dots.
/// Signed with the organisation's secret when it is sent.
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

/// A syslog message, for the operator's target. `kind` is its MSGID.
#[must_use]
pub fn syslog(organization: Option<OrganizationId>, at: Timestamp, kind: &str, text: &str) -> OwedDelivery {
    OwedDelivery {
        organization_id: organization,
        channel: Channel::Syslog,
        payload: json!({ "at": at.to_string(), "kind": kind, "text": text }).to_string(),
        link: None,
    }
}

/// Sends what is due, each channel for itself, until `stopped` says so; what is under way then is ended
/// first.
pub async fn send_while(services: Arc<Services>, stopped: tokio::sync::watch::Receiver<bool>) {
    let channels = Channel::ALL.map(|channel| {
        let (services, mut stopped) = (Arc::clone(&services), stopped.clone());
        async move {
            while !*stopped.borrow() {
                let more = match send_due(&services, channel).await {
                    Ok(sent) => sent > 0,
                    Err(error) => {
                        tracing::error!(?error, channel = channel.as_str(), "could not send what is owed");
                        false
                    }
                };
                if !more {
                    let _ = tokio::time::timeout(LOOK_EVERY, stopped.changed()).await;
                }
            }
        }
    });
    futures_util::future::join_all(channels).await;
}

/// Sends what is due by one way now, once, and says how many were tried.
///
/// # Errors
/// [`Error::Busy`](crate::domain::Error::Busy) or [`Error::Internal`](crate::domain::Error::Internal); what could not be noted is sent again.
pub async fn send_due(services: &Services, channel: Channel) -> Result<usize> {
    Ok(send_round(services, channel, &|| {}).await?.tried)
}

/// What came of a round of sending.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// How many were tried.
    pub tried: usize,
    /// Those that did not arrive.
    pub failed: Vec<Failed>,
}

/// A delivery that did not arrive.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Its name.
    pub id: String,
    /// Why.
    pub why: String,
}

/// Sends all that is due by one way now, each once, and says what came of it. `attempted` is told after each;
/// `go_on` is asked before each round, and what was not tried by then stays owed.
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
        // What failed waits, so that this ends.
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

/// Sends one and notes what came of it: handed back where it did not arrive.
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
            .write(move |tx| deliveries::update_failed(tx, id, &why, next))
            .await;
        return noted.map(|()| failed);
    }
    let event = dead_letter(services, &row, &why);
    let entry_id = services.entropy.uuid(at);
    let noted = services
        .store
        .write(move |tx| {
            deliveries::update_dead(tx, id, &why, at)?;
            audit::append_entry(tx, at, entry_id, &event).map(drop)
        })
        .await;
    noted.map(|()| failed)
}

async fn send(services: &Services, row: &DeliveryRow) -> Result<(), Undelivered> {
    let (name, at) = (name_of(services, row), services.clock.now());
    let unreadable = || Undelivered::Never("what is owed can't be read".into());
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

/// What follows the text of a mail that proves what it tells; nothing where that can't be had.
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
            tracing::error!(?error, "a receipt could not be made for a notice");
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

/// How long to wait after so many failed attempts before this one; `None`: no longer.
#[must_use]
pub fn wait_secs(failed_before: u32) -> Option<i64> {
    WAITS_SECS.get(usize::try_from(failed_before).ok()?).copied()
}

/// The name under which a delivery is sent, the same at each attempt and never used for another one, even
/// where an older database is put back.
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

/// The entry of a delivery that was given up: that, not what, since it may hold names.
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

/// The type of a webhook's call.
fn type_of(row: &DeliveryRow) -> Option<String> {
    let call: OwedCall = serde_json::from_str(&row.payload).ok()?;
    let body: Value = serde_json::from_str(&call.body).ok()?;
    body["type"].as_str().map(str::to_owned)
}

/// Forgets deliveries that ended long ago, some at a time, and says how many. Called now and then.
///
/// # Errors
/// [`Error::Busy`](crate::domain::Error::Busy) or [`Error::Internal`](crate::domain::Error::Internal); what is left is done the next time.
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
