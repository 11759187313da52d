//! Kills the real server with SIGKILL at random instants under load, restarts it, and checks every
//! acknowledged reset: nothing acknowledged is lost, nothing is half done (invariants 1, 2 and 9).
//!
//! Three rounds in the ordinary suite; `LATCHKEY_CRASH_ROUNDS=300 cargo test --test crash -- --nocapture`
//! for the long run.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that can't go on says where; instants are random, and rounds are asked of the developer"
)]

#[path = "../benches/load/seed.rs"]
mod seed;

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use latchkey::store::{Store, audit};
use rand::Rng as _;
use uuid::Uuid;

const CLIENTS: usize = 8;
const USERS_PER_ROUND: usize = 400;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    let rounds = std::env::var("LATCHKEY_CRASH_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3);
    let dir = tempfile::tempdir().unwrap();
    let seeded = seed::seed(dir.path(), USERS_PER_ROUND * rounds);
    let mut acknowledged = HashSet::new();
    let (mut cut_off, mut interrupted) = (0, 0);
    for (round, users) in seeded.users.chunks(USERS_PER_ROUND).enumerate() {
        let (server, address) = start(dir.path());
        let ended = reset_until_killed(server, &address, &seeded.admins, users);
        acknowledged.extend(ended.acknowledged);
        cut_off += ended.unanswered;
        interrupted += usize::from(ended.interrupted);
        check(dir.path(), &acknowledged, round);
    }
    // After the last crash it serves again, without hands.
    let (mut server, _) = start(dir.path());
    server.kill().unwrap();
    server.wait().unwrap();
    println!(
        "{rounds} kills ({interrupted} under load): {} resets acknowledged and found, {cut_off} requests cut off",
        acknowledged.len()
    );
    assert!(
        !acknowledged.is_empty(),
        "the server answered before it was killed"
    );
}

struct Ended {
    acknowledged: HashSet<Uuid>,
    unanswered: usize,
    interrupted: bool,
}

fn reset_until_killed(mut server: Child, address: &str, admins: &[String], users: &[Uuid]) -> Ended {
    let next = AtomicUsize::new(0);
    let killed = AtomicBool::new(false);
    let (acknowledged, unanswered) = (Mutex::new(HashSet::new()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for admin in admins.iter().take(CLIENTS) {
            let (next, killed, acknowledged, unanswered) = (&next, &killed, &acknowledged, &unanswered);
            scope.spawn(move || {
                while !killed.load(Ordering::SeqCst) {
                    let Some(user) = users.get(next.fetch_add(1, Ordering::SeqCst)) else {
                        return;
                    };
                    match reset(address, admin, *user) {
                        Some(200) => {
                            acknowledged.lock().unwrap().insert(*user);
                        }
                        Some(status) => panic!("a reset was answered {status}"),
                        None => {
                            unanswered.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(20..600)));
        server.kill().unwrap(); // SIGKILL
        killed.store(true, Ordering::SeqCst);
    });
    server.wait().unwrap();
    let interrupted = next.into_inner() < users.len();
    Ended {
        acknowledged: acknowledged.into_inner().unwrap(),
        unanswered: unanswered.into_inner(),
        interrupted,
    }
}

fn check(dir: &Path, acknowledged: &HashSet<Uuid>, round: usize) {
    let store = Store::open(dir).unwrap();
    store
        .read(|db| {
            let report = audit::verify(db)?;
            assert!(report.is_intact(), "round {round}: {report:?}");
            let number = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).unwrap() };
            let calls = number("SELECT count(*) FROM reset_call WHERE outcome = 'done'");
            let entries = number(
                "SELECT count(*) FROM audit_entry WHERE event_type = 'USER_MFA_RESET' AND result = 'SUCCESS'",
            );
            assert_eq!(
                calls, entries,
                "round {round}: resets and entries match one to one"
            );
            assert_eq!(
                calls,
                number("SELECT count(DISTINCT target_id) FROM reset_call"),
                "round {round}"
            );
            assert_eq!(
                calls,
                number("SELECT count(*) FROM question"),
                "round {round}: what was asked is kept"
            );
            // A factor is gone exactly where an entry says so, and no session outlives it.
            let half_done = "SELECT count(*) FROM user u WHERE role = 'member' AND \
                 (EXISTS (SELECT 1 FROM reset_call c WHERE c.target_id = u.id) \
                  = EXISTS (SELECT 1 FROM factor f WHERE f.user_id = u.id AND f.suspended_at IS NULL) \
                  OR EXISTS (SELECT 1 FROM reset_call c WHERE c.target_id = u.id) \
                  = EXISTS (SELECT 1 FROM session s WHERE s.user_id = u.id) \
                  OR EXISTS (SELECT 1 FROM reset_call c WHERE c.target_id = u.id) \
                  = (u.enrolment_due_until IS NULL))";
            assert_eq!(number(half_done), 0, "round {round}: half done");
            let mut found = db.prepare("SELECT 1 FROM reset_call WHERE target_id = ?1")?;
            for user in acknowledged {
                assert!(
                    found.exists([user.as_bytes()])?,
                    "round {round}: {user} was acknowledged and is lost"
                );
            }
            Ok(())
        })
        .unwrap();
}

fn start(dir: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_latchkey"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config-file"])
        .arg(dir.join("latchkey.toml"))
        .arg("--data-dir")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let address = lines
        .find_map(|line| {
            Some(
                line.split_once("http://")?
                    .1
                    .split_whitespace()
                    .next()?
                    .to_owned(),
            )
        })
        .expect("the server prints its address");
    (child, address)
}

/// The status, or nothing when the server was killed before it answered.
fn reset(address: &str, token: &str, user: Uuid) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!(
        "POST /api/v1/users/{user}/reset-mfa HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    // Half an answer is no acknowledgement.
    if !answer.contains("\r\n\r\n") {
        return None;
    }
    answer.split(' ').nth(1)?.parse().ok()
}
