//! Faults below SQLite, under the real server: a full disk, I/O errors, a read-only disk, a write torn by the end
//! of the machine, a loss of power that takes all that was not put on disk. Each ends in the envelope's 500 with nothing changed, reads go on, readiness says so, and when
//! the fault ends so does the refusal, without hands.
//!
//! A small C library between the server and the operating system makes the faults; without a C compiler the test
//! says so and ends. A real file system that is full needs the right to mount one.

#[path = "faults/disk.rs"]
mod disk;
mod load_support;
#[path = "api/deliveries/receivers.rs"]
#[expect(dead_code, reason = "of the receivers, mail alone is needed")]
mod receivers;

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use disk::Disk;
use load_support::{Mounted, Server, check, exchange, latchkey, reset, reset_while, seed, shim};
use receivers::MailServer;
use uuid::Uuid;

/// Torn writes, and losses of power.
const ROUNDS: usize = 4;
/// Who resets at once while a fault begins and ends.
const CLIENTS: usize = 32;
/// Whom they reset.
const CROWD: usize = 1_500;

#[test]
fn each_fault_is_told_changes_nothing_and_ends_by_itself() {
    let Some(disk) = Disk::new(60 + 5 * CROWD) else {
        return;
    };
    let seeded = &disk.seeded;
    let mut server = disk.serve(&[]);
    let admin = seeded.admins[0].as_str();
    let (few, many) = seeded.users.split_at(60);
    let mut users = few.iter();
    let mut crowds = many.chunks(CROWD);
    let mut acknowledged = HashSet::new();
    for (letter, name) in [
        ("f", "full disk"),
        ("p", "full in the middle of a write"),
        ("e", "I/O error"),
        ("s", "error when it is put on disk"),
        ("r", "read-only"),
    ] {
        let before = *users.next().unwrap();
        assert_eq!(reset(&server.address, admin, before), Some(200), "{name}");
        acknowledged.insert(before);
        disk.says(letter);
        let during = *users.next().unwrap();
        let refused = exchange(&server.address, &format!("POST {}", path(during)), admin).unwrap();
        assert!(refused.starts_with("HTTP/1.1 500"), "{name}: {refused}");
        let (_, body) = refused.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["status"], 500, "{name}: the envelope");
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|text| !text.contains("database")),
            "{body}"
        );
        for (what, status) in [
            ("/api/v1/users", 200),
            ("/api/v1/audit-logs", 200),
            ("/health/live", 200),
            ("/health/ready", 503),
        ] {
            assert_eq!(get(&server.address, what, admin), status, "{name}: {what}");
        }
        disk.says("-");
        let ended = Instant::now();
        while get(&server.address, "/health/ready", admin) != 200 {
            assert!(
                ended.elapsed() < Duration::from_secs(10),
                "{name}: it does not recover"
            );
        }
        // Nothing was changed: there is still a factor to reset.
        assert_eq!(reset(&server.address, admin, during), Some(200), "{name}");
        acknowledged.insert(during);
        let recovered = ended.elapsed();
        // In the middle of groups: each of their changes is done and answered so, or not done.
        let crowd = crowds.next().unwrap();
        let ended = reset_while(&server.address, &seeded.admins, crowd, CLIENTS, |load| {
            load.wait_for(CLIENTS);
            disk.says(letter);
            std::thread::sleep(Duration::from_millis(100));
            disk.says("-");
            std::thread::sleep(Duration::from_millis(100));
        });
        assert!(ended.refused > 0 && ended.unanswered.is_empty(), "{name}");
        println!(
            "{name}: 500 in the envelope, reads go on, not ready; ready {recovered:.0?} after it ended; of a crowd {} \
             reset, {} refused",
            ended.acknowledged.len(),
            ended.refused
        );
        acknowledged.extend(ended.acknowledged.into_keys());
    }
    server.kill();
    let resets = check(&disk.data, &acknowledged, "after every fault");
    assert_eq!(
        usize::try_from(resets).unwrap(),
        acknowledged.len(),
        "none was done that was refused"
    );
}

