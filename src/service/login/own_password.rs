//! Changing one's own password, given the current one (ASVS 6.2.2, 6.2.3).

use super::attempts::admit_own_password;
use super::new_password::{NewPassword, check_rules};
use super::{Password, RequestContext, Services};
use crate::domain::account::Principal;
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::domain::credential::{self, PASSWORD_MAX_CHARACTERS};
use crate::domain::{Error, Result};
use crate::service::own_event;
use crate::service::session::still_lives;
use crate::store::{audit, passwords};

/// Result of verifying the current password and hashing the new one.
enum Judged {
    Wrong,
    Same,
    Hashed(String),
}

/// Changes the caller's password and ends their other sessions. If they have a second factor it is required
/// first, as before any change of factors: otherwise an attacker with a session and the password could take
/// over for good.
///
/// # Errors
/// [`Error::StepUpRequired`] if the second factor was not used recently; [`Error::RateLimited`], counted
/// together with the passwords tried at login; [`Error::Validation`] for a wrong current password, which is
/// recorded, and for a new one that breaks the organisation's rules or equals the old one; [`Error::Stale`] if
/// it was changed in the meantime; [`Error::Busy`].
pub async fn change_own_password(
    services: &Services,
    principal: &Principal,
    current: Password,
    new: Password,
    context: &RequestContext,
) -> Result<()> {
    let (user, organization) = (&principal.full()?.user, &principal.organization);
    principal.may_change_factors(context.at)?;
    // Checked before the attempt is counted: it reveals nothing about the current password, and trying several
    // new passwords uses up no attempts.
    check_rules(&new, &organization.settings, "newPassword")?;
    let attempt = admit_own_password(services, principal, context)?;
    let old = services
        .store
        .read(|db| passwords::find_password_hash(db, user.id))?;
    let (salt, shown) = (services.entropy.bytes(), old.clone());
    let work = move || {
        let right = |password: &Password, hash: &String| credential::verify_password(&password.0, hash);
        match shown {
            // Longer passwords were never accepted, and must not cost more to check.
            _ if current.0.chars().count() > PASSWORD_MAX_CHARACTERS => Judged::Wrong,
            Some(hash) if right(&current, &hash) => match right(&new, &hash) {
                true => Judged::Same,
                false => Judged::Hashed(credential::hash_password(&new.0, salt)),
            },
            _ => Judged::Wrong,
        }
    };
    let event = own_event(EventType::UserPasswordChange, user, context);
    let hash = match services.hashing.run(Some(organization.id), work).await? {
        Judged::Wrong => return Err(refuse(services, event, old.is_some(), context).await?),
        Judged::Same => {
            attempt.forget(services);
            return Err(Error::field(
                "newPassword",
                "must differ from the current password",
            ));
        }
        Judged::Hashed(hash) => hash,
    };
    attempt.forget(services);
    let session = principal.session.clone();
    let (whose, how, event) = (
        (organization, user),
        "changed the password",
        event.with("reason", "own"),
    );
    let new = NewPassword::of(services, whose, hash, how, event, Some(session.clone()), context);
    let (user, at) = (user.id, context.at);
    services
        .store
        .write_for(organization.id, move |tx| {
            still_lives(tx, &session, at)?;
            if passwords::find_password_hash(tx, user)? != old {
                return Err(Error::Stale);
            }
            new.keep(tx)
        })
        .await
}

/// Records a wrong current password and returns the error. It is a 400: the access token is still valid, and a
/// 401 would make clients discard it.
async fn refuse(
    services: &Services,
    event: Event,
    has_password: bool,
    context: &RequestContext,
) -> Result<Error> {
    let error = Error::field("currentPassword", "is wrong");
    let reason = match has_password {
        true => "wrong-password",
        false => "no-password",
    };
    let event = event
        .ended(AuditResult::Denied, Error::InvalidCredentials)
        .with("reason", reason);
    let (at, id) = (context.at, services.entropy.uuid(context.at));
    services
        .store
        .write(move |tx| audit::append_entry(tx, at, id, &event).map(drop))
        .await?;
    Ok(error)
}
