//! An operation on a user: checked on one snapshot, carried out in one transaction if that still holds.

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::Change;
use super::change::Effects;
use super::invitation::{Invitation, Shown};
use super::restore::{self, Restoring};
use crate::domain::account::{May, Organization, Role, User, UserId, Verb, may_act};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::service::api_keys::end_keys_of;
use crate::service::mandate::Mandate;
use crate::service::{RequestContext, Services, approvals, deliveries, notices};
use crate::store::approvals::{insert_approval, update_state};
use crate::store::audit::Erasure;
use crate::store::deliveries::OwedDelivery;
use crate::store::{Transaction, accounts, audit, challenges, passwords, sessions};

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
    pub invitation: Option<Shown>,
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

/// Everything the transaction needs, prepared outside it.
struct Plan {
    at: Timestamp,
    mandate: Mandate,
    case: Case,
    what: What,
    event: Event,
    entry_id: Uuid,
    /// The entry of the approval given by this call.
    agreed: Option<(Uuid, Event)>,
    deliveries: Vec<OwedDelivery>,
}

enum What {
    Update(Effects),
    Delete { erases: bool },
    ResetPassword(Invitation),
    EndSessions,
    RestoreFactors(Restoring),
    AskSecondAdmin(Box<Approval>),
}

impl Plan {
    /// Prepares the transaction; `None` if there is nothing to change.
    fn of(services: &Services, act: &Act, case: Case) -> Result<Option<Self>> {
        let at = act.context.at;
        let mut deliveries = Vec::new();
        let erases = act.change == Change::Erase;
        let asks = (erases || case.may == May::WithSecondAdmin) && act.mandate.agreement.is_none();
        if erases && asks && !case.somebody_else_can_agree() {
            return Err(Error::Refused(
                "Erasing needs a second administrator, and there is none; the operator can do it",
            ));
        }
        let what = match &act.change {
            Change::Update(patch) => {
                let Some(effects) = Effects::of(services, &case, patch, at)? else {
                    return Ok(None);
                };
                deliveries = effects.notices(services, &case, &act.context);
                What::Update(effects)
            }
            Change::Delete | Change::Erase => What::Delete { erases },
            Change::ResetPassword => {
                let invitation = Invitation::new(services, &case.target, at);
                deliveries.extend(invitation.reset_mail(
                    services,
                    &case.organization,
                    &case.actor,
                    &case.target,
                    &act.context,
                ));
                let data = notices::who_to_whom(&case.actor, &case.target, &act.context);
                deliveries.extend(notices::call(
                    services,
                    &case.organization,
                    "user.password.reset",
                    at,
                    data,
                ));
                What::ResetPassword(invitation)
            }
            Change::EndSessions => What::EndSessions,
            Change::RestoreFactors { .. } => {
                deliveries = restore::notices(services, &case, &act.context);
                What::RestoreFactors(case.restoring.ok_or(Error::Stale)?)
            }
        };
        let mut event = Event::new(
            act.change.event_type(),
            Some(case.organization.id),
            ActorRef::user(&case.actor),
        )
        .on(Resource::user(&case.target))
        .from_request(&act.context.request_id, act.context.ip);
        let mut agreed = None;
        if let Some(agreement) = &act.mandate.agreement {
            let given = approvals::agreed(agreement, &case.target, agreement.approval.needed)
                .from_request(&act.context.request_id, act.context.ip);
            agreed = Some((services.entropy.uuid(at), given));
            // The client's address is the approver's, and is in the entry of the approval.
            event.ip_address = None;
            event = event
                .with("approvalId", agreement.approval.id.to_string())
                .with("approvedBy", approvals::ids(&agreement.all()));
        }
        let what = if asks {
            let wanted = act.change.wanted(case.restoring)?;
            let approval = approvals::of_act(services, act, wanted);
            deliveries = approvals::asked_notices(
                services,
                &case.organization,
                &case.actor,
                &case.target,
                &case.admin_emails,
                &approval,
            );
            event.event_type = EventType::ApprovalRequest;
            event = event
                .with("approvalId", approval.id.to_string())
                .with("wanted", json!(approval.wanted));
            What::AskSecondAdmin(Box::new(approval))
        } else {
            what
        };
        Ok(Some(Self {
            at,
            mandate: act.mandate.clone(),
            event: what.describe(event),
            what,
            entry_id: services.entropy.uuid(at),
            agreed,
            deliveries,
            case,
        }))
    }

    fn invitation(&self) -> Option<Shown> {
        match &self.what {
            What::ResetPassword(invitation) => invitation.shown.clone(),
            _ => None,
        }
    }

    fn enrolment_code(&self) -> Option<String> {
        match &self.what {
            What::Update(effects) => effects.enrolment_code(),
            _ => None,
        }
    }

