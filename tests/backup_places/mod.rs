//! Where a backup is restored to: mounted volumes, others' directories, and a last step that fails.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};

use super::load_support::{Mounted, Server, reset, shim};
use super::{Place, latchkey, names};

const NOBODY: u32 = 65534;

#[test]
fn a_restore_fills_an_empty_volume() {
    let place = Place::with_users(2);
    place.ok("data", &["backup", "made"]);
    fs::create_dir_all(place.path("empty/lost+found")).unwrap();
    fs::create_dir(place.path("volume")).unwrap();
    let mounted = Mounted::new(&place.path("volume"), "128m");
    let volume = mounted.as_ref().map(|_| "volume");
    for name in ["empty"].into_iter().chain(volume) {
        place.ok(name, &["restore", "made", "--check"]);
        let before = usize::from(name == "empty");
        assert_eq!(names(&place.path(name)).len(), before, "a check changes nothing");
        place.ok(name, &["restore", "made"]);
        let there = names(&place.path(name));
        assert!(!there.iter().any(|name| name.contains("unfinished")), "{there:?}");
        fs::copy(
            place.path("data/latchkey.toml"),
            place.path(name).join("latchkey.toml"),
        )
        .unwrap();
        let server = Server::start(&place.path(name), &[]);
        let admin = &place.seeded.admins[0];
        assert_eq!(reset(&server.address, admin, place.seeded.users[0]), Some(401));
    }
    // A backup goes into a volume, too.
    fs::create_dir(place.path("stick")).unwrap();
    if let Some(_mounted) = Mounted::new(&place.path("stick"), "256m") {
        place.ok("data", &["backup", "stick"]);
        place.ok("again", &["restore", "stick"]);
    }
}

#[test]
fn what_a_restore_left_that_ended_early_is_neither_served_nor_filled() {
    let place = Place::with_users(1);
    place.ok("data", &["backup", "made"]);
    place.ok("new", &["restore", "made"]);
    fs::create_dir(place.path("new/.unfinished-0a0b0c0d")).unwrap();
    for args in [&["serve", "--listen", "127.0.0.1:0"][..], &["restore", "made"]] {
        let output = place.run("new", args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(
            said.contains("has ended early") && said.contains("remove everything in"),
            "{said}"
        );
    }
}

/// The witness has seen nothing of a restore that came to nothing, so that what was to be replaced starts again.
#[test]
fn a_restore_whose_last_step_fails_changes_nothing() {
    let place = Place::with_users(1);
    let Some(shim) = shim(place.folder.path()) else {
        return;
    };
    let witness = place.witnessed();
    let with = |args: &[&'static str]| [args, &["--config-file", "witnessed.toml"]].concat();
    place.ok("data", &with(&["audit", "checkpoint"]));
    place.ok("data", &with(&["backup", "made"]));
    let before = names(&witness);
    fs::write(place.path("fault"), "n").unwrap();
    let restore = with(&["restore", "made", "--data-dir", "new"]);
    let output = latchkey()
        .args(&restore)
        .current_dir(place.folder.path())
        .env("LD_PRELOAD", shim)
        .env("FAULT_FILE", place.path("fault"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("busy"), "{said}");
    let left = names(place.folder.path());
    assert!(!left.iter().any(|name| name.contains("new")), "{left:?}");
    assert_eq!(names(&witness), before);
    place.ok("data", &with(&["audit", "checkpoint"]));
    place.ok("new", &with(&["restore", "made"]));
    assert_eq!(names(&witness).len(), before.len() + 1, "once it is in place");
}

#[test]
fn a_restore_into_somebody_elses_directory_is_refused() {
    let place = Place::with_users(1);
    if fs::metadata(place.folder.path()).unwrap().uid() != 0 {
        println!("skipped: only root can give a directory away");
        return;
    }
    place.ok("data", &["backup", "made"]);
    fs::create_dir(place.path("theirs")).unwrap();
    chown(place.path("theirs"), Some(NOBODY), None).unwrap();
    for name in ["theirs", "theirs/new"] {
        let output = place.run(name, &["restore", "made"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("sudo -u '#65534'"), "{said}");
        assert_eq!(names(&place.path("theirs")), [""; 0]);
    }
}
