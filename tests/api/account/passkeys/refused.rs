//! What is no passkey, or one too many.

use latchkey::service::Settings;
use serde_json::{Value, json};

use super::super::app::{App, entry};
use super::super::authenticator::Authenticator;
use super::{Lie, NEW, NOT_ASKED, asked, list, log_in, options, register, register_as, show, with_passkey};

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
        assert_eq!(app.last_entry()["details"]["fault"], fault);
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
    let app = App::with(Settings {
        public_url: "https://192.0.2.7".into(),
        ..Settings::default()
    })
    .await;
    let token = app.token(NEW).await;
    let refused = app.post("/mfa/passkeys/options", Some(&token), Value::Null).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let message = refused.body["message"].as_str().expect("a message");
    assert!(message.contains("passkeys.relying_party_id"), "{message}");
}
