//! When a server signs: at every so many entries, and at its end.

use std::fs;
use std::time::{Duration, Instant};

use super::{DATA, Desk, Running};

/// Looked at once a second; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The sizes that were signed, and how many entries there are.
fn signed(desk: &Desk) -> (Vec<u64>, u64) {
    let database = desk.path(&format!("{DATA}/latchkey.db"));
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(database, flags).unwrap();
    let mut sizes = connection
        .prepare("SELECT size FROM audit_checkpoint ORDER BY size")
        .unwrap();
    let sizes = sizes.query_map([], |row| row.get(0)).unwrap();
    let sizes = sizes.collect::<Result<_, _>>().unwrap();
    let entries = connection.query_row("SELECT count(*) FROM audit_entry", [], |row| row.get(0));
    (sizes, entries.unwrap())
}

/// A server that signs at every `entries` entries and, but for the first time, at no other.
fn running(entries: u32) -> Running {
    let config = format!("[audit]\ncheckpoint_entries = {entries}\ncheckpoint_secs = 86400\n");
    let running = Running::with(&config);
    until(&running.desk, |sizes, _| !sizes.is_empty());
    running
}

fn until(desk: &Desk, come: impl Fn(&[u64], u64) -> bool) -> (Vec<u64>, u64) {
    let patient = Instant::now() + PATIENCE;
    loop {
        let (sizes, entries) = signed(desk);
        if come(&sizes, entries) {
            return (sizes, entries);
        }
        assert!(Instant::now() < patient, "{entries} entries, signed: {sizes:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_trail_is_signed_at_every_so_many_entries() {
    const EVERY: u32 = 6;
    let running = running(EVERY);
    for _ in 0..3 {
        let (before, entries) = signed(&running.desk);
        let newest = *before.last().unwrap();
        // Up to one less, nothing is signed however long it takes.
        for _ in entries..newest + u64::from(EVERY) - 1 {
            running.reset();
        }
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(signed(&running.desk), (before, newest + u64::from(EVERY) - 1));
        running.reset();
        let due = newest + u64::from(EVERY);
        let (sizes, _) = until(&running.desk, |sizes, _| sizes.last() > Some(&newest));
        assert_eq!(sizes.last(), Some(&due));
    }
    running.server.stop();
}

#[test]
fn the_trail_is_signed_at_the_end() {
    let running = running(1000);
    running.reset();
    running.reset();
    std::thread::sleep(Duration::from_millis(1500));
    let (sizes, entries) = signed(&running.desk);
    assert!(sizes.last() < Some(&entries), "not due: {sizes:?} of {entries}");
    let Running { desk, server, .. } = running;
    server.stop(); // SIGTERM
    let (sizes, entries) = signed(&desk);
    assert_eq!(sizes.last(), Some(&entries));
    let latest = fs::read_to_string(desk.path(&format!("{DATA}/checkpoints/latest"))).unwrap();
    assert_eq!(latest.lines().nth(1), Some(entries.to_string().as_str()));
}
