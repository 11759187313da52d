//! The envelope on every path.

use jiff::{SignedDuration, Timestamp};
use poem::http::Method;
use serde_json::json;

use crate::support::{DEVELOPER, PASSWORD, TestApp, reset_path};

#[tokio::test]
async fn an_unknown_path_is_404_in_the_envelope() {
    let app = TestApp::new().await;
    let answer = app.anonymous().get("/nowhere").await;
    answer.assert_error(404, "No such path; see /openapi.json");
    assert_eq!(answer.body["path"], "/nowhere");
}

#[tokio::test]
async fn a_wrong_method_is_405_with_allow() {
    let app = TestApp::new().await;
    let answer = app
        .anonymous()
        .send(Method::DELETE, &reset_path(DEVELOPER), None, &[])
        .await;
    answer.assert_error(405, "The method is not allowed for this path");
    assert_eq!(answer.header("allow"), "POST");
}

#[tokio::test]
async fn a_large_body_is_413() {
    let app = TestApp::new().await;
    let body = json!({ "reason": "x".repeat(100_000) });
    let answer = app.admin().await.post(&reset_path(DEVELOPER), body).await;
    answer.assert_error(413, "The request body is larger than 65536 bytes");
}

#[tokio::test]
async fn a_wrong_content_type_is_415() {
    let app = TestApp::new().await;
    let login = "/api/v1/auth/login";
    let answer = app
        .anonymous()
        .send(Method::POST, login, None, &[("Content-Type", "text/plain")])
        .await;
    answer.assert_error(415, "The content type must be application/json");
}

#[tokio::test]
async fn a_body_that_is_no_utf8_or_no_json_is_400() {
    let app = TestApp::new().await;
    let answer = app.anonymous().post("/api/v1/auth/login", json!("{")).await;
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.text);
    answer.assert_envelope();
}

#[tokio::test]
async fn null_is_refused_by_name_wherever_it_means_nothing() {
    const REFUSED: &str = "must not be null; leave it out";
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let user = format!("/api/v1/users/{DEVELOPER}");
    let binding = |policy: serde_json::Value| {
        let mut body = json!({ "pluginDigest": "00".repeat(32), "config": null });
        let more = policy.as_object().cloned().unwrap_or_default();
        body.as_object_mut().unwrap().extend(more);
        body
    };
    for (method, path, body, field) in [
        (
            Method::POST,
            "/api/v1/users",
            json!({ "email": "a@b.example", "role": null }),
            "role",
        ),
        (
            Method::PATCH,
            &user,
            json!({ "name": null, "isActive": null }),
            "isActive",
        ),
        (
            Method::PATCH,
            "/api/v1/organization/settings",
            json!({ "mfaRequired": null }),
            "mfaRequired",
        ),
        (
            Method::PATCH,
            "/api/v1/organization/settings",
            json!({ "adminOnAdmin": null }),
            "adminOnAdmin",
        ),
        (
            Method::POST,
            "/api/v1/policy-bindings",
            binding(json!({ "hooks": null })),
            "hooks",
        ),
        (
            Method::POST,
            "/api/v1/policy-bindings",
            binding(json!({ "onFailure": { "trap": null } })),
            "onFailure.trap",
        ),
    ] {
        let refused = admin.send(method, path, Some(body.clone()), &[]).await;
        refused.assert_error(400, "Validation failed");
        assert_eq!(
            refused.body["validationErrors"],
            json!({ field: REFUSED }),
            "{body}"
        );
    }
    assert_eq!(admin.get(&user).await.assert_ok()["isActive"], true);
    // Where it says something, or anything goes, it is read.
    let renamed = admin.patch(&user, json!({ "name": null })).await;
    assert_eq!(renamed.assert_ok()["name"], json!(null));
    let bound = admin.post("/api/v1/policy-bindings", binding(json!({}))).await;
    assert_eq!(bound.status.as_u16(), 404, "{}", bound.text);
    // Polyfills of browsers write what a passkey does not say as null.
    let credential = json!({
        "id": "AA", "rawId": "AA", "type": "public-key", "authenticatorAttachment": null,
        "response": { "clientDataJSON": "AA", "authenticatorData": "AA", "signature": "AA", "userHandle": null },
    });
    let body = json!({ "mfaChallengeToken": "none", "credential": credential });
    let path = "/api/v1/auth/verify-mfa/passkey";
    assert_eq!(app.anonymous().post(path, body).await.status.as_u16(), 401);
}

#[tokio::test]
async fn health_answers_without_a_token() {
    let app = TestApp::new().await;
    assert_eq!(
        app.anonymous().get("/health/live").await.assert_ok(),
        &json!({ "status": "ok" })
    );
    assert_eq!(
        app.anonymous().get("/health/ready").await.assert_ok(),
        &json!({ "status": "ok" })
    );
}

#[tokio::test]
async fn a_panic_is_500_in_the_envelope_and_the_server_goes_on() {
    let app = TestApp::new().await;
    let credentials =
        json!({"organizationSlug": "acme", "email": "member@acme.example", "password": PASSWORD});
    let now = app.services.clock.now();
    // Tokens that lapse after the end of time: adding to the last moment that jiff knows panics, a minute before it.
    app.advance(Timestamp::MAX.duration_since(now) - SignedDuration::from_mins(1));
    let answer = app
        .anonymous()
        .post("/api/v1/auth/login", credentials.clone())
        .await;
    answer.assert_error(500, "Internal error");
    assert!(!answer.header("x-request-id").is_empty());
    app.advance(now.duration_since(app.services.clock.now()));
    let answer = app.anonymous().post("/api/v1/auth/login", credentials).await;
    answer.assert_ok();
}
