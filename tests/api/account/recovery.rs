//! What a reset means for the user who lost the device (invariant 6).

use latchkey::domain::account::OrganizationSettings;
use poem::http::Method;
use serde_json::{Value, json};

use super::app::{App, SECRET, entry, mfa_required};

#[tokio::test]
async fn the_whole_story() {
    let app = App::with(mfa_required()).await;
    let admin = app.boss().await;

    // Logged in with password and code; then the device is lost. A second login is under way.
    let before = app.log_in_with_code("phone@acme.example").await;
    let old_challenge = app.challenge("phone@acme.example").await;
    app.wait(30);

    let answer = app.reset_of(&admin, "phone@acme.example").await.ok();
    assert_eq!(answer.body, json!({"message": "MFA reset successfully"}));

    // Everything old is dead.
    let old = app
        .post("/mfa/setup", Some(&before.text("accessToken")), Value::Null)
        .await;
    old.refused(401, "The access token has been revoked");
    app.refresh(&before.text("refreshToken"))
        .await
        .refused(401, "The refresh token is invalid or has expired");
    app.verify(&old_challenge, &app.code(SECRET))
        .await
        .refused(401, "The MFA challenge is invalid or has expired");

    // The password alone opens set-up and nothing else.
    let login = app.login("phone@acme.example").await.ok();
    assert_eq!(login.body["mfaRequired"], false);
    assert_eq!(login.body["mfaSetupRequired"], true);
    assert_eq!(login.body["user"]["mfaEnabled"], false);
    let token = login.text("accessToken");
    let path = "/account/sessions";
    let elsewhere = app.call(Method::GET, path, Some(&token), None).await;
    elsewhere.refused(403, "Set up MFA before anything else");

    // Set up again: the same tokens open everything.
    let secret = app.set_up(&token).await;
    assert_ne!(secret, SECRET);
    app.confirm(&token, &secret).await.ok();
    app.call(Method::GET, path, Some(&token), None).await.ok();
    app.refresh(&login.text("refreshToken")).await.ok();

    // The new code logs in, the old secret's does not.
    app.wait(30);
    let challenge = app.challenge("phone@acme.example").await;
    app.verify(&challenge, &app.code(SECRET))
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, &app.code(&secret)).await.ok();
    assert!(app.find("phone@acme.example").enrolment_due.is_none());
}

#[tokio::test]
async fn old_recovery_codes_are_dead_after_a_reset() {
    let app = App::new().await;
    let admin = app.boss().await;
    let enrol = || async {
        let token = app.token("new@acme.example").await;
        app.enrol(&token).await.1.remove(0)
    };
    let old = enrol().await;
    app.reset_of(&admin, "new@acme.example").await.ok();
    let new = enrol().await;
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, &old)
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, &new).await.ok();
}

#[tokio::test]
async fn a_set_up_under_way_ends_with_the_reset() {
    // Only who has MFA can be reset, so the half-done set-up is put there behind the app's back.
    let app = App::new().await;
    let admin = app.boss().await;
    let token = app.token("new@acme.example").await;
    app.post("/mfa/setup", Some(&token), Value::Null).await.ok();
    assert_eq!(app.count("SELECT count(*) FROM enrolment"), 1);
    app.sql(
        "INSERT INTO factor (user_id, id, kind, secret, enrolled_at) \
         SELECT id, randomblob(16), 'totp', x'00', 0 FROM user WHERE email = 'new@acme.example'",
    );
    app.reset_of(&admin, "new@acme.example").await.ok();
    assert_eq!(app.count("SELECT count(*) FROM enrolment"), 0);
}

#[tokio::test]
async fn where_nothing_is_demanded_the_password_alone_logs_in_after_a_reset() {
    let app = App::new().await;
    let admin = app.boss().await;
    app.reset_of(&admin, "phone@acme.example").await.ok();
    let login = app.login("phone@acme.example").await.ok();
    assert_eq!(
        (&login.body["mfaRequired"], &login.body["mfaSetupRequired"]),
        (&json!(false), &json!(false))
    );
    app.call(
        Method::GET,
        "/account/sessions",
        Some(&login.text("accessToken")),
        None,
    )
    .await
    .ok();
}

#[tokio::test]
async fn whoever_was_never_enrolled_is_led_to_set_up_where_it_is_demanded() {
    let app = App::with(mfa_required()).await;
    app.wait(365 * 24 * 3600);
    assert_eq!(
        app.login("new@acme.example").await.ok().body["mfaSetupRequired"],
        true
    );
}

#[tokio::test]
async fn past_the_window_the_account_is_locked_and_only_the_password_tells() {
    let app = App::with(mfa_required()).await;
    let admin = app.boss().await;
    app.reset_of(&admin, "phone@acme.example").await.ok();
    app.wait(24 * 3600 - 60);
    let login = app.login("phone@acme.example").await.ok();
    let token = login.text("accessToken");
    let secret = app.set_up(&token).await;
    app.wait(60);
    // The session ended with the window, and its refresh token with it.
    assert_eq!(app.confirm(&token, &secret).await.status, 401);
    assert_eq!(app.refresh(&login.text("refreshToken")).await.status, 401);

    app.login_as("phone@acme.example", "wrong")
        .await
        .refused(401, "Invalid credentials");
    assert!(app.find("phone@acme.example").locked.is_none());
    let locked = "The account is locked. Ask an administrator to unlock it";
    app.login("phone@acme.example").await.refused(403, locked);
    assert_eq!(
        app.newest(),
        entry("USER_LOGIN", "DENIED", Some("enrolment-window-over"))
    );
    assert!(app.find("phone@acme.example").locked.is_some());
    app.login("phone@acme.example").await.refused(403, locked);
    assert_eq!(app.newest(), entry("USER_LOGIN", "DENIED", Some("locked")));
}

