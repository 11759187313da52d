//! The release binary over loopback under load, with its floors measured in the same run.
//!
//! `cargo bench --bench load` (or `just load`) seeds a data directory, binds two Rust plugins so that
//! both hooks are on, starts the real server and drives it with wrk (Debian package `wrk`). Absolute
//! numbers belong to the machine; the ratios and the CPU per request are what to compare.
//! Where it runs out of users to reset, it adds some, with the server stopped meanwhile.
//! `BENCH_FSYNC_MS=2` measures all of it on a disk whose fsyncs take so much longer.
//! Options, after `--`: `--users N --seconds N --connections 1,8,64,256 --resets-only --svg FILE
//! --curve USERS:ENTRIES,… --server FILE --seed-only DIR [--entries N]`.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded for people"
)]

#[path = "../disk/mod.rs"]
mod disk;
mod drive;
mod floor;
mod grow;
mod plot;
mod seed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use drive::{Load, Pressure, Run, Server};

/// What to measure.
#[derive(Clone)]
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
    disk::slow_down_if_asked();
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
    let mut bench = Bench::new(dir.path(), &options);
    println!(
        "{:<52} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "per s", "CPU µs", "p50 ms", "p99 ms", "p99.9 ms"
    );
    let (fsync_micros, slow_fsync_micros) = floor::fsync_micros(dir.path());
    println!("one fdatasync of 4 KiB: {fsync_micros:.0} µs (median), {slow_fsync_micros:.0} µs (p99)");
    let floors = bench.sqlite_floors();
    let server = bench.server();
    println!(
        "{} users: cold start to first answer {:.0} ms, at rest {:.1} MB",
        options.users,
        server.start_millis,
        server.resident_bytes() as f64 / 1e6
    );
    let curve = bench.resets(&floors, fsync_micros);
    if !options.resets_only {
        bench.reads();
        bench.logins();
    }
    println!(
        "after the load {:.1} MB",
        bench.server().resident_bytes() as f64 / 1e6
    );
    if let Some(path) = &options.svg {
        plot::latency_against_load(path, &curve).expect("the plot can be written");
        println!("drew {}", path.display());
    }
    ExitCode::SUCCESS
}

/// Resets per second at which sizes are compared: the same for all, and few enough for a second of a thousand users.
const PACE: usize = 500;

/// What a reset costs as users and entries grow: one line per size, paced and, where there are users enough, as
/// fast as it goes.
fn curve(options: &Options) {
    println!(
        "{:>9} users {:>9} entries {:>9} {:>9} | {PACE} a second: {:>6} {:>8} | {:>8} {:>7} {:>7}",
        "", "", "start ms", "rest MB", "CPU µs", "p99 ms", "per s", "CPU µs", "p99 ms"
    );
    let mut costs = Vec::new();
    for &(users, entries) in &options.curve {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let sized = Options {
            users,
            entries,
            ..options.clone()
        };
        let mut bench = Bench::new(dir.path(), &sized);
        grow::grow(dir.path(), entries);
        let server = bench.server();
        let (start, rest) = (server.start_millis, server.resident_bytes());
        // Half of the few, so that the pauses' chance does not ask for more than there are.
        let seconds = (users / PACE / 2).clamp(1, 5);
        let paced = Pressure {
            connections: 64,
            think_ms: (64 * 1000 / PACE) as u64,
            seconds: seconds as u64,
        };
        let paced = bench.reset(64, paced);
        print!(
            "{users:>15} {entries:>17} {start:>9.0} {:>9.1} | {:>18.0} {:>8.2} |",
            rest as f64 / 1e6,
            paced.cpu_micros,
            paced.p99_ms
        );
        if users >= 20_000 {
            let full = bench.reset(64, bench.pressure(64));
            print!(
                " {:>8.0} {:>7.0} {:>7.2}",
                full.per_second, full.cpu_micros, full.p99_ms
            );
        }
        println!();
        costs.push((users, entries, paced.cpu_micros));
    }
    if let Some(path) = &options.svg {
        plot::cost_against_size(path, &costs).expect("the plot can be written");
        println!("drew {}", path.display());
    }
}

/// One data directory under load.
struct Bench<'a> {
    dir: &'a Path,
    seeded: seed::Seeded,
    options: &'a Options,
    /// Runs while it is driven; stopped where users are added.
    server: Option<Server>,
    /// Users that were reset already.
    resets: usize,
    /// The most resets per second that were seen.
    fastest: f64,
}

