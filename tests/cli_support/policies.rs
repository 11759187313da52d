//! What an operator does about policies while a server runs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use latchkey::domain::printable::moves_cursor;
use serde_json::{Value, json};

use super::cli_support::{Desk, RESET_DONE, Server, fixture};
use super::guests::denier_saying;

const DEMO: [&str; 2] = ["--data-dir", "latchkey-demo"];

fn plugin(desk: &Desk, args: &[&str]) -> Output {
    desk.run(&[&DEMO[..], &["plugin"], args].concat())
}

#[track_caller]
fn ok(desk: &Desk, args: &[&str]) -> String {
    desk.ok(&[&DEMO[..], &["plugin"], args].concat())
}

/// A demo with a policy that denies every reset of every organisation, its binding, and a curl to paste.
fn denying_demo(desk: &Desk) -> (Server, String, String) {
    let demo = desk.demo();
    demo.exchange("GET", "/health/live", None, "");
    demo.stop();
    ok(desk, &["install", &fixture("ticket-required")]);
    let config = r#"{"prefixes":["HD-"]}"#;
    let bind = [
        "bind",
        "ticket-required",
        "--every-org",
        "--mode",
        "monitor",
        "--config",
        config,
        "--json",
    ];
    let bound = ok(desk, &bind);
    let bound: Value = serde_json::from_str(&bound).unwrap();
    let binding = bound["binding"].as_str().unwrap().to_owned();
    ok(desk, &["mode", &binding, "enforce"]);
    let demo = desk.demo();
    let curl = demo.line("curl -sS -X POST");
    (demo, binding, curl)
}

fn binding(desk: &Desk, id: &str) -> Value {
    let lists: Value = serde_json::from_str(&ok(desk, &["list", "--json"])).unwrap();
    let bindings = lists["bindings"].as_array().unwrap();
    bindings
        .iter()
        .find(|binding| binding["id"] == id)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn a_policy_is_switched_off_while_the_server_runs_and_holds_from_the_next_reset_on() {
    let desk = Desk::new();
    let (demo, id, curl) = denying_demo(&desk);
    let denied: Value = serde_json::from_str(&demo.paste(&curl)).unwrap();
    assert_eq!(denied["denial"]["plugin"], "ticket-required", "{denied}");
    assert_eq!(binding(&desk, &id)["denials"], 1, "the server's own counters");

    let metrics = ok(&desk, &["metrics"]);
    let counted = metrics.lines().find(|line| {
        line.starts_with("latchkey_policy_denials_total{") && line.contains("plugin=\"ticket-required\"")
    });
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{metrics}");

    assert_eq!(
        ok(&desk, &["disable", &id]),
        format!("Binding {id} switched off\n")
    );
    assert_eq!(demo.paste(&curl), RESET_DONE);
    assert_eq!(binding(&desk, &id)["disabled"], true);
    assert!(ok(&desk, &["list"]).contains("off"));
    ok(&desk, &["enable", &id]);
    let unjudged = plugin(&desk, &["mode", &id, "canary:10"]);
    assert_eq!(unjudged.status.code(), Some(5), "nobody would judge the others");
    assert_eq!(binding(&desk, &id)["mode"], "enforce");
    ok(&desk, &["mode", &id, "monitor"]);
    let tried = plugin(&desk, &["mode", &id, "canary:10"]);
    let [said, warned] = [tried.stdout, tried.stderr].map(|said| String::from_utf8(said).unwrap());
    assert_eq!(said, format!("Binding {id}: canary:10\n"));
    assert!(
        warned.starts_with("warning: There is no version before"),
        "{warned}"
    );
    assert_eq!(binding(&desk, &id)["mode"], json!({ "canary": 10 }));
    ok(&desk, &["mode", &id, "monitor"]);
    assert_eq!(binding(&desk, &id)["mode"], "monitor");
    ok(&desk, &["disable", "--plugin", "ticket-required"]);
    assert_eq!(binding(&desk, &id)["pluginDisabled"], true);

    let none = plugin(&desk, &["rollback", &id]);
    assert_eq!(none.status.code(), Some(5));
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("no version before this one"), "{said}");
    assert_eq!(plugin(&desk, &["mode", &id, "sometimes"]).status.code(), Some(2));
    ok(&desk, &["unbind", &id]);
    assert_eq!(binding(&desk, &id), Value::default());

    let socket = desk.path("latchkey-demo/latchkey.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner alone");
    demo.stop();
    assert!(!socket.exists());

    // All of it is on the record, as the operator's.
    let trail = desk.ok(&["--data-dir", "latchkey-demo", "audit", "export"]);
    let entries = trail
        .lines()
        .filter(|line| line.contains("POLICY_PLUGIN_UPDATE"))
        .count();
    assert!(entries >= 6, "{entries}");
    let denial = trail.lines().find(|line| line.contains("DENIED")).unwrap();
    assert!(
        denial.contains("ticket-required") && denial.contains("A reset needs a ticket"),
        "{denial}"
    );
}

