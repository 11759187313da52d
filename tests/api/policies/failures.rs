//! What follows from a failure, for each of its causes and each action.

use serde_json::{Value, json};

use crate::guests::{Guest, Manifest, denying};
use crate::plugins::{assert_denied, bind, install, path};
use crate::support::{DEVELOPER, TestApp, enrol};

const ENDLESS: &str = "(loop (br 0)) (unreachable)";
const BOMB: &str = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)";
/// A verdict with a number that there is none of.
const NONSENSE: &str = "(i32.store8 (i32.const 520) (i32.const 77)) (i32.const 512)";
/// err("")
const ERROR: &str = "(i32.store8 (i32.const 512) (i32.const 1)) (i32.const 512)";

fn failing(before: &str) -> Vec<u8> {
    Guest {
        before: before.into(),
        manifest: Manifest {
            hooks: &[0],
            ..Manifest::of("2.0.0")
        },
        ..Guest::default()
    }
    .wasm()
}

#[tokio::test]
async fn each_cause_is_followed_by_what_was_said_for_it_and_by_nothing_else() {
    let causes = [
        ("trap", "trap", "unreachable"),
        ("deadline", "deadline", ENDLESS),
        ("memory", "memory", BOMB),
        ("badAnswer", "bad-answer", NONSENSE),
        ("hookError", "hook-error", ERROR),
    ];
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let first = install(&admin, denying("1.0.0", "one")).await;
    for (field, cause, before) in causes {
        let digest = install(&admin, failing(before)).await;
        for action in ["deny", "skip", "last-good-version"] {
            let row = format!("{cause}, {action}");
            // Whatever happens otherwise must not happen for this cause.
            let mut on_failure = json!({ "otherwise": if action == "skip" { "deny" } else { "skip" } });
            on_failure[field] = json!(action);
            let terms = json!({ "onFailure": on_failure, "limits": { "deadlineMs": 300 } });
            let binding = path(&bind(&admin, &first, terms).await);
            assert_denied(&admin.reset(DEVELOPER).await, "one");
            admin
                .patch(&binding, json!({ "pluginDigest": digest }))
                .await
                .assert_ok();

            let answer = admin.reset(DEVELOPER).await;
            let entry = app.last_entry();
            let calls = &entry["details"]["policies"];
            assert_eq!(calls[0]["end"]["failure"]["cause"], cause, "{row}: {entry}");
            let mfa = admin.get(&format!("/api/v1/users/{DEVELOPER}")).await;
            let still = mfa.assert_ok()["mfaEnabled"] == true;
            match action {
                "deny" => {
                    answer.assert_error(500, "A policy could not be evaluated");
                    assert_eq!(entry["result"], "FAILURE", "{row}");
                    let said = entry["details"]["cause"].as_str().unwrap();
                    assert!(
                        said.contains(cause) && said.contains("guest 2.0.0"),
                        "{row}: {said}"
                    );
                    assert!(still, "{row}");
                }
                "skip" => {
                    answer.assert_ok();
                    assert_eq!(entry["result"], "SUCCESS", "{row}");
                    assert!(!still, "{row}");
                    enrol(&app.services, app.developer.id).await;
                }
                _ => {
                    assert_denied(&answer, "one");
                    assert_eq!(calls[1]["version"], "1.0.0", "{row}: {entry}");
                    assert!(still, "{row}");
                }
            }
            assert_eq!(calls[0]["end"]["answer"], Value::Null, "{row}");
            assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
        }
    }
}
