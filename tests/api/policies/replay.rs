//! Past decisions put to a plugin once more, and what may only be switched when they stay the same.

mod required;

use serde_json::{Value, json};

use crate::guests::{Guest, Manifest, before, denying};
use crate::plugins::{self, BINDINGS, assert_denied, bind, fixture, install, patient, replay};
use crate::support::{DEVELOPER, TestApp, enrol, reset_path};

/// A guest of this version that allows everything.
fn allowing(version: &'static str) -> Vec<u8> {
    plugins::version(version, "(i32.const 512)")
}

#[tokio::test]
async fn the_installed_versions_answer_as_recorded_byte_for_byte() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let mut digests = Vec::new();
    for (name, more) in [
        ("ticket-required", json!({ "config": { "pattern": "HD-.*" } })),
        (
            "reset-budget",
            json!({ "config": { "perUser": { "max": 2, "days": 30 } } }),
        ),
        (
            "force-reenrollment",
            json!({ "config": { "hours": 8 }, "grants": ["require-enrolment"] }),
        ),
        ("second-admin", json!({ "config": {} })),
    ] {
        let digest = install(&admin, fixture(name)).await;
        let bound = bind(&admin, &digest, patient(more)).await;
        assert_eq!(bound.status.as_u16(), 201, "{name}: {}", bound.text);
        digests.push((name, digest));
    }
    let mut ends = Vec::new();
    for ticket in [
        json!("HD-1"),
        json!("HD-2"),
        json!("HD-3"),
        Value::Null,
        json!("no ticket"),
    ] {
        let body = match ticket {
            Value::Null => json!({}),
            ticket => json!({ "ticket": ticket, "reason": "lost phone" }),
        };
        let answer = admin.post(&reset_path(DEVELOPER), body).await;
        ends.push(answer.status.as_u16());
        if answer.status.as_u16() == 200 {
            enrol(&app.services, app.developer.id).await;
        }
    }
    assert!(ends.contains(&200) && ends.contains(&403), "{ends:?}");
    let entries = app.trail();
    for (name, digest) in digests {
        let report = replay(&admin, &digest, json!({ "since": "30d" })).await;
        let report = report.assert_ok();
        assert_eq!(report["plugin"], name);
        assert_eq!(report["clean"], true, "{name}: {report}");
        assert_eq!(report["resets"], 5, "{name}");
        assert!(report["compared"].as_u64() > Some(0), "{name}: {report}");
        assert_eq!(report["same"], report["compared"], "{name}");
        assert_eq!(report["differences"], json!([]), "{name}");
    }
    assert_eq!(
        app.trail(),
        entries,
        "a replay carries nothing out and leaves no entry"
    );
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 5);
}

