//! Operations that need a further admin's approval: listing, approving, rejecting, expiring.
//!
//! The last missing approval carries out the requested operation. Everything is checked again at that point,
//! policies included: the requester must still be an active admin who may act on the target, and the approver's
//! session must still be active.

mod asking;
mod word;

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use word::{Word, open_approval, own_approval};

pub(super) use asking::{agreed, asked_notices, ids, of_act, of_policy, of_reset};

use super::mandate::{Agreement, Mandate};
use super::refusals::{admit_admin, admit_reader, record_refusal, written_resource};
use super::reset::{self, Refusal, ResetOrder};
use super::users::{self, Act, Change, ShownLink};
use super::{RequestContext, Services, plugins};
use crate::domain::account::{Principal, User, UserId};
use crate::domain::approval::{Approval, ApprovalState, Wanted};
use crate::domain::audit::{ActorRef, AuditResult, Event, EventType, Resource};
use crate::domain::error::TokenFault;
use crate::domain::{Error, Result};
use crate::store::approvals::{find_approval, find_lapsed, page_approvals, update_state};
use crate::store::{Connection, accounts, audit};

/// How often an approval is re-evaluated if another admin was faster.
const ATTEMPTS: usize = 3;
/// Default number of approvals per page.
const PAGE_SIZE: u64 = 50;
/// Maximum number of approvals per page.
const PAGE_LIMIT: u64 = 1_000;

/// An approval with the users involved.
#[derive(Clone, Debug)]
pub struct Described {
    /// The approval.
    pub approval: Approval,
    /// Its current state.
    pub state: ApprovalState,
    /// The user who asked for the operation.
    pub requester: User,
    /// The user on whom it is to be performed.
    pub target: User,
    /// The admins who approved; users deleted since are left out.
    pub approved_by: Vec<User>,
}

/// Filter for the list of approvals.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApprovalFilter {
    /// Only those in this state.
    pub state: Option<ApprovalState>,
    /// Page number, from 0.
    pub page: u64,
    /// Approvals per page, 1–1,000.
    pub size: Option<u64>,
}

/// The result of approving.
#[derive(Clone)]
pub struct Agreed {
    /// The operation that was approved.
    pub wanted: Wanted,
    /// Set to the approval's id if further admins still have to approve.
    pub awaits: Option<Uuid>,
    /// The code that the user's enrolment will require. Shown once.
    pub enrolment_code: Option<String>,
    /// The link to set a password, if it could not be mailed.
    pub invitation: Option<ShownLink>,
}

prints_no_secret!(Agreed);

/// Returns the approvals of the admin's organisation, newest first, and how many match in total.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::Validation`], [`Error::RateLimited`].
pub fn list_approvals(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    filter: ApprovalFilter,
) -> Result<(Vec<Described>, u64)> {
    let admin = admit_reader(services, principal)?;
    let (organization, at) = (admin.organization.id, context.at);
    let size = filter.size.unwrap_or(PAGE_SIZE);
    if !(1..=PAGE_LIMIT).contains(&size) {
        return Err(Error::field(
            "size",
            format!("must be between 1 and {PAGE_LIMIT}"),
        ));
    }
    let offset = filter
        .page
        .checked_mul(size)
        .filter(|offset| i64::try_from(*offset).is_ok())
        .ok_or_else(|| Error::field("page", "is too large"))?;
    services.store.read(|db| {
        let (page, total) = page_approvals(db, organization, filter.state, at, offset, size)?;
        let described = page.into_iter().map(|approval| describe(db, approval, at));
        Ok((described.collect::<Result<_>>()?, total))
    })
}