/// A limit that was accepted once and is not applied any more holds up no emergency, and is told of.
#[test]
fn a_binding_whose_fuel_is_no_longer_counted_is_switched_off_and_told_of() {
    let desk = Desk::with_acme();
    let count_fuel = |on: bool| {
        fs::write(
            desk.path("latchkey.toml"),
            format!("[plugins]\ncount_fuel = {on}\n"),
        )
        .unwrap();
    };
    count_fuel(true);
    let run = |args: &[&str]| desk.ok(&[&["plugin"], args].concat());
    run(&["install", &fixture("force-reenrollment")]);
    let config = r#"{"hours":8}"#;
    let bind = ["bind", "force-reenrollment", "--org", "acme", "--config", config];
    let bound = desk.json(&[&["plugin"], &bind[..], &["--limit", "fuel=500000000", "--json"]].concat());
    let id = bound["binding"].as_str().unwrap();
    let listed = || desk.json(&["plugin", "list", "--json"])["bindings"][0].clone();
    let doctor = || String::from_utf8(desk.run(&["doctor"]).stdout).unwrap();
    assert_eq!(listed()["warning"], Value::Null);
    assert!(!doctor().contains("plugins.count_fuel"));

    count_fuel(false);
    let warning = listed()["warning"].to_string();
    assert!(warning.contains("plugins.count_fuel"), "{warning}");
    let text = run(&["list"]);
    assert!(text.contains(&format!("warning: binding {id}: ")), "{text}");
    assert!(doctor().contains(id), "{}", doctor());
    let log = desk.server().stop();
    assert_eq!(log.matches("limits nothing").count(), 1, "{log}");
    run(&["disable", id]);
    assert_eq!(listed()["disabled"], true);
    run(&["enable", id]);
    run(&["mode", id, "monitor"]);
    run(&["change", id, "--position", "5"]);
    let more = desk.run(&["plugin", "change", id, "--limit", "fuel=7"]);
    assert_ne!(more.status.code(), Some(0));
    run(&["change", id, "--limit", "fuel=0"]);
    assert_eq!(listed()["warning"], Value::Null);
}