#[tokio::test]
async fn a_candidate_that_decides_otherwise_is_shown_with_each_decision() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let first = install(&admin, allowing("1.0.0")).await;
    let bound = bind(&admin, &first, patient(json!({}))).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let entry = admin.get("/api/v1/audit-logs?eventType=USER_MFA_RESET").await;
    let entry = entry.assert_ok()["content"][0]["id"].clone();

    let second = install(&admin, denying("2.0.0", "nobody")).await;
    let report = replay(&admin, &second, json!({ "since": "1h" })).await;
    let report = report.assert_ok();
    assert_eq!(
        (&report["clean"], &report["complete"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        [
            &report["compared"],
            &report["same"],
            &report["differing"],
            &report["failed"]
        ],
        [&json!(2), &json!(0), &json!(2), &json!(0)],
        "{report}"
    );
    let difference = &report["differences"][0];
    assert_eq!(difference["entryId"], entry);
    assert_eq!(difference["target"], "dev@acme.example");
    assert_eq!(difference["hook"], "before-reset");
    assert_eq!(difference["recorded"], json!({ "allow": [] }), "{difference}");
    assert_eq!(difference["replayed"]["deny"]["code"], "nobody", "{difference}");

    let third = install(&admin, before("unreachable")).await;
    let report = replay(&admin, &third, json!({})).await;
    assert_eq!(report.assert_ok()["failed"], 1, "{}", report.text);
    assert_eq!(report.body["differences"][0]["replayed"]["failure"], "trap");

    // A plugin of another name is compared with what happened without it.
    let other = install(&admin, fixture("ticket-required")).await;
    let config = json!({ "config": { "pattern": "HD-.*" } });
    let report = replay(&admin, &other, config).await;
    assert_eq!(report.assert_ok()["askedBefore"], false);
    assert_eq!(report.body["differences"][0]["recorded"], Value::Null);
    let of_binding = json!({ "bindingId": bound.body["id"], "since": "2026-02-18T10:00:00Z" });
    assert_eq!(
        replay(&admin, &first, of_binding).await.assert_ok()["clean"],
        true
    );
}

#[tokio::test]
async fn a_replay_sees_ones_own_resets_alone_and_refuses_what_it_cannot_read() {
    let app = TestApp::new().await;
    app.bind_for_node(denying("1.0.0", "node")).await;
    let (admin, elsewhere) = (app.admin().await, app.admin_of_other_org().await);
    assert_denied(&admin.reset(DEVELOPER).await, "node");
    let bindings = admin.get(BINDINGS).await;
    let digest = bindings.assert_ok()[0]["current"]["digest"].as_str().unwrap();
    assert_eq!(replay(&admin, digest, json!({})).await.assert_ok()["resets"], 1);
    assert_eq!(
        replay(&elsewhere, digest, json!({})).await.assert_ok()["resets"],
        0
    );
    let own = install(&admin, denying("2.0.0", "own")).await;
    let unknown = replay(&elsewhere, &own, json!({})).await;
    unknown.assert_error(404, &format!("Plugin not found with id: {own}"));
    let nowhere = "770e8400-e29b-41d4-a716-446655440099";
    replay(&admin, &own, json!({ "bindingId": nowhere }))
        .await
        .assert_error(404, &format!("Policy binding not found with id: {nowhere}"));
    for since in ["yesterday", "0d", "", "30"] {
        let bad = replay(&admin, &own, json!({ "since": since })).await;
        assert_eq!(bad.status.as_u16(), 400, "{since}: {}", bad.text);
        assert!(bad.body["validationErrors"]["since"].is_string(), "{}", bad.text);
    }
    let budget = install(&admin, fixture("reset-budget")).await;
    let bad = replay(
        &admin,
        &budget,
        json!({ "config": { "perUser": { "max": 0, "days": 30 } } }),
    )
    .await;
    assert!(
        bad.body["validationErrors"]["config.perUser.max"].is_string(),
        "{}",
        bad.text
    );
    let member = replay(&app.member().await, digest, json!({})).await;
    member.assert_error(403, "Role ORG_ADMIN is required");
}

#[tokio::test]
async fn what_was_only_watched_denied_nothing_and_a_replay_of_nothing_is_not_clean() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let watched = install(&admin, denying("1.0.0", "watched")).await;
    bind(&admin, &watched, patient(json!({ "mode": "monitor" }))).await;
    let other = Guest {
        manifest: Manifest {
            name: "other",
            ..Guest::default().manifest
        },
        ..crate::guests::denier("1.0.0", "other")
    };
    let other = install(&admin, other.wasm()).await;
    let nothing = replay(&admin, &other, json!({})).await;
    assert_eq!(nothing.assert_ok()["resets"], 0);
    assert_eq!(nothing.body["verdict"], "nothing-compared", "{}", nothing.text);
    assert_eq!(nothing.body["clean"], false, "{}", nothing.text);

    admin.reset(DEVELOPER).await.assert_ok();
    let report = replay(&admin, &other, json!({})).await;
    let report = report.assert_ok();
    assert_eq!(report["askedBefore"], false, "{report}");
    assert_eq!(report["compared"], 2, "the reset was carried out: {report}");
    assert_eq!(report["verdict"], "differs", "{report}");
    assert_eq!(
        report["differences"][0]["replayed"]["deny"]["code"], "other",
        "{report}"
    );

    // A binding that was never asked has decided nothing to compare with.
    let unasked = bind(&admin, &watched, patient(json!({}))).await;
    let unasked = replay(&admin, &watched, json!({ "bindingId": unasked.body["id"] })).await;
    assert_eq!(unasked.assert_ok()["compared"], 0);
    assert_eq!(unasked.body["verdict"], "nothing-compared", "{}", unasked.text);
    assert_eq!(unasked.body["clean"], false, "{}", unasked.text);
    let watched = replay(&admin, &watched, json!({})).await;
    assert_eq!(watched.assert_ok()["verdict"], "clean", "{}", watched.text);
}
