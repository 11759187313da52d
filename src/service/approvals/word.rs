//! Who may approve, reject or withdraw an open approval.

use jiff::{SignedDuration, Timestamp};

use super::{RequestContext, Services, not_found, read_id};
use crate::domain::account::{IN_HAND_HOURS, OrgAdmin, Principal, UserId, may_approve};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::approvals::{find_approval, gave_role, had_in_hand};
use crate::store::{Connection, accounts};

/// An admin's decision on an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Approve.
    Yes,
    /// Reject.
    No,
}

/// Returns the approval if this admin may decide on it now.
pub(super) fn open_approval(
    services: &Services,
    admin: OrgAdmin<'_>,
    context: &RequestContext,
    written_id: &str,
    word: Word,
) -> Result<Approval> {
    let id = read_id(written_id)?;
    let (approval, since, in_hand) = services.store.read(|db| {
        let approval = find_approval(db, admin.organization.id, id)?;
        let in_hand = match &approval {
            Some(approval) if word == Word::Yes => {
                may_be_one_person(db, admin.user.id, approval, context.at)?
            }
            // Rejecting needs no second person.
            _ => false,
        };
        Ok((approval, accounts::find_role_since(db, admin.user.id)?, in_hand))
    })?;
    let approval = approval.ok_or_else(|| not_found(written_id))?;
    check_open(&approval, context.at)?;
    let since = since.ok_or(Error::NotOrgAdmin)?;
    may_approve(&admin.user, since, approval.asked(), in_hand)?;
    if approval.approved_by.contains(&admin.user.id) {
        return Err(Error::Conflict("You agreed to this already".into()));
    }
    Ok(approval)
}

/// Returns the approval if the caller is its requester. To withdraw it they need not be an admin: the help desk
/// isn't.
pub(super) fn own_approval(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<Option<Approval>> {
    let user = &principal.full()?.user;
    let Ok(id) = read_id(written_id) else {
        return Ok(None);
    };
    let found = services
        .store
        .read(|db| find_approval(db, user.organization_id, id))?;
    let Some(own) = found.filter(|approval| approval.requester_id == user.id) else {
        return Ok(None);
    };
    services
        .limiter
        .check(Bucket::AdminByCaller, user.id.0.as_bytes())?;
    check_open(&own, context.at)?;
    Ok(Some(own))
}

fn check_open(approval: &Approval, at: Timestamp) -> Result<()> {
    match approval.state_at(at) {
        ApprovalState::Open => Ok(()),
        ApprovalState::Expired => Err(Error::Conflict("This has expired; ask for it again".into())),
        closed => Err(Error::Conflict(format!(
            "This is closed already: {}",
            closed.as_str()
        ))),
    }
}

/// True if the requester, or an earlier approver, may be the same person as this admin: one of them controlled
/// the other's account before the other's request or approval, or gave the current approver the role needed for
/// it.
fn may_be_one_person(db: &Connection, admin: UserId, approval: &Approval, at: Timestamp) -> Result<bool> {
    let lately = at - SignedDuration::from_hours(IN_HAND_HOURS);
    let requester = (approval.requester_id, approval.created_at);
    let agreed = approval.approved_by.iter().map(|user| (*user, at));
    for (other, word_given) in std::iter::once(requester).chain(agreed) {
        if had_in_hand(db, admin, other, lately, at)?
            || gave_role(db, admin, other, lately)?
            || had_in_hand(db, other, admin, lately, word_given)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}