/// The frames of a commit are in the WAL before the call fails that puts them on disk, and the next start would find
/// them there.
#[test]
fn what_was_refused_for_a_failed_fsync_is_not_done_after_a_kill() {
    let Some(disk) = Disk::new(4) else { return };
    let (admin, other) = (&disk.seeded.admins[0], &disk.seeded.admins[1]);
    let [before, during, meanwhile, _] = disk.seeded.users[..] else {
        panic!("four were seeded")
    };
    let mut acknowledged = HashSet::new();
    // A reset is recorded as failed by a second change; a logout is not.
    for (done, line) in [
        (before, format!("POST {}", path(during))),
        (meanwhile, "POST /api/v1/auth/logout HTTP/1.1".to_owned()),
    ] {
        let mut server = disk.serve(&[]);
        assert_eq!(
            reset(&server.address, admin, done),
            Some(200),
            "the WAL has begun"
        );
        acknowledged.insert(done);
        let recorded = entries(&server.address, admin);
        disk.says("s");
        let refused = exchange(&server.address, &line, other).unwrap();
        server.kill(); // before anything else is written
        disk.says("-");
        assert!(refused.starts_with("HTTP/1.1 500"), "{line}: {refused}");
        let resets = check(&disk.data, &acknowledged, &line);
        assert_eq!(usize::try_from(resets).unwrap(), acknowledged.len(), "{line}");
        let server = disk.serve(&[]);
        assert_eq!(
            entries(&server.address, admin),
            recorded,
            "{line}: no entry either"
        );
        assert_eq!(
            get(&server.address, "/api/v1/users", other),
            200,
            "{line}: still logged in"
        );
    }
}

/// How many entries the trail of an admin's organisation has.
fn entries(address: &str, admin: &str) -> u64 {
    let answer = exchange(address, "GET /api/v1/audit-logs?size=1 HTTP/1.1", admin).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    body["totalElements"].as_u64().expect("a number")
}