#[tokio::test]
async fn an_enrolment_session_lives_an_hour_at_most() {
    let app = App::with(mfa_required()).await;
    let login = app.login("new@acme.example").await.ok();
    app.wait(15 * 60);
    let expired = app
        .post("/mfa/setup", Some(&login.text("accessToken")), Value::Null)
        .await;
    expired.refused(401, "The access token has expired");
    let tokens = app.refresh(&login.text("refreshToken")).await.ok();
    let token = tokens.text("accessToken");
    app.call(Method::GET, "/account/sessions", Some(&token), None)
        .await
        .refused(403, "Set up MFA before anything else");
    app.wait(45 * 60);
    assert_eq!(app.refresh(&tokens.text("refreshToken")).await.status, 401);
}

#[tokio::test]
async fn set_up_asks_for_the_admins_code_where_it_is_demanded() {
    let code_required = OrganizationSettings {
        enrolment_code_required: true,
        ..mfa_required()
    };
    let app = App::with(code_required).await;
    let admin = app.boss().await;
    let answer = app.reset_of(&admin, "phone@acme.example").await.ok();
    let code = answer.text("enrolmentCode");
    let token = app.token("phone@acme.example").await;
    let secret = app.set_up(&token).await;
    let confirm = async |code: Option<String>| match code {
        None => app.confirm(&token, &secret).await,
        Some(code) => app.confirm_with(&token, &secret, &code).await,
    };
    for (code, problem) in [
        (None, "is required: ask the administrator for it"),
        (
            Some(String::new()),
            "is wrong or has expired: ask the administrator for another",
        ),
        (
            Some("ABCD-EFGH".into()),
            "is wrong or has expired: ask the administrator for another",
        ),
    ] {
        let answer = confirm(code).await;
        answer.refused(400, "Validation failed");
        assert_eq!(answer.body["validationErrors"]["enrolmentCode"], problem);
        assert_eq!(
            app.newest(),
            entry("USER_MFA_ENABLED", "DENIED", Some("enrolment-code"))
        );
    }
    confirm(Some(code.to_lowercase())).await.ok();
    let trail = format!("{:?}", app.entries());
    assert!(!trail.contains(&code));
}

#[tokio::test]
async fn the_admins_code_is_good_as_long_as_the_organisation_says_and_once() {
    let code_for_ten_minutes = OrganizationSettings {
        enrolment_code_required: true,
        enrolment_code_minutes: 10,
        ..mfa_required()
    };
    let app = App::with(code_for_ten_minutes).await;
    let admin = app.boss().await;
    let reset = async || {
        let answer = app.reset_of(&admin, "phone@acme.example").await.ok();
        answer.text("enrolmentCode")
    };
    let set_up = async |code: &str| {
        let token = app.token("phone@acme.example").await;
        let secret = app.set_up(&token).await;
        app.confirm_with(&token, &secret, code).await
    };
    let refused = |answer: &super::app::Answer| {
        answer.refused(400, "Validation failed");
        let problem = "is wrong or has expired: ask the administrator for another";
        assert_eq!(answer.body["validationErrors"]["enrolmentCode"], problem);
    };
    let first = reset().await;
    app.wait(10 * 60);
    refused(&set_up(&first).await);
    // A new one is as short-lived.
    let user = format!("/users/{}", app.id("phone@acme.example"));
    let body = Some(json!({ "locked": false }));
    let unlocked = app.call(Method::PATCH, &user, Some(&admin), body).await.ok();
    let second = unlocked.text("enrolmentCode");
    app.wait(10 * 60 - 1);
    refused(&set_up(&first).await);
    set_up(&second).await.ok();
    let third = reset().await;
    for used in [&first, &second] {
        refused(&set_up(used).await);
    }
    set_up(&third).await.ok();
}

#[tokio::test]
async fn an_enrolment_session_opens_set_up_and_logout_alone() {
    let app = App::with(mfa_required()).await;
    let token = app.token("boss@acme.example").await;
    let document = latchkey::http::document();
    let paths = document["paths"].as_object().expect("paths");
    let mut refused = 0;
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let secured = operation["security"].as_array().is_some_and(|s| !s.is_empty());
            let name = operation["operationId"].as_str().expect("an operation has an id");
            let set_up = [
                "setUpMfa",
                "confirmMfa",
                "passkeyRegistrationOptions",
                "registerPasskey",
            ];
            if !secured || set_up.contains(&name) || name == "logout" {
                continue;
            }
            let path = path
                .trim_start_matches("/api/v1")
                .replace("{id}", &app.id("phone@acme.example").to_string());
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let body = operation["requestBody"].is_object().then(|| json!({}));
            let answer = app.call(method, &path, Some(&token), body).await;
            answer.refused(403, "Set up MFA before anything else");
            refused += 1;
        }
    }
    assert!(refused >= 8, "{refused} operations");
}
