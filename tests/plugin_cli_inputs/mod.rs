//! What authors give to `latchkey plugin …` that can't be right: files, cases, configurations, keys.

use serde_json::{Value, json};

use super::guests::{Guest, before};
use super::{Bench, repository, text};

fn shipped(name: &str) -> String {
    text(&repository(&format!("fixtures/plugins/{name}.wasm")))
}

/// Before it is read, and whatever it claims to be.
#[test]
fn a_file_that_is_too_large_is_not_read() {
    let bench = Bench::new();
    let sparse = std::fs::File::create(bench.path("sparse.wasm")).expect("a file");
    sparse.set_len(20 << 30).expect("a hole");
    for file in ["/dev/zero", "sparse.wasm"] {
        for command in [
            &["check", file][..],
            &["inspect", file],
            &["run", file],
            &["bench", file],
        ] {
            let (code, _, err) = bench.run(command);
            assert_eq!(code, 5, "{command:?}: {err}");
            assert!(err.contains("[too-large]"), "{command:?}: {err}");
        }
    }
    let (code, _, err) = bench.run(&[
        "verify",
        "sparse.wasm",
        "--public-key",
        "x",
        "--signature",
        "/dev/zero",
    ]);
    assert_eq!(code, 5, "{err}");
    bench.write("guest.wasm", Guest::default().wasm());
    for option in ["--question", "--config"] {
        let (code, _, err) = bench.run(&["run", "guest.wasm", option, "sparse.wasm"]);
        assert_eq!(code, 5, "{err}");
        assert!(err.contains("has more than 4 MiB"), "{err}");
    }
}

