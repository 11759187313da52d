//! What a replay compares and what it leaves out, and that it says so.

use latchkey::domain::account::OrganizationSettings;
use serde_json::{Value, json};

use crate::guests::{Guest, Manifest, denying};
use crate::plugins::{self, bind, install, path, patient, version};
use crate::support::{Caller, DEVELOPER, TestApp};

const ALLOWS: &str = "(i32.const 512)";
/// err("")
const SAYS_ERROR: &str = "(i32.store8 (i32.const 512) (i32.const 1)) (i32.const 512)";
const LOOPS: &str = "(loop $l (br $l)) (unreachable)";

async fn replay(caller: &Caller<'_>, digest: &str, body: Value) -> Value {
    plugins::replay(caller, digest, body).await.assert_ok().clone()
}

/// Verdict and the numbers of a report.
fn figures(report: &Value) -> (String, [u64; 6]) {
    let number = |field: &str| {
        report[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{field}: {report}"))
    };
    let numbers = [
        "compared",
        "same",
        "differing",
        "failed",
        "mended",
        "notComparable",
    ]
    .map(number);
    (report["verdict"].as_str().unwrap().to_owned(), numbers)
}

#[tokio::test]
async fn a_failure_that_comes_again_is_compared_and_one_of_the_moment_is_counted() {
    for (body, cause) in [("unreachable", "trap"), (SAYS_ERROR, "hook-error")] {
        let app = TestApp::new().await;
        let admin = app.admin().await;
        let failing = install(&admin, version("1.0.0", body)).await;
        let skip = patient(json!({ "onFailure": { "otherwise": "skip" } }));
        bind(&admin, &failing, skip).await;
        admin.reset(DEVELOPER).await.assert_ok();
        let report = replay(&admin, &failing, json!({})).await;
        assert_eq!(figures(&report), ("clean".into(), [2, 2, 0, 0, 0, 0]), "{report}");
        let mended = install(&admin, version("2.0.0", ALLOWS)).await;
        let report = replay(&admin, &mended, json!({})).await;
        assert_eq!(
            figures(&report),
            ("differs".into(), [2, 1, 1, 0, 1, 0]),
            "{report}"
        );
        assert_eq!(report["differences"][0]["recorded"]["failure"], cause, "{report}");
    }

    let app = TestApp::new().await;
    let admin = app.admin().await;
    let late = install(&admin, version("1.0.0", LOOPS)).await;
    let skip = json!({ "onFailure": { "otherwise": "skip" }, "limits": { "deadlineMs": 50 } });
    bind(&admin, &late, skip).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let quick = install(&admin, version("2.0.0", ALLOWS)).await;
    let report = replay(&admin, &quick, json!({})).await;
    assert_eq!(
        figures(&report),
        ("incomplete".into(), [1, 1, 0, 0, 0, 1]),
        "{report}"
    );
    assert_eq!(report["clean"], false, "not all could be compared: {report}");
}

#[tokio::test]
async fn where_a_clean_replay_is_required_what_fails_can_be_mended() {
    let app = TestApp::with(OrganizationSettings {
        clean_replay_required: true,
        ..Default::default()
    })
    .await;
    let admin = app.admin().await;
    let failing = install(&admin, version("1.0.0", "unreachable")).await;
    let bound = bind(&admin, &failing, patient(json!({}))).await;
    let failed = admin.reset(DEVELOPER).await;
    failed.assert_error(500, "A policy could not be evaluated");
    let mended = install(&admin, version("2.0.0", ALLOWS)).await;
    let switch = json!({ "pluginDigest": mended });
    admin.patch(&path(&bound), switch).await.assert_ok();

    // What it decides from then on holds.
    admin.reset(DEVELOPER).await.assert_ok();
    let denies = install(&admin, denying("3.0.0", "no")).await;
    let refused = admin
        .patch(&path(&bound), json!({ "pluginDigest": denies }))
        .await;
    assert_eq!(refused.status.as_u16(), 409, "{}", refused.text);
}

#[tokio::test]
async fn what_was_only_watched_is_left_out_where_something_counted_and_a_difference_says_whose_it_is() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let counts = install(&admin, version("1.0.0", ALLOWS)).await;
    let counting = bind(&admin, &counts, patient(json!({ "mode": "enforce" }))).await;
    let watched = install(&admin, denying("1.1.0", "no")).await;
    let watching = bind(&admin, &watched, patient(json!({ "mode": "monitor" }))).await;
    admin.reset(DEVELOPER).await.assert_ok();

    let report = replay(&admin, &counts, json!({})).await;
    assert_eq!(figures(&report), ("clean".into(), [2, 2, 0, 0, 0, 0]), "{report}");
    assert_eq!(report["watched"], 2, "{report}");
    let report = replay(&admin, &watched, json!({})).await;
    let difference = &report["differences"][0];
    for (field, expected) in [
        ("bindingId", &counting.body["id"]),
        ("mode", &json!("enforce")),
        ("recordedVersion", &json!("1.0.0")),
        ("recordedDigest", &json!(counts)),
    ] {
        assert_eq!(&difference[field], expected, "{field}: {difference}");
    }

    // Asked about by its id, it is compared with what it watched.
    let of_it = json!({ "bindingId": watching.body["id"] });
    let report = replay(&admin, &watched, of_it).await;
    assert_eq!(figures(&report), ("clean".into(), [2, 2, 0, 0, 0, 0]), "{report}");
    assert_eq!(report["watched"], 0, "{report}");
}

#[tokio::test]
async fn a_candidate_that_nobody_asked_is_not_tried_with_a_configuration_that_it_refuses() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    let wants_config = Guest {
        manifest: Manifest {
            name: "other",
            schema: r#"{"type":"object","required":["n"]}"#,
            ..Guest::default().manifest
        },
        ..Guest::default()
    };
    let other = install(&admin, wants_config.wasm()).await;
    let refused = plugins::replay(&admin, &other, json!({})).await;
    refused.assert_error(400, "Validation failed");
    let problem = refused.body["validationErrors"]["config"].as_str().unwrap();
    assert!(
        problem.contains("\"n\"") && problem.contains("--config"),
        "{problem}"
    );
    let report = replay(&admin, &other, json!({ "config": { "n": 1 } })).await;
    assert_eq!(report["compared"], 2, "{report}");
}
