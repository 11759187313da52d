//! Links to set a password.

use jiff::SignedDuration;
use latchkey::domain::account::OrganizationSettings;
use serde_json::{Value, json};

use super::{app_with_mail, token_of, user_path};
use crate::support::{Answer, PASSWORD, TestApp};

const NEW: &str = "a brand new passphrase";

async fn accept(app: &TestApp, token: &str, password: &str) -> Answer {
    let body = json!({ "token": token, "password": password });
    app.anonymous().post("/api/v1/auth/accept-invitation", body).await
}

async fn invited(app: &TestApp, email: &str) -> String {
    let made = app
        .admin()
        .await
        .post("/api/v1/users", json!({ "email": email }))
        .await;
    token_of(made.assert_status(201)["invitationLink"].as_str().unwrap())
}

#[tokio::test]
async fn an_invited_user_sets_a_password_once_and_logs_in() {
    let app = TestApp::new().await;
    let token = invited(&app, "nora@acme.example").await;
    app.log_in("nora@acme.example", NEW)
        .await
        .assert_error(401, "Invalid credentials");
    accept(&app, &token, NEW).await.assert_ok();
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "USER_PASSWORD_CHANGE");
    assert_eq!(entry["actor"]["email"], "nora@acme.example");
    assert_eq!(entry["details"]["reason"], "invitation");
    app.log_in("nora@acme.example", NEW).await.assert_ok();
    let again = accept(&app, &token, "another passphrase").await;
    again.assert_error(401, "The invitation is invalid or has expired");
}

#[tokio::test]
async fn a_link_lapses_after_seven_days_and_nonsense_is_no_link() {
    let app = TestApp::new().await;
    let token = invited(&app, "nora@acme.example").await;
    let dead = "The invitation is invalid or has expired";
    accept(&app, "lko_nonsense", NEW).await.assert_error(401, dead);
    let (other, last) = (&token[..token.len() - 1], &token[token.len() - 1..]);
    let other = format!("{other}{}", if last == "A" { "Q" } else { "A" });
    accept(&app, &other, NEW).await.assert_error(401, dead);
    app.advance(SignedDuration::from_hours(7 * 24));
    accept(&app, &token, NEW).await.assert_error(401, dead);
}

#[tokio::test]
async fn the_password_keeps_the_organisations_rules() {
    let app = TestApp::with(OrganizationSettings {
        password_require_digit: true,
        ..Default::default()
    })
    .await;
    let token = invited(&app, "nora@acme.example").await;
    for weak in ["short1", "no digit in this one"] {
        let refused = accept(&app, &token, weak).await;
        refused.assert_status(400);
        assert!(
            refused.body["validationErrors"]["password"].is_string(),
            "{}",
            refused.text
        );
    }
    accept(&app, &token, "a digit, 7, is in this one")
        .await
        .assert_ok();
}

#[tokio::test]
async fn a_reset_password_is_dead_at_once_and_the_second_factor_stays() {
    let app = TestApp::new().await;
    let developer = app.caller(&app.developer).await;
    let admin = app.admin().await;
    let reset = admin
        .call(&format!("{}/reset-password", user_path(&app.developer)))
        .await;
    assert_eq!(reset.assert_ok()["message"], "Password reset successfully");
    let token = token_of(reset.body["invitationLink"].as_str().unwrap());
    assert_eq!(
        developer.get("/api/v1/account/sessions").await.status.as_u16(),
        401
    );
    app.log_in("dev@acme.example", PASSWORD)
        .await
        .assert_error(401, "Invalid credentials");
    let entry = app.last_entry_of("USER_PASSWORD_RESET");
    assert_eq!(entry["details"]["invitation"], "shown to the admin");
    accept(&app, &token, NEW).await.assert_ok();
    let login = app.log_in("dev@acme.example", NEW).await;
    assert_eq!(login.assert_ok()["mfaRequired"], true, "{}", login.text);
    assert_eq!(login.body["accessToken"], Value::Null);
}

#[tokio::test]
async fn a_newer_link_takes_the_place_of_an_older_one() {
    let app = TestApp::new().await;
    let first = invited(&app, "nora@acme.example").await;
    let nora = app
        .services
        .store
        .read(|db| latchkey::store::accounts::find_user_by_email(db, app.acme, "nora@acme.example"))
        .unwrap()
        .unwrap();
    let path = format!("{}/reset-password", user_path(&nora));
    let again = app.admin().await.call(&path).await;
    let second = token_of(again.assert_ok()["invitationLink"].as_str().unwrap());
    accept(&app, &first, NEW)
        .await
        .assert_error(401, "The invitation is invalid or has expired");
    accept(&app, &second, NEW).await.assert_ok();
}

#[tokio::test]
async fn a_deactivated_users_link_is_dead_and_stays_so() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let reset = admin
        .call(&format!("{}/reset-password", user_path(&app.member)))
        .await;
    let token = token_of(reset.assert_ok()["invitationLink"].as_str().unwrap());
    for active in [false, true] {
        admin
            .patch(&user_path(&app.member), json!({ "isActive": active }))
            .await
            .assert_ok();
        accept(&app, &token, NEW)
            .await
            .assert_error(401, "The invitation is invalid or has expired");
    }
}

#[tokio::test]
async fn a_mailed_link_is_not_shown_to_the_admin() {
    let app = app_with_mail().await;
    let path = format!("{}/reset-password", user_path(&app.member));
    let reset = app.admin().await.call(&path).await;
    assert_eq!(
        reset.assert_ok(),
        &json!({ "message": "Password reset successfully" })
    );
    let mail = app.owed_mail().pop().unwrap();
    assert_eq!(mail.to, "member@acme.example");
    accept(&app, &token_of(&mail.body), NEW).await.assert_ok();
}

#[tokio::test]
async fn an_admin_does_not_reset_their_own_password_this_way() {
    let app = TestApp::new().await;
    let own = format!("{}/reset-password", user_path(&app.admin));
    app.admin().await.call(&own).await.assert_error(
        403,
        "You cannot do this to your own account; another administrator can",
    );
}

#[tokio::test]
async fn the_link_leads_to_a_page_that_loads_nothing_from_elsewhere() {
    let app = TestApp::new().await;
    let page = app.anonymous().get("/invitation").await;
    page.assert_status(200);
    assert!(page.text.contains("/api/v1/auth/accept-invitation"));
    assert!(!page.text.contains("http"), "{}", page.text);
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    assert_eq!(page.header("referrer-policy"), "no-referrer");
}

/// Whoever made the account may have kept the link, and must not choose the password of an admin.
#[tokio::test]
async fn a_link_ends_with_a_promotion() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let token = invited(&app, "nora@acme.example").await;
    let users = admin.get("/api/v1/users?query=nora").await;
    let id = users.assert_ok()[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/users/{id}");
    admin.patch(&path, json!({ "name": "Nora" })).await.assert_ok();
    admin
        .patch(&path, json!({ "isOrgAdmin": true }))
        .await
        .assert_ok();
    accept(&app, &token, NEW)
        .await
        .assert_error(401, "The invitation is invalid or has expired");
    // The next link is for an admin, and who may ask for it is judged anew.
    let link = admin.post(&format!("{path}/reset-password"), json!({})).await;
    let token = token_of(link.assert_ok()["invitationLink"].as_str().unwrap());
    accept(&app, &token, NEW).await.assert_ok();
}
