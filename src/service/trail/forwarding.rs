//! Forwards every entry of the trail to a SIEM by syslog (RFC 5424) and by webhook: in order, at least once, each
//! channel independently.
//!
//! The trail itself is the queue, and the database stores each channel's position: no entry is stored twice, none
//! is lost in a crash, and a receiver that was down for a week gets everything once it is back. An entry that was
//! sent before the position was stored is sent again with the same id (`webhook-id`, and `id` in the message), but
//! not at once, since on a full disk the position can't be stored. Entries pruned meanwhile are skipped.
//!
//! No entry may block the rest for ever. One that is too long for the channel or permanently refused is sent
//! shortened to its identity and leaf hash. One that is refused even so, for hours, is skipped, which is recorded
//! in an entry. For a row that can't be read any more because it was changed or damaged, its sequence and leaf
//! hash are sent.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Services;
use crate::courier::{Severity, SyslogMessage, Undelivered, WebhookCall};
use crate::domain::Result;
use crate::domain::account::Organization;
use crate::domain::audit::{ActorRef, AuditResult, Entry, Event, EventType, Resource};
use crate::service::deliveries::{CLAIMED_SECS, in_rounds, wait_secs};
use crate::store::accounts;
use crate::store::audit::{self, Forwarding, Standing};

/// Where the operator has entries forwarded to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardTo {
    /// Whether to forward to the syslog target.
    pub syslog: bool,
    /// URL of the webhook to forward to.
    pub webhook: Option<String>,
    /// Slugs of the organisations whose entries are forwarded; if empty, all entries are.
    pub organizations: Vec<String>,
}

/// A channel to forward entries by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Syslog messages (RFC 5424).
    Syslog,
    /// Webhook calls (Standard Webhooks).
    Webhook,
}

/// Maximum number of entries sent between two updates of the stored position.
const ROUND: u32 = 64;
/// Longest wait after a failure, in seconds; bounds the delay after a receiver is back.
const LONGEST_WAIT_SECS: i64 = 600;
/// Number of permanent refusals, even shortened, after which an entry is skipped: more than two hours, in which a
/// misconfigured receiver may be noticed.
const REFUSALS: u32 = 16;
/// Kind of the syslog message about a row that can't be read.
const UNREADABLE: &str = "UNREADABLE";
/// Key of the skipped entry's sequence in the details of the entry that records it.
const LEFT_OUT: &str = "leftOut";

impl Way {
    /// The channel's name, as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syslog => "syslog",
            Self::Webhook => "webhook",
        }
    }
}

impl ForwardTo {
    /// The configured channels.
    #[must_use]
    pub fn ways(&self) -> Vec<Way> {
        let syslog = self.syslog.then_some(Way::Syslog);
        let webhook = self.webhook.as_ref().map(|_| Way::Webhook);
        syslog.into_iter().chain(webhook).collect()
    }
}

/// Returns the slugs configured for forwarding that no organisation has; nothing is forwarded for these.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_unknown_slugs(services: &Services) -> Result<Vec<String>> {
    let there = services.store.read(accounts::find_organizations)?;
    let wanted = services.settings.trail.forward_to.organizations.iter();
    let unknown = wanted.filter(|slug| there.iter().all(|organization| organization.slug != **slug));
    Ok(unknown.cloned().collect())
}

/// Forwards new entries by each channel independently, until `stopped` is true.
pub async fn forward_while(services: Arc<Services>, stopped: tokio::sync::watch::Receiver<bool>) {
    let ways = services.settings.trail.forward_to.ways().into_iter().map(|way| {
        let services = &services;
        in_rounds(stopped.clone(), move || async move {
            match forward_due(services, way).await {
                Ok(more) => more,
                Err(error) => {
                    tracing::error!(?error, way = way.as_str(), "could not forward the trail");
                    false
                }
            }
        })
    });
    futures_util::future::join_all(ways).await;
}

