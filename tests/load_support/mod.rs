//! A seeded data directory, the real server over it, resets from many clients, and what must hold afterwards.

#![expect(
    clippy::disallowed_methods,
    reason = "what is said to the tests is taken away"
)]
#![allow(dead_code, reason = "not every test that shares this needs all of it")]

#[path = "../../benches/load/seed.rs"]
pub mod seed;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use latchkey::store::{Store, audit};
use uuid::Uuid;

/// The real binary, without what is said to the tests: it refuses variables that it does not know. Figures are
/// better taken from an optimised one: `LATCHKEY_BINARY=target/release/latchkey`.
pub fn latchkey() -> Command {
    let built = env!("CARGO_BIN_EXE_latchkey").into();
    let mut command = Command::new(std::env::var_os("LATCHKEY_BINARY").unwrap_or(built));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LATCHKEY_") {
            command.env_remove(name);
        }
    }
    command
}

/// The same after the `ulimit` of a shell with these arguments.
pub fn latchkey_within(ulimit: &str) -> Command {
    let plain = latchkey();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\"")])
        .arg(plain.get_program());
    for (name, _) in plain.get_envs() {
        command.env_remove(name);
    }
    command
}

/// A server that is killed when the test lets go of it.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    /// Starts over a seeded data directory, with further variables.
    pub fn start(dir: &Path, variables: &[(&str, &str)]) -> Self {
        Self::spawn(latchkey(), dir, variables)
    }

    /// The same by another command, which runs what follows it.
    pub fn spawn(mut command: Command, dir: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--config-file"])
            .arg(dir.join("latchkey.toml"))
            .arg("--data-dir")
            .arg(dir)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stdout = child.stdout.take().expect("standard output is piped");
        let address = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let address = line.split_once("http://")?.1;
                Some(address.split_whitespace().next()?.to_owned())
            })
            .expect("the server prints its address");
        Self { child, address }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its state")
    }

    /// Waits for an end that comes by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let sent = Command::new("kill")
            .arg("-TERM")
            .arg(self.id().to_string())
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What clients saw of a load.
#[derive(Default)]
pub struct Ended {
    /// Who was reset, and when that was answered.
    pub acknowledged: HashMap<Uuid, Instant>,
    /// Who was cut off before the answer came, and by whose token the reset was asked for.
    pub unanswered: Vec<(Uuid, String)>,
    pub refused: usize,
    pub interrupted: bool,
}

/// Resets under way.
#[derive(Default)]
pub struct Load(Mutex<HashMap<Uuid, Instant>>);