#[test]
fn a_configuration_that_no_appliance_would_save_is_refused_first() {
    let bench = Bench::new();
    let plugin = shipped("change-window");
    for command in ["run", "bench"] {
        let (code, _, err) = bench.run(&[command, &plugin]);
        assert_eq!(code, 5, "{command}: {err}");
        assert!(
            err.contains("no appliance would save this configuration"),
            "{err}"
        );
        let (code, _, err) = bench.run(&[command, &plugin, "--unchecked-config"]);
        assert_eq!(code, 1, "{command}: {err}");
        assert!(err.contains("the plugin failed: hook-error: "), "{err}");
    }
    bench.write(
        "cases/one.json",
        r#"{"description":"","hook":"before-reset","expect":{"failure":"hook-error"}}"#,
    );
    let (code, out, _) = bench.run(&["test", &plugin, "cases"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("no appliance would save this configuration"),
        "{out}"
    );
    bench.ok(&["test", &plugin, "cases", "--unchecked-config"]);

    bench.write("guest.wasm", Guest::default().wasm());
    let (code, _, err) = bench.run(&["run", "guest.wasm", "--config", r#"{"a":1,"b":{"c":1,"c":2}}"#]);
    assert_eq!(code, 5);
    assert!(err.contains(r#"the key "c" is there twice"#), "{err}");
    assert_eq!(bench.run(&["run", "guest.wasm", "--deadline", "0"]).0, 2);
}

#[test]
fn a_hook_that_answers_with_an_error_has_failed() {
    let bench = Bench::new();
    let config =
        r#"{"rules":[{"name":"first","when":"question.history.ofTarget[0].ticket == null","then":"allow"}]}"#;
    let plugin = shipped("cel-rules");
    for command in ["run", "bench"] {
        let (code, _, err) = bench.run(&[command, &plugin, "--config", config]);
        assert_eq!(code, 1, "{command}: {err}");
        assert!(
            err.contains("hook-error: rule first: Index out of bounds"),
            "{err}"
        );
    }
    let allowed = bench.json(&[
        "bench",
        &plugin,
        "--config",
        r#"{"rules":[{"name":"a","when":"true","then":"allow"}]}"#,
        "--calls",
        "5",
        "--json",
    ]);
    assert_eq!(allowed["answer"], json!({ "allow": [] }));
    bench.write(
        "case.json",
        format!(r#"{{"description":"","hook":"before-reset","config":{config},"expect":{{"failure":"hook-error"}}}}"#),
    );
    bench.ok(&["test", &plugin, "case.json"]);
    // A trap that logs nothing is told by the engine's words.
    bench.write("trap.wasm", before("(unreachable)"));
    bench.write(
        "allowed.json",
        r#"{"description":"","hook":"before-reset","expect":{"allow":[]}}"#,
    );
    let (code, out, _) = bench.run(&["test", "trap.wasm", "allowed.json"]);
    assert_eq!(code, 1);
    assert!(out.contains("detail: "), "{out}");
}

#[test]
fn a_malformed_case_says_where_and_the_others_are_run() {
    let bench = Bench::new();
    bench.write("guest.wasm", Guest::default().wasm());
    let case = |more: &str| format!(r#"{{"description":"","hook":"before-reset",{more}}}"#);
    bench.write(
        "cases/good.json",
        format!("\u{feff}{}", case(r#""expect":{"allow":[]}"#)),
    );
    for (content, reason) in [
        (
            case(r#""question":{"history":{"actorResetsLastDay":"3"}},"expect":{"allow":[]}"#).into_bytes(),
            r#"/question/history/actorResetsLastDay: invalid type: string "3""#,
        ),
        (
            case(r#""expect":{"failure":"foo"}"#).into_bytes(),
            "failure must be one of trap, deadline, ",
        ),
        (
            br#"["","before-reset",{},{},null,{"allow":[]}]"#.to_vec(),
            "an object, not an array",
        ),
        (
            case(r#""config":{"a":1,"a":2},"expect":{"allow":[]}"#).into_bytes(),
            r#"the key "a" is there twice"#,
        ),
        (b"\xff\xfe{\0}\0".to_vec(), "UTF-16"),
        (b"{\"description\":\"caf\xe9\"}".to_vec(), "is not UTF-8"),
    ] {
        bench.write("cases/bad.json", &content);
        let (code, out, err) = bench.run(&["test", "guest.wasm", "cases", "--json", "--junit", "report.xml"]);
        assert_eq!(code, 5, "{err}");
        assert!(err.contains(reason), "{err}");
        let report: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(
            (&report["failed"], &report["malformed"]),
            (&json!(0), &json!(1)),
            "{report}"
        );
        let entry = report["cases"][0]["error"].as_str().expect("an error");
        assert!(entry.contains(reason), "{entry}");
        assert_eq!(report["cases"][1]["report"]["passed"], true);
        let junit = std::fs::read_to_string(bench.path("report.xml")).expect("a report");
        assert!(junit.contains(r#"tests="2" failures="0" errors="1""#), "{junit}");
        assert!(junit.contains("<error message="), "{junit}");

        let (code, _, err) = bench.run(&["pack", "guest.wasm", "cases", "-o", "packed.wasm"]);
        assert_eq!(code, 5, "{err}");
        assert!(err.contains(reason), "{err}");
    }
    bench.write("question.json", r#"{"target":{"role":"boss"}}"#);
    let (code, _, err) = bench.run(&["run", "guest.wasm", "--question", "question.json"]);
    assert_eq!(code, 5, "{err}");
    assert!(
        err.contains("question.json: /question/target/role: unknown variant"),
        "{err}"
    );
}

#[test]
fn a_script_that_asks_for_json_gets_it_of_a_refused_file_too() {
    let bench = Bench::new();
    bench.write("text.wasm", "no plugin");
    for command in ["check", "inspect"] {
        let (code, out, _) = bench.run(&[command, "text.wasm", "--json"]);
        assert_eq!(code, 5);
        let said: Value = serde_json::from_str(&out).expect("JSON");
        // As every command prints its error.
        assert_eq!(
            (said.get("ok"), &said["code"]),
            (None, &json!("not-wasm")),
            "{said}"
        );
        assert!(
            said["error"]
                .as_str()
                .is_some_and(|text| text.contains("not WebAssembly")),
            "{said}"
        );
    }
    bench.write("guest.wasm", Guest::default().wasm());
    assert_eq!(bench.json(&["check", "guest.wasm", "--json"])["ok"], true);
    bench.write(
        "cases/one.json",
        r#"{"description":"","hook":"before-reset","expect":{"allow":[]}}"#,
    );
    let packed = bench.json(&["pack", "guest.wasm", "cases", "-o", "packed.wasm", "--json"]);
    assert_eq!(packed["goldenCases"], 1);
    let key = bench.json(&["keygen", "k", "--no-password", "--json"]);
    let signed = bench.json(&["sign", "packed.wasm", "--key", "k.key", "--no-password", "--json"]);
    assert_eq!(signed["signatureFile"], "packed.wasm.minisig");
    let public = key["publicKey"].as_str().expect("a key");
    let verified = bench.json(&["verify", "packed.wasm", "--public-key", public, "--json"]);
    assert_eq!(verified["comment"], signed["comment"]);
}

#[test]
fn a_key_that_does_not_fit_says_what_to_do() {
    let bench = Bench::new();
    bench.write("guest.wasm", Guest::default().wasm());
    bench.write("password", "secret\n");
    bench.ok(&["keygen", "open", "--no-password"]);
    bench.ok(&["keygen", "locked", "--password-file", "password"]);
    bench.ok(&[
        "sign",
        "guest.wasm",
        "--key",
        "locked.key",
        "--password-file",
        "password",
    ]);
    for (args, said) in [
        (
            &[
                "sign",
                "guest.wasm",
                "--key",
                "open.key",
                "--password-file",
                "password",
            ][..],
            "give --no-password",
        ),
        (
            &["sign", "guest.wasm", "--key", "locked.key", "--no-password"],
            "leave out --no-password",
        ),
        (
            &["sign", "guest.wasm", "--key", "open.pub", "--no-password"],
            "open.pub: this is a public key",
        ),
        (
            &["sign", "guest.wasm", "--key", "password", "--no-password"],
            "not a minisign secret key",
        ),
        (
            &["verify", "guest.wasm", "--public-key", "nosuch.pub"],
            "nosuch.pub: there is no such file",
        ),
        (
            &["verify", "guest.wasm", "--public-key", "open.pub"],
            "[signature-unknown-key]",
        ),
        (
            &[
                "verify",
                "guest.wasm",
                "--public-key",
                "open.pub",
                "--signature",
                "no",
            ],
            "[signature-missing]",
        ),
        (
            &[
                "verify",
                "guest.wasm",
                "--public-key",
                "open.pub",
                "--signature",
                "password",
            ],
            "[signature-malformed]",
        ),
    ] {
        let (code, _, err) = bench.run(args);
        assert_eq!(code, 5, "{args:?}: {err}");
        assert!(err.contains(said), "{args:?}: {err}");
    }
    // `minisign -l` signs the file, and not its hash.
    let signature = std::fs::read_to_string(bench.path("guest.wasm.minisig")).expect("a signature");
    bench.write("old.minisig", signature.replacen("\nRU", "\nRW", 1));
    assert!(signature.contains("\nRU"), "hashed: {signature}");
    let (_, _, err) = bench.run(&[
        "verify",
        "guest.wasm",
        "--public-key",
        "locked.pub",
        "--signature",
        "old.minisig",
    ]);
    assert!(err.contains("sign again without -l"), "{err}");
}

/// A CI runner has none.
#[test]
fn without_a_terminal_a_password_has_to_come_from_elsewhere() {
    let bench = Bench::new();
    let said = std::process::Command::new("setsid")
        .args([
            "--wait",
            env!("CARGO_BIN_EXE_latchkey"),
            "plugin",
            "keygen",
            "author",
        ])
        .current_dir(bench.path("."))
        .output()
        .expect("it runs");
    let err = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(5), "{err}");
    assert!(
        err.contains("give --password-file FILE or --no-password"),
        "{err}"
    );
}
