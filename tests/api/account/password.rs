//! Changing one's own password (ASVS 6.2.2, 6.2.3).

use latchkey::domain::account::Role;
use latchkey::limiter::{Limit, Limits};
use poem::http::Method;
use serde_json::{Value, json};

use super::app::{Answer, App, PASSWORD, SECRET, entry, mfa_required};

const NEW: &str = "another good password";
const WRONG: &str = "is wrong";

async fn change(app: &App, token: &str, current: &str, new: &str) -> Answer {
    let body = json!({"currentPassword": current, "newPassword": new});
    app.post("/account/password", Some(token), body).await
}

#[track_caller]
fn refused_field(answer: &Answer, field: &str, problem: &str) {
    answer.refused(400, "Validation failed");
    assert_eq!(answer.body["validationErrors"], json!({ field: problem }));
}

async fn works(app: &App, token: &str) -> bool {
    let answer = app
        .call(Method::GET, "/account/sessions", Some(token), None)
        .await;
    answer.status == 200
}

#[tokio::test]
async fn who_knows_their_password_changes_it_and_their_other_sessions_end() {
    let app = App::with_mail().await;
    let elsewhere = app.login("new@acme.example").await.ok();
    let token = app.token("new@acme.example").await;
    let mails = "SELECT count(*) FROM delivery WHERE channel = 'mail'";
    let before = app.count(mails);

    change(&app, &token, PASSWORD, NEW).await.ok();
    assert_eq!(
        app.newest(),
        entry("USER_PASSWORD_CHANGE", "SUCCESS", Some("own"))
    );
    let newest = app.last_entry();
    assert_eq!(newest["details"]["sessionsEnded"], 1);
    assert_eq!(newest["actor"]["email"], "new@acme.example");
    assert_eq!(app.count(mails), before + 1, "the user is told");

    assert!(works(&app, &token).await, "who asked goes on");
    assert!(!works(&app, &elsewhere.text("accessToken")).await);
    let refreshed = app.refresh(&elsewhere.text("refreshToken")).await;
    refreshed.refused(401, "The refresh token is invalid or has expired");
    app.login("new@acme.example")
        .await
        .refused(401, "Invalid credentials");
    app.login_as("new@acme.example", NEW).await.ok();
}

#[tokio::test]
async fn a_wrong_current_password_is_on_the_record_and_no_dead_token() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    for current in ["wrong", "", &"x".repeat(1000)] {
        let answer = change(&app, &token, current, NEW).await;
        refused_field(&answer, "currentPassword", WRONG);
        assert!(!answer.headers.contains_key("www-authenticate"));
        let denied = entry("USER_PASSWORD_CHANGE", "DENIED", Some("wrong-password"));
        assert_eq!(app.newest(), denied);
    }
    assert!(works(&app, &token).await);
    app.login("new@acme.example").await.ok();
    // Somebody who never had one.
    app.sql("UPDATE user SET password_hash = NULL WHERE email = 'new@acme.example'");
    let answer = change(&app, &token, PASSWORD, NEW).await;
    refused_field(&answer, "currentPassword", WRONG);
    let denied = entry("USER_PASSWORD_CHANGE", "DENIED", Some("no-password"));
    assert_eq!(app.newest(), denied);
}

#[tokio::test]
async fn the_organisations_rules_hold_and_the_same_password_is_none() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let entries = app.entries().len();
    for (new, problem) in [
        ("short", "must have at least 12 characters"),
        (PASSWORD, "must differ from the current password"),
    ] {
        let answer = change(&app, &token, PASSWORD, new).await;
        refused_field(&answer, "newPassword", problem);
    }
    let common = change(&app, &token, PASSWORD, "password1234").await;
    common.refused(400, "Validation failed");
    let told = common.body["validationErrors"]["newPassword"].as_str().unwrap();
    assert!(told.contains("common"), "{told}");
    // Rules are looked at first: they tell nothing of the current password.
    let answer = change(&app, &token, "wrong", "short").await;
    refused_field(&answer, "newPassword", "must have at least 12 characters");
    assert_eq!(app.entries().len(), entries);
}

#[tokio::test]
async fn a_second_factor_comes_first_where_there_is_one() {
    let app = App::new().await;
    let token = app
        .log_in_with_code("phone@acme.example")
        .await
        .text("accessToken");
    app.wait(11 * 60);
    let stale = change(&app, &token, PASSWORD, NEW).await;
    stale.refused(401, "A more recent authentication is required");
    let challenge = stale.headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("insufficient_user_authentication"),
        "{challenge}"
    );
    // Whether the password was right is not told before.
    let wrong = change(&app, &token, "wrong", NEW).await;
    wrong.refused(401, "A more recent authentication is required");
    let body = json!({"code": app.code(SECRET)});
    let fresh = app.post("/auth/step-up", Some(&token), body).await.ok();
    change(&app, &fresh.text("accessToken"), PASSWORD, NEW).await.ok();
}

#[tokio::test]
async fn a_session_for_enrolment_changes_no_password() {
    let app = App::with(mfa_required()).await;
    let answer = app.login("new@acme.example").await.ok();
    assert_eq!(answer.body["mfaSetupRequired"], true);
    let answer = change(&app, &answer.text("accessToken"), PASSWORD, NEW).await;
    answer.refused(403, "Set up MFA before anything else");
    let nobody = app.post("/account/password", None, Value::Null).await;
    nobody.refused(401, "Authentication is required");
}

#[tokio::test]
async fn guesses_within_a_session_count_with_those_at_login() {
    let limits = Limits {
        login_by_account: Limit {
            requests: 4,
            window_secs: 600,
        },
        ..Limits::off()
    };
    let app = App::with(limits).await;
    let token = app.minted(app.further("guessed", Role::Member).await.id).await;
    app.login_as("guessed@acme.example", "wrong").await;
    app.login_as("guessed@acme.example", "wrong").await;
    for _ in 0..2 {
        let answer = change(&app, &token, "wrong", NEW).await;
        refused_field(&answer, "currentPassword", WRONG);
    }
    let limited = change(&app, &token, PASSWORD, NEW).await;
    assert_eq!(limited.status, 429, "{}", limited.body);
    assert_eq!(app.login("guessed@acme.example").await.status, 429);
    // One that is right gives the attempts back, as at login.
    app.wait(600);
    change(&app, &token, "wrong", NEW).await;
    change(&app, &token, PASSWORD, NEW).await.ok();
    for _ in 0..4 {
        let answer = change(&app, &token, PASSWORD, PASSWORD).await;
        refused_field(&answer, "currentPassword", WRONG);
    }
}
