//! API keys: a machine reads with one, and nothing else.

use jiff::SignedDuration;
use latchkey::domain::account::{OrganizationSettings, Role};
use poem::http::Method;
use serde_json::{Value, json};

use super::user_path;
use crate::support::{Answer, Caller, TestApp};

const KEYS: &str = "/api/v1/api-keys";
const TRAIL: &str = "/api/v1/audit-logs";
const USERS: &str = "/api/v1/users";

async fn made(caller: &Caller<'_>, scopes: &[&str]) -> (String, String) {
    let answer = caller
        .post(KEYS, json!({ "name": "Log collector", "scopes": scopes }))
        .await;
    let body = answer.assert_status(201);
    let text = |field: &str| body[field].as_str().expect("a text").to_owned();
    (text("key"), text("id"))
}

async fn with_key(app: &TestApp, key: &str, path: &str) -> Answer {
    app.anonymous()
        .send(Method::GET, path, None, &[("X-API-Key", key)])
        .await
}

fn listed<'a>(keys: &'a Value, id: &str) -> &'a Value {
    let keys = keys.as_array().expect("an array");
    keys.iter()
        .find(|key| key["id"] == id)
        .expect("the key is listed")
}

#[tokio::test]
async fn a_key_is_shown_once_reads_its_own_organisation_and_is_kept_as_a_hash() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let answer = admin
        .post(
            KEYS,
            json!({ "name": " Log collector ", "scopes": ["audit:read", "audit:read"] }),
        )
        .await;
    let body = answer.assert_status(201);
    let key = body["key"].as_str().unwrap();
    assert_eq!(body["name"], "Log collector");
    assert_eq!(body["scopes"], json!(["audit:read"]));
    assert_eq!(body["createdBy"], "admin@acme.example");
    assert_eq!(body["createdAt"], "2026-02-18T10:30:00.000Z");
    assert_eq!(body["expiresAt"], "2026-05-19T10:30:00.000Z", "90 days");
    assert!(
        key.starts_with(body["prefix"].as_str().unwrap()) && key.len() == 68,
        "{key}"
    );
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "API_KEY_CREATE");
    assert_eq!(entry["resource"]["id"], body["id"]);
    assert_eq!(entry["details"]["scopes"], json!(["audit:read"]));

    let page = with_key(&app, key, TRAIL).await;
    let names = page.assert_ok()["content"].as_array().unwrap();
    assert!(!names.is_empty());
    assert!(
        names.iter().all(|entry| entry["organizationName"] == "ACME"),
        "{}",
        page.text
    );

    // Neither the trail nor the list nor the database has it again.
    let secret = &key[30..];
    let listed = admin.get(KEYS).await;
    assert!(
        !listed.text.contains(secret) && !listed.text.contains("\"key\""),
        "{}",
        listed.text
    );
    assert!(
        app.trail()
            .iter()
            .all(|entry| !entry.to_string().contains(secret))
    );
    let in_clear =
        format!("SELECT count(*) FROM api_key WHERE instr(hash, '{secret}') OR instr(prefix, '{secret}')");
    assert_eq!(app.count(&in_clear), 0);
    assert_eq!(app.count("SELECT length(hash) FROM api_key"), 32);
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_say() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let (audit, _) = made(&admin, &["audit:read"]).await;
    let (users, _) = made(&admin, &["users:read"]).await;
    let (both, _) = made(&admin, &["users:read", "audit:read"]).await;
    for path in [TRAIL, "/api/v1/audit-logs/checkpoint", "/api/v1/audit-logs/keys"] {
        assert_eq!(with_key(&app, &audit, path).await.status, 200, "{path}");
        assert_eq!(with_key(&app, &both, path).await.status, 200, "{path}");
        with_key(&app, &users, path)
            .await
            .assert_error(403, "Scope audit:read is required");
    }
    let one = user_path(&app.member);
    for path in [USERS, &one] {
        assert_eq!(with_key(&app, &users, path).await.status, 200, "{path}");
        with_key(&app, &audit, path)
            .await
            .assert_error(403, "Scope users:read is required");
    }
    let other = user_path(&app.other_developer);
    assert_eq!(
        with_key(&app, &users, &other).await.status,
        404,
        "another organisation's user"
    );
    let entry = app.trail()[0]["eventType"].clone();
    assert_eq!(entry, "API_KEY_CREATE", "reads leave no entries");
}

