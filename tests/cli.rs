//! The real binary, as operators and scripts meet it.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail, and reads the clock"
)]

mod cli_deliveries;
mod cli_operating;
mod cli_people;
mod cli_support;
#[path = "cli_support/doctor.rs"]
mod doctor;
mod guests;
#[path = "cli_support/naming.rs"]
mod naming;
#[path = "cli_support/orders.rs"]
mod orders;
#[path = "cli_support/policies.rs"]
mod policies;
#[path = "cli_support/signed.rs"]
mod signed;
#[path = "cli_support/terms.rs"]
mod terms;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use cli_support::{Desk, RESET_DONE, Server, fixture};
use serde_json::Value;

#[test]
fn the_demo_prints_a_curl_that_resets_and_a_second_run_keeps_the_data() {
    let desk = Desk::new();
    let demo = desk.demo();
    let curl = demo.line("curl -sS -X POST");
    assert!(
        curl.contains("/api/v1/users/770e8400-e29b-41d4-a716-446655440004/reset-mfa"),
        "{curl}"
    );
    assert_eq!(demo.paste(&curl), RESET_DONE);
    assert_eq!(
        demo.message(&demo.paste(&curl)),
        "MFA is not enabled for this user"
    );
    assert!(desk.path("latchkey-demo/latchkey.db").exists());
    demo.stop();

    let again = desk.demo();
    let next = again.line("curl -sS -X POST");
    assert!(next.contains("446655440005"), "the next user with MFA: {next}");
    let first = curl.replace(&demo_url(&curl), &demo_url(&next));
    assert_eq!(
        again.message(&again.paste(&first)),
        "MFA is not enabled for this user",
        "the reset was kept"
    );
    assert_eq!(again.paste(&next), RESET_DONE);
    again.stop();
    let organizations = desk.json(&["--data-dir", "latchkey-demo", "org", "list", "--json"]);
    let users: Vec<_> = organizations
        .as_array()
        .unwrap()
        .iter()
        .map(|o| (&o["slug"], &o["users"]))
        .collect();
    assert_eq!(
        format!("{users:?}"),
        r#"[(String("harbourside"), Number(5)), (String("juniper"), Number(7))]"#
    );
}

/// `http://127.0.0.1:PORT` in a printed command.
fn demo_url(curl: &str) -> String {
    let from = curl.find("http://").unwrap();
    curl[from..].split("/api").next().unwrap().to_owned()
}