/// Forwards the next entries, if there are any and they are due. Returns whether there may be more right away. A
/// channel that is used for the first time begins with entries from then on; export the trail for earlier ones.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when the store fails; entries whose sending was not stored
/// are sent again.
pub async fn forward_due(services: &Services, way: Way) -> Result<bool> {
    let now = services.clock.now();
    let Some(claimed) = claim(services, way, now).await? else {
        return Ok(false);
    };
    let (mut place, size) = (claimed.place, claimed.size);
    let from = place.next;
    let read = services
        .store
        .read_long(None, move |db| audit::every_entry_after(db, from, ROUND))
        .await;
    let (entries, next) = match read {
        Ok(read) => read,
        Err(error) => {
            let why = format!("could not read the trail: {}", error.for_operator());
            put_off(&mut place, from, why, now);
            services
                .store
                .write(move |tx| audit::update_forwarding(tx, &place))
                .await?;
            return Err(error);
        }
    };
    let more = match send_in_order(services, way, &entries, &claimed.organizations).await {
        None => {
            (place.next, place.attempts, place.last_error) = (next, 0, None);
            place.next_attempt_at = now;
            next < size
        }
        Some((entry, failure)) => {
            let why = failure.to_string();
            tracing::warn!(
                way = way.as_str(),
                sequence = entry.sequence(),
                why,
                "could not forward an entry"
            );
            // If an earlier entry of this round was sent, this is a new failure.
            if entry.sequence() > from {
                place.attempts = 0;
            }
            let is_final = matches!(failure, Undelivered::Refused(_) | Undelivered::Never(_))
                && place.last_error.as_ref() == Some(&why);
            if is_final && place.attempts + 1 >= REFUSALS {
                return leave_out(services, place, entry, &why).await;
            }
            // Stop here: the next entry must not be sent before this one.
            put_off(&mut place, entry.sequence(), why, now);
            false
        }
    };
    services
        .store
        .write(move |tx| audit::update_forwarding(tx, &place))
        .await?;
    Ok(more)
}

/// Entries that are due to be sent by one channel, claimed.
struct Claimed {
    place: Forwarding,
    /// Size of the trail.
    size: u64,
    organizations: Vec<Organization>,
}

/// Claims the next entries, if there are any and they are due.
async fn claim(services: &Services, way: Way, now: Timestamp) -> Result<Option<Claimed>> {
    let (known, size, organizations) = services.store.read(|db| {
        Ok((
            audit::find_forwarding(db, way.as_str())?,
            audit::size(db)?,
            accounts::find_organizations(db)?,
        ))
    })?;
    let is_new = known.is_none();
    let mut place = known.unwrap_or_else(|| Forwarding {
        channel: way.as_str().to_owned(),
        next: size,
        attempts: 0,
        next_attempt_at: now,
        last_error: None,
    });
    // The position may be beyond the end of an older or foreign database.
    place.next = place.next.min(size);
    // A longer wait was set while the clock was ahead.
    let longest = now + SignedDuration::from_secs(LONGEST_WAIT_SECS);
    if place.next_attempt_at > now && place.next_attempt_at <= longest {
        return Ok(None);
    }
    if place.next >= size && !is_new {
        return Ok(None);
    }
    // Claim before sending anything: if the claim can't be stored, neither could the new position.
    place.next_attempt_at = now + SignedDuration::from_secs(CLAIMED_SECS);
    let claimed = place.clone();
    services
        .store
        .write(move |tx| audit::update_forwarding(tx, &claimed))
        .await?;
    Ok(Some(Claimed {
        place,
        size,
        organizations,
    }))
}

/// Sends those of the entries that are wanted, one after the other, up to the first that fails: returns that one.
async fn send_in_order<'a>(
    services: &Services,
    way: Way,
    entries: &'a [Standing],
    organizations: &[Organization],
) -> Option<(&'a Standing, Undelivered)> {
    let wanted = &services.settings.trail.forward_to.organizations;
    for entry in entries {
        if let Standing::Unreadable(row) = entry {
            let (sequence, problem) = (row.sequence, row.problem.as_str());
            tracing::error!(
                sequence,
                problem,
                "could not read an entry, so only its sequence and leaf hash are forwarded: run latchkey audit verify"
            );
        }
        let of_entry = |organization: &&Organization| Some(organization.id) == entry.organization_id();
        let slug = organizations.iter().find(of_entry).map(|o| o.slug.as_str());
        let is_wanted = wanted.is_empty() || slug.is_some_and(|slug| wanted.iter().any(|w| w == slug));
        if is_wanted && let Err(failure) = send(services, way, entry, slug).await {
            return Some((entry, failure));
        }
    }
    None
}

/// Postpones the entry at `next`; the wait grows with the number of attempts.
fn put_off(place: &mut Forwarding, next: u64, why: String, now: Timestamp) {
    let secs = wait_secs(place.attempts).map_or(LONGEST_WAIT_SECS, |secs| secs.min(LONGEST_WAIT_SECS));
    place.next = next;
    place.attempts = place.attempts.saturating_add(1);
    place.next_attempt_at = now + SignedDuration::from_secs(secs);
    place.last_error = Some(why);
}