/// Every operation of the document, called with a key that has every scope: those that take a key are
/// reads, and the others answer as if nothing had been shown.
#[tokio::test]
async fn a_key_changes_nothing_and_mints_nothing() {
    let app = TestApp::new().await;
    let (key, id) = made(&app.admin().await, &["audit:read", "users:read"]).await;
    let entries = app.trail().len();
    let document = latchkey::http::document();
    let (mut readable, mut refused) = (Vec::new(), 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].as_array().unwrap();
            if security.is_empty() {
                continue;
            }
            let takes_key = security.iter().any(|way| way.get("apiKeyAuth").is_some());
            let called = path.replace("{id}", &id).replace("{digest}", &"0".repeat(64));
            if takes_key {
                assert_eq!(method, "get", "{path}");
                readable.push(operation["operationId"].as_str().unwrap().to_owned());
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = app
                .anonymous()
                .send(method.clone(), &called, Some(json!({})), &[("X-API-Key", &key)])
                .await;
            answer.assert_error(401, "Authentication is required");
            refused += 1;
        }
    }
    readable.sort();
    assert_eq!(
        readable,
        [
            "getAuditCheckpoint",
            "getAuditKeys",
            "getAuditLog",
            "getAuditLogDecisions",
            "getAuditLogProof",
            "getUser",
            "listAuditLogs",
            "listUsers",
            "tailAuditLogs"
        ]
    );
    assert!(refused > 30, "{refused} operations were tried");
    assert_eq!(app.trail().len(), entries, "nothing was done");
}

#[tokio::test]
async fn what_is_no_live_key_is_one_and_the_same_401() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let (key, _) = made(&admin, &["audit:read"]).await;
    let mut wrong = key.clone();
    wrong.replace_range(60..61, if key[60..].starts_with('A') { "B" } else { "A" });
    for shown in ["", "lkk_", "secret", &key[..67], &wrong, &format!("{key}A")] {
        let answer = with_key(&app, shown, TRAIL).await;
        answer.assert_error(401, "The API key is invalid");
        assert_eq!(answer.header("www-authenticate"), "ApiKey realm=\"latchkey\"");
    }
    // With both, the token counts: a key does not mend a bad token.
    let headers = [("X-API-Key", key.as_str()), ("Authorization", "Bearer nonsense")];
    let both = app.anonymous().send(Method::GET, TRAIL, None, &headers).await;
    both.assert_error(401, "The access token is invalid");
    app.anonymous()
        .get(TRAIL)
        .await
        .assert_error(401, "Authentication is required");
}

#[tokio::test]
async fn a_key_ends_by_itself_by_being_revoked_and_with_its_makers_power() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let second = app.caller(&app.second_admin).await;
    let (key, id) = made(&admin, &["audit:read"]).await;

    // Another admin may revoke it, once.
    let path = format!("{KEYS}/{id}");
    assert_eq!(second.delete(&path).await.status, 204);
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "API_KEY_REVOKE");
    assert_eq!(entry["details"]["createdBy"], app.admin.id.to_string());
    assert_eq!(with_key(&app, &key, TRAIL).await.status, 401);
    let again = second.delete(&path).await;
    again.assert_error(404, &format!("API key not found with id: {id}"));
    assert!(listed(&admin.get(KEYS).await.body, &id)["revokedAt"].is_string());

    // By itself, to the second.
    let answer = admin
        .post(
            KEYS,
            json!({ "name": "a day", "scopes": ["audit:read"], "expiresInDays": 1 }),
        )
        .await;
    let short = answer.assert_status(201)["key"].as_str().unwrap().to_owned();
    app.advance(SignedDuration::from_secs(24 * 3600 - 1));
    assert_eq!(with_key(&app, &short, TRAIL).await.status, 200);
    app.advance(SignedDuration::from_secs(1));
    assert_eq!(with_key(&app, &short, TRAIL).await.status, 401);

    // With the role, which coming back does not revive.
    let second = app.caller(&app.second_admin).await;
    let (key, _) = made(&app.admin().await, &["audit:read"]).await;
    let demoted = second
        .patch(&user_path(&app.admin), json!({ "isOrgAdmin": false }))
        .await;
    demoted.assert_ok();
    assert_eq!(with_key(&app, &key, TRAIL).await.status, 401);
    second
        .patch(&user_path(&app.admin), json!({ "isOrgAdmin": true }))
        .await
        .assert_ok();
    assert_eq!(with_key(&app, &key, TRAIL).await.status, 401, "revoked for good");
}

#[tokio::test]
async fn a_reset_of_its_maker_ends_a_key() {
    for verb in ["reset-mfa", "reset-password"] {
        let app = TestApp::new().await;
        let (key, _) = made(&app.admin().await, &["audit:read"]).await;
        let second = app.caller(&app.second_admin).await;
        let path = format!("{}/{verb}", user_path(&app.admin));
        second.call(&path).await.assert_ok();
        assert_eq!(app.last_entry()["details"]["apiKeysRevoked"], 1, "{verb}");
        assert_eq!(with_key(&app, &key, TRAIL).await.status, 401, "{verb}");
    }
}

