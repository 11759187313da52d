//! The transaction of an operation on a user: prepared outside it, run inside it.

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::{Act, Case, Outcome, guard_last_admin};
use crate::domain::account::{May, UserId};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::service::api_keys::end_keys_of;
use crate::service::mandate::Mandate;
use crate::service::users::Change;
use crate::service::users::change::Effects;
use crate::service::users::invitation::{Invitation, ShownLink};
use crate::service::users::restore::{self, Restoring};
use crate::service::{Services, approvals, deliveries, notices};
use crate::store::approvals::{insert_approval, update_state};
use crate::store::audit::Erasure;
use crate::store::deliveries::OwedDelivery;
use crate::store::{Transaction, accounts, audit, challenges, passwords, sessions};

/// Everything the transaction needs, prepared outside it.
pub(super) struct Plan {
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
    pub(super) fn of(services: &Services, act: &Act, case: Case) -> Result<Option<Self>> {
        let at = act.context.at;
        let erases = act.change == Change::Erase;
        let asks = (erases || case.may == May::WithSecondAdmin) && act.mandate.agreement.is_none();
        if erases && asks && !case.somebody_else_can_agree() {
            return Err(Error::Refused(
                "Erasing needs a second administrator, and there is none; the operator can do it",
            ));
        }
        let Some((what, mut deliveries)) = What::of(services, act, &case)? else {
            return Ok(None);
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

    pub(super) fn invitation(&self) -> Option<ShownLink> {
        match &self.what {
            What::ResetPassword(invitation) => invitation.shown.clone(),
            _ => None,
        }
    }

    pub(super) fn enrolment_code(&self) -> Option<String> {
        match &self.what {
            What::Update(effects) => effects.enrolment_code(),
            _ => None,
        }
    }

    /// Runs the transaction. A failure anywhere rolls back everything.
    pub(super) fn run(&self, tx: &Transaction<'_>) -> Result<Outcome> {
        self.still_holds(tx)?;
        let (target, at) = (&self.case.target, self.at);
        let (event, sessions_ended) = self.carry_out(tx)?;
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
            approval_id: match &self.what {
                What::AskSecondAdmin(approval) => Some(approval.id),
                _ => None,
            },
            invitation: None,
            enrolment_code: None,
            sessions_ended,
        })
    }

    /// Makes the change, or asks for the approval. Returns the event with what only the transaction knows, and the
    /// number of sessions ended.
    fn carry_out(&self, tx: &Transaction<'_>) -> Result<(Event, u32)> {
        let (target, at) = (&self.case.target, self.at);
        let mut event = self.event.clone();
        let mut sessions_ended = 0;
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
            }
        }
        Ok((event, sessions_ended))
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

impl What {
    /// Returns the change, and the deliveries about it; `None` if there is nothing to change.
    fn of(services: &Services, act: &Act, case: &Case) -> Result<Option<(Self, Vec<OwedDelivery>)>> {
        let (at, context) = (act.context.at, &act.context);
        Ok(Some(match &act.change {
            Change::Update(patch) => {
                let Some(effects) = Effects::of(services, case, patch, at)? else {
                    return Ok(None);
                };
                let notices = effects.notices(services, case, context);
                (Self::Update(effects), notices)
            }
            Change::Delete => (Self::Delete { erases: false }, Vec::new()),
            Change::Erase => (Self::Delete { erases: true }, Vec::new()),
            Change::ResetPassword => {
                let (organization, actor, target) = (&case.organization, &case.actor, &case.target);
                let invitation = Invitation::new(services, target, at);
                let mail = invitation.reset_mail(services, organization, actor, target, context);
                let data = notices::who_to_whom(actor, target, context);
                let call = notices::call(services, organization, "user.password.reset", at, data);
                (
                    Self::ResetPassword(invitation),
                    mail.into_iter().chain(call).collect(),
                )
            }
            Change::EndSessions => (Self::EndSessions, Vec::new()),
            Change::RestoreFactors { .. } => {
                let notices = restore::notices(services, case, context);
                (Self::RestoreFactors(case.restoring.ok_or(Error::Stale)?), notices)
            }
        }))
    }

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

fn end_sessions(tx: &Transaction<'_>, user: UserId, at: Timestamp) -> Result<u32> {
    challenges::clear_challenges(tx, user)?;
    sessions::clear_sessions(tx, user, at)
}
