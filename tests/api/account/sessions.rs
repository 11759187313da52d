use latchkey::domain::account::{OrganizationSettings, Role};
use latchkey::limiter::Limits;
use latchkey::service::Settings;
use poem::http::Method;
use serde_json::{Value, json};

use super::app::{App, SECRET, entry};
use crate::support::{Setup, per_minute};

const DEAD: &str = "The refresh token is invalid or has expired";

#[tokio::test]
async fn a_refresh_token_is_exchanged_for_new_tokens() {
    let app = App::new().await;
    let login = app.login("new@acme.example").await.ok();
    app.wait(15 * 60);
    let tokens = app.refresh(&login.text("refreshToken")).await.ok();
    assert_eq!(tokens.body.as_object().unwrap().len(), 4);
    assert_eq!(
        (&tokens.body["tokenType"], &tokens.body["expiresIn"]),
        (&json!("Bearer"), &json!(900))
    );
    let token = tokens.text("accessToken");
    app.call(Method::GET, "/account/sessions", Some(&token), None)
        .await
        .ok();
}

#[tokio::test]
async fn a_refresh_token_shown_twice_ends_its_session_and_no_other() {
    let app = App::new().await;
    let other = app.login("new@acme.example").await.ok();
    let stolen = app.login("new@acme.example").await.ok().text("refreshToken");
    let second = app.refresh(&stolen).await.ok();
    let third = app.refresh(&second.text("refreshToken")).await.ok();
    app.refresh(&stolen).await.refused(401, DEAD);
    assert_eq!(app.newest(), entry("REFRESH_TOKEN_REUSE", "DENIED", None));
    app.refresh(&third.text("refreshToken")).await.refused(401, DEAD);
    let answer = app
        .post("/mfa/setup", Some(&third.text("accessToken")), Value::Null)
        .await;
    answer.refused(401, "The access token has been revoked");
    app.refresh(&other.text("refreshToken")).await.ok();
}

