//! Tokens of another issuer: what they open, what they take, and what ends with them.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, Role};
use latchkey::domain::credential::{ExternalIssuer, ExternalRules};
use latchkey::service::housekeeping::tidy;
use poem::http::Method;
use serde_json::{Value, json};

use super::app::{App, entry, mfa_required};
use super::authenticator::Authenticator;
use super::keys::list;
use crate::support::Setup;

pub const ISSUER: &str = "https://login.example.org";

fn pair() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

pub fn external() -> Setup {
    let x = data_encoding::BASE64URL_NOPAD.encode(&pair().verifying_key().to_bytes());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "x", "x": x}]});
    let rules = ExternalRules {
        issuer: ISSUER.into(),
        audience: "latchkey".into(),
        organization_claim: "tenant".into(),
        user_claim: "email".into(),
        role_claim: "roles".into(),
        roles: BTreeMap::from([("it".into(), Role::OrgAdmin), ("desk".into(), Role::HelpDesk)]),
    };
    Setup {
        external_issuer: Some(ExternalIssuer::new(rules, &jwks.to_string()).expect("usable")),
        ..Setup::default()
    }
}

fn claims(app: &App, email: &str) -> Value {
    let now = app.clock.now().as_second();
    json!({
        "iss": ISSUER, "aud": "latchkey", "sub": email, "iat": now, "exp": now + 3600, "auth_time": now, "sid": "s",
        "tenant": "acme", "email": email, "roles": ["it"], "amr": ["pwd", "otp"],
    })
}

pub fn sign(claims: &Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("x".into());
    let der = pair().to_pkcs8_der().expect("a key");
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(der.as_bytes())).expect("signed")
}

#[tokio::test]
async fn an_admin_resets_with_a_token_of_another_issuer() {
    let app = App::with(external()).await;
    let token = sign(&claims(&app, "boss@acme.example"));
    app.reset_of(&token, "phone@acme.example").await.ok();
    let reset = app.last_entry();
    assert_eq!(
        (&reset["eventType"], &reset["actor"]["email"]),
        (&json!("USER_MFA_RESET"), &json!("boss@acme.example"))
    );
    let own = app.token("boss@acme.example").await;
    list(&app, &own).await.ok();
}

#[tokio::test]
async fn another_issuers_token_takes_power_away_and_gives_none() {
    let app = App::with(external()).await;
    // An admin there, a member here.
    let token = sign(&claims(&app, "new@acme.example"));
    app.reset_of(&token, "phone@acme.example")
        .await
        .refused(403, "Role ORG_ADMIN is required");
    // An admin here, a member there.
    let mut narrow = claims(&app, "boss@acme.example");
    narrow["roles"] = json!(["staff"]);
    app.reset_of(&sign(&narrow), "phone@acme.example")
        .await
        .refused(403, "Role ORG_ADMIN is required");
}

#[tokio::test]
async fn another_issuers_token_ends_with_what_ends_sessions_here() {
    let app = App::with(external()).await;
    let phone = sign(&claims(&app, "phone@acme.example"));
    list(&app, &phone).await.ok();
    let boss = app.token("boss@acme.example").await;
    app.wait(1);
    app.reset_of(&boss, "phone@acme.example").await.ok();
    list(&app, &phone)
        .await
        .refused(401, "The access token has been revoked");
    app.wait(1);
    let fresh = sign(&claims(&app, "phone@acme.example"));
    list(&app, &fresh).await.ok();
    app.sql("UPDATE user SET active = 0 WHERE email = 'phone@acme.example'");
    list(&app, &fresh)
        .await
        .refused(401, "The access token's subject is gone or inactive");
}

#[tokio::test]
async fn another_issuers_token_names_somebody_who_exists_here() {
    let app = App::with(external()).await;
    let gone = "The access token's subject is gone or inactive";
    list(&app, &sign(&claims(&app, "nobody@acme.example")))
        .await
        .refused(401, gone);
    let mut elsewhere = claims(&app, "boss@acme.example");
    elsewhere["tenant"] = json!("globex");
    list(&app, &sign(&elsewhere)).await.refused(401, gone);
    elsewhere["tenant"] = json!("nowhere");
    list(&app, &sign(&elsewhere)).await.refused(401, gone);
    let mut by_id = claims(&app, "boss@acme.example");
    by_id["tenant"] = json!(app.acme.to_string());
    list(&app, &sign(&by_id)).await.ok();
    let mut foreign = claims(&app, "boss@acme.example");
    foreign["iss"] = json!("https://evil.example.org");
    list(&app, &sign(&foreign))
        .await
        .refused(401, "The access token is invalid");
    let mut late = claims(&app, "boss@acme.example");
    late["exp"] = json!(app.clock.now().as_second());
    list(&app, &sign(&late))
        .await
        .refused(401, "The access token has expired");
}

