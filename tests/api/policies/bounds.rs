//! However much a plugin says: an entry stays small, what is kept of a reset is bounded, and a replay is exact.

use latchkey::service::housekeeping;
use serde_json::{Value, json};

use crate::guests::{Guest, Manifest};
use crate::keeping::tidy_by_a_settled_clock;
use crate::plugins::{PLUGINS, bind, install, path, patient, replay};
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
        let terms = patient(json!({}));
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

    let replayed = replay(&admin, &digest, json!({})).await;
    assert_eq!(replayed.assert_ok()["clean"], true, "{}", replayed.text);
    assert_eq!(replayed.body["compared"], 6, "{}", replayed.text);
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
    let replayed = replay(&admin, &quieter, json!({})).await;
    assert_eq!(replayed.assert_ok()["differing"], 3, "{}", replayed.text);
    assert!(replayed.text.len() < 64 << 10, "{} bytes", replayed.text.len());
}

/// A guest whose `after-reset` wants sixteen notices, each of 4,000 characters of four bytes. Their subjects are the
/// characters from `first` on; without one, it wants nothing.
fn wordy(first: Option<u8>) -> Vec<u8> {
    // notify({ to: target, subject, body }) sixteen times at 8400, the subjects from 9000 on, the bodies at 1310720
    let notice = |n: u8| {
        let subject = format!(r"\{:02x}\23\00\00\01\00\00\00", 0x28 + n);
        format!(r"\04\00\00\00\00\00\00\00{subject}\00\00\14\00\80\3e\00\00")
    };
    let subjects = |first| (0..16).map(move |n| format!(r"\{:02x}", first + n));
    let items = first.map(|first| {
        format!(
            r#"(data (i32.const 516) "\d0\20\00\00\10\00\00\00")
               (data (i32.const 8400) "{}") (data (i32.const 9000) "{}")"#,
            (0..16).map(notice).collect::<String>(),
            subjects(first).collect::<String>(),
        )
    });
    // U+1F511, four bytes
    let fill = "(loop (i32.store (i32.add (i32.const 1310720) (global.get $i)) (i32.const 0x91949ff0))
                      (global.set $i (i32.add (global.get $i) (i32.const 4)))
                      (br_if 0 (i32.lt_u (global.get $i) (i32.const 16000))))";
    Guest {
        memory: "32".into(),
        items: format!(
            "(global $i (mut i32) (i32.const 0)) {}",
            items.unwrap_or_default()
        ),
        after: format!("{fill} (i32.const 512)"),
        manifest: Manifest {
            hooks: &[1],
            wants: &["notify"],
            ..Guest::default().manifest
        },
        ..Guest::default()
    }
    .wasm()
}

/// What one policy is shown of the others' effects is kept once, however many are shown it.
#[tokio::test]
async fn what_is_kept_of_a_reset_does_not_grow_with_the_square_of_its_policies() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = json!({ "grants": ["notify"], "limits": { "deadlineMs": 1000, "answerBytes": 1 << 20 } });
    let quiet = install(&admin, wordy(None)).await;
    let fillers = [
        install(&admin, wordy(Some(b'A'))).await,
        install(&admin, wordy(Some(b'a'))).await,
    ];
    for digest in fillers.iter().chain(std::iter::repeat_n(&quiet, 8)) {
        let bound = bind(&admin, digest, terms.clone()).await;
        assert_eq!(bound.status.as_u16(), 201, "{}", bound.text);
    }
    admin.reset(DEVELOPER).await.assert_ok();
    let effects = &app.last_entry()["details"]["effects"];
    assert_eq!(effects.as_array().map(Vec::len), Some(32), "all of them");
    let bytes = app.count("SELECT sum(length(CAST(record AS BLOB))) FROM decision");
    assert!((1 << 19..3 << 19).contains(&bytes), "{bytes}");
    for digest in [&quiet, &fillers[1]] {
        let replayed = replay(&admin, digest, json!({})).await;
        let report = replayed.assert_ok();
        assert_eq!(report["compared"], 10, "{report}");
        assert!(report["same"].as_u64() >= Some(1), "{report}");
    }
}

/// A configuration is kept as long as the decisions that were made with it; one that was never asked is not.
#[tokio::test]
async fn configurations_that_decided_nothing_do_not_pile_up() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let digest = install(&admin, Guest::default().wasm()).await;
    let binding = path(&bind(&admin, &digest, patient(json!({}))).await);
    for n in 0..270 {
        let changed = admin.patch(&binding, json!({ "config": { "n": n } })).await;
        changed.assert_ok();
        let user = [(50, DEVELOPER.to_owned()), (100, app.second_admin.id.to_string())];
        if let Some((_, user)) = user.iter().find(|(at, _)| *at == n) {
            admin.reset(user).await.assert_ok();
        }
    }
    let kept = || app.count("SELECT count(*) FROM plugin_configuration");
    assert_eq!(kept(), 271);
    housekeeping::tidy(&app.services).await;
    assert_eq!(kept(), 271, "some may be in use again soon");
    tidy_by_a_settled_clock(&app).await;
    let asked = app.count("SELECT count(*) FROM plugin_configuration WHERE config = '{\"n\":50}'");
    assert_eq!((kept(), asked), (3, 1), "two that decided, and the one in use");

    let admin = app.admin().await;
    let replayed = replay(&admin, &digest, json!({})).await;
    assert_eq!(replayed.assert_ok()["same"], 4, "{}", replayed.text);
    // A few are not worth a search.
    for n in 0..3 {
        let changed = admin.patch(&binding, json!({ "config": { "m": n } })).await;
        changed.assert_ok();
    }
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(kept(), 6);
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
