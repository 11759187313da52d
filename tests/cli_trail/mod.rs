//! What an operator does with the trail, beside a running server and without one.

mod beside;
mod rotation;
mod schedule;
mod verdicts;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Output;

use serde_json::Value;

use super::cli_support::{Connection, Desk, Server};
use super::{DATA, assert_intact, audit, printed_call, said, verdict};

/// A demo that runs, with the path and the token of its printed call.
struct Running {
    desk: Desk,
    server: Server,
    path: String,
    token: String,
}

impl Running {
    fn new() -> Self {
        Self::with("")
    }

    /// With this besides in the configuration.
    fn with(config: &str) -> Self {
        let desk = Desk::new();
        let no_limits = "[limits]\nreset_by_caller = { requests = 0, window_secs = 60 }\n\
                         reset_by_target = { requests = 0, window_secs = 60 }\n";
        fs::write(desk.path("latchkey.toml"), format!("{no_limits}{config}")).unwrap();
        let server = desk.demo();
        let (path, token) = printed_call(&server);
        server.exchange("GET", "/health/live", None, ""); // by then it takes orders
        Self {
            desk,
            server,
            path,
            token,
        }
    }

    /// One more entry: a reset or, from the second on, its refusal.
    fn reset(&self) {
        self.caller().reset();
    }

    /// Who makes entries, for a thread of their own.
    fn caller(&self) -> Caller {
        Caller {
            address: self.server.address(),
            path: self.path.clone(),
            token: self.token.clone(),
        }
    }
}

struct Caller {
    address: SocketAddr,
    path: String,
    token: String,
}

impl Caller {
    fn reset(&self) {
        let mut connection = Connection(TcpStream::connect(self.address).unwrap());
        let Self { path, token, .. } = self;
        connection.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        ));
        let answer = connection.read_all();
        assert!(
            answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
}

fn run(desk: &Desk, args: &[&str]) -> Output {
    desk.run(&[&["--data-dir", DATA, "audit"], args].concat())
}

/// Keeps what a command prints.
fn keep(desk: &Desk, name: &str, args: &[&str]) {
    fs::write(desk.path(name), audit(desk, args)).unwrap();
}

/// The lines of an export, and its header's checkpoint: how many entries it is over.
fn size_of(export: &str) -> u64 {
    let header: Value = serde_json::from_str(export.lines().next().unwrap()).unwrap();
    let note = header["checkpoint"].as_str().unwrap();
    note.lines().nth(1).unwrap().parse().unwrap()
}

/// The leaves and the details of the entries of one type.
fn entries_of(export: &str, event_type: &str) -> Vec<Value> {
    export
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["leaf"]["eventType"] == event_type)
        .collect()
}

fn entries_in(export: &str) -> usize {
    export
        .lines()
        .filter(|line| line.starts_with(r#"{"kind":"entry""#))
        .count()
}
