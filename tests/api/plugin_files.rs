//! Every kind of bad plugin file, one test each: refused with a word for programs and a sentence that
//! names what is wrong, on the record, and nothing is stored. Sizes and signatures: see `plugins.rs`.

use latchkey::plugin_host::FILE_BYTES_MAX;
use serde_json::json;

use crate::guests::{Guest, Manifest};
use crate::support::TestApp;

async fn refused(file: Vec<u8>, code: &str, parts: &[&str]) {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let answer = admin.upload("/api/v1/plugins", file, &[]).await;
    assert_eq!(answer.status.as_u16(), 400, "{}", answer.text);
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

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn guest(change: impl FnOnce(&mut Guest)) -> Vec<u8> {
    let mut guest = Guest::default();
    change(&mut guest);
    guest.wasm()
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
