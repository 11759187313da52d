//! People, as the admins of their organisation change them (contract B3). Every verb on an existing user
//! goes through `act.rs`: judged by the rule of who may act on whom, checked again in the transaction that
//! carries it out, and on the record with its entry in the same transaction.

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
pub use invitation::{Shown, accept_invitation};
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

/// What is done to a user, besides the reset of their second factors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Change what an admin may change.
    Update(UserPatch),
    /// Delete.
    Delete,
    /// Delete, and erase what the trail knows of them personally. Always with a further admin.
    Erase,
    /// Take the password away and send a link to set a new one.
    ResetPassword,
    /// End every session.
    EndSessions,
    /// Restore factors that were taken away.
    RestoreFactors {
        /// Those taken at that time or the last ones before it; `None`: the only ones.
        taken_before: Option<jiff::Timestamp>,
    },
}

/// Changes a user. Giving or taking a role, and deactivating, end the user's sessions (ASVS 7.4.2, 8.3.2)
/// and revoke the API keys that they made as an admin.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::UserNotFound`], [`Error::MayNotAct`],
/// [`Error::Validation`], [`Error::Refused`] for the last admin, [`Error::RateLimited`]. Each is an entry.
pub async fn update_user(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
    patch: Result<UserPatch>,
) -> Result<Outcome> {
    let change = patch.map(Change::Update);
    recorded(
        services,
        principal,
        context,
        written_id,
        EventType::UserUpdate,
        change,
    )
    .await
}

/// Deletes a user and all that belongs to them. The trail stays.
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
    recorded(
        services,
        principal,
        context,
        written_id,
        EventType::UserDelete,
        change,
    )
    .await
}

/// Deletes a user as [`delete_user`] does, and owes the erasure of what the trail knows of them personally.
/// Waits for a further admin, whoever the user is: nobody covers their tracks alone.
///
/// # Errors
/// As [`update_user`]; [`Error::Refused`] where there is no further admin.
pub async fn erase_user(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Outcome> {
    let change = Ok(Change::Erase);
    recorded(
        services,
        principal,
        context,
        written_id,
        EventType::UserDelete,
        change,
    )
    .await
}

/// Takes a user's password away, ends their sessions, and sends them a link to set a new one. Second
/// factors stay. The admin never learns the password; without mail they are shown the link, to hand over.
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
    recorded(
        services,
        principal,
        context,
        written_id,
        EventType::UserPasswordReset,
        change,
    )
    .await
}

/// Ends every session of a user, logins under way included (ASVS 7.4.5). Second factors stay.
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
    let done = recorded(
        services,
        principal,
        context,
        written_id,
        EventType::UserSessionsEnd,
        change,
    );
    Ok(done.await?.sessions_ended)
}

/// Restores factors that a reset took away, the user's own device for example, and destroys what was set up
/// since. Ends sessions, and unlocks the account where the user's report or a missed enrolment had locked it.
///
/// # Errors
/// As [`update_user`]; [`Error::Refused`] where there is nothing to restore; [`Error::Conflict`] where factors were
/// taken more than once and it isn't said which are meant.
pub async fn restore_factors(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
    taken_before: Option<jiff::Timestamp>,
) -> Result<Outcome> {
    let change = Ok(Change::RestoreFactors { taken_before });
    recorded(
        services,
        principal,
        context,
        written_id,
        EventType::UserFactorsRestore,
        change,
    )
    .await
}

async fn recorded(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
    event_type: EventType,
    change: Result<Change>,
) -> Result<Outcome> {
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

/// Carries out what an approval was waiting for.
///
/// # Errors
/// As [`update_user`]; nothing is recorded then.
pub(super) async fn carry_out(services: &Services, act: &Act) -> Result<Outcome> {
    act::carry_out(services, act).await
}

impl Change {
    /// The same, as an approval keeps it.
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