#[tokio::test]
async fn a_step_up_at_the_other_issuer_counts_and_none_can_be_had_here() {
    let organization = OrganizationSettings {
        step_up_minutes: Some(5),
        ..Default::default()
    };
    let app = App::with(Setup {
        acme: organization,
        ..external()
    })
    .await;
    let mut password_only = claims(&app, "boss@acme.example");
    password_only["amr"] = json!(["pwd"]);
    app.reset_of(&sign(&password_only), "phone@acme.example")
        .await
        .refused(401, "A more recent authentication is required");
    let token = sign(&claims(&app, "boss@acme.example"));
    app.post("/auth/step-up", Some(&token), json!({"code": "123456"}))
        .await
        .refused(400, "Step up with the issuer of your access token");
    app.reset_of(&token, "phone@acme.example").await.ok();
}

#[tokio::test]
async fn a_token_that_says_help_desk_resets_as_the_help_desk_does() {
    let organization = OrganizationSettings {
        help_desk_enabled: true,
        ..Default::default()
    };
    let app = App::with(Setup {
        acme: organization,
        ..external()
    })
    .await;
    let mut narrow = claims(&app, "boss@acme.example");
    narrow["roles"] = json!(["desk"]);
    let narrow = sign(&narrow);
    let higher = "You cannot do this to an account with a higher role";
    app.reset_of(&narrow, "second@acme.example")
        .await
        .refused(403, higher);
    app.sql("UPDATE user SET role = 'help-desk' WHERE email = 'dev@acme.example'");
    app.reset_of(&narrow, "dev@acme.example")
        .await
        .refused(403, higher);
    app.reset_of(&narrow, "phone@acme.example").await.ok();
    let wide = sign(&claims(&app, "boss@acme.example"));
    app.reset_of(&wide, "dev@acme.example").await.ok();
    app.reset_of(&wide, "second@acme.example").await.ok();
}

const ENROL_FIRST: &str = "Set up MFA before anything else";

#[tokio::test]
async fn where_mfa_is_demanded_a_token_without_a_second_factor_opens_enrolment_and_nothing_else() {
    let app = App::with(Setup {
        acme: mfa_required(),
        ..external()
    })
    .await;
    for amr in [json!(["pwd"]), json!(["otp"]), json!([])] {
        let mut plain = claims(&app, "boss@acme.example");
        plain["amr"] = amr;
        let plain = sign(&plain);
        list(&app, &plain).await.refused(403, ENROL_FIRST);
        app.reset_of(&plain, "phone@acme.example")
            .await
            .refused(403, ENROL_FIRST);
        app.post("/mfa/setup", Some(&plain), Value::Null).await.ok();
    }
    // Who has a second factor here can't add another with what was shown there.
    let mut plain = claims(&app, "phone@acme.example");
    plain["amr"] = json!(["pwd"]);
    let answer = app.post("/mfa/setup", Some(&sign(&plain)), Value::Null).await;
    assert!(answer.status >= 400, "{}", answer.body);
    let boss = sign(&claims(&app, "boss@acme.example"));
    list(&app, &boss).await.ok();
    // When it was used doesn't matter for this, only that it was.
    let mut undated = claims(&app, "boss@acme.example");
    undated.as_object_mut().unwrap().remove("auth_time");
    list(&app, &sign(&undated)).await.ok();
}

#[tokio::test]
async fn after_a_reset_another_issuers_token_opens_what_a_login_would() {
    let organization = OrganizationSettings {
        enrolment_window_hours: 1,
        ..mfa_required()
    };
    let app = App::with(Setup {
        acme: organization,
        ..external()
    })
    .await;
    let boss = sign(&claims(&app, "boss@acme.example"));
    app.reset_of(&boss, "phone@acme.example").await.ok();
    app.wait(1);
    // A second factor there is none here.
    let phone = sign(&claims(&app, "phone@acme.example"));
    list(&app, &phone).await.refused(403, ENROL_FIRST);
    app.post("/mfa/setup", Some(&phone), Value::Null).await.ok();
    app.wait(3600);
    let late = sign(&claims(&app, "phone@acme.example"));
    for path in ["/mfa/setup", "/auth/logout"] {
        app.post(path, Some(&late), Value::Null)
            .await
            .refused(401, "The access token's subject is gone or inactive");
    }
}

#[tokio::test]
async fn a_session_of_another_issuer_is_ended_by_logout_and_by_its_user() {
    let app = App::with(external()).await;
    let revoked = "The access token has been revoked";
    let session = |sid: &str| {
        let mut claims = claims(&app, "boss@acme.example");
        claims["sid"] = json!(sid);
        sign(&claims)
    };
    let (one, two) = (session("one"), session("two"));
    app.post("/auth/logout", Some(&one), Value::Null).await.ok();
    assert_eq!(app.newest(), entry("USER_LOGOUT", "SUCCESS", None));
    list(&app, &one).await.refused(401, revoked);
    list(&app, &two).await.ok();
    // A token that was refreshed meanwhile is of the same session.
    app.wait(10);
    list(&app, &session("one")).await.refused(401, revoked);
    // Who ends all others keeps this one.
    let own = app.token("boss@acme.example").await;
    let three = session("three");
    app.wait(1);
    let ended = app
        .call(Method::DELETE, "/account/sessions", Some(&three), None)
        .await;
    assert_eq!(ended.ok().body, json!({"sessionsEnded": 1}));
    list(&app, &three).await.ok();
    list(&app, &two).await.refused(401, revoked);
    list(&app, &own).await.refused(401, revoked);
    let own = app.token("boss@acme.example").await;
    app.wait(1);
    app.call(Method::DELETE, "/account/sessions", Some(&own), None)
        .await
        .ok();
    list(&app, &three).await.refused(401, revoked);
}

