//! Passkeys beside TOTP and recovery codes: registered, used at login and for step-up, taken by a reset.

use data_encoding::BASE64URL_NOPAD;
use latchkey::domain::account::OrganizationSettings;
use latchkey::limiter::{Limit, Limits};
use latchkey::service::Settings;
use poem::http::Method;
use serde_json::{Value, json};

use super::app::{Answer, App, Plan, SECRET, entry};
use super::authenticator::Authenticator;

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

fn step_up_demanded() -> Plan {
    Plan {
        organization: OrganizationSettings {
            step_up_minutes: Some(5),
            ..Default::default()
        },
        ..Plan::default()
    }
}

fn mfa_required() -> Plan {
    Plan {
        organization: OrganizationSettings {
            mfa_required: true,
            ..Default::default()
        },
        ..Plan::default()
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
    assert_eq!(
        app.entries().pop().expect("an entry")["details"]["method"],
        "passkey"
    );
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
    let newest = app.entries().pop().expect("an entry");
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
    let app = App::with(Plan {
        limits: Some(limits),
        ..Plan::default()
    })
    .await;
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
async fn a_passkey_of_another_page_is_none() {
    let app = App::new().await;
    let lies: [(Lie, &str, &str); 3] = [
        (
            |device| device.origin = "https://l0calhost.example".into(),
            "The passkey was made for another origin than those of this server",
            "foreign-origin",
        ),
        (
            |device| device.relying_party = "example.org".into(),
            "The passkey was made for another relying party than this server",
            "foreign-relying-party",
        ),
        (
            |device| device.present = false,
            "The authenticator did not ask for a person",
            "nobody-present",
        ),
    ];
    for (lie, message, reason) in lies {
        let token = app.token(NEW).await;
        let mut device = Authenticator::new(1);
        lie(&mut device);
        register(&app, &token, &mut device).await.refused(400, message);
        assert_eq!(
            app.newest(),
            entry("USER_PASSKEY_REGISTERED", "DENIED", Some(reason))
        );
        assert!(!app.find(NEW).mfa_enabled);
    }
    let mut device = Authenticator::new(1);
    with_passkey(&app, &mut device).await;
    let lies: [(Lie, &str); 4] = [
        (
            |device| device.origin = "https://localhost.example".into(),
            "foreign-origin",
        ),
        (
            |device| device.relying_party = "example.org".into(),
            "foreign-relying-party",
        ),
        (|device| device.present = false, "nobody-present"),
        // It was unlocked when it was registered, so it can be.
        (|device| device.verified = false, "nobody-present"),
    ];
    for (lie, fault) in lies {
        let mut lying = device.clone();
        lie(&mut lying);
        log_in(&app, NEW, &mut lying)
            .await
            .refused(401, "Invalid passkey");
        assert_eq!(app.entries().pop().expect("an entry")["details"]["fault"], fault);
    }
    log_in(&app, NEW, &mut device).await.ok();
}

#[tokio::test]
async fn a_registration_is_answered_once_in_time_and_in_its_own_session() {
    let app = App::new().await;
    let token = app.token(NEW).await;
    let other = app.token(NEW).await;
    let mut device = Authenticator::new(1);
    let nothing = device.create(&json!({ "challenge": "AAAA" }));
    register_as(&app, &token, "Laptop", &nothing)
        .await
        .refused(400, NOT_ASKED);
    let asked_for = options(&app, &token).await;
    let credential = device.create(&asked_for);
    register_as(&app, &other, "Laptop", &credential)
        .await
        .refused(400, NOT_ASKED);
    register_as(&app, &token, "Laptop", &nothing).await.refused(
        400,
        "The passkey answers another challenge. Ask for options again",
    );
    register_as(&app, &token, "Laptop", &credential)
        .await
        .refused(400, NOT_ASKED);
    let late = device.create(&options(&app, &token).await);
    app.wait(5 * 60);
    register_as(&app, &token, "Laptop", &late)
        .await
        .refused(400, NOT_ASKED);
    let credential = device.create(&options(&app, &token).await);
    register_as(&app, &token, "Laptop", &credential).await.ok();
    register_as(&app, &token, "Laptop", &credential)
        .await
        .refused(400, NOT_ASKED);
    assert_eq!(list(&app, &token).await.len(), 1);
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
    let newest = app.entries().pop().expect("an entry");
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
    let newest = app.entries().pop().expect("an entry");
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

#[tokio::test]
async fn a_reset_takes_passkeys_and_restoring_gives_them_back() {
    let app = App::new().await;
    let admin = app.minted(app.id("boss@acme.example")).await;
    let mut device = Authenticator::new(1);
    let (token, _) = with_passkey(&app, &mut device).await;
    let under_way = app.challenge(NEW).await;
    let for_it = asked(&app, &under_way).await;

    app.reset_of(&admin, NEW).await.ok();
    let newest = app.entries().pop().expect("an entry");
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
    let app = App::with(Plan {
        organization: OrganizationSettings {
            mfa_required: true,
            enrolment_code_required: true,
            ..Default::default()
        },
        ..Plan::default()
    })
    .await;
    let admin = app.minted(app.id("boss@acme.example")).await;
    let code = app.reset_of(&admin, PHONE).await.ok().text("enrolmentCode");
    let token = app.token(PHONE).await;
    let mut device = Authenticator::new(1);
    let credential = device.create(&options(&app, &token).await);
    let with = |code: Value| json!({ "name": "Laptop", "credential": credential, "enrolmentCode": code });
    for wrong in [Value::Null, json!("AAAA-AAAA")] {
        let refused = app.post("/mfa/passkeys", Some(&token), with(wrong)).await;
        refused.refused(400, "Validation failed");
        assert!(refused.body["validationErrors"]["enrolmentCode"].is_string());
    }
    assert!(!app.find(PHONE).mfa_enabled);
    app.post("/mfa/passkeys", Some(&token), with(code.into()))
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
    let secret = app
        .post("/mfa/setup", Some(&token), Value::Null)
        .await
        .ok()
        .text("secret");
    let body = json!({ "secret": secret, "code": app.code(&secret) });
    let answer = app.post("/mfa/setup/confirm", Some(&token), body).await.ok();
    let new = answer.body["recoveryCodes"][0]
        .as_str()
        .expect("a code")
        .to_owned();
    let challenge = app.challenge(NEW).await;
    app.verify(&challenge, &old[0])
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, &new).await.ok();
    log_in(&app, NEW, &mut device).await.ok();
}

#[tokio::test]
async fn a_user_has_ten_passkeys_at_most_and_no_device_twice() {
    let app = App::new().await;
    let token = app.token(NEW).await;
    for seed in 1..=10 {
        let mut device = Authenticator::new(seed);
        let asked_for = options(&app, &token).await;
        let known = asked_for["excludeCredentials"].as_array().map_or(0, Vec::len);
        assert_eq!(known, usize::from(seed) - 1);
        register_as(
            &app,
            &token,
            &format!("Device {seed}"),
            &device.create(&asked_for),
        )
        .await
        .ok();
    }
    app.post("/mfa/passkeys/options", Some(&token), Value::Null)
        .await
        .refused(409, "There are 10 passkeys already: remove one first");
    assert_eq!(list(&app, &token).await.len(), 10);
    log_in(&app, NEW, &mut Authenticator::new(10)).await.ok();
}

#[tokio::test]
async fn a_body_that_is_no_passkey_is_refused_by_field() {
    let app = App::new().await;
    let token = app.token(NEW).await;
    let mut device = Authenticator::new(1);
    let good = device.create(&options(&app, &token).await);
    let with = |pointer: &str, value: Value| {
        let mut body = json!({ "name": "Laptop", "credential": good });
        if let Some(place) = body.pointer_mut(pointer) {
            *place = value;
        } else {
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            body.pointer_mut(parent).expect("an object")[field] = value;
        }
        body
    };
    let long = "A".repeat(2000);
    for (pointer, value, field, problem) in [
        ("/name", json!(""), "name", "must satisfy minLength(1)"),
        ("/name", json!("  "), "name", "is empty"),
        (
            "/name",
            json!("x".repeat(65)),
            "name",
            "must satisfy maxLength(64)",
        ),
        ("/name", json!("a\nb"), "name", "holds control characters"),
        (
            "/name",
            json!(7),
            "name",
            "invalid type: integer `7`, expected a string",
        ),
        (
            "/extra",
            json!(1),
            "extra",
            "unknown field `extra`, expected one of `name`, `credential`, `enrolmentCode`",
        ),
        (
            "/credential/rawId",
            json!("AAAA"),
            "credential.rawId",
            "is not the same as id",
        ),
        (
            "/credential/type",
            json!("password"),
            "credential.type",
            "unknown variant `password`, expected `public-key`",
        ),
        (
            "/credential/response/clientDataJSON",
            json!("%%%"),
            "credential.response.clientDataJSON",
            "must be base 64 for URLs (RFC 4648 §5) without padding",
        ),
        (
            "/credential/response/attestationObject",
            json!("AA=="),
            "credential.response.attestationObject",
            "must be base 64 for URLs (RFC 4648 §5) without padding",
        ),
    ] {
        let refused = app
            .post("/mfa/passkeys", Some(&token), with(pointer, value))
            .await;
        refused.refused(400, "Validation failed");
        assert_eq!(
            refused.body["validationErrors"][field], problem,
            "{pointer}: {}",
            refused.body
        );
    }
    for (pointer, value) in [
        ("/credential/more", json!(1)),
        ("/credential/response/more", json!(1)),
        ("/credential/id", json!(long)),
        ("/credential/response", json!(null)),
        ("/credential/response/transports", json!(vec!["usb"; 9])),
    ] {
        let refused = app
            .post("/mfa/passkeys", Some(&token), with(pointer, value))
            .await;
        assert_eq!(refused.status, 400, "{pointer}: {}", refused.body);
    }
    let huge = with(
        "/credential/response/attestationObject",
        json!("A".repeat(70_000)),
    );
    assert_eq!(app.post("/mfa/passkeys", Some(&token), huge).await.status, 413);
    // Base 64 of something else uses up the options.
    let nonsense = with("/credential/response/attestationObject", json!("AAAA"));
    app.post("/mfa/passkeys", Some(&token), nonsense)
        .await
        .refused(400, "The passkey can't be used");
    register_as(&app, &token, "Laptop", &good)
        .await
        .refused(400, NOT_ASKED);
    register(&app, &token, &mut device).await.ok();

    let challenge = app.challenge(NEW).await;
    let good = device.get(&asked(&app, &challenge).await);
    for (field, value) in [
        ("signature", json!("%")),
        ("authenticatorData", json!("A")),
        ("userHandle", json!("=")),
    ] {
        let mut credential = good.clone();
        credential["response"][field] = value;
        let refused = show(&app, &challenge, &credential).await;
        refused.refused(400, "Validation failed");
        assert!(refused.body["validationErrors"][format!("credential.response.{field}")].is_string());
    }
    // What can't be read is no answer: the options are still open.
    show(&app, &challenge, &good).await.ok();
}

#[tokio::test]
async fn where_the_server_has_no_name_there_are_no_passkeys() {
    let app = App::with(Plan {
        settings: Settings {
            public_url: "https://192.0.2.7".into(),
            ..Settings::default()
        },
        ..Plan::default()
    })
    .await;
    let token = app.token(NEW).await;
    let refused = app.post("/mfa/passkeys/options", Some(&token), Value::Null).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let message = refused.body["message"].as_str().expect("a message");
    assert!(message.contains("passkeys.relying_party_id"), "{message}");
}
