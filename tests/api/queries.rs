//! Query parameters that nobody knows: a mistyped filter must not look like an answer about everything.

use latchkey::http;
use latchkey::limiter::Limits;
use poem::http::Method;
use serde_json::json;

use crate::support::{TestApp, per_minute};

const USERS: &str = "/api/v1/users?quary=raman";

#[tokio::test]
async fn an_unknown_parameter_is_refused_with_those_that_are_known() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let known = "is an unknown query parameter; known: query, page, size";
    let answer = admin.get(USERS).await;
    answer.assert_error(400, "Validation failed");
    assert_eq!(answer.body["validationErrors"], json!({ "quary": known }));

    let answer = admin
        .get("/api/v1/audit-logs?size=5&acotrEmail=a%40b&form=x")
        .await;
    answer.assert_error(400, "Validation failed");
    let problems = answer.body["validationErrors"].as_object().unwrap();
    assert!(problems.len() == 2 && problems.contains_key("acotrEmail") && problems.contains_key("form"));

    let one = format!("/api/v1/users/{}?expand=all", app.member.id);
    let answer = admin.get(&one).await;
    answer.assert_error(400, "Validation failed");
    let none = "is an unknown query parameter; there are none";
    assert_eq!(answer.body["validationErrors"], json!({ "expand": none }));
    // Case counts, as it does where they are read.
    let answer = admin.get("/api/v1/users?Query=raman").await;
    answer.assert_error(400, "Validation failed");
    // A stream ends before it began, and gives its place back.
    for _ in 0..20 {
        let answer = admin.get("/api/v1/audit-logs/tail?eventType=USER_LOGIN").await;
        answer.assert_error(400, "Validation failed");
    }
    let head = admin.send(Method::HEAD, USERS, None, &[]).await;
    assert_eq!(head.status.as_u16(), 400);
    // What comes back of what was written is bounded.
    let long = "x".repeat(2_000);
    let many = (0..50).map(|n| format!("y{n}=1")).collect::<Vec<_>>().join("&");
    let answer = admin.get(&format!("/api/v1/users?{long}=1&{many}")).await;
    answer.assert_error(400, "Validation failed");
    assert!(answer.text.len() < 2_000, "{}", answer.text);
}

#[tokio::test]
async fn known_parameters_and_none_are_taken_as_before() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for path in [
        "/api/v1/users?",
        "/api/v1/users?query=&page=0&size=5",
        "/api/v1/users?qu%65ry=dev",
        "/api/v1/audit-logs?cursor=",
        "/api/v1/approvals?state=open",
    ] {
        admin.get(path).await.assert_ok();
    }
    // Not of the API: whoever watches may add what they like.
    app.anonymous().get("/health/live?x=1").await.assert_ok();
    app.anonymous()
        .get("/.well-known/jwks.json?x=1")
        .await
        .assert_ok();
}

#[tokio::test]
async fn whoever_may_not_ask_is_told_that_first() {
    let limits = Limits {
        admin_by_caller: per_minute(2),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let unknown = "/api/v1/users/770e8400-e29b-41d4-a716-446655440099?expand=all";
    let nobody = app.anonymous().get(USERS).await;
    nobody.assert_error(401, "Authentication is required");
    let member = app.member().await.get(USERS).await;
    member.assert_error(403, "Role ORG_ADMIN is required");
    let admin = app.admin().await;
    assert_eq!(admin.get(unknown).await.status.as_u16(), 404);
    assert_eq!(admin.get(USERS).await.status.as_u16(), 400);
    assert_eq!(admin.get(USERS).await.status.as_u16(), 429);
}

#[test]
fn every_read_is_described_as_one_that_refuses() {
    let document = http::document();
    for (path, item) in document["paths"].as_object().unwrap() {
        if let Some(get) = item.get("get") {
            assert!(get["responses"].get("400").is_some(), "{path}");
        }
    }
}