#[tokio::test]
async fn of_two_refreshes_at_the_same_time_one_wins_and_the_session_ends() {
    let app = App::new().await;
    let token = app.login("new@acme.example").await.ok().text("refreshToken");
    let (a, b) = tokio::join!(app.refresh(&token), app.refresh(&token));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[tokio::test]
async fn what_is_no_refresh_token_is_refused() {
    let app = App::new().await;
    let login = app.login("new@acme.example").await.ok();
    let good = login.text("refreshToken");
    let mut forged = good.clone();
    forged.replace_range(60..61, if &good[60..61] == "A" { "B" } else { "A" });
    for nonsense in ["", "x", &forged, &login.text("accessToken")[..100]] {
        app.refresh(nonsense).await.refused(401, DEAD);
    }
    assert_eq!(
        app.newest(),
        entry("USER_LOGIN", "SUCCESS", None),
        "a forgery is no reuse"
    );
    app.refresh(&good).await.ok();
}

#[tokio::test]
async fn who_may_not_log_in_may_not_refresh() {
    for sql in [
        "UPDATE user SET active = 0",
        "UPDATE user SET locked_at = 1, locked_reason = 'x'",
    ] {
        let app = App::new().await;
        let token = app.login("new@acme.example").await.ok().text("refreshToken");
        app.sql(sql);
        app.refresh(&token).await.refused(401, DEAD);
    }
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used_and_in_any_case_some_day() {
    let settings = Settings {
        session_max_secs: 10 * 24 * 3600,
        ..Settings::default()
    };
    let app = App::with(settings).await;
    let day = 24 * 3600;
    let unused = app.login("new@acme.example").await.ok().text("refreshToken");
    let mut used = app.login("new@acme.example").await.ok().text("refreshToken");
    app.wait(6 * day);
    used = app.refresh(&used).await.ok().text("refreshToken");
    app.wait(day);
    app.refresh(&unused).await.refused(401, DEAD);
    app.wait(3 * day - 1);
    used = app.refresh(&used).await.ok().text("refreshToken");
    app.wait(1);
    app.refresh(&used).await.refused(401, DEAD);
}

#[tokio::test]
async fn after_logout_both_tokens_are_dead() {
    let app = App::new().await;
    let login = app.login("new@acme.example").await.ok();
    let token = login.text("accessToken");
    app.post("/auth/logout", Some(&token), Value::Null).await.ok();
    assert_eq!(app.newest(), entry("USER_LOGOUT", "SUCCESS", None));
    app.post("/auth/logout", Some(&token), Value::Null)
        .await
        .refused(401, "The access token has been revoked");
    app.refresh(&login.text("refreshToken")).await.refused(401, DEAD);
}

#[tokio::test]
async fn a_user_sees_and_ends_their_own_sessions() {
    let app = App::new().await;
    let first = app.token("new@acme.example").await;
    app.wait(1);
    let second = app.token("new@acme.example").await;
    app.wait(1);
    let third = app.token("new@acme.example").await;
    let foreign = app.token("boss@acme.example").await;
    let list = |token: String| {
        let app = &app;
        async move {
            app.call(Method::GET, "/account/sessions", Some(&token), None)
                .await
                .ok()
                .body
        }
    };
    let seen = list(second.clone()).await;
    let current: Vec<_> = seen
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["current"].clone())
        .collect();
    assert_eq!(current, [json!(false), json!(true), json!(false)]);
    let path = |id: &Value| format!("/account/sessions/{}", id.as_str().unwrap());
    let oldest = seen[2]["id"].clone();
    let answer = app
        .call(Method::DELETE, &path(&oldest), Some(&foreign), None)
        .await;
    assert_eq!(answer.status, 404, "another's session is no session");
    let answer = app
        .call(Method::DELETE, &path(&oldest), Some(&second), None)
        .await;
    assert_eq!(answer.status, 204);
    assert_eq!(app.newest(), entry("USER_SESSIONS_END", "SUCCESS", None));
    let answer = app.post("/mfa/setup", Some(&first), Value::Null).await;
    answer.refused(401, "The access token has been revoked");
    let answer = app
        .call(Method::DELETE, &path(&json!("not-a-uuid")), Some(&second), None)
        .await;
    answer.refused(404, "Session not found with id: not-a-uuid");
    let answer = app
        .call(Method::DELETE, "/account/sessions", Some(&second), None)
        .await
        .ok();
    assert_eq!(answer.body, json!({"sessionsEnded": 1}));
    assert_eq!(
        app.post("/mfa/setup", Some(&third), Value::Null).await.status,
        401
    );
    assert_eq!(list(second).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_admin_ends_a_users_sessions_and_nobody_else_does() {
    let app = App::new().await;
    let admin = app.token("boss@acme.example").await;
    let user = app.token("new@acme.example").await;
    let path = format!("/users/{}/sessions", app.id("new@acme.example"));
    let end = |token: String, path: String| {
        let app = &app;
        async move { app.call(Method::DELETE, &path, Some(&token), None).await }
    };
    end(user.clone(), path.clone())
        .await
        .refused(403, "Role ORG_ADMIN is required");
    assert_eq!(app.newest(), entry("USER_SESSIONS_END", "DENIED", None));
    let foreign = app.minted(app.other_admin.id).await;
    let id = app.id("new@acme.example");
    end(foreign, path.clone())
        .await
        .refused(404, &format!("User not found with id: {id}"));
    end(admin.clone(), "/users/nonsense/sessions".into())
        .await
        .refused(400, "The user id must be a UUID");
    let answer = end(admin.clone(), path).await.ok();
    assert_eq!(answer.body, json!({"sessionsEnded": 1}));
    assert_eq!(app.newest(), entry("USER_SESSIONS_END", "SUCCESS", None));
    assert_eq!(app.post("/mfa/setup", Some(&user), Value::Null).await.status, 401);
}

#[tokio::test]
async fn a_step_up_is_asked_for_done_and_lapses() {
    let organization = OrganizationSettings {
        step_up_minutes: Some(5),
        ..Default::default()
    };
    let app = App::with(organization).await;
    let head = app.further("head", Role::OrgAdmin).await;
    latchkey::service::enrolment::import_totp(&app.services, &head, SECRET)
        .await
        .unwrap();
    let token = app
        .log_in_with_code("head@acme.example")
        .await
        .text("accessToken");
    app.wait(301);
    let answer = app.reset_of(&token, "phone@acme.example").await;
    answer.refused(401, "A more recent authentication is required");
    let challenge = answer.headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("error=\"insufficient_user_authentication\""),
        "{challenge}"
    );
    assert!(challenge.contains("max_age=300"), "{challenge}");

    let step_up = |code: String| app.post("/auth/step-up", Some(&token), json!({"code": code}));
    step_up("000000".into()).await.refused(400, "Invalid MFA code");
    assert_eq!(app.newest(), entry("USER_STEP_UP", "DENIED", Some("wrong-code")));
    let fresh = step_up(app.code(SECRET)).await.ok();
    assert_eq!(app.newest(), entry("USER_STEP_UP", "SUCCESS", None));
    app.reset_of(&fresh.text("accessToken"), "phone@acme.example")
        .await
        .ok();
}

#[tokio::test]
async fn right_codes_use_up_no_step_ups() {
    let organization = OrganizationSettings {
        step_up_minutes: Some(1),
        ..Default::default()
    };
    let app = App::with(Setup {
        acme: organization,
        limits: Limits::default(),
        ..Setup::default()
    })
    .await;
    let token = app
        .log_in_with_code("phone@acme.example")
        .await
        .text("accessToken");
    let step_up = async |code: String| {
        app.post("/auth/step-up", Some(&token), json!({ "code": code }))
            .await
    };
    for _ in 0..6 {
        app.wait(60);
        step_up(app.code(SECRET)).await.ok();
    }
    for _ in 0..5 {
        step_up("000000".into()).await.refused(400, "Invalid MFA code");
    }
    assert_eq!(step_up("000000".into()).await.status, 429);
}

#[tokio::test]
async fn who_has_no_second_factor_cannot_step_up() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let answer = app
        .post("/auth/step-up", Some(&token), json!({"code": "123456"}))
        .await;
    answer.refused(404, "MFA is not enabled");
}

#[tokio::test]
async fn ending_what_is_not_there_is_no_entry_and_has_a_limit() {
    let app = App::with(Limits {
        account_by_caller: per_minute(5),
        ..Limits::off()
    })
    .await;
    let token = app.token("new@acme.example").await;
    let entries = app.entries().len();
    let call = |method: Method, path: &'static str| app.call(method, path, Some(&token), None);
    let none = call(Method::DELETE, "/account/sessions").await.ok();
    assert_eq!(none.body, json!({"sessionsEnded": 0}));
    assert_eq!(app.entries().len(), entries);
    let other = uuid::Uuid::max().to_string();
    let other = format!("/account/sessions/{other}");
    assert_eq!(
        app.call(Method::DELETE, &other, Some(&token), None).await.status,
        404
    );
    for path in ["/account/sessions", "/account/activity", "/mfa/passkeys"] {
        call(Method::GET, path).await.ok();
    }
    for path in ["/account/sessions", "/account/activity", "/mfa/passkeys"] {
        assert_eq!(call(Method::GET, path).await.status, 429, "{path}");
    }
    assert_eq!(call(Method::DELETE, "/account/sessions").await.status, 429);
    assert_eq!(
        app.call(Method::DELETE, &other, Some(&token), None).await.status,
        429
    );
}

#[tokio::test]
async fn a_session_that_ends_meanwhile_ends_no_other() {
    let app = App::new().await;
    let stolen = app.token("new@acme.example").await;
    app.wait(1);
    let mine = app.token("new@acme.example").await;
    let end = "DELETE FROM session WHERE id = (SELECT min(id) FROM session)";
    let disk = crate::support::SlowDisk::writing(&app, end).await;
    let ending = app.call(Method::DELETE, "/account/sessions", Some(&stolen), None);
    let (answer, ()) = tokio::join!(ending, disk.go_on_soon());
    answer.refused(401, "The access token has been revoked");
    app.call(Method::GET, "/account/sessions", Some(&mine), None)
        .await
        .ok();
}

#[tokio::test]
async fn the_user_is_told_of_a_refresh_token_that_is_shown_twice() {
    let app = App::with_mail().await;
    let owed =
        || app.count("SELECT count(*) FROM delivery WHERE payload LIKE '%A session of yours was ended%'");
    let stolen = app.login("new@acme.example").await.ok().text("refreshToken");
    app.refresh(&stolen).await.ok();
    assert_eq!(owed(), 0);
    app.refresh(&stolen).await.refused(401, DEAD);
    assert_eq!(owed(), 1);
    app.refresh(&stolen).await.refused(401, DEAD);
    assert_eq!(owed(), 1, "once: the session is over");
    let (a, b) = {
        let token = app.login("new@acme.example").await.ok().text("refreshToken");
        tokio::join!(app.refresh(&token), app.refresh(&token))
    };
    assert_eq!(a.status + b.status, 601);
    assert_eq!(owed(), 2, "at the same time, too");
}
