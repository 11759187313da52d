//! What the machine can do without us: fsync, SQLite, a bare route. Measured in the same run.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use poem::listener::TcpListener;
use poem::{EndpointExt as _, Route, Server, get, handler};
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::Options;
use super::drive::{self, Run};

/// Median of 100 appends of 4 KiB with fdatasync, µs.
pub fn fsync_micros(dir: &Path) -> f64 {
    let mut file = File::create(dir.join("fsync")).expect("a file");
    let mut times: Vec<f64> = (0..100)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&[7; 4096]).expect("it takes bytes");
            file.sync_data().expect("it syncs");
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Resets per second of plain SQLite: the rows that a reset with two policies writes, `group` to a commit,
/// synchronous=FULL, checkpoints on a second connection as ours are.
pub fn sqlite(dir: &Path, group: usize, seconds: u64, users: usize) -> f64 {
    let path = dir.join(format!("floor-{group}.db"));
    let mut db = open(&path);
    db.execute_batch(
        "CREATE TABLE user (id BLOB PRIMARY KEY, email TEXT, due INTEGER, revision INTEGER) STRICT, WITHOUT ROWID;
         CREATE TABLE factor (user_id BLOB, id BLOB, secret BLOB, suspended_at INTEGER, PRIMARY KEY (user_id, id)) STRICT, WITHOUT ROWID;
         CREATE TABLE session (user_id BLOB, id BLOB, agent TEXT, PRIMARY KEY (user_id, id)) STRICT, WITHOUT ROWID;
         CREATE TABLE entry (sequence INTEGER PRIMARY KEY, hash BLOB, event TEXT) STRICT;
         CREATE TABLE call (id INTEGER PRIMARY KEY, actor BLOB, target BLOB, at INTEGER) STRICT;
         CREATE INDEX call_by_actor ON call (actor, at); CREATE INDEX call_by_target ON call (target, at);
         CREATE TABLE question (sequence INTEGER PRIMARY KEY, text TEXT) STRICT;
         CREATE TABLE decision (sequence INTEGER, position INTEGER, record TEXT, PRIMARY KEY (sequence, position)) STRICT, WITHOUT ROWID;",
    )
    .expect("a schema");
    let ids: Vec<[u8; 16]> = (0..users).map(|_| Uuid::new_v4().into_bytes()).collect();
    let tx = db.transaction().expect("a transaction");
    for id in &ids {
        tx.execute(
            "INSERT INTO user VALUES (?1, 'somebody@load.example', NULL, 0)",
            [id],
        )
        .expect("a user");
        tx.execute("INSERT INTO factor VALUES (?1, ?1, zeroblob(61), NULL)", [id])
            .expect("a factor");
        tx.execute("INSERT INTO session VALUES (?1, ?1, 'load')", [id])
            .expect("a session");
    }
    tx.commit().expect("it commits");

    let (stop, stopped) = sync_channel::<()>(0);
    let checkpoints = open(&path);
    let checkpointer = std::thread::spawn(move || {
        while stopped
            .recv_timeout(Duration::from_millis(200))
            .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            checkpoints
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                .ok();
        }
    });
    let (event, question, record) = ("e".repeat(700), "q".repeat(1400), "r".repeat(450));
    let started = Instant::now();
    let mut n = 0_usize;
    while started.elapsed() < Duration::from_secs(seconds) {
        let tx = db.transaction().expect("a transaction");
        for _ in 0..group {
            let id = &ids[n % ids.len()];
            let sequence = i64::try_from(n).expect("fewer than 2^63 resets");
            let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
                tx.prepare_cached(sql)
                    .and_then(|mut s| s.execute(values))
                    .expect("it writes");
            };
            run(
                "UPDATE user SET due = ?2, revision = revision + 1 WHERE id = ?1",
                params![id, sequence],
            );
            run(
                "UPDATE factor SET suspended_at = ?2 WHERE user_id = ?1",
                params![id, sequence],
            );
            run("DELETE FROM session WHERE user_id = ?1", params![id]);
            run(
                "INSERT INTO entry VALUES (?1, zeroblob(64), ?2)",
                params![sequence, event],
            );
            run(
                "INSERT INTO call VALUES (?1, zeroblob(16), ?2, ?1)",
                params![sequence, id],
            );
            run(
                "INSERT INTO question VALUES (?1, ?2)",
                params![sequence, question],
            );
            run(
                "INSERT INTO decision VALUES (?1, 0, ?2)",
                params![sequence, record],
            );
            run(
                "INSERT INTO decision VALUES (?1, 1, ?2)",
                params![sequence, record],
            );
            n += 1;
        }
        tx.commit().expect("it commits");
    }
    let per_second = n as f64 / started.elapsed().as_secs_f64();
    drop(stop);
    checkpointer.join().expect("the checkpointer ends");
    per_second
}

fn open(path: &Path) -> Connection {
    let db = Connection::open(path).expect("a database");
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA busy_timeout = 10000;")
        .expect("pragmas");
    db
}

#[handler]
fn hello() -> &'static str {
    "hello"
}

/// A bare poem route, in this process.
pub fn bare_route(options: &Options) -> Run {
    serve(Route::new().at("/", get(hello)).boxed(), options)
}

fn serve(endpoint: poem::endpoint::BoxEndpoint<'static>, options: &Options) -> Run {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port();
    let address = format!("127.0.0.1:{port}");
    runtime.spawn(Server::new(TcpListener::bind(address.clone())).run(endpoint));
    while std::net::TcpStream::connect(&address).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let script = dir.path().join("floor.lua");
    std::fs::write(&script, drive::FIGURES).expect("the script is written");
    let url = format!("http://{address}/");
    let run = drive::wrk(&url, std::process::id(), Some(&script), 64, options.seconds);
    runtime.shutdown_background();
    run
}
