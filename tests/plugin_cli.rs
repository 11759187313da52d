//! `latchkey plugin …`, the real binary, as authors and their CI meet it.

#[expect(dead_code, reason = "the file is shared with other tests")]
mod guests;
mod plugin_cli_inputs;

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
fn check_says_what_is_in_a_file_and_run_what_a_call_took() {
    let bench = Bench::new();
    let plugin = repository("fixtures/plugins/force-reenrollment.wasm");
    let plugin = plugin.to_str().expect("a path");
    let facts = bench.json(&["check", plugin, "--json"]);
    assert_eq!(
        facts["imports"],
        json!(["latchkey:policy/log@1.0.0", "latchkey:policy/types@1.0.0"])
    );
    assert_eq!(facts["exports"], json!(["latchkey:policy/hooks@1.0.0"]));
    assert_eq!(facts["contract"], "1.0.0");
    assert_eq!(facts["kind"], "component");
    let size = std::fs::metadata(plugin).expect("the fixture").len();
    assert_eq!(facts["bytes"], size);
    assert_eq!(
        facts["manifest"]["wants"],
        json!(["require-enrolment", "require-enrolment-code", "notify"])
    );
    let inspected = bench.json(&["inspect", plugin, "--json"]);
    assert_eq!(inspected["sha256"], facts["sha256"]);
    assert_eq!(inspected["manifest"], Value::Null, "nothing of it is run");

    let ran = bench.json(&[
        "run",
        plugin,
        "--hook",
        "after-reset",
        "--config",
        r#"{"hours":24}"#,
        "--json",
    ]);
    let usage = &ran["usage"];
    let number = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name}: {usage}"));
    assert!((1..5_000_000).contains(&number("elapsedMicros")), "{usage}");
    // Whole pages, and at least one.
    assert!(number("peakMemoryBytes") >= 65_536, "{usage}");
    assert_eq!(number("peakMemoryBytes") % 65_536, 0, "{usage}");
    assert!(number("fuel") > 0, "{usage}");
}

