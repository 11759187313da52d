//! Passkeys beside TOTP and recovery codes: registered, used at login and for step-up, taken by a reset.

use data_encoding::BASE64URL_NOPAD;
use latchkey::domain::account::OrganizationSettings;
use latchkey::limiter::{Limit, Limits};
use poem::http::Method;
use serde_json::{Value, json};

use super::app::{Answer, App, entry};
use super::authenticator::Authenticator;

mod beside_others;
mod refused;

const NEW: &str = "new@acme.example";
const PHONE: &str = "phone@acme.example";
const DEAD: &str = "The MFA challenge is invalid or has expired";
const NOT_ASKED: &str = "No passkey was asked for, or too long ago. Ask for options again";

async fn options(app: &App, token: &str) -> Value {
    let answer = app.post("/mfa/passkeys/options", Some(token), Value::Null).await;
    answer.ok().body["publicKey"].clone()
}

async fn register_as(app: &App, token: &str, name: &str, credential: &Value) -> Answer {
    let body = json!({ "name": name, "credential": credential });
    app.post("/mfa/passkeys", Some(token), body).await
}

async fn register(app: &App, token: &str, device: &mut Authenticator) -> Answer {
    let options = options(app, token).await;
    register_as(app, token, "Laptop", &device.create(&options)).await
}

/// `new` with a passkey: the token of the session, and the recovery codes.
pub async fn with_passkey(app: &App, device: &mut Authenticator) -> (String, Vec<String>) {
    let token = app.token(NEW).await;
    let answer = register(app, &token, device).await.ok();
    let codes = serde_json::from_value(answer.body["recoveryCodes"].clone()).expect("codes");
    (token, codes)
}

async fn login_options(app: &App, challenge: &str) -> Answer {
    let body = json!({ "mfaChallengeToken": challenge });
    app.post("/auth/verify-mfa/passkey/options", None, body).await
}

async fn asked(app: &App, challenge: &str) -> Value {
    login_options(app, challenge).await.ok().body["publicKey"].clone()
}

async fn show(app: &App, challenge: &str, credential: &Value) -> Answer {
    let body = json!({ "mfaChallengeToken": challenge, "credential": credential });
    app.post("/auth/verify-mfa/passkey", None, body).await
}

pub async fn log_in(app: &App, email: &str, device: &mut Authenticator) -> Answer {
    let challenge = app.challenge(email).await;
    let options = asked(app, &challenge).await;
    show(app, &challenge, &device.get(&options)).await
}

async fn step_up(app: &App, token: &str, device: &mut Authenticator) -> Answer {
    let answer = app.post("/auth/step-up/passkey/options", Some(token), Value::Null);
    let options = answer.await.ok().body["publicKey"].clone();
    let body = json!({ "credential": device.get(&options) });
    app.post("/auth/step-up/passkey", Some(token), body).await
}

async fn list(app: &App, token: &str) -> Vec<Value> {
    let answer = app.call(Method::GET, "/mfa/passkeys", Some(token), None).await;
    answer.ok().body.as_array().expect("a list").clone()
}

async fn remove(app: &App, token: &str, id: &str) -> Answer {
    let path = format!("/mfa/passkeys/{id}");
    app.call(Method::DELETE, &path, Some(token), None).await
}

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("claims");
    let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).expect("base 64");
    serde_json::from_slice(&claims).expect("JSON")
}

type Lie = fn(&mut Authenticator);

fn step_up_demanded() -> OrganizationSettings {
    OrganizationSettings {
        step_up_minutes: Some(5),
        ..OrganizationSettings::default()
    }
}

