//! Removing one's own passkey.

use uuid::Uuid;

use super::admit;
use crate::domain::account::Principal;
use crate::domain::audit::EventType;
use crate::domain::{Error, Result};
use crate::service::session::{end_others, still_lives};
use crate::service::{RequestContext, Services, deliveries, enrolment, own_event};
use crate::store::{accounts, audit, factors, passkeys};

/// Removes one of the caller's passkeys. Removing the last usable second factor disables MFA and deletes the
/// recovery codes.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::StepUpRequired`] if the second factor was not used recently;
/// [`Error::Refused`] for the last factor while the organisation requires MFA; [`Error::RateLimited`];
/// [`Error::Busy`].
pub async fn remove_passkey(
    services: &Services,
    principal: &Principal,
    written_id: &str,
    context: &RequestContext,
) -> Result<()> {
    principal.full()?;
    let not_found = Error::NotFound {
        what: "Passkey",
        id: written_id.to_owned(),
    };
    let wanted: Uuid = written_id.parse().map_err(|_| not_found.clone())?;
    let (id, session, at) = (principal.user.id, principal.session.clone(), context.at);
    let rows = services.store.read(|db| passkeys::find_passkeys(db, id))?;
    let row = rows.into_iter().find(|row| row.id == wanted);
    let row = row.ok_or_else(|| not_found.clone())?;
    admit(services, principal, context)?;
    let removed = own_event(EventType::UserPasskeyRemoved, &principal.user, context)
        .with("passkeyId", row.id.to_string())
        .with("passkeyName", row.name.clone());
    let disabled = own_event(EventType::UserMfaDisabled, &principal.user, context);
    let did = format!("removed the passkey \"{}\"", row.name);
    let owed = enrolment::told(services, principal, context, &did, "user.passkey.removed");
    let entry_ids: [Uuid; 2] = std::array::from_fn(|_| services.entropy.uuid(at));
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &session, at)?;
            let user = enrolment::current_user(tx, id)?;
            let rows = passkeys::find_passkeys(tx, id)?;
            if !rows.iter().any(|row| row.id == wanted) {
                return Err(not_found.clone());
            }
            let others = rows.iter().any(|row| row.id != wanted && row.cloned_at.is_none());
            let disables = !others && factors::find_totp(tx, id)?.is_none();
            let mut gone = Vec::new();
            if disables {
                let organization = accounts::find_organization(tx, user.organization_id)?;
                if organization.is_some_and(|organization| organization.settings.mfa_required) {
                    return Err(Error::Refused("Your organization requires MFA"));
                }
                gone = factors::clear_factors(tx, id, at)?;
            } else {
                passkeys::delete_passkey(tx, id, wanted)?;
            }
            factors::touch_user(tx, id, at)?;
            let ended = end_others(tx, &session, at)?;
            let removed = removed.clone().with("sessionsEnded", ended);
            let entry = audit::append_entry(tx, at, entry_ids[0], &removed)?;
            if disables {
                let kinds: Vec<_> = gone
                    .iter()
                    .map(|facts| enrolment::kind_name(facts.kind))
                    .collect();
                audit::append_entry(tx, at, entry_ids[1], &disabled.clone().with("factors", kinds))?;
            }
            deliveries::owe(tx, &owed, entry.sequence, at)
        })
        .await
}
