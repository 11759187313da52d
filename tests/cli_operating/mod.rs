//! What an operator meets besides policies and people: who runs it, how it starts and stops, what fails and how that
//! is told.

mod export;
mod starting;

use std::os::unix::fs::MetadataExt as _;
use std::process::Output;
use std::{fs, iter};

use serde_json::json;

use crate::cli_support::Desk;

const DATA: &str = "latchkey-data";

/// Exit code and standard error.
fn ended(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

/// The command in a shell that lets no file grow beyond so many blocks (of 512 bytes or 1 KiB): a disk that is full.
fn confined(desk: &Desk, blocks: u32, args: &[&str]) -> Output {
    let command = desk.command(args);
    let line: Vec<_> = iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| format!("'{}'", part.to_str().unwrap()))
        .collect();
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {}", line.join(" "));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(desk.path(""));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LATCHKEY_") {
            shell.env_remove(name);
        }
    }
    shell.output().unwrap()
}

/// A file of so many people.
fn people(desk: &Desk, name: &str, count: u32) {
    let rows = (0..count).map(|n| format!("{n}.{name}@acme.example\n"));
    let text: String = iter::once("email\n".to_owned()).chain(rows).collect();
    fs::write(desk.path(name), text).unwrap();
}

#[test]
fn a_data_directory_of_somebody_else_is_refused_with_whom_to_be() {
    let desk = Desk::new();
    let own = fs::metadata(desk.path("")).unwrap().uid();
    if own != 0 {
        eprintln!("left out: only root can give a directory away");
        return;
    }
    desk.ok(&["org", "create", "acme"]);
    let owned_by =
        |place: &str, uid: u32| std::os::unix::fs::chown(desk.path(place), Some(uid), None).unwrap();
    let before = fs::read_dir(desk.path(DATA)).unwrap().count();
    let commands = [
        &["org", "list"][..],
        &["org", "create", "other"],
        &["keys", "rotate"],
        &["audit", "checkpoint"],
        &["audit", "accept-rollback"],
        &["doctor"],
        &["serve", "--listen", "127.0.0.1:0"],
    ];
    for place in [DATA, "latchkey-data/keys"] {
        owned_by(place, 65534);
        for args in commands {
            let (code, said) = ended(&desk.run(args));
            assert_eq!(code, Some(5), "{args:?}: {said}");
            let beginning = format!("latchkey: {place} belongs to ");
            assert!(said.starts_with(&beginning), "{args:?}: {said}");
            let advice = "uid 65534); run the command as that user, for example sudo -u '#65534' latchkey …";
            let nameless = advice.replacen(')', "", 1);
            assert!(
                said.contains(advice) || said.contains(&nameless),
                "{args:?}: {said}"
            );
        }
        owned_by(place, 0);
    }
    assert_eq!(
        fs::read_dir(desk.path(DATA)).unwrap().count(),
        before,
        "nothing was made"
    );
    desk.ok(&["org", "list"]);
}

#[test]
fn the_unit_stops_later_than_the_server_and_lets_policies_be_compiled() {
    let unit = include_str!("../../fixtures/systemd/latchkey.service");
    let set = |key: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let seconds: u64 = set("TimeoutStopSec")
        .unwrap()
        .trim_end_matches('s')
        .parse()
        .unwrap();
    let config = Desk::new().json(&["config", "check", "--json"]);
    let grace = config["http"]["shutdownGraceSecs"].as_u64().unwrap();
    assert!(
        seconds > grace + 10,
        "what is being sent, and the last signature, take their time, too"
    );
    assert_eq!(set("MemoryDenyWriteExecute"), None);
    assert_eq!(set("User"), Some("latchkey"));
    assert_eq!(set("StateDirectory"), Some("latchkey"));
    assert_eq!(set("Environment"), Some("LATCHKEY_DATA_DIR=/var/lib/latchkey"));
}

#[test]
fn a_mistyped_level_is_refused_by_every_command() {
    let desk = Desk::new();
    fs::write(desk.path("latchkey.toml"), "[log]\nlevel = \"verbose\"\n").unwrap();
    for args in [&["config", "check"][..], &["serve"], &["org", "list"]] {
        let (code, said) = ended(&desk.run(args));
        assert_eq!(code, Some(3), "{args:?}: {said}");
        assert!(
            said.contains("log.level: verbose is not a level; use off, error, "),
            "{said}"
        );
    }
    fs::remove_file(desk.path("latchkey.toml")).unwrap();
    let (code, said) = ended(&desk.run(&["config", "check", "--log-level", "inof"]));
    assert_eq!(code, Some(3));
    assert!(said.contains("inof is not a level"), "{said}");
}

#[test]
fn what_clients_export_does_not_stop_a_command() {
    let desk = Desk::new();
    let check = |name: &str| {
        let mut command = desk.command(&["config", "check"]);
        ended(&command.env(name, "tcp://10.0.0.1:80").output().unwrap())
    };
    for name in ["LATCHKEY_TOKEN", "LATCHKEY_PORT_8080_TCP_ADDR"] {
        assert_eq!(check(name).0, Some(0), "{name}");
    }
    let (code, said) = check("LATCHKEY_TOKEN_SECS");
    assert_eq!(code, Some(3), "{said}");
}