#[tokio::test]
async fn a_user_registers_a_passkey_and_logs_in_with_it() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    let token = app.token(NEW).await;
    let other = app.token(NEW).await;
    let asked_for = options(&app, &token).await;
    assert_eq!(asked_for["rp"], json!({ "name": "Latchkey", "id": "localhost" }));
    assert_eq!(asked_for["user"]["name"], NEW);
    assert_eq!(asked_for["attestation"], "none");
    assert_eq!(
        asked_for["authenticatorSelection"]["userVerification"],
        "preferred"
    );
    assert!(
        asked_for.get("hints").or(asked_for.get("extensions")).is_none(),
        "any kind of authenticator"
    );

    let answer = register_as(&app, &token, " Laptop ", &device.create(&asked_for))
        .await
        .ok();
    assert_eq!(answer.body["recoveryCodes"].as_array().expect("codes").len(), 8);
    assert_eq!(answer.body["passkey"]["name"], "Laptop");
    assert!(app.find(NEW).mfa_enabled);
    let trail = app.trail();
    assert_eq!(
        trail[trail.len() - 2..],
        [
            entry("USER_PASSKEY_REGISTERED", "SUCCESS", None),
            entry("USER_MFA_ENABLED", "SUCCESS", None)
        ]
    );
    app.call(Method::GET, "/account/sessions", Some(&other), None)
        .await
        .refused(401, "The access token has been revoked");

    let login = app.login(NEW).await.ok();
    assert_eq!(login.body["mfaRequired"], true);
    assert_eq!(login.body["mfaMethods"], json!(["passkey", "recovery-codes"]));
    let challenge = login.text("mfaChallengeToken");
    let asked_for = asked(&app, &challenge).await;
    assert_eq!(asked_for["rpId"], "localhost");
    assert_eq!(asked_for["allowCredentials"][0]["id"], device.id());
    assert_eq!(asked_for["userVerification"], "preferred");
    app.wait(60);
    let tokens = show(&app, &challenge, &device.get(&asked_for)).await.ok();
    assert_eq!(app.newest(), entry("USER_LOGIN", "SUCCESS", None));
    assert_eq!(app.last_entry()["details"]["method"], "passkey");
    assert!(tokens.headers.contains_key("set-cookie"), "the device is known");
    let token = tokens.text("accessToken");
    assert_eq!(claims(&token)["amr"], json!(["pwd", "pop", "user", "mfa"]));
    let listed = list(&app, &token).await;
    assert_eq!(
        (
            &listed[0]["createdAt"],
            &listed[0]["lastUsedAt"],
            &listed[0]["clonedAt"]
        ),
        (
            &json!("2026-02-18T10:30:00.000Z"),
            &json!("2026-02-18T10:31:00.000Z"),
            &Value::Null
        )
    );
    let sessions = app
        .call(Method::GET, "/account/sessions", Some(&token), None)
        .await;
    assert_eq!(sessions.body[0]["secondFactor"], "passkey");
}

#[tokio::test]
async fn a_challenge_is_answered_once_in_time_and_by_nothing_else() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    with_passkey(&app, &mut device).await;

    // Nothing was asked.
    let challenge = app.challenge(NEW).await;
    let anything = device.get(&json!({ "challenge": "AAAA" }));
    show(&app, &challenge, &anything)
        .await
        .refused(401, "The passkey challenge is invalid or has expired");

    // A wrong challenge, which uses up the right one.
    let options = asked(&app, &challenge).await;
    show(&app, &challenge, &anything)
        .await
        .refused(401, "Invalid passkey");
    let newest = app.last_entry();
    assert_eq!(
        (&newest["details"]["reason"], &newest["details"]["fault"]),
        (&json!("wrong-passkey"), &json!("wrong-challenge"))
    );
    show(&app, &challenge, &device.get(&options))
        .await
        .refused(401, "The passkey challenge is invalid or has expired");

    // Options that others took the place of.
    let first = asked(&app, &challenge).await;
    let second = asked(&app, &challenge).await;
    assert_ne!(first["challenge"], second["challenge"]);
    show(&app, &challenge, &device.get(&first))
        .await
        .refused(401, "Invalid passkey");

    // Replayed: into the same login, into another one, and into one that asked anew.
    let options = asked(&app, &challenge).await;
    let credential = device.get(&options);
    show(&app, &challenge, &credential).await.ok();
    show(&app, &challenge, &credential).await.refused(401, DEAD);
    let another = app.challenge(NEW).await;
    asked(&app, &another).await;
    show(&app, &another, &credential)
        .await
        .refused(401, "Invalid passkey");

    // Too late.
    let options = asked(&app, &another).await;
    app.wait(5 * 60);
    show(&app, &another, &device.get(&options))
        .await
        .refused(401, DEAD);
    login_options(&app, &another).await.refused(401, DEAD);
    login_options(&app, "nonsense").await.refused(401, DEAD);
}

#[tokio::test]
async fn of_two_answers_at_the_same_time_one_gets_in() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    with_passkey(&app, &mut device).await;
    let challenge = app.challenge(NEW).await;
    let options = asked(&app, &challenge).await;
    let (one, other) = (device.get(&options), device.get(&options));
    let (one, other) = tokio::join!(show(&app, &challenge, &one), show(&app, &challenge, &other));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[tokio::test]
async fn five_wrong_answers_end_a_login_and_guessing_is_limited() {
    let limits = Limits {
        code_by_account: Limit {
            requests: 7,
            window_secs: 900,
        },
        ..Limits::off()
    };
    let app = App::with(limits).await;
    let mut device = Authenticator::new(1);
    with_passkey(&app, &mut device).await;
    let challenge = app.challenge(NEW).await;
    for _ in 0..5 {
        asked(&app, &challenge).await;
        let wrong = device.get(&json!({ "challenge": "AAAA" }));
        show(&app, &challenge, &wrong)
            .await
            .refused(401, "Invalid passkey");
    }
    login_options(&app, &challenge).await.refused(401, DEAD);
    // The right one gives the attempts back.
    log_in(&app, NEW, &mut device).await.ok();
    let challenge = app.challenge(NEW).await;
    for _ in 0..7 {
        let wrong = device.get(&json!({ "challenge": "AAAA" }));
        show(&app, &challenge, &wrong).await;
    }
    assert_eq!(
        show(&app, &challenge, &device.get(&json!({ "challenge": "AAAA" })))
            .await
            .status,
        429
    );
}

