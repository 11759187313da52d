//! Exports, checkpoints and receipts while a server runs.

use std::fs::{self, File};
use std::io::Read as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{
    DATA, Desk, Running, assert_intact, audit, entries_in, entries_of, keep, run, said, size_of, verdict,
};

/// What the newest entry of an export says about the export before.
fn newest_export(export: &str) -> Value {
    entries_of(export, "AUDIT_EXPORT").pop().expect("it is recorded")
}

#[test]
fn an_export_is_an_entry_with_what_was_exported_and_by_whom_running_or_not() {
    let running = Running::new();
    running.reset();
    let check = |desk: &Desk, how: &str| {
        keep(desk, "key", &["key"]);
        let whole = audit(desk, &["export"]);
        fs::write(desk.path("whole"), &whole).unwrap();
        assert_eq!(verdict(desk, &["whole", "--key", "key"]).1, Some(0), "{how}");
        let csv = [
            "export",
            "--format",
            "csv",
            "--org",
            "juniper",
            "--from",
            "2020-01-01T00:00:00Z",
        ];
        fs::write(desk.path("table.csv"), audit(desk, &csv)).unwrap();
        let said_of_it = desk.ok(&["audit", "verify", "table.csv", "--key", "key"]);
        assert!(said_of_it.starts_with("part: "), "{how}: {said_of_it}");
        assert!(said_of_it.contains("intact: "), "{how}: {said_of_it}");

        let after = audit(desk, &["export"]);
        let recorded = entries_of(&after, "AUDIT_EXPORT");
        let [.., of_whole, of_table] = &recorded[..] else {
            panic!("{how}: {recorded:?}")
        };
        assert_eq!(
            of_whole["leaf"]["actor"],
            json!({ "id": null, "type": "OPERATOR" }),
            "{how}"
        );
        assert_eq!(of_whole["leaf"]["organization"]["id"], Value::Null, "{how}");
        assert_eq!(
            of_whole["subject"]["details"],
            json!({ "format": "ndjson", "entries": entries_in(&whole), "treeSize": size_of(&whole) }),
            "{how}"
        );
        // It is the first entry after those that were exported.
        let place = of_whole["leaf"]["sequence"].as_u64().unwrap();
        assert!(place >= size_of(&whole), "{how}: {place}");
        let details = &of_table["subject"]["details"];
        assert_eq!(details["from"], "2020-01-01T00:00:00Z", "{how}");
        assert_eq!(details["format"], "csv", "{how}");
        assert!(
            details["entries"].as_u64().unwrap() < details["treeSize"].as_u64().unwrap(),
            "{how}"
        );
        assert!(details.get("to").is_none(), "{how}");
        // The organisation's admins see that theirs was exported.
        let organization = &of_table["leaf"]["organization"]["id"];
        assert!(organization.is_string(), "{how}");
        assert_eq!(of_table["leaf"]["resource"]["id"], *organization, "{how}");
        assert_eq!(of_table["actor"], json!({}), "{how}: no personal data");
    };
    check(&running.desk, "while a server runs");
    let listed = running
        .server
        .get("/api/v1/audit-logs?eventType=AUDIT_EXPORT", &running.token);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["content"].as_array().unwrap().len(), 1, "{listed}");
    let Running { desk, server, .. } = running;
    server.stop();
    check(&desk, "while none runs");
    assert_eq!(verdict(&desk, &[DATA, "--key", "key"]).1, Some(0));
}

/// Lets the writers end, also where an assertion fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While others write as fast as they can, each is of one instant.
#[test]
fn exports_among_writes_are_whole() {
    let running = Running::new();
    keep(&running.desk, "key", &["key"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let caller = running.caller();
            scope.spawn({
                let stop = &stop;
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        caller.reset();
                    }
                }
            });
        }
        let stopping = Stopping(&stop);
        let mut sizes = Vec::new();
        for n in 0..6 {
            let name = format!("export-{n}");
            let format = if n % 2 == 0 { "ndjson" } else { "csv" };
            audit(&running.desk, &["export", "--format", format, "--out", &name]);
            let report = assert_intact(&running.desk, &[&name, "--key", "key", "--allow-unsigned", "0"]);
            assert_eq!(report["entries"], report["size"]);
            sizes.push(report["size"].as_u64().unwrap());
        }
        drop(stopping);
        assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
    });
    let Running { desk, server, .. } = running;
    server.stop();
    assert_intact(&desk, &[DATA, "--key", "key"]);
}

