//! How a server starts and stops.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::DATA;
use crate::cli_support::{Desk, Server};

/// The lines of a log in JSON, once the server was stopped.
fn log(server: Server) -> Vec<Value> {
    let text = server.stop();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn serve(desk: &Desk, listen: &str) -> Server {
    desk.serve(&["serve", "--listen", listen, "--log-format", "json"])
}

fn warnings(log: &[Value]) -> Vec<&str> {
    let warnings = log.iter().filter(|line| line["level"] == "WARN");
    warnings.map(|line| line["message"].as_str().unwrap()).collect()
}

#[test]
fn the_first_lines_say_what_is_served_and_what_is_doubtful() {
    let desk = Desk::new();
    let server = serve(&desk, "127.0.0.1:0");
    let address = server.address().to_string();
    let first = log(server);
    let starts: Vec<_> = first
        .iter()
        .filter(|line| line["message"] == "latchkey starts")
        .collect();
    let [start] = starts.as_slice() else {
        panic!("one line: {first:?}");
    };
    assert_eq!(start["level"], "INFO");
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["configuration"], "none");
    assert_eq!(start["data_dir"], DATA);
    assert_eq!(start["address"], address);
    let [made, nobody] = warnings(&first)[..] else {
        panic!("two warnings: {first:?}");
    };
    assert!(made.contains("a new one has just been made"), "{made}");
    assert!(
        nobody.contains("latchkey --data-dir latchkey-data org create SLUG"),
        "{nobody}"
    );
    // Where the binary was built is nobody's business.
    let everything = format!("{first:?}");
    assert!(!everything.contains("rusqlite_migration"), "{everything}");

    desk.ok(&["org", "create", "acme"]);
    fs::write(desk.path("latchkey.toml"), "").unwrap();
    let second = log(serve(&desk, "127.0.0.1:0"));
    assert_eq!(warnings(&second), Vec::<&str>::new());
    let named = second.iter().any(|line| line["configuration"] == "latchkey.toml");
    assert!(named, "{second:?}");
}

#[test]
fn plain_http_beyond_this_machine_and_a_clock_that_is_behind_are_warned_of() {
    let desk = Desk::with_acme();
    let open = log(serve(&desk, "0.0.0.0:0"));
    let [plain] = warnings(&open)[..] else {
        panic!("one warning: {open:?}");
    };
    assert!(plain.contains("0.0.0.0:0 speaks plain HTTP"), "{plain}");
    fs::write(
        desk.path("latchkey.toml"),
        "public_url = \"https://mfa.acme.example\"\n",
    )
    .unwrap();
    assert_eq!(warnings(&log(serve(&desk, "0.0.0.0:0"))), Vec::<&str>::new());

    // As if the clock had been ahead when the newest entry was written.
    let database = rusqlite::Connection::open(desk.path("latchkey-data/latchkey.db")).unwrap();
    let ahead =
        "UPDATE audit_entry SET at = at + 3600000 WHERE sequence = (SELECT max(sequence) FROM audit_entry)";
    database.execute(ahead, []).unwrap();
    drop(database);
    let behind = log(serve(&desk, "127.0.0.1:0"));
    let told = warnings(&behind);
    assert!(
        told.iter()
            .any(|warning| warning.starts_with("the clock is behind")),
        "{told:?}"
    );
}

#[test]
fn what_nohup_started_outlives_the_terminal() {
    let desk = Desk::new();
    let script = format!(
        "trap '' HUP; exec '{}' serve --listen 127.0.0.1:0",
        env!("CARGO_BIN_EXE_latchkey")
    );
    let serving = desk.serve_command(std::process::Command::new("sh").args(["-c", &script]));
    serving.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(serving.accepts());
    serving.stop();
}

/// Opening a FIFO blocks until its other end is opened, like a file on an unreachable NFS server.
#[test]
fn a_witness_that_hangs_holds_up_neither_a_start_nor_a_command() {
    let desk = Desk::new();
    let witness = desk.path("witness");
    fs::write(
        desk.path("latchkey.toml"),
        format!("[audit]\nwitness_dir = {witness:?}\n"),
    )
    .unwrap();
    desk.ok(&["org", "create", "acme"]);
    let missing = desk.run(&["doctor", "--json"]);
    let found: Value = serde_json::from_slice(&missing.stdout).unwrap();
    let grade = |found: &Value| {
        let all = found.as_array().unwrap();
        let one = all.iter().find(|finding| finding["what"] == "witness").unwrap();
        (one["grade"].clone(), one["text"].as_str().unwrap().to_owned())
    };
    assert_eq!(grade(&found).0, "doubtful", "{found}");
    assert!(grade(&found).1.contains("does not exist"), "{found}");
    desk.ok(&["audit", "checkpoint"]);
    assert_eq!(grade(&desk.json(&["doctor", "--json"])).0, "ok");

    let log_of = fs::read_dir(&witness).unwrap().next().unwrap().unwrap().path();
    let newest = log_of.join(format!("{:020}", 999));
    let made = std::process::Command::new("mkfifo").arg(&newest).status();
    assert!(made.unwrap().success());
    let began = std::time::Instant::now();
    let doctor = desk.run(&["doctor", "--json"]);
    assert!(doctor.status.success());
    let said = String::from_utf8(doctor.stderr).unwrap();
    assert_eq!(said.matches("does not respond").count(), 1, "{said}");
    assert!(said.contains("witness"), "{said}");
    let found = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(grade(&found).0, "doubtful", "{found}");
    assert!(grade(&found).1.contains("does not respond"), "{found}");
    let served = log(serve(&desk, "127.0.0.1:0"));
    let told = served.iter().find(|line| line["level"] == "ERROR").unwrap();
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("does not respond: nothing was compared with it"),
        "{told}"
    );
    assert_eq!(told["directory"], witness.to_str().unwrap());
    assert!(began.elapsed() < Duration::from_secs(60), "a moment each");
}
