//! Who may act on whom: the one place that every verb on somebody's credentials or standing asks.
//!
//! The products that were broken here had a second door, which asked another question (Keycloak's
//! CVE-2026-94001 deleted a credential with the permission for something else; ASVS 8.2.2). So all doors
//! are verbs of one function, and whatever amounts to taking an account over counts as one: whoever may
//! demote, delete or re-invite an administrator needs no reset.

use jiff::Timestamp;

use super::{AdminOnAdmin, OrganizationSettings, Role, User, UserId};
use crate::domain::error::{Error, Result};

/// A verb on somebody's credentials or standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reset the second factors.
    ResetMfa,
    /// Send a link to set a new password, in place of the old one.
    ResetPassword,
    /// End sessions.
    EndSessions,
    /// Change the name shown to people.
    Rename,
    /// Deactivate, so that the account can't be used.
    Deactivate,
    /// Activate or unlock, so that it can.
    Reinstate,
    /// Give that role, in place of the one there is.
    GiveRole(Role),
    /// Delete, so that the address is free for another account.
    Delete,
    /// Restore suspended factors.
    RestoreFactors,
    /// Make an API key in their name: it reads as long as they are an admin.
    MakeApiKey,
    /// Revoke an API key that they made.
    RevokeApiKey,
    /// Make a token in their name, without a login.
    MintToken,
    /// Enrol a second factor whose secret somebody else has had.
    ImportFactor,
}

/// What the rule of who may act on whom answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum May {
    /// Go on.
    Yes,
    /// Go on if a second admin agrees.
    WithSecondAdmin,
}

/// Whether `actor` may do `verb` to `target`, a user of the same organisation. The operator is
/// [`User::operator`]: no rule between accounts binds them, and they have none.
///
/// # Errors
/// [`Error::NotOrgAdmin`] without the role, [`Error::MayNotAct`] with the rule that forbids it.
/// A target of another organisation must have ended as "not found" before.
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
        // A new admin gives nobody hold of one who is there.
        AdminOnAdmin::Refused if target.role < Role::OrgAdmin => Ok(May::Yes),
        AdminOnAdmin::Refused if verb == Verb::ResetMfa => Err(Error::MayNotAct(
            "This organisation does not let administrators reset administrators",
        )),
        AdminOnAdmin::Refused => Err(Error::MayNotAct(
            "This organisation does not let administrators do this to administrators; the operator can",
        )),
    }
}

/// What leads to another admin's account, or to a second admin who agrees to everything: unlocking opens
/// the window in which the password alone enrols, and whoever was deactivated for good reason must not be
/// back as the one who agrees. Ending sessions, revoking keys and deactivating don't: they are what one
/// does about a stolen account, at once.
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

/// Whether `actor` may make a user with that role. The operator makes an organisation's first admin, so the rule
/// between admins does not bind them.
///
/// # Errors
/// [`Error::NotOrgAdmin`] without the role; [`Error::MayNotAct`] for a role above the actor's, and for
/// an admin where a second one has to agree to each.
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

/// Whether an admin may change the rule between admins: only to a stricter one. Whoever could loosen it
/// would not be bound by it.
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

/// Who asked for something that a further admin has to agree to, and on whom.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Who asked.
    pub by: UserId,
    /// On whom.
    pub on: UserId,
    /// When.
    pub at: Timestamp,
}

/// For how long whoever made an account, gave its role, unlocked it or reset its credentials does not count as another
/// person than its holder, in hours: they may know how to be both.
pub const IN_HAND_HOURS: i64 = 7 * 24;

/// Whether `approver`, an admin since then, counts as a further admin: neither who asked nor on whom, nor
/// one made for the occasion (ASVS 2.3.5), nor one who and who asked, or agreed so far, had
/// the one the other's account `in_hand` lately.
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
        "You and whoever asked for this or agreed so far don't count as two: within the last 7 days one of you made \
         the other's account, gave it its role, unlocked it or reset its credentials; another administrator has to \
         agree"
    } else {
        return Ok(());
    };
    Err(Error::MayNotAct(refusal))
}

#[cfg(test)]
mod tests;