impl Load {
    /// Waits until so many more were acknowledged.
    pub fn wait_for(&self, more: usize) {
        let count = || self.0.lock().expect("no client panicked").len();
        let (enough, until) = (count() + more, Instant::now() + Duration::from_secs(60));
        while count() < enough {
            assert!(Instant::now() < until, "the load does not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Resets the users from so many clients at once, until `meanwhile` returns or all are done.
pub fn reset_while(
    address: &str,
    admins: &[String],
    users: &[Uuid],
    clients: usize,
    meanwhile: impl FnOnce(&Load),
) -> Ended {
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (load, unanswered, refused) = (Load::default(), Mutex::new(Vec::new()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for admin in &admins[..clients] {
            let (next, stopped, load) = (&next, &stopped, &load);
            let (unanswered, refused) = (&unanswered, &refused);
            scope.spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    let Some(user) = users.get(next.fetch_add(1, Ordering::SeqCst)) else {
                        return;
                    };
                    match reset_once(address, admin, *user) {
                        Some(200) => {
                            let mut acknowledged = load.0.lock().expect("no client panicked");
                            acknowledged.insert(*user, Instant::now());
                        }
                        // A busy machine: a policy was not done in time, and nothing was changed.
                        Some(500) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                        Some(status) => panic!("a reset was answered {status}"),
                        None => {
                            let mut unanswered = unanswered.lock().expect("no client panicked");
                            unanswered.push((*user, admin.clone()));
                            if TcpStream::connect(address).is_err() {
                                return; // it is gone
                            }
                        }
                    }
                }
            });
        }
        meanwhile(&load);
        stopped.store(true, Ordering::SeqCst);
    });
    Ended {
        interrupted: next.into_inner() < users.len(),
        acknowledged: load.0.into_inner().expect("no client panicked"),
        unanswered: unanswered.into_inner().expect("no client panicked"),
        refused: refused.into_inner(),
    }
}

/// Resets that were done: on a machine that is busy enough, a policy is not done in time, and nothing is changed.
const DONE: &str = "(SELECT * FROM reset_call WHERE outcome = 'done')";

/// Is the trail intact, every reset whole and on the record once, and every acknowledged one there?
/// Says how many resets there are.
pub fn check(dir: &Path, acknowledged: &HashSet<Uuid>, what: &str) -> i64 {
    let store = Store::open(dir).expect("the data directory opens");
    let resets = store.read(|db| {
        let report = audit::verify(db)?;
        assert!(report.is_intact(), "{what}: {report:?}");
        let number = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).expect("a number") };
        let calls = number(&format!("SELECT count(*) FROM {DONE}"));
        let entries = number(
            "SELECT count(*) FROM audit_entry WHERE event_type = 'USER_MFA_RESET' AND result = 'SUCCESS'",
        );
        assert_eq!(calls, entries, "{what}: resets and entries match one to one");
        assert_eq!(
            calls,
            number(&format!("SELECT count(DISTINCT target_id) FROM {DONE}")),
            "{what}"
        );
        assert_eq!(
            number("SELECT count(*) FROM reset_call"),
            number("SELECT count(*) FROM question"),
            "{what}: what was asked is kept"
        );
        // Every reset owes as much as the others, and nothing is owed twice.
        let owed = "SELECT count(*) FROM (SELECT count(d.id) AS n FROM audit_entry e \
             LEFT JOIN delivery d ON d.audit_sequence = e.sequence \
             WHERE e.event_type = 'USER_MFA_RESET' AND e.result = 'SUCCESS' GROUP BY e.sequence) GROUP BY n";
        let kinds = db.prepare(owed)?.query_map([], |_| Ok(()))?.count();
        assert!(kinds <= 1, "{what}: what resets owe differs");
        // A factor is gone exactly where an entry says so, and no session outlives it.
        let half_done = format!(
            "SELECT count(*) FROM user u WHERE role = 'member' AND \
             (EXISTS (SELECT 1 FROM {DONE} c WHERE c.target_id = u.id) \
              = EXISTS (SELECT 1 FROM factor f WHERE f.user_id = u.id AND f.suspended_at IS NULL) \
              OR (EXISTS (SELECT 1 FROM {DONE} c WHERE c.target_id = u.id) \
              AND EXISTS (SELECT 1 FROM session s WHERE s.user_id = u.id)) \
              OR EXISTS (SELECT 1 FROM {DONE} c WHERE c.target_id = u.id) \
              = (u.enrolment_due_until IS NULL))"
        );
        assert_eq!(number(&half_done), 0, "{what}: half done");
        let unrecorded = format!(
            "SELECT count(*) FROM {DONE} c WHERE NOT EXISTS (SELECT 1 FROM audit_entry e \
             WHERE e.resource_id = c.target_id AND e.event_type = 'USER_MFA_RESET' AND e.result = 'SUCCESS')"
        );
        assert_eq!(number(&unrecorded), 0, "{what}: a reset has an entry of its own");
        let mut found = db.prepare(&format!("SELECT 1 FROM {DONE} WHERE target_id = ?1"))?;
        for user in acknowledged {
            assert!(
                found.exists([user.as_bytes()])?,
                "{what}: {user} was acknowledged and is lost"
            );
        }
        Ok(calls)
    });
    resets.expect("the database can be read")
}

/// The status, or nothing when the server was killed before it answered.
pub fn reset(address: &str, token: &str, user: Uuid) -> Option<u16> {
    status(&exchange(address, &reset_line(user), token)?)
}

/// The same with an `Idempotency-Key`: repeated with it, the reset is not done again.
pub fn reset_once(address: &str, token: &str, user: Uuid) -> Option<u16> {
    let line = format!("{}\r\nIdempotency-Key: {user}", reset_line(user));
    status(&exchange(address, &line, token)?)
}

fn reset_line(user: Uuid) -> String {
    format!("POST /api/v1/users/{user}/reset-mfa HTTP/1.1")
}

fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

/// The whole answer to a request without a body; half an answer is none.
pub fn exchange(address: &str, line: &str, token: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!(
        "{line}\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("\r\n\r\n").then_some(answer)
}

/// A file system of its own in memory, until the test lets go of it.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Nothing without the right to mount one.
    pub fn new(at: &Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(at)
            .output()
            .ok()
            .filter(|output| output.status.success());
        if mounted.is_none() {
            println!("skipped: no file system can be mounted here");
        }
        mounted.map(|_| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The library that makes faults, built by the C compiler that builds SQLite too.
pub fn shim(folder: &Path) -> Option<PathBuf> {
    let library = folder.join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
        .arg(&library)
        .arg(source)
        .output();
    match built {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            println!("skipped: there is no C compiler here");
            None
        }
    }
}
