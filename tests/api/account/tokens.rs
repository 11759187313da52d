//! Access tokens: the kind of fault that each bad one is answered with (401).

use jiff::SignedDuration;
use latchkey::domain::account::Role;
use latchkey::entropy::Entropy;
use latchkey::keys::KeyRing;
use poem::http::Method;
use serde_json::{Value, json};

use super::app::App;

const INVALID: &str = "The access token is invalid";

fn parts(token: &str) -> (Value, Value, String) {
    let decode = |part: &str| {
        let bytes = data_encoding::BASE64URL_NOPAD
            .decode(part.as_bytes())
            .expect("base 64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let mut parts = token.split('.');
    let mut next = || parts.next().expect("a part");
    (decode(next()), decode(next()), next().to_owned())
}

fn token(header: &Value, claims: &Value, signature: &str) -> String {
    let encode = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

async fn list(app: &App, token: &str) -> super::app::Answer {
    app.call(Method::GET, "/account/sessions", Some(token), None)
        .await
}

#[tokio::test]
async fn a_token_that_was_tampered_with_is_invalid() {
    let app = App::new().await;
    let good = app.token("new@acme.example").await;
    list(&app, &good).await.ok();
    let (header, claims, signature) = parts(&good);
    let changed = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        token(&header, &claims, &signature)
    };
    let with_header = |name: &str, value: Value, signature: &str| {
        let mut header = header.clone();
        header[name] = value;
        token(&header, &claims, signature)
    };
    for bad in [
        changed("role", json!("ORG_ADMIN")),
        changed("sub", json!(app.id("boss@acme.example"))),
        changed("exp", json!(4_000_000_000_i64)),
        with_header("alg", json!("none"), ""),
        with_header("alg", json!("none"), &signature),
        with_header("alg", json!("RS256"), &signature),
        with_header("alg", json!("HS512"), &signature),
        with_header("kid", json!("other"), &signature),
        format!("{good}x"),
        good[..good.len() - 1].to_owned(),
        "nonsense".to_owned(),
    ] {
        let answer = list(&app, &bad).await;
        answer.refused(401, INVALID);
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
    let none = app.call(Method::GET, "/account/sessions", None, None).await;
    none.refused(401, "Authentication is required");
    assert_eq!(none.headers["www-authenticate"], "Bearer realm=\"latchkey\"");
}

#[tokio::test]
async fn a_token_of_another_installation_is_invalid() {
    let (here, there) = (App::new().await, App::new().await);
    let other = KeyRing::ephemeral(&Entropy::seeded(99));
    let good = here.token("new@acme.example").await;
    list(&there, &good).await.refused(401, INVALID);
    let claims = here
        .services
        .keys
        .access()
        .verify(&good, here.clock.now())
        .expect("good");
    list(&here, &other.access().sign(&claims))
        .await
        .refused(401, INVALID);
}

#[tokio::test]
async fn a_token_is_refused_before_and_after_its_time() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    app.wait(-6);
    list(&app, &token)
        .await
        .refused(401, "The access token is not valid yet");
    app.wait(6 + 899);
    list(&app, &token).await.ok();
    app.wait(1);
    list(&app, &token)
        .await
        .refused(401, "The access token has expired");
}

#[tokio::test]
async fn the_database_decides_who_the_caller_is_now() {
    let gone = "The access token's subject is gone or inactive";
    for (sql, message) in [
        ("UPDATE user SET active = 0", gone),
        ("UPDATE user SET locked_at = 1, locked_reason = 'x'", gone),
        ("DELETE FROM user WHERE email = 'boss@acme.example'", gone),
        ("DELETE FROM session", "The access token has been revoked"),
    ] {
        let app = App::new().await;
        let token = app.token("boss@acme.example").await;
        app.sql(sql);
        list(&app, &token).await.refused(401, message);
    }
    let app = App::new().await;
    let token = app.token("boss@acme.example").await;
    app.sql("UPDATE user SET role = 'member'");
    app.reset_of(&token, "phone@acme.example")
        .await
        .refused(403, "Role ORG_ADMIN is required");
}

#[tokio::test]
async fn a_minted_token_lives_as_long_as_it_was_asked_for_and_no_longer() {
    let app = App::new().await;
    let admin = app.id("boss@acme.example");
    let services = app.services.clone();
    let mint =
        move || latchkey::service::session::mint_token(&services, admin, SignedDuration::from_hours(12));
    let token = tokio::task::spawn_blocking(mint).await.unwrap().unwrap();
    let newest = app.last_entry();
    assert_eq!(
        (&newest["eventType"], &newest["actor"]["type"]),
        (&json!("TOKEN_MINT"), &json!("OPERATOR"))
    );
    assert!(!newest.to_string().contains(&token));
    let (header, claims, _) = parts(&token);
    assert_eq!(
        (&header["typ"], &header["alg"]),
        (&json!("at+jwt"), &json!("HS256"))
    );
    assert_eq!(
        (&claims["role"], &claims["amr"]),
        (&json!("ORG_ADMIN"), &json!(["cli"]))
    );
    app.wait(12 * 3600 - 1);
    app.reset_of(&token, "phone@acme.example").await.ok();
    app.wait(1);
    list(&app, &token)
        .await
        .refused(401, "The access token has expired");
}

#[tokio::test]
async fn nothing_is_minted_for_who_may_not_log_in() {
    let app = App::new().await;
    app.sql("UPDATE user SET active = 0 WHERE email = 'new@acme.example'");
    let user = app.further("fine", Role::Member).await.id;
    let inactive = app.id("new@acme.example");
    let services = app.services.clone();
    let outcome = tokio::task::spawn_blocking(move || {
        let hour = SignedDuration::from_hours(1);
        (
            latchkey::service::session::mint_token(&services, inactive, hour).is_err(),
            latchkey::service::session::mint_token(&services, user, hour).is_ok(),
        )
    });
    assert_eq!(outcome.await.unwrap(), (true, true));
}

/// With `EdDSA` others check our tokens by the public key alone, and know nothing of sessions.
#[tokio::test]
async fn a_token_for_enrolment_says_nothing_that_others_would_believe() {
    let app = App::with(super::app::mfa_required()).await;
    let login = app.login("boss@acme.example").await.ok();
    assert_eq!(login.body["mfaSetupRequired"], true);
    let token = login.text("accessToken");
    let (_, claims, _) = parts(&token);
    assert_eq!(
        (&claims["aud"], &claims["role"]),
        (&json!("latchkey-enrolment"), &json!("MEMBER"))
    );
    app.enrol(&token).await;
    let full = app.refresh(&login.text("refreshToken")).await.ok();
    let (_, claims, _) = parts(&full.text("accessToken"));
    assert_eq!(
        (&claims["aud"], &claims["role"]),
        (&json!("latchkey"), &json!("ORG_ADMIN"))
    );
}
