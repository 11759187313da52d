//! A passkey among what else there is: a reset and its restoration, step-up, demanded MFA, an authenticator app.

use latchkey::domain::account::OrganizationSettings;
use latchkey::limiter::Limits;
use poem::http::Method;
use serde_json::{Value, json};

use super::super::app::{App, SECRET, entry, mfa_required};
use super::super::authenticator::Authenticator;
use super::{
    DEAD, NEW, NOT_ASKED, PHONE, asked, claims, list, log_in, login_options, options, register, remove, show,
    step_up, step_up_demanded, with_passkey,
};

#[tokio::test]
async fn a_reset_takes_passkeys_and_restoring_gives_them_back() {
    let app = App::new().await;
    let admin = app.boss().await;
    let mut device = Authenticator::new(1);
    let (token, _) = with_passkey(&app, &mut device).await;
    let under_way = app.challenge(NEW).await;
    let for_it = asked(&app, &under_way).await;

    app.reset_of(&admin, NEW).await.ok();
    let newest = app.last_entry();
    assert!(newest["details"].to_string().contains("passkey"), "{newest}");
    assert!(!app.find(NEW).mfa_enabled);
    show(&app, &under_way, &device.get(&for_it))
        .await
        .refused(401, DEAD);
    app.call(Method::GET, "/mfa/passkeys", Some(&token), None)
        .await
        .refused(401, "The access token has been revoked");

    // Somebody sets up another: the old one is not asked for, and is none.
    let mut theirs = Authenticator::new(9);
    with_passkey(&app, &mut theirs).await;
    log_in(&app, NEW, &mut device)
        .await
        .refused(401, "Invalid passkey");
    log_in(&app, NEW, &mut theirs).await.ok();

    let path = format!("/users/{}/suspended-factors", app.id(NEW));
    let suspended = app.call(Method::GET, &path, Some(&admin), None).await.ok();
    let kinds: Vec<_> = suspended
        .body
        .as_array()
        .expect("a list")
        .iter()
        .map(|f| f["kind"].clone())
        .collect();
    assert!(kinds.contains(&json!("passkey")), "{kinds:?}");
    let path = format!("/users/{}/restore-factors", app.id(NEW));
    app.post(&path, Some(&admin), Value::Null).await.ok();
    log_in(&app, NEW, &mut theirs)
        .await
        .refused(401, "Invalid passkey");
    log_in(&app, NEW, &mut device).await.ok();
}

#[tokio::test]
async fn an_expired_password_is_replaced_after_a_passkey() {
    let organization = OrganizationSettings {
        password_expiration_days: Some(1),
        ..OrganizationSettings::default()
    };
    let app = App::with(organization).await;
    let mut device = Authenticator::new(1);
    with_passkey(&app, &mut device).await;
    app.wait(24 * 3600);
    let token = app.login(NEW).await.ok().text("passwordChangeToken");
    let options = asked(&app, &token).await;
    let change = async || {
        let body = json!({ "passwordChangeToken": token, "newPassword": "another good password" });
        app.post("/auth/change-expired-password", None, body).await
    };
    assert_eq!(change().await.status, 400);
    show(&app, &token, &device.get(&options))
        .await
        .refused(403, "The password has expired. Replace it, then log in again");
    change().await.ok();
}

#[tokio::test]
async fn the_right_passkey_uses_up_no_step_ups() {
    let app = App::with(Limits::default()).await;
    let mut device = Authenticator::new(1);
    let (token, _) = with_passkey(&app, &mut device).await;
    for _ in 0..6 {
        step_up(&app, &token, &mut device).await.ok();
    }
}

#[tokio::test]
async fn a_step_up_with_a_passkey_lets_an_admin_reset() {
    let app = App::with(step_up_demanded()).await;
    let boss = "boss@acme.example";
    let mut device = Authenticator::new(1);
    let token = app.token(boss).await;
    register(&app, &token, &mut device).await.ok();
    app.wait(6 * 60);
    let stale = app.reset_of(&token, PHONE).await;
    stale.refused(401, "A more recent authentication is required");

    // Wrong, then dead; then right.
    let mut stranger = Authenticator::new(2);
    step_up(&app, &token, &mut stranger)
        .await
        .refused(400, "Invalid passkey");
    assert_eq!(
        app.newest(),
        entry("USER_STEP_UP", "DENIED", Some("wrong-passkey"))
    );
    let body = json!({ "credential": device.get(&json!({ "challenge": "AAAA" })) });
    app.post("/auth/step-up/passkey", Some(&token), body)
        .await
        .refused(400, NOT_ASKED);
    let fresh = step_up(&app, &token, &mut device).await.ok().text("accessToken");
    assert_eq!(app.newest(), entry("USER_STEP_UP", "SUCCESS", None));
    assert_eq!(claims(&fresh)["amr"], json!(["pwd", "pop", "user", "mfa"]));
    app.reset_of(&fresh, PHONE).await.ok();
}

#[tokio::test]
async fn where_mfa_is_demanded_a_passkey_alone_is_enough() {
    let app = App::with(mfa_required()).await;
    let login = app.login(NEW).await.ok();
    assert_eq!(login.body["mfaSetupRequired"], true);
    let token = login.text("accessToken");
    app.call(Method::GET, "/mfa/passkeys", Some(&token), None)
        .await
        .refused(403, "Set up MFA before anything else");
    let mut device = Authenticator::new(1);
    register(&app, &token, &mut device).await.ok();
    // The same tokens open everything, but for getting rid of the last factor.
    let listed = list(&app, &token).await;
    let id = listed[0]["id"].as_str().expect("an id");
    remove(&app, &token, id)
        .await
        .refused(400, "Your organization requires MFA");
    log_in(&app, NEW, &mut device).await.ok();
}