#[test]
fn on_a_full_disk_nobody_is_told_the_same_every_second() {
    let Some(disk) = Disk::new(5) else { return };
    let seeded = &disk.seeded;
    let mail = MailServer::start();
    let port = mail.address.port().to_string();
    let mailing = [
        ("LATCHKEY_MAIL__HOST", "127.0.0.1"),
        ("LATCHKEY_MAIL__PORT", port.as_str()),
        ("LATCHKEY_MAIL__TLS", "none"),
    ];
    let server = disk.serve(&mailing);
    mail.be_mute(true);
    let user = seeded.users[0];
    assert_eq!(reset(&server.address, &seeded.admins[0], user), Some(200));
    mail.wait_for(1);
    disk.says("f");
    // The mail server says that it has them, and that can't be noted.
    mail.be_mute(false);
    // Longer than the next second, and than what was not noted waits.
    std::thread::sleep(Duration::from_secs(12));
    let again = || {
        let received = mail.received();
        let names: HashSet<_> = received.iter().map(|mail| mail.header("Message-ID")).collect();
        received.len() - names.len()
    };
    assert_eq!(again(), 0, "a mail came again");
    disk.says("-");
    let ended = Instant::now();
    while again() == 0 {
        assert!(ended.elapsed() < Duration::from_secs(60), "once there is room");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_server_that_starts_on_a_full_disk_says_so_until_there_is_room() {
    let Some(disk) = Disk::new(5) else { return };
    let seeded = &disk.seeded;
    // The first start writes down whose keys these are; a later one need not write.
    let mut before = disk.serve(&[]);
    before.kill();
    disk.says("f");
    let server = disk.serve(&[]);
    let admin = seeded.admins[0].as_str();
    let told = |call: &str, status: u16| {
        let answer = exchange(&server.address, &format!("{call} HTTP/1.1"), admin).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(
            answer.contains("Changes can't be put on disk now; nothing has been changed"),
            "{answer}"
        );
    };
    // Before anybody changed anything.
    told("GET /health/ready", 503);
    let call = format!("POST /api/v1/users/{}/reset-mfa", seeded.users[0]);
    told(&call, 500);
    assert_eq!(get(&server.address, "/api/v1/users", admin), 200);
    disk.says("-");
    assert_eq!(get(&server.address, "/health/ready", admin), 200);
    assert_eq!(reset(&server.address, admin, seeded.users[0]), Some(200));
}

/// A disk that can't be read: what is cached is still told, the rest is 500, and nobody is cut off.
#[test]
fn a_disk_that_cannot_be_read_ends_requests_and_not_the_server() {
    let Some(disk) = Disk::new(20_000) else { return };
    let seeded = &disk.seeded;
    let mut server = disk.serve(&[]);
    let ended = reset_while(&server.address, &seeded.admins, &seeded.users, CLIENTS, |load| {
        load.wait_for(CLIENTS);
        disk.says("i");
        std::thread::sleep(Duration::from_millis(200));
        disk.says("-");
        load.wait_for(CLIENTS);
    });
    println!(
        "unreadable: {} reset, {} refused",
        ended.acknowledged.len(),
        ended.refused
    );
    assert!(ended.refused > 0, "pages that are not cached were asked for");
    assert!(ended.unanswered.is_empty(), "the server lives");
    assert_eq!(get(&server.address, "/health/ready", &seeded.admins[0]), 200);
    server.kill();
    let acknowledged: HashSet<_> = ended.acknowledged.into_keys().collect();
    let resets = check(&disk.data, &acknowledged, "unreadable");
    assert_eq!(
        usize::try_from(resets).unwrap(),
        acknowledged.len(),
        "none was done that was refused"
    );
}

#[test]
fn a_write_torn_by_the_end_of_the_machine_loses_nothing_acknowledged() {
    machine_ends("t", "torn writes");
}

/// With `synchronous` below FULL this fails: what was answered was not on disk.
#[test]
fn a_loss_of_power_takes_nothing_acknowledged_with_it() {
    machine_ends("l", "losses of power");
}

fn machine_ends(letter: &str, what: &str) {
    let Some(disk) = Disk::new(400 * ROUNDS) else {
        return;
    };
    let seeded = &disk.seeded;
    let further: &[_] = if letter == "l" {
        &[("POWER_LOSS", "1")]
    } else {
        &[]
    };
    let mut acknowledged = HashSet::new();
    for (round, users) in seeded.users.chunks(400).enumerate() {
        disk.says("-");
        let mut server = disk.serve(further);
        let address = server.address.clone();
        let ended = reset_while(&address, &seeded.admins, users, 8, |load| {
            load.wait_for(3 + 20 * round);
            disk.says(letter);
            assert_eq!(server.wait().signal(), Some(9), "it ended the machine");
        });
        assert!(!ended.unanswered.is_empty(), "somebody was cut off");
        acknowledged.extend(ended.acknowledged.into_keys());
        check(&disk.data, &acknowledged, &format!("{what}, round {round}"));
    }
    // And it goes on where it was.
    let server = Server::start(&disk.data, &[]);
    let untouched = seeded.users.last().filter(|user| !acknowledged.contains(user));
    if let Some(user) = untouched {
        assert!(matches!(
            reset(&server.address, &seeded.admins[0], *user),
            Some(200 | 400)
        ));
    }
    assert_eq!(get(&server.address, "/health/ready", &seeded.admins[0]), 200);
    drop(server);
    println!(
        "{ROUNDS} {what}: {} resets acknowledged and all found",
        acknowledged.len()
    );
}

#[test]
fn a_fault_at_the_first_start_ends_it_with_what_is_wrong_and_the_next_one_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let Some(shim) = shim(folder.path()) else { return };
    let control = folder.path().join("fault");
    for (letter, said) in [
        ("f", "make room on the disk"),
        ("e", "check the system's log"),
        ("r", "check the system's log"),
    ] {
        let data = folder.path().join(letter);
        let start = || {
            latchkey()
                .args(["org", "create", "acme", "--data-dir"])
                .arg(&data)
                .env("LD_PRELOAD", &shim)
                .env("FAULT_FILE", &control)
                .output()
                .unwrap()
        };
        fs::write(&control, letter).unwrap();
        let failed = start();
        let told = String::from_utf8_lossy(&failed.stderr);
        println!("{letter}: {told}");
        assert_eq!(failed.status.code(), Some(4), "{letter}: {told}");
        assert!(
            told.contains(said) && told.contains("latchkey.db"),
            "{letter}: {told}"
        );
        assert!(!told.contains("panicked"), "{letter}: {told}");
        fs::write(&control, "-").unwrap();
        let succeeded = start();
        assert!(succeeded.status.success(), "{letter}: {succeeded:?}");
    }
}

#[test]
fn a_file_system_that_is_full_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let Some(_mounted) = Mounted::new(&data, "16m") else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let seeded = seed::seed(&data, 200);
    let mut server = Server::start(&data, &[]);
    let admin = seeded.admins[0].as_str();
    let filler = data.join("filler");
    // What is left goes to somebody else.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", &format!("of={}", filler.display())])
        .output();
    let mut acknowledged = HashSet::new();
    let mut refused = None;
    for user in &seeded.users {
        match reset(&server.address, admin, *user) {
            Some(200) => {
                acknowledged.insert(*user);
            }
            status => {
                assert_eq!(status, Some(500));
                refused = Some(*user);
                break;
            }
        }
    }
    let refused = refused.expect("the disk is full");
    assert_eq!(get(&server.address, "/api/v1/users", admin), 200);
    assert_eq!(get(&server.address, "/health/ready", admin), 503);
    fs::remove_file(&filler).unwrap();
    let ended = Instant::now();
    while get(&server.address, "/health/ready", admin) != 200 {
        assert!(ended.elapsed() < Duration::from_secs(10), "it does not recover");
    }
    assert_eq!(reset(&server.address, admin, refused), Some(200));
    acknowledged.insert(refused);
    println!(
        "a full file system: {} resets before it was, 500 then, ready {:.0?} after there was room",
        acknowledged.len() - 1,
        ended.elapsed()
    );
    server.kill();
    check(&data, &acknowledged, "full");
}

