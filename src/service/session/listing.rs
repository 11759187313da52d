//! The sessions of a user, seen and ended by themselves.

use uuid::Uuid;

use super::{RequestContext, Services};
use crate::domain::account::{Principal, SessionId};
use crate::domain::audit::{Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::store::sessions::{self, SessionRow};
use crate::store::{audit, challenges};

/// The caller's live sessions, the one used last first.
///
/// # Errors
/// [`Error::Internal`] when the store fails.
pub fn list_sessions(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Vec<SessionRow>> {
    services
        .store
        .read(|db| sessions::find_sessions(db, principal.user.id, context.at))
}

/// Ends one of the caller's sessions, this one or another (ASVS 7.5.2).
///
/// # Errors
/// [`Error::NotFound`] when the caller has no such session.
pub async fn end_session(
    services: &Services,
    principal: &Principal,
    written_id: &str,
    context: &RequestContext,
) -> Result<()> {
    let not_found = Error::NotFound {
        what: "Session",
        id: written_id.to_owned(),
    };
    let id = written_id
        .parse::<Uuid>()
        .map(SessionId)
        .map_err(|_| not_found.clone())?;
    let (user, at) = (principal.user.id, context.at);
    let event = own_event(principal, context).with("sessionId", id.to_string());
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            if !sessions::clear_session(tx, user, id)? {
                return Err(not_found.clone());
            }
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(())
        })
        .await
}

/// Ends every session of the caller but this one, and says how many there were.
///
/// # Errors
/// [`Error::Internal`] when the store fails.
pub async fn end_other_sessions(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<u32> {
    let (user, kept, at) = (principal.user.id, principal.session.id, context.at);
    let event = own_event(principal, context);
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            let ended = sessions::clear_other_sessions(tx, user, kept)?;
            challenges::clear_challenges(tx, user)?;
            audit::append_entry(tx, at, entry_id, &event.clone().with("sessionsEnded", ended))?;
            Ok(ended)
        })
        .await
}

fn own_event(principal: &Principal, context: &RequestContext) -> Event {
    Event::by(principal, EventType::UserSessionsEnd)
        .on(Resource::user(&principal.user))
        .from_request(&context.request_id, context.ip_text().as_deref())
}
