//! A user's own sessions: listing and ending them.

use uuid::Uuid;

use super::{RequestContext, Services, own_event, still_lives};
use crate::domain::account::{Principal, SessionId};
use crate::domain::audit::EventType;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::sessions::{self, SessionRow};
use crate::store::{audit, challenges};

/// Returns the caller's active sessions, the most recently used first.
///
/// # Errors
/// [`Error::RateLimited`]; [`Error::Internal`] if the store fails.
pub fn list_sessions(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Vec<SessionRow>> {
    admit(services, principal)?;
    services
        .store
        .read(|db| sessions::find_sessions(db, principal.user.id, context.at))
}

/// Ends one of the caller's sessions, the current one or another (ASVS 7.5.2).
///
/// # Errors
/// [`Error::NotFound`] if the caller has no such session; [`Error::Token`] if the current one has ended in the
/// meantime; [`Error::RateLimited`].
pub async fn end_session(
    services: &Services,
    principal: &Principal,
    written_id: &str,
    context: &RequestContext,
) -> Result<()> {
    admit(services, principal)?;
    let not_found = Error::NotFound {
        what: "Session",
        id: written_id.to_owned(),
    };
    let id = written_id
        .parse::<Uuid>()
        .map(SessionId)
        .map_err(|_| not_found.clone())?;
    let (session, at) = (principal.session.clone(), context.at);
    let event =
        own_event(EventType::UserSessionsEnd, &principal.user, context).with("sessionId", id.to_string());
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &session, at)?;
            let ended = if id == session.id {
                sessions::end_session(tx, &session, at)?
            } else {
                sessions::clear_session(tx, session.user_id, id)?
            };
            if !ended {
                return Err(not_found.clone());
            }
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(())
        })
        .await
}

/// Ends every session of the caller except the current one, and returns how many of them were local ones.
///
/// # Errors
/// [`Error::Token`] if the current session has ended in the meantime; [`Error::RateLimited`].
pub async fn end_other_sessions(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<u32> {
    admit(services, principal)?;
    let (kept, at) = (principal.session.clone(), context.at);
    let event = own_event(EventType::UserSessionsEnd, &principal.user, context);
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &kept, at)?;
            let ended = sessions::clear_other_sessions(tx, &kept, at)?;
            let logins = challenges::clear_challenges(tx, kept.user_id)?;
            // Repeated requests that end nothing must not make the trail grow.
            if ended > 0 || logins > 0 {
                audit::append_entry(tx, at, entry_id, &event.clone().with("sessionsEnded", ended))?;
            }
            Ok(ended)
        })
        .await
}

fn admit(services: &Services, principal: &Principal) -> Result<()> {
    services
        .limiter
        .check(Bucket::AccountByCaller, principal.user.id.0.as_bytes())
}
