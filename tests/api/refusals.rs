//! What is refused without work being done, and when it comes on the record.

use jiff::SignedDuration;
use latchkey::domain::account::{OrganizationSettings, PolicyChanges, Role};
use latchkey::limiter::{Limit, Limits};
use latchkey::service::refusals::record_floods;
use serde_json::{Value, json};

use crate::guests::{before, denying};
use crate::plugins::{BINDINGS, PLUGINS, bind, install, roll_back};
use crate::support::{Answer, Caller, DEVELOPER, TestApp, per_minute};

#[tokio::test]
async fn refusals_that_could_not_be_recorded_are_counted_on() {
    let limits = Limits {
        reset_by_caller: per_minute(1),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 429);
    app.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .await;
    assert!(record_floods(&app.services, true).await.is_err());
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 429);
    app.execute("DROP TRIGGER full").await;
    assert_eq!(record_floods(&app.services, true).await.unwrap(), 1);
    assert_eq!(app.last_entry()["details"]["refused"], 2, "before and after");
}

/// What is no id is not written where it could never be erased; an id is, as ids are spelt.
#[tokio::test]
async fn what_a_caller_writes_in_place_of_an_id_can_be_erased() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    assert_eq!(admin.reset("dev@acme.example").await.status.as_u16(), 400);
    let entry = app.last_entry();
    assert_eq!(entry["resource"]["id"], "");
    assert_eq!(entry["resource"]["name"], "dev@acme.example");
    let page = admin.get("/api/v1/audit-logs?size=1").await;
    let told = &page.assert_ok()["content"][0];
    assert_eq!(
        (&told["resourceType"], &told["resourceId"]),
        (&"USER".into(), &Value::Null)
    );

    admin.reset(DEVELOPER.to_uppercase()).await;
    assert_eq!(app.last_entry()["resource"]["id"], DEVELOPER);
    let refused = admin.delete("/api/v1/api-keys/lk_secret").await;
    assert!(refused.status.is_client_error());
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["resource"]["id"]),
        (&"API_KEY_REVOKE".into(), &"".into())
    );
    assert!(!entry.to_string().contains("lk_secret"), "{entry}");

    app.erase(&app.developer).await;
    let everything = serde_json::to_string(&app.trail()).unwrap();
    assert!(!everything.contains("dev@acme.example"), "{everything}");
}

/// An admin's verbs have a high limit: what is refused to one caller again and again is counted. A reset is an
/// entry each.
#[tokio::test]
async fn the_same_refusal_again_and_again_is_counted_after_the_first_times_but_for_the_reset() {
    let app = TestApp::new().await;
    let (member, admin) = (app.member().await, app.admin().await);
    let path = format!("/api/v1/users/{DEVELOPER}");
    let began = app.trail().len();
    for _ in 0..15 {
        let answer = member.patch(&path, json!({ "name": "x" })).await;
        answer.assert_error(403, "Role ORG_ADMIN is required");
    }
    assert_eq!(app.trail().len(), began + 10);
    // Another verb and another caller have their own.
    member.delete(&path).await.assert_envelope();
    let nobody = format!("/api/v1/users/{}", uuid::Uuid::max());
    admin
        .patch(&nobody, json!({ "name": "x" }))
        .await
        .assert_envelope();
    assert_eq!(app.trail().len(), began + 12);
    app.advance(SignedDuration::from_secs(61));
    assert_eq!(
        record_floods(&app.services, false).await.unwrap(),
        1,
        "what was recorded is not counted"
    );
    let counted = app.last_entry();
    assert_eq!(
        (
            &counted["eventType"],
            &counted["details"]["refused"],
            &counted["actor"]["email"]
        ),
        (&json!("USER_UPDATE"), &json!(5), &json!("member@acme.example"))
    );
    member
        .patch(&path, json!({ "name": "x" }))
        .await
        .assert_envelope();
    assert_eq!(app.trail().len(), began + 14, "a new window");
    for _ in 0..15 {
        member
            .reset(DEVELOPER)
            .await
            .assert_error(403, "Role ORG_ADMIN is required");
    }
    assert_eq!(app.trail().len(), began + 29);
}

