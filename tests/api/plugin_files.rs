//! Every kind of bad plugin file, one test each: refused with a word for programs and a sentence that
//! names what is wrong, on the record, and nothing is stored. Sizes and signatures: see `plugins.rs`.

use std::path::Path;
use std::time::Duration;

use latchkey::plugin_host::{Case, FILE_BYTES_MAX, HostOptions, PluginHost, embed_cases};
use latchkey::service::housekeeping;
use serde_json::json;

use crate::guests::{Guest, Manifest};
use crate::support::{Setup, TestApp};

async fn refused(file: Vec<u8>, code: &str, parts: &[&str]) {
    let cache = tempfile::tempdir().unwrap();
    let app = app_with_cache(cache.path()).await;
    let admin = app.admin().await;
    let answer = admin.upload("/api/v1/plugins", file, &[]).await;
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.text);
    assert_eq!(kept(cache.path()), 0, "machine code of a refused file");
    let message = answer.assert_envelope().body["message"].as_str().unwrap();
    assert!(message.contains(&format!("[{code}]")), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part}: {message}");
    }
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"], &entry["errorMessage"]),
        (&json!("POLICY_PLUGIN_INSTALL"), &json!("DENIED"), &json!(message))
    );
    for table in ["module", "plugin"] {
        assert_eq!(app.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    let listed = admin.get("/api/v1/plugins").await;
    assert_eq!(listed.assert_ok(), &json!([]));
}

/// An appliance that keeps machine code there, and evaluates one reset at a time.
pub async fn app_with_cache(cache: &Path) -> TestApp {
    let options = HostOptions {
        cache_dir: Some(cache.to_owned()),
        total_concurrency: 1,
        ..HostOptions::default()
    };
    TestApp::with(Setup {
        plugin_host: Some(PluginHost::new(options).unwrap()),
        ..Setup::default()
    })
    .await
}

/// Files in the folder of machine code.
fn kept(cache: &Path) -> usize {
    cache.read_dir().unwrap().count()
}

#[tokio::test]
async fn machine_code_is_kept_for_as_long_as_the_plugin_is() {
    let cache = tempfile::tempdir().unwrap();
    let app = app_with_cache(cache.path()).await;
    let admin = app.admin().await;
    let file = Guest::default().wasm();
    let installed = admin.upload("/api/v1/plugins", file, &[]).await;
    assert_eq!(installed.status.as_u16(), 201, "{}", installed.text);
    let digest = installed.body["digest"].as_str().unwrap();
    assert_eq!(kept(cache.path()), 1);
    housekeeping::tidy(&app.services).await;
    assert_eq!(kept(cache.path()), 1, "it is installed");

    let removed = admin.delete(&format!("/api/v1/plugins/{digest}")).await;
    assert_eq!(removed.status.as_u16(), 204, "{}", removed.text);
    housekeeping::tidy(&app.services).await;
    assert_eq!(kept(cache.path()), 0, "it is gone");
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn guest(change: impl FnOnce(&mut Guest)) -> Vec<u8> {
    let mut guest = Guest::default();
    change(&mut guest);
    guest.wasm()
}

/// The file with a case inside that expects this, so many times.
fn with_cases(file: &[u8], expect: &str, times: usize) -> Vec<u8> {
    let case = format!(r#"{{"description":"a case","hook":"check-config","expect":{expect}}}"#);
    embed_cases(file, &vec![Case::parse(&case).unwrap(); times]).unwrap()
}

macro_rules! refused {
    ($($name:ident: $file:expr => $code:literal, $parts:expr;)+) => {
        $(#[tokio::test]
        async fn $name() {
            refused($file, $code, &$parts).await;
        })+
    };
}

refused! {
    a_script: b"#!/bin/sh".to_vec() => "not-wasm", ["not WebAssembly", "a text file"];
    an_empty_file: Vec::new() => "not-wasm", ["the file is empty"];
    a_native_library: b"\x7fELF\x02\x01\x01".to_vec() => "not-wasm", ["ELF"];
    a_core_module_without_the_contract: wat("(module)") => "not-a-component", ["core module without the policy contract"];
    a_core_module_that_does_not_fit_the_contract:
        wat(r#"(module (func (export "latchkey:policy/hooks@1.0.0#describe")))"#)
        => "contract-mismatch", ["does not fit the contract"];
    a_component_built_for_a_newer_contract:
        wat(r#"(component (instance $h) (export "latchkey:policy/hooks@2.0.0" (instance $h)))"#)
        => "wrong-contract-version", ["2.0.0", "speaks 1.0.0"];
    a_core_module_built_for_a_newer_contract:
        wat(r#"(module (func (export "latchkey:policy/hooks@1.9.0#describe")))"#)
        => "wrong-contract-version", ["1.9.0", "speaks 1.0.0"];
    a_component_that_wants_the_clock:
        wat(r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#)
        => "imports-wasi", ["wasi:clocks/wall-clock@0.2.0", "--stub-wasi", "wasm32-unknown-unknown", "-mexec-model=reactor"];
    a_core_module_that_wants_files:
        wat(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#)
        => "imports-wasi", ["wasi_snapshot_preview1", "-mexec-model=reactor"];
    a_component_that_wants_the_network:
        wat(r#"(component (import "acme:net/http" (instance)))"#)
        => "import-not-provided", ["acme:net/http", "does not provide"];
    a_component_that_is_no_policy:
        wat(r#"(component (instance $i) (export "acme:other/thing@1.0.0" (instance $i)))"#)
        => "missing-export", ["latchkey:policy/hooks@1.0.0", "acme:other/thing@1.0.0"];
    a_file_cut_short: { let mut file = Guest::default().wasm(); file.truncate(file.len() - 7); file }
        => "invalid-component", ["not valid here"];
    a_function_that_would_tie_up_the_compiler:
        guest(|guest| guest.items = format!(
            "(func (local{}) {} {})", " i32".repeat(10_000), "loop ".repeat(6_000), "i32.const 1 br_if 0 end ".repeat(6_000)))
        => "too-complex", ["local variables × branches"];
    a_plugin_with_more_memory_than_there_is: guest(|guest| guest.memory = "4097".into())
        => "invalid-component", ["memory has a minimum byte size of 268500992"];
    a_plugin_with_a_table_that_is_too_large: guest(|guest| guest.items = "(table 40001 funcref)".into())
        => "invalid-component", ["minimum element size of 40001", "limit of 40000"];
    a_plugin_with_too_many_tables_in_one_module: guest(|guest| guest.items = "(table 1 funcref)".repeat(9))
        => "invalid-component", ["tables count of 9 exceeds"];
    a_plugin_of_too_many_modules:
        wat(&format!(
            r#"(component (core module $m) {} (instance $h) (export "latchkey:policy/hooks@1.0.0" (instance $h)))"#,
            "(core instance (instantiate $m))".repeat(41)))
        => "invalid-component", ["41 core module instances", "maximum of 40"];
    a_plugin_with_too_many_memories:
        wat(&format!(
            r#"(component (core module $m (memory 1)) {} (instance $h) (export "latchkey:policy/hooks@1.0.0" (instance $h)))"#,
            "(core instance (instantiate $m))".repeat(9)))
        => "invalid-component", ["9 Wasm linear memories"];
    a_plugin_whose_instance_is_too_large: guest(|guest| guest.items = "(global (mut v128) (v128.const i64x2 0 0))".repeat(70_000))
        => "invalid-component", ["instance allocation for this module"];
    a_plugin_that_never_describes_itself: guest(|guest| guest.describe = "(loop $l (br $l)) (unreachable)".into())
        => "describe-failed", ["deadline: not done after 1000 ms"];
    a_plugin_that_traps_when_it_starts:
        guest(|guest| guest.items = "(func $t (unreachable)) (start $t)".into()) => "describe-failed", ["trap"];
    a_manifest_with_a_bad_name:
        guest(|guest| guest.manifest = Manifest { name: "Bad Name", ..guest.manifest.clone() })
        => "invalid-manifest", ["name: "];
    a_manifest_with_a_schema_that_is_none:
        guest(|guest| guest.manifest = Manifest { schema: r#"{"type":7}"#, ..guest.manifest.clone() })
        => "invalid-manifest", ["config-schema: "];
    a_golden_case_that_fails_here: with_cases(&Guest::default().wasm(), r#"{"error":"no"}"#, 1)
        => "golden-case-failed", ["\"a case\" fails here: error: expected \"no\", got nothing"];
    golden_cases_that_are_none:
        [&Guest::default().wasm()[..], b"\0\x10\x0elatchkey-cases{"].concat()
        => "golden-cases", ["its golden cases can't be run"];
    too_many_golden_cases_in_two_sections: {
            let file = Guest::default().wasm();
            let half = with_cases(&file, r#"{"ok":true}"#, 300);
            [&half[..], &half[file.len()..]].concat()
        }
        => "golden-cases", ["its golden cases can't be run: there are more than 500 of them"];
}

/// An organisation has two files under way, whether their senders wait or have hung up: each is held until it is
/// judged. However long that takes, others have a turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hangs_up_gives_no_turn_back_before_the_work_is_done() {
    let app = TestApp::new().await;
    let (admin, other) = (app.admin().await, app.admin_of_other_org().await);
    let slow = |version| {
        let file = guest(|guest| {
            guest.manifest.version = version;
            guest.check_config = "(loop $l (br $l)) (unreachable)".into();
        });
        // A second each.
        with_cases(&file, r#"{"failure":"deadline"}"#, 3)
    };
    let hung_up = async |version| {
        let call = admin.upload("/api/v1/plugins", slow(version), &[]);
        let answer = tokio::time::timeout(Duration::from_millis(1_500), call).await;
        assert!(answer.is_err(), "{version} was judged already");
    };
    tokio::join!(hung_up("1.0.0"), hung_up("2.0.0"));

    let file = Guest::default().wasm();
    let busy = admin.upload("/api/v1/plugins", file.clone(), &[]).await;
    assert_eq!(busy.assert_envelope().status.as_u16(), 503, "{}", busy.text);
    let elsewhere = other.upload("/api/v1/plugins", file.clone(), &[]).await;
    assert_eq!(elsewhere.status.as_u16(), 201, "{}", elsewhere.text);
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let answer = admin.upload("/api/v1/plugins", file.clone(), &[]).await;
        if answer.status.as_u16() != 503 {
            assert!(answer.status.is_success(), "{}", answer.text);
            break;
        }
        assert!(std::time::Instant::now() < limit, "no turn came back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while app.count("SELECT count(*) FROM plugin") < 4 {
        assert!(
            std::time::Instant::now() < limit,
            "what was begun is not finished"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_file_beyond_the_limit() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let answer = admin
        .upload("/api/v1/plugins", vec![0; FILE_BYTES_MAX + 1], &[])
        .await;
    answer.assert_error(413, "The request body is larger than 33554432 bytes");
    assert_eq!(app.count("SELECT count(*) FROM module"), 0);
}
