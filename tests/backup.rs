//! `latchkey backup` and `latchkey restore`, by the real binary, beside a server under load.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod backup_places;
mod backup_schedule;
mod load_support;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use latchkey::entropy::Entropy;
use latchkey::keys::KeyRing;
use load_support::{Server, check, exchange, latchkey, reset, reset_while, seed};
use serde_json::Value;

struct Place {
    folder: tempfile::TempDir,
    seeded: seed::Seeded,
}

impl Place {
    fn with_users(users: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let seeded = seed::seed(&folder.path().join("data"), users);
        Self { folder, seeded }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a witness directory, and `witnessed.toml`, the configuration that names it.
    fn witnessed(&self) -> std::path::PathBuf {
        let witness = self.path("witness");
        fs::create_dir(&witness).unwrap();
        let settings = format!("[audit]\nwitness_dir = {:?}\n", witness.to_str().unwrap());
        fs::write(self.path("witnessed.toml"), settings).unwrap();
        witness
    }

    fn run(&self, data_dir: &str, args: &[&str]) -> Output {
        latchkey()
            .args(args)
            .arg("--data-dir")
            .arg(self.path(data_dir))
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    fn ok(&self, data_dir: &str, args: &[&str]) -> String {
        let output = self.run(data_dir, args);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {log}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, data_dir: &str, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(data_dir, args)).unwrap()
    }

    /// A copy of a directory, in place of what was there.
    fn copy(&self, of: &str, name: &str) -> std::path::PathBuf {
        let copy = self.path(name);
        let _ = fs::remove_dir_all(&copy);
        let status = Command::new("cp")
            .arg("-a")
            .arg(self.path(of))
            .arg(&copy)
            .status();
        assert!(status.unwrap().success());
        copy
    }

    /// Exit code and what was said of a command that must fail, and must leave nothing called `new`.
    fn refused(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.run("new", args);
        assert!(!self.path("new").exists(), "{args:?} left something behind");
        let hidden = fs::read_dir(self.folder.path()).unwrap().any(|entry| {
            let name = entry.unwrap().file_name();
            name.to_string_lossy().contains("unfinished")
        });
        assert!(!hidden, "{args:?} left something unfinished behind");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_backup_made_under_load_is_whole_and_restores_with_its_sessions_ended() {
    let place = Place::with_users(3000);
    let mut server = Server::start(&place.path("data"), &[]);
    let (resets, kept) = place.seeded.users.split_at(2990);
    let mut backups = Vec::new();
    let ended = reset_while(&server.address, &place.seeded.admins, resets, 8, |load| {
        for name in ["first", "second"] {
            load.wait_for(20);
            backups.push(place.json("data", &["backup", name, "--json"]));
        }
    });
    assert!(ended.unanswered.is_empty() && !ended.acknowledged.is_empty());
    let entries = |backup: &Value| backup["manifest"]["trail"]["entries"].as_u64().unwrap();
    println!(
        "{} resets acknowledged while two backups were made, over {} and {} entries; users left over: {}",
        ended.acknowledged.len(),
        entries(&backups[0]),
        entries(&backups[1]),
        ended.interrupted
    );
    assert!(entries(&backups[0]) < entries(&backups[1]), "the server went on");
    // Another process reads the trail of a backup as it reads a data directory's.
    let verified = place.ok("data", &["audit", "verify", "second"]);
    assert!(verified.contains("intact"), "{verified}");
    for file in ["latchkey.db", "keys/root.key", "manifest.json"] {
        let mode = fs::metadata(place.path("second").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    let restored = place.json(
        "restored",
        &["restore", "first", "--replaced", "data/latchkey.db", "--json"],
    );
    // Whoever was reset after the backup has their factor and their sessions back, and nobody else.
    let revived = restored["revived"].as_array().unwrap();
    let done = check(&place.path("restored"), &HashSet::new(), "restored");
    let since = ended.acknowledged.len() - usize::try_from(done).unwrap();
    let count = |kind: &str| revived.iter().filter(|one| one["kind"] == kind).count();
    assert_eq!(
        (count("totp"), count("session")),
        (since, since),
        "exactly what is back"
    );
    assert!(restored["exact"] == true && restored["sessionsEnded"].as_u64() >= Some(since as u64));
    server.kill();

    let config = fs::copy(
        place.path("data/latchkey.toml"),
        place.path("restored/latchkey.toml"),
    );
    assert!(config.unwrap() > 0, "a backup has no configuration");
    let server = Server::start(&place.path("restored"), &[]);
    let admin = &place.seeded.admins[0];
    assert_eq!(
        reset(&server.address, admin, kept[0]),
        Some(401),
        "its session is ended"
    );
    drop(server);
    let admin = place.ok(
        "restored",
        &["token", "mint", "--org", "load", "--email", "admin0@load.example"],
    );
    let server = Server::start(&place.path("restored"), &[]);
    assert_eq!(reset(&server.address, admin.trim(), kept[0]), Some(200));
    let log = exchange(&server.address, "GET /health/ready HTTP/1.1", admin.trim()).unwrap();
    assert!(log.starts_with("HTTP/1.1 200"), "{log}");
    drop(server);
    let verified = place.ok(
        "restored",
        &["audit", "verify", place.path("restored").to_str().unwrap()],
    );
    assert!(
        verified.contains("put in place on purpose") && verified.contains("intact"),
        "{verified}"
    );
    let trail = place.ok("restored", &["audit", "export"]);
    assert!(trail.contains("BACKUP_RESTORE"), "it is on the record");
}

#[test]
fn a_backup_made_after_the_trails_key_was_replaced_restores_twice_under_names_of_its_own() {
    let place = Place::with_users(5);
    place.ok("data", &["audit", "checkpoint"]);
    fs::write(
        place.path("data/keys/audit.key"),
        format!("{}\n", "5a".repeat(32)),
    )
    .unwrap();
    place.ok("data", &["audit", "checkpoint"]);
    place.ok("data", &["backup", "made"]);
    let keys = ["once", "twice"].map(|name| {
        let restored = place.json(name, &["restore", "made", "--json"]);
        place.ok(name, &["audit", "verify", place.path(name).to_str().unwrap()]);
        restored["key"].as_str().unwrap().to_owned()
    });
    assert_ne!(keys[0], keys[1], "one name never signs two histories");
}

/// Somebody who once had a backup, or a key that was replaced, can sign nothing for the restored appliance.
#[test]
fn a_restore_signs_with_a_key_that_was_in_no_backup() {
    let place = Place::with_users(1);
    place.ok("data", &["audit", "checkpoint"]);
    place.ok("data", &["backup", "before"]);
    place.ok("data", &["audit", "rotate-key"]);
    place.ok("data", &["backup", "made"]);
    let key_files = |of: &str| {
        let read = |name: &&str| fs::read_to_string(place.path(of).join(name)).ok();
        let names = ["keys/audit.key", "keys/audit.next.key"];
        names.iter().filter_map(read).collect::<Vec<_>>()
    };
    let public = |key: &str| key.rsplit_once('+').unwrap().1.to_owned();
    let known = place.ok("data", &["audit", "key"]);
    let mut known: Vec<_> = known.lines().map(public).collect();
    for (name, backup) in [("once", "before"), ("twice", "made"), ("again", "made")] {
        let said = place.ok(name, &["restore", backup, "--json"]);
        let restored: Value = serde_json::from_str(&said).unwrap();
        let key = restored["key"].as_str().unwrap();
        assert!(!known.contains(&public(key)), "{key}");
        known.push(public(key));
        for old in [key_files("before"), key_files("made"), key_files("data")].concat() {
            assert!(!key_files(name).contains(&old), "{name}");
        }
        assert_eq!(
            place.ok(name, &["audit", "key"]).lines().last(),
            Some(key),
            "the restored key is in use"
        );
        place.ok(name, &["audit", "checkpoint"]);
        place.ok(name, &["audit", "verify", place.path(name).to_str().unwrap()]);
    }
    let said = place.ok("told", &["restore", "made"]);
    assert!(
        said.contains("a new one") && said.contains("latchkey keys rotate"),
        "{said}"
    );
}

/// What the witness has of the log that was given up, and of a restore that this one knows nothing of, does not keep
/// it from starting.
#[test]
fn a_restore_starts_under_a_witness_that_has_seen_more() {
    let place = Place::with_users(5);
    let witness = place.witnessed();
    let with = |args: &[&'static str]| [args, &["--config-file", "witnessed.toml"]].concat();
    place.ok("data", &with(&["audit", "checkpoint"]));
    place.ok("data", &with(&["backup", "made"]));
    place.ok(
        "data",
        &with(&["token", "mint", "--org", "load", "--email", "admin0@load.example"]),
    );
    place.ok("data", &with(&["audit", "checkpoint"]));
    for name in ["once", "twice"] {
        place.ok(name, &with(&["restore", "made"]));
        place.ok(name, &with(&["audit", "checkpoint"]));
        place.ok(name, &["audit", "verify", place.path(name).to_str().unwrap()]);
    }
    assert_eq!(fs::read_dir(&witness).unwrap().count(), 3, "a log each");
    let output = place.run("data", &with(&["audit", "checkpoint"]));
    assert!(
        !output.status.success(),
        "there is a log that it does not lead to"
    );
}

/// Opening a FIFO blocks until its other end is opened, like a file on an unreachable NFS server.
#[test]
fn a_restore_waits_for_no_witness() {
    let place = Place::with_users(1);
    let witness = place.witnessed();
    let with = |args: &[&'static str]| [args, &["--config-file", "witnessed.toml"]].concat();
    place.ok("data", &with(&["audit", "checkpoint"]));
    place.ok("data", &with(&["backup", "made"]));
    let of_log = fs::read_dir(&witness).unwrap().next().unwrap().unwrap().path();
    let newest = of_log.join(format!("{:020}", 999));
    let made = Command::new("mkfifo").arg(&newest).status().unwrap();
    assert!(made.success());
    let began = std::time::Instant::now();
    let restored = place.run("new", &with(&["restore", "made"]));
    let said = String::from_utf8(restored.stderr).unwrap();
    assert!(restored.status.success(), "{said}");
    assert!(said.contains("the witness directory does not respond"), "{said}");
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "a moment");
}

#[test]
fn a_changed_backup_is_refused_and_nothing_is_overwritten() {
    let place = Place::with_users(5);
    place.ok("data", &["backup", "good"]);
    let (code, said) = place.refused(&["backup", "good", "--config-file", "data/latchkey.toml"]);
    assert_eq!(code, Some(5), "{said}");
    let output = place.run("data", &["backup", "good"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is overwritten"));
    let output = place.run("data", &["restore", "good"]);
    assert_eq!(output.status.code(), Some(5), "a data directory that is there");
    let output = place.run("good", &["serve", "--listen", "127.0.0.1:0"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("latchkey restore"));

    fs::write(place.path("none.db"), "is no database").unwrap();
    for replaced in ["mistyped.db", "none.db"] {
        let (code, said) = place.refused(&["restore", "good", "--replaced", replaced]);
        let text =
            format!("latchkey: the database that was replaced: {replaced} can't be read as a database: ");
        // Nothing is printed before it, so no step was begun.
        assert!(code == Some(5) && said.starts_with(&text), "{said}");
        assert!(!said.contains("Conflict("), "{said}");
    }
    let change = |file: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let copy = place.copy("good", "changed");
        let mut bytes = fs::read(copy.join(file)).unwrap();
        edit(&mut bytes);
        fs::write(copy.join(file), bytes).unwrap();
        place.refused(&["restore", "changed"])
    };
    let (code, said) = change("latchkey.db", &|bytes| bytes[5000] ^= 1);
    assert!(
        code == Some(1) && said.contains("latchkey.db was changed"),
        "{said}"
    );
    let (code, said) = change("keys/audit.key", &|bytes| {
        bytes[0] = if bytes[0] == b'0' { b'1' } else { b'0' }
    });
    assert!(
        code == Some(1) && said.contains("keys/audit.key was changed"),
        "{said}"
    );
    let (code, said) = change("manifest.json", &|bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replacen("\"users\": 69", "\"users\": 68", 1).into_bytes();
    });
    assert!(code == Some(1) && said.contains("manifest was changed"), "{said}");
    let (code, said) = change("manifest.json", &|bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replacen("\"format\": 2", "\"format\": 3", 1).into_bytes();
    });
    assert!(code == Some(1) && said.contains("format is 3"), "{said}");
    let (code, said) = change("manifest.json", &|bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replacen("\"keys/root.key\"", "\"../../root.key\"", 1)
            .into_bytes();
    });
    assert!(
        code == Some(1) && said.contains("../../root.key is missing"),
        "{said}"
    );
    let (code, said) = place.refused(&["restore", "nowhere"]);
    assert!(code == Some(5) && said.contains("is not a backup"), "{said}");
    place.ok("new", &["restore", "good", "--check"]);
    assert!(!place.path("new").exists(), "a check changes nothing");
}

/// The files that a change of the trail's key leaves are in the manifest, too.
#[test]
fn a_change_of_any_key_file_is_found_and_a_manifest_from_before_they_were_named_is_taken() {
    let place = Place::with_users(1);
    place.ok("data", &["backup", "before"]);
    place.ok("data", &["audit", "rotate-key"]);
    place.ok("data", &["backup", "good"]);
    let refused = |copy: &str, said: &str| {
        let (code, told) = place.refused(&["restore", copy]);
        assert!(code == Some(1) && told.contains(said), "{told}");
    };
    let retired = place.copy("good", "changed").join("keys/audit.retired");
    let mut text = fs::read(&retired).unwrap();
    text[0] = if text[0] == b'0' { b'1' } else { b'0' };
    fs::write(&retired, text).unwrap();
    refused("changed", "keys/audit.retired was changed");
    fs::remove_file(&retired).unwrap();
    refused("changed", "keys/audit.retired is missing");
    let added = place.copy("before", "added").join("keys/audit.retired");
    fs::copy(place.path("good/keys/audit.retired"), added).unwrap();
    refused("added", "keys/audit.retired is not in the manifest");

    let old = place.copy("good", "old");
    let mut manifest: Value = serde_json::from_slice(&fs::read(old.join("manifest.json")).unwrap()).unwrap();
    manifest["format"] = 1.into();
    let files = manifest["files"].as_object_mut().unwrap();
    assert!(files.remove("keys/audit.retired").is_some(), "it is named");
    let text = manifest.to_string();
    let keys = KeyRing::open(&place.path("data"), &Entropy::system()).unwrap();
    fs::write(
        old.join("manifest.mac"),
        hex::encode(keys.backup_mac(text.as_bytes())),
    )
    .unwrap();
    fs::write(old.join("manifest.json"), text).unwrap();
    place.ok("new", &["restore", "old"]);
    assert!(place.path("new/keys/audit.retired").exists());
}

#[test]
fn keys_under_a_passphrase_or_kept_elsewhere_come_back_and_others_do_not() {
    let place = Place::with_users(5);
    fs::write(place.path("secret"), "correct horse\n").unwrap();
    fs::write(place.path("wrong"), "wrong horse\n").unwrap();
    let sealed = ["--keys", "sealed", "--passphrase-file", "secret"];
    place.ok("data", &[&["backup", "sealed"], &sealed[..]].concat());
    assert!(!place.path("sealed/keys").exists());
    let root = fs::read_to_string(place.path("data/keys/root.key")).unwrap();
    let kept = fs::read_to_string(place.path("sealed/keys.sealed")).unwrap();
    assert!(!kept.contains(root.trim()));
    let (code, said) = place.refused(&["restore", "sealed"]);
    assert!(code == Some(5) && said.contains("--passphrase-file"), "{said}");
    let (code, said) = place.refused(&["restore", "sealed", "--passphrase-file", "wrong"]);
    assert!(code == Some(5) && said.contains("passphrase is wrong"), "{said}");
    place.ok("unsealed", &["restore", "sealed", "--passphrase-file", "secret"]);
    assert_eq!(
        fs::read_to_string(place.path("unsealed/keys/root.key")).unwrap(),
        root
    );

    place.ok("data", &["backup", "without", "--keys", "none"]);
    let (code, said) = place.refused(&["restore", "without"]);
    assert!(code == Some(5) && said.contains("--keys-from"), "{said}");
    // Another appliance's keys.
    fs::create_dir(place.path("other")).unwrap();
    place.ok("other", &["org", "create", "other", "--name", "Other"]);
    let (code, said) = place.refused(&["restore", "without", "--keys-from", "other/keys"]);
    assert!(
        code == Some(5) && said.contains("these are not the backup's keys"),
        "{said}"
    );
    place.ok("whole", &["restore", "without", "--keys-from", "data/keys"]);
    assert!(
        place
            .ok("whole", &["user", "list", "--org", "load"])
            .lines()
            .count()
            > 60
    );
}

/// Somebody stored the keys, the trail's key was rotated since, and the machine with the newest one is gone.
#[test]
fn a_stored_copy_of_the_keys_serves_while_it_vouches_for_the_trails_key() {
    let place = Place::with_users(5);
    let witness = place.witnessed();
    let with = |args: &[&'static str]| [args, &["--config-file", "witnessed.toml"]].concat();
    place.ok("data", &with(&["audit", "checkpoint"]));
    place.copy("data/keys", "stored");
    let rotated = place.run("data", &with(&["audit", "rotate-key"]));
    let said = String::from_utf8(rotated.stderr).unwrap();
    assert!(said.contains("store them again"), "{said}");
    place.ok("data", &with(&["audit", "rotate-key"]));
    place.ok(
        "data",
        &["token", "mint", "--org", "load", "--email", "admin0@load.example"],
    );
    place.ok("data", &["backup", "without", "--keys", "none"]);
    let newest = place.ok("data", &["audit", "key"]);
    let newest = newest.lines().last().unwrap().to_owned();
    // A replicator keeps the database alone.
    for (name, from) in [("whole", "without"), ("standby", "without/latchkey.db")] {
        let restored = place.run(name, &with(&["restore", from, "--keys-from", "stored"]));
        let said = String::from_utf8(restored.stderr).unwrap();
        assert!(restored.status.success(), "{said}");
        assert!(
            said.contains("older than the last change of the trail's key"),
            "{said}"
        );
        place.ok(name, &with(&["audit", "checkpoint"]));
        let users = place.ok(name, &["user", "list", "--org", "load"]);
        assert!(users.lines().count() > 60, "{users}");
        let data = place.path(name);
        let keys = place.ok(name, &["audit", "key"]);
        let ours = keys.lines().last().unwrap();
        assert!(keys.contains(&newest) && ours != newest, "{keys}");
        for key in [ours, newest.as_str()] {
            let args = ["audit", "verify", data.to_str().unwrap(), "--key", key];
            let output = place.run(name, &args);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(!said.contains("tampered"), "{key}: {said}");
            assert!(output.status.success() || key != ours, "{key}: {said}");
        }
    }
    assert!(fs::read_dir(&witness).unwrap().count() >= 3, "a log each");

    // A restore gives the trail a key that nobody vouches for: the copy from before it is of no use.
    place.ok("whole", &["backup", "after", "--keys", "none"]);
    for from in ["after", "after/latchkey.db"] {
        let (code, said) = place.refused(&["restore", from, "--keys-from", "stored"]);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("name a copy that was made after it"), "{said}");
    }
    place.ok("again", &["restore", "after", "--keys-from", "whole/keys"]);
}

/// What somebody makes of the database who can write it, and has none of its keys.
#[test]
fn a_database_names_no_key_that_the_stored_ones_do_not_lead_to() {
    let place = Place::with_users(2);
    place.ok("data", &["audit", "checkpoint"]);
    place.copy("data/keys", "stored");
    place.ok("data", &["audit", "rotate-key"]);
    place.ok("data", &["backup", "without", "--keys", "none"]);
    fs::create_dir(place.path("other")).unwrap();
    place.ok("other", &["org", "create", "other"]);
    let strange = place.ok("other", &["audit", "key"]).trim_end().to_owned();
    let is_refused = |sql: &str, expected: Option<i32>, says: &str| {
        fs::copy(place.path("without/latchkey.db"), place.path("changed.db")).unwrap();
        let changed = rusqlite::Connection::open(place.path("changed.db")).unwrap();
        changed.execute_batch(sql).unwrap();
        drop(changed);
        let (code, said) = place.refused(&["restore", "changed.db", "--keys-from", "stored"]);
        assert!(code == expected && said.contains(says), "{sql}: {said}");
    };
    let newest = "(SELECT max(number) FROM audit_log)";
    let leads_nowhere = "do not vouch for the new one";
    is_refused(
        &format!(
            "INSERT INTO audit_log (origin, verifier_key, first_size, started_at)
             SELECT origin, '{strange}', first_size, started_at FROM audit_log WHERE number = {newest}"
        ),
        Some(5),
        leads_nowhere,
    );
    is_refused(
        &format!("DELETE FROM audit_checkpoint WHERE log = {newest}"),
        Some(5),
        leads_nowhere,
    );
    is_refused(
        "UPDATE audit_entry SET details = replace(details, 'vouchedFor', 'vouched')
         WHERE event_type = 'AUDIT_KEY_CHANGE'",
        Some(5),
        leads_nowhere,
    );
    is_refused(
        "UPDATE audit_entry SET event_type = 'USER_LOGIN' WHERE sequence = 0",
        Some(1),
        "tampered",
    );
    is_refused(
        "UPDATE installation SET key_fingerprint = '00'; DELETE FROM audit_checkpoint",
        Some(5),
        "belong to another appliance",
    );
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
