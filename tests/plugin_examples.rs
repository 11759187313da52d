//! The plugins that ship against their golden cases, and the guests in `fixtures/guests` against what
//! they say of themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use latchkey::domain::policy::{Answer, Grants, Hook, Mode, Question};
use latchkey::plugin_host::{
    BoundPlugin, CallEnd, Case, Digest, HostOptions, Limits, OnFailure, PluginHost, PluginVersion,
    base_question,
};
use uuid::Uuid;

/// The budget of a call is 50 ms and the tick 1 ms; the rest is for a busy test machine, on which a runaway waits for
/// everybody else.
const PATIENCE: Duration = Duration::from_millis(500);

/// Compiled plugins are shared by the test programs and their runs.
fn host() -> PluginHost {
    let options = HostOptions {
        cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-cache")),
        ..HostOptions::default()
    };
    PluginHost::new(options).expect("a host")
}

/// Files of a folder with this extension, in order.
fn files(folder: impl AsRef<Path>, extension: &str) -> Vec<PathBuf> {
    let folder = folder.as_ref();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn stem(path: &Path) -> &str {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .expect("a plain file name")
}

/// The golden cases of the plugin that this file is a build of: `reset-budget-js` shares those of
/// `reset-budget`.
fn cases_of(plugin: &str) -> Vec<PathBuf> {
    let name = ["-js", "-py", "-c"]
        .iter()
        .find_map(|language| plugin.strip_suffix(language))
        .unwrap_or(plugin);
    files(format!("plugins/examples/{name}/cases"), "json")
}

/// `LATCHKEY_PLUGINS=DIR cargo test --test plugin_examples` takes other builds of the same plugins.
#[tokio::test]
async fn every_plugin_that_ships_passes_its_golden_cases() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a choice of whoever runs the test, no configuration"
    )]
    let chosen = std::env::var("LATCHKEY_PLUGINS");
    let folder = chosen.unwrap_or_else(|_| "fixtures/plugins".to_owned());
    let plugins = files(&folder, "wasm");
    assert!(!plugins.is_empty(), "{folder} has no plugin");
    let host = host();
    let base = base_question();
    // The deadline of tests elsewhere is that of a quiet machine.
    let limits = Limits {
        deadline_ms: 1_000,
        ..Limits::default()
    };
    let mut failures = Vec::new();
    for plugin in &plugins {
        let wasm = fs::read(plugin).expect("the file can be read");
        let prepared = host.prepare(&wasm).expect("the plugin is accepted");
        host.keep_artefact(&prepared);
        let manifest = host.describe(&prepared).await.expect("a good manifest");
        let name = stem(plugin);
        assert!(
            name.starts_with(&manifest.name),
            "{name} calls itself {}",
            manifest.name
        );

        let cases = cases_of(name);
        assert!(cases.len() >= 5, "{name} has {} golden cases", cases.len());
        for file in &cases {
            let text = fs::read_to_string(file).expect("the file can be read");
            let written = Case::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let case = written
                .resolved(&base)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let run = async || {
                host.run_case(&prepared, limits, &case)
                    .await
                    .expect("it is resolved")
            };
            let report = run().await;
            if !report.passed {
                failures.push(format!(
                    "{name}: {}: {}",
                    file.display(),
                    report.differences.join("; ")
                ));
            }
            assert_eq!(
                run().await.answer,
                report.answer,
                "{name} is not pure: {}",
                file.display()
            );

            // The schema must let pass what the plugin takes, and a mistake must not pass both.
            let config = written.config.to_string();
            let checked = host.check_config(&prepared, &manifest, &config).await;
            let mistaken = stem(file).starts_with("config-") && written.expect.get("error").is_some();
            assert_eq!(
                checked.is_err(),
                mistaken,
                "{name}: {}: {checked:?}",
                file.display()
            );
        }
        println!("{name}: {} golden cases", cases.len());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn bound(prepared: Arc<latchkey::plugin_host::Prepared>) -> BoundPlugin {
    BoundPlugin {
        binding_id: Uuid::from_u128(1),
        name: "guest".into(),
        current: PluginVersion {
            version: "1.0.0".into(),
            prepared,
            config: "{}".into(),
            config_digest: Digest::of(b"{}"),
            hooks: vec![Hook::BeforeReset],
            history_days: 90,
            grants: Grants::all(),
        },
        mode: Mode::Enforce,
        on_failure: OnFailure::default(),
        limits: Limits::default(),
        before: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_guest_does_what_it_says_and_no_more() {
    let host = host();
    let question: Question = serde_json::from_value(base_question()).expect("a whole question");
    let question = Arc::new(question);
    let guests = files("fixtures/guests", "wat");
    assert!(guests.len() >= 15, "only {} guests", guests.len());
    let mut table = String::new();
    for file in guests {
        let name = stem(&file);
        let text = fs::read_to_string(&file).expect("the file can be read");
        let expected = text
            .lines()
            .find_map(|line| line.strip_prefix(";; expect: "))
            .unwrap_or_else(|| panic!("{name} says nothing of what to expect"));
        let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let prepared = match host.prepare(&wasm) {
            Ok(prepared) => prepared,
            Err(refusal) => {
                assert_eq!(
                    format!("refused {}", refusal.code()),
                    expected,
                    "{name}: {refusal}"
                );
                table += &format!("{name:22} {expected:32} {refusal}\n");
                continue;
            }
        };
        let plugin = bound(prepared);
        let mut quickest = Duration::MAX;
        for call in 0..20 {
            if call >= 3 && quickest < PATIENCE {
                break;
            }
            let started = Instant::now();
            let evaluation = host.before(std::slice::from_ref(&plugin), &question).await;
            let took = started.elapsed();
            let came = match &evaluation.records[0].end {
                CallEnd::Answer(Answer::Allow(_)) => "allow".to_owned(),
                CallEnd::Answer(Answer::Deny(denial)) => format!("deny {}", denial.code),
                CallEnd::Answer(other) => format!("{other:?}"),
                CallEnd::Failure(failure) => format!("failure {}", failure.cause.as_str()),
            };
            assert_eq!(came, expected, "{name}: {:?}", evaluation.records[0].end);
            quickest = quickest.min(took);
            table += &format!("{name:22} {came:32} {:.1} ms\n", took.as_secs_f64() * 1e3);
        }
        assert!(quickest < PATIENCE, "{name} took {quickest:?}");
    }
    println!("{table}");
}

#[test]
fn a_plugin_that_is_too_large_is_refused_before_it_is_read() {
    let error = host().prepare(&vec![0; (32 << 20) + 1]).expect_err("refused");
    assert_eq!(error.code(), "too-large");
}
