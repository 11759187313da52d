//! Signing keys of the appliance itself.

use jsonwebtoken::Algorithm;
use latchkey::domain::audit::ActorRef;
use latchkey::domain::credential::TokenAlgorithm;
use latchkey::service::housekeeping::tidy;
use latchkey::service::{Settings, token_keys};
use poem::http::Method;
use serde_json::{Value, json};

use super::app::{App, entry};

pub async fn list(app: &App, token: &str) -> super::app::Answer {
    app.call(Method::GET, "/account/sessions", Some(token), None)
        .await
}

async fn rotate(app: &App, algorithm: TokenAlgorithm) -> token_keys::Rotation {
    let services = app.services.clone();
    tokio::task::spawn_blocking(move || token_keys::rotate_keys(&services, algorithm, ActorRef::operator()))
        .await
        .expect("joined")
        .expect("rotated")
}

async fn jwks(app: &App) -> Value {
    let answer = app.anonymous().get("/.well-known/jwks.json").await;
    answer.assert_ok()["keys"].clone()
}

#[tokio::test]
async fn a_rotation_logs_nobody_out_and_old_tokens_end_in_time() {
    let app = App::new().await;
    let minted = app.boss().await;
    let before = app.token("new@acme.example").await;
    let done = rotate(&app, TokenAlgorithm::EdDsa).await;
    assert_eq!(app.newest(), entry("TOKEN_KEY_ROTATE", "SUCCESS", None));
    let after = app.token("new@acme.example").await;
    for token in [&minted, &before, &after] {
        list(&app, token).await.ok();
    }
    let header = jsonwebtoken::decode_header(&after).unwrap();
    assert_eq!(
        (header.alg, header.kid),
        (Algorithm::EdDSA, Some(done.kid.clone()))
    );
    // The minted token is the one that lives longest.
    let twelve_hours = jiff::SignedDuration::from_hours(12);
    assert_eq!(done.old_until, app.clock.now() + twelve_hours);
    app.wait(12 * 3600 - 1);
    list(&app, &minted).await.ok();
}

#[tokio::test]
async fn public_keys_are_told_for_eddsa_and_never_for_hs256() {
    let app = App::new().await;
    assert_eq!(jwks(&app).await, json!([]));
    let done = rotate(&app, TokenAlgorithm::EdDsa).await;
    let keys = jwks(&app).await;
    assert_eq!(keys.as_array().unwrap().len(), 1);
    assert_eq!(
        (
            &keys[0]["kty"],
            &keys[0]["crv"],
            &keys[0]["alg"],
            &keys[0]["use"],
            &keys[0]["kid"]
        ),
        (
            &json!("OKP"),
            &json!("Ed25519"),
            &json!("EdDSA"),
            &json!("sig"),
            &json!(done.kid)
        )
    );
    // Whoever reads it can check our tokens with any library.
    let token = app.token("new@acme.example").await;
    let key = jsonwebtoken::DecodingKey::from_ed_components(keys[0]["x"].as_str().unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(Algorithm::EdDSA);
    rules.set_audience(&["latchkey"]);
    rules.validate_exp = false;
    assert!(jsonwebtoken::decode::<Value>(&token, &key, &rules).is_ok());
}

#[tokio::test]
async fn keys_rotate_by_configuration_and_by_age() {
    let settings = Settings {
        token_algorithm: TokenAlgorithm::EdDsa,
        key_rotation_days: 30,
        ..Settings::default()
    };
    let app = App::with(settings).await;
    let kids = || app.services.keys.access().kids();
    let first = kids();
    tidy(&app.services).await;
    assert_eq!(app.services.keys.access().algorithm(), TokenAlgorithm::EdDsa);
    assert_eq!(kids()[1..], first);
    let second = kids();
    tidy(&app.services).await;
    assert_eq!(kids(), second, "once is enough");
    app.wait(30 * 24 * 3600);
    tidy(&app.services).await;
    assert_eq!(kids().len(), 2, "a new one, the last one; the first has lapsed");
    assert_ne!(kids()[0], second[0]);
    // A key made by a clock that was ahead is not young for as long as it was.
    app.wait(400 * 24 * 3600);
    tidy(&app.services).await;
    let ahead = kids()[0].clone();
    app.wait(-400 * 24 * 3600);
    tidy(&app.services).await;
    assert_ne!(kids()[0], ahead);
}

/// No key signs without an entry: where the entry can't be written there is no rotation.
#[tokio::test]
async fn without_its_entry_no_key_is_rotated() {
    let app = App::new().await;
    rotate(&app, TokenAlgorithm::EdDsa).await;
    let before = app.services.keys.access().kids();
    app.sql("CREATE UNIQUE INDEX refuse ON audit_entry (event_type) WHERE event_type = 'TOKEN_KEY_ROTATE'");
    let services = app.services.clone();
    let rotated = tokio::task::spawn_blocking(move || {
        token_keys::rotate_keys(&services, TokenAlgorithm::EdDsa, ActorRef::operator())
    });
    assert!(rotated.await.expect("joined").is_err());
    assert_eq!(app.services.keys.access().kids(), before);
    app.sql("DROP INDEX refuse");
    rotate(&app, TokenAlgorithm::EdDsa).await;
    assert_eq!(app.services.keys.access().kids().len(), 3);
}
