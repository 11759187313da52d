//! What `latchkey doctor` finds beside the database.

use std::fs;

use serde_json::{Value, json};

use super::cli_support::{Desk, fixture};

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

#[test]
fn policies_that_only_watch_are_doubtful() {
    let desk = Desk::with_acme();
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
    let desk = Desk::with_acme();
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
    let manifest = &backup["manifest"];
    let (ours, key) = (&manifest["keyFingerprint"], &manifest["trail"]["key"]);
    let made_by = |keys: &Value, key: &Value, at: jiff::Timestamp| {
        let name = at.strftime("latchkey-%Y%m%dT%H%M%SZ").to_string();
        fs::create_dir(directory.join(&name)).unwrap();
        fs::write(
            directory.join(name).join("manifest.json"),
            json!({ "keyFingerprint": keys, "trail": { "key": key } }).to_string(),
        )
        .unwrap();
    };
    let made = |at| made_by(ours, key, at);
    let now = jiff::Timestamp::now();
    made_by(&"another's".into(), key, now);
    let (_, text) = one(&desk, "backup");
    assert!(text.ends_with("has no backup of this appliance yet"), "{text}");
    made(now - jiff::SignedDuration::from_mins(125));
    let (grade, text) = one(&desk, "backup");
    assert_eq!(grade, "doubtful", "{text}");
    assert!(text.contains("more than twice backup.every"), "{text}");
    // One from the future says nothing about today.
    let ahead = now + jiff::SignedDuration::from_hours(9000);
    made(ahead);
    let found = findings(&desk.run(&["doctor", "--json"]).stdout, "backup");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].1.contains("more than twice backup.every"), "{found:?}");
    assert_eq!(found[1].0, "doubtful");
    assert!(
        found[1].1.starts_with("1 in ") && found[1].1.contains("dated in the future"),
        "{found:?}"
    );
    fs::remove_dir_all(directory.join(ahead.strftime("latchkey-%Y%m%dT%H%M%SZ").to_string())).unwrap();
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
    let desk = Desk::with_acme();
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
    let log = desk.server().stop();
    assert_eq!(log.matches(says).count(), 1, "{log}");
    forward("[\"acme\"]");
    let found = findings(&desk.run(&["doctor", "--json"]).stdout, "forwarding");
    assert!(found.iter().all(|(grade, _)| grade == "ok"), "{found:?}");
}

#[test]
fn room_and_the_trails_name_are_looked_at() {
    let desk = Desk::with_acme();
    let (_, text) = one(&desk, "disk");
    assert!(text.contains("MiB are free"), "{text}");
    let server = desk.server();
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
    let desk = Desk::with_acme();
    let server = desk.server();
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

/// It is run with a new binary before the first start, after which an older one can't go back.
#[test]
fn an_older_database_is_told_and_left_as_it_is() {
    let desk = Desk::with_acme();
    let database = desk.path("latchkey-data/latchkey.db");
    let version = |set: Option<i64>| {
        let connection = rusqlite::Connection::open(&database).unwrap();
        if let Some(version) = set {
            connection.pragma_update(None, "user_version", version).unwrap();
        }
        connection
            .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let newest = version(None);
    version(Some(newest - 1));
    let output = desk.run(&["doctor", "--json"]);
    let (grade, text) = findings(&output.stdout, "database").remove(0);
    assert_eq!(
        (grade.as_str(), output.status.code()),
        ("doubtful", Some(0)),
        "{text}"
    );
    let says = format!(
        "schema version {}; this latchkey migrates it to {newest}",
        newest - 1
    );
    assert!(text.contains(&says), "{text}");
    assert!(desk.ok(&["doctor"]).contains(&says));
    assert_eq!(version(None), newest - 1, "nothing was migrated");
}

#[test]
fn the_doctor_makes_completes_and_removes_nothing() {
    let desk = Desk::with_acme();
    let keys = desk.path("latchkey-data/keys");
    let left = keys.join("tokens.new-00ff");
    fs::write(&left, "half").unwrap();
    desk.ok(&["doctor"]);
    assert!(left.exists(), "a start removes it");
    fs::rename(&keys, desk.path("aside")).unwrap();
    let output = desk.run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(4));
    let (grade, text) = findings(&output.stdout, "database").remove(0);
    assert!(grade == "BROKEN" && text.contains("latchkey-data/keys"), "{text}");
    assert!(!keys.exists(), "no keys are made that belong to no database");
    fs::rename(desk.path("aside"), &keys).unwrap();
    desk.ok(&["org", "list"]);
    assert!(!left.exists());
}

/// Checking a large database takes long, so the progress is reported.
#[test]
fn what_is_being_looked_at_is_told_on_standard_error() {
    let desk = Desk::with_acme();
    let output = desk.run(&["doctor", "--json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    for what in ["database", "audit trail", "organisations"] {
        assert!(said.contains(&format!("doctor: {what}\n")), "{said}");
    }
}