/// Skips a permanently refused entry and records it. An entry that records such a skip is itself skipped without a
/// record, or there would be no end to them.
async fn leave_out(services: &Services, mut place: Forwarding, entry: &Standing, why: &str) -> Result<bool> {
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let is_such = matches!(entry, Standing::Entry(entry)
        if entry.event.event_type == EventType::DeliveryDead && entry.event.details.contains_key(LEFT_OUT));
    let event = Event::new(EventType::DeliveryDead, None, ActorRef::system())
        .on(Resource::other("AUDIT_ENTRY", name_of(entry), None))
        .ended(AuditResult::Failure, why)
        .with("channel", place.channel.as_str())
        .with("attempts", place.attempts + 1)
        .with(LEFT_OUT, entry.sequence());
    place.next = entry.sequence() + 1;
    (place.attempts, place.next_attempt_at, place.last_error) = (0, at, None);
    services
        .store
        .write(move |tx| {
            audit::update_forwarding(tx, &place)?;
            if is_such {
                return Ok(());
            }
            audit::append_entry(tx, at, entry_id, &event).map(drop)
        })
        .await?;
    Ok(true)
}

/// Returns the id that receivers see, which is the same at each attempt.
fn name_of(entry: &Standing) -> String {
    match entry {
        Standing::Entry(entry) => entry.id.to_string(),
        Standing::Unreadable(row) => format!("audit-entry-{}", row.sequence),
    }
}

/// Sends an entry; if it is refused, sends it shortened. For an unreadable row, sends its sequence and leaf hash.
async fn send(
    services: &Services,
    way: Way,
    standing: &Standing,
    slug: Option<&str>,
) -> Result<(), Undelivered> {
    let entry = match standing {
        Standing::Entry(entry) => entry,
        Standing::Unreadable(row) => {
            let data = json!({
                "sequence": row.sequence,
                "organization": slug,
                "leafHash": row.leaf_hash.map(hex::encode),
                "unreadable": true,
            });
            return send_data(services, way, standing, data).await;
        }
    };
    match send_data(services, way, standing, told(entry, slug)).await {
        Err(Undelivered::Never(_) | Undelivered::Refused(_)) => {
            send_data(services, way, standing, shortened(entry, slug)).await
        }
        sent => sent,
    }
}

async fn send_data(
    services: &Services,
    way: Way,
    standing: &Standing,
    data: Value,
) -> Result<(), Undelivered> {
    let (at, kind, result) = match standing {
        Standing::Entry(entry) => (entry.at, entry.event.event_type.as_str(), entry.event.result),
        Standing::Unreadable(_) => (services.clock.now(), UNREADABLE, AuditResult::Failure),
    };
    match (way, &services.settings.trail.forward_to.webhook) {
        (Way::Syslog, _) => {
            let text = data.to_string();
            let message = SyslogMessage {
                at,
                severity: match result {
                    AuditResult::Success => Severity::Notice,
                    AuditResult::Denied | AuditResult::Failure => Severity::Warning,
                },
                kind,
                data: None,
                text: &text,
            };
            services.courier.write_syslog(&message).await
        }
        (Way::Webhook, Some(url)) => {
            let body = json!({ "type": "audit.entry", "timestamp": format!("{at:.3}"), "data": data });
            let secret = services.keys.webhook_secret(None);
            let call = WebhookCall {
                name: &name_of(standing),
                url,
                secret: secret.as_slice(),
                body: &body.to_string(),
                at: services.clock.now(),
            };
            services.courier.call_webhook(&call).await
        }
        (Way::Webhook, None) => Err(Undelivered::Later("no address is configured".into())),
    }
}

/// The message about an entry. Includes its leaf hash, so that receivers can compare it with the tree.
fn told(entry: &Entry, slug: Option<&str>) -> Value {
    let event = &entry.event;
    let resource = event.resource.as_ref();
    json!({
        "sequence": entry.sequence,
        "id": entry.id,
        "createdAt": format!("{:.3}", entry.at),
        "eventType": event.event_type.as_str(),
        "result": event.result.as_str(),
        "actorType": event.actor.r#type.as_str(),
        "actorId": event.actor.id,
        "actorEmail": event.actor.email,
        "ipAddress": event.ip_address,
        "resourceType": resource.map(|resource| &resource.r#type),
        "resourceId": resource.map(|resource| &resource.id).filter(|id| !id.is_empty()),
        "resourceName": resource.and_then(|resource| resource.name.as_ref()),
        "errorMessage": event.error_message,
        "requestId": event.request_id,
        "organization": slug,
        "details": event.details,
        "leafHash": hex::encode(entry.leaf_hash),
    })
}

/// The shortened message about an entry: its identity and leaf hash. The rest is in the trail.
fn shortened(entry: &Entry, slug: Option<&str>) -> Value {
    json!({
        "sequence": entry.sequence,
        "id": entry.id,
        "createdAt": format!("{:.3}", entry.at),
        "eventType": entry.event.event_type.as_str(),
        "result": entry.event.result.as_str(),
        "organization": slug,
        "leafHash": hex::encode(entry.leaf_hash),
        "truncated": true,
    })
}