#[test]
fn a_rotation_that_the_next_start_would_undo_is_refused() {
    let desk = Desk::with_acme();
    let keys = || desk.json(&["keys", "list", "--json"]);
    let before = keys();
    let (code, said) = ended(&desk.run(&["keys", "rotate", "--algorithm", "eddsa"]));
    assert_eq!(code, Some(5), "{said}");
    let says = "tokens.algorithm is \"HS256\" in the configuration, and the next start would go back to it; set it to \
                \"EdDSA\" there first";
    assert!(said.contains(says), "{said}");
    assert_eq!(keys(), before, "no key was made");

    fs::write(desk.path("latchkey.toml"), "[tokens]\nalgorithm = \"EdDSA\"\n").unwrap();
    let rotated = desk.json(&["keys", "rotate", "--algorithm", "eddsa", "--json"]);
    let after = keys();
    let [new, old] = after.as_array().unwrap().as_slice() else {
        panic!("two keys: {after}");
    };
    assert_eq!(
        (&new["kid"], &new["algorithm"]),
        (&rotated["kid"], &json!("EdDSA"))
    );
    assert!(new["lapses"].is_null() && new["created"].is_string(), "{new}");
    assert_eq!(
        (&old["kid"], &old["algorithm"]),
        (&before[0]["kid"], &json!("HS256"))
    );
    assert_eq!(old["lapses"], rotated["oldKeysUntil"]);
    assert!(!after.to_string().contains("secret"), "{after}");
    let plainly = desk.ok(&["keys", "list"]);
    let kids: Vec<_> = plainly.lines().collect();
    assert_eq!(kids, [new["kid"].as_str().unwrap(), old["kid"].as_str().unwrap()]);
}

#[test]
fn a_rotation_by_itself_is_in_the_log() {
    let desk = Desk::with_acme();
    fs::write(desk.path("latchkey.toml"), "[tokens]\nalgorithm = \"EdDSA\"\n").unwrap();
    let serving = desk.server();
    // It is done right after the start, beside what is served.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let keys = desk.path("latchkey-data/keys/tokens.json");
    while !fs::read_to_string(&keys).unwrap().contains("EdDSA") && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let log = serving.stop();
    let line = log
        .lines()
        .find(|line| line.contains("a new key signs access tokens"));
    let line = line.unwrap_or_else(|| panic!("not said: {log}"));
    let kid = desk.ok(&["keys", "list"]).lines().next().unwrap().to_owned();
    assert!(
        line.contains("INFO") && line.contains(&kid) && line.contains("EdDSA"),
        "{line}"
    );
}

#[test]
fn a_full_disk_is_told_to_the_operator() {
    let desk = Desk::with_acme();
    people(&desk, "many.csv", 3000);
    let import = ["user", "import", "many.csv", "--org", "acme"];
    let (code, said) = ended(&confined(&desk, 400, &import));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("latchkey: database: "), "{said}");
    assert!(!said.contains("Internal error"), "{said}");
    desk.ok(&import);
}

#[test]
fn what_fails_in_a_running_server_is_told_to_the_operator() {
    let desk = Desk::with_acme();
    let serving = desk.server();
    serving.exchange("GET", "/health/live", None, ""); // by then it takes orders
    fs::rename(desk.path("latchkey-data/keys"), desk.path("aside")).unwrap();
    let (code, said) = ended(&desk.run(&["audit", "rotate-key"]));
    assert_eq!(code, Some(1), "{said}");
    let beginning = "latchkey: the server: latchkey-data/keys/audit.next.";
    assert!(said.starts_with(beginning), "{said}");
    assert!(
        said.ends_with(": No such file or directory (os error 2)\n"),
        "{said}"
    );
    fs::rename(desk.path("aside"), desk.path("latchkey-data/keys")).unwrap();
    serving.stop();
}

#[test]
fn what_the_system_says_is_said_once() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("latchkey-data/latchkey.lock")).unwrap();
    fs::write(desk.path("latchkey-data/latchkey.db"), "").unwrap();
    let (code, said) = ended(&desk.run(&["org", "list"]));
    assert_eq!(code, Some(4), "{said}");
    assert_eq!(
        said,
        "latchkey: latchkey-data/latchkey.lock: Is a directory (os error 21)\n"
    );
}

#[test]
fn a_file_of_links_is_refused_where_they_are_mailed() {
    let desk = Desk::with_acme();
    let mail = "[mail]\nhost = \"127.0.0.1\"\nport = 9\ntls = \"none\"\nfrom = \"latchkey@acme.example\"\n";
    fs::write(desk.path("latchkey.toml"), mail).unwrap();
    people(&desk, "one.csv", 1);
    let import = ["user", "import", "one.csv", "--org", "acme"];
    let (code, said) = ended(&desk.run(&[&import[..], &["--links", "links.csv"]].concat()));
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("mail is configured") && said.contains("leave --links out"),
        "{said}"
    );
    assert!(!desk.path("links.csv").exists());
    assert_eq!(
        desk.ok(&import),
        "1 user imported into acme\n1 link to set a password will be mailed by latchkey serve\n"
    );
}

#[test]
fn the_trails_keys_are_told_as_json_and_the_help_has_examples() {
    let desk = Desk::with_acme();
    let first = desk.ok(&["audit", "key"]).trim_end().to_owned();
    desk.ok(&["audit", "rotate-key"]);
    let plainly = desk.ok(&["audit", "key"]);
    let lines: Vec<_> = plainly.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, first.as_str()));
    let log = first.split('+').next().unwrap();
    let expected = json!([
        { "log": log, "key": lines[0], "inUse": false },
        { "log": log, "key": lines[1], "inUse": true },
    ]);
    assert_eq!(desk.json(&["audit", "key", "--json"]), expected);
    for command in [
        ["org", "list"],
        ["user", "list"],
        ["keys", "list"],
        ["audit", "key"],
    ] {
        let help = desk.ok(&[&["help"][..], &command].concat());
        let example = format!("Examples:\n  latchkey {} {}", command[0], command[1]);
        assert!(help.contains(&example) && help.contains("--json"), "{help}");
    }
}
