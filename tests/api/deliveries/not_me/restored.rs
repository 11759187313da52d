//! Factors given back: which, by whom, and what ends with it.

use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings};
use poem::http::Method;
use serde_json::{Value, json};

use super::super::receivers::MailServer;
use super::super::{mails, users_app_with_mail};
use super::{LOCKED, app, enrol, report, restore, token};
use crate::account::app::{App, SECRET};

/// Enrols a device as somebody who knows the password, uses it, and disables MFA with it. Returns its secret.
async fn enrol_and_disable(app: &App, email: &str) -> String {
    let theirs = enrol(app, email).await;
    app.wait(30);
    let challenge = app.challenge(email).await;
    let session = app.verify(&challenge, &app.code(&theirs)).await.ok();
    app.wait(30);
    let code = json!({ "code": app.code(&theirs) });
    app.post("/mfa/disable", Some(&session.text("accessToken")), code)
        .await
        .ok();
    theirs
}

async fn opens(app: &App, email: &str, secret: &str) -> bool {
    app.wait(30);
    let challenge = app.challenge(email).await;
    app.verify(&challenge, &app.code(secret)).await.status == 200
}

/// Otherwise somebody who had the user's factors reset would get their own restored in the user's name, for good.
#[tokio::test]
async fn what_a_thief_set_up_and_had_taken_is_not_restored_where_nobody_chose_it() {
    let server = MailServer::start();
    let app = users_app_with_mail(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let phone = "phone@acme.example";
    app.reset_of(&admin, phone).await.ok();
    let reset_at = format!("{:.3}", app.clock.now());
    let link = token(&mails(&app, &server).await, phone);
    let theirs = enrol_and_disable(&app, phone).await;
    let disabled_at = format!("{:.3}", app.clock.now());
    report(&app, &link).await.ok();

    let refusal = format!(
        "Factors were removed more than once: {reset_at}, {disabled_at}. Choose one of these times with takenBefore \
         or --taken-before. Those removed later were set up after the first were removed, perhaps by somebody else"
    );
    restore(&app, &admin, phone).await.refused(409, &refusal);
    app.login(phone).await.refused(403, LOCKED);
    assert!(!app.find(phone).mfa_enabled);
    assert_eq!(app.last_entry_of("USER_FACTORS_RESTORE")["result"], "DENIED");

    let path = format!("/users/{}/restore-factors?takenBefore={reset_at}", app.id(phone));
    app.post(&path, Some(&admin), Value::Null).await.ok();
    assert!(!opens(&app, phone, &theirs).await);
    assert!(opens(&app, phone, SECRET).await);
}

#[tokio::test]
async fn what_is_restored_by_agreement_is_what_was_there_when_it_was_asked_for() {
    let server = MailServer::start();
    let rule = OrganizationSettings {
        admin_on_admin: AdminOnAdmin::SecondAdmin,
        ..OrganizationSettings::default()
    };
    let app = users_app_with_mail(&server, rule).await;
    let admin = app.boss().await;
    let second = app.minted(app.id("second@acme.example")).await;
    let phone = "phone@acme.example";
    app.sql(&format!(
        "UPDATE user SET role = 'org-admin' WHERE email = '{phone}'"
    ));
    restore(&app, &admin, phone)
        .await
        .refused(400, "There are no factors to restore");
    let asked = app.reset_of(&admin, phone).await.text("approvalId");
    let approve = format!("/approvals/{asked}/approve");
    app.post(&approve, Some(&second), Value::Null).await.ok();
    let reset_at = format!("{:.3}", app.clock.now());
    mails(&app, &server).await;

    let asked = restore(&app, &admin, phone).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    let theirs = enrol_and_disable(&app, phone).await;
    let path = format!("/approvals/{}", asked.text("approvalId"));
    let shown = app.call(Method::GET, &path, Some(&second), None).await.ok();
    assert_eq!(shown.body["takenAt"], json!(reset_at));
    let told = mails(&app, &server).await;
    let told = told
        .iter()
        .find(|mail| mail.to == ["second@acme.example"])
        .expect("asked");
    let what = format!(
        "the second factor that was removed on {}Z, of phone",
        &reset_at[..19]
    );
    assert!(told.text.contains(&what), "{}", told.text);

    app.post(&format!("{path}/approve"), Some(&second), Value::Null)
        .await
        .ok();
    assert!(!opens(&app, phone, &theirs).await);
    assert!(opens(&app, phone, SECRET).await);
}

#[tokio::test]
async fn a_suspended_factor_and_its_recovery_codes_open_nothing_and_are_destroyed_after_the_window() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let new = "new@acme.example";
    let login = app.token(new).await;
    let (secret, codes) = app.enrol(&login).await;
    let old_code = codes[0].clone();
    app.wait(30);
    app.reset_of(&admin, new).await.ok();
    let theirs = enrol(&app, new).await;
    app.wait(30);
    let challenge = app.challenge(new).await;
    for code in [app.code(&secret), old_code.clone()] {
        app.verify(&challenge, &code)
            .await
            .refused(401, "Invalid MFA code");
    }
    let session = app
        .verify(&challenge, &app.code(&theirs))
        .await
        .ok()
        .text("accessToken");
    for code in [app.code(&secret), old_code] {
        let step_up = app
            .post("/auth/step-up", Some(&session), json!({ "code": code }))
            .await;
        step_up.refused(400, "Invalid MFA code");
    }
    // A second reset keeps what the first one took: the admin says which is meant.
    app.wait(60);
    app.reset_of(&admin, new).await.ok();
    let path = format!("/users/{}/suspended-factors", app.id(new));
    let listed = app.call(Method::GET, &path, Some(&admin), None).await.ok();
    let taken: Vec<_> = listed
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["takenAt"].clone())
        .collect();
    assert_eq!(taken.len(), 4);
    let first = taken.last().unwrap().as_str().unwrap();
    let path = format!("/users/{}/restore-factors?takenBefore={first}", app.id(new));
    app.post(&path, Some(&admin), Value::Null).await.ok();
    app.wait(30);
    let challenge = app.challenge(new).await;
    app.verify(&challenge, &app.code(&secret)).await.ok();

    // Past the window nothing is left to restore, whether it was tidied or not.
    app.reset_of(&admin, new).await.ok();
    app.wait(7 * 24 * 3600 + 1);
    let admin = app.boss().await;
    restore(&app, &admin, new)
        .await
        .refused(400, "There are no factors to restore");
    crate::keeping::tidy_by_a_settled_clock(&app).await;
    let left = format!(
        "SELECT count(*) FROM factor WHERE user_id = x'{}'",
        app.id(new).0.simple()
    );
    assert_eq!(app.count(&left), 0);
}