#[test]
fn checkpoints_receipts_and_keys_are_had_from_a_running_server() {
    let running = Running::new();
    running.reset();
    let desk = &running.desk;
    keep(desk, "key", &["key"]);
    keep(desk, "checkpoint", &["checkpoint"]);
    let given = [DATA, "--key", "key", "--checkpoint", "checkpoint"];
    assert_eq!(verdict(desk, &given).1, Some(0));
    let resets = entries_of(&audit(desk, &["export"]), "USER_MFA_RESET");
    let id = resets[0]["leaf"]["id"].as_str().unwrap();
    keep(desk, "receipt", &["prove", id]);
    let proven = desk.json(&["audit", "check-receipt", "receipt", "--key", "key", "--json"]);
    assert_eq!(proven["entry"]["leaf"]["id"], id);
    let nobody = run(desk, &["prove", "019c7063-9f40-7cc3-98c4-dc0c0c07398f"]);
    assert_eq!(nobody.status.code(), Some(5), "{}", said(&nobody));
    let no_org = run(desk, &["export", "--org", "nobodys", "--out", "none"]);
    assert_eq!(no_org.status.code(), Some(5), "{}", said(&no_org));
    assert!(!desk.path("none").exists());
    // A file that is there is not overwritten, and nothing was exported.
    let before = size_of(&audit(desk, &["export"]));
    let there = run(desk, &["export", "--out", "receipt"]);
    assert_eq!(there.status.code(), Some(5), "{}", said(&there));
    assert!(
        said(&there).contains("receipt exists; name a new file"),
        "{}",
        said(&there)
    );
    assert_eq!(
        size_of(&audit(desk, &["export"])),
        before + 1,
        "only the one before is new"
    );
}

/// A reader that leaves after the first bytes has read them.
#[test]
fn an_export_that_is_cut_off_is_on_the_record() {
    let cut_off = |desk: &Desk| {
        let mut export = desk
            .command(&["--data-dir", DATA, "audit", "export"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = export.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 1]).unwrap();
        drop(stdout);
        export.wait_with_output().unwrap()
    };
    let running = Running::new();
    for _ in 0..150 {
        running.reset(); // more than a pipe and a buffer hold
    }
    let recorded = |desk: &Desk| entries_of(&audit(desk, &["export"]), "AUDIT_EXPORT").len();
    let before = recorded(&running.desk);
    let output = cut_off(&running.desk);
    assert_eq!(output.status.code(), Some(141), "{}", said(&output));
    assert_eq!(recorded(&running.desk), before + 2);
    let Running { desk, server, .. } = running;
    server.stop();
    let output = cut_off(&desk);
    assert_eq!(output.status.code(), Some(141), "{}", said(&output));
    assert_eq!(recorded(&desk), before + 4);
}

#[test]
fn where_nobody_takes_orders_nothing_is_exported_and_it_says_why() {
    let desk = Desk::new();
    desk.demo().stop();
    let lock = File::options()
        .write(true)
        .open(desk.path(&format!("{DATA}/latchkey.lock")))
        .unwrap();
    lock.lock().unwrap();
    // Each waits for a while until the other process might be done.
    std::thread::scope(|scope| {
        for order in [&["export", "--out", "none"][..], &["checkpoint"], &["rotate-key"]] {
            let desk = &desk;
            scope.spawn(move || {
                let refused = run(desk, order);
                assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
                let said = said(&refused);
                assert!(said.contains("in use by another latchkey process"), "{said}");
            });
        }
    });
    assert!(!desk.path("none").exists());
    drop(lock);
    assert_eq!(
        newest_export(&{
            audit(&desk, &["export"]);
            audit(&desk, &["export"])
        })["leaf"]["result"],
        "SUCCESS"
    );
}
