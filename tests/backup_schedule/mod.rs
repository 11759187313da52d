//! Backups that make themselves, and what a stop, a full disk or a neighbour makes of them.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use latchkey::app::App;
use latchkey::clock::Clock;
use latchkey::config::Config;
use latchkey::domain::audit::ActorRef;
use latchkey::entropy::Entropy;
use latchkey::service::backup::{self, BackupError, BackupOrder, KeyChoice, Owner, Schedule};
use latchkey::service::trail;

use super::load_support::{Mounted, Server, check, latchkey, reset, shim};
use super::{Place, names};

/// An appliance at noon.
fn app_at_noon(data_dir: &Path) -> App {
    let mut app = App::open(Config::for_data_dir(data_dir)).unwrap();
    let noon: Timestamp = "2026-02-18T12:00:00Z".parse().unwrap();
    Arc::get_mut(&mut app.services).unwrap().clock = Clock::set_to(noon);
    app
}

fn every_six_hours(directory: &Path, keep: usize) -> Schedule {
    Schedule {
        directory: directory.to_owned(),
        every: SignedDuration::from_hours(6),
        keep,
        keys: KeyChoice::Plain,
        passphrase_file: None,
    }
}

#[test]
fn a_server_with_a_directory_for_them_makes_backups_by_itself() {
    let place = Place::with_users(3);
    let directory = place.path("backups");
    fs::create_dir(&directory).unwrap();
    let variables = [
        ("LATCHKEY_BACKUP__DIRECTORY", directory.to_str().unwrap()),
        ("LATCHKEY_BACKUP__EVERY_HOURS", "1"),
    ];
    let server = Server::start(&place.path("data"), &variables);
    let until = Instant::now() + Duration::from_secs(30);
    let made = loop {
        // An unfinished one begins with a dot.
        if let Some(name) = names(&directory)
            .into_iter()
            .find(|name| name.starts_with("latchkey-"))
        {
            break directory.join(name);
        }
        assert!(Instant::now() < until, "no backup is made");
        std::thread::sleep(Duration::from_millis(50));
    };
    let admin = &place.seeded.admins[0];
    assert_eq!(reset(&server.address, admin, place.seeded.users[0]), Some(200));
    drop(server);
    let restored = place.run("restored", &["restore", made.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(
        check(&place.path("restored"), &HashSet::new(), "restored"),
        0,
        "as it was then"
    );
}

#[test]
fn scheduled_backups_come_when_due_and_the_oldest_go() {
    let place = Place::with_users(1);
    let app = app_at_noon(&place.path("data"));
    let directory = place.path("backups");
    fs::create_dir(&directory).unwrap();
    fs::create_dir(directory.join("latchkey-notes")).unwrap();
    fs::create_dir(directory.join(".latchkey-20260217T120000Z.unfinished-0a0b0c0d")).unwrap();
    let schedule = every_six_hours(&directory, 2);
    let due = || backup::back_up_when_due(&app.services, &schedule, &|| false).unwrap();
    assert!(due().is_some() && due().is_none(), "one at once, and no second");
    app.services.clock.advance(SignedDuration::from_hours(5));
    assert!(due().is_none());
    for _ in 0..2 {
        app.services.clock.advance(SignedDuration::from_hours(6));
        assert!(due().is_some());
    }
    assert_eq!(
        names(&directory),
        [
            "latchkey-20260218T230000Z",
            "latchkey-20260219T050000Z",
            "latchkey-notes"
        ],
        "the two newest, and what is not ours"
    );
    // A clock that goes back neither stops backups nor makes one a minute. Those from what is the future now are kept
    // beside as many others: the clock may be wrong now, or have been wrong then, and either may be the real ones.
    app.services.clock.advance(-SignedDuration::from_hours(48));
    assert!(due().is_some() && due().is_none());
    for _ in 0..2 {
        app.services.clock.advance(SignedDuration::from_hours(6));
        assert!(due().is_some());
    }
    assert_eq!(
        names(&directory),
        [
            "latchkey-20260217T110000Z",
            "latchkey-20260217T170000Z",
            "latchkey-20260218T230000Z",
            "latchkey-20260219T050000Z",
            "latchkey-notes"
        ]
    );
    // Once their time has come they count as the others do.
    app.services.clock.advance(SignedDuration::from_hours(48));
    assert!(due().is_some());
    assert_eq!(
        names(&directory),
        [
            "latchkey-20260219T050000Z",
            "latchkey-20260219T170000Z",
            "latchkey-notes"
        ]
    );
}

/// The remains of a removal that was interrupted have the keys, so they must not be lost sight of.
#[test]
fn an_old_backup_that_can_not_be_removed_wholly_is_no_backup_and_goes_later() {
    let place = Place::with_users(1);
    let app = app_at_noon(&place.path("data"));
    let directory = place.path("backups");
    fs::create_dir(&directory).unwrap();
    let schedule = every_six_hours(&directory, 1);
    let due = || backup::back_up_when_due(&app.services, &schedule, &|| false).unwrap();
    let old = due().unwrap();
    let Some(mounted) = Mounted::new(&old.join("checkpoints"), "1m") else {
        return;
    };
    app.services.clock.advance(SignedDuration::from_hours(6));
    let new = due().expect("it was made, whatever becomes of the old one");
    let there = names(&directory);
    assert!(
        there.len() == 2 && there[0].starts_with(".latchkey-20260218T120000Z"),
        "{there:?}"
    );
    assert!(!old.exists() && new.exists());
    let moved = directory.join(&there[0]).join("checkpoints");
    assert!(
        Command::new("umount")
            .arg("-l")
            .arg(moved)
            .status()
            .unwrap()
            .success()
    );
    std::mem::forget(mounted); // it is elsewhere by now
    app.services.clock.advance(SignedDuration::from_hours(6));
    assert!(due().is_some());
    assert_eq!(names(&directory), ["latchkey-20260219T000000Z"]);
}

#[test]
fn what_a_killed_backup_or_restore_left_beside_its_place_is_told() {
    let place = Place::with_users(1);
    for (to, args) in [("made", ["backup", "made"]), ("new", ["restore", "made"])] {
        let left = place.path(&format!(".{to}.unfinished-0a0b0c0d"));
        fs::create_dir(&left).unwrap();
        let another = place.path(&format!(".{to}2.unfinished-0a0b0c0d"));
        fs::create_dir(&another).unwrap();
        let data_dir = if to == "new" { "new" } else { "data" };
        let output = place.run(data_dir, &args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains(left.file_name().unwrap().to_str().unwrap()) && said.contains("may have the keys"),
            "{said}"
        );
        assert!(
            !said.contains(another.file_name().unwrap().to_str().unwrap()),
            "{said}"
        );
        assert!(left.exists(), "another process may be filling it");
    }
}

#[test]
fn a_scheduled_backup_that_fails_removes_nothing() {
    let place = Place::with_users(1);
    let app = App::open(Config::for_data_dir(&place.path("data"))).unwrap();
    let directory = place.path("backups");
    fs::create_dir(&directory).unwrap();
    let schedule = Schedule {
        directory: directory.clone(),
        every: SignedDuration::from_secs(0),
        keep: 1,
        keys: KeyChoice::Sealed,
        passphrase_file: Some(place.path("secret")),
    };
    fs::write(place.path("secret"), "correct horse\n").unwrap();
    backup::back_up_when_due(&app.services, &schedule, &|| false).unwrap();
    let before = names(&directory);
    fs::remove_file(place.path("secret")).unwrap();
    backup::back_up_when_due(&app.services, &schedule, &|| false).unwrap_err();
    assert_eq!(names(&directory), before);
}

/// Two nodes have one directory, and neither takes the other's backups for its own.
#[test]
fn an_appliance_counts_and_removes_its_own_backups_alone() {
    let place = Place::with_users(1);
    fs::create_dir(place.path("other")).unwrap();
    place.ok("other", &["org", "create", "other"]);
    let directory = place.path("backups");
    fs::create_dir(&directory).unwrap();
    let schedule = every_six_hours(&directory, 1);
    let (one, other) = (
        app_at_noon(&place.path("data")),
        app_at_noon(&place.path("other")),
    );
    let due = |app: &App| backup::back_up_when_due(&app.services, &schedule, &|| false).unwrap();
    assert!(due(&one).is_some());
    other.services.clock.advance(SignedDuration::from_mins(1));
    assert!(due(&other).is_some(), "the other's is not its own");
    assert!(due(&one).is_none() && due(&other).is_none());
    // Another key signs the trail, and the backup is of the same appliance.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(trail::rotate_key(&one.services, ActorRef::operator()))
        .unwrap();
    assert!(due(&one).is_none());
    let unfinished = |app: &App, begun: &str| {
        let mark = Owner::of(&app.services).unwrap().mark();
        let name = format!(".latchkey-{begun}.unfinished-{mark}-0a0b0c0d");
        fs::create_dir(directory.join(&name)).unwrap();
        name
    };
    unfinished(&one, "20260218T175900Z");
    let under_way = unfinished(&other, "20260218T175900Z");
    unfinished(&other, "20260216T175900Z");
    one.services.clock.advance(SignedDuration::from_hours(6));
    assert!(due(&one).is_some());
    assert_eq!(
        names(&directory),
        [
            under_way.as_str(),
            "latchkey-20260218T120100Z",
            "latchkey-20260218T180000Z"
        ],
        "its own is replaced, and the other may go on with its"
    );
}

/// A trial restore finds the same configuration, so the same directory, and has the same root key.
#[test]
fn a_restored_copy_takes_none_of_the_originals_backups_for_its_own() {
    let place = Place::with_users(1);
    let directory = place.path("backups");
    fs::create_dir(&directory).unwrap();
    let schedule = every_six_hours(&directory, 1);
    let due = |app: &App| backup::back_up_when_due(&app.services, &schedule, &|| false).unwrap();
    let original = app_at_noon(&place.path("data"));
    let made = due(&original).unwrap();
    place.ok("trial", &["restore", made.to_str().unwrap()]);
    let trial = app_at_noon(&place.path("trial"));
    let newest = |app: &App| {
        let owner = Owner::of(&app.services).unwrap();
        let newest = backup::find_newest(&directory, &owner, app.services.clock.now()).unwrap();
        newest.at.map(|at| at.to_string())
    };
    assert_eq!(newest(&trial), None);
    trial.services.clock.advance(SignedDuration::from_mins(1));
    assert!(due(&trial).is_some(), "the original's is not its own");
    assert_eq!(newest(&original).as_deref(), Some("2026-02-18T12:00:00Z"));
    assert!(due(&original).is_none() && due(&trial).is_none());
    let mark = Owner::of(&original.services).unwrap().mark();
    let under_way = format!(".latchkey-20260218T180000Z.unfinished-{mark}-0a0b0c0d");
    fs::create_dir(directory.join(&under_way)).unwrap();
    trial.services.clock.advance(SignedDuration::from_hours(6));
    assert!(due(&trial).is_some());
    assert_eq!(
        names(&directory),
        [
            under_way.as_str(),
            "latchkey-20260218T120000Z",
            "latchkey-20260218T180100Z"
        ],
        "the copy removes its own alone"
    );
    original.services.clock.advance(SignedDuration::from_hours(6));
    assert!(due(&original).is_some());
    assert_eq!(
        names(&directory),
        ["latchkey-20260218T180000Z", "latchkey-20260218T180100Z"]
    );
}

#[test]
fn a_backup_that_is_stopped_leaves_nothing() {
    let place = Place::with_users(5);
    let directory = place.path("backups");
    fs::create_dir(&directory).unwrap();
    for stopped_at in ["copy", "verify", "hash"] {
        let order = BackupOrder {
            data_dir: place.path("data"),
            destination: directory.join("made"),
            keys: KeyChoice::Plain,
            passphrase: None,
            public_url: "http://127.0.0.1".to_owned(),
        };
        let watch = &mut |what, _, _| {
            if what == stopped_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let ended = backup::create(&order, &Clock::system(), &Entropy::system(), watch);
        assert!(
            matches!(ended, Err(BackupError::Stopped)),
            "{stopped_at}: {ended:?}"
        );
        assert_eq!(names(&directory), [""; 0], "{stopped_at}");
    }
}

fn wait_for_hanging(control: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    while fs::read(control).unwrap() != b"H" {
        assert!(Instant::now() < until, "no backup is made");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupted_backup_takes_its_copy_away() {
    let place = Place::with_users(1);
    let Some(shim) = shim(place.folder.path()) else {
        return;
    };
    let (directory, control) = (place.path("backups"), place.path("fault"));
    fs::create_dir(&directory).unwrap();
    fs::write(&control, "h").unwrap();
    let mut backup = latchkey()
        .args(["backup", "backups/made", "--data-dir", "data"])
        .current_dir(place.folder.path())
        .env("LD_PRELOAD", shim)
        .env("FAULT_FILE", &control)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_hanging(&control);
    let sent = Command::new("kill")
        .arg("-INT")
        .arg(backup.id().to_string())
        .status();
    assert!(sent.unwrap().success());
    let mut said = BufReader::new(backup.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(said.any(|line| line.contains("a second signal ends at once")));
    fs::write(&control, "-").unwrap();
    assert!(said.any(|line| line.contains("stopped before it was done")));
    assert_eq!(backup.wait().unwrap().code(), Some(1));
    assert_eq!(names(&directory), [""; 0]);
}

/// A server whose backup does not get on.
struct Hanging {
    server: Server,
    directory: PathBuf,
    _place: Place,
}

impl Hanging {
    fn start() -> Option<Self> {
        let place = Place::with_users(1);
        let shim = shim(place.folder.path())?;
        let (directory, control) = (place.path("backups"), place.path("fault"));
        fs::create_dir(&directory).unwrap();
        fs::write(&control, "h").unwrap();
        let variables = [
            ("LATCHKEY_BACKUP__DIRECTORY", directory.to_str().unwrap()),
            ("LD_PRELOAD", shim.to_str().unwrap()),
            ("FAULT_FILE", control.to_str().unwrap()),
        ];
        let server = Server::start(&place.path("data"), &variables);
        wait_for_hanging(&control);
        Some(Self {
            server,
            directory,
            _place: place,
        })
    }
}

#[test]
fn a_stop_while_a_backup_hangs_ends_in_time_and_leaves_no_copy() {
    let Some(mut hanging) = Hanging::start() else {
        return;
    };
    assert_eq!(names(&hanging.directory).len(), 1, "it has begun");
    hanging.server.terminate();
    assert!(hanging.server.wait().success());
    assert_eq!(names(&hanging.directory), [""; 0]);
}

#[test]
fn a_second_signal_ends_at_once_whatever_hangs() {
    let Some(mut hanging) = Hanging::start() else {
        return;
    };
    let until = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        if let Some(ended) = hanging.server.ended() {
            break ended;
        }
        assert!(Instant::now() < until, "it does not end");
        hanging.server.terminate();
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(ended.code(), Some(1), "by the signal, not by itself");
}

#[test]
fn a_backup_that_would_not_fit_is_refused_before_it_fills_the_disk() {
    let place = Place::with_users(1);
    let directory = place.path("small");
    fs::create_dir(&directory).unwrap();
    let Some(_mounted) = Mounted::new(&directory, "16m") else {
        return;
    };
    let output = place.run("data", &["backup", "small/made"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("small: 16 MiB are free, and a backup needs"),
        "{said}"
    );
    assert!(said.contains("make room there"), "{said}");
    let app = app_at_noon(&place.path("data"));
    let schedule = every_six_hours(&directory, 1);
    backup::back_up_when_due(&app.services, &schedule, &|| false).unwrap_err();
    assert_eq!(names(&directory), [""; 0]);
}
