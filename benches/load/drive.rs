//! Starts the server and drives it with wrk.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::grow;
use super::seed::Seeded;

/// The real binary, serving.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// From the start of the process to its first answer, ms.
    pub start_millis: f64,
}

/// What to ask for.
#[derive(Clone, Copy)]
pub enum Load {
    /// Resets of users from `offset` on, by the first `admins` admins in turn.
    Resets { offset: usize, admins: usize },
    /// A login with a password, which is all that the person has.
    Logins,
    /// One user at a time.
    User,
    /// The newest page of the trail.
    Trail,
}

/// How hard to ask.
#[derive(Clone, Copy)]
pub struct Pressure {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// What each connection waits after an answer before it asks again, ms. 0: nothing.
    pub think_ms: u64,
    /// For how long, seconds.
    pub seconds: u64,
}

/// What came of it.
pub struct Run {
    pub requests: u64,
    /// Answers other than 2xx.
    pub refused: u64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    /// CPU time of the server per request, user and system, µs.
    pub cpu_micros: f64,
}

pub fn has_wrk() -> bool {
    Command::new("wrk")
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

impl Server {
    pub fn start(binary: &Path, dir: &Path) -> Self {
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--config-file"])
            .arg(dir.join("latchkey.toml"))
            .arg("--data-dir")
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let stdout = child.stdout.take().expect("its output is piped");
        let url = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let at = line.find("http://")?;
                Some(
                    line[at..]
                        .split_whitespace()
                        .next()?
                        .trim_end_matches('/')
                        .to_owned(),
                )
            })
            .expect("the server prints its address");
        let address = url.trim_start_matches("http://").to_owned();
        while !answers(&address) {
            assert!(
                child.try_wait().expect("its state").is_none(),
                "the server ended before it answered"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Self {
            child,
            url,
            start_millis: started.elapsed().as_secs_f64() * 1e3,
        }
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|kb| kb.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The measurements are done; nothing of the data directory is kept.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn answers(address: &str) -> bool {
    ask(address, "/health/live", "").starts_with("HTTP/1.1 200")
}

/// One answer, whole; nothing where there is none.
pub fn ask(address: &str, path: &str, headers: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut answer = String::new();
    if let Ok(mut stream) = std::net::TcpStream::connect(address) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).ok();
        stream.read_to_string(&mut answer).ok();
    }
    answer
}

/// CPU time of a process so far, user and system, seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

pub fn run(server: &Server, seeded: &Seeded, dir: &Path, load: Load, pressure: Pressure) -> Run {
    let script = dir.join("load.lua");
    std::fs::write(&script, lua(seeded, &load, pressure.think_ms)).expect("the script is written");
    let (connections, seconds) = (pressure.connections, pressure.seconds);
    wrk(&server.url, server.child.id(), &script, connections, seconds)
}

pub fn wrk(url: &str, pid: u32, script: &Path, connections: usize, seconds: u64) -> Run {
    let before = cpu_seconds(pid);
    let output = Command::new("wrk")
        .args(["-t1", "--latency", "--timeout", "30s"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .arg("-s")
        .arg(script)
        .arg(url)
        .output()
        .expect("wrk runs");
    let cpu = cpu_seconds(pid) - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("figures "))
        .unwrap_or_else(|| panic!("wrk said: {text}"));
    let n: Vec<f64> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
    Run {
        requests: n[0] as u64,
        refused: n[2] as u64,
        per_second: n[0] / (n[1] / 1e6),
        p50_ms: n[3] / 1e3,
        p99_ms: n[4] / 1e3,
        p999_ms: n[5] / 1e3,
        cpu_micros: cpu * 1e6 / n[0],
    }
}

impl Run {
    /// The run, of which every answer was 2xx.
    pub fn whole(self) -> Self {
        let (refused, requests) = (self.refused, self.requests);
        assert_eq!(refused, 0, "{refused} of {requests} answers were no 2xx");
        self
    }

    pub fn print(&self, name: &str) {
        println!(
            "{name:<44} {:>9.0} {:>9.0} {:>8.2} {:>8.2} {:>8.2}",
            self.per_second, self.cpu_micros, self.p50_ms, self.p99_ms, self.p999_ms
        );
    }
}

/// Prints what [`wrk`] reads.
pub const FIGURES: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("figures %d %d %d %d %d %d\n", summary.requests, summary.duration,
    e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// Writes a script that resets every user once, by all admins in turn, for driving a server by hand.
pub fn write_script(seeded: &Seeded, dir: &Path) {
    let load = Load::Resets {
        offset: 0,
        admins: seeded.admins.len(),
    };
    std::fs::write(dir.join("load.lua"), lua(seeded, &load, 0)).expect("the script is written");
}

/// The script for wrk: the paths in turn, by the tokens in turn.
fn lua(seeded: &Seeded, load: &Load, think_ms: u64) -> String {
    let mut text = String::from("local tokens = {\n");
    let admins = match load {
        Load::Resets { admins, .. } => *admins,
        _ => seeded.admins.len(),
    };
    for token in &seeded.admins[..admins] {
        writeln!(text, "  \"{token}\",").expect("a string takes text");
    }
    text.push_str("}\nlocal paths = {\n");
    let mut path = |path: String| writeln!(text, "  \"{path}\",").expect("a string takes text");
    match load {
        Load::Resets { offset, .. } => seeded
            .users
            .iter()
            .skip(*offset)
            .for_each(|id| path(format!("/api/v1/users/{id}/reset-mfa"))),
        Load::User => seeded
            .users
            .iter()
            .rev()
            .take(1_000)
            .for_each(|id| path(format!("/api/v1/users/{id}"))),
        Load::Trail => path("/api/v1/audit-logs?size=20".into()),
        Load::Logins => path("/api/v1/auth/login".into()),
    }
    let request = match load {
        Load::Resets { .. } => {
            "wrk.format(\"POST\", path, { [\"Authorization\"] = \"Bearer \" .. token })".to_owned()
        }
        Load::User | Load::Trail => {
            "wrk.format(\"GET\", path, { [\"Authorization\"] = \"Bearer \" .. token })".to_owned()
        }
        Load::Logins => format!(
            "wrk.format(\"POST\", path, {{ [\"Content-Type\"] = \"application/json\" }}, '{}')",
            serde_json::json!({ "organizationSlug": "load", "email": grow::PERSON, "password": grow::PASSWORD })
        ),
    };
    writeln!(
        text,
        "}}\nlocal n = 0\nrequest = function()\n  n = n + 1\n  \
         local path, token = paths[(n - 1) % #paths + 1], tokens[(n - 1) % #tokens + 1]\n  \
         return {request}\nend"
    )
    .expect("a string takes text");
    if think_ms > 0 {
        // wrk asks before each request; spread, so that connections don't march in step.
        writeln!(
            text,
            "delay = function() return math.random(0, {}) end",
            2 * think_ms
        )
        .expect("a string takes text");
    }
    text + FIGURES
}
