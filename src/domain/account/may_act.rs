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
    /// Activate, deactivate or unlock.
    ChangeStanding,
    /// Give that role, in place of the one there is.
    GiveRole(Role),
    /// Delete, so that the address is free for another account.
    Delete,
    /// Restore suspended factors.
    RestoreFactors,
}

/// What the rule of who may act on whom answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum May {
    /// Go on.
    Yes,
    /// Go on if a second admin agrees.
    WithSecondAdmin,
}

/// Whether `actor` may do `verb` to `target`, a user of the same organisation.
///
/// # Errors
/// [`Error::NotOrgAdmin`] without the role, [`Error::MayNotAct`] with the rule that forbids it.
/// A target of another organisation must have ended as "not found" before.
pub fn may_act(actor: &User, settings: &OrganizationSettings, verb: Verb, target: &User) -> Result<May> {
    match actor.role {
        Role::Operator => return Ok(May::Yes),
        Role::OrgAdmin => {}
        Role::HelpDesk if settings.help_desk_enabled && verb == Verb::ResetMfa => {}
        Role::HelpDesk | Role::Member => return Err(Error::NotOrgAdmin),
    }
    let own = actor.id == target.id;
    if own && matches!(verb, Verb::ResetMfa | Verb::ResetPassword | Verb::RestoreFactors) {
        return Err(Error::MayNotAct(
            "You cannot do this to your own account; another administrator can",
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
    if own || !takes_hold_of_admin(verb, target.role) {
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

/// What leads to another admin's account, or to a second admin who agrees to everything. Ending sessions
/// and deactivating don't: they are what one does about a stolen account, at once.
fn takes_hold_of_admin(verb: Verb, target: Role) -> bool {
    match verb {
        Verb::ResetMfa | Verb::ResetPassword | Verb::RestoreFactors | Verb::Delete => {
            target >= Role::OrgAdmin
        }
        Verb::GiveRole(role) => target.max(role) >= Role::OrgAdmin,
        Verb::EndSessions | Verb::Rename | Verb::ChangeStanding => false,
    }
}

/// Whether `actor` may make a user with that role.
///
/// # Errors
/// [`Error::NotOrgAdmin`] without the role; [`Error::MayNotAct`] for a role above the actor's, and for
/// an admin where a second one has to agree to each.
pub fn may_create(actor: &User, settings: &OrganizationSettings, role: Role) -> Result<()> {
    if actor.role < Role::OrgAdmin {
        return Err(Error::NotOrgAdmin);
    }
    if role > actor.role {
        return Err(Error::MayNotAct("You cannot give a role higher than your own"));
    }
    if role == Role::OrgAdmin && settings.admin_on_admin == AdminOnAdmin::SecondAdmin {
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

/// Whether `approver`, an admin since then, counts as a further admin: neither who asked nor on whom, nor
/// one made for the occasion (ASVS 2.3.5).
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::MayNotAct`].
pub fn may_approve(approver: &User, admin_since: Timestamp, asked: Asked) -> Result<()> {
    if approver.role < Role::OrgAdmin {
        return Err(Error::NotOrgAdmin);
    }
    let refusal = if approver.id == asked.by {
        "You asked for this yourself; another administrator has to agree"
    } else if approver.id == asked.on {
        "This is about your own account; another administrator has to agree"
    } else if admin_since > asked.at {
        "You became an administrator after this was asked for; another one has to agree"
    } else {
        return Ok(());
    };
    Err(Error::MayNotAct(refusal))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::account::OrganizationId;

    const ROLES: [Role; 3] = [Role::Member, Role::HelpDesk, Role::OrgAdmin];
    const RULES: [AdminOnAdmin; 3] = [
        AdminOnAdmin::Allowed,
        AdminOnAdmin::SecondAdmin,
        AdminOnAdmin::Refused,
    ];

    fn verbs() -> Vec<Verb> {
        let mut verbs = vec![
            Verb::ResetMfa,
            Verb::ResetPassword,
            Verb::EndSessions,
            Verb::Rename,
            Verb::ChangeStanding,
            Verb::Delete,
            Verb::RestoreFactors,
        ];
        verbs.extend(ROLES.map(Verb::GiveRole));
        verbs
    }

    fn user(id: u128, role: Role) -> User {
        User {
            id: UserId(Uuid::from_u128(id)),
            organization_id: OrganizationId(Uuid::nil()),
            email: format!("{id}@example.org"),
            name: None,
            role,
            active: true,
            mfa_enabled: true,
            locked: None,
            enrolment_due: None,
            last_login_at: None,
            password_changed_at: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            revision: 0,
        }
    }

    fn settings(help_desk_enabled: bool, admin_on_admin: AdminOnAdmin) -> OrganizationSettings {
        OrganizationSettings {
            help_desk_enabled,
            admin_on_admin,
            ..Default::default()
        }
    }

    #[test]
    fn members_may_nothing_and_the_help_desk_resets_members_where_it_is_switched_on() {
        for verb in verbs() {
            for target in ROLES.map(|role| user(2, role)) {
                let member = may_act(&user(1, Role::Member), &settings(true, RULES[0]), verb, &target);
                assert_eq!(member, Err(Error::NotOrgAdmin), "{verb:?}");
                let desk = |on| may_act(&user(1, Role::HelpDesk), &settings(on, RULES[0]), verb, &target);
                assert_eq!(desk(false), Err(Error::NotOrgAdmin), "{verb:?}");
                let expected = verb == Verb::ResetMfa && target.role == Role::Member;
                assert_eq!(desk(true).is_ok(), expected, "{verb:?} {:?}", target.role);
            }
        }
    }

    #[test]
    fn nobody_resets_themselves() {
        for role in [Role::HelpDesk, Role::OrgAdmin] {
            let own = user(1, role);
            for verb in [Verb::ResetMfa, Verb::ResetPassword, Verb::RestoreFactors] {
                assert!(may_act(&own, &settings(true, RULES[0]), verb, &own).is_err());
            }
        }
    }

    #[test]
    fn an_admin_gets_hold_of_an_admin_as_the_organisation_says() {
        let (actor, target) = (user(1, Role::OrgAdmin), user(2, Role::OrgAdmin));
        for verb in verbs() {
            let answers = RULES.map(|rule| may_act(&actor, &settings(false, rule), verb, &target).ok());
            let expected = match verb {
                Verb::EndSessions | Verb::Rename | Verb::ChangeStanding => [Some(May::Yes); 3],
                _ => [Some(May::Yes), Some(May::WithSecondAdmin), None],
            };
            assert_eq!(answers, expected, "{verb:?}");
        }
        let promotion = |rule| {
            let member = user(2, Role::Member);
            may_act(
                &actor,
                &settings(false, rule),
                Verb::GiveRole(Role::OrgAdmin),
                &member,
            )
        };
        assert_eq!(promotion(AdminOnAdmin::SecondAdmin), Ok(May::WithSecondAdmin));
        assert_eq!(promotion(AdminOnAdmin::Refused), Ok(May::Yes));
        assert!(may_create(&actor, &settings(false, RULES[1]), Role::OrgAdmin).is_err());
        assert!(may_create(&actor, &settings(false, RULES[1]), Role::Member).is_ok());
    }

    #[test]
    fn the_rule_between_admins_is_only_tightened() {
        for (i, from) in RULES.into_iter().enumerate() {
            for (j, to) in RULES.into_iter().enumerate() {
                assert_eq!(may_loosen(from, to).is_ok(), j >= i, "{from:?} {to:?}");
            }
        }
    }

    #[test]
    fn a_further_admin_is_neither_who_asked_nor_on_whom_nor_made_for_the_occasion() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let id = |n| UserId(Uuid::from_u128(n));
        let asked = Asked {
            by: id(1),
            on: id(2),
            at: at(100),
        };
        let approve = |n, role, since| may_approve(&user(n, role), at(since), asked).is_ok();
        assert!(approve(3, Role::OrgAdmin, 0) && approve(3, Role::OrgAdmin, 100));
        assert!(!approve(1, Role::OrgAdmin, 0), "who asked");
        assert!(!approve(2, Role::OrgAdmin, 0), "on whom");
        assert!(!approve(3, Role::OrgAdmin, 101), "made afterwards");
        assert!(!approve(3, Role::HelpDesk, 0));
    }

    proptest! {
        #[test]
        fn nobody_acts_on_an_account_above_or_gives_a_role_above(
            actor in 0usize..3, target in 0usize..3, verb in 0usize..10, rule in 0usize..3, desk: bool,
        ) {
            let (actor, target, verb) = (user(1, ROLES[actor]), user(2, ROLES[target]), verbs()[verb]);
            if may_act(&actor, &settings(desk, RULES[rule]), verb, &target).is_ok() {
                prop_assert!(actor.role >= target.role);
                if let Verb::GiveRole(role) = verb {
                    prop_assert!(actor.role >= role);
                }
            }
        }
    }
}
