//! `latchkey plugin …`, the real binary, as authors and their CI meet it.

#[expect(dead_code, reason = "the file is shared with other tests")]
mod guests;

use std::path::{Path, PathBuf};
use std::process::Command;

use guests::{Guest, before};
use serde_json::{Value, json};

/// A folder to work in, with a home of its own.
struct Bench(tempfile::TempDir);

/// Exit code, standard output, standard error.
type Said = (i32, String, String);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("written");
    }

    fn run(&self, args: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        command
            .arg("plugin")
            .args(args)
            .current_dir(self.0.path())
            .env("XDG_CACHE_HOME", self.path("cache"));
        let output = command.output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.code().expect("an exit code"),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON")
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn every_shipped_policy_passes_its_golden_cases() {
    let bench = Bench::new();
    let mut tested = 0;
    for entry in std::fs::read_dir(repository("fixtures/plugins")).expect("the shipped plugins") {
        let plugin = entry.expect("an entry").path();
        let name = plugin.file_stem().expect("a name").to_string_lossy().into_owned();
        let cases = repository("plugins/examples").join(&name).join("cases");
        if plugin.extension().is_none_or(|e| e != "wasm") || !cases.is_dir() {
            continue;
        }
        let report = bench.json(&["test", &text(&plugin), &text(&cases), "--json"]);
        assert_eq!(report["failed"], 0, "{name}: {report}");
        assert!(
            report["cases"].as_array().is_some_and(|cases| cases.len() > 3),
            "{name}"
        );
        bench.ok(&["check", &text(&plugin)]);
        tested += 1;
    }
    assert!(tested >= 3, "only {tested} plugins with cases");
}

#[test]
fn a_failing_case_says_where_and_fails_the_build() {
    let bench = Bench::new();
    bench.write("guest.wasm", Guest::default().wasm());
    bench.write(
        "cases/good.json",
        r#"{"description":"lets pass","hook":"before-reset","expect":{"allow":[]}}"#,
    );
    bench.write(
        "cases/deep/bad.json",
        r#"{"description":"should deny","hook":"before-reset","expect":{"deny":{"code":"x","message":"y"}}}"#,
    );
    let (code, out, err) = bench.run(&["test", "guest.wasm", "cases", "--junit", "report.xml"]);
    assert_eq!(code, 1);
    assert!(out.contains("ok    good: lets pass"), "{out}");
    assert!(out.contains("FAIL  bad: should deny"), "{out}");
    assert!(
        out.contains(r#"deny: expected {"code":"x","message":"y"}, got nothing"#),
        "{out}"
    );
    assert!(err.contains("1 of 2 cases failed"), "{err}");
    let junit = std::fs::read_to_string(bench.path("report.xml")).expect("a report");
    assert!(junit.contains(r#"tests="2" failures="1""#), "{junit}");

    bench.ok(&["test", "guest.wasm", "cases", "--only", "good"]);
    bench.write(
        "cases/odd.json",
        r#"{"description":"","hook":"before-reset","expect":{"effects":[]}}"#,
    );
    let (code, _, err) = bench.run(&["test", "guest.wasm", "cases"]);
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("odd.json: it is not a golden case"), "{err}");
}

#[test]
fn a_plugin_whose_schema_refuses_what_it_takes_itself_fails() {
    let bench = Bench::new();
    let mut guest = Guest::default();
    guest.manifest.schema = r#"{"type":"array"}"#;
    bench.write("guest.wasm", guest.wasm());
    bench.write(
        "cases/config.json",
        r#"{"description":"","hook":"check-config","config":{},"expect":{"ok":true}}"#,
    );
    let (code, out, _) = bench.run(&["test", "guest.wasm", "cases"]);
    assert_eq!(code, 1);
    assert!(out.contains("its own config-schema does not"), "{out}");
}

#[test]
fn what_an_appliance_would_refuse_is_refused_with_a_word_for_scripts() {
    let bench = Bench::new();
    let wasi = r#"(component (import "wasi:clocks/wall-clock@0.2.3" (instance)))"#;
    bench.write("wasi.wasm", wat::parse_str(wasi).expect("a component"));
    bench.write("text.wasm", "export const hooks = {}");
    let looping = Guest {
        describe: "(loop $l (br $l)) (unreachable)".into(),
        ..Guest::default()
    };
    bench.write("loop.wasm", looping.wasm());
    for (file, word) in [
        ("wasi.wasm", "imports-wasi"),
        ("text.wasm", "not-wasm"),
        ("loop.wasm", "describe-failed"),
    ] {
        let (code, out, err) = bench.run(&["check", file]);
        assert_eq!((code, out.as_str()), (5, ""), "{err}");
        assert!(
            err.starts_with(&format!("latchkey: {file}: ")) && err.contains(&format!("[{word}]")),
            "{err}"
        );
    }
    let (code, _, err) = bench.run(&["check", "missing.wasm"]);
    assert_eq!(code, 1);
    assert!(err.contains("cannot read the plugin missing.wasm"), "{err}");
}

#[test]
fn run_shows_answer_log_and_what_it_took_the_same_each_time() {
    let bench = Bench::new();
    bench.write(
        "guest.wasm",
        before("(call $log (i32.const 2) (i32.const 2048) (i32.const 5)) (i32.const 512)"),
    );
    let one = bench.json(&["run", "guest.wasm", "--json"]);
    assert_eq!(one["answer"], json!({"allow": []}));
    assert_eq!(one["log"], json!([{"level": "warn", "message": "guest"}]));
    let two = bench.json(&["run", "guest.wasm", "--json"]);
    assert!(one["usage"]["fuel"].as_u64().is_some_and(|fuel| fuel > 0));
    assert_eq!(one["usage"]["fuel"], two["usage"]["fuel"]);

    bench.write("outcome.json", r#"{"kind":"denied","removed":[]}"#);
    let after = bench.json(&["run", "guest.wasm", "--outcome", "outcome.json", "--json"]);
    assert_eq!(after["answer"], json!({"effects": []}));

    bench.write("question.json", r#"{"actor":{"role":"emperor"}}"#);
    let (code, _, err) = bench.run(&["run", "guest.wasm", "--question", "question.json"]);
    assert_ne!(code, 0);
    assert!(err.contains("unknown variant `emperor`"), "{err}");

    bench.write("trap.wasm", before("(unreachable)"));
    let (code, out, err) = bench.run(&["run", "trap.wasm"]);
    assert_eq!(code, 1);
    assert!(
        out.contains(r#""failure": "trap""#) && err.contains("the plugin failed: trap"),
        "{out}{err}"
    );
}

#[test]
fn packed_cases_travel_and_are_run_by_whoever_takes_the_plugin() {
    let bench = Bench::new();
    bench.write("guest.wasm", Guest::default().wasm());
    bench.write(
        "cases/good.json",
        r#"{"description":"lets pass","hook":"before-reset","expect":{"allow":[]}}"#,
    );
    bench.ok(&["pack", "guest.wasm", "cases", "-o", "packed.wasm"]);
    assert_eq!(
        bench.json(&["inspect", "packed.wasm", "--json"])["goldenCases"],
        1
    );
    bench.ok(&["check", "packed.wasm"]);

    bench.write(
        "cases/bad.json",
        r#"{"description":"d","hook":"before-reset","expect":{"error":"no"}}"#,
    );
    let (code, _, err) = bench.run(&["pack", "guest.wasm", "cases", "-o", "other.wasm"]);
    assert_eq!(code, 5, "{err}");
    assert!(!bench.path("other.wasm").exists());

    // Someone else's plugin with those cases inside does not pass.
    let packed = std::fs::read(bench.path("packed.wasm")).expect("packed");
    let cases = latchkey::plugin_host::embedded_cases(&packed).expect("cases");
    let trap = latchkey::plugin_host::embed_cases(&before("(unreachable)"), &cases).expect("embedded");
    bench.write("trap.wasm", trap);
    let (code, _, err) = bench.run(&["check", "trap.wasm"]);
    assert_eq!(code, 5);
    assert!(err.contains("a golden case inside fails: lets pass"), "{err}");
}

#[test]
fn a_signature_covers_the_file_and_names_the_plugin() {
    let bench = Bench::new();
    bench.write("guest.wasm", Guest::default().wasm());
    bench.ok(&["keygen", "acme", "--no-password"]);
    let (code, _, err) = bench.run(&["keygen", "acme", "--no-password"]);
    assert_ne!(code, 0, "an existing key is never overwritten");
    assert!(err.contains("cannot write acme.key"), "{err}");

    let said = bench.ok(&["sign", "guest.wasm", "--key", "acme.key", "--no-password"]);
    assert!(said.contains("latchkey plugin guest 1.0.0 sha256:"), "{said}");
    bench.ok(&["verify", "guest.wasm", "--public-key", "acme.pub"]);

    bench.ok(&["keygen", "other", "--no-password"]);
    let (code, _, err) = bench.run(&["verify", "guest.wasm", "--public-key", "other.pub"]);
    assert_eq!(code, 5);
    assert!(err.contains("which is not trusted here"), "{err}");

    bench.write("guest.wasm", before("(unreachable)"));
    let (code, _, err) = bench.run(&["verify", "guest.wasm", "--public-key", "acme.pub"]);
    assert_eq!(code, 5);
    assert!(err.contains("the file or the signature was changed"), "{err}");
    std::fs::remove_file(bench.path("guest.wasm.minisig")).expect("removed");
    let (code, _, err) = bench.run(&["verify", "guest.wasm", "--public-key", "acme.pub"]);
    assert_eq!(code, 5);
    assert!(err.contains("no signature at guest.wasm.minisig"), "{err}");
}

#[test]
fn bench_measures_and_reports() {
    let bench = Bench::new();
    bench.write("guest.wasm", Guest::default().wasm());
    let figures = bench.json(&["bench", "guest.wasm", "--calls", "50", "--json"]);
    assert_eq!(figures["calls"], 50);
    assert!(figures["p50Micros"].as_u64() <= figures["p99Micros"].as_u64());
    assert_eq!(figures["peakMemoryBytes"], 4 << 16);
    assert!(figures["fuel"].as_u64().is_some_and(|fuel| fuel > 0));
}
