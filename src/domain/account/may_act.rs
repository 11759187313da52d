//! Who may act on whom: the one place that every operation on a user's credentials or status asks.
//!
//! Other products were broken through a second code path that asked a different question (Keycloak's
//! CVE-2026-94001 deleted a credential with the permission for something else; ASVS 8.2.2). So all operations are
//! verbs of one function, and anything that amounts to taking an account over counts as one: an admin who may
//! demote, delete or re-invite an administrator needs no reset.

use jiff::Timestamp;

use super::{AdminOnAdmin, OrganizationSettings, Role, User, UserId};
use crate::domain::error::{Error, Result};

/// An operation on a user's credentials or status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reset the second factors.
    ResetMfa,
    /// Send a link to set a new password, which replaces the old one.
    ResetPassword,
    /// End sessions.
    EndSessions,
    /// Change the name shown to people.
    Rename,
    /// Deactivate, so that the account can't be used.
    Deactivate,
    /// Activate or unlock, so that the account can be used.
    Reinstate,
    /// Give that role, which replaces the current one.
    GiveRole(Role),
    /// Delete, so that the address is free for another account.
    Delete,
    /// Restore suspended factors.
    RestoreFactors,
    /// Create an API key in the user's name; it reads as long as they are an admin.
    MakeApiKey,
    /// Revoke an API key that the user created.
    RevokeApiKey,
    /// Mint a token in the user's name, without a login.
    MintToken,
    /// Enrol a second factor whose secret someone else has known.
    ImportFactor,
}

/// The answer of [`may_act`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum May {
    /// Allowed.
    Yes,
    /// Allowed if a second admin agrees.
    WithSecondAdmin,
}

/// Decides whether `actor` may do `verb` to `target`, a user of the same organisation. The operator is
/// [`User::operator`]: the rules between accounts do not bind the operator, who has no account.
///
/// # Errors
/// [`Error::NotOrgAdmin`] without the role, [`Error::MayNotAct`] with the rule that forbids it. The caller must
/// already have answered "not found" for a target of another organisation.
pub fn may_act(actor: &User, settings: &OrganizationSettings, verb: Verb, target: &User) -> Result<May> {
    match actor.role {
        Role::Operator | Role::OrgAdmin => {}
        Role::HelpDesk if settings.help_desk_enabled && verb == Verb::ResetMfa => {}
        Role::HelpDesk | Role::Member => return Err(Error::NotOrgAdmin),
    }
    if target.role == Role::Operator || verb == Verb::GiveRole(Role::Operator) {
        return Err(Error::MayNotAct("The operator has no account"));
    }
    let own = actor.id == target.id;
    if own && matches!(verb, Verb::ResetMfa | Verb::ResetPassword | Verb::RestoreFactors) {
        return Err(Error::MayNotAct(
            "You cannot do this to your own account; another administrator can",
        ));
    }
    if !own && verb == Verb::MakeApiKey {
        return Err(Error::MayNotAct("An API key is made in one's own name"));
    }
    if matches!(verb, Verb::MintToken | Verb::ImportFactor) && actor.role < Role::Operator {
        return Err(Error::MayNotAct(
            "Only the operator can do this, at the command line",
        ));
    }
    if target.role > actor.role || (actor.role == Role::HelpDesk && target.role >= Role::HelpDesk) {
        return Err(Error::MayNotAct(
            "You cannot do this to an account with a higher role",
        ));
    }
    if matches!(verb, Verb::GiveRole(role) if role > actor.role) {
        return Err(Error::MayNotAct("You cannot give a role higher than your own"));
    }
    if own || actor.role == Role::Operator || !takes_hold_of_admin(verb, target.role) {
        return Ok(May::Yes);
    }
    match settings.admin_on_admin {
        AdminOnAdmin::Allowed => Ok(May::Yes),
        AdminOnAdmin::SecondAdmin => Ok(May::WithSecondAdmin),
        // Making someone an admin takes over no existing admin's account.
        AdminOnAdmin::Refused if target.role < Role::OrgAdmin => Ok(May::Yes),
        AdminOnAdmin::Refused if verb == Verb::ResetMfa => Err(Error::MayNotAct(
            "This organisation does not let administrators reset administrators",
        )),
        AdminOnAdmin::Refused => Err(Error::MayNotAct(
            "This organisation does not let administrators do this to administrators; the operator can",
        )),
    }
}

