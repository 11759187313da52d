//! Idempotency-Key: a repeat answers the first outcome and changes nothing, for one caller, one request
//! and one day.

use jiff::SignedDuration;
use latchkey::domain::account::OrganizationSettings;
use poem::http::Method;
use serde_json::{Value, json};

use super::user_path;
use crate::support::{Answer, Caller, DEVELOPER, TestApp, reset_path};

const KEY: &str = "0b6e4c56-9a53";

async fn reset(caller: &Caller<'_>, user: &str, body: Option<Value>) -> Answer {
    let headers = [("Idempotency-Key", KEY)];
    caller.send(Method::POST, &reset_path(user), body, &headers).await
}

const MISMATCH: &str = "The Idempotency-Key was used with a different request";

#[tokio::test]
async fn the_request_is_told_by_target_and_body_and_the_key_by_its_caller() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let first = json!({ "reason": "lost phone", "ticket": "HD-1" });
    reset(&admin, DEVELOPER, Some(first.clone())).await.assert_ok();
    // The same request, however its JSON is written.
    let same = json!({ "ticket": "HD-1", "reason": "lost phone" });
    reset(&admin, DEVELOPER, Some(same)).await.assert_ok();
    let second = app.second_admin.id.to_string();
    for (user, body) in [
        (DEVELOPER, None),
        (DEVELOPER, Some(json!({ "reason": "lost phone" }))),
        (
            DEVELOPER,
            Some(json!({ "reason": "HD-1", "ticket": "lost phone" })),
        ),
        (second.as_str(), Some(first.clone())),
    ] {
        let other = reset(&admin, user, body.clone()).await;
        other.assert_error(422, MISMATCH);
        let entry = app.last_entry();
        assert_eq!(
            (&entry["result"], &entry["errorMessage"]),
            (&json!("DENIED"), &json!(MISMATCH))
        );
    }
    // Another caller's key is another key.
    let other = app.caller(&app.second_admin).await;
    let judged = reset(&other, DEVELOPER, Some(first)).await;
    judged.assert_error(400, "MFA is not enabled for this user");
    assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1);
}

/// Ignored, it would let a repeat take away what the user set up since.
#[tokio::test]
async fn a_key_that_cannot_be_read_is_refused_and_not_ignored() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let visible = "The Idempotency-Key must have 1 to 255 visible ASCII characters";
    let cases: [(&[&str], &str); 6] = [
        (&["Störung-4711"], visible),
        (&["lost phone"], visible),
        (&["tab\there"], visible),
        (&[""], visible),
        (&["Störung-4711", KEY], "Send one Idempotency-Key"),
        (&[KEY, KEY], "Send one Idempotency-Key"),
    ];
    for (keys, message) in cases {
        let headers: Vec<_> = keys.iter().map(|key| ("Idempotency-Key", *key)).collect();
        let path = reset_path(DEVELOPER);
        let refused = admin.send(Method::POST, &path, None, &headers).await;
        refused.assert_error(400, message);
        let entry = app.last_entry();
        assert_eq!(
            (&entry["result"], &entry["errorMessage"]),
            (&json!("DENIED"), &json!(message))
        );
    }
    assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 0);
    let every_visible: String = ('!'..='~').collect();
    let headers = [("Idempotency-Key", every_visible.as_str())];
    for _ in 0..2 {
        let done = admin
            .send(Method::POST, &reset_path(DEVELOPER), None, &headers)
            .await;
        done.assert_ok();
    }
    assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1);
}

#[tokio::test]
async fn an_outcome_is_remembered_for_a_day_and_a_refusal_is_not() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let member = app.member.id.to_string();
    reset(&admin, &member, None)
        .await
        .assert_error(400, "MFA is not enabled for this user");
    crate::support::enrol(&app.services, app.member.id).await;
    reset(&admin, &member, None).await.assert_ok();
    app.advance(SignedDuration::from_secs(24 * 3600 - 1));
    let admin = app.admin().await;
    reset(&admin, &member, None).await.assert_ok();
    app.advance(SignedDuration::from_secs(1));
    reset(&admin, &member, None)
        .await
        .assert_error(400, "MFA is not enabled for this user");
    assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1);
}