#[tokio::test]
async fn a_clock_that_was_ahead_for_a_minute_revives_no_session_and_ends_none_and_no_approval() {
    const AHEAD: i64 = 400 * 24 * 3600;
    let app = App::with(Setup {
        acme: OrganizationSettings {
            admin_on_admin: AdminOnAdmin::SecondAdmin,
            ..Default::default()
        },
        ..external()
    })
    .await;
    tidy(&app.services).await;
    let revoked = "The access token has been revoked";
    let ended = sign(&claims(&app, "boss@acme.example"));
    app.post("/auth/logout", Some(&ended), Value::Null).await.ok();
    let minted = app.boss().await;
    let asked = app.reset_of(&minted, "second@acme.example").await;
    assert_eq!(asked.status, 202, "{}", asked.body);

    app.wait(AHEAD);
    app.token("boss@acme.example").await;
    let meanwhile = app.boss().await;
    app.reset_of(&meanwhile, "phone@acme.example").await.ok();
    tidy(&app.services).await;
    app.wait(-AHEAD);

    list(&app, &ended).await.refused(401, revoked);
    let open = "SELECT count(*) FROM approval WHERE state = 'open'";
    assert_eq!(app.count(open), 1);
    let phone = || sign(&claims(&app, "phone@acme.example"));
    list(&app, &phone()).await.refused(401, revoked);
    tidy(&app.services).await;
    app.wait(6 * 3600);
    tidy(&app.services).await;
    list(&app, &phone()).await.refused(401, revoked);
    app.wait(1);
    list(&app, &phone()).await.ok();
    assert_eq!(app.count(open), 1);
}

#[tokio::test]
async fn a_token_of_another_issuer_is_of_no_use_to_an_account_made_after_it() {
    let app = App::with(external()).await;
    let [boss, new] = ["boss", "new"].map(|name| format!("{name}@acme.example"));
    let admin = app.minted(app.id(&boss)).await;
    let token = sign(&claims(&app, &new));
    list(&app, &token).await.ok();
    app.post("/auth/logout", Some(&token), Value::Null).await.ok();
    let revoked = "The access token has been revoked";
    list(&app, &token).await.refused(401, revoked);
    app.wait(1);
    let path = format!("/users/{}", app.id(&new));
    let deleted = app.call(Method::DELETE, &path, Some(&admin), None).await;
    assert_eq!(deleted.status, 204);
    let body = json!({ "email": new });
    let made = app.post("/users", Some(&admin), body).await;
    assert_eq!(made.status, 201);
    list(&app, &token).await.refused(401, revoked);
    list(&app, &sign(&claims(&app, &new))).await.ok();
}

#[tokio::test]
async fn a_session_of_another_issuer_that_ends_meanwhile_sets_nothing_up() {
    for (change, told) in [
        (
            "UPDATE user SET sessions_ended_at = 9000000000000",
            "The access token has been revoked",
        ),
        (
            "UPDATE user SET locked_at = 1, locked_reason = 'x'",
            "The access token's subject is gone or inactive",
        ),
        (
            "UPDATE user SET active = 0",
            "The access token's subject is gone or inactive",
        ),
    ] {
        let app = App::with(external()).await;
        let token = sign(&claims(&app, "new@acme.example"));
        let set_up = app.post("/mfa/setup", Some(&token), Value::Null).await.ok();
        let mut device = Authenticator::new(1);
        let options = app
            .post("/mfa/passkeys/options", Some(&token), Value::Null)
            .await
            .ok();
        let passkey = json!({"name": "Laptop", "credential": device.create(&options.body["publicKey"])});
        let secret = set_up.text("secret");
        let code = json!({"secret": secret, "code": app.code(&secret)});
        let disk = crate::support::SlowDisk::writing(&app, change).await;
        let confirming = app.post("/mfa/setup/confirm", Some(&token), code);
        let registering = app.post("/mfa/passkeys", Some(&token), passkey);
        let (confirmed, registered, ()) = tokio::join!(confirming, registering, disk.go_on_soon());
        confirmed.refused(401, told);
        registered.refused(401, told);
        assert!(!app.find("new@acme.example").mfa_enabled, "{change}");
    }
}

#[tokio::test]
async fn a_change_of_factors_ends_another_issuers_sessions() {
    let app = App::with(external()).await;
    let there = sign(&claims(&app, "new@acme.example"));
    list(&app, &there).await.ok();
    app.wait(1);
    let here = app.token("new@acme.example").await;
    app.enrol(&here).await;
    list(&app, &there)
        .await
        .refused(401, "The access token has been revoked");
    list(&app, &here).await.ok();
}
