//! The release binary over loopback under load, with its floors measured in the same run.
//!
//! `cargo bench --bench load` (or `just load`) seeds a data directory, binds two Rust plugins so that
//! both hooks are on, starts the real server and drives it with wrk (Debian package `wrk`). Absolute
//! numbers belong to the machine; the ratios and the CPU per request are what to compare.
//! Options, after `--`: `--users N --seconds N --connections 1,8,32,64 --svg FILE`.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "figures are rounded for people, and the floor's rows have random ids"
)]

mod drive;
mod floor;
mod plot;
mod seed;

use std::path::PathBuf;
use std::process::ExitCode;

/// What to measure.
pub struct Options {
    /// Users that can be reset.
    pub users: usize,
    /// Length of one measurement, in seconds.
    pub seconds: u64,
    /// Connections of the measurements.
    pub connections: Vec<usize>,
    /// Where to draw latency against load.
    pub svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = options();
    if !drive::has_wrk() {
        println!("load: skipped, wrk is not installed (Debian: apt-get install wrk)");
        return ExitCode::SUCCESS;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let seeded = seed::seed(dir.path(), options.users);
    println!(
        "{:<44} {:>9} {:>9} {:>8} {:>8} {:>8}",
        "", "per s", "CPU µs", "p50 ms", "p99 ms", "p99.9 ms"
    );

    let fsync = floor::fsync_micros(dir.path());
    println!("one fdatasync of 4 KiB: {fsync:.0} µs (median)");
    let route = floor::bare_route(&options);
    route.print("floor: bare poem route, 64 connections");
    let mut floors = Vec::new();
    for &connections in &options.connections {
        let floor = floor::sqlite(dir.path(), connections, options.seconds, 100_000);
        println!(
            "{:<44} {floor:>9.0}",
            format!("floor: SQLite, the same rows, {connections} per commit")
        );
        floors.push(floor);
    }

    let server = drive::Server::start(dir.path());
    println!(
        "cold start to first answer {:.0} ms, at rest {:.1} MB",
        server.start_millis,
        server.resident_bytes() as f64 / 1e6
    );
    let mut curve = Vec::new();
    let mut offset = 0;
    for (&connections, floor) in options.connections.iter().zip(&floors) {
        for (who, admins) in [("one admin", 1), ("many admins", seeded.admins.len())] {
            let load = drive::Load::Resets { offset, admins };
            let run = drive::run(&server, &seeded, dir.path(), load, connections, options.seconds);
            offset += usize::try_from(run.requests).expect("fewer than 2^64 requests") + connections;
            run.print(&format!("resets, {connections} connections, {who}"));
            println!(
                "{:<44} {:>8.0}%",
                "  of the SQLite floor",
                100.0 * run.per_second / floor
            );
            if admins > 1 {
                curve.push((connections, run));
            }
        }
    }
    for (name, load) in [
        ("one user", drive::Load::User),
        ("a page of the trail", drive::Load::Trail),
    ] {
        let run = drive::run(&server, &seeded, dir.path(), load, 64, options.seconds);
        run.print(&format!("reads: {name}, 64 connections"));
        println!(
            "{:<44} {:>8.0}%",
            "  of the bare route",
            100.0 * run.per_second / route.per_second
        );
    }
    println!("after the load {:.1} MB", server.resident_bytes() as f64 / 1e6);
    if let Some(path) = &options.svg {
        plot::latency_against_load(path, &curve).expect("the plot can be written");
        println!("drew {}", path.display());
    }
    ExitCode::SUCCESS
}

fn options() -> Options {
    let mut options = Options {
        users: 100_000,
        seconds: 5,
        connections: vec![1, 8, 32, 64, 256],
        svg: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--users" => options.users = value().parse().expect("a number of users"),
            "--seconds" => options.seconds = value().parse().expect("a number of seconds"),
            "--connections" => {
                let list = value();
                options.connections = list
                    .split(',')
                    .map(|n| n.parse().expect("numbers of connections"))
                    .collect();
            }
            "--svg" => options.svg = Some(value().into()),
            "--bench" => {} // cargo passes it
            other => panic!("unknown option {other}"),
        }
    }
    options
}
