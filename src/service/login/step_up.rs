//! Step-up: using the second factor again within a session (RFC 9470).

use uuid::Uuid;

use super::code::{Shown, read_code, told_of_recovery_code};
use super::second_step::{note_step_up, stepped_up_token, who_steps_up};
use super::{RequestContext, Services};
use crate::domain::account::Principal;
use crate::domain::audit::{AuditResult, EventType};
use crate::domain::policy::FactorKind;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::enrolment::current_user;
use crate::service::session::AccessToken;
use crate::service::{deliveries, own_event};
use crate::store::audit;

const WRONG_CODE: Error = Error::Refused("Invalid MFA code");

/// Records that the caller's second factor was used now, and returns an access token that says so. The
/// session's refresh token does not change.
///
/// # Errors
/// [`Error::NoMfa`] if the caller has no second factor; [`Error::Refused`] for a wrong or used code;
/// [`Error::RateLimited`]; [`Error::Busy`].
pub async fn step_up(
    services: &Services,
    principal: &Principal,
    code: &str,
    context: &RequestContext,
) -> Result<AccessToken> {
    let user = who_steps_up(principal)?;
    if !user.mfa_enabled {
        return Err(Error::NoMfa);
    }
    services
        .limiter
        .check_address(Bucket::CodeByAddress, context.ip)?;
    // Counted by session: an attacker who knows only the password has none, and so uses up nothing here.
    services
        .limiter
        .check(Bucket::CodeByAccount, principal.session.id.0.as_bytes())?;
    let shown = read_code(services, user, code, context).await?;
    let owed = match shown.as_ref().map(Shown::kind) {
        Some(FactorKind::RecoveryCodes) => {
            told_of_recovery_code(services, user, "stepped up a session with", context)?
        }
        _ => Vec::new(),
    };
    let (id, session, at) = (user.id, principal.session.id, context.at);
    let request = context.clone();
    let entry_ids: [Uuid; 2] = std::array::from_fn(|_| services.entropy.uuid(at));
    let stepped_up = services
        .store
        .write_for(user.organization_id, move |tx| {
            let user = current_user(tx, id)?;
            let event =
                own_event(EventType::UserStepUp, &user, &request).with("sessionId", session.to_string());
            let spent = match &shown {
                Some(shown) => shown.take(tx, &user, &request)?,
                None => None,
            };
            let (Some(shown), Some(spent)) = (&shown, spent) else {
                let event = event
                    .ended(AuditResult::Denied, WRONG_CODE)
                    .with("reason", "wrong-code");
                audit::append_entry(tx, at, entry_ids[0], &event)?;
                return Ok(Err(WRONG_CODE));
            };
            let session = note_step_up(tx, &user, session, shown.kind(), at)?;
            audit::append_entry(tx, at, entry_ids[0], &event.with("method", spent.method()))?;
            if let Some(event) = spent.event(&user, &request) {
                let entry = audit::append_entry(tx, at, entry_ids[1], &event)?;
                deliveries::owe(tx, &owed, entry.sequence, at)?;
            }
            Ok(Ok((user, session)))
        })
        .await?;
    let (user, session) = stepped_up?;
    Ok(stepped_up_token(services, &user, &session, at))
}
