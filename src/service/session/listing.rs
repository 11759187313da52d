//! The sessions of a user: seen and ended by themselves, or ended by an admin.

use uuid::Uuid;

use super::{RequestContext, Services};
use crate::domain::account::{Principal, SessionId, User, UserId, Verb, may_act};
use crate::domain::audit::{AuditResult, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::sessions::{self, SessionRow};
use crate::store::{accounts, audit};

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
            sessions::clear_challenges(tx, user)?;
            audit::append_entry(tx, at, entry_id, &event.clone().with("sessionsEnded", ended))?;
            Ok(ended)
        })
        .await
}

/// Ends every session of a user of the caller's organisation, logins under way included (ASVS 7.4.5).
///
/// # Errors
/// [`Error::NotOrgAdmin`] without the role; [`Error::UserNotFound`], the same for a user of another
/// organisation; [`Error::MayNotAct`] on somebody above. Each refusal of an authenticated caller is an
/// entry.
pub async fn end_user_sessions(
    services: &Services,
    principal: &Principal,
    written_id: &str,
    context: &RequestContext,
) -> Result<u32> {
    services
        .limiter
        .check(Bucket::AdminByCaller, principal.user.id.0.as_bytes())?;
    let (caller, organization, at) = (principal.user.id, principal.organization.id, context.at);
    let not_found = Error::UserNotFound(written_id.to_owned());
    let id = written_id
        .parse::<Uuid>()
        .map(UserId)
        .map_err(|_| not_found.clone());
    let event = Event::by(principal, EventType::UserSessionsEnd)
        .from_request(&context.request_id, context.ip_text().as_deref());
    let written = Resource::other("USER", written_id, None);
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            let find = |id: UserId| accounts::find_user(tx, organization, id);
            let judged = (|| {
                let target = find(id.clone()?)?.ok_or_else(|| not_found.clone())?;
                let actor = find(caller)?.ok_or(Error::NotOrgAdmin)?;
                let settings = accounts::find_organization(tx, organization)?.map(|o| o.settings);
                may_act(&actor, &settings.unwrap_or_default(), Verb::EndSessions, &target)?;
                Ok::<User, Error>(target)
            })();
            match judged {
                Ok(target) => {
                    let ended = sessions::clear_sessions(tx, target.id, at)?;
                    sessions::clear_challenges(tx, target.id)?;
                    let event = event
                        .clone()
                        .on(Resource::user(&target))
                        .with("sessionsEnded", ended);
                    audit::append_entry(tx, at, entry_id, &event)?;
                    Ok(Ok(ended))
                }
                Err(error @ Error::Internal(_)) => Err(error),
                Err(error) => {
                    let event = event
                        .clone()
                        .on(written.clone())
                        .ended(AuditResult::Denied, &error);
                    audit::append_entry(tx, at, entry_id, &event)?;
                    Ok(Err(error))
                }
            }
        })
        .await?
}

fn own_event(principal: &Principal, context: &RequestContext) -> Event {
    Event::by(principal, EventType::UserSessionsEnd)
        .on(Resource::user(&principal.user))
        .from_request(&context.request_id, context.ip_text().as_deref())
}
