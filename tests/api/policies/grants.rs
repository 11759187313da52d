//! What a version may do of what its binding was granted, and what several policies' demands come to.

use latchkey::domain::account::OrganizationSettings;
use serde_json::{Value, json};

use crate::guests::{Guest, Manifest};
use crate::plugins::{bind, install, install_and_bind, patient};
use crate::support::{DEVELOPER, TestApp};

const ALLOW: &str = "(i32.const 512)";

/// A guest of this version that wants these effects, with this body of `before-reset`.
fn guest(version: &'static str, wants: &'static [&'static str], before: &str) -> Vec<u8> {
    Guest {
        before: before.into(),
        manifest: Manifest {
            wants,
            hooks: &[0],
            ..Manifest::of(version)
        },
        ..Guest::default()
    }
    .wasm()
}

/// Answers `ok(allow([effect]))`, with a number that the effect may carry.
fn allow_with(effect: u8, number: u32) -> String {
    format!(
        "(i32.store (i32.const 8208) (i32.const 8300)) (i32.store (i32.const 8212) (i32.const 1))
         (i32.store8 (i32.const 8300) (i32.const {effect})) (i32.store (i32.const 8304) (i32.const {number}))
         (i32.const 8192)"
    )
}

fn require_enrolment(hours: u32) -> String {
    allow_with(0, hours)
}

fn granted(names: &[&str]) -> Value {
    patient(json!({ "grants": names }))
}

#[tokio::test]
async fn what_was_granted_to_one_version_is_not_given_to_another_that_does_not_want_it() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(
        &admin,
        guest("1.0.0", &["lock-account"], ALLOW),
        granted(&["lock-account"]),
    )
    .await;
    let second = install(&admin, guest("2.0.0", &[], &allow_with(3, 0))).await;
    let switch = json!({ "pluginDigest": second });
    admin.patch(&binding, switch).await.assert_ok();

    admin.reset(DEVELOPER).await.assert_ok();
    let entry = app.last_entry();
    let call = &entry["details"]["policies"][0];
    assert_eq!(call["version"], "2.0.0", "{entry}");
    assert_eq!(call["refused"][0]["effect"], "lock-account", "{entry}");
    assert_eq!(entry["details"]["effects"], Value::Null, "{entry}");
    assert_eq!(
        app.count("SELECT count(*) FROM user WHERE locked_at IS NOT NULL"),
        0
    );
}

#[tokio::test]
async fn a_canary_is_granted_what_it_wants_and_the_version_before_keeps_what_it_has() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let demands = guest("1.0.0", &["require-enrolment"], &require_enrolment(48));
    let binding = install_and_bind(&admin, demands, granted(&["require-enrolment"])).await;
    let second = install(&admin, guest("2.0.0", &["annotate"], ALLOW)).await;
    let canary = |grants: &[&str]| json!({ "pluginDigest": second, "mode": "canary", "canaryPercent": 10, "grants": grants });
    let refused = admin.patch(&binding, canary(&["notify"])).await;
    assert_eq!(
        refused.body["validationErrors"]["grants"],
        "guest does not ask for notify; it asks for: annotate, require-enrolment",
        "{}",
        refused.text
    );
    let both = canary(&["annotate", "require-enrolment"]);
    admin.patch(&binding, both).await.assert_ok();

    let mut before = 0;
    for n in 0..8 {
        let target = app.employee(&format!("n{n}")).await;
        admin.reset(target.id).await.assert_ok();
        let entry = app.last_entry();
        let by_the_one_before = entry["details"]["policies"][0]["version"] == "1.0.0";
        let due = &entry["details"]["enrolmentDueUntil"];
        assert_eq!(due.is_string(), by_the_one_before, "{entry}");
        before += u32::from(by_the_one_before);
    }
    assert!(before > 0, "nine in ten are outside the share");
}

#[tokio::test]
async fn a_further_policy_does_not_make_the_window_for_enrolment_longer() {
    let app = TestApp::new().await; // its organisation gives 24 hours
    let admin = app.admin().await;
    for (version, hours, due) in [
        ("1.0.0", 720, "2026-03-20T10:30:00Z"),
        ("2.0.0", 0, "2026-02-19T10:30:00Z"),
        ("3.0.0", 719, "2026-02-19T10:30:00Z"),
        ("4.0.0", 8, "2026-02-18T18:30:00Z"),
    ] {
        let demands = guest(version, &["require-enrolment"], &require_enrolment(hours));
        let digest = install(&admin, demands).await;
        let bound = bind(&admin, &digest, granted(&["require-enrolment"])).await;
        assert_eq!(bound.status.as_u16(), 201, "{}", bound.text);
        let target = app.employee(&format!("n{hours}")).await;
        admin.reset(target.id).await.assert_ok();
        let entry = app.last_entry();
        assert_eq!(entry["details"]["enrolmentDueUntil"], due, "{version}: {entry}");
    }
}

/// A code is a demand like another: it brings the organisation's window with it.
#[tokio::test]
async fn where_a_code_is_demanded_a_policy_does_not_make_the_window_longer() {
    let acme = OrganizationSettings {
        enrolment_code_required: true,
        ..OrganizationSettings::default()
    };
    let app = TestApp::with(acme).await;
    let admin = app.admin().await;
    let demands = guest("1.0.0", &["require-enrolment"], &require_enrolment(720));
    let digest = install(&admin, demands).await;
    bind(&admin, &digest, granted(&["require-enrolment"])).await;
    admin.reset(app.developer.id).await.assert_ok();
    let due = &app.last_entry()["details"]["enrolmentDueUntil"];
    assert_eq!(due, "2026-02-19T10:30:00Z");
}