impl<'a> Bench<'a> {
    fn new(dir: &'a Path, options: &'a Options) -> Self {
        let seeded = seed::seed(dir, options.users);
        grow::add_person(dir);
        Self {
            dir,
            seeded,
            options,
            server: None,
            resets: 0,
            fastest: 2_000.0,
        }
    }

    fn server(&mut self) -> &Server {
        let (dir, binary) = (self.dir, &self.options.server);
        self.server.get_or_insert_with(|| Server::start(binary, dir))
    }

    fn run(&mut self, load: Load, pressure: Pressure) -> Run {
        self.server();
        let server = self.server.as_ref().expect("it was started");
        drive::run(server, &self.seeded, self.dir, load, pressure)
    }

    fn admins(&self) -> usize {
        self.seeded.admins.len()
    }

    fn reset(&mut self, admins: usize, pressure: Pressure) -> Run {
        self.provide(pressure);
        let load = Load::Resets {
            offset: self.resets,
            admins,
        };
        let run = self.run(load, pressure).whole();
        self.resets +=
            usize::try_from(run.requests).expect("fewer than 2^64 requests") + pressure.connections;
        self.fastest = self.fastest.max(run.per_second);
        run
    }

    /// Nobody is reset twice: adds the users who could be missing, with the server stopped for as long.
    fn provide(&mut self, pressure: Pressure) {
        let rate = match pressure.think_ms {
            0 => 2.0 * self.fastest,
            pause => 1.5e3 * pressure.connections as f64 / pause as f64,
        };
        let wanted = self.resets + (rate * pressure.seconds as f64) as usize + pressure.connections;
        if let Some(missing) = wanted.checked_sub(self.seeded.users.len()).filter(|n| *n > 0) {
            self.server = None;
            seed::add_users(self.dir, &mut self.seeded, missing);
        }
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
    fn sqlite_floors(&mut self) -> Vec<floor::Writes> {
        let pressure = Pressure {
            seconds: 1,
            ..self.pressure(8)
        };
        self.reset(self.admins(), pressure);
        self.server = None;
        let reset = floor::Reset::sample(self.dir);
        println!("a reset adds rows of {} bytes, indexes aside", reset.bytes());
        let connections = self.options.connections.iter();
        connections
            .map(|&group| {
                let floor = floor::sqlite(self.dir, &self.seeded, &reset, group, self.options.seconds);
                println!(
                    "{:<52} {:>8.0} {:>8.0}",
                    format!("floor: SQLite, the same writes, {group} per commit"),
                    floor.per_second,
                    floor.cpu_micros
                );
                floor
            })
            .collect()
    }

    fn resets(&mut self, floors: &[floor::Writes], fsync_micros: f64) -> Vec<(usize, Run)> {
        let mut curve = Vec::new();
        let options = self.options;
        for (&connections, floor) in options.connections.iter().zip(floors) {
            for (who, admins) in [("one admin", 1), ("many admins", self.admins())] {
                let run = self.reset(admins, self.pressure(connections));
                run.print(&format!("resets, {connections} connections, {who}"));
                println!(
                    "{:<52} {:>7.0}%",
                    "  of the SQLite floor",
                    100.0 * run.per_second / floor.per_second
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
            let run = self.reset(self.admins(), pressure);
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

    fn reads(&mut self) {
        let bare = floor::bare_route(self.options);
        bare.print("floor: bare poem route, 64 connections");
        let jwt = floor::jwt_route(self.options);
        jwt.print("floor: poem-openapi route with a JWT, 64 connections");
        for (name, load) in [("one user", Load::User), ("a page of the trail", Load::Trail)] {
            for &connections in &self.options.connections {
                let run = self.run(load, self.pressure(connections)).whole();
                run.print(&format!("reads: {name}, {connections} connections"));
                println!(
                    "{:<52} {:>7.0}%",
                    "  of the route with a JWT",
                    100.0 * run.per_second / jwt.per_second
                );
            }
        }
    }

    fn logins(&mut self) {
        let hash = floor::hash_micros();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let most = cores * 1e6 / hash;
        println!(
            "{:<52} {most:>8.0} {hash:>8.0}",
            format!("floor: one Argon2id hash a login, {cores} cores")
        );
        for &connections in &self.options.connections {
            let run = self.run(Load::Logins, self.pressure(connections));
            run.print(&format!("logins with a password, {connections} connections"));
            // Beyond what may wait for a core, an organisation's logins are told to come again (503).
            let refused = run.refused as f64 / run.requests as f64;
            println!(
                "{:<52} {:>7.0}%, {:.1}% told to come again",
                "  of the hashes",
                100.0 * run.per_second * (1.0 - refused) / most,
                100.0 * refused
            );
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