#[tokio::test]
async fn who_may_restore_is_asked_and_a_second_admin_where_the_organisation_wants_one() {
    let server = MailServer::start();
    let rule = OrganizationSettings {
        admin_on_admin: AdminOnAdmin::SecondAdmin,
        ..OrganizationSettings::default()
    };
    let app = app(&server, rule).await;
    let admin = app.boss().await;
    let second = app.minted(app.id("admin@acme.example")).await;
    let target = "second@acme.example";
    let asked = app.reset_of(&admin, target).await;
    assert_eq!(asked.status, 202);
    let approve = format!("/approvals/{}/approve", asked.text("approvalId"));
    app.post(&approve, Some(&second), Value::Null).await.ok();
    let asked = restore(&app, &admin, target).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    assert!(!app.find(target).mfa_enabled);
    let path = format!("/approvals/{}", asked.text("approvalId"));
    let shown = app.call(Method::GET, &path, Some(&admin), None).await.ok();
    assert_eq!(shown.body["verb"], "restore-factors");
    let approve = format!("{path}/approve");
    let done = app.post(&approve, Some(&second), Value::Null).await.ok();
    assert_eq!(done.body["message"], "Factors restored successfully");
    assert!(app.find(target).mfa_enabled);

    let member = app.minted(app.id("member@acme.example")).await;
    restore(&app, &member, "phone@acme.example")
        .await
        .refused(403, "Role ORG_ADMIN is required");
    let own = restore(&app, &admin, "boss@acme.example").await;
    own.refused(
        403,
        "You cannot do this to your own account; another administrator can",
    );
    let stranger = app.id("dev@globex.example");
    let path = format!("/users/{stranger}/restore-factors");
    let answer = app.post(&path, Some(&admin), Value::Null).await;
    answer.refused(404, &format!("User not found with id: {stranger}"));
    let path = format!("/users/{stranger}/suspended-factors");
    let answer = app.call(Method::GET, &path, Some(&admin), None).await;
    answer.refused(404, &format!("User not found with id: {stranger}"));
}

#[tokio::test]
async fn what_an_attacker_made_ends_when_the_factors_are_restored() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let second = "second@acme.example";
    app.reset_of(&admin, second).await.ok();
    enrol(&app, second).await;
    let theirs = app.minted(app.id(second)).await;
    let key = app
        .post(
            "/api-keys",
            Some(&theirs),
            json!({ "name": "SIEM", "scopes": ["audit:read"] }),
        )
        .await
        .text("key");
    let read = async || {
        app.anonymous()
            .send(Method::GET, "/api/v1/audit-logs", None, &[("X-API-Key", &key)])
            .await
            .status
            .as_u16()
    };
    assert_eq!(read().await, 200);
    restore(&app, &admin, second).await.ok();
    assert_eq!(read().await, 401);
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "USER_FACTORS_RESTORE");
    assert_eq!(entry["details"]["apiKeysRevoked"], 1);
}