/// Every change of policies that an admin can ask for: the event, the resource, and the answer.
async fn changes_of_policies(
    caller: &Caller<'_>,
    binding: &str,
    digest: &str,
) -> [(&'static str, String, Answer); 6] {
    let id = binding[BINDINGS.len() + 1..].to_owned();
    let upload = caller.upload(PLUGINS, before("(i32.const 512)"), &[]).await;
    let removal = caller.delete(&format!("{PLUGINS}/{digest}")).await;
    [
        ("POLICY_PLUGIN_INSTALL", String::new(), upload),
        ("POLICY_PLUGIN_REMOVE", digest.to_owned(), removal),
        (
            "POLICY_PLUGIN_BIND",
            digest.to_owned(),
            bind(caller, digest, json!({})).await,
        ),
        (
            "POLICY_PLUGIN_UPDATE",
            id.clone(),
            caller.patch(binding, json!({ "disabled": true })).await,
        ),
        (
            "POLICY_PLUGIN_UPDATE",
            id.clone(),
            roll_back(caller, binding).await,
        ),
        ("POLICY_PLUGIN_UNBIND", id, caller.delete(binding).await),
    ]
}

/// The entries made since there were `before` of them, oldest first.
fn entries_since(app: &TestApp, before: usize) -> Vec<Value> {
    let mut trail = app.trail();
    trail.truncate(trail.len() - before);
    trail.reverse();
    trail
}

#[track_caller]
fn assert_refused(entry: &Value, event_type: &str, resource: &str, message: &str) {
    assert_eq!(entry["eventType"], event_type, "{entry}");
    assert_eq!(entry["result"], "DENIED", "{entry}");
    assert_eq!(entry["resource"]["id"], resource, "{entry}");
    assert_eq!(entry["errorMessage"], message, "{entry}");
    assert!(entry["requestId"].is_string(), "{entry}");
}

/// The path of a policy of acme, and the digest of its plugin.
async fn bound(app: &TestApp) -> (String, String) {
    app.bind_module(denying("1.0.0", "no")).await;
    let listed = app.admin().await.get(BINDINGS).await;
    let binding = &listed.assert_ok()[0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        format!("{BINDINGS}/{}", text(&binding["id"])),
        text(&binding["current"]["digest"]),
    )
}

/// Whoever loosens policies opens the way to a reset: that somebody tried is on the record.
#[tokio::test]
async fn a_refused_change_of_a_policy_is_an_entry() {
    // Without the role.
    let app = TestApp::with(OrganizationSettings {
        help_desk_enabled: true,
        ..Default::default()
    })
    .await;
    let (binding, digest) = bound(&app).await;
    let help_desk = app.further("desk", Role::HelpDesk).await;
    for (user, email) in [(&app.member, "member"), (&help_desk, "desk")] {
        let caller = app.caller(user).await;
        let began = app.trail().len();
        let changes = changes_of_policies(&caller, &binding, &digest).await;
        let entries = entries_since(&app, began);
        assert_eq!(entries.len(), changes.len(), "{entries:?}");
        for (entry, (event_type, resource, answer)) in entries.iter().zip(&changes) {
            answer.assert_error(403, "Role ORG_ADMIN is required");
            assert_refused(entry, event_type, resource, "Role ORG_ADMIN is required");
            assert_eq!(entry["actor"]["email"], format!("{email}@acme.example"));
        }
    }
    // Whoever sends nonsense without the role is refused for the role.
    let nonsense = bind(&app.member().await, "nonsense", json!({})).await;
    nonsense.assert_error(403, "Role ORG_ADMIN is required");
    assert_refused(
        &app.last_entry(),
        "POLICY_PLUGIN_BIND",
        "",
        "Role ORG_ADMIN is required",
    );

    // Without a recent second factor, where that is demanded.
    let app = TestApp::with(OrganizationSettings {
        step_up_minutes: Some(5),
        ..Default::default()
    })
    .await;
    let (binding, digest) = bound(&app).await;
    let admin = app.admin().await; // minted: no second factor was used
    let began = app.trail().len();
    let changes = changes_of_policies(&admin, &binding, &digest).await;
    let entries = entries_since(&app, began);
    assert_eq!(entries.len(), changes.len(), "{entries:?}");
    for (entry, (event_type, resource, answer)) in entries.iter().zip(&changes) {
        let message = "A more recent authentication is required";
        answer.assert_error(401, message);
        assert_refused(entry, event_type, resource, message);
    }

    // Where only the operator changes policies.
    let app = TestApp::with(OrganizationSettings {
        policy_changes: PolicyChanges::OperatorOnly,
        ..Default::default()
    })
    .await;
    let (binding, digest) = bound(&app).await;
    let admin = app.admin().await;
    let only = "Policies of this organisation are changed by the operator alone, at the command line";
    let id = &binding[BINDINGS.len() + 1..];
    admin.delete(&binding).await.assert_error(403, only);
    assert_refused(&app.last_entry(), "POLICY_PLUGIN_UNBIND", id, only);
    let off = admin.patch(&binding, json!({ "disabled": true })).await;
    off.assert_error(403, only);
    assert_refused(&app.last_entry(), "POLICY_PLUGIN_UPDATE", id, only);
    bind(&admin, &digest, json!({})).await.assert_error(403, only);
    assert_refused(&app.last_entry(), "POLICY_PLUGIN_BIND", &digest, only);

    // What is the node's.
    let app = TestApp::new().await;
    app.bind_for_node(denying("1.0.0", "node")).await;
    let admin = app.admin().await;
    let listed = admin.get(BINDINGS).await;
    let id = listed.assert_ok()[0]["id"].as_str().unwrap();
    let nodes = "This belongs to the node: only its operator can change it";
    let began = app.trail().len();
    admin
        .delete(&format!("{BINDINGS}/{id}"))
        .await
        .assert_error(403, nodes);
    assert_refused(&app.last_entry(), "POLICY_PLUGIN_UNBIND", id, nodes);
    // What nobody has bound, and what the state does not allow.
    let nobody = uuid::Uuid::max().to_string();
    let unknown = format!("Policy binding not found with id: {nobody}");
    let removed = admin.delete(&format!("{BINDINGS}/{nobody}")).await;
    removed.assert_error(404, &unknown);
    assert_refused(&app.last_entry(), "POLICY_PLUGIN_UNBIND", &nobody, &unknown);
    assert_eq!(app.trail().len(), began + 2);
}

#[tokio::test]
async fn too_many_changes_of_policies_are_one_entry_each_kind_with_a_count() {
    let limit = |requests| Limit {
        requests,
        window_secs: 600,
    };
    let limits = Limits {
        admin_by_caller: limit(10),
        plugin_by_caller: limit(1),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let (binding, digest) = bound(&app).await;
    let member = app.member().await;
    // What the role refuses does not use up what a compilation costs.
    for _ in 0..10 {
        bind(&member, &digest, json!({}))
            .await
            .assert_error(403, "Role ORG_ADMIN is required");
    }
    let began = app.trail().len();
    for (_, _, answer) in changes_of_policies(&member, &binding, &digest).await {
        assert_eq!(answer.status.as_u16(), 429, "{}", answer.text);
    }
    assert_eq!(app.trail().len(), began, "counted only");
    let admin = app.admin().await;
    install(&admin, before("(i32.const 512)")).await;
    let compiled = bind(&admin, &digest, json!({})).await;
    assert_eq!(compiled.status.as_u16(), 429, "{}", compiled.text);
    let began = app.trail().len();
    assert_eq!(record_floods(&app.services, true).await.unwrap(), 6);
    let mut counted: Vec<_> = entries_since(&app, began)
        .iter()
        .map(|entry| {
            let details = &entry["details"];
            (
                entry["eventType"].as_str().unwrap().to_owned(),
                details["quota"].as_str().unwrap().to_owned(),
                details["refused"].as_i64().unwrap(),
            )
        })
        .collect();
    counted.sort();
    let expected = [
        ("POLICY_PLUGIN_BIND", "admin-by-caller", 1),
        ("POLICY_PLUGIN_BIND", "plugin-by-caller", 1),
        ("POLICY_PLUGIN_INSTALL", "admin-by-caller", 1),
        ("POLICY_PLUGIN_REMOVE", "admin-by-caller", 1),
        ("POLICY_PLUGIN_UNBIND", "admin-by-caller", 1),
        ("POLICY_PLUGIN_UPDATE", "admin-by-caller", 2),
    ];
    assert_eq!(
        counted,
        expected.map(|(event, quota, refused)| (event.to_owned(), quota.to_owned(), refused))
    );
}
