//! What is kept with a reset can be read by whoever may read its entry, and by nobody else.

use jiff::SignedDuration;
use latchkey::service::plugins::forget_lapsed_decisions;
use serde_json::{Value, json};

use crate::guests::{Guest, Manifest};
use crate::plugins::{bind, install, path, patient};
use crate::support::{Caller, DEVELOPER, TestApp};

const LOGS: &str = "/api/v1/audit-logs";

/// A guest that says why it traps.
fn panicking(version: &'static str) -> Vec<u8> {
    Guest {
        items: r#"(data (i32.const 9000) "panicked at lib.rs")"#.into(),
        before: "(call $log (i32.const 3) (i32.const 9000) (i32.const 18)) unreachable".into(),
        manifest: Manifest::of(version),
        ..Guest::default()
    }
    .wasm()
}

/// Id of the newest entry of that type.
async fn newest(caller: &Caller<'_>, event_type: &str) -> String {
    let page = caller.get(&format!("{LOGS}?eventType={event_type}&size=1")).await;
    page.assert_ok()["content"][0]["id"].as_str().unwrap().to_owned()
}

async fn decisions(caller: &Caller<'_>, id: &str) -> Value {
    let found = caller.get(&format!("{LOGS}/{id}/decisions")).await;
    found.assert_ok().clone()
}

#[tokio::test]
async fn the_author_of_a_policy_that_traps_finds_its_log_and_which_version_answered_instead() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let first = install(&admin, Guest::default().wasm()).await;
    let config = json!({ "from": "08:00" });
    let terms = patient(json!({ "config": config, "onFailure": { "otherwise": "last-good-version" } }));
    let binding = bind(&admin, &first, terms).await;
    admin.reset(app.second_admin.id).await.assert_ok();
    let second = install(&admin, panicking("2.0.0")).await;
    let switched = admin
        .patch(&path(&binding), json!({ "pluginDigest": second }))
        .await;
    switched.assert_ok();
    admin.reset(DEVELOPER).await.assert_ok();

    let entry = newest(&admin, "USER_MFA_RESET").await;
    let found = decisions(&admin, &entry).await;
    assert_eq!(found["entryId"], *entry);
    assert_eq!(found["at"], "2026-02-18T10:30:00.000Z");
    assert_eq!(found["question"]["target"]["email"], "dev@acme.example");
    assert_eq!(found["outcome"]["kind"], "done", "{found}");
    let [failed, answered] = [&found["calls"][0], &found["calls"][1]];
    assert_eq!(failed["failure"]["cause"], "trap", "{failed}");
    assert_eq!(
        (&failed["answer"], &failed["asked"]),
        (&Value::Null, &json!("current"))
    );
    let line = json!({ "level": "error", "message": "panicked at lib.rs" });
    assert_eq!(failed["log"], json!([line]), "{failed}");
    assert_eq!((&failed["digest"], &failed["config"]), (&json!(second), &config));
    assert!(failed["usage"]["peakMemoryBytes"].as_u64() > Some(0), "{failed}");
    assert_eq!(answered["asked"], "fallback", "{answered}");
    assert_eq!(
        (&answered["answer"], &answered["failure"]),
        (&json!({ "allow": [] }), &Value::Null)
    );
    assert_eq!(
        (&answered["digest"], &answered["bindingId"]),
        (&json!(first), &binding.body["id"])
    );
    let outline = app.last_entry()["details"]["policies"].clone();
    assert_eq!(outline[0]["asked"], Value::Null, "{outline}");
    assert_eq!(outline[1]["asked"], "fallback", "{outline}");
}

#[tokio::test]
async fn what_is_kept_is_for_readers_of_the_trail_and_lapses() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.bind("reset-budget", json!({ "perUser": { "max": 3, "days": 30 } }))
        .await;
    admin.reset(DEVELOPER).await.assert_ok();
    let entry = newest(&admin, "USER_MFA_RESET").await;
    let of_entry = format!("{LOGS}/{entry}/decisions");
    let unknown = format!("Audit entry not found with id: {entry}");
    app.admin_of_other_org()
        .await
        .get(&of_entry)
        .await
        .assert_error(404, &unknown);
    app.member()
        .await
        .get(&of_entry)
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
    assert_eq!(app.anonymous().get(&of_entry).await.status.as_u16(), 401);
    for (scope, status) in [("audit:read", 200), ("users:read", 403)] {
        let body = json!({ "name": scope, "scopes": [scope] });
        let key = admin.post("/api/v1/api-keys", body).await;
        let key = key.body["key"].as_str().unwrap();
        let get = poem::http::Method::GET;
        let read = app
            .anonymous()
            .send(get, &of_entry, None, &[("X-API-Key", key)])
            .await;
        assert_eq!(read.status.as_u16(), status, "{scope}: {}", read.text);
    }

    let none = newest(&admin, "API_KEY_CREATE").await;
    let not_kept = |id: &str| format!("Decisions of audit entry not found with id: {id}");
    let of_other = admin.get(&format!("{LOGS}/{none}/decisions")).await;
    of_other.assert_error(404, &not_kept(&none));
    admin
        .get(&format!("{LOGS}/none/decisions"))
        .await
        .assert_envelope();

    app.advance(SignedDuration::from_hours(24 * 401));
    assert_eq!(forget_lapsed_decisions(&app.services).await.unwrap(), 1);
    let lapsed = app.admin().await.get(&of_entry).await;
    lapsed.assert_error(404, &not_kept(&entry));
}
