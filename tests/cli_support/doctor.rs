//! What `latchkey doctor` finds beside the database.

use std::fs;

use serde_json::{Value, json};

use super::cli_support::Desk;

/// Grade and text of each finding about `what`.
fn findings(said: &[u8], what: &str) -> Vec<(String, String)> {
    let all: Value = serde_json::from_slice(said).unwrap();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    all.as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["what"] == what)
        .map(|finding| (text(finding, "grade"), text(finding, "text")))
        .collect()
}

fn one(desk: &Desk, what: &str) -> (String, String) {
    let mut found = findings(&desk.run(&["doctor", "--json"]).stdout, what);
    assert_eq!(found.len(), 1, "{what}: {found:?}");
    found.remove(0)
}

fn fixture(name: &str) -> String {
    format!("{}/fixtures/plugins/{name}.wasm", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn policies_that_only_watch_are_doubtful() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
    desk.ok(&["plugin", "install", &fixture("ticket-required")]);
    let bind = [
        "plugin",
        "bind",
        "ticket-required",
        "--every-org",
        "--mode",
        "monitor",
    ];
    let config = ["--config", r#"{"prefixes":["HD-"]}"#, "--json"];
    let bound = desk.json(&[&bind[..], &config[..]].concat());
    let id = bound["binding"].as_str().unwrap();
    let (grade, text) = one(&desk, "policies");
    assert_eq!(grade, "doubtful");
    assert!(
        text.starts_with("acme: ticket-required (monitor); none"),
        "{text}"
    );
    desk.ok(&["plugin", "mode", id, "canary:10"]);
    let (grade, text) = one(&desk, "policies");
    assert_eq!(grade, "doubtful");
    assert!(text.contains("ticket-required (canary, 10 %)"), "{text}");
    desk.ok(&["plugin", "mode", id, "enforce"]);
    let enforced = ("ok".to_owned(), "acme: ticket-required".to_owned());
    assert_eq!(one(&desk, "policies"), enforced);
}

#[test]
fn backups_that_can_not_be_made_or_are_not_are_told() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
    let directory = desk.path("backups");
    let configure = |more: &str| {
        let text = format!("[backup]\ndirectory = {directory:?}\nevery_hours = 1\n{more}");
        fs::write(desk.path("latchkey.toml"), text).unwrap();
    };
    fs::create_dir(&directory).unwrap();
    configure("");
    let (grade, text) = one(&desk, "backup");
    assert_eq!(grade, "doubtful", "{text}");
    assert!(text.ends_with("has no backup of this appliance yet"), "{text}");
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        0,
        "nothing is left there"
    );

    let backup = desk.json(&["backup", "sample", "--json"]);
    let ours = backup["manifest"]["keyFingerprint"].as_str().unwrap();
    let made_by = |keys: &str, at: jiff::Timestamp| {
        let name = at.strftime("latchkey-%Y%m%dT%H%M%SZ").to_string();
        fs::create_dir(directory.join(&name)).unwrap();
        fs::write(
            directory.join(name).join("manifest.json"),
            json!({ "keyFingerprint": keys }).to_string(),
        )
        .unwrap();
    };
    let made = |at| made_by(ours, at);
    let now = jiff::Timestamp::now();
    made_by("another's", now);
    let (_, text) = one(&desk, "backup");
    assert!(text.ends_with("has no backup of this appliance yet"), "{text}");
    made(now - jiff::SignedDuration::from_mins(125));
    let (grade, text) = one(&desk, "backup");
    assert_eq!(grade, "doubtful", "{text}");
    assert!(text.contains("more than twice backup.every"), "{text}");
    made(now - jiff::SignedDuration::from_mins(100));
    assert_eq!(one(&desk, "backup").0, "ok");

    let passphrase = desk.path("passphrase");
    configure(&format!("keys = \"sealed\"\npassphrase_file = {passphrase:?}\n"));
    fs::write(&passphrase, "a passphrase of some length\n").unwrap();
    assert_eq!(one(&desk, "backup").0, "ok");
    fs::write(&passphrase, "\n").unwrap();
    let (grade, text) = one(&desk, "backup");
    assert_eq!(grade, "BROKEN");
    assert!(text.contains("passphrase"), "{text}");
    configure("");
    fs::remove_dir_all(&directory).unwrap();
    let (grade, text) = one(&desk, "backup");
    assert_eq!(grade, "BROKEN");
    assert!(text.contains("backups"), "{text}");
    assert_eq!(desk.run(&["doctor"]).status.code(), Some(1));
}

#[test]
fn a_mistyped_organisation_to_forward_is_told_by_the_doctor_and_at_the_start() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
    let siem = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = siem.local_addr().unwrap();
    let forward = |slugs: &str| {
        let text = format!(
            "[audit]\nforward_syslog = true\nforward_organizations = {slugs}\n\
             [syslog]\ntarget = \"udp://{target}\"\n"
        );
        fs::write(desk.path("latchkey.toml"), text).unwrap();
    };
    let says = "audit.forward_organizations names acmee, but no organisation has that slug";
    forward("[\"acme\", \"acmee\"]");
    let (grade, text) = one(&desk, "forwarding");
    assert_eq!((grade.as_str(), text.as_str()), ("doubtful", says));
    let log = desk.serve(&["serve", "--listen", "127.0.0.1:0"]).stop();
    assert_eq!(log.matches(says).count(), 1, "{log}");
    forward("[\"acme\"]");
    let found = findings(&desk.run(&["doctor", "--json"]).stdout, "forwarding");
    assert!(found.iter().all(|(grade, _)| grade == "ok"), "{found:?}");
}

#[test]
fn room_and_the_trails_name_are_looked_at() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
    let (_, text) = one(&desk, "disk");
    assert!(text.contains("MiB are free"), "{text}");
    let server = desk.serve(&["serve", "--listen", "127.0.0.1:0"]);
    server.stop(); // signs at its end
    assert_eq!(one(&desk, "trail's name").0, "ok");
    fs::write(
        desk.path("latchkey.toml"),
        "public_url = \"https://mfa.example.org\"\n",
    )
    .unwrap();
    let (grade, text) = one(&desk, "trail's name");
    assert_eq!(grade, "doubtful");
    assert!(text.contains("public_url is https://mfa.example.org"), "{text}");
}

#[test]
fn beside_a_running_server_json_is_json_and_says_why_not() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
    let server = desk.serve(&["serve", "--listen", "127.0.0.1:0"]);
    let beside = desk.run(&["doctor", "--json"]);
    assert_eq!(beside.status.code(), Some(4));
    let found = findings(&beside.stdout, "database");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "doubtful");
    assert!(
        found[0].1.contains("in use by another latchkey process"),
        "{found:?}"
    );
    assert_eq!(
        findings(&beside.stdout, "listen").len(),
        1,
        "what needs no database is told"
    );
    server.stop();
}

/// Checking a large database takes long, so the progress is reported.
#[test]
fn what_is_being_looked_at_is_told_on_standard_error() {
    let desk = Desk::new();
    desk.ok(&["org", "create", "acme"]);
    let output = desk.run(&["doctor", "--json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    for what in ["database", "audit trail", "organisations"] {
        assert!(said.contains(&format!("doctor: {what}\n")), "{said}");
    }
}
