//! The release binary over loopback under load, with its floors measured in the same run.
//!
//! `cargo bench --bench load` (or `just load`) seeds a data directory, binds two Rust plugins so that
//! both hooks are on, starts the real server and drives it with wrk (Debian package `wrk`). Absolute
//! numbers belong to the machine; the ratios and the CPU per request are what to compare.
//! Options, after `--`: `--users N --seconds N --connections 1,8,64,256 --resets-only --svg FILE
//! --curve USERS:ENTRIES,… --server FILE --seed-only DIR [--entries N]`.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded for people"
)]

mod drive;
mod floor;
mod grow;
mod plot;
mod seed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use drive::{Load, Pressure, Run, Server};

/// What to measure.
pub struct Options {
    /// Users that can be reset.
    pub users: usize,
    /// Length of one measurement, in seconds.
    pub seconds: u64,
    /// Connections of the measurements.
    pub connections: Vec<usize>,
    /// Resets alone.
    pub resets_only: bool,
    /// The server to drive: the one that cargo built unless another is named.
    pub server: PathBuf,
    /// Only fill this data directory and write the script `load.lua` for wrk beside it.
    pub seed_only: Option<PathBuf>,
    /// Entries to put into it as well.
    pub entries: u64,
    /// Instead of the whole: resets over so many users and earlier entries.
    pub curve: Vec<(usize, u64)>,
    /// Where to draw latency against load.
    pub svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = options();
    if let Some(dir) = &options.seed_only {
        std::fs::create_dir_all(dir).expect("a folder");
        drive::write_script(&seed::seed(dir, options.users), dir);
        grow::grow(dir, options.entries);
        return ExitCode::SUCCESS;
    }
    if !drive::has_wrk() {
        println!("load: skipped, wrk is not installed (Debian: apt-get install wrk)");
        return ExitCode::SUCCESS;
    }
    if !options.curve.is_empty() {
        curve(&options);
        return ExitCode::SUCCESS;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let seeded = seed::seed(dir, options.users);
    grow::add_person(dir);
    let mut bench = Bench {
        dir,
        seeded: &seeded,
        options: &options,
        resets: 0,
    };
    println!(
        "{:<52} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "per s", "CPU µs", "p50 ms", "p99 ms", "p99.9 ms"
    );
    let fsync_micros = floor::fsync_micros(dir);
    println!("one fdatasync of 4 KiB: {fsync_micros:.0} µs (median)");
    let floors = bench.sqlite_floors();
    let server = Server::start(&options.server, dir);
    println!(
        "{} users: cold start to first answer {:.0} ms, at rest {:.1} MB",
        options.users,
        server.start_millis,
        server.resident_bytes() as f64 / 1e6
    );
    let curve = bench.resets(&server, &floors, fsync_micros);
    if !options.resets_only {
        bench.reads(&server);
        bench.logins(&server);
    }
    println!("after the load {:.1} MB", server.resident_bytes() as f64 / 1e6);
    if let Some(path) = &options.svg {
        plot::latency_against_load(path, &curve).expect("the plot can be written");
        println!("drew {}", path.display());
    }
    ExitCode::SUCCESS
}

/// What a reset costs as users and entries grow: one line per size.
fn curve(options: &Options) {
    println!(
        "{:>9} users {:>9} entries {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "", "start ms", "rest MB", "per s", "CPU µs", "p99 ms"
    );
    for &(users, entries) in &options.curve {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let dir = dir.path();
        let seeded = seed::seed(dir, users);
        grow::grow(dir, entries);
        let server = Server::start(&options.server, dir);
        let rest = server.resident_bytes() as f64 / 1e6;
        let load = Load::Resets {
            offset: 0,
            admins: seeded.admins.len(),
        };
        // Few users are soon reset.
        let pressure = Pressure {
            connections: 64,
            think_ms: 0,
            seconds: options.seconds.min(users as u64 / 10_000).max(1),
        };
        let run = drive::run(&server, &seeded, dir, load, pressure);
        println!(
            "{users:>15} {entries:>17} {:>9.0} {rest:>9.1} {:>9.0} {:>9.0} {:>9.2}",
            server.start_millis, run.per_second, run.cpu_micros, run.p99_ms
        );
    }
}

/// One run over one data directory.
struct Bench<'a> {
    dir: &'a Path,
    seeded: &'a seed::Seeded,
    options: &'a Options,
    /// Users that were reset already.
    resets: usize,
}

