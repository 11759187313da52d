//! Whose word counts on what waits for further admins.

use jiff::{SignedDuration, Timestamp};

use super::{RequestContext, Services, not_found, read_id};
use crate::domain::account::{IN_HAND_HOURS, OrgAdmin, UserId, may_approve};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::{Error, Result};
use crate::store::approvals::{find_approval, gave_role, had_in_hand};
use crate::store::{Connection, accounts};

/// What an admin says to an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is to be done.
    Yes,
    /// It is not.
    No,
}

/// The approval, if this admin's word counts on it now.
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
            // It takes no two to keep something from being done.
            _ => false,
        };
        Ok((approval, accounts::find_role_since(db, admin.user.id)?, in_hand))
    })?;
    let approval = approval.ok_or_else(|| not_found(written_id))?;
    match approval.state_at(context.at) {
        ApprovalState::Open => {}
        ApprovalState::Expired => return Err(Error::Conflict("This has expired; ask for it again".into())),
        closed => {
            return Err(Error::Conflict(format!(
                "This is closed already: {}",
                closed.as_str()
            )));
        }
    }
    let since = since.ok_or(Error::NotOrgAdmin)?;
    may_approve(&admin.user, since, approval.asked(), in_hand)?;
    if approval.approved_by.contains(&admin.user.id) {
        return Err(Error::Conflict("You agreed to this already".into()));
    }
    Ok(approval)
}

/// Whether who asked, or agreed before, may be this admin as well: who had the account of the other in hand before
/// the other's word was given, or gave the one who agrees now the role for it.
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
