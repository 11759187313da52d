//! What policies want done commits with the ending that they want it for, and with no other.

use serde_json::{Value, json};

use crate::guests::{Guest, Manifest};
use crate::people::app_with_mail;
use crate::plugins::{bind, install, patient};
use crate::support::{Caller, DEVELOPER, TestApp};

/// notify({ to: target, subject: "Subject", body: "Body" }) at 8400.
const NOTICE: &str = r#"
    (data (i32.const 8400) "\04\00\00\00\00\00\00\00\34\21\00\00\07\00\00\00\3b\21\00\00\04\00\00\00")
    (data (i32.const 8500) "SubjectBody")"#;

/// A guest that wants a notice sent, before the reset or after it.
fn notifying(hook: u8) -> Vec<u8> {
    // A list of one at 8400: of ok(allow(…)) at 512, or of ok(…) at 8600.
    let list = if hook == 0 { 528 } else { 8604 };
    Guest {
        items: format!(r#"{NOTICE} (data (i32.const {list}) "\d0\20\00\00\01\00\00\00")"#),
        after: "(i32.const 8600)".into(),
        manifest: Manifest {
            name: "notifier",
            hooks: if hook == 0 { &[0] } else { &[1] },
            wants: &["notify"],
            ..Guest::default().manifest
        },
        ..Guest::default()
    }
    .wasm()
}

/// A guest that wants sixteen notes kept, whose values are the characters from `first` on.
fn noting(first: u8) -> Vec<u8> {
    // annotate({ name: "note", value }) sixteen times at 8400, the name at 9000, the values from 9100 on
    let notes = (0..16).map(|n| {
        format!(
            r"\05\00\00\00\28\23\00\00\04\00\00\00\{:02x}\23\00\00\01\00\00\00\00\00\00\00",
            0x8c + n
        )
    });
    let values = (0..16).map(|n| format!(r"\{:02x}", first + n));
    Guest {
        items: format!(
            r#"(data (i32.const 528) "\d0\20\00\00\10\00\00\00")
               (data (i32.const 8400) "{}") (data (i32.const 9000) "note") (data (i32.const 9100) "{}")"#,
            notes.collect::<String>(),
            values.collect::<String>(),
        ),
        manifest: Manifest {
            name: "noter",
            wants: &["annotate"],
            ..Guest::default().manifest
        },
        ..Guest::default()
    }
    .wasm()
}

/// A guest that traps after the reset.
fn trapping_after() -> Vec<u8> {
    Guest {
        after: "unreachable".into(),
        manifest: Manifest {
            hooks: &[1],
            ..Guest::default().manifest
        },
        ..Guest::default()
    }
    .wasm()
}

/// A guest that wants two further admins, for an hour.
fn wants_two_admins() -> Vec<u8> {
    Guest {
        before: "(i32.store8 (i32.const 8200) (i32.const 2))
                 (i32.store (i32.const 8208) (i32.const 1024))
                 (i32.store8 (i32.const 8216) (i32.const 2))
                 (i32.store (i32.const 8220) (i32.const 3600))
                 (i32.const 8192)"
            .into(),
        ..Guest::default()
    }
    .wasm()
}

async fn bind_granted(caller: &Caller<'_>, module: Vec<u8>, grants: Value) {
    let digest = install(caller, module).await;
    let terms = patient(json!({ "grants": grants }));
    let bound = bind(caller, &digest, terms).await;
    assert_eq!(bound.status.as_u16(), 201, "{}", bound.text);
}

fn notices(app: &TestApp) -> i64 {
    app.count("SELECT count(*) FROM delivery WHERE payload ->> '$.subject' = 'Subject'")
}

#[tokio::test]
async fn nothing_that_one_policy_wants_happens_where_another_fails() {
    let app = app_with_mail().await;
    let admin = app.admin().await;
    bind_granted(&admin, notifying(1), json!(["notify"])).await;
    admin.reset(app.second_admin.id).await.assert_ok();
    assert_eq!(notices(&app), 1, "it is sent where the reset happens");
    assert!(app.last_entry()["details"]["effects"].is_array());

    bind_granted(&admin, trapping_after(), json!([])).await;
    let owed = app.count("SELECT count(*) FROM delivery");
    let failed = admin.reset(DEVELOPER).await;
    failed.assert_error(500, "A policy could not be evaluated");
    let entry = app.last_entry();
    assert_eq!(entry["result"], "FAILURE", "{entry}");
    assert_eq!(entry["details"]["effects"], Value::Null, "{entry}");
    assert_eq!(app.count("SELECT count(*) FROM delivery"), owed, "{entry}");
    // What it wanted can be seen with the call.
    let wanted = &entry["details"]["policies"][0]["end"]["answer"]["effects"];
    assert_eq!(wanted, &json!(["notify"]), "{entry}");
}

#[tokio::test]
async fn nothing_that_a_policy_wants_happens_while_the_reset_waits() {
    let app = app_with_mail().await;
    let admin = app.admin().await;
    bind_granted(&admin, notifying(0), json!(["notify"])).await;
    bind_granted(&admin, wants_two_admins(), json!([])).await;
    let third = app
        .further("third", latchkey::domain::account::Role::OrgAdmin)
        .await;

    let asked = admin.reset(DEVELOPER).await;
    let id = asked.assert_status(202)["approvalId"].as_str().unwrap();
    assert_eq!(app.last_entry()["details"]["effects"], Value::Null);
    let approve = format!("/api/v1/approvals/{id}/approve");
    let second = app.caller(&app.second_admin).await;
    second.call(&approve).await.assert_status(202);
    assert_eq!(app.last_entry()["details"]["effects"], Value::Null);
    assert_eq!(notices(&app), 0);

    app.caller(&third).await.call(&approve).await.assert_ok();
    assert_eq!(notices(&app), 1);
    assert!(app.last_entry()["details"]["effects"].is_array());
}

/// To bind a further policy takes no second admin, since it can only make a reset harder: it must not use up the room
/// of one that its admin may not change.
#[tokio::test]
async fn annotations_of_further_policies_displace_no_notice_of_the_node() {
    let app = app_with_mail().await;
    let admin = app.admin().await;
    app.bind_for_node(notifying(1)).await;
    for first in [b'A', b'a'] {
        bind_granted(&admin, noting(first), json!(["annotate"])).await;
    }
    admin.reset(DEVELOPER).await.assert_ok();
    let details = app.last_entry()["details"].clone();
    assert_eq!(notices(&app), 1, "{details}");
    assert_eq!(details["effects"].as_array().unwrap().len(), 33, "{details}");

    // Of a third there is room for two.
    bind_granted(&admin, noting(b'Q'), json!(["annotate"])).await;
    admin.reset(app.second_admin.id).await.assert_ok();
    let details = app.last_entry()["details"].clone();
    assert_eq!(notices(&app), 2, "{details}");
    assert_eq!(details["effects"].as_array().unwrap().len(), 35, "{details}");
    let refused = details["policies"][2]["refused"].to_string();
    assert!(
        refused.contains("more than 32 notices and annotations at one reset"),
        "{details}"
    );
}