/// The users are there when their links are to be written, and nothing shows these links a second time.
#[test]
fn an_import_whose_links_can_not_be_written_says_who_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (data, small) = (folder.path().join("data"), folder.path().join("small"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&small).unwrap();
    let Some(_mounted) = Mounted::new(&small, "64k") else {
        return;
    };
    let filler = format!("of={}", small.join("filler").display());
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", &filler])
        .output();
    let run = |args: &[&str]| {
        let output = latchkey()
            .args(args)
            .arg("--data-dir")
            .arg(&data)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    run(&["org", "create", "acme"]);
    let (people, links) = (folder.path().join("people.csv"), small.join("links.csv"));
    let [people_path, links_path] = [&people, &links].map(|path| path.to_str().unwrap());
    let import = [
        "user",
        "import",
        people_path,
        "--org",
        "acme",
        "--links",
        links_path,
    ];
    for (name, more) in [("ann", &[][..]), ("bo", &["--json"])] {
        fs::write(&people, format!("email\n{name}@acme.example\n")).unwrap();
        let (code, out, said) = run(&[&import[..], more].concat());
        assert_eq!(code, Some(1), "{said}");
        let told = if more.is_empty() {
            "1 user imported into acme"
        } else {
            "bo@acme.example"
        };
        assert!(out.contains(told), "{out}");
        assert!(!out.contains("Links to set"), "{out}");
        assert!(
            said.contains("1 user was imported") && said.contains("an admin resets each one's password"),
            "{said}"
        );
        fs::remove_file(&links).unwrap();
    }
}

#[test]
fn a_second_process_is_refused_with_what_to_do_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let seeded = seed::seed(folder.path(), 5);
    let server = Server::start(folder.path(), &[]);
    for args in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["org", "list"],
        &["keys", "rotate"],
    ] {
        let second = latchkey()
            .args(args)
            .arg("--data-dir")
            .arg(folder.path())
            .output()
            .unwrap();
        assert_eq!(second.status.code(), Some(4), "{args:?}");
        let said = String::from_utf8(second.stderr).unwrap();
        assert!(
            said.contains("in use by another latchkey process; stop it first"),
            "{said}"
        );
    }
    assert_eq!(
        reset(&server.address, &seeded.admins[0], seeded.users[0]),
        Some(200)
    );
}

fn path(user: Uuid) -> String {
    format!("/api/v1/users/{user}/reset-mfa HTTP/1.1")
}

fn get(address: &str, what: &str, token: &str) -> u16 {
    let answer = exchange(address, &format!("GET {what} HTTP/1.1"), token).unwrap_or_default();
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}
