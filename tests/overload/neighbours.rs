//! What one organisation's flood does to another one. Figures of a debug build on a busy machine say little; those
//! of an optimised one are taken over as many users as it resets in the time:
//!
//! `LATCHKEY_BINARY=target/release/latchkey cargo test --test overload neighbour -- --nocapture`

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::load_support::seed::Seeded;
use super::load_support::{Server, seed};
use super::socket;

/// Connections of the flood that ask as fast as they are answered; a quarter resets, a quarter logins.
const FLOODING: usize = 64;
/// And those that send half a head and wait.
const SLOW: usize = 64;
const MEASURED: Duration = Duration::from_secs(1);

#[test]
fn a_neighbours_flood_is_answered_and_so_are_the_others() {
    let (users, time) = match std::env::var_os("LATCHKEY_BINARY") {
        None => (1_000, MEASURED),
        Some(_) => (100_000, MEASURED * 5),
    };
    for limited in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let seeded = seed::seed(folder.path(), users);
        let quiet = {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let services = seed::services(folder.path());
            seed::organization(&runtime, &services, "quiet", 10_000.min(users))
        };
        if limited {
            // As they are by default.
            let path = folder.path().join("latchkey.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            let (bounds, _) = text.split_once("[limits]").unwrap();
            std::fs::write(&path, bounds).unwrap();
        }
        let server = Server::start(folder.path(), &[]);
        let address: SocketAddr = server.address.parse().unwrap();
        let what = if limited { "limited" } else { "no limits" };
        let mut neighbour = Neighbour {
            address,
            organization: &quiet,
            next: 0,
        };
        neighbour.measure(50, time); // warm
        let alone = neighbour.measure(400, time);
        let flood = Flood::default();
        let beside = std::thread::scope(|scope| {
            for n in 0..FLOODING {
                let (flood, seeded) = (&flood, &seeded);
                scope.spawn(move || flood.run(address, seeded, n));
            }
            let slow: Vec<_> = (0..SLOW).map(|_| slow_head(address)).collect();
            std::thread::sleep(Duration::from_millis(500));
            let answered = flood.answered.load(Ordering::Relaxed);
            let began = Instant::now();
            let beside = neighbour.measure(400, time);
            let answered = flood.answered.load(Ordering::Relaxed) - answered;
            let rate = answered as u128 * 1000 / began.elapsed().as_millis();
            flood.stopped.store(true, Ordering::Relaxed);
            println!(
                "{what}: flood of {FLOODING} connections, {rate} answers a second, and {} half-open",
                slow.len()
            );
            beside
        });
        println!("  alone:  {alone}\n  beside: {beside}");
        assert_eq!(alone.others + beside.others, 0, "nobody else is refused");
        assert!(flood.answered.into_inner() > 0, "there was a flood");
    }
}

/// Somebody of an organisation who does one thing after the other.
struct Neighbour<'a> {
    address: SocketAddr,
    organization: &'a Seeded,
    next: usize,
}

impl Neighbour<'_> {
    /// So many resets, each followed by a read, or as many as the time takes.
    fn measure(&mut self, most: usize, time: Duration) -> Seen {
        let mut connection = Connection::new(self.address, Ipv4Addr::new(127, 0, 0, 2));
        let (mut resets, mut reads, mut others) = (Vec::new(), Vec::new(), 0);
        let began = Instant::now();
        while resets.len() < most && began.elapsed() < time {
            let (admins, users) = (&self.organization.admins, &self.organization.users);
            let (admin, user) = (&admins[self.next % admins.len()], users[self.next]);
            self.next += 1;
            let mut timed = |line: String, times: &mut Vec<Duration>| {
                let one = Instant::now();
                let status = connection.ask(&line, admin, "");
                times.push(one.elapsed());
                others += usize::from(status != 200);
            };
            timed(reset(user), &mut resets);
            timed("GET /api/v1/users?size=20 HTTP/1.1".to_owned(), &mut reads);
        }
        resets.sort_unstable();
        reads.sort_unstable();
        Seen {
            resets,
            reads,
            others,
        }
    }
}

fn reset(user: Uuid) -> String {
    format!("POST /api/v1/users/{user}/reset-mfa HTTP/1.1")
}

/// How long it took.
struct Seen {
    resets: Vec<Duration>,
    reads: Vec<Duration>,
    /// Answers other than 200.
    others: usize,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, times) in [("reset", &self.resets), ("read", &self.reads)] {
            let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
            write!(f, "{what} p50 {:.2?} p99 {:.2?}   ", at(50), at(99))?;
        }
        write!(
            f,
            "{} of each, {} not answered 200",
            self.resets.len(),
            self.others
        )
    }
}

/// What an organisation does that spares nobody.
#[derive(Default)]
struct Flood {
    stopped: AtomicBool,
    answered: AtomicUsize,
    next: AtomicUsize,
}

impl Flood {
    fn run(&self, address: SocketAddr, organization: &Seeded, n: usize) {
        let mut connection = Connection::new(address, Ipv4Addr::new(127, 0, 1, 1));
        let admin = &organization.admins[n % organization.admins.len()];
        let login = r#"{"organizationSlug":"load","email":"admin1@load.example","password":"a guess"}"#;
        while !self.stopped.load(Ordering::Relaxed) {
            match n % 4 {
                0 => {
                    let user = self.next.fetch_add(1, Ordering::Relaxed) % organization.users.len();
                    connection.ask(&reset(organization.users[user]), admin, "")
                }
                1 => connection.ask("POST /api/v1/auth/login HTTP/1.1", "", login),
                2 => connection.ask("GET /api/v1/audit-logs?size=100 HTTP/1.1", admin, ""),
                _ => connection.ask("GET /api/v1/users?size=100 HTTP/1.1", admin, ""),
            };
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A connection that is kept.
struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn new(to: SocketAddr, from: Ipv4Addr) -> Self {
        let stream = socket(from, to);
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// The status of the answer.
    fn ask(&mut self, line: &str, token: &str, body: &str) -> u16 {
        let request = format!(
            "{line}\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.reader.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut head = String::new();
            self.reader.read_line(&mut head).unwrap();
            if let Some(rest) = head.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap();
            }
            let (name, value) = head.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
            if head == "\r\n" {
                break;
            }
            assert!(!head.is_empty(), "the server hung up");
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).unwrap();
        status
    }
}

fn slow_head(to: SocketAddr) -> TcpStream {
    let mut stream = socket(Ipv4Addr::new(127, 0, 1, 2), to);
    stream
        .write_all(b"GET /api/v1/users HTTP/1.1\r\nX-Slow: ")
        .unwrap();
    stream
}