#[test]
fn a_malformed_sample_is_refused_and_nothing_is_loaded() {
    let desk = Desk::new();
    let sample = include_str!("../fixtures/sample.toml");
    let cases = [
        (
            "no TOML",
            "[[organization".to_owned(),
            "is not a sample of organisations",
        ),
        (
            "unknown field",
            sample.replacen("slug =", "slugg =", 1),
            "unknown field `slugg`",
        ),
        (
            "no organisation",
            "organization = []".to_owned(),
            "organization: there is none",
        ),
        (
            "user twice",
            sample.replacen("446655440005", "446655440004", 1),
            "user[2].id: appears twice",
        ),
        (
            "setting",
            sample.replacen("timeZone", "timezone", 1),
            "settings: timezone is unknown",
        ),
        (
            "zone",
            sample.replacen("Europe/London", "Europe/Atlantis", 1),
            "organization[0].",
        ),
        (
            "secret",
            sample.replacen("NFDMQGXON", "18", 1),
            "user[0].totp-secret: must be 32 characters",
        ),
        (
            "password",
            sample.replacen("sample-amara-0003", "short", 1),
            "user[0].password: must have at least",
        ),
        (
            "e-mail",
            sample.replacen("@juniper.example", "", 1),
            "user[0].email: must be an e-mail address",
        ),
        (
            "plugin",
            sample.replacen("\"reset-budget\"", "\"no-such\"", 1),
            "no-such can't be read",
        ),
        (
            "configuration",
            sample.replacen("maxPerDay = 25", "maxPerDay = 0", 1),
            "reset-budget",
        ),
    ];
    for (name, text, problem) in cases {
        fs::write(desk.path("sample.toml"), text).unwrap();
        let refused = desk.run(&["demo", "--sample", "sample.toml", "--listen", "127.0.0.1:0"]);
        assert_eq!(refused.status.code(), Some(5), "{name}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(problem), "{name}: {said}");
        if desk.path("latchkey-demo").exists() {
            let there = desk.json(&["--data-dir", "latchkey-demo", "org", "list", "--json"]);
            assert_eq!(there, serde_json::json!([]), "{name}: nothing is loaded");
        }
    }
}

#[test]
fn the_demo_stays_off_other_peoples_data_and_off_the_network() {
    let desk = Desk::new();
    desk.ok(&["--data-dir", "mine", "org", "create", "acme"]);
    desk.told(5, &["--data-dir", "mine", "demo", "--listen", "127.0.0.1:0"]);
    desk.told(5, &["demo", "--listen", "0.0.0.0:0"]);
    assert!(!desk.path("latchkey-demo").exists());
}

#[test]
fn a_first_admin_is_made_from_the_command_line_and_is_on_the_record() {
    let desk = Desk::new();
    desk.ok(&[
        "org",
        "create",
        "acme",
        "--name",
        "Acme Works",
        "--time-zone",
        "Europe/Berlin",
    ]);
    let admin = desk.json(&[
        "user",
        "create",
        "--org",
        "acme",
        "--email",
        "ada@acme.example",
        "--admin",
        "--json",
    ]);
    assert_eq!(admin["role"], "org-admin");
    let generated = admin["password"].as_str().unwrap().to_owned();
    assert!(generated.len() >= 24, "{generated}");
    fs::write(desk.path("secret"), "a-long-enough-password\n").unwrap();
    let bo = [
        "user",
        "create",
        "--org",
        "acme",
        "--email",
        "bo@acme.example",
        "--password-file",
        "secret",
        "--json",
    ];
    let bo = desk.json(&bo);
    assert_eq!(
        (&bo["role"], &bo["password"]),
        (&Value::from("member"), &Value::Null)
    );
    let minted = desk.json(&[
        "token",
        "mint",
        "--org",
        "acme",
        "--email",
        "ada@acme.example",
        "--json",
    ]);

    let serving = desk.server();
    let users = serving.get("/api/v1/users", minted["accessToken"].as_str().unwrap());
    assert!(
        users.contains("ada@acme.example") && users.contains("bo@acme.example"),
        "{users}"
    );
    let login = |email: &str, password: &str| {
        let body = serde_json::json!({ "organizationSlug": "acme", "email": email, "password": password });
        serving.post("/api/v1/auth/login", &body)
    };
    assert!(login("ada@acme.example", &generated).contains("accessToken"));
    assert!(login("bo@acme.example", "a-long-enough-password").contains("accessToken"));
    assert!(login("bo@acme.example", &generated).contains("Invalid credentials"));
    serving.stop();
}

#[test]
fn an_operator_installs_binds_and_switches_off_a_policy() {
    let desk = Desk::with_acme();
    let installed = desk.json(&["plugin", "install", &fixture("change-window"), "--json"]);
    assert_eq!(installed["name"], "change-window");
    let bind = |config: &str| {
        desk.run(&[
            "plugin",
            "bind",
            "change-window",
            "--org",
            "acme",
            "--config",
            config,
            "--json",
        ])
    };
    let refused = bind(r#"{"timeZone":"Europe/Atlantis","days":["mon"],"from":"08:00","to":"18:00"}"#);
    assert_eq!(refused.status.code(), Some(5), "the plugin refuses the time zone");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("\n  config: ") && said.contains("/timeZone: no IANA time zone is called"),
        "{said}"
    );
    let refused = bind(r#"{"timeZone":"Europe/Berlin","days":["mon"],"from":8,"to":"18:00"}"#);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("\n  config.from: "), "{said}");
    assert_eq!(bind("no JSON").status.code(), Some(5));
    let bound = bind(r#"{"timeZone":"Europe/Berlin","days":["mon"],"from":"08:00","to":"18:00"}"#);
    let bound: Value = serde_json::from_slice(&bound.stdout).unwrap();
    let id = bound["binding"].as_str().unwrap();

    let only_binding = || desk.json(&["plugin", "list", "--json"])["bindings"][0].clone();
    assert_eq!(only_binding()["organization"], "acme");
    assert_eq!(only_binding()["disabled"], false);
    desk.ok(&["plugin", "disable", id]);
    assert_eq!(only_binding()["disabled"], true);
    desk.ok(&["plugin", "enable", id]);
    assert_eq!(only_binding()["disabled"], false);
    assert!(desk.ok(&["plugin", "list"]).contains("change-window"));
    desk.ok(&["plugin", "unbind", id]);
    assert_eq!(only_binding(), Value::Null);
    desk.plugin_told(5, &["unbind", id]);
    fs::write(desk.path("nonsense.wasm"), b"\0asm nonsense").unwrap();
    desk.plugin_told(5, &["install", "nonsense.wasm"]);
    desk.plugin_told(5, &["bind", "none", "--org", "acme"]);
}

#[test]
fn what_an_operator_gets_wrong_is_refused_with_its_own_exit_code() {
    let desk = Desk::with_acme();
    let code = |args: &[&str]| desk.run(args).status.code();
    assert_eq!(code(&["org", "create", "acme"]), Some(5), "the slug is taken");
    assert_eq!(code(&["org", "create", "No Slug!"]), Some(5));
    assert_eq!(
        code(&["user", "create", "--org", "none", "--email", "a@b.example"]),
        Some(5)
    );
    let said = desk.told(5, &["user", "create", "--org", "acme", "--email", "nonsense"]);
    assert!(said.contains("\n  email: "), "which field, and why: {said}");
    let said = desk.told(2, &["plugin", "disable", "change-window"]);
    assert!(
        said.contains("a UUID that `latchkey plugin list` shows"),
        "{said}"
    );
    assert_eq!(code(&["user", "list", "--org", "none"]), Some(5));
    assert_eq!(
        code(&["token", "mint", "--org", "acme", "--email", "nobody@acme.example"]),
        Some(5)
    );
    assert_eq!(
        code(&[
            "token",
            "mint",
            "--org",
            "acme",
            "--email",
            "x@y.example",
            "--hours",
            "0"
        ]),
        Some(5)
    );
    assert_eq!(
        code(&[
            "user",
            "create",
            "--org",
            "acme",
            "--email",
            "a@b.example",
            "--prompt"
        ]),
        Some(5)
    );
    assert_eq!(code(&["no-such-command"]), Some(2));
    fs::write(desk.path("secret"), "short\n").unwrap();
    let weak = [
        "user",
        "create",
        "--org",
        "acme",
        "--email",
        "a@b.example",
        "--password-file",
        "secret",
    ];
    assert_eq!(
        code(&weak),
        Some(5),
        "the password breaks the organisation's rules"
    );
    assert_eq!(
        desk.json(&["user", "list", "--org", "acme", "--json"]),
        serde_json::json!([])
    );
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let desk = Desk::new();
    let serving = desk.server();
    for args in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["org", "create", "acme"],
        &["org", "list"],
    ] {
        let said = desk.told(4, args);
        assert!(said.contains("is in use by another latchkey process"), "{said}");
    }
    serving.stop();
    desk.ok(&["org", "create", "acme"]);
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let desk = Desk::with_acme();
    let path = desk.path("latchkey-data/latchkey.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.pragma_update(None, "user_version", 999).unwrap();
    drop(database);
    let said = desk.told(4, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        said.contains("schema version 999") && said.contains("newer latchkey"),
        "{said}"
    );
    let database = rusqlite::Connection::open(&path).unwrap();
    let version: i64 = database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 999);
}

#[test]
fn a_mistyped_data_directory_is_not_made() {
    let desk = Desk::new();
    for args in [
        &["org", "list"][..],
        &["user", "list", "--org", "acme"],
        &["doctor"],
        &["doctor", "--json"],
        &["audit", "key"],
        &["audit", "accept-rollback", "--json"],
        &["audit", "accept-rollback", "--yes"],
    ] {
        desk.told(4, args);
        assert!(!desk.path("latchkey-data").exists(), "{args:?}");
        // Like a mount point while nothing is mounted there.
        fs::create_dir(desk.path("latchkey-data")).unwrap();
        let said = desk.told(4, args);
        assert!(said.contains("is the volume mounted?"), "{args:?}: {said}");
        // Fails if something was created in it.
        fs::remove_dir(desk.path("latchkey-data")).unwrap();
    }
}

#[test]
fn a_script_that_asks_for_json_gets_every_commands_error_as_json() {
    let desk = Desk::with_acme();
    for args in [
        &["org", "create", "acme"][..],
        &["org", "set", "nobody", "--policy-changes", "allowed"],
        &["user", "list", "--org", "nobody"],
        &["user", "unlock", "nobody@acme.example", "--org", "acme"],
        &["token", "mint", "--org", "acme", "--email", "nobody@acme.example"],
        &["plugin", "bind", "nobody", "--org", "acme"],
        &["plugin", "check", "nowhere.wasm"],
        &["restore", "nowhere"],
        &["audit", "check-receipt", "nowhere", "--key", "nowhere"],
        &["--data-dir", "nowhere", "audit", "key"],
        &["--data-dir", "nowhere", "backup", "made"],
        &["--data-dir", "nowhere", "deliveries", "list"],
        &["--data-dir", "nowhere", "keys", "list"],
        &["--config-file", "nowhere.toml", "config", "check"],
    ] {
        let refused = desk.run(&[args, &["--json"]].concat());
        assert!(!refused.status.success(), "{args:?}");
        let said: Value = serde_json::from_slice(&refused.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", String::from_utf8_lossy(&refused.stdout)));
        let error = said["error"]
            .as_str()
            .unwrap_or_else(|| panic!("{args:?}: {said}"));
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(
            stderr.contains(&format!("latchkey: {error}")),
            "{args:?}: {said}: {stderr}"
        );
        assert!(
            desk.run(args).stdout.is_empty(),
            "{args:?}: only where JSON is asked for"
        );
    }
    let broken = desk.run(&["--data-dir", "nowhere", "doctor", "--json"]);
    let findings: Value = serde_json::from_slice(&broken.stdout).unwrap();
    assert!(
        findings.is_array(),
        "the result alone, where there is one: {findings}"
    );
}

#[test]
fn the_doctor_finds_what_is_doubtful_and_what_is_broken() {
    let desk = Desk::with_acme();
    let grades = |said: Value| -> Vec<String> {
        let all = said.as_array().unwrap().iter();
        all.filter(|f| f["grade"] != "ok")
            .map(|f| format!("{} {}", f["grade"], f["what"]))
            .collect()
    };
    let found = grades(desk.json(&["doctor", "--json"]));
    assert_eq!(
        found,
        [r#""doubtful" "policies""#, r#""doubtful" "organisations""#]
    );

    let database = rusqlite::Connection::open(desk.path("latchkey-data/latchkey.db")).unwrap();
    database
        .execute("UPDATE audit_entry SET event_type = 'USER_LOGIN'", [])
        .unwrap();
    drop(database);
    let examined = desk.run(&["doctor", "--json"]);
    assert_eq!(examined.status.code(), Some(1));
    let found = grades(serde_json::from_slice(&examined.stdout).unwrap());
    assert!(
        found.contains(&r#""BROKEN" "audit trail""#.to_owned()),
        "{found:?}"
    );
}

#[test]
fn a_damaged_database_is_refused() {
    let desk = Desk::new();
    fs::create_dir(desk.path("latchkey-data")).unwrap();
    fs::write(
        desk.path("latchkey-data/latchkey.db"),
        "not a database, by any means".repeat(100),
    )
    .unwrap();
    desk.told(4, &["org", "list"]);
}

#[test]
fn keys_and_data_are_for_their_owner_alone() {
    let desk = Desk::with_acme();
    let mode = |path: &str| fs::metadata(desk.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("latchkey-data"), 0o700);
    assert_eq!(mode("latchkey-data/latchkey.db"), 0o600);
    let keys: Vec<_> = fs::read_dir(desk.path("latchkey-data/keys"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(!keys.is_empty());
    for key in keys {
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            key.display()
        );
    }
}

#[test]
fn an_unknown_key_is_refused_by_every_command() {
    let desk = Desk::new();
    fs::write(desk.path("latchkey.toml"), "[http]\nmax_header = 5\n").unwrap();
    for args in [&["config", "check"][..], &["serve"], &["org", "list"]] {
        let said = desk.told(3, args);
        let hint = "http.max_header is unknown; did you mean http.max_headers? (in latchkey.toml)";
        assert!(said.contains(hint), "{said}");
    }
    assert!(!desk.path("latchkey-data").exists(), "nothing was made");
    let example = desk.ok(&["config", "example"]);
    fs::write(desk.path("latchkey.toml"), example).unwrap();
    assert!(
        desk.ok(&["config", "check"])
            .contains("latchkey.toml: no problem found")
    );
    assert_eq!(
        desk.json(&["config", "check", "--json"])["http"]["maxHeaders"],
        64
    );
}

#[test]
fn sigterm_drains_and_ends() {
    drains_and_ends("TERM");
}

#[test]
fn a_closed_terminal_drains_like_sigterm() {
    if ignores_hangup() {
        println!("skipped: SIGHUP is ignored here, as nohup has it, and so the server ignores it, too");
        return;
    }
    drains_and_ends("HUP");
}

fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 != 0 // the first bit is that of signal 1
}

fn drains_and_ends(signal: &str) {
    let desk = Desk::new();
    let serving = desk.server();
    // A request under way: its body is still to come when the signal does. The server waits for it once it says so.
    let mut slow = serving.connect();
    slow.send(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 70\r\n\
         Expect: 100-continue\r\n\r\n",
    );
    let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    slow.0.read_exact(&mut go_on).unwrap();
    serving.signal(signal);
    // No new connection is taken.
    while serving.accepts() {
        std::thread::sleep(Duration::from_millis(20));
    }
    slow.send(&format!(
        "{:70}",
        r#"{"organizationSlug":"a","email":"a@b.example","password":"x"}"#
    ));
    let answer = slow.read_all();
    assert!(
        answer.contains("Invalid credentials"),
        "the request under way is answered: {answer}"
    );
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(serving.wait(), Some(0));
}

#[test]
fn a_server_that_says_where_it_listens_can_be_stopped_in_good_order() {
    let desk = Desk::new();
    for _ in 0..5 {
        desk.server().stop();
    }
}

#[test]
fn the_openapi_document_needs_no_server() {
    let desk = Desk::new();
    let document = desk.json(&["openapi"]);
    assert!(document["paths"]["/api/v1/users/{id}/reset-mfa"]["post"].is_object());
    assert!(
        desk.ok(&["openapi", "--yaml"])
            .contains("/api/v1/users/{id}/reset-mfa:")
    );
}

#[test]
fn help_and_completions_are_there() {
    let desk = Desk::new();
    assert!(desk.ok(&["--help"]).contains("Exit codes:"));
    assert!(desk.ok(&["help", "user", "create"]).contains("--password-file"));
    assert!(desk.ok(&["completions", "bash"]).contains("_latchkey"));
}

#[test]
fn logs_can_be_json_and_carry_the_request_id() {
    let desk = Desk::new();
    let serving = desk.serve(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    let (head, _) = serving.exchange("GET", "/health/live", None, "");
    let id = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("x-request-id: ")
            .map(str::to_owned)
    });
    let id = id.unwrap_or_else(|| panic!("no X-Request-Id in {head}"));
    let log = serving.stop();
    let line = log
        .lines()
        .find(|line| line.contains(&id))
        .unwrap_or_else(|| panic!("no line of {id} in {log}"));
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["status"], 200);
}

#[test]
fn server_helper_stops_what_it_started() {
    let desk = Desk::new();
    let serving: Server = desk.server();
    let address = serving.address();
    drop(serving);
    assert!(std::net::TcpStream::connect(address).is_err());
}