#[tokio::test]
async fn after_a_reset_a_passkey_asks_for_the_admins_code_where_it_is_demanded() {
    let app = App::with(OrganizationSettings {
        enrolment_code_required: true,
        ..mfa_required()
    })
    .await;
    let admin = app.boss().await;
    let code = app.reset_of(&admin, PHONE).await.ok().text("enrolmentCode");
    let token = app.token(PHONE).await;
    let mut device = Authenticator::new(1);
    let credential = device.create(&options(&app, &token).await);
    let with = |code: Option<&str>| {
        let mut body = json!({ "name": "Laptop", "credential": credential });
        if let Some(code) = code {
            body["enrolmentCode"] = json!(code);
        }
        body
    };
    for wrong in [None, Some("AAAA-AAAA")] {
        let refused = app.post("/mfa/passkeys", Some(&token), with(wrong)).await;
        refused.refused(400, "Validation failed");
        assert!(refused.body["validationErrors"]["enrolmentCode"].is_string());
    }
    assert!(!app.find(PHONE).mfa_enabled);
    app.post("/mfa/passkeys", Some(&token), with(Some(&code)))
        .await
        .ok();
    assert!(app.find(PHONE).enrolment_due.is_none());
    log_in(&app, PHONE, &mut device).await.ok();
}

#[tokio::test]
async fn with_mfa_on_a_passkey_is_added_and_removed_after_a_step_up_alone() {
    let app = App::new().await;
    let token = app.log_in_with_code(PHONE).await.text("accessToken");
    app.wait(11 * 60);
    let stale = app.post("/mfa/passkeys/options", Some(&token), Value::Null).await;
    stale.refused(401, "A more recent authentication is required");
    let challenge = stale.headers["www-authenticate"].to_str().expect("text");
    assert!(challenge.contains("insufficient_user_authentication") && challenge.contains("max_age=600"));
    let code = json!({ "code": app.code(SECRET) });
    let stepped_up = app.post("/auth/step-up", Some(&token), code).await.ok();
    let token = stepped_up.text("accessToken");

    let mut device = Authenticator::new(1);
    let answer = register(&app, &token, &mut device).await.ok();
    assert!(answer.body["recoveryCodes"].is_null(), "the old ones go on");
    assert_eq!(app.newest(), entry("USER_PASSKEY_REGISTERED", "SUCCESS", None));
    let login = app.login(PHONE).await.ok();
    assert_eq!(
        login.body["mfaMethods"],
        json!(["passkey", "totp", "recovery-codes"])
    );
    log_in(&app, PHONE, &mut device).await.ok();
    app.wait(11 * 60);
    app.log_in_with_code(PHONE).await;

    let id = answer.body["passkey"]["id"].as_str().expect("an id");
    remove(&app, &token, id)
        .await
        .refused(401, "A more recent authentication is required");
    step_up(&app, &token, &mut device).await.ok();
    assert_eq!(remove(&app, &token, id).await.status, 204);
    assert_eq!(app.newest(), entry("USER_PASSKEY_REMOVED", "SUCCESS", None));
    assert!(
        app.find(PHONE).mfa_enabled,
        "the authenticator app is still there"
    );
    assert!(list(&app, &token).await.is_empty());
    let challenge = app.challenge(PHONE).await;
    login_options(&app, &challenge)
        .await
        .refused(400, "There is no passkey that can be used");
}

#[tokio::test]
async fn removing_the_last_passkey_switches_mfa_off() {
    let app = App::new().await;
    let (mut first, mut second) = (Authenticator::new(1), Authenticator::new(2));
    let (token, codes) = with_passkey(&app, &mut first).await;
    app.wait(1);
    register(&app, &token, &mut second).await.ok();
    let listed = list(&app, &token).await;
    let id = |i: usize| listed[i]["id"].as_str().expect("an id").to_owned();
    assert_eq!(remove(&app, &token, &id(0)).await.status, 204);
    log_in(&app, NEW, &mut first)
        .await
        .refused(401, "Invalid passkey");
    let challenge = app.challenge(NEW).await;
    app.verify(&challenge, &codes[0]).await.ok();
    assert_eq!(remove(&app, &token, &id(1)).await.status, 204);
    let trail = app.trail();
    assert_eq!(
        trail[trail.len() - 2..],
        [
            entry("USER_PASSKEY_REMOVED", "SUCCESS", None),
            entry("USER_MFA_DISABLED", "SUCCESS", None)
        ]
    );
    assert!(!app.find(NEW).mfa_enabled);
    assert_eq!(app.login(NEW).await.ok().body["mfaRequired"], false);
}

#[tokio::test]
async fn an_authenticator_app_is_set_up_beside_a_passkey() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    let (token, old) = with_passkey(&app, &mut device).await;
    app.wait(11 * 60);
    let stale = app.post("/mfa/setup", Some(&token), Value::Null).await;
    stale.refused(401, "A more recent authentication is required");
    step_up(&app, &token, &mut device).await.ok();
    let (_, new) = app.enrol(&token).await;
    let challenge = app.challenge(NEW).await;
    app.verify(&challenge, &old[0])
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, &new[0]).await.ok();
    log_in(&app, NEW, &mut device).await.ok();
}