    /// Runs the transaction. A failure anywhere rolls back everything.
    fn run(&self, tx: &Transaction<'_>) -> Result<Outcome> {
        self.still_holds(tx)?;
        let (target, at) = (&self.case.target, self.at);
        let mut event = self.event.clone();
        let mut sessions_ended = 0;
        let mut approval_id = None;
        match &self.what {
            What::Update(effects) => {
                effects.guard_last_admin(tx, &self.case)?;
                effects.write(tx, target, at)?;
                if effects.ends_sessions {
                    sessions_ended = end_sessions(tx, target.id, at)?;
                    event = event.with("sessionsEnded", sessions_ended);
                }
                if effects.ends_admin.is_some() {
                    end_keys_of(tx, target.id, at, &mut event)?;
                }
                if effects.ends_invitations(target) {
                    challenges::clear_invitations(tx, target.id)?;
                }
            }
            What::Delete { erases } => {
                guard_last_admin(tx, &self.case, "Cannot delete the last organization admin")?;
                end_keys_of(tx, target.id, at, &mut event)?;
                accounts::delete_user(tx, target.id)?;
                if *erases {
                    event = event.with("erases", true);
                    audit::insert_erasure(tx, &self.erasure(), at)?;
                }
            }
            What::ResetPassword(invitation) => {
                passwords::clear_password(tx, target.id, at)?;
                sessions_ended = end_sessions(tx, target.id, at)?;
                end_keys_of(tx, target.id, at, &mut event)?;
                event = event.with("sessionsEnded", sessions_ended);
                invitation.keep(tx)?;
            }
            What::EndSessions => {
                sessions_ended = end_sessions(tx, target.id, at)?;
                event = event.with("sessionsEnded", sessions_ended);
            }
            What::RestoreFactors(restoring) => {
                event = restoring.run(tx, target, at, event)?;
                end_keys_of(tx, target.id, at, &mut event)?;
                sessions_ended = end_sessions(tx, target.id, at)?;
                event = event.with("sessionsEnded", sessions_ended);
            }
            What::AskSecondAdmin(approval) => {
                insert_approval(tx, approval)?;
                approval_id = Some(approval.id);
            }
        }
        if let (Some(agreement), Some((id, agreed))) = (&self.mandate.agreement, &self.agreed) {
            // Deleting the target deleted the approval with it.
            if !matches!(self.what, What::Delete { .. }) {
                update_state(tx, &agreement.approval, ApprovalState::Done, &agreement.all(), at)?;
            }
            audit::append_entry(tx, at, *id, agreed)?;
        }
        let entry = audit::append_entry(tx, at, self.entry_id, &event)?;
        deliveries::owe(tx, &self.deliveries, entry.sequence, at)?;
        let now = accounts::find_user(tx, self.case.organization.id, target.id)?;
        Ok(Outcome {
            user: now.unwrap_or_else(|| target.clone()),
            approval_id,
            invitation: None,
            enrolment_code: None,
            sessions_ended,
        })
    }

    /// Returns the erasure to schedule, with the data known before the user is deleted; housekeeping does the
    /// rest.
    fn erasure(&self) -> Erasure {
        Erasure {
            organization: self.case.organization.id,
            user: self.case.target.id,
            actor: ActorRef::user(&self.case.actor),
            addresses: vec![self.case.target.email.clone()],
            next: None,
        }
    }

    fn still_holds(&self, tx: &Transaction<'_>) -> Result<()> {
        let Case {
            organization,
            actor,
            target,
            ..
        } = &self.case;
        let hold = accounts::find_organization_revision(tx, organization.id)? == Some(organization.revision)
            && accounts::find_user_revision(tx, actor.id)? == self.mandate.revision_of(actor)
            && accounts::find_user_revision(tx, target.id)? == Some(target.revision);
        if !hold {
            return Err(Error::Stale);
        }
        self.mandate.still_holds(tx, self.at)
    }
}

impl Case {
    fn somebody_else_can_agree(&self) -> bool {
        self.admin_emails
            .iter()
            .any(|email| *email != self.actor.email && *email != self.target.email)
    }
}

impl What {
    fn describe(&self, event: Event) -> Event {
        match self {
            Self::Update(effects) => event.with("changes", effects.changes.clone()),
            Self::ResetPassword(invitation) => invitation.describe(event),
            Self::Delete { .. } | Self::EndSessions | Self::RestoreFactors(_) | Self::AskSecondAdmin(_) => {
                event
            }
        }
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

fn end_sessions(tx: &Transaction<'_>, user: UserId, at: Timestamp) -> Result<u32> {
    challenges::clear_challenges(tx, user)?;
    sessions::clear_sessions(tx, user, at)
}

prints_no_secret!(Outcome);
