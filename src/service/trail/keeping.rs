//! Retention of entries by organisation, and erasure of a user's personal data.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::Services;
use crate::domain::account::{Organization, OrganizationId, UserId};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::store::audit::{self, Erasure};
use crate::store::{Connection, Transaction, accounts, approvals, deliveries, requests};

/// Maximum number of entries changed in one transaction, which blocks all other writes.
const BATCH: usize = 500;
/// Maximum number of batches per organisation and run; the next run continues.
const BATCHES: usize = 40;
/// Days after which a shorter retention takes effect.
pub const RETENTION_GRACE_DAYS: i64 = 7;
/// Maximum number of entries scanned in one read.
const SCANNED: u64 = 50_000;

/// Prunes entries older than their organisation's retention to their hashes, in batches. Returns how many. A
/// shorter retention takes effect only after the grace period. Pruning can't be undone: call this only while the
/// clock is known to run evenly.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails; entries pruned until then stay pruned.
pub async fn prune_expired(services: &Services) -> Result<usize> {
    let organizations = services.store.read(accounts::find_organizations)?;
    let mut pruned = 0;
    for organization in organizations {
        let at = services.clock.now();
        let Some(days) = days_kept(services, &organization, at)? else {
            continue;
        };
        let before = at - SignedDuration::from_hours(24 * i64::from(days));
        for _ in 0..BATCHES {
            let entry_id = services.entropy.uuid(at);
            let id = organization.id;
            let limit = u32::try_from(BATCH).unwrap_or(u32::MAX);
            let count = services
                .store
                .write(move |tx| audit::prune_entries(tx, id, before, limit, at, entry_id))
                .await?;
            pruned += count;
            if count < BATCH {
                break;
            }
        }
    }
    Ok(pruned)
}

/// Returns for how many days an organisation's entries are kept; `None`: for ever. This is the longest retention
/// that was set during the grace period, so that nobody can shorten it to have their own acts pruned before others
/// notice.
fn days_kept(services: &Services, organization: &Organization, at: Timestamp) -> Result<Option<u16>> {
    let Some(mut days) = organization.settings.audit_retention_days else {
        return Ok(None);
    };
    let since = at - SignedDuration::from_hours(24 * RETENTION_GRACE_DAYS);
    let changes = services
        .store
        .read(|db| audit::find_retention_changes(db, organization.id, since))?;
    for before in changes {
        let Some(before) = before else {
            return Ok(None);
        };
        days = days.max(before);
    }
    Ok(Some(days))
}

/// Erases a user's personal data in an organisation's trail: e-mail address, client addresses and details, in
/// entries of acts by and on them, and the policy questions and answers about them. Outside the trail, erases
/// tickets and approvals about them, and mail not yet sent to them. Ids, types, times, results and proofs stay.
/// Returns the number of erased parts of entries. Calls `progress` with the number of entries scanned and the
/// trail's size. After a crash, [`carry_on_erasures`] continues.
///
/// # Errors
/// [`Error::UserNotFound`] when neither the organisation nor its trail knows the user; [`Error::Internal`]
/// when SQLite fails.
pub async fn erase_user(
    services: &Services,
    organization: OrganizationId,
    user: UserId,
    actor: ActorRef,
    mut progress: impl FnMut(u64, u64),
) -> Result<usize> {
    let addresses = services
        .store
        .read_long(Some(organization), move |db| {
            audit::find_addresses(db, organization, user)
        })
        .await?
        .ok_or_else(|| Error::UserNotFound(user.to_string()))?;
    let erasure = Erasure {
        organization,
        user,
        actor,
        addresses,
        next: Some(0),
    };
    let at = services.clock.now();
    let owed = erasure.clone();
    services
        .store
        .write(move |tx| audit::insert_erasure(tx, &owed, at))
        .await?;
    let mut under_way = Some(erasure);
    let mut erased = 0;
    while let Some(erasure) = under_way {
        let (count, rest) = step(services, erasure).await?;
        erased += count;
        let all = super::size(services)?;
        progress(rest.as_ref().and_then(|rest| rest.next).unwrap_or(all), all);
        under_way = rest;
    }
    Ok(erased)
}

/// Continues all pending erasures. Returns the number of erased parts of entries.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails; the next call continues from there.
pub async fn carry_on_erasures(services: &Services) -> Result<usize> {
    let mut erased = 0;
    while let Some(owed) = services.store.read(audit::find_erasure)? {
        let mut under_way = Some(owed);
        while let Some(erasure) = under_way {
            let count;
            (count, under_way) = step(services, erasure).await?;
            erased += count;
        }
    }
    Ok(erased)
}

/// Processes one range of the trail. Returns the number of erased parts, and what is left to do.
async fn step(services: &Services, mut erasure: Erasure) -> Result<(usize, Option<Erasure>)> {
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    // Search outside the writer, since this reads the whole trail.
    let (erasure, personal, beside) = services
        .store
        .read_long(Some(erasure.organization), move |db| {
            if erasure.next.is_none() {
                let known = audit::find_addresses(db, erasure.organization, erasure.user)?;
                erasure.addresses.extend(known.unwrap_or_default());
                erasure.addresses.sort();
                erasure.addresses.dedup();
            }
            let personal = audit::find_personal(db, &erasure, SCANNED, BATCH)?;
            let is_last = personal.next >= audit::size(db)?;
            let beside = is_last.then(|| Beside::find(db, &erasure)).transpose()?;
            Ok((erasure, personal, beside))
        })
        .await?;
    let event = Event::new(
        EventType::AuditErase,
        Some(erasure.organization),
        erasure.actor.clone(),
    )
    .on(Resource::other("USER", erasure.user, None));
    let rest = Erasure {
        next: Some(personal.next),
        ..erasure
    };
    services
        .store
        .write(move |tx| {
            let erased = audit::erase_parts(tx, &event, &personal.parts, &personal.decided, at, entry_id)?;
            if let Some(beside) = &beside {
                beside.forget(tx)?;
                audit::clear_erasure(tx, &rest)?;
            } else {
                audit::update_erasure(tx, &rest)?;
            }
            Ok((erased, beside.is_none().then(|| rest.clone())))
        })
        .await
}

/// A user's personal data outside the trail.
struct Beside {
    calls: Vec<i64>,
    approvals: Vec<Uuid>,
    deliveries: Vec<i64>,
}

impl Beside {
    fn find(db: &Connection, erasure: &Erasure) -> Result<Self> {
        let (organization, addresses) = (erasure.organization, &erasure.addresses);
        Ok(Self {
            calls: requests::find_calls_about(db, organization, erasure.user, addresses)?,
            approvals: approvals::find_about(db, organization, erasure.user, addresses)?,
            deliveries: deliveries::find_to(db, organization, addresses)?,
        })
    }

    fn forget(&self, tx: &Transaction<'_>) -> Result<()> {
        requests::clear_tickets(tx, &self.calls)?;
        approvals::forget(tx, &self.approvals)?;
        deliveries::delete_deliveries(tx, &self.deliveries)
    }
}
