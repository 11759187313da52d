//! An operation on a user: checked on one snapshot, carried out in one transaction if that still holds.

mod plan;

use uuid::Uuid;

use super::Change;
use super::invitation::ShownLink;
use super::restore::Restoring;
use crate::domain::account::{May, Organization, Role, User, UserId, Verb, may_act};
use crate::domain::{Error, Result};
use crate::service::mandate::Mandate;
use crate::service::{RequestContext, Services};
use crate::store::{Transaction, accounts};
use plan::Plan;

/// How often an operation is re-evaluated if the state it was checked on changed in the meantime.
const ATTEMPTS: usize = 3;

/// An operation on a user, as requested.
#[derive(Clone, Debug)]
pub struct Act {
    /// Metadata of the request.
    pub context: RequestContext,
    /// The user to operate on.
    pub target: UserId,
    /// The operation.
    pub change: Change,
    /// The authority under which it is carried out.
    pub mandate: Mandate,
}

/// The result of an operation.
#[derive(Clone)]
pub struct Outcome {
    /// The user afterwards; unchanged if they were deleted or a further admin has to approve.
    pub user: User,
    /// Set if a further admin has to approve; nothing has been changed yet.
    pub approval_id: Option<Uuid>,
    /// The link to set a password, if it could not be mailed.
    pub invitation: Option<ShownLink>,
    /// The code that enrolment will require, if unlocking reopened the window. Shown once.
    pub enrolment_code: Option<String>,
    /// Number of sessions ended.
    pub sessions_ended: u32,
}

/// The state that an operation was checked on.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub organization: Organization,
    pub actor: User,
    pub target: User,
    pub may: May,
    pub admin_emails: Vec<String>,
    /// The factors to restore; only with [`Change::RestoreFactors`].
    pub restoring: Option<Restoring>,
}

pub(super) async fn carry_out(services: &Services, act: &Act) -> Result<Outcome> {
    for _ in 0..ATTEMPTS {
        let case = gather(services, act)?; // 404, 403
        let Some(plan) = Plan::of(services, act, case)? else {
            if act.mandate.agreement.is_some() {
                return Err(Error::Conflict("What was asked for is so already".into()));
            }
            return unchanged(services, act);
        };
        let shown = (plan.invitation(), plan.enrolment_code());
        match services
            .store
            .write_for(act.mandate.organization, move |tx| plan.run(tx))
            .await
        {
            Err(Error::Stale) => {} // what was judged has changed: judge again
            Err(error) => return Err(error),
            Ok(mut outcome) => {
                if outcome.approval_id.is_none() {
                    (outcome.invitation, outcome.enrolment_code) = shown;
                }
                return Ok(outcome);
            }
        }
    }
    Err(Error::Stale)
}

fn gather(services: &Services, act: &Act) -> Result<Case> {
    let mandate = &act.mandate;
    services.store.read(|db| {
        let organization = accounts::find_organization(db, mandate.organization)?
            .ok_or_else(|| Error::Internal("the caller's organisation is gone".into()))?;
        mandate.stepped_up(&organization.settings, act.context.at)?;
        let actor = mandate.narrowed(mandate.find_actor(db)?);
        let target = accounts::find_user(db, organization.id, act.target)?
            .ok_or_else(|| Error::UserNotFound(act.target.to_string()))?;
        let mut may = May::Yes;
        for verb in verbs(&act.change, &target) {
            may = may.max(may_act(&actor, &organization.settings, verb, &target)?);
        }
        let admins = accounts::find_active_admins(db, organization.id)?;
        let restoring = match &act.change {
            Change::RestoreFactors { taken_before } => Some(Restoring::choose(
                services,
                db,
                target.id,
                *taken_before,
                act.context.at,
            )?),
            _ => None,
        };
        Ok(Case {
            restoring,
            admin_emails: admins.into_iter().map(|admin| admin.email).collect(),
            organization,
            actor,
            target,
            may,
        })
    })
}

/// Returns the permissions that a change requires, given its target.
fn verbs(change: &Change, target: &User) -> Vec<Verb> {
    let patch = match change {
        Change::Delete | Change::Erase => return vec![Verb::Delete],
        Change::ResetPassword => return vec![Verb::ResetPassword],
        Change::EndSessions => return vec![Verb::EndSessions],
        Change::RestoreFactors { .. } => return vec![Verb::RestoreFactors],
        Change::Update(patch) => patch,
    };
    // Even a patch without effect requires permission to change this user.
    let mut verbs = vec![Verb::Rename];
    let role = patch.role_after(target.role);
    if role != target.role {
        verbs.push(Verb::GiveRole(role));
    }
    if patch.active == Some(false) && target.active {
        verbs.push(Verb::Deactivate);
    }
    if (patch.active == Some(true) && !target.active) || patch.unlock {
        verbs.push(Verb::Reinstate);
    }
    verbs
}

/// Returns the user unchanged.
fn unchanged(services: &Services, act: &Act) -> Result<Outcome> {
    let found = services
        .store
        .read(|db| accounts::find_user(db, act.mandate.organization, act.target))?;
    let user = found.ok_or_else(|| Error::UserNotFound(act.target.to_string()))?;
    Ok(Outcome {
        user,
        approval_id: None,
        invitation: None,
        enrolment_code: None,
        sessions_ended: 0,
    })
}

impl Case {
    fn somebody_else_can_agree(&self) -> bool {
        self.admin_emails
            .iter()
            .any(|email| *email != self.actor.email && *email != self.target.email)
    }
}

/// Checks that the organisation keeps an active admin. Runs in the transaction: two admins who demote each
/// other at once must not both succeed.
pub(super) fn guard_last_admin(tx: &Transaction<'_>, case: &Case, refusal: &'static str) -> Result<()> {
    if case.target.role < Role::OrgAdmin
        || accounts::other_admin_exists(tx, case.organization.id, case.target.id)?
    {
        return Ok(());
    }
    Err(Error::Refused(refusal))
}

prints_no_secret!(Outcome);
