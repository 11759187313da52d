//! The trail as an auditor and an operator meet it: the real binary, real files, a real connection.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail, and reads the clock"
)]

#[expect(dead_code, reason = "the file is shared with other tests")]
mod cli_support;
mod cli_trail;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use cli_support::{Connection, Desk, Server};
use serde_json::Value;

const DATA: &str = "latchkey-demo";

/// Path and token of the call that the demo prints.
fn printed_call(server: &Server) -> (String, String) {
    let curl = server.line("curl -sS -X POST");
    let path = curl[curl.find("/api").unwrap()..]
        .split_whitespace()
        .next()
        .unwrap();
    let token = curl.rsplit_once("Bearer ").unwrap().1.trim_end_matches('\'');
    (path.trim_end_matches('\'').to_owned(), token.to_owned())
}

fn said(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn audit(desk: &Desk, args: &[&str]) -> String {
    let mut all = vec!["--data-dir", DATA, "audit"];
    all.extend(args);
    desk.ok(&all)
}

#[test]
fn a_receipt_and_an_export_prove_themselves_where_nobody_saw_the_server() {
    let desk = Desk::new();
    let server = desk.demo();
    let (path, token) = printed_call(&server);
    let (_, answer) = server.exchange("POST", &format!("{path}?receipt=true"), Some(&token), "");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    server.stop();
    let key = audit(&desk, &["key"]);
    let export = audit(&desk, &["export"]);

    let auditor = Desk::new();
    fs::write(auditor.path("key"), &key).unwrap();
    let receipt = answer["receipt"].as_str().unwrap();
    fs::write(auditor.path("receipt"), receipt).unwrap();
    let proven = auditor.json(&["audit", "check-receipt", "receipt", "--key", "key", "--json"]);
    assert_eq!(proven["verdict"], "proven");
    assert_eq!(proven["entry"]["leaf"]["eventType"], "USER_MFA_RESET");
    let shown = auditor.ok(&["audit", "check-receipt", "receipt", "--key", "key"]);
    assert!(shown.starts_with("proven: entry "), "{shown}");
    // One character of the entry, of the proof, of the signature; another key.
    let lines: Vec<&str> = receipt.lines().collect();
    for at in [1, 3, lines.len() - 1] {
        let mut forged: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let middle = forged[at].len() - 10;
        let other = if &forged[at][middle..=middle] == "A" {
            "B"
        } else {
            "A"
        };
        forged[at].replace_range(middle..=middle, other);
        fs::write(auditor.path("forged"), forged.join("\n") + "\n").unwrap();
        let refused = auditor.run(&["audit", "check-receipt", "forged", "--key", "key"]);
        assert_eq!(refused.status.code(), Some(1), "line {at}: {}", said(&refused));
    }
    let strange = Desk::new();
    strange.ok(&["org", "create", "acme"]);
    fs::write(auditor.path("strange"), strange.ok(&["audit", "key"])).unwrap();
    let refused = auditor.run(&["audit", "check-receipt", "receipt", "--key", "strange"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));

    fs::write(auditor.path("trail.ndjson"), &export).unwrap();
    let intact = auditor.ok(&["audit", "verify", "trail.ndjson", "--key", "key"]);
    assert!(intact.contains("intact: "), "{intact}");
    let changed = export.replacen("\"result\":\"SUCCESS\"", "\"result\":\"FAILURE\"", 1);
    fs::write(auditor.path("trail.ndjson"), changed).unwrap();
    let found = auditor.run(&["audit", "verify", "trail.ndjson", "--key", "key", "--json"]);
    assert_eq!(found.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(report["verdict"], "tampered");
    assert_eq!(report["findings"][0]["kind"], "edited");
}

/// What `sqlite3 latchkey.db "UPDATE …"` and a hex editor can do.
#[test]
fn one_byte_changed_in_the_database_is_found_and_the_entry_named() {
    let desk = Desk::new();
    let server = desk.demo();
    let (path, token) = printed_call(&server);
    server.exchange("POST", &path, Some(&token), r#"{"ticket":"HD-4711"}"#);
    server.stop();
    let database = desk.path(&format!("{DATA}/latchkey.db"));
    let verify = || desk.run(&["audit", "verify", DATA, "--json"]);
    assert_eq!(verify().status.code(), Some(0), "{}", said(&verify()));

    let connection = rusqlite::Connection::open(&database).unwrap();
    let entry: u64 = connection
        .query_row(
            "UPDATE audit_entry SET details = replace(details, 'HD-4711', 'HD-4712') \
             WHERE details LIKE '%HD-4711%' RETURNING sequence",
            [],
            |row| row.get(0),
        )
        .unwrap();
    drop(connection);
    let named = |what: &str| {
        let report: Value = serde_json::from_slice(&verify().stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{what}: {report}");
        assert_eq!(findings[0]["kind"], "edited", "{what}");
        assert_eq!(
            (&findings[0]["first"], &findings[0]["last"]),
            (&entry.into(), &entry.into()),
            "{what}"
        );
    };
    named("SQL");

    // The same in the bytes of the file: put right again, then another byte.
    let bytes = fs::read(&database).unwrap();
    let needle = b"HD-4712";
    let at = bytes
        .windows(needle.len())
        .rposition(|window| window == needle)
        .unwrap();
    let mut right = bytes.clone();
    right[at + 6] = b'1';
    fs::write(&database, &right).unwrap();
    assert_eq!(verify().status.code(), Some(0), "{}", said(&verify()));
    right[at + 3] = b'5';
    fs::write(&database, &right).unwrap();
    named("a byte of the file");
}

fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let needle = text.as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if fs::read(&path)
            .unwrap()
            .windows(needle.len())
            .any(|window| window.eq_ignore_ascii_case(needle))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn an_erased_address_is_in_no_file_any_more_and_the_trail_is_intact() {
    let desk = Desk::new();
    let server = desk.demo();
    let (path, token) = printed_call(&server);
    server.exchange("POST", &path, Some(&token), r#"{"reason":"called by phone"}"#);
    let user = path.split('/').nth(4).unwrap().to_owned();
    let users: Value = serde_json::from_str(&server.get("/api/v1/users", &token)).unwrap();
    let users = users.as_array().unwrap();
    let of_user = users.iter().find(|one| one["id"] == user.as_str()).unwrap();
    let address = of_user["email"].as_str().unwrap();
    let (head, _) = server.exchange("DELETE", &format!("/api/v1/users/{user}"), Some(&token), "");
    assert!(head.contains(" 204"), "{head}");
    server.stop();
    let before = audit(&desk, &["checkpoint"]);
    fs::write(desk.path("before"), before).unwrap();
    fs::write(desk.path("key"), audit(&desk, &["key"])).unwrap();

    let erase = ["--data-dir", DATA, "audit", "erase", "--org", "juniper", &user];
    let asked = desk.run(&erase);
    assert_eq!(asked.status.code(), Some(5), "{}", said(&asked));
    assert!(
        !files_with(&desk.path(DATA), address).is_empty(),
        "nothing was changed"
    );
    let erased = desk.ok(&[&erase[..], &["--yes"]].concat());
    assert!(erased.contains("parts of entries erased"), "{erased}");
    assert_eq!(files_with(&desk.path(DATA), address), Vec::<String>::new());
    let again: Value = serde_json::from_str(&desk.ok(&[&erase[..], &["--yes", "--json"]].concat())).unwrap();
    assert!(again["erased"].is_u64(), "{again}");
    let intact = desk.ok(&["audit", "verify", DATA, "--key", "key", "--checkpoint", "before"]);
    assert!(intact.contains("with erased data"), "{intact}");
    assert!(!audit(&desk, &["export"]).contains(address));
    let nobody = "770e8400-e29b-41d4-a716-446655449999";
    let nobody = [
        "--data-dir",
        DATA,
        "audit",
        "erase",
        "--org",
        "juniper",
        nobody,
        "--yes",
    ];
    assert_eq!(desk.run(&nobody).status.code(), Some(5));
}

/// The verdict and the exit code.
fn verdict(desk: &Desk, args: &[&str]) -> (Value, Option<i32>) {
    let all = [&["audit", "verify"], args, &["--json"]].concat();
    let output = desk.run(&all);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    (report, output.status.code())
}

/// A trail, or an export of it, that is found intact. The report.
#[track_caller]
fn assert_intact(desk: &Desk, args: &[&str]) -> Value {
    let (report, code) = verdict(desk, args);
    assert_eq!(
        (&report["verdict"], code),
        (&"intact".into(), Some(0)),
        "{args:?}: {report}"
    );
    report
}

#[test]
fn a_trail_that_nobody_signed_is_not_called_intact() {
    let desk = Desk::new();
    desk.demo().stop();
    fs::write(desk.path("key"), audit(&desk, &["key"])).unwrap();
    assert_intact(&desk, &[DATA, "--key", "key"]);
    let database = desk.path(&format!("{DATA}/latchkey.db"));
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute("DELETE FROM audit_checkpoint", []).unwrap();
    drop(connection);
    fs::remove_dir_all(desk.path(&format!("{DATA}/checkpoints"))).unwrap();
    let (report, code) = verdict(&desk, &[DATA, "--key", "key"]);
    assert_eq!((&report["verdict"], code), (&"unsigned".into(), Some(1)));
    assert_eq!(report["unsigned"], report["size"]);
    let said = said(&desk.run(&["audit", "verify", DATA, "--key", "key"]));
    assert!(
        said.contains("unsigned: ") && said.contains("signed: none"),
        "{said}"
    );
    assert!(!said.contains("intact"), "{said}");
    assert_intact(&desk, &[DATA, "--key", "key", "--allow-unsigned", "1000"]);
}

#[test]
fn a_checkpoint_of_a_history_that_was_given_up_does_not_end_well() {
    let desk = Desk::new();
    let run = |args: &[&str]| desk.ok(&[&["--data-dir", DATA], args].concat());
    let database = desk.path(&format!("{DATA}/latchkey.db"));
    run(&["org", "create", "acme"]);
    run(&["audit", "checkpoint"]);
    fs::copy(&database, desk.path("older")).unwrap();
    run(&["org", "create", "globex"]);
    fs::write(desk.path("mine"), run(&["audit", "checkpoint"])).unwrap();
    fs::write(desk.path("old-key"), run(&["audit", "key"])).unwrap();
    fs::copy(desk.path("older"), &database).unwrap();
    for besides in ["-wal", "-shm"] {
        let _ = fs::remove_file(desk.path(&format!("{DATA}/latchkey.db{besides}")));
    }
    let accepted: Value =
        serde_json::from_str(&run(&["audit", "accept-rollback", "--yes", "--json"])).unwrap();
    assert_eq!(
        (&accepted["accepted"], &accepted["exact"]),
        (&true.into(), &false.into())
    );
    assert!(
        accepted["signedEntries"].as_u64() > accepted["entries"].as_u64(),
        "{accepted}"
    );
    assert_eq!(accepted["key"], run(&["audit", "key"]).lines().last().unwrap());
    let again: Value = serde_json::from_str(&run(&["audit", "accept-rollback", "--json"])).unwrap();
    assert_eq!(again["accepted"], false, "there is nothing to accept any more");
    fs::write(desk.path("key"), run(&["audit", "key"])).unwrap();
    assert_intact(&desk, &[DATA, "--key", "key"]);
    let given = [DATA, "--key", "key", "--checkpoint", "mine"];
    let (report, code) = verdict(&desk, &given);
    assert_eq!(
        (&report["verdict"], code),
        (&"superseded".into(), Some(1)),
        "{report}"
    );
    let plainly = said(&desk.run(&[&["audit", "verify"], &given[..]].concat()));
    assert!(
        plainly.contains("superseded: your checkpoint in mine"),
        "{plainly}"
    );
    // Whoever has the old key only can't tell it from a forgery.
    let (report, code) = verdict(&desk, &[DATA, "--key", "old-key", "--checkpoint", "mine"]);
    assert_eq!(
        (&report["verdict"], code),
        (&"tampered".into(), Some(1)),
        "{report}"
    );
}

#[test]
fn a_part_says_that_it_is_one_and_a_table_has_its_own_titles() {
    let desk = Desk::new();
    desk.demo().stop();
    fs::write(desk.path("key"), audit(&desk, &["key"])).unwrap();
    let part = audit(
        &desk,
        &["export", "--org", "juniper", "--from", "2020-01-01T00:00:00Z"],
    );
    fs::write(desk.path("part"), part).unwrap();
    let said_of_it = desk.ok(&["audit", "verify", "part", "--key", "key"]);
    assert!(
        said_of_it.starts_with("part: this is not the whole trail"),
        "{said_of_it}"
    );
    assert!(
        said_of_it.contains("from 2020-01-01T00:00:00Z on"),
        "{said_of_it}"
    );
    let (report, _) = verdict(&desk, &["part", "--key", "key"]);
    assert!(
        report["scope"]["organizationId"].is_string() && report["scope"]["leftOut"].is_u64(),
        "{report}"
    );
    let table = audit(&desk, &["export", "--format", "csv"]);
    fs::write(desk.path("table.csv"), &table).unwrap();
    let (report, code) = verdict(&desk, &["table.csv", "--key", "key"]);
    assert_eq!(
        (&report["verdict"], code, &report["scope"]),
        (&"intact".into(), Some(0), &Value::Null)
    );
    let swapped = table
        .replacen("actorEmail", "who", 1)
        .replacen("resourceName", "actorEmail", 1)
        .replacen("who", "resourceName", 1);
    fs::write(desk.path("table.csv"), swapped).unwrap();
    let (report, code) = verdict(&desk, &["table.csv", "--key", "key"]);
    assert_eq!(
        (&report["findings"][0]["kind"], code),
        (&"edited".into(), Some(1))
    );
    // One endless cell.
    let endless = format!("{table}\"{}", "a".repeat(17 * 1024 * 1024));
    fs::write(desk.path("table.csv"), endless).unwrap();
    let refused = desk.run(&["audit", "verify", "table.csv", "--key", "key"]);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
}

#[test]
fn a_database_with_a_trigger_in_it_is_not_opened_and_verify_names_it() {
    let desk = Desk::new();
    desk.ok(&["--data-dir", DATA, "org", "create", "acme"]);
    audit(&desk, &["checkpoint"]);
    let database = desk.path(&format!("{DATA}/latchkey.db"));
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER quiet BEFORE INSERT ON audit_entry WHEN NEW.actor_email = 'm@acme.example'
             BEGIN SELECT RAISE(IGNORE); END",
        )
        .unwrap();
    drop(connection);
    let refused = desk.run(&["--data-dir", DATA, "audit", "key"]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(
        said(&refused).contains("the trigger quiet is not part of the schema"),
        "{}",
        said(&refused)
    );
    let (report, code) = verdict(&desk, &[DATA]);
    assert_eq!(
        (&report["findings"][0]["kind"], code),
        (&"schema-changed".into(), Some(1))
    );
}

/// What comes up to and with `end`.
fn read_until(connection: &mut Connection, end: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end.as_bytes()) {
        let count = connection.0.read(&mut byte).unwrap();
        assert!(
            count > 0,
            "ended before {end:?}: {:?}",
            String::from_utf8_lossy(&text)
        );
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Follows the trail after an entry.
fn tail(server: &Server, token: &str, after: Option<&str>) -> Connection {
    let mut connection = server.connect();
    let after = after.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
    connection.send(&format!(
        "GET /api/v1/audit-logs/tail HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{after}\r\n"
    ));
    connection
}

/// The ids of entries: an event without data only tells where to go on.
fn ids(events: &str) -> Vec<&str> {
    let lines: Vec<&str> = events.lines().collect();
    lines
        .windows(2)
        .filter(|two| two[1] == "event: entry")
        .filter_map(|two| two[0].strip_prefix("id: "))
        .collect()
}

#[test]
fn a_siem_follows_over_a_real_connection_and_misses_nothing_between_two() {
    let desk = Desk::new();
    let server = desk.demo();
    let (path, token) = printed_call(&server);
    let mut first = tail(&server, &token, None);
    let head = read_until(&mut first, "\r\n\r\n");
    assert!(
        head.contains("200 OK") && head.to_lowercase().contains("text/event-stream"),
        "{head}"
    );
    server.exchange("POST", &path, Some(&token), "");
    let events = read_until(&mut first, "USER_MFA_RESET");
    let events = format!("{events}{}", read_until(&mut first, "\n\n"));
    let seen = ids(&events);
    assert_eq!(seen.len(), 1, "only what is new: {events}");
    let last = seen[0].to_owned();
    drop(first);

    // Two refusals while nobody listens.
    for _ in 0..2 {
        server.exchange("POST", &path, Some(&token), "");
    }
    let mut second = tail(&server, &token, Some(&last));
    let mut events = read_until(&mut second, "\r\n\r\n");
    for _ in 0..2 {
        events.push_str(&read_until(&mut second, "\"eventType\":\"USER_MFA_RESET\""));
        events.push_str(&read_until(&mut second, "\n\n"));
    }
    let last: u64 = last.parse().unwrap();
    assert_eq!(
        ids(&events),
        [(last + 1).to_string(), (last + 2).to_string()],
        "{events}"
    );
    drop(second);
    server.stop();
}

#[test]
fn a_stop_ends_tails_at_once_and_their_readers_go_on_later() {
    let desk = Desk::new();
    let server = desk.demo();
    let (_, token) = printed_call(&server);
    let mut open: Vec<_> = (0..3).map(|_| tail(&server, &token, None)).collect();
    for tail in &mut open {
        read_until(tail, "id: ");
    }
    let asked = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let took = asked.elapsed();
    assert!(
        took < Duration::from_secs(3),
        "{took:?}, with the grace period of 20 s"
    );
    for tail in &mut open {
        let rest = tail.read_all();
        assert!(rest.ends_with("0\r\n\r\n"), "ended, not cut off: {rest:?}");
    }
}
