//! However much a plugin says: an entry stays small, what is kept of a reset is bounded, and a replay is exact.

use serde_json::{Value, json};

use crate::guests::Guest;
use crate::plugins::{PLUGINS, bind, install};
use crate::support::{DEVELOPER, TestApp};

/// A guest whose `before-reset` wants a note of 200,000 control characters kept.
fn loud() -> Vec<u8> {
    Guest {
        memory: "8".into(),
        // ok(allow([annotate({ name: "note", value })])): the list at 8400
        items: r#"
            (data (i32.const 528) "\d0\20\00\00\01\00\00\00")
            (data (i32.const 8400) "\05\00\00\00\34\21\00\00\04\00\00\00\00\00\04\00\40\0d\03\00")
            (data (i32.const 8500) "note")"#
            .into(),
        before: "(memory.fill (i32.const 262144) (i32.const 1) (i32.const 200000)) (i32.const 512)".into(),
        ..Guest::default()
    }
    .wasm()
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_outlined_in_the_entry_and_kept_within_bounds() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let digest = install(&admin, loud()).await;
    for _ in 0..3 {
        let terms = json!({ "limits": { "deadlineMs": 1000 } });
        assert_eq!(bind(&admin, &digest, terms).await.status.as_u16(), 201);
    }
    admin.reset(DEVELOPER).await.assert_ok();
    let details = app.last_entry()["details"].clone();
    assert!(
        details.to_string().len() < 32 << 10,
        "{} bytes",
        details.to_string().len()
    );
    let call = &details["policies"][0];
    assert_eq!(call["end"], json!({ "answer": { "allow": ["annotate"] } }));
    assert_eq!(call["refused"][0]["effect"], "annotate", "{call}");
    let why = call["refused"][0]["why"].as_str().unwrap();
    assert!(why.contains("not granted"), "{why}");
    let bytes = app.count("SELECT sum(length(CAST(record AS BLOB))) FROM decision");
    assert!((1..3 << 19).contains(&bytes), "{bytes}");

    let replay = admin.post(&format!("{PLUGINS}/{digest}/replay"), json!({})).await;
    assert_eq!(replay.assert_ok()["clean"], true, "{}", replay.text);
    assert_eq!(replay.body["compared"], 6, "{}", replay.text);
    // One character less is another answer, though what is shown of it is the same.
    let quieter = install(&admin, {
        let mut module = loud();
        let at = module
            .windows(4)
            .position(|word| word == [0x40, 0x0d, 3, 0])
            .unwrap();
        module[at] = 0x3f;
        module
    })
    .await;
    let replay = admin
        .post(&format!("{PLUGINS}/{quieter}/replay"), json!({}))
        .await;
    assert_eq!(replay.assert_ok()["differing"], 3, "{}", replay.text);
    assert!(replay.text.len() < 64 << 10, "{} bytes", replay.text.len());
}

#[tokio::test]
async fn a_refusal_is_short_whatever_the_file_says() {
    use latchkey::plugin_host::{Case, embed_cases};
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let case = json!({
        "description": "d".repeat(1 << 20),
        "hook": "check-config",
        "expect": { "error": "e".repeat(2 << 20) },
    });
    let file = embed_cases(
        &Guest::default().wasm(),
        &[Case::parse(&case.to_string()).unwrap()],
    )
    .unwrap();
    let answer = admin.upload(PLUGINS, file, &[]).await;
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.status);
    let entry = app.last_entry();
    let message = entry["errorMessage"].as_str().unwrap();
    assert!(message.len() < 4 << 10, "{} bytes", message.len());
    assert!(message.ends_with("[golden-case-failed]"), "{message}");
    assert!(message.contains("error: expected"), "{message}");
    assert_eq!(answer.body["message"], Value::from(message));
}