/// Returns one approval of the admin's organisation.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::NotFound`], [`Error::RateLimited`].
pub fn get_approval(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Described> {
    let admin = admit_reader(services, principal)?;
    let id = read_id(written_id)?;
    services.store.read(|db| {
        let found = find_approval(db, admin.organization.id, id)?;
        describe(db, found.ok_or_else(|| not_found(written_id))?, context.at)
    })
}

fn describe(db: &Connection, approval: Approval, at: Timestamp) -> Result<Described> {
    let find = |id| accounts::find_user(db, approval.organization_id, id);
    let somebody = |id: UserId| {
        find(id)?.ok_or_else(|| Error::Internal(format!("approval of {id}, who is gone without it")))
    };
    let approved_by = approval.approved_by.iter().filter_map(|id| find(*id).transpose());
    Ok(Described {
        state: approval.state_at(at),
        requester: somebody(approval.requester_id)?,
        target: somebody(approval.target_id)?,
        approved_by: approved_by.collect::<Result<_>>()?,
        approval,
    })
}

/// Approves, and carries out the requested operation if this was the last missing approval.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::NotFound`], [`Error::MayNotAct`] for the
/// requester and the target, [`Error::Conflict`] if it is closed, has expired, was already approved by this
/// admin or no longer makes sense; [`Error::Denied`] if a policy now denies it. Each is recorded in the trail.
pub async fn approve(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Agreed> {
    match agree(services, principal, context, written_id).await {
        Ok(agreed) => Ok(agreed),
        Err(Refusal::Recorded(error)) => Err(error),
        Err(Refusal::Unrecorded(error)) => {
            let (event_type, resource) = (EventType::ApprovalAgree, written_approval(written_id));
            Err(record_refusal(services, principal, context, event_type, resource, error).await)
        }
    }
}

async fn agree(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Agreed, Refusal> {
    let admin = admit_admin(services, principal, context)?;
    for _ in 0..ATTEMPTS {
        let approval = open_approval(services, admin, context, written_id, Word::Yes)?;
        match carry_out(services, principal, context, approval.clone()).await {
            Err(Refusal::Unrecorded(Error::Stale)) => {} // another admin was faster: look again
            Err(Refusal::Unrecorded(error)) => match moot(&error) {
                Some(why) => return close(services, principal, context, approval, why).await,
                None => return Err(error.into()),
            },
            ended => return ended,
        }
    }
    Err(Error::Stale.into())
}

async fn carry_out(
    services: &Services,
    approver: &Principal,
    context: &RequestContext,
    approval: Approval,
) -> Result<Agreed, Refusal> {
    let wanted = approval.wanted.clone();
    let change = match &wanted {
        Wanted::ResetMfa => {
            let order = ResetOrder::agreed(approval, approver, context);
            let answer = reset::carry_out(services, order).await?;
            return Ok(Agreed {
                wanted,
                awaits: answer.approval_id,
                enrolment_code: answer.enrolment_code,
                invitation: None,
            });
        }
        Wanted::ResetPassword => Change::ResetPassword,
        Wanted::UpdateUser(patch) => Change::Update(patch.clone()),
        Wanted::DeleteUser => Change::Delete,
        Wanted::EraseUser => Change::Erase,
        Wanted::ChangePolicy(change) => {
            plugins::carry_out_agreed(services, approver, context, approval, *change.clone()).await?;
            return Ok(Agreed {
                wanted,
                awaits: None,
                enrolment_code: None,
                invitation: None,
            });
        }
        Wanted::RestoreFactors { taken_at } => Change::RestoreFactors {
            taken_before: Some(*taken_at),
        },
    };
    let act = Act {
        context: context.clone(),
        target: approval.target_id,
        change,
        mandate: Mandate::agreed(approval, approver),
    };
    let outcome = users::carry_out(services, &act).await?;
    Ok(Agreed {
        wanted,
        awaits: outcome.approval_id,
        enrolment_code: outcome.enrolment_code,
        invitation: outcome.invitation,
    })
}

/// Returns why an approved operation no longer makes sense; `None` if it may be tried again.
fn moot(error: &Error) -> Option<String> {
    match error {
        Error::MfaNotEnabled => Some("The user has no second factor any more".into()),
        Error::NotOrgAdmin | Error::MayNotAct(_) | Error::Token(TokenFault::SubjectGone) => {
            Some("The requester may no longer do this".into())
        }
        Error::Conflict(why) => Some(why.clone()),
        Error::Refused(why) => Some((*why).to_owned()),
        Error::Validation(_) => Some("What was asked for is no longer possible".into()),
        _ => None,
    }
}

/// Closes an approval that no longer makes sense, with the entry of the attempt that found out.
async fn close(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    approval: Approval,
    why: String,
) -> Result<Agreed, Refusal> {
    let error = Error::Conflict(why);
    let event = about(&approval, EventType::ApprovalAgree, principal, context)
        .ended(AuditResult::Denied, &error)
        .with("closed", true);
    let (at, entry_id) = (context.at, services.entropy.uuid(context.at));
    let mandate = Mandate::agreed(approval.clone(), principal);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            mandate.session_lives(tx, at)?;
            update_state(tx, &approval, ApprovalState::Denied, &approval.approved_by, at)?;
            audit::append_entry(tx, at, entry_id, &event).map(drop)
        })
        .await?;
    Err(Refusal::Recorded(error))
}

/// Rejects the requested operation, or withdraws it if the caller is the requester. Returns whether it was
/// withdrawn.
///
/// # Errors
/// As [`approve`], except that the requester is allowed to do it.
pub async fn reject(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
    reason: Result<Option<String>>,
) -> Result<bool> {
    let attempt = async {
        let own = own_approval(services, principal, context, written_id)?;
        let withdrawn = own.is_some();
        let approval = if let Some(own) = own {
            own
        } else {
            let admin = admit_admin(services, principal, context)?;
            open_approval(services, admin, context, written_id, Word::No)?
        };
        let reason = reason?;
        let mut event = about(&approval, EventType::ApprovalReject, principal, context);
        if let Some(reason) = reason {
            event = event.with("reason", reason);
        }
        if withdrawn {
            event = event.with("withdrawn", true);
        }
        let mandate = Mandate::agreed(approval, principal);
        let (at, entry_id) = (context.at, services.entropy.uuid(context.at));
        services
            .store
            .write_for(principal.organization.id, move |tx| {
                mandate.still_holds(tx, at)?;
                let Agreement { approval, .. } = mandate.agreement.as_ref().ok_or(Error::Stale)?;
                update_state(tx, approval, ApprovalState::Rejected, &approval.approved_by, at)?;
                audit::append_entry(tx, at, entry_id, &event).map(drop)
            })
            .await?;
        Ok(withdrawn)
    };
    match attempt.await {
        Ok(withdrawn) => Ok(withdrawn),
        Err(error) => {
            let (event_type, resource) = (EventType::ApprovalReject, written_approval(written_id));
            Err(record_refusal(services, principal, context, event_type, resource, error).await)
        }
    }
}

/// Expires approvals that were not given in time, with an entry for each. Returns how many.
///
/// # Errors
/// If the store fails.
pub async fn expire_approvals(services: &Services) -> Result<usize> {
    let at = services.clock.now();
    let lapsed = services.store.read(|db| find_lapsed(db, at))?;
    let count = lapsed.len();
    for approval in lapsed {
        let event = Event::new(
            EventType::ApprovalExpire,
            Some(approval.organization_id),
            ActorRef::system(),
        )
        .on(Resource::other("APPROVAL", approval.id, None))
        .with("targetId", approval.target_id.to_string())
        .with("approvedBy", ids(&approval.approved_by))
        .with("needed", approval.needed);
        let entry_id = services.entropy.uuid(at);
        let ended = services
            .store
            .write(move |tx| {
                update_state(tx, &approval, ApprovalState::Expired, &approval.approved_by, at)?;
                audit::append_entry(tx, at, entry_id, &event).map(drop)
            })
            .await;
        // Another caller was faster; the approval is ended in any case.
        match ended {
            Ok(()) | Err(Error::Stale) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn about(
    approval: &Approval,
    event_type: EventType,
    principal: &Principal,
    context: &RequestContext,
) -> Event {
    Event::by(principal, event_type)
        .on(Resource::other("APPROVAL", approval.id, None))
        .from_request(&context.request_id, context.ip)
        .with("requesterId", approval.requester_id.to_string())
        .with("targetId", approval.target_id.to_string())
        .with("wanted", json!(approval.wanted))
}

fn written_approval(id: &str) -> Resource {
    written_resource("APPROVAL", id)
}

fn read_id(written: &str) -> Result<Uuid> {
    Uuid::try_parse(written)
        .ok()
        .filter(|_| written.len() == 36)
        .ok_or_else(|| Error::Malformed("The approval id must be a UUID".into()))
}

fn not_found(written: &str) -> Error {
    Error::NotFound {
        what: "Approval",
        id: written.to_owned(),
    }
}