/// Whoever looks at a file does not trust it yet.
#[test]
fn no_escape_sequence_of_a_file_reaches_the_terminal() {
    let bench = Bench::new();
    let clean = |args: &[&str], part: &str| {
        let (_, out, err) = bench.run(args);
        let said = [out, err].concat();
        assert!(said.contains(part), "{args:?}: {said:?}");
        let dirty = said.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(dirty, None, "{args:?}: {said:?}");
        assert!(!said.contains("\nhooks"), "{args:?}: a line of its own: {said:?}");
    };
    let component = |text: String| wat::parse_str(text).expect("a component");
    // One field, one value: "C", of a version that clears the screen.
    bench.write(
        "made.wasm",
        component(
            r#"(component (instance $h) (export "latchkey:policy/hooks@1.0.0" (instance $h))
                 (core module (@custom "producers" "\01\08language\01\01C\0a\1b[2J\0ahooks")))"#
                .to_owned(),
        ),
    );
    clean(&["inspect", "made.wasm"], "made with C  [2J hooks");
    for (file, text) in [
        (
            "core.wasm",
            r#"(module (import "evil/\1b[2J\0ahooks" "f" (func)))"#,
        ),
        (
            "wasi.wasm",
            r#"(module (import "wasi\1b[2J\0ahooks" "f" (func)))"#,
        ),
        (
            "version.wasm",
            r#"(module (func (export "latchkey:policy/hooks@9\1b[2J\0ahooks#describe")))"#,
        ),
    ] {
        bench.write(file, component(text.to_owned()));
        for command in ["inspect", "check"] {
            clean(&[command, file], " [2J hooks");
        }
    }

    let guest = Guest::default().wasm();
    let case =
        r#"{"description":"\u001b[2J\nhooks","hook":"check-config","expect":{"error":"\u009b2J\nhooks"}}"#;
    bench.write("cases/one.json", case);
    bench.write("guest.wasm", &guest);
    clean(&["test", "guest.wasm", "cases"], " [2J hooks");
    let cases = [latchkey::plugin_host::Case::parse(case).expect("a case")];
    let packed = latchkey::plugin_host::embed_cases(&guest, &cases).expect("packed");
    bench.write("packed.wasm", packed);
    clean(
        &["check", "packed.wasm"],
        "a golden case inside fails:  [2J hooks",
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
    assert!(err.contains("cases/bad.json fails, so it is not packed"), "{err}");
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

/// Both directions with the public tool, where it is installed (Debian: `minisign`).
#[test]
fn minisign_reads_our_signatures_and_keys_and_we_read_its() {
    let minisign = |bench: &Bench, args: &[&str]| {
        let mut command = Command::new("minisign");
        command.args(args).current_dir(bench.0.path());
        command.output()
    };
    let bench = Bench::new();
    if minisign(&bench, &["-v"]).is_err() {
        println!("skipped: no minisign in PATH (Debian: apt-get install minisign)");
        return;
    }
    let run = |args: &[&str]| {
        let output = minisign(&bench, args).expect("it runs");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    bench.write("guest.wasm", Guest::default().wasm());

    // Ours, read by minisign.
    bench.ok(&["keygen", "ours", "--no-password"]);
    bench.ok(&["sign", "guest.wasm", "--key", "ours.key", "--no-password"]);
    let (good, said) = run(&["-Vm", "guest.wasm", "-p", "ours.pub"]);
    assert!(
        good && said.contains("Trusted comment: latchkey plugin guest 1.0.0 sha256:"),
        "{said}"
    );
    let (good, said) = run(&[
        "-S",
        "-s",
        "ours.key",
        "-m",
        "guest.wasm",
        "-x",
        "by-tool.minisig",
        "-t",
        "by the tool",
    ]);
    assert!(good, "minisign signs with a key that we made: {said}");
    bench.ok(&[
        "verify",
        "guest.wasm",
        "--signature",
        "by-tool.minisig",
        "--public-key",
        "ours.pub",
    ]);

    // Its, read by us.
    let (good, said) = run(&["-G", "-W", "-p", "its.pub", "-s", "its.key"]);
    assert!(good, "{said}");
    let (good, said) = run(&["-S", "-s", "its.key", "-m", "guest.wasm", "-t", "release 7"]);
    assert!(good, "{said}");
    let said = bench.ok(&["verify", "guest.wasm", "--public-key", "its.pub"]);
    assert!(said.contains("release 7"), "{said}");
    bench.ok(&["sign", "guest.wasm", "--key", "its.key", "--no-password"]);
    let (good, said) = run(&["-Vm", "guest.wasm", "-p", "its.pub"]);
    assert!(good, "we sign with a key that minisign made: {said}");

    // And both notice a changed file.
    bench.write("guest.wasm", before("(unreachable)"));
    assert!(!run(&["-Vm", "guest.wasm", "-p", "its.pub"]).0);
    assert_eq!(
        bench.run(&["verify", "guest.wasm", "--public-key", "its.pub"]).0,
        5
    );
}

#[test]
fn a_denial_says_which_facts_decided_and_from_when_on_it_would_be_allowed() {
    let bench = Bench::new();
    let plugin = text(&repository("fixtures/plugins/change-window.wasm"));
    let config =
        r#"{"timeZone":"Europe/Berlin","days":["mon","tue","wed","thu","fri"],"from":"08:00","to":"18:00"}"#;
    bench.write("late.json", r#"{"request":{"at":"2026-02-20T19:30:00Z"}}"#); // a Friday
    let args = ["run", &plugin, "--config", config, "--question", "late.json"];
    let said = bench.ok(&args);
    for line in [
        "deny       outside-change-window: ",
        "from       2026-02-23T07:00:00Z",
        "because    local-time = ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // As text, as @FILE and as a file: the same wherever a configuration is given.
    bench.write("config.json", config);
    for given in ["@config.json", "config.json"] {
        let args = ["run", &plugin, "--config", given, "--question", "late.json"];
        assert!(
            bench.ok(&args).contains("deny       outside-change-window: "),
            "{given}"
        );
    }
    for (given, why) in [
        ("@none.json", "none.json can't be read"),
        ("none.json", "not JSON"),
    ] {
        let (code, _, said) = bench.run(&["run", &plugin, "--config", given]);
        assert!(code != 0 && said.contains(why), "{given}: {code} {said}");
    }
    let said = bench.json(&[&args[..], &["--json"]].concat());
    assert_eq!(said["answer"]["deny"]["allowedFrom"], "2026-02-23T07:00:00Z");
    assert!(
        said["answer"]["deny"]["because"]
            .as_array()
            .is_some_and(|facts| !facts.is_empty())
    );

    // In a golden case, a wrong time and a wrong fact are differences.
    let case = |from: &str| {
        json!({ "description": "late on a Friday", "hook": "before-reset",
                "config": serde_json::from_str::<Value>(config).expect("JSON"),
                "question": { "request": { "at": "2026-02-20T19:30:00Z" } },
                "expect": { "deny": { "code": "outside-change-window", "message": said["answer"]["deny"]["message"],
                                      "allowedFrom": from, "because": said["answer"]["deny"]["because"] } } })
    };
    bench.write("cases/good.json", case("2026-02-23T07:00:00Z").to_string());
    bench.ok(&["test", &plugin, "cases"]);
    bench.write("cases/bad.json", case("2026-02-22T07:00:00Z").to_string());
    let (code, out, _) = bench.run(&["test", &plugin, "cases", "--junit", "report.xml"]);
    assert_eq!(code, 1);
    assert!(
        out.contains("deny.allowedFrom: expected \"2026-02-22T07:00:00Z\", got \"2026-02-23T07:00:00Z\""),
        "{out}"
    );
    let junit = std::fs::read_to_string(bench.path("report.xml")).expect("a report");
    assert!(
        junit.contains("<failure message=\"deny.allowedFrom: expected"),
        "{junit}"
    );
}

#[test]
fn new_writes_a_project_in_each_language_and_overwrites_nothing() {
    let bench = Bench::new();
    for lang in ["rust", "javascript", "python", "c"] {
        let name = format!("daily-limit-{lang}");
        bench.ok(&["new", "--lang", lang, &name]);
        let read = |file: &str| {
            let path = bench.path(&name).join(file);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let contract =
            std::fs::read_to_string(repository("plugins/wit/v1/policy.wit")).expect("the contract");
        assert_eq!(read("wit/policy.wit"), contract);
        assert!(read("README.md").starts_with(&format!("# {name}\n")), "{lang}");
        assert!(read(".gitignore").contains("*.wasm"), "{lang}");
        // The project's cases are cases, though there is nothing built to ask yet.
        for case in ["allowed", "denied", "config-zero"] {
            latchkey::plugin_host::Case::parse(&read(&format!("cases/{case}.json"))).expect("a golden case");
        }
        assert!(
            !placeholders(&bench.path(&name)),
            "{lang}: a placeholder was left"
        );

        let (code, _, err) = bench.run(&["new", "--lang", lang, &name]);
        assert_eq!(code, 5);
        assert!(err.contains("File exists"), "{err}");
    }
    assert!(bench.path("daily-limit-rust/sdk/wit/policy.wit").is_file());
    assert!(bench.path("daily-limit-rust/sdk/base-question.json").is_file());
    assert!(bench.path("daily-limit-c/sdk/policy.c").is_file());

    for name in ["Daily Limit", "../up", ""] {
        let (code, _, err) = bench.run(&["new", "--lang", "c", name]);
        assert_eq!(code, 5, "{err}");
        assert!(err.contains("is not a valid name"), "{err}");
    }
}

/// Whether any file in the folder still has a placeholder.
fn placeholders(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            placeholders(&path)
        } else {
            std::fs::read_to_string(&path).expect("text").contains("{{")
        }
    })
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