/// Returns whether a verb can lead to control of another admin's account, or to a second admin who agrees to
/// everything: unlocking opens the window in which the password alone enrols, and an admin deactivated for good
/// reason must not return as the one who agrees. Ending sessions, revoking keys and deactivating do not count:
/// they are the immediate response to a stolen account.
fn takes_hold_of_admin(verb: Verb, target: Role) -> bool {
    match verb {
        Verb::ResetMfa
        | Verb::ResetPassword
        | Verb::RestoreFactors
        | Verb::Reinstate
        | Verb::Delete
        | Verb::MintToken
        | Verb::ImportFactor => target >= Role::OrgAdmin,
        Verb::GiveRole(role) => target.max(role) >= Role::OrgAdmin,
        Verb::EndSessions | Verb::Rename | Verb::Deactivate | Verb::MakeApiKey | Verb::RevokeApiKey => false,
    }
}

/// Checks that `actor` may create a user with that role. The operator creates an organisation's first admin, so
/// the rule between admins does not bind the operator.
///
/// # Errors
/// [`Error::NotOrgAdmin`] without the role; [`Error::MayNotAct`] for a role above the actor's, and for an admin
/// where a second one has to agree to each.
pub fn may_create(actor: &User, settings: &OrganizationSettings, role: Role) -> Result<()> {
    if actor.role < Role::OrgAdmin {
        return Err(Error::NotOrgAdmin);
    }
    if role == Role::Operator {
        return Err(Error::MayNotAct("The operator has no account"));
    }
    if role > actor.role {
        return Err(Error::MayNotAct("You cannot give a role higher than your own"));
    }
    if actor.role == Role::OrgAdmin
        && role == Role::OrgAdmin
        && settings.admin_on_admin == AdminOnAdmin::SecondAdmin
    {
        return Err(Error::MayNotAct(
            "A second administrator has to agree to each new one here: make the user without the role, \
             then change it",
        ));
    }
    Ok(())
}

/// Checks that an admin may change the rule between admins: only to a stricter one, since an admin who could
/// loosen it would not be bound by it.
///
/// # Errors
/// [`Error::MayNotAct`].
pub fn may_loosen(from: AdminOnAdmin, to: AdminOnAdmin) -> Result<()> {
    if to < from {
        return Err(Error::MayNotAct(
            "Only the operator can loosen the rule between administrators, at the command line",
        ));
    }
    Ok(())
}

/// A request that another admin has to agree to: by whom, about whom and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The admin who asked.
    pub by: UserId,
    /// The user that it is about.
    pub on: UserId,
    /// When it was asked for.
    pub at: Timestamp,
}

/// Hours for which an admin who created an account, gave it its role, unlocked it or reset its credentials, or
/// approved one of these, does not count as a different person from its holder, since they may be able to act as
/// both.
pub const IN_HAND_HOURS: i64 = 7 * 24;

/// Checks that `approver`, an admin since `admin_since`, counts as a further admin: not the one who asked, not
/// the one it is about, not one made an admin for the occasion (ASVS 2.3.5), and not `in_hand`: neither they nor
/// anybody who asked or agreed so far controlled the other's account within [`IN_HAND_HOURS`].
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::MayNotAct`].
pub fn may_approve(approver: &User, admin_since: Timestamp, asked: Asked, in_hand: bool) -> Result<()> {
    if approver.role < Role::OrgAdmin {
        return Err(Error::NotOrgAdmin);
    }
    let refusal = if approver.id == asked.by {
        "You asked for this yourself; another administrator has to agree"
    } else if approver.id == asked.on {
        "This is about your own account; another administrator has to agree"
    } else if admin_since > asked.at {
        "You became an administrator after this was asked for; another one has to agree"
    } else if in_hand {
        "You and an administrator who asked for this or agreed to it don't count as two: within the last 7 days one \
         of you made the other's account, gave it its role, unlocked it or reset its credentials; another \
         administrator has to agree"
    } else {
        return Ok(());
    };
    Err(Error::MayNotAct(refusal))
}

#[cfg(test)]
mod tests;
