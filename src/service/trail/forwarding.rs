//! Every entry of the trail, forwarded to a SIEM by syslog (RFC 5424) and by webhook: in order, at least
//! once, each way out for itself.
//!
//! The trail is the list of what is to be sent, and the place kept in the database says what was: nothing
//! is owed twice, nothing is lost in a crash, and a receiver that was down for a week is told everything
//! once it is back. An entry that was sent and not yet noted is sent again, under the same name
//! (`webhook-id`, and `id` in the message): not at once, since how far it has come can't be noted on a full disk. What
//! was pruned meanwhile is left out.
//!
//! One entry must not stop the rest for ever. What is too long for the way out, or is refused for good, is sent
//! shortened to what names it, with its leaf hash; what is refused even so, for hours, is left out, and that is
//! an entry. Of a row that can't be read any more, since it was changed or damaged, the place and that hash are sent.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Services;
use crate::courier::{Severity, SyslogMessage, Undelivered, WebhookCall};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::{ActorRef, AuditResult, Entry, Event, EventType, Resource};
use crate::service::deliveries::{CLAIMED_SECS, wait_secs};
use crate::store::accounts;
use crate::store::audit::{self, Forwarding, Standing};

/// Where entries are forwarded to, by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardTo {
    /// To the syslog target.
    pub syslog: bool,
    /// To this address.
    pub webhook: Option<String>,
    /// Only entries of the organisations with these slugs; every entry of the node when empty.
    pub organizations: Vec<String>,
}

/// A way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// RFC 5424.
    Syslog,
    /// Standard Webhooks.
    Webhook,
}

/// How often it is looked for new entries.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries between two notes of how far it has come.
const ROUND: u32 = 64;
/// Longest wait after a failure, in seconds: a receiver that is back is told soon.
const LONGEST_WAIT_SECS: i64 = 600;
/// An entry that is refused for good this often, shortened too, is left out: after a good two hours, in which
/// whoever changed the receiver may have noticed.
const REFUSALS: u32 = 16;
/// The kind of a syslog message about a row that can't be read.
const UNREADABLE: &str = "UNREADABLE";
/// In the entry of one that was left out: its place.
const LEFT_OUT: &str = "leftOut";

impl Way {
    /// Its name in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syslog => "syslog",
            Self::Webhook => "webhook",
        }
    }
}

impl ForwardTo {
    /// The ways out that are configured.
    #[must_use]
    pub fn ways(&self) -> Vec<Way> {
        let syslog = self.syslog.then_some(Way::Syslog);
        let webhook = self.webhook.as_ref().map(|_| Way::Webhook);
        syslog.into_iter().chain(webhook).collect()
    }
}

/// Slugs of which entries are to be forwarded and that no organisation has: nothing is.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_unknown_slugs(services: &Services) -> Result<Vec<String>> {
    let there = services.store.read(accounts::find_organizations)?;
    let wanted = services.settings.trail.forward_to.organizations.iter();
    let unknown = wanted.filter(|slug| there.iter().all(|organization| organization.slug != **slug));
    Ok(unknown.cloned().collect())
}

/// Forwards what comes, each way out for itself, until `stopped` says so.
pub async fn forward_while(services: Arc<Services>, stopped: tokio::sync::watch::Receiver<bool>) {
    let ways = services.settings.trail.forward_to.ways().into_iter().map(|way| {
        let (services, mut stopped) = (Arc::clone(&services), stopped.clone());
        async move {
            while !*stopped.borrow() {
                let more = match forward_due(&services, way).await {
                    Ok(more) => more,
                    Err(error) => {
                        tracing::error!(?error, way = way.as_str(), "the trail could not be forwarded");
                        false
                    }
                };
                if !more {
                    let _ = tokio::time::timeout(LOOK_EVERY, stopped.changed()).await;
                }
            }
        }
    });
    futures_util::future::join_all(ways).await;
}

