//! What is agreed to is judged again when it is carried out, and done completely or not at all.

use jiff::SignedDuration;
use latchkey::domain::account::AdminOnAdmin;
use serde_json::json;

use super::super::{app_where, user_path};
use super::{app_that_wants_admins, approve, asked, has_mfa, state, wants_admins};
use crate::guests::before;
use crate::support::{DEVELOPER, TestApp, enrol};

#[tokio::test]
async fn policies_are_asked_again_when_it_is_carried_out() {
    let app = TestApp::new().await; // Wednesday, 10:30 UTC
    let window = json!({ "timeZone": "UTC", "days": ["wed"], "from": "10:00", "to": "11:00" });
    app.bind("change-window", window).await;
    app.bind_module(wants_admins(1)).await;
    let id = asked(&app).await;
    app.advance(SignedDuration::from_mins(45));
    let denied = approve(&app.caller(&app.second_admin).await, &id).await;
    denied.assert_status(403);
    assert_eq!(
        denied.body["denial"]["plugin"], "change-window",
        "{}",
        denied.text
    );
    assert!(has_mfa(&app, &app.developer));
    assert_eq!(state(&app, &id), "denied");
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"]),
        (&json!("USER_MFA_RESET"), &json!("DENIED"))
    );
    assert_eq!(app.entries("APPROVAL_AGREE", "SUCCESS"), 1);
}

#[tokio::test]
async fn a_policy_that_fails_leaves_it_open_to_be_tried_again() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    app.bind_module(before("unreachable")).await;
    let second = app.caller(&app.second_admin).await;
    approve(&second, &id)
        .await
        .assert_error(500, "A policy could not be evaluated");
    assert_eq!(state(&app, &id), "open");
    assert_eq!(app.last_entry()["result"], "FAILURE");
    assert_eq!(app.entries("APPROVAL_AGREE", "SUCCESS"), 0);
    assert!(has_mfa(&app, &app.developer));
}

#[tokio::test]
async fn the_requester_must_still_be_an_active_admin() {
    for change in [json!({ "isOrgAdmin": false }), json!({ "isActive": false })] {
        let app = app_that_wants_admins(1).await;
        let id = asked(&app).await;
        let second = app.caller(&app.second_admin).await;
        second.patch(&user_path(&app.admin), change).await.assert_ok();
        let refused = approve(&second, &id).await;
        refused.assert_error(409, "The requester may no longer do this");
        assert!(has_mfa(&app, &app.developer));
        assert_eq!(app.last_entry()["details"]["closed"], true);
        let found = second.get(&format!("/api/v1/approvals/{id}")).await;
        assert_eq!(found.assert_ok()["state"], "denied");
    }
}

#[tokio::test]
async fn a_factor_enrolled_since_is_not_what_was_asked_for() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    app.advance(SignedDuration::from_secs(1));
    let hex = app.developer.id.0.simple();
    let sql = format!("DELETE FROM factor WHERE user_id = x'{hex}'");
    app.services
        .store
        .write(move |tx| Ok(tx.execute(&sql, [])?))
        .await
        .unwrap();
    enrol(&app.services, app.developer.id).await;
    let refused = approve(&app.caller(&app.second_admin).await, &id).await;
    refused.assert_error(409, "The user has enrolled a factor since this was asked for");
    assert!(has_mfa(&app, &app.developer));
}

/// The last write of the transaction fails, as if the machine had stopped there: all or nothing.
#[tokio::test]
async fn a_crash_half_way_leaves_it_open_and_the_user_as_they_were() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    let run = |sql: &'static str| app.services.store.write(move |tx| Ok(tx.execute_batch(sql)?));
    let entries = app.trail().len();
    for (break_at, name) in [
        (
            "CREATE TEMP TRIGGER fault BEFORE UPDATE ON approval BEGIN SELECT RAISE(ABORT, 'fault'); END",
            "state",
        ),
        (
            "CREATE TEMP TRIGGER fault BEFORE INSERT ON reset_call BEGIN SELECT RAISE(ABORT, 'fault'); END",
            "history",
        ),
        (
            "CREATE TEMP TRIGGER fault BEFORE INSERT ON question BEGIN SELECT RAISE(ABORT, 'fault'); END",
            "question",
        ),
    ] {
        run(break_at).await.unwrap();
        let failed = approve(&app.caller(&app.second_admin).await, &id).await;
        failed.assert_error(500, "Internal error");
        run("DROP TRIGGER fault").await.unwrap();
        assert!(has_mfa(&app, &app.developer), "{name}");
        assert_eq!(state(&app, &id), "open", "{name}");
        assert_eq!(app.count("SELECT count(*) FROM reset_call"), 0, "{name}");
        assert_eq!(app.entries("APPROVAL_AGREE", "SUCCESS"), 0, "{name}");
    }
    assert_eq!(app.entries("APPROVAL_AGREE", "FAILURE"), 3);
    assert!(app.trail().len() > entries);
    approve(&app.caller(&app.second_admin).await, &id)
        .await
        .assert_ok();
    assert!(!has_mfa(&app, &app.developer));
}

#[tokio::test]
async fn the_approvers_session_must_live_not_the_requesters() {
    let app = app_that_wants_admins(1).await;
    let admin = app.admin().await;
    let id = admin.reset(DEVELOPER).await.body["approvalId"]
        .as_str()
        .unwrap()
        .to_owned();
    admin.call("/api/v1/auth/logout").await.assert_ok();
    let second = app.caller(&app.second_admin).await;
    let ended = app.caller(&app.second_admin).await;
    ended.call("/api/v1/auth/logout").await.assert_ok();
    approve(&ended, &id)
        .await
        .assert_error(401, "The access token has been revoked");
    approve(&second, &id).await.assert_ok();
}

#[tokio::test]
async fn what_is_so_already_is_closed_with_an_entry() {
    let app = app_where(AdminOnAdmin::SecondAdmin).await;
    let admin = app.admin().await;
    let second = app.caller(&app.second_admin).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let asked = admin
            .patch(&user_path(&app.member), json!({ "isOrgAdmin": true }))
            .await;
        asked.assert_status(202);
        ids.push(asked.body["approvalId"].as_str().unwrap().to_owned());
    }
    approve(&second, &ids[0]).await.assert_ok();
    let again = approve(&second, &ids[1]).await;
    again.assert_error(409, "What was asked for is so already");
    assert_eq!(state(&app, &ids[1]), "denied");
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"], &entry["details"]["closed"]),
        (&json!("APPROVAL_AGREE"), &json!("DENIED"), &json!(true))
    );
    // What was asked for long ago does not come back after a demotion.
    approve(&second, &ids[1])
        .await
        .assert_error(409, "This is closed already: denied");
}
