//! The terms of a binding and its versions, with the server stopped and running.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::cli_support::{Desk, RESET_DONE, Server, fixture};
use super::guests::{before, denying};

fn binding(desk: &Desk, id: &str) -> Value {
    let bindings = desk.json(&["plugin", "list", "--json"])["bindings"].clone();
    let mut bindings = bindings.as_array().unwrap().iter();
    bindings
        .find(|binding| binding["id"] == id)
        .cloned()
        .unwrap_or_default()
}

/// A server that takes the operator's orders.
fn serve(desk: &Desk, command: &str) -> Server {
    let server = desk.serve(&[command, "--data-dir", "latchkey-data", "--listen", "127.0.0.1:0"]);
    server.exchange("GET", "/health/live", None, "");
    server
}

fn bind<'a>(config: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let bind = ["bind", "force-reenrollment", "--org", "acme", "--config", config];
    [&bind[..], more].concat()
}

fn updates(trail: &str) -> Vec<Value> {
    let entries = trail.lines().map(|line| serde_json::from_str(line).unwrap());
    entries
        .filter(|entry: &Value| entry.to_string().contains("POLICY_PLUGIN_UPDATE"))
        .collect()
}

#[test]
fn terms_are_said_at_binding_and_changed_after_it() {
    let desk = Desk::with_acme();
    desk.ok(&["plugin", "install", &fixture("force-reenrollment")]);
    let config = r#"{"hours":24,"requireCode":true}"#;
    let check = |running: &str| {
        let terms = [
            "--json",
            "--hook",
            "after-reset",
            "--grant",
            "require-enrolment",
            "--on-failure",
            "skip",
            "--on-failure",
            "trap=deny",
            "--limit",
            "deadline-ms=20",
            "--limit",
            "memory-bytes=8388608",
            "--position",
            "7",
        ];
        let bound = desk.json(&[&["plugin"], &bind(config, &terms)[..]].concat());
        let id = bound["binding"].as_str().unwrap();
        let now = binding(&desk, id);
        assert_eq!(now["hooks"], json!(["after-reset"]), "{running}");
        assert_eq!(now["grants"], json!(["require-enrolment"]), "{running}");
        assert_eq!(
            now["onFailure"],
            json!({ "otherwise": "skip", "trap": "deny" }),
            "{running}"
        );
        assert_eq!(now["position"], 7, "{running}");
        let limits = json!({
            "deadlineMs": 20, "memoryBytes": 8 << 20, "tableElements": 100_000, "fuel": 0,
            "answerBytes": 256 << 10, "logLines": 50, "logBytes": 8 << 10,
        });
        assert_eq!(now["limits"], limits, "{running}");

        let change = |more: &[&str]| desk.json(&[&["plugin", "change", id, "--json"], more].concat());
        let changed = change(&[
            "--limit",
            "log-lines=5",
            "--on-failure",
            "deadline=last-good-version",
        ]);
        let mut expected = now.clone();
        expected["limits"]["logLines"] = json!(5);
        expected["onFailure"]["deadline"] = json!("last-good-version");
        assert_eq!(changed, expected, "{running}: what is not named stays");
        assert_eq!(binding(&desk, id), expected, "{running}");
        let changed = change(&[
            "--on-failure",
            "deny",
            "--no-grants",
            "--position",
            "-1",
            "--monitor",
        ]);
        expected["onFailure"] = json!({ "otherwise": "deny" });
        expected["grants"] = json!([]);
        expected["position"] = json!(-1);
        expected["mode"] = json!("monitor");
        assert_eq!(changed, expected, "{running}");
        let grants = ["--grant", "notify", "--grant", "require-enrolment"];
        let other = r#"{"hours":8,"requireCode":false}"#;
        let changed = change(&[&grants[..], &["--mode", "enforce", "--config", other]].concat());
        expected["grants"] = json!(["notify", "require-enrolment"]);
        expected["mode"] = json!("enforce");
        expected["config"] = json!({ "hours": 8, "requireCode": false });
        let digest = hex::encode(Sha256::digest(other));
        expected["configDigest"] = json!(digest);
        expected["previous"] = json!("1.0.0"); // with the configuration before
        expected["previousDigest"] = now["digest"].clone();
        expected["previousConfigDigest"] = now["configDigest"].clone();
        assert_eq!(changed, expected, "{running}");
        let said = desk.ok(&["plugin", "change", id, "--deadline-ms", "30"]);
        assert!(
            said.starts_with(&format!(
                "Binding {id} asks force-reenrollment 1.0.0, configuration {}\n",
                &digest[..12]
            )) && said.contains("deadlineMs 30")
                && said.contains("notify, require-enrolment"),
            "{running}: {said}"
        );
        expected["limits"]["deadlineMs"] = json!(30);

        refusals(&desk, running, config, id);
        assert_eq!(binding(&desk, id), expected, "{running}: refused is not done");
        let said = desk.plugin_told(2, &["change", id]);
        assert!(
            said.contains("--on-failure"),
            "{running}: nothing to change: {said}"
        );
        desk.plugin_told(2, &["change", id, "--on-failure", "busy=skip"]);
        desk.plugin_told(2, &["change", id, "--limit", "speed=9"]);
        desk.ok(&["plugin", "change", id, "--deadline-ms", "30"]); // as it is: leaves no entry
    };
    check("while none runs");
    let server = serve(&desk, "serve");
    check("while a server runs");
    server.stop();
    on_the_record(&desk);
}

