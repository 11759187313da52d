//! User administration by an organisation's admins. Every operation on an existing user goes through `act.rs`:
//! checked against the rule of who may act on whom, checked again in the transaction that carries it out, and
//! recorded by an entry in the same transaction.

mod act;
mod change;
mod create;
mod import;
mod invitation;
mod restore;
mod watch;

pub use act::{Act, Outcome};
pub use create::{NewPerson, create_user};
pub use import::{Format, ImportOptions, Imported, LINES_LIMIT, Refused, Watch, import_users};
pub use invitation::{ShownLink, accept_invitation};
use restore::Restoring;
pub(super) use restore::destroyed_before;
pub use restore::{Suspended, list_suspended_factors};
pub use watch::watch_reset_admins;

use super::mandate::Mandate;
use super::refusals::{admit_admin, record_refusal, written_user};
use super::reset::read_user_id;
use super::{RequestContext, Services};
use crate::domain::account::Principal;
use crate::domain::approval::{UserPatch, Wanted};
use crate::domain::audit::EventType;
use crate::domain::{Error, Result};

/// An operation on a user, other than the reset of their second factors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Change the fields that an admin may change.
    Update(UserPatch),
    /// Delete.
    Delete,
    /// Delete, and erase their personal data in the trail. Always requires a further admin.
    Erase,
    /// Remove the password and send a link to set a new one.
    ResetPassword,
    /// End every session.
    EndSessions,
    /// Restore factors that a reset removed.
    RestoreFactors {
        /// Those removed at this time or most recently before it; `None`: the only ones.
        taken_before: Option<jiff::Timestamp>,
    },
}

/// Changes a user. Granting or revoking a role, and deactivating, end the user's sessions (ASVS 7.4.2, 8.3.2)
/// and revoke the API keys that they created as an admin.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::UserNotFound`], [`Error::MayNotAct`],
/// [`Error::Validation`], [`Error::Refused`] for the last admin, [`Error::RateLimited`]. Each is recorded in
/// the trail.
pub async fn update_user(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
    patch: Result<UserPatch>,
) -> Result<Outcome> {
    let change = patch.map(Change::Update);
    recorded(services, principal, context, written_id, change).await
}

/// Deletes a user and all data that belongs to them, except the trail.
///
/// # Errors
/// As [`update_user`].
pub async fn delete_user(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Outcome> {
    let change = Ok(Change::Delete);
    recorded(services, principal, context, written_id, change).await
}

/// Deletes a user as [`delete_user`] does, and schedules the erasure of their personal data in the trail.
/// Always awaits a further admin, whoever the user is: nobody can cover their tracks alone.
///
/// # Errors
/// As [`update_user`]; [`Error::Refused`] if there is no further admin.
pub async fn erase_user(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Outcome> {
    let change = Ok(Change::Erase);
    recorded(services, principal, context, written_id, change).await
}

/// Removes a user's password, ends their sessions, and sends them a link to set a new one. Second factors stay.
/// The admin never learns the password; if mail is not configured they are shown the link, to hand over.
///
/// # Errors
/// As [`update_user`].
pub async fn reset_password(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Outcome> {
    let change = Ok(Change::ResetPassword);
    recorded(services, principal, context, written_id, change).await
}

/// Ends every session of a user, logins in progress included (ASVS 7.4.5). Second factors stay.
///
/// # Errors
/// As [`update_user`].
pub async fn end_user_sessions(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<u32> {
    let change = Ok(Change::EndSessions);
    let done = recorded(services, principal, context, written_id, change).await?;
    Ok(done.sessions_ended)
}

/// Restores factors that a reset removed, such as the user's own device, and destroys those set up since. Ends
/// sessions, and unlocks the account if it was locked by the user's report or a missed enrolment.
///
/// # Errors
/// As [`update_user`]; [`Error::Refused`] if there is nothing to restore; [`Error::Conflict`] if factors were
/// removed more than once and `taken_before` does not say which are meant.
pub async fn restore_factors(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
    taken_before: Option<jiff::Timestamp>,
) -> Result<Outcome> {
    let change = Ok(Change::RestoreFactors { taken_before });
    recorded(services, principal, context, written_id, change).await
}

/// Carries out an operation, or records why it was refused.
async fn recorded(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
    change: Result<Change>,
) -> Result<Outcome> {
    // Only an update has a body that can be malformed.
    let event_type = change.as_ref().map_or(EventType::UserUpdate, Change::event_type);
    let attempt = async {
        admit_admin(services, principal, context)?; // 429, 403, 401 where a step-up is due
        let act = Act {
            context: context.clone(),
            target: read_user_id(written_id)?, // 400
            change: change?,                   // 400
            mandate: Mandate::of(principal),
        };
        act::carry_out(services, &act).await // 404, 403, 400; 202
    };
    match attempt.await {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            let user = written_user(written_id);
            Err(record_refusal(services, principal, context, event_type, user, error).await)
        }
    }
}

/// Carries out an operation that was approved.
///
/// # Errors
/// As [`update_user`]; nothing is recorded then.
pub(super) async fn carry_out(services: &Services, act: &Act) -> Result<Outcome> {
    act::carry_out(services, act).await
}

impl Change {
    /// Returns the operation in the form stored in an approval.
    fn wanted(&self, restoring: Option<Restoring>) -> Result<Wanted> {
        match self {
            Self::Update(patch) => Ok(Wanted::UpdateUser(patch.clone())),
            Self::Delete => Ok(Wanted::DeleteUser),
            Self::Erase => Ok(Wanted::EraseUser),
            Self::ResetPassword => Ok(Wanted::ResetPassword),
            Self::RestoreFactors { .. } => {
                let Restoring { taken_at } = restoring.ok_or(Error::Stale)?;
                Ok(Wanted::RestoreFactors { taken_at })
            }
            Self::EndSessions => Err(Error::Internal("ending sessions waits for nobody".into())),
        }
    }

    fn event_type(&self) -> EventType {
        match self {
            Self::Update(_) => EventType::UserUpdate,
            Self::Delete | Self::Erase => EventType::UserDelete,
            Self::ResetPassword => EventType::UserPasswordReset,
            Self::EndSessions => EventType::UserSessionsEnd,
            Self::RestoreFactors { .. } => EventType::UserFactorsRestore,
        }
    }
}