#[tokio::test]
async fn only_admins_with_a_fresh_second_factor_where_it_is_demanded_make_and_revoke_keys() {
    let app = TestApp::with(OrganizationSettings {
        help_desk_enabled: true,
        ..Default::default()
    })
    .await;
    let (_, id) = made(&app.admin().await, &["audit:read"]).await;
    let desk = app.further("desk", Role::HelpDesk).await;
    for user in [&app.member, &desk] {
        let caller = app.caller(user).await;
        let body = json!({ "name": "x", "scopes": ["audit:read"] });
        caller
            .post(KEYS, body)
            .await
            .assert_error(403, "Role ORG_ADMIN is required");
        caller
            .get(KEYS)
            .await
            .assert_error(403, "Role ORG_ADMIN is required");
        let refused = caller.delete(&format!("{KEYS}/{id}")).await;
        refused.assert_error(403, "Role ORG_ADMIN is required");
    }
    assert_eq!(app.entries("API_KEY_CREATE", "DENIED"), 2);
    assert_eq!(app.entries("API_KEY_REVOKE", "DENIED"), 2);
    let stranger = app.admin_of_other_org().await;
    let theirs = stranger.delete(&format!("{KEYS}/{id}")).await;
    theirs.assert_error(404, &format!("API key not found with id: {id}"));
    assert_eq!(stranger.get(KEYS).await.assert_ok(), &json!([]));

    let app = TestApp::with(OrganizationSettings {
        step_up_minutes: Some(5),
        ..Default::default()
    })
    .await;
    let body = json!({ "name": "x", "scopes": ["audit:read"] });
    let refused = app.admin().await.post(KEYS, body).await;
    assert_eq!(refused.status, 401);
    assert!(
        refused
            .header("www-authenticate")
            .contains("insufficient_user_authentication")
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_new_key_is_told_by_field() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for (body, field) in [
        (json!({ "name": " ", "scopes": ["audit:read"] }), "name"),
        (
            json!({ "name": "x".repeat(101), "scopes": ["audit:read"] }),
            "name",
        ),
        (json!({ "name": "a\u{0}b", "scopes": ["audit:read"] }), "name"),
        (json!({ "name": "x", "scopes": [] }), "scopes"),
        (json!({ "name": "x", "scopes": ["audit:write"] }), "scopes"),
        (
            json!({ "name": "x", "scopes": ["audit:read"], "expiresInDays": 0 }),
            "expiresInDays",
        ),
        (
            json!({ "name": "x", "scopes": ["audit:read"], "expiresInDays": 366 }),
            "expiresInDays",
        ),
    ] {
        let answer = admin.post(KEYS, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        answer.assert_envelope();
        assert!(answer.text.contains(field), "{body}: {}", answer.text);
    }
    assert_eq!(app.count("SELECT count(*) FROM api_key"), 0);
}

#[tokio::test]
async fn an_organisation_has_a_hundred_live_keys_at_most() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for _ in 0..100 {
        made(&admin, &["audit:read"]).await;
    }
    let body = json!({ "name": "x", "scopes": ["audit:read"] });
    let refused = admin.post(KEYS, body.clone()).await;
    refused.assert_error(409, "There are 100 API keys already; revoke one first");
    let id = admin.get(KEYS).await.body[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(admin.delete(&format!("{KEYS}/{id}")).await.status, 204);
    admin.post(KEYS, body).await.assert_status(201);
}

#[tokio::test]
async fn the_last_use_is_noted_to_the_minute() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let (key, id) = made(&admin, &["audit:read"]).await;
    let last_used = async || listed(&admin.get(KEYS).await.body, &id)["lastUsedAt"].clone();
    assert_eq!(last_used().await, Value::Null);
    with_key(&app, &key, TRAIL).await.assert_ok();
    assert_eq!(last_used().await, "2026-02-18T10:30:00.000Z");
    app.advance(SignedDuration::from_secs(59));
    with_key(&app, &key, TRAIL).await.assert_ok();
    assert_eq!(last_used().await, "2026-02-18T10:30:00.000Z");
    app.advance(SignedDuration::from_secs(1));
    with_key(&app, &key, TRAIL).await.assert_ok();
    assert_eq!(last_used().await, "2026-02-18T10:31:00.000Z");
}

#[tokio::test]
async fn a_tail_read_with_a_key_ends_with_the_key() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let (key, id) = made(&admin, &["audit:read"]).await;
    let machine = app.anonymous();
    let headers = [("X-API-Key", key.as_str()), ("Last-Event-ID", "0")];
    let within = std::time::Duration::from_secs(3);
    let read = machine.stream("/api/v1/audit-logs/tail", &headers, within);
    let revoke = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        admin.delete(&format!("{KEYS}/{id}")).await
    };
    let (started, (said, revoked)) = (std::time::Instant::now(), tokio::join!(read, revoke));
    assert_eq!(revoked.status, 204);
    assert!(said.contains("API_KEY_CREATE"), "{said}");
    assert!(!said.contains("API_KEY_REVOKE"), "{said}");
    assert!(started.elapsed() < within, "the stream ended by itself");
}

#[tokio::test]
async fn a_key_in_the_header_of_tokens_is_told_where_it_belongs() {
    let app = TestApp::new().await;
    let (key, _) = made(&app.admin().await, &["audit:read"]).await;
    for (path, token) in [
        (TRAIL, key.as_str()),
        (KEYS, key.as_str()),
        ("/api/v1/account/sessions", "lkk_no-key-at-all"),
    ] {
        let answer = app.bearer(token).get(path).await;
        answer.assert_error(
            401,
            "This is an API key, no access token: send it in the X-API-Key header",
        );
        assert!(answer.header("www-authenticate").starts_with("Bearer "), "{path}");
    }
    let other = app.bearer("lkr_no-access-token").get(TRAIL).await;
    other.assert_error(401, "The access token is invalid");
}
