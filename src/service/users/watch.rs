//! Detection of "reset, then admin access", the pattern of attackers who phone the help desk. An admin or
//! help-desk user who uses that power within 24 hours of an MFA reset raises an alarm, once per reset.
//!
//! The trail is scanned periodically: every operation that needs the power leaves an entry there, done or
//! refused, so no entry point is missed.

use jiff::SignedDuration;
use serde_json::json;

use crate::domain::Result;
use crate::domain::account::{Organization, Role, User};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::service::deliveries::{self, OwedDelivery};
use crate::service::{Services, notices};
use crate::store::requests::ResetDone;
use crate::store::{Connection, accounts, audit, requests};

/// How long an account is watched after a reset.
const WATCHED: SignedDuration = SignedDuration::from_hours(24);

/// A recently reset user who used power beyond their own account.
struct Suspicion {
    organization: Organization,
    user: User,
    admins: Vec<User>,
    reset: ResetDone,
    /// Sequence number of the entry of what they did.
    sequence: u64,
    did: EventType,
}

/// Raises the alarms that are due and returns how many. Meant to be called once a minute.
///
/// # Errors
/// [`Error::Busy`](crate::domain::Error::Busy) or [`Error::Internal`](crate::domain::Error::Internal); the rest
/// is checked the next time.
pub async fn watch_reset_admins(services: &Services) -> Result<usize> {
    let since = services.clock.now() - WATCHED;
    let suspicions = services
        .store
        .read_long(None, move |db| {
            let resets = requests::find_resets_since(db, since)?;
            let found = resets.into_iter().map(|reset| suspicion(db, reset));
            found.filter_map(Result::transpose).collect::<Result<Vec<_>>>()
        })
        .await?;
    let count = suspicions.len();
    for suspicion in suspicions {
        raise(services, suspicion).await?;
    }
    Ok(count)
}

fn suspicion(db: &Connection, reset: ResetDone) -> Result<Option<Suspicion>> {
    let Some(user) = accounts::find_user_anywhere(db, reset.target)? else {
        return Ok(None);
    };
    let organization = user.organization_id;
    if user.role < Role::HelpDesk || was_raised(db, &user, reset)? {
        return Ok(None);
    }
    let Some((sequence, did)) = audit::find_first_by(db, organization, &user.email, reset.at, needs_power)?
    else {
        return Ok(None);
    };
    let Some(organization) = accounts::find_organization(db, organization)? else {
        return Ok(None);
    };
    let admins = accounts::find_active_admins(db, organization.id)?;
    Ok(Some(Suspicion {
        organization,
        user,
        admins,
        reset,
        sequence,
        did,
    }))
}

fn was_raised(db: &Connection, user: &User, reset: ResetDone) -> Result<bool> {
    audit::entry_exists(
        db,
        user.organization_id,
        EventType::UserResetAlarm,
        user.id.0,
        reset.at,
    )
}

/// True unless the event is one that any user causes with their own account.
fn needs_power(event_type: EventType) -> bool {
    !matches!(
        event_type,
        EventType::UserLogin
            | EventType::UserLogout
            | EventType::RefreshTokenReuse
            | EventType::UserStepUp
            | EventType::UserPasswordChange
            | EventType::UserMfaEnabled
            | EventType::UserMfaDisabled
            | EventType::UserPasskeyRegistered
            | EventType::UserPasskeyRemoved
            | EventType::UserPasskeyAlarm
            | EventType::UserRecoveryCodesRegenerated
            | EventType::UserRecoveryCodeUsed
            | EventType::UserReport
    )
}

async fn raise(services: &Services, suspicion: Suspicion) -> Result<()> {
    let at = services.clock.now();
    let owed = warning(services, &suspicion, at);
    let Suspicion {
        organization,
        user,
        reset,
        sequence,
        did,
        ..
    } = suspicion;
    let event = Event::new(
        EventType::UserResetAlarm,
        Some(organization.id),
        ActorRef::system(),
    )
    .on(Resource::user(&user))
    .with("resetAt", reset.at.to_string())
    .with("did", did.as_str())
    .with("about", sequence);
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            if was_raised(tx, &user, reset)? {
                return Ok(());
            }
            let entry = audit::append_entry(tx, at, entry_id, &event)?;
            deliveries::owe(tx, &owed, entry.sequence, at)
        })
        .await
}

fn warning(services: &Services, suspicion: &Suspicion, at: jiff::Timestamp) -> Vec<OwedDelivery> {
    let Suspicion {
        organization,
        user,
        admins,
        reset,
        did,
        ..
    } = suspicion;
    let subject = format!("{} acts as an administrator soon after an MFA reset", user.email);
    let body = format!(
        "The second factor of {} was reset on {:.0}, and the account has used its power since: {}.\n\nThat is what \
         attackers do who talk a help desk into a reset. Talk to them, by a way that you know. If it was not them, \
         deactivate the account at once, and look in the audit trail for what else it did.\n",
        notices::called(user),
        reset.at,
        did.as_str(),
    );
    let mut owed = notices::to_admins(services, organization, admins, user, &subject, &body);
    let data = json!({ "userId": user.id, "resetAt": reset.at, "did": did.as_str() });
    owed.extend(notices::call(
        services,
        organization,
        "user.reset.alarm",
        at,
        data,
    ));
    owed
}