#[tokio::test]
async fn a_counter_that_goes_back_is_refused_and_raises_an_alarm() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    let (_, codes) = with_passkey(&app, &mut device).await;
    log_in(&app, NEW, &mut device).await.ok();
    let mut copy = device.clone();
    log_in(&app, NEW, &mut device).await.ok();
    log_in(&app, NEW, &mut copy).await.refused(401, "Invalid passkey");
    let entries = app.entries();
    let [login, alarm] = &entries[entries.len() - 2..] else {
        panic!("two entries");
    };
    assert_eq!(login["details"]["fault"], "counter-went-back");
    assert_eq!(
        (
            &alarm["eventType"],
            &alarm["result"],
            &alarm["details"]["passkeyName"]
        ),
        (&json!("USER_PASSKEY_ALARM"), &json!("DENIED"), &json!("Laptop"))
    );

    // Neither copy nor original opens anything, and MFA stays on.
    let login = app.login(NEW).await.ok();
    assert_eq!(login.body["mfaMethods"], json!(["recovery-codes"]));
    let challenge = login.text("mfaChallengeToken");
    login_options(&app, &challenge)
        .await
        .refused(400, "There is no passkey that can be used");
    let token = app.verify(&challenge, &codes[0]).await.ok().text("accessToken");
    let listed = list(&app, &token).await;
    assert_eq!(listed[0]["clonedAt"], "2026-02-18T10:30:00.000Z");

    // Another in its place.
    let mut next = Authenticator::new(2);
    register(&app, &token, &mut next).await.ok();
    let id = listed[0]["id"].as_str().expect("an id");
    assert_eq!(remove(&app, &token, id).await.status, 204);
    log_in(&app, NEW, &mut next).await.ok();
}

#[tokio::test]
async fn a_copy_is_found_although_both_were_asked_before_either_answered() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    with_passkey(&app, &mut device).await;
    let mut copy = device.clone();
    let (one, other) = (app.challenge(NEW).await, app.challenge(NEW).await);
    let (for_one, for_other) = (asked(&app, &one).await, asked(&app, &other).await);
    show(&app, &one, &device.get(&for_one)).await.ok();
    show(&app, &other, &copy.get(&for_other))
        .await
        .refused(401, "Invalid passkey");
    assert_eq!(app.newest(), entry("USER_PASSKEY_ALARM", "DENIED", None));
}

#[tokio::test]
async fn a_device_that_does_not_count_logs_in_again_and_again() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    device.counts = false;
    with_passkey(&app, &mut device).await;
    for _ in 0..3 {
        log_in(&app, NEW, &mut device).await.ok();
    }
}

#[tokio::test]
async fn the_passkey_of_somebody_else_is_none() {
    let app = App::new().await;
    let mut device = Authenticator::new(1);
    with_passkey(&app, &mut device).await;
    let token = app.token("boss@acme.example").await;
    // One credential is of one user.
    let conflict = register(&app, &token, &mut device.clone()).await;
    conflict.refused(409, "The passkey is registered already");
    let mut own = Authenticator::new(2);
    register(&app, &token, &mut own).await.ok();
    log_in(&app, "boss@acme.example", &mut device)
        .await
        .refused(401, "Invalid passkey");
    let newest = app.last_entry();
    assert_eq!(newest["details"]["fault"], "unknown-passkey");
    // The right id with another key.
    let mut forged = Authenticator::new(3);
    let challenge = app.challenge("boss@acme.example").await;
    let mut credential = forged.get(&asked(&app, &challenge).await);
    credential["id"] = own.id().into();
    credential["rawId"] = own.id().into();
    show(&app, &challenge, &credential)
        .await
        .refused(401, "Invalid passkey");
    let newest = app.last_entry();
    assert_eq!(newest["details"]["fault"], "wrong-signature");
    // Nor do they see or remove it.
    let id = list(&app, &token).await[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let theirs = log_in(&app, NEW, &mut device).await.ok().text("accessToken");
    remove(&app, &theirs, &id)
        .await
        .refused(404, &format!("Passkey not found with id: {id}"));
    remove(&app, &theirs, "nonsense")
        .await
        .refused(404, "Passkey not found with id: nonsense");
}