impl Bench<'_> {
    fn reset(&mut self, server: &Server, admins: usize, pressure: Pressure) -> Run {
        let load = Load::Resets {
            offset: self.resets,
            admins,
        };
        let run = drive::run(server, self.seeded, self.dir, load, pressure);
        self.resets +=
            usize::try_from(run.requests).expect("fewer than 2^64 requests") + pressure.connections;
        run
    }

    fn pressure(&self, connections: usize) -> Pressure {
        Pressure {
            connections,
            think_ms: 0,
            seconds: self.options.seconds,
        }
    }

    /// SQLite alone, for each number of connections as many resets to a commit. What a reset writes is
    /// taken from one that the server did.
    fn sqlite_floors(&mut self) -> Vec<f64> {
        let server = Server::start(&self.options.server, self.dir);
        let many = self.seeded.admins.len();
        let pressure = Pressure {
            seconds: 1,
            ..self.pressure(8)
        };
        self.reset(&server, many, pressure);
        drop(server);
        let reset = floor::Reset::sample(self.dir);
        println!("a reset adds rows of {} bytes, indexes aside", reset.bytes());
        let connections = self.options.connections.iter();
        connections
            .map(|&group| {
                let floor = floor::sqlite(self.dir, self.seeded, &reset, group, self.options.seconds);
                println!(
                    "{:<52} {floor:>8.0}",
                    format!("floor: SQLite, the same writes, {group} per commit")
                );
                floor
            })
            .collect()
    }

    fn resets(&mut self, server: &Server, floors: &[f64], fsync_micros: f64) -> Vec<(usize, Run)> {
        let mut curve = Vec::new();
        let options = self.options;
        for (&connections, floor) in options.connections.iter().zip(floors) {
            for (who, admins) in [("one admin", 1), ("many admins", self.seeded.admins.len())] {
                let run = self.reset(server, admins, self.pressure(connections));
                run.print(&format!("resets, {connections} connections, {who}"));
                println!(
                    "{:<52} {:>7.0}%",
                    "  of the SQLite floor",
                    100.0 * run.per_second / floor
                );
                if admins > 1 {
                    curve.push((connections, run));
                }
            }
        }
        if let Some((connections, full)) = curve.iter().rfind(|(connections, _)| *connections <= 64) {
            // An answer at half load takes next to no time, so the pause makes the rate.
            let think_ms = (2e3 * *connections as f64 / full.per_second).round().max(1.0) as u64;
            let pressure = Pressure {
                think_ms,
                ..self.pressure(*connections)
            };
            let run = self.reset(server, self.seeded.admins.len(), pressure);
            let load = 100.0 * run.per_second / full.per_second;
            run.print(&format!(
                "resets at {load:.0}% of that load, {connections} connections"
            ));
            println!(
                "{:<52} {:>7.1}x",
                "  p99 in fsyncs",
                run.p99_ms * 1e3 / fsync_micros
            );
        }
        curve
    }

    fn reads(&self, server: &Server) {
        let bare = floor::bare_route(self.options);
        bare.print("floor: bare poem route, 64 connections");
        let jwt = floor::jwt_route(self.options);
        jwt.print("floor: poem-openapi route with a JWT, 64 connections");
        for (name, load) in [("one user", Load::User), ("a page of the trail", Load::Trail)] {
            let run = drive::run(server, self.seeded, self.dir, load, self.pressure(64));
            run.print(&format!("reads: {name}, 64 connections"));
            println!(
                "{:<52} {:>7.0}%",
                "  of the route with a JWT",
                100.0 * run.per_second / jwt.per_second
            );
        }
    }

    fn logins(&self, server: &Server) {
        let hash = floor::hash_micros();
        println!(
            "{:<52} {:>8.0} {hash:>8.0}",
            "floor: one Argon2id hash, one core",
            1e6 / hash
        );
        for connections in [1, 8] {
            let run = drive::run(
                server,
                self.seeded,
                self.dir,
                Load::Logins,
                self.pressure(connections),
            );
            run.print(&format!("logins with a password, {connections} connections"));
        }
    }
}

fn options() -> Options {
    let mut options = Options {
        users: 100_000,
        seconds: 5,
        connections: vec![1, 8, 64, 256],
        resets_only: false,
        server: env!("CARGO_BIN_EXE_latchkey").into(),
        seed_only: None,
        entries: 0,
        curve: Vec::new(),
        svg: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--resets-only" {
            options.resets_only = true;
            continue;
        }
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
            "--server" => options.server = value().into(),
            "--seed-only" => options.seed_only = Some(value().into()),
            "--entries" => options.entries = value().parse().expect("a number of entries"),
            "--curve" => {
                let sizes = value();
                let size = |size: &str| {
                    let (users, entries) = size.split_once(':').expect("USERS:ENTRIES");
                    let users = users.parse().expect("a number of users");
                    (users, entries.parse().expect("a number of entries"))
                };
                options.curve = sizes.split(',').map(size).collect();
            }
            "--svg" => options.svg = Some(value().into()),
            "--bench" => {} // cargo passes it
            other => panic!("unknown option {other}"),
        }
    }
    options
}