/// Nothing has to be stopped for a policy to come in: what the server installs and binds holds from the next
/// reset on, and what is refused leaves nothing behind.
#[test]
fn a_plugin_is_installed_and_bound_while_the_server_runs() {
    let desk = Desk::new();
    let demo = desk.demo();
    let curl = demo.line("curl -sS -X POST");
    demo.exchange("GET", "/health/live", None, "");
    let refused = |args: &[&str], why: &str| {
        let refused = plugin(&desk, args);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(5), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
    };
    let before = ok(&desk, &["list"]);
    refused(
        &["install", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
        "[not-wasm]",
    );
    refused(
        &["install", &fixture("second-admin"), "--org", "nobody"],
        "nobody",
    );
    refused(&["bind", "second-admin", "--every-org"], "second-admin");
    assert_eq!(ok(&desk, &["list"]), before);

    let installed = plugin(&desk, &["install", &fixture("ticket-required")]);
    let said = String::from_utf8(installed.stdout).unwrap();
    assert!(
        said.starts_with("ticket-required 1.0.0 installed, SHA-256 "),
        "{said}"
    );
    let steps = "installing: compiling\ninstalling: asking what it is\ninstalling: storing\n";
    assert_eq!(String::from_utf8(installed.stderr).unwrap(), steps);
    refused(
        &[
            "bind",
            "ticket-required",
            "--org",
            "juniper",
            "--config",
            r#"{"prefix":["HD-"]}"#,
        ],
        "prefix",
    );
    refused(
        &[
            "bind",
            "ticket-required",
            "--org",
            "nobody",
            "--config",
            r#"{"prefixes":["HD-"]}"#,
        ],
        "nobody",
    );
    let terms = r#"{"prefixes":["HD-"]}"#;
    let bound = ok(
        &desk,
        &["bind", "ticket-required", "--org", "juniper", "--config", terms],
    );
    assert!(
        bound.starts_with("ticket-required 1.0.0 bound to juniper, binding "),
        "{bound}"
    );
    let denied: Value = serde_json::from_str(&demo.paste(&curl)).unwrap();
    assert_eq!(denied["denial"]["plugin"], "ticket-required", "{denied}");
    demo.stop();
    let trail = desk.ok(&["--data-dir", "latchkey-demo", "audit", "export"]);
    let entry = trail
        .lines()
        .find(|line| line.contains("POLICY_PLUGIN_INSTALL") && line.contains("ticket-required"));
    assert!(entry.is_some_and(|entry| entry.contains("OPERATOR")), "{entry:?}");
    let stopped = plugin(&desk, &["install", &fixture("second-admin"), "--json"]);
    assert_eq!(
        String::from_utf8(stopped.stderr).unwrap(),
        steps,
        "the same while none runs"
    );
}

#[test]
fn a_collector_reads_metrics_at_their_own_address_and_only_there() {
    let desk = Desk::new();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    fs::write(
        desk.path("latchkey.toml"),
        format!("[metrics]\nlisten = \"{address}\"\n"),
    )
    .unwrap();
    let demo = desk.demo();
    assert_eq!(demo.paste(&demo.line("curl -sS -X POST")), RESET_DONE);
    let (head, _) = demo.exchange("GET", "/metrics", None, "");
    assert!(
        head.starts_with("HTTP/1.1 404"),
        "not where users are served: {head}"
    );

    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    println!("{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for line in [
        "latchkey_resets_total{outcome=\"done\"} 1",
        "latchkey_http_requests_total{status=\"200\"} 1",
        "latchkey_http_requests_total{status=\"404\"} 1",
        "latchkey_store_failing 0",
    ] {
        assert!(answer.lines().any(|found| found == line), "{line} in {answer}");
    }
    assert!(
        answer.contains("latchkey_policy_calls_total{plugin=\"reset-budget\",version=\"1.0.0\",digest=\"")
    );
    let taken = desk.run(&["serve", "--data-dir", "other", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8(taken.stderr).unwrap();
    assert!(
        !taken.status.success() && said.contains(&format!("metrics.listen: could not listen on {address}")),
        "{said}"
    );
    demo.stop();
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "it ends with the server"
    );
}

#[test]
fn a_socket_of_a_dead_server_is_in_nobodys_way() {
    let desk = Desk::new();
    let demo = desk.demo();
    demo.exchange("GET", "/health/live", None, "");
    demo.signal("KILL");
    demo.wait();
    assert!(desk.path("latchkey-demo/latchkey.sock").exists());
    ok(&desk, &["list"]);
    let again = desk.demo();
    again.exchange("GET", "/health/live", None, "");
    ok(&desk, &["list"]);
    again.stop();
}

#[test]
fn a_replay_says_which_decisions_would_have_been_others_and_fails_the_build() {
    let desk = Desk::new();
    let (demo, id, curl) = denying_demo(&desk);
    demo.paste(&curl);
    ok(&desk, &["disable", &id]);
    assert_eq!(demo.paste(&curl), RESET_DONE);
    let bind = ["bind", "ticket-required", "--org", "harbourside", "--json"];
    let config = ["--config", r#"{"prefixes":["HD-"]}"#];
    let unasked: Value = serde_json::from_str(&ok(&desk, &[&bind[..], &config].concat())).unwrap();
    let unasked = unasked["binding"].as_str().unwrap().to_owned();
    let same = fixture("ticket-required");
    let closed = r#"{"timeZone":"UTC","days":["mon"],"from":"03:00","to":"03:01"}"#;
    let other = fixture("change-window");
    let check = |running: &str| {
        let report = ok(&desk, &["replay", &same, "--since", "1h", "--json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["clean"], true, "{running}: {report}");
        assert_eq!(
            (&report["compared"], &report["same"]),
            (&json!(1), &json!(1)),
            "{running}"
        );
        let shown = plugin(&desk, &["replay", &same, "--since", "1h", "--binding", &id]);
        assert_eq!(shown.status.code(), Some(0), "{running}: {shown:?}");
        assert_eq!(
            String::from_utf8(shown.stderr).unwrap(),
            "replaying: compiling\nreplaying: 1 of 2\n",
            "{running}"
        );
        // What was never asked has decided nothing: a check that compares nothing does not pass.
        for json in [&[][..], &["--json"]] {
            let nothing = ["replay", &same, "--binding", &unasked];
            let nothing = plugin(&desk, &[&nothing[..], json].concat());
            assert_eq!(nothing.status.code(), Some(1), "{running}: {nothing:?}");
            let said = String::from_utf8(nothing.stderr).unwrap();
            assert!(
                said.contains("latchkey: nothing was compared: no reset since "),
                "{running}: {said}"
            );
        }
        // The candidate is not installed: it is compared with what happened without it.
        let differs = plugin(&desk, &["replay", &other, "--org", "juniper", "--config", closed]);
        assert_eq!(differs.status.code(), Some(1), "{running}: {differs:?}");
        let said = String::from_utf8(differs.stdout).unwrap();
        assert!(said.contains("recorded  nobody was asked"), "{running}: {said}");
        assert!(
            said.contains("replayed  deny [outside-change-window]"),
            "{running}: {said}"
        );
        let summary = String::from_utf8(differs.stderr).unwrap();
        assert!(summary.contains("would have differed"), "{running}: {summary}");
        for bad in [
            &["replay", &same, "--since", "yesterday"][..],
            &["replay", &same, "--org", "nobody"],
            &["replay", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
        ] {
            let refused = plugin(&desk, bad);
            assert_eq!(refused.status.code(), Some(5), "{running} {bad:?}: {refused:?}");
        }
    };
    check("while a server runs");
    demo.stop();
    check("while none does");
}

#[test]
fn an_operator_sets_the_rules_that_admins_only_make_stricter() {
    let desk = Desk::with_acme();
    let rules = || desk.json(&["org", "list", "--json"])[0]["settings"].clone();
    desk.ok(&[
        "org",
        "set",
        "acme",
        "--policy-changes",
        "operator-only",
        "--clean-replay-required",
        "true",
        "--admin-on-admin",
        "refused",
    ]);
    assert_eq!(rules()["policyChanges"], "operator-only");
    assert_eq!(rules()["cleanReplayRequired"], true);
    assert_eq!(rules()["adminOnAdmin"], "refused");
    let set = desk.json(&[
        "org",
        "set",
        "acme",
        "--policy-changes",
        "allowed",
        "--clean-replay-required",
        "false",
        "--json",
    ]);
    assert_eq!(set, rules(), "every setting is printed");
    assert_eq!(rules()["policyChanges"], "allowed");
    assert_eq!(rules()["cleanReplayRequired"], false);
    assert_eq!(rules()["adminOnAdmin"], "refused", "what is not named stays");
    assert_eq!(
        desk.run(&["org", "set", "none", "--policy-changes", "allowed"])
            .status
            .code(),
        Some(5)
    );
    assert_eq!(
        desk.run(&["org", "set", "acme"]).status.code(),
        Some(2),
        "nothing to set"
    );
    let trail = desk.ok(&["audit", "export"]);
    let changes = trail
        .lines()
        .filter(|line| line.contains("ORGANIZATION_SETTINGS_UPDATE"))
        .count();
    assert_eq!(changes, 2);
}

/// Whoever writes a plugin decides nothing about the operator's terminal.
#[test]
fn what_a_plugin_says_does_not_reach_the_terminal_as_it_is() {
    const HOSTILE: &str = "\u{1b}[31m\u{9b}2J\u{202e}";
    let desk = Desk::new();
    let demo = desk.demo();
    let curl = demo.line("curl -sS -X POST");
    demo.exchange("GET", "/health/live", None, "");
    let file = desk.path("hostile.wasm");
    let guest = denier_saying("1.0.0", "no", &format!("before{HOSTILE}after"));
    fs::write(&file, guest.wasm()).unwrap();
    let file = file.to_str().unwrap();
    ok(&desk, &["install", file]);
    ok(&desk, &["bind", "guest", "--every-org", "--mode", "monitor"]);
    assert_eq!(demo.paste(&curl), RESET_DONE);
    let listed = ok(&desk, &["list"]);
    let row = ["guest", "1.0.0", "-", "monitor", "2", "1", "0"].join(" "); // calls, denials, failures
    let words = listed.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&row), "{listed}");

    let trail = desk.ok(&["--data-dir", "latchkey-demo", "audit", "export"]);
    let entry = trail
        .lines()
        .rfind(|line| line.contains("USER_MFA_RESET"))
        .unwrap();
    let entry: Value = serde_json::from_str(entry).unwrap();
    let entry = entry["leaf"]["id"].as_str().unwrap().to_owned();
    let check = |running: &str| {
        for args in [
            &["replay", file, "--config", "{}"][..],
            &["replay", file, "--json"],
            &["decisions", &entry],
            &["decisions", &entry, "--json"],
        ] {
            let said = String::from_utf8(plugin(&desk, args).stdout).unwrap();
            assert!(!said.is_empty(), "{running} {args:?}");
            let hostile = said.chars().find(|&c| c != '\n' && moves_cursor(c));
            assert_eq!(hostile, None, "{running} {args:?}: {said:?}");
            if args[0] == "decisions" {
                assert!(
                    said.contains("before") && said.contains("after"),
                    "{running}: {said}"
                );
                assert!(said.contains("guest"), "{running}: {said}");
            }
        }
        let found: Value = serde_json::from_str(&ok(&desk, &["decisions", &entry, "--json"])).unwrap();
        let message = &found["calls"][0]["end"]["answer"]["deny"]["message"];
        assert_eq!(
            message,
            &format!("before{HOSTILE}after"),
            "{running}: JSON means the same"
        );
        let none = plugin(&desk, &["decisions", "019c7063-9f40-7cc3-98c4-dc0c0c07398f"]);
        assert_eq!(none.status.code(), Some(5), "{running}: {none:?}");
    };
    check("while a server runs");
    demo.stop();
    check("while none does");
}

/// A candidate that nobody asked yet: a replay is the first thing that it says.
#[test]
fn what_a_candidate_says_does_not_reach_the_terminal_as_it_is() {
    let desk = Desk::new();
    let demo = desk.demo();
    let curl = demo.line("curl -sS -X POST");
    assert_eq!(demo.paste(&curl), RESET_DONE);
    let file = desk.path("hostile.wasm");
    let guest = denier_saying("1.0.0", "no", "before\u{1b}]52;c;Zm9v\u{7}\u{9b}2J\u{202e}after");
    fs::write(&file, guest.wasm()).unwrap();
    let replayed = plugin(&desk, &["replay", file.to_str().unwrap()]);
    assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");
    let said = String::from_utf8(replayed.stdout).unwrap();
    assert!(
        said.contains("replayed  deny [no] before ]52;c;Zm9v  2J after"),
        "{said:?}"
    );
    demo.stop();
}
