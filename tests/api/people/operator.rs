//! What the operator orders, inside the server: the way of an admin's call, with the operator as the actor.

use jiff::SignedDuration;
use latchkey::courier::{CourierConfig, Reach};
use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, User};
use latchkey::domain::{Error, Result};
use latchkey::service::operator::{AccountOrder, Named, Order};
use latchkey::service::plugins::unwatched;
use serde_json::{Value, json};

use super::{app_where, app_with_mail};
use crate::support::{Setup, TestApp};

fn named(user: &User) -> Named {
    Named {
        organization: "acme".into(),
        email: user.email.clone(),
    }
}

fn reset_of(user: &User) -> AccountOrder {
    AccountOrder::ResetMfa {
        user: named(user),
        reason: None,
        ticket: None,
    }
}

/// Over the socket's words, as a server gets them.
async fn order(app: &TestApp, order: AccountOrder) -> Result<Value> {
    let line = Order::from(order).to_json().unwrap();
    let order = Order::from_json(&line).unwrap();
    assert!(matches!(order, Order::Account(_)), "{line}");
    order.carry_out(&app.services, unwatched()).await
}

#[tokio::test]
async fn no_rule_between_admins_keeps_the_operator_from_an_admin() {
    for rule in [AdminOnAdmin::SecondAdmin, AdminOnAdmin::Refused] {
        let app = app_where(rule).await;
        let token = app.admin().await;
        let done = order(&app, reset_of(&app.admin)).await.unwrap();
        assert_eq!(done["mfaEnabled"], false, "{done}");
        assert_eq!(done["enrolmentCode"], Value::Null);
        token
            .get("/api/v1/users")
            .await
            .assert_error(401, "The access token has been revoked");
        let entry = app.last_entry();
        assert_eq!(
            entry["actor"],
            json!({ "type": "OPERATOR", "id": null, "email": null })
        );
        assert_eq!(entry["details"]["channel"], "cli");
    }
}

#[tokio::test]
async fn the_users_notice_says_that_it_was_the_operator_and_has_the_way_to_object() {
    let app = app_with_mail().await;
    order(&app, reset_of(&app.developer)).await.unwrap();
    let [mail] = &app.owed_mail()[..] else {
        panic!("{} mails", app.owed_mail().len());
    };
    assert_eq!(mail.to, app.developer.email);
    let begins = "The operator of the appliance reset the second factor of your account dev@acme.example on \
                  2026-02-18T10:30:00Z at its command line.";
    assert!(mail.body.starts_with(begins), "{}", mail.body);
    assert!(mail.body.contains("/not-me#"), "{}", mail.body);
    // The factors are suspended like any others.
    let restore = AccountOrder::RestoreFactors {
        user: named(&app.developer),
        taken_before: None,
    };
    let restored = order(&app, restore).await.unwrap();
    assert_eq!(
        (&restored["changed"], &restored["mfaEnabled"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(app.entries("USER_FACTORS_RESTORE", "SUCCESS"), 1);
}

#[tokio::test]
async fn the_operators_webhook_call_names_no_account_as_the_actor() {
    let app = TestApp::with(Setup {
        acme: OrganizationSettings {
            webhook_url: Some("https://hooks.example.com/1".into()),
            ..Default::default()
        },
        courier: CourierConfig {
            webhooks: Reach::new(&["hooks.example.com".to_owned()], vec![]),
            ..Default::default()
        },
        ..Default::default()
    })
    .await;
    order(&app, reset_of(&app.developer)).await.unwrap();
    let call: String = app
        .services
        .store
        .read(|db| {
            let sql = "SELECT payload FROM delivery WHERE channel = 'webhook'";
            Ok(db.query_row(sql, [], |row| row.get(0))?)
        })
        .unwrap();
    assert!(call.replace('\\', "").contains(r#""actorId":null"#), "{call}");
}

#[tokio::test]
async fn the_code_is_in_the_operators_answer_and_unlocking_gives_a_new_one() {
    let app = TestApp::with(OrganizationSettings {
        enrolment_code_required: true,
        ..Default::default()
    })
    .await;
    let done = order(&app, reset_of(&app.developer)).await.unwrap();
    let first = done["enrolmentCode"].as_str().unwrap().to_owned();
    assert_eq!(done["enrolmentCodeUntil"], "2026-02-19T10:30:00Z");
    assert!(!app.trail().iter().any(|entry| entry.to_string().contains(&first)));
    app.advance(SignedDuration::from_hours(30));
    let unlock = AccountOrder::Unlock {
        user: named(&app.developer),
    };
    let unlocked = order(&app, unlock).await.unwrap();
    assert_eq!(unlocked["changed"], true, "{unlocked}");
    assert_ne!(unlocked["enrolmentCode"], first.as_str());
    assert_eq!(unlocked["enrolmentDueUntil"], "2026-02-20T16:30:00Z");
    let entry = app.last_entry();
    assert_eq!(entry["actor"]["type"], "OPERATOR");
    assert_eq!(entry["details"]["changes"]["enrolmentCode"], "issued anew");
}

#[tokio::test]
async fn a_policy_is_told_that_it_is_the_operator_and_counts_them_for_each_organisation_alone() {
    let app = TestApp::new().await;
    app.bind("reset-budget", json!({ "perAdmin": { "maxPerDay": 1 } }))
        .await;
    let other = AccountOrder::ResetMfa {
        user: Named {
            organization: "globex".into(),
            email: app.other_developer.email.clone(),
        },
        reason: None,
        ticket: None,
    };
    order(&app, other).await.unwrap();
    order(&app, reset_of(&app.developer)).await.unwrap();
    let asked: String = app
        .services
        .store
        .read(|db| {
            let sql = "SELECT question FROM question ORDER BY audit_sequence DESC LIMIT 1";
            Ok(db.query_row(sql, [], |row| row.get(0))?)
        })
        .unwrap();
    let asked: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked["actor"]["role"], "operator");
    assert_eq!(asked["actor"]["id"], app.acme.to_string());
    assert_eq!(asked["history"]["actorResetsLastDay"], 0, "{asked}");
    let denied = order(&app, reset_of(&app.second_admin)).await.unwrap_err();
    assert!(matches!(denied, Error::Denied(_)), "{denied:?}");
    assert_eq!(app.entries("USER_MFA_RESET", "DENIED"), 1);
}

#[tokio::test]
async fn the_operators_reset_waits_for_nobody() {
    let app = TestApp::new().await;
    app.bind("second-admin", json!({ "privileged": true })).await;
    let Err(Error::Denied(denied)) = order(&app, reset_of(&app.admin)).await else {
        panic!("not denied");
    };
    assert_eq!(
        (denied.plugin.as_str(), denied.code.as_str()),
        ("second-admin", "approval-required")
    );
    assert_eq!(app.count("SELECT count(*) FROM approval"), 0);
    let entry = app.last_entry();
    assert_eq!(
        (&entry["result"], &entry["details"]["deniedBy"]),
        (&json!("DENIED"), &json!("second-admin"))
    );
    // Members are not on its list.
    order(&app, reset_of(&app.developer)).await.unwrap();
}

#[test]
fn an_order_that_is_not_known_is_none() {
    for text in ["", "{}", r#"{"order":"no-such"}"#, r#"{"order":"unlock"}"#] {
        assert!(Order::from_json(text).is_err(), "{text}");
    }
}
