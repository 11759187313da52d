//! Who may act on whom, as a table and as properties.

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
        Verb::Deactivate,
        Verb::Reinstate,
        Verb::Delete,
        Verb::RestoreFactors,
        Verb::MakeApiKey,
        Verb::RevokeApiKey,
        Verb::MintToken,
        Verb::ImportFactor,
    ];
    verbs.extend(ROLES.map(Verb::GiveRole));
    verbs.push(Verb::GiveRole(Role::Operator));
    verbs
}

fn user(id: u128, role: Role) -> User {
    if role == Role::Operator {
        return User::operator(OrganizationId(Uuid::nil()));
    }
    let (email, nowhere) = (format!("{id}@example.org"), OrganizationId(Uuid::nil()));
    let id = UserId(Uuid::from_u128(id));
    User {
        mfa_enabled: true,
        ..User::new(id, nowhere, email, None, role, Timestamp::UNIX_EPOCH)
    }
}

fn settings(help_desk_enabled: bool, admin_on_admin: AdminOnAdmin) -> OrganizationSettings {
    OrganizationSettings {
        help_desk_enabled,
        admin_on_admin,
        ..Default::default()
    }
}

/// All answers, written down by hand: a row for each verb; the columns are oneself, a member, the help desk and
/// another admin. `y` yes, `2` with a second admin, `x` forbidden, `-` the role is missing. The operator has no
/// account to act on, and is not bound by rules between accounts.
#[test]
#[expect(clippy::match_same_arms, reason = "a table: a row for each verb and rule")]
fn the_whole_table() {
    let nothing = |_: &str| "----";
    let desk = |verb: &str| if verb == "ResetMfa" { "xyxx" } else { "----" };
    let admin = |rule: AdminOnAdmin| {
        move |verb: &str| match (verb, rule) {
            ("EndSessions" | "Rename" | "Deactivate" | "RevokeApiKey", _) => "yyyy",
            ("MakeApiKey", _) => "yxxx",
            ("MintToken" | "ImportFactor" | "GiveRole(Operator)", _) => "xxxx",
            ("ResetMfa" | "ResetPassword" | "RestoreFactors", AdminOnAdmin::Allowed) => "xyyy",
            ("ResetMfa" | "ResetPassword" | "RestoreFactors", AdminOnAdmin::SecondAdmin) => "xyy2",
            ("ResetMfa" | "ResetPassword" | "RestoreFactors", AdminOnAdmin::Refused) => "xyyx",
            ("GiveRole(OrgAdmin)", AdminOnAdmin::Allowed) => "yyyy",
            ("GiveRole(OrgAdmin)", AdminOnAdmin::SecondAdmin) => "y222",
            ("GiveRole(OrgAdmin)", AdminOnAdmin::Refused) => "yyyx",
            ("Reinstate" | "Delete" | "GiveRole(Member)" | "GiveRole(HelpDesk)", AdminOnAdmin::Allowed) => {
                "yyyy"
            }
            (
                "Reinstate" | "Delete" | "GiveRole(Member)" | "GiveRole(HelpDesk)",
                AdminOnAdmin::SecondAdmin,
            ) => "yyy2",
            ("Reinstate" | "Delete" | "GiveRole(Member)" | "GiveRole(HelpDesk)", AdminOnAdmin::Refused) => {
                "yyyx"
            }
            (other, _) => panic!("{other} has no row"),
        }
    };
    let operator = |verb: &str| match verb {
        "MakeApiKey" | "GiveRole(Operator)" => "xxxx",
        _ => "xyyy",
    };
    for rule in RULES {
        for help_desk_enabled in [false, true] {
            let settings = settings(help_desk_enabled, rule);
            for verb in verbs() {
                let name = format!("{verb:?}");
                let expected = [
                    (Role::Member, nothing(&name)),
                    (
                        Role::HelpDesk,
                        if help_desk_enabled {
                            desk(&name)
                        } else {
                            nothing(&name)
                        },
                    ),
                    (Role::OrgAdmin, admin(rule)(&name)),
                    (Role::Operator, operator(&name)),
                ];
                for (role, expected) in expected {
                    let actor = user(1, role);
                    let others = ROLES.map(|role| user(2, role));
                    let row: String = std::iter::once(&actor)
                        .chain(&others)
                        .map(|target| letter(&may_act(&actor, &settings, verb, target)))
                        .collect();
                    assert_eq!(
                        row, expected,
                        "{role:?} {name} {rule:?} help desk {help_desk_enabled}"
                    );
                }
            }
        }
    }
}

fn letter(answer: &Result<May>) -> char {
    match answer {
        Ok(May::Yes) => 'y',
        Ok(May::WithSecondAdmin) => '2',
        Err(Error::NotOrgAdmin) => '-',
        Err(Error::MayNotAct(_)) => 'x',
        Err(other) => panic!("{other:?}"),
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
            Verb::EndSessions | Verb::Rename | Verb::Deactivate | Verb::RevokeApiKey => [Some(May::Yes); 3],
            Verb::MakeApiKey | Verb::MintToken | Verb::ImportFactor | Verb::GiveRole(Role::Operator) => {
                [None; 3]
            }
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
fn the_operator_makes_the_first_admin_whatever_the_rule_and_nobody_makes_an_operator() {
    let operator = user(0, Role::Operator);
    for rule in RULES {
        for role in ROLES {
            assert!(
                may_create(&operator, &settings(false, rule), role).is_ok(),
                "{role:?} {rule:?}"
            );
        }
        for actor in [&operator, &user(1, Role::OrgAdmin)] {
            assert!(may_create(actor, &settings(false, rule), Role::Operator).is_err());
        }
        let member = user(1, Role::Member);
        assert_eq!(
            may_create(&member, &settings(false, rule), Role::Member),
            Err(Error::NotOrgAdmin)
        );
    }
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
    let approve = |n, role, since| may_approve(&user(n, role), at(since), asked, false).is_ok();
    assert!(approve(3, Role::OrgAdmin, 0) && approve(3, Role::OrgAdmin, 100));
    assert!(!approve(1, Role::OrgAdmin, 0), "who asked");
    assert!(!approve(2, Role::OrgAdmin, 0), "on whom");
    assert!(!approve(3, Role::OrgAdmin, 101), "made afterwards");
    assert!(!approve(3, Role::HelpDesk, 0));
    let puppet = may_approve(&user(3, Role::OrgAdmin), at(0), asked, true);
    assert!(puppet.is_err(), "in the hands of the one who asked");
}

proptest! {
    #[test]
    fn nobody_acts_on_an_account_above_or_gives_a_role_above(
        actor in 0usize..4, target in 0usize..4, verb in 0usize..16, rule in 0usize..3, desk: bool,
    ) {
        let roles = [Role::Member, Role::HelpDesk, Role::OrgAdmin, Role::Operator];
        let (actor, target, verb) = (user(1, roles[actor]), user(2, roles[target]), verbs()[verb]);
        if may_act(&actor, &settings(desk, RULES[rule]), verb, &target).is_ok() {
            prop_assert!(actor.role >= target.role);
            if let Verb::GiveRole(role) = verb {
                prop_assert!(actor.role >= role);
            }
            prop_assert!(target.role < Role::Operator);
        }
    }
}