fn refusals(desk: &Desk, running: &str, config: &str, id: &str) {
    // As the API does: what is out of bounds is refused, not put right in silence.
    for (args, field, why) in [
        (
            bind(config, &["--deadline-ms", "2"]),
            "limits.deadlineMs",
            "2 is out of bounds; the nearest allowed is 5",
        ),
        (
            bind(config, &["--grant", "open-sesame"]),
            "grants",
            "\"open-sesame\" is not an effect",
        ),
        (
            bind(config, &["--hook", "before-reset"]),
            "hooks",
            "does not implement",
        ),
        (
            vec!["change", id, "--limit", "memory-bytes=1"],
            "limits.memoryBytes",
            "the nearest allowed is 1048576",
        ),
        (
            vec!["change", id, "--hook", "before-reset"],
            "hooks",
            "does not implement",
        ),
        (
            vec!["change", id, "--config", r#"{"hours":"many"}"#],
            "config.hours",
            "",
        ),
        (vec!["change", id, "--config", "null"], "is null", "{}"),
        (
            vec!["change", "00000000-0000-0000-0000-000000000000", "--monitor"],
            "Policy binding not found",
            "",
        ),
    ] {
        let said = desk.plugin_told(5, &args);
        assert!(said.contains(field) && said.contains(why), "{running}: {said}");
    }
}

/// Four changes each time, as the operator's; what changed nothing left no entry.
fn on_the_record(desk: &Desk) {
    let entries = updates(&desk.ok(&["audit", "export"]));
    assert_eq!(entries.len(), 2 * 4);
    for entries in entries.chunks(4) {
        let text = entries[0].to_string();
        assert!(text.contains("OPERATOR"), "{text}");
        let changes: Vec<_> = entries
            .iter()
            .map(|entry| {
                let changes = find(entry, "changes").unwrap().as_object().unwrap();
                changes.keys().cloned().collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(
            changes,
            [
                "limits onFailure",
                "grants mode onFailure order",
                "configDigest grants mode",
                "limits"
            ]
        );
    }
}

/// The field of that name, wherever in the entry it is.
fn find<'a>(entry: &'a Value, name: &str) -> Option<&'a Value> {
    match entry {
        Value::Object(fields) => fields
            .get(name)
            .or_else(|| fields.values().find_map(|value| find(value, name))),
        _ => None,
    }
}

/// Two versions of one policy: whose word counts shows in the code of its denial.
#[test]
fn a_version_is_switched_and_rolled_back() {
    let desk = Desk::new();
    serve(&desk, "demo").stop();
    let install = |version, code| {
        fs::write(desk.path("guest.wasm"), denying(version, code)).unwrap();
        desk.ok(&["plugin", "install", "guest.wasm"]);
    };
    install("1.0.0", "one");
    let bound = desk.json(&["plugin", "bind", "guest", "--every-org", "--json"]);
    let id = bound["binding"].as_str().unwrap();
    let versions = || {
        let now = binding(&desk, id);
        let of = |field: &str| now[field].as_str().unwrap_or("none").to_owned();
        [of("version"), of("previous"), now["config"].to_string()]
    };
    let code = |server: &Server| {
        let answer = server.paste(&server.line("curl -sS -X POST"));
        let denied: Value = serde_json::from_str(&answer).unwrap();
        denied["denial"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    };
    let says = |verb: &str, version: &str| {
        let now = binding(&desk, id);
        let short = |field: &str| now[field].as_str().unwrap()[..12].to_owned();
        format!(
            "Binding {id} {verb} guest {version}, configuration {}\nPrevious: {} (file {}, configuration {}); \
             to return to it: latchkey plugin rollback {id}\n",
            short("configDigest"),
            now["previous"].as_str().unwrap(),
            short("previousDigest"),
            short("previousConfigDigest")
        )
    };

    let said = desk.plugin_told(5, &["rollback", id]);
    assert!(said.contains("no version before this one"), "{said}");
    install("2.0.0", "two");
    assert_eq!(versions(), ["1.0.0", "none", "{}"], "installed is not switched");
    let switched = desk.ok(&["plugin", "switch", id, "guest", "--config", r#"{"n":2}"#]);
    assert_eq!(switched, says("now asks", "2.0.0"));
    assert_eq!(versions(), ["2.0.0", "1.0.0", r#"{"n":2}"#]);
    assert_eq!(desk.ok(&["plugin", "rollback", id]), says("asks again", "1.0.0"));
    assert_eq!(versions(), ["1.0.0", "2.0.0", "{}"], "with its configuration");

    let server = serve(&desk, "demo");
    assert_eq!(code(&server), "one");
    assert_eq!(desk.ok(&["plugin", "rollback", id]), says("asks again", "2.0.0"));
    assert_eq!(
        versions(),
        ["2.0.0", "1.0.0", r#"{"n":2}"#],
        "once more undoes that"
    );
    assert_eq!(code(&server), "two");
    install("3.0.0", "three");
    assert_eq!(
        desk.ok(&["plugin", "switch", id, "guest"]),
        says("now asks", "3.0.0")
    );
    assert_eq!(versions(), ["3.0.0", "2.0.0", r#"{"n":2}"#]);
    assert_eq!(code(&server), "three");
    let back = desk.json(&["plugin", "rollback", id, "--json"]);
    assert_eq!(
        (&back["version"], &back["previous"]),
        (&json!("2.0.0"), &json!("3.0.0"))
    );
    assert_eq!(code(&server), "two");
    for (verb, off) in [("disable", true), ("enable", false)] {
        let now = desk.json(&["plugin", verb, id, "--json"]);
        assert_eq!((&now["id"], &now["disabled"]), (&json!(id), &json!(off)));
    }
    server.stop();
    assert_eq!(versions(), ["2.0.0", "3.0.0", r#"{"n":2}"#], "it is kept");
}

/// Which policy failed, in which version and by which file, must be found in the log without any tool.
#[test]
fn a_failing_policy_is_named_in_the_log_and_can_be_passed_over_by_cause() {
    let desk = Desk::new();
    let server = serve(&desk, "demo");
    let curl = server.line("curl -sS -X POST");
    fs::write(desk.path("guest.wasm"), before("unreachable")).unwrap();
    let installed = desk.json(&["plugin", "install", "guest.wasm", "--json"]);
    let digest = installed["digest"].as_str().unwrap();
    let bind = ["plugin", "bind", "guest", "--every-org", "--json"];
    let bound = desk.json(&bind);
    let id = bound["binding"].as_str().unwrap();
    assert_eq!(
        server.message(&server.paste(&curl)),
        "A policy could not be evaluated"
    );
    let change = |rule: &str| desk.ok(&["plugin", "change", id, "--on-failure", rule]);
    change("deadline=skip");
    assert_eq!(
        server.message(&server.paste(&curl)),
        "A policy could not be evaluated",
        "it is not the cause"
    );
    change("trap=skip");
    assert_eq!(server.paste(&curl), RESET_DONE, "from the next reset on");
    let log = server.stop();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("a policy plugin failed"))
        .collect();
    assert_eq!(lines.len(), 3, "{log}");
    for line in lines {
        for said in [
            "plugin=guest",
            "version=1.0.0",
            &format!("digest={digest}"),
            &format!("binding={id}"),
            "cause=\"trap\"",
        ] {
            assert!(line.contains(said), "{said} in {line}");
        }
    }
}