/// Forwards the next entries, if there are any and it is time, and says whether there may be more at once.
/// A way out that is used for the first time begins with what comes from then on: what was before is in an
/// export.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when the store fails; what was sent and not noted is
/// sent again.
pub async fn forward_due(services: &Services, way: Way) -> Result<bool> {
    let now = services.clock.now();
    let (known, size, slugs) = services.store.read(|db| {
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
    // An older database was put in place, or a copy of another.
    place.next = place.next.min(size);
    // What is to wait any longer was put off by a clock that was ahead.
    let longest = now + SignedDuration::from_secs(LONGEST_WAIT_SECS);
    if place.next_attempt_at > now && place.next_attempt_at <= longest {
        return Ok(false);
    }
    if place.next >= size && !is_new {
        return Ok(false);
    }
    // Claimed before anything is sent: where this can't be noted, neither could be that it was.
    place.next_attempt_at = now + SignedDuration::from_secs(CLAIMED_SECS);
    let claimed = place.clone();
    services
        .store
        .write(move |tx| audit::update_forwarding(tx, &claimed))
        .await?;
    let from = place.next;
    let read = services
        .store
        .read_long(None, move |db| audit::every_entry_after(db, from, ROUND))
        .await;
    let (entries, next) = match read {
        Ok(read) => read,
        Err(error) => {
            let why = format!("the trail can't be read: {}", error.for_operator());
            put_off(&mut place, from, why, now);
            services
                .store
                .write(move |tx| audit::update_forwarding(tx, &place))
                .await?;
            return Err(error);
        }
    };
    let wanted = &services.settings.trail.forward_to.organizations;
    let slug_of =
        |id: Option<OrganizationId>| slugs.iter().find(|o| Some(o.id) == id).map(|o| o.slug.as_str());
    let mut failed = None;
    for entry in &entries {
        if let Standing::Unreadable(row) = entry {
            let (sequence, problem) = (row.sequence, row.problem.as_str());
            tracing::error!(
                sequence,
                problem,
                "an entry can't be read, and its hash alone is forwarded: latchkey audit verify"
            );
        }
        let slug = slug_of(entry.organization_id());
        let is_wanted = wanted.is_empty() || slug.is_some_and(|slug| wanted.iter().any(|w| w == slug));
        if is_wanted && let Err(failure) = send(services, way, entry, slug).await {
            failed = Some((entry, failure));
            break;
        }
    }
    let more = match failed {
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
                "an entry was not forwarded"
            );
            // Where something went through before it, it is a new failure.
            if entry.sequence() > from {
                place.attempts = 0;
            }
            let is_final = matches!(failure, Undelivered::Refused(_) | Undelivered::Never(_))
                && place.last_error.as_ref() == Some(&why);
            if is_final && place.attempts + 1 >= REFUSALS {
                return leave_out(services, place, entry, &why).await;
            }
            // The next entry must not come before this one.
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

/// Waits with the entry at `next`, the longer the more often it was tried.
fn put_off(place: &mut Forwarding, next: u64, why: String, now: Timestamp) {
    let secs = wait_secs(place.attempts).map_or(LONGEST_WAIT_SECS, |secs| secs.min(LONGEST_WAIT_SECS));
    place.next = next;
    place.attempts = place.attempts.saturating_add(1);
    place.next_attempt_at = now + SignedDuration::from_secs(secs);
    place.last_error = Some(why);
}

/// Goes on behind an entry that is refused for good, on the record; an entry that records just that is left out
/// without another one, or there would be no end to them.
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

/// What names it to receivers, the same at each attempt.
fn name_of(entry: &Standing) -> String {
    match entry {
        Standing::Entry(entry) => entry.id.to_string(),
        Standing::Unreadable(row) => format!("audit-entry-{}", row.sequence),
    }
}

/// Sends an entry; shortened, where it is refused as it is.
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

/// An entry as receivers are told it: with its leaf hash, so that what they keep can be compared with the
/// tree.
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

/// What names an entry and proves which it is: the rest is in the trail.
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
