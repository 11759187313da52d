//! Restoring factors that a reset removed.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::act::Case;
use crate::domain::account::{Principal, User, UserId};
use crate::domain::audit::Event;
use crate::domain::policy::FactorFacts;
use crate::domain::{Error, Result};
use crate::service::login::WINDOW_OVER_REASON;
use crate::service::refusals::admit_reader;
use crate::service::reset::read_user_id;
use crate::service::{RequestContext, Services, not_me, notices};
use crate::store::deliveries::OwedDelivery;
use crate::store::{Connection, Transaction, accounts, factors};

const NOTHING: Error = Error::Refused("There are no factors to restore");

/// A suspended factor.
#[derive(Clone, Debug)]
pub struct Suspended {
    /// Kind and properties of the factor.
    pub facts: FactorFacts,
    /// When it was suspended by the reset.
    pub taken_at: Timestamp,
    /// When it will be destroyed.
    pub destroyed_at: Timestamp,
}

/// Returns the factors of a user that an admin can still restore, the most recently suspended first.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::UserNotFound`], [`Error::Malformed`], [`Error::RateLimited`].
pub fn list_suspended_factors(
    services: &Services,
    principal: &Principal,
    written_id: &str,
) -> Result<Vec<Suspended>> {
    let admin = admit_reader(services, principal)?;
    let id = read_user_id(written_id)?;
    let now = services.clock.now();
    let found = services.store.read(|db| {
        accounts::find_user(db, admin.organization.id, id)?
            .ok_or_else(|| Error::UserNotFound(written_id.to_owned()))?;
        factors::find_suspended_factors(db, id, kept_since(services, now))
    })?;
    let suspended = found.into_iter().map(|(facts, taken_at)| Suspended {
        facts,
        taken_at,
        destroyed_at: taken_at + kept_for(services),
    });
    Ok(suspended.collect())
}

/// Returns the time before which a factor must have been suspended to be destroyed now.
pub(in crate::service) fn destroyed_before(services: &Services) -> Timestamp {
    kept_since(services, services.clock.now())
}

/// The factors to restore: all that were removed at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restoring {
    /// When they were removed.
    pub taken_at: Timestamp,
}

impl Restoring {
    /// Chooses the factors removed at `taken_before` or most recently before it. Without that time, it does not
    /// choose between several removals: all but the first removed factors were set up after an earlier removal, by
    /// the user or by the person who caused it. If a thief then has their own factors removed as well, these must
    /// not be restored in the user's name.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is nothing to restore; [`Error::Conflict`] if there are several and no time.
    pub fn choose(
        services: &Services,
        db: &Connection,
        user: UserId,
        taken_before: Option<Timestamp>,
        at: Timestamp,
    ) -> Result<Self> {
        let suspended = factors::find_suspended_factors(db, user, kept_since(services, at))?;
        let mut times: Vec<_> = suspended.into_iter().map(|(_, taken_at)| taken_at).collect();
        times.dedup(); // latest first
        let chosen = match (taken_before, &times[..]) {
            (Some(before), times) => times.iter().find(|taken_at| **taken_at <= before),
            (None, []) => None,
            (None, [only]) => Some(only),
            (None, several) => return Err(Error::Conflict(which(several))),
        };
        let taken_at = *chosen.ok_or(NOTHING)?;
        Ok(Self { taken_at })
    }

    /// Restores in the transaction. Factors set up since are destroyed: an attacker's must never come back, and
    /// the user can set up their own again.
    pub fn run(self, tx: &Transaction<'_>, target: &User, at: Timestamp, event: Event) -> Result<Event> {
        let (restored, destroyed) = factors::update_restored(tx, target.id, self.taken_at)?;
        if restored.is_empty() {
            return Err(NOTHING);
        }
        factors::clear_enrolment(tx, target.id)?;
        factors::clear_enrolment_due(tx, target.id)?;
        let unlocks = target.locked.as_ref().is_some_and(|lock| is_lifted(&lock.reason));
        if unlocks {
            accounts::update_lock(tx, target.id, None, at)?;
        } else {
            factors::touch_user(tx, target.id, at)?;
        }
        Ok(event
            .with("restoredFactors", kinds(&restored))
            .with("destroyedFactors", kinds(&destroyed))
            .with("takenAt", self.taken_at.to_string())
            .with("unlocked", unlocks))
    }
}

/// Returns the message that asks which removal is meant and lists their times, earliest first.
fn which(times: &[Timestamp]) -> String {
    let times: Vec<_> = times
        .iter()
        .rev()
        .map(|taken_at| format!("{taken_at:.3}"))
        .collect();
    format!(
        "Factors were removed more than once: {}. Choose one of these times with takenBefore or --taken-before. \
         Those removed later were set up after the first were removed, perhaps by somebody else",
        times.join(", ")
    )
}

/// True if restoring lifts the lock; one set by a policy or for another reason stays.
fn is_lifted(reason: &str) -> bool {
    reason == not_me::LOCK_REASON || reason == WINDOW_OVER_REASON
}

/// Returns the notices to the user, as for every change.
pub(super) fn notices(services: &Services, case: &Case, context: &RequestContext) -> Vec<OwedDelivery> {
    let changed = notices::Changed {
        organization: &case.organization,
        target: &case.target,
        by: &case.actor,
        subject: "Your second factor was restored",
        what: &format!(
            "restored the earlier second factor of your account {}",
            case.target.email
        ),
        then: "What was set up since is gone, and all sessions were ended.",
        event: "user.factors.restored",
    };
    notices::of_change(services, &changed, context)
}

fn kinds(facts: &[FactorFacts]) -> Vec<Value> {
    facts.iter().map(|facts| json!(facts.kind)).collect()
}

fn kept_for(services: &Services) -> SignedDuration {
    SignedDuration::from_secs(services.settings.suspended_factor_secs)
}

fn kept_since(services: &Services, now: Timestamp) -> Timestamp {
    now - kept_for(services)
}
