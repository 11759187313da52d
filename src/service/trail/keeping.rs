//! How long the trail keeps what: retention by organisation, and erasure of a user's personal data.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::Services;
use crate::domain::account::{Organization, OrganizationId, UserId};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::store::audit::{self, Erasure};
use crate::store::{Connection, Transaction, accounts, approvals, deliveries, requests};

/// Entries changed in one transaction: it holds up every other write meanwhile.
const BATCH: usize = 500;
/// Batches in a row for one organisation; the rest is done the next time.
const BATCHES: usize = 40;
/// A shorter retention takes effect after this long.
pub const RETENTION_GRACE_DAYS: i64 = 7;
/// Entries looked at in one read.
const SCANNED: u64 = 50_000;

/// Prunes to their hashes the entries that are older than their organisation keeps them, some at a time.
/// Says how many. A shorter limit counts only when its grace is over. What is pruned by mistake is gone: only for a
/// clock that runs evenly.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails; what was pruned before stays so.
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

/// For how many days an organisation's entries are kept: the longest that was set within the grace, so that
/// nobody shortens it and has what they did pruned before anybody else notices. `None`: for ever.
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

/// Erases what an organisation's trail knows of a user personally: address, client addresses and details,
/// in what they did and what was done to them, and what policies were told; and beside the trail the tickets and
/// approvals that are about them, and mail that has not reached them yet. Ids, kinds, times and results
/// stay, and so do proofs. Says how many parts of entries. `progress` is told the places done and how many
/// there are. What a crash interrupts, [`carry_on_erasures`] goes on with.
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

/// Goes on with every erasure that is owed. Says how many parts of entries were erased.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails; it goes on from there the next time.
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

/// One stretch of the trail: how many parts were erased, and what is left to do.
async fn step(services: &Services, mut erasure: Erasure) -> Result<(usize, Option<Erasure>)> {
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    // Found beside the writer: it takes a pass over the trail.
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

/// What is known of a user beside the trail.
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