/// Half-way, wherever that is: nothing is remembered of what did not happen, and the repeat does it.
#[tokio::test]
async fn what_failed_half_way_is_done_by_the_repeat() {
    for table in ["audit_entry", "reset_call", "remembered_outcome", "question"] {
        let app = TestApp::new().await;
        let admin = app.admin().await;
        let run = async |sql: String| {
            let change = move |tx: &latchkey::store::Transaction<'_>| Ok(tx.execute_batch(&sql)?);
            app.services
                .store
                .write(change)
                .await
                .expect("the schema changes");
        };
        run(format!(
            "CREATE TEMP TRIGGER fails BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        ))
        .await;
        let failed = reset(&admin, DEVELOPER, None).await;
        let live = "SELECT count(*) FROM factor WHERE suspended_at IS NULL AND user_id = \
                    (SELECT id FROM user WHERE email = 'dev@acme.example')";
        let expected = i64::from(failed.status != 200);
        assert_eq!(app.count(live), expected, "{table}: {}", failed.text);
        let kept = app.count("SELECT count(*) FROM remembered_outcome");
        assert_eq!(kept, 1 - expected, "{table}");
        run("DROP TRIGGER fails".into()).await;
        reset(&admin, DEVELOPER, None).await.assert_ok();
        assert_eq!(app.count(live), 0, "{table}");
        assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1, "{table}");
        reset(&admin, DEVELOPER, None).await.assert_ok();
        assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1, "{table}");
    }
}

#[tokio::test]
async fn two_at_once_with_one_key_are_one_reset_and_both_are_told_so() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let (one, two) = tokio::join!(reset(&admin, DEVELOPER, None), reset(&admin, DEVELOPER, None));
    assert_eq!(one.assert_ok(), two.assert_ok());
    assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1);
}

/// The code is kept only as a hash, so a repeat can't return it; an admin has a new one issued.
#[tokio::test]
async fn a_repeat_has_no_enrolment_code_and_unlocking_issues_a_new_one() {
    let app = TestApp::with(OrganizationSettings {
        enrolment_code_required: true,
        ..Default::default()
    })
    .await;
    let admin = app.admin().await;
    let first = reset(&admin, DEVELOPER, None).await;
    let lost = first.assert_ok()["enrolmentCode"].as_str().unwrap().to_owned();
    let again = reset(&admin, DEVELOPER, None).await;
    assert_eq!(again.assert_ok(), &json!({ "message": "MFA reset successfully" }));
    assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1);
    let user = user_path(&app.developer);
    let unlocked = admin.patch(&user, json!({ "locked": false })).await;
    let code = unlocked.assert_ok()["enrolmentCode"].as_str().unwrap().to_owned();
    assert_ne!(code, lost);
    // Not even then does the repeat have one.
    let again = reset(&admin, DEVELOPER, None).await;
    assert_eq!(again.assert_ok(), &json!({ "message": "MFA reset successfully" }));
}

/// A policy may allow later what it denied: its refusal is not remembered, and the repeat resets.
#[tokio::test]
async fn a_repeat_of_what_a_policy_denied_is_judged_anew() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.bind("ticket-required", json!({ "prefixes": ["HD-"] })).await;
    let denied = reset(&admin, DEVELOPER, None).await;
    assert_eq!(denied.status.as_u16(), 403, "{}", denied.text);
    let bindings = admin.get("/api/v1/policy-bindings").await;
    let id = bindings.assert_ok()[0]["id"].as_str().unwrap().to_owned();
    let binding = format!("/api/v1/policy-bindings/{id}");
    let off = admin.patch(&binding, json!({ "disabled": true })).await;
    off.assert_ok();
    reset(&admin, DEVELOPER, None).await.assert_ok();
    assert_eq!(app.entries("USER_MFA_RESET", "SUCCESS"), 1);
    assert_eq!(app.entries("USER_MFA_RESET", "DENIED"), 1);
}
