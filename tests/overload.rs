//! More than the server can serve, over real sockets against the real binary: memory stays bounded, what is too
//! much gets a clear answer, health stays green, and others are not harmed. Prints its figures.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may fail, and reads a variable"
)]

mod load_support;
#[path = "overload/neighbours.rs"]
mod neighbours;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use load_support::{Server, check, exchange, latchkey_within, reset, seed};
use rusqlite::Connection;

const PLACES: usize = 64;
const BOUNDS: [(&str, &str); 6] = [
    ("LATCHKEY_HTTP__MAX_CONNECTIONS", "64"),
    ("LATCHKEY_HTTP__MAX_CONNECTIONS_PER_ADDRESS", "40"),
    ("LATCHKEY_HTTP__HEADER_TIMEOUT_SECS", "6"),
    ("LATCHKEY_HTTP__BODY_TIMEOUT_SECS", "2"),
    ("LATCHKEY_HTTP__WRITE_TIMEOUT_SECS", "1"),
    ("LATCHKEY_DATABASE__QUEUE_LENGTH", "32"),
];

#[test]
fn a_full_writers_queue_is_503_with_retry_after_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let seeded = seed::seed(folder.path(), 60);
    let mut server = Server::start(folder.path(), &BOUNDS);
    let admins = &seeded.admins;
    assert_eq!(
        reset(&server.address, &admins[0], seeded.users[0]),
        Some(200),
        "warm"
    );
    // Somebody else holds the write lock: a slow disk.
    let slow = Connection::open(folder.path().join("latchkey.db")).unwrap();
    slow.busy_timeout(Duration::from_secs(5)).unwrap();
    until_nobody_writes(&slow);
    slow.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (server_address, users) = (server.address.clone(), &seeded.users[1..41]);
    let (answers, live, read) = std::thread::scope(|scope| {
        let resets: Vec<_> = users
            .iter()
            .zip(admins)
            .map(|(user, admin)| {
                let address = &server_address;
                scope.spawn(move || {
                    let line = format!("POST /api/v1/users/{user}/reset-mfa HTTP/1.1");
                    (user, admin, exchange(address, &line, admin).unwrap_or_default())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(1500));
        let began = Instant::now();
        let live = exchange(&server_address, "GET /health/live HTTP/1.1", "").unwrap();
        let live = (live, began.elapsed());
        let read = exchange(&server_address, "GET /api/v1/audit-logs HTTP/1.1", &admins[50]).unwrap();
        slow.execute_batch("ROLLBACK").unwrap();
        let answers: Vec<_> = resets.into_iter().map(|one| one.join().unwrap()).collect();
        (answers, live, read)
    });
    let done = answers
        .iter()
        .filter(|(_, _, answer)| answer.starts_with("HTTP/1.1 200"))
        .count();
    let busy: Vec<_> = answers
        .iter()
        .filter(|(_, _, answer)| answer.starts_with("HTTP/1.1 503"))
        .collect();
    println!(
        "40 resets at a writer that is held up, queue of 32, half of it for one organisation: {done} done in the end, {} refused with 503 at once; \
         health/live in {:.1?}",
        busy.len(),
        live.1
    );
    assert!(live.0.starts_with("HTTP/1.1 200") && read.starts_with("HTTP/1.1 200"));
    assert!(
        done >= 16 && !busy.is_empty() && done + busy.len() <= 40,
        "{answers:?}"
    );
    let mut acknowledged = HashSet::new();
    for (user, admin, answer) in &answers {
        if answer.starts_with("HTTP/1.1 500") {
            // A policy was not done in time on a busy machine.
            continue;
        }
        if answer.starts_with("HTTP/1.1 503") {
            assert!(
                answer.to_ascii_lowercase().contains("\r\nretry-after: "),
                "{answer}"
            );
            // Nothing was done: the same again is done now.
            assert_eq!(reset(&server.address, admin, **user), Some(200));
        }
        acknowledged.insert(**user);
    }
    server.kill();
    check(folder.path(), &acknowledged, "overload");
}

/// The server tidies up when it starts: one change at a time, which would take a place of the queue.
fn until_nobody_writes(db: &Connection) {
    let version = || -> i64 { db.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap() };
    let mut before = version();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = version();
        if now == before {
            return;
        }
        before = now;
    }
}

#[test]
fn slow_and_idle_clients_take_neither_the_places_nor_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let seeded = seed::seed(folder.path(), 200);
    let server = Server::start(folder.path(), &BOUNDS);
    let address: SocketAddr = server.address.parse().unwrap();
    let admin = seeded.admins[0].as_str();
    assert_eq!(reset(&server.address, admin, seeded.users[0]), Some(200), "warm");
    let before = memory_kib(&server);

    // One address takes what it can; what is beyond its share is closed at once.
    let hoarder = Ipv4Addr::new(127, 0, 0, 2);
    let mut idle: Vec<_> = (0..PLACES * 2).map(|_| connect(address, hoarder)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let open = idle
        .iter_mut()
        .filter_map(|stream| is_open(stream).then_some(()))
        .count();
    assert_eq!(open, 40, "one address has its share and no more");
    assert_eq!(
        reset(&server.address, admin, seeded.users[1]),
        Some(200),
        "others are served"
    );

    // Several take all: then a clear answer, at once, and health stays green.
    let others: Vec<_> = (3..6).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    let mut slow = Vec::new();
    let began = Instant::now();
    let refused = loop {
        for from in &others {
            slow.extend((0..25).map(|_| connect(address, *from)));
        }
        for stream in &mut slow {
            let _ = stream.write_all(b"GET /api/v1/users HTTP/1.1\r\nX-Slow: ");
        }
        std::thread::sleep(Duration::from_millis(200));
        let refused = beyond(address, "/api/v1/users");
        // On a machine that takes long to connect, the first ones are cut before the last ones came.
        if !refused.starts_with("HTTP/1.1 401") {
            break refused;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "places are never all taken"
        );
        slow.clear();
    };
    println!("beyond every place: {:?}", refused.lines().next());
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused:?}");
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    for name in ["retry-after", "x-request-id", "x-content-type-options"] {
        assert!(head.contains(&format!("\r\n{name}: ")), "{head}");
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["status"], &body["path"]),
        (&503.into(), &"/api/v1/users".into())
    );
    for path in ["/health/live", "/health/ready"] {
        let health = beyond(address, path);
        assert!(health.starts_with("HTTP/1.1 200"), "{path}: {health:?}");
    }

    // Slow heads are cut, and everybody is served again, while the slow ones still hold on.
    let began = Instant::now();
    let user = seeded.users[2];
    while reset(&server.address, admin, user) != Some(200) {
        assert!(
            began.elapsed() < Duration::from_secs(16),
            "the slow ones keep every place"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "after {} idle and slow connections: served again within {:.1?}",
        PLACES * 2 + 36,
        began.elapsed()
    );
    let after = memory_kib(&server);
    println!("memory at most: {before} KiB before, {after} KiB after");
    assert!(after < before + 64 * 1024, "memory is bounded");
}

/// Opens so many connections, 32 from each address. Not all of them need be let in.
fn hold(address: SocketAddr, many: usize) -> Vec<TcpStream> {
    let from = |n: usize| Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(n / 32).unwrap());
    (0..many).map(|n| connect(address, from(n))).collect()
}

#[test]
fn a_soft_limit_of_open_files_is_raised_for_the_connections_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let seeded = seed::seed(folder.path(), 1);
    let server = Server::spawn(
        latchkey_within("-Sn 128"),
        folder.path(),
        &[("LATCHKEY_HTTP__MAX_CONNECTIONS", "256")],
    );
    let idle = hold(server.address.parse().unwrap(), 200);
    let answer = beyond(server.address.parse().unwrap(), "/health/ready");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    assert_eq!(
        reset(&server.address, &seeded.admins[0], seeded.users[0]),
        Some(200)
    );
    drop(idle);
}

#[test]
fn where_few_files_may_be_open_places_end_before_descriptors_do() {
    let folder = tempfile::tempdir().unwrap();
    seed::seed(folder.path(), 1);
    // `src/app/descriptors.rs`: the places that are left are as many as are worth a start.
    let places = 64;
    let cores = std::thread::available_parallelism().unwrap().get();
    let files = places + 64 + 256 + 9 * cores;
    let asked = [("LATCHKEY_HTTP__MAX_CONNECTIONS", "1024")];
    let server = Server::spawn(latchkey_within(&format!("-n {files}")), folder.path(), &asked);
    let address: SocketAddr = server.address.parse().unwrap();
    let idle = hold(address, places);
    let refused = beyond(address, "/api/v1/users");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused:?}");
    assert!(refused.to_ascii_lowercase().contains("\r\nretry-after: "));
    // More than there are descriptors: those beyond the standing places are closed at once, and those within them
    // after two seconds.
    let more = hold(address, files);
    std::thread::sleep(Duration::from_secs(3));
    let health = beyond(address, "/health/ready");
    assert!(health.starts_with("HTTP/1.1 200"), "{health:?}");
    drop((idle, more, server));

    let small = latchkey_within("-n 128")
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .env("LATCHKEY_HTTP__MAX_CONNECTIONS", "256")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&small.stderr);
    assert_eq!(small.status.code(), Some(3), "{said}");
    let needed = format!("raise it to {}", 256 + 64 + 256 + 9 * cores);
    assert!(
        said.contains("the limit of open files is 128") && said.contains(&needed),
        "{said}"
    );
}

#[test]
fn huge_heads_and_bodies_are_refused_and_a_slow_body_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let seeded = seed::seed(folder.path(), 20);
    let server = Server::start(folder.path(), &BOUNDS);
    let address: SocketAddr = server.address.parse().unwrap();
    let admin = seeded.admins[0].as_str();
    assert_eq!(reset(&server.address, admin, seeded.users[0]), Some(200), "warm");
    let before = memory_kib(&server);
    let home = Ipv4Addr::LOCALHOST;
    let path = format!(
        "POST /api/v1/users/{}/reset-mfa HTTP/1.1\r\nHost: x\r\n",
        seeded.users[1]
    );

    let mut heads = Vec::new();
    for _ in 0..30 {
        let mut stream = connect(address, home);
        let huge = vec![b'a'; 4 << 20];
        let _ = stream.write_all(format!("{path}X-Huge: ").as_bytes());
        let _ = stream.write_all(&huge);
        let _ = stream.write_all(b"\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        heads.push(
            String::from_utf8_lossy(&answer)
                .lines()
                .next()
                .unwrap_or("closed")
                .to_owned(),
        );
    }
    println!("30 heads of 4 MiB: {:?}", heads.iter().collect::<HashSet<_>>());
    assert!(
        heads
            .iter()
            .all(|line| line == "closed" || line.contains(" 431 ")),
        "{heads:?}"
    );

    let token = format!("Authorization: Bearer {admin}\r\nContent-Type: application/json\r\n");
    let mut told = connect(address, home);
    let _ = told.write_all(format!("{path}{token}Content-Length: 1000000000\r\n\r\n{{").as_bytes());
    assert!(read(&mut told).starts_with("HTTP/1.1 413"), "told");
    let mut endless = connect(address, home);
    let _ = endless.write_all(format!("{path}{token}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..200 {
        if endless.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let answer = read(&mut endless);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
    let mut slow = connect(address, home);
    let began = Instant::now();
    let _ = slow.write_all(format!("{path}{token}Content-Length: 20\r\n\r\n{{").as_bytes());
    let answer = read(&mut slow);
    println!(
        "half a body: {:?} after {:.1?}",
        answer.lines().next(),
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(6));
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");

    // Half-open: who will say no more is taken for gone, as somebody whose line broke, and keeps no place.
    let began = Instant::now();
    let mut half = connect(address, home);
    let _ = half.write_all(format!("{path}{token}Content-Length: 0\r\n\r\n").as_bytes());
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = read(&mut half);
    println!("half-open after a whole request: {:?}", answer.lines().next());
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    assert!(began.elapsed() < Duration::from_secs(2), "it is let go");
    // Who asks and doesn't read is hung up on, with what the kernel holds already.
    let mut deaf = connect(address, Ipv4Addr::new(127, 0, 0, 8));
    let whole = read_document(address);
    let asked = 50;
    let text = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(asked);
    deaf.write_all(text.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let answered = read(&mut deaf).len();
    println!("{asked} documents of {whole} bytes, unread for 3 s: {answered} bytes came");
    assert!(answered < whole * asked, "it was not waited for");
    // Pipelining: a hundred at once are answered one after the other.
    let mut many = connect(address, home);
    let one = "GET /health/live HTTP/1.1\r\nHost: x\r\n";
    let mut text = format!("{one}\r\n").repeat(99);
    text += &format!("{one}Connection: close\r\n\r\n");
    many.write_all(text.as_bytes()).unwrap();
    assert_eq!(
        read(&mut many).matches("HTTP/1.1 200").count(),
        100,
        "in order, each once"
    );
    let after = memory_kib(&server);
    println!("memory at most: {before} KiB before, {after} KiB after");
    assert!(after < before + 64 * 1024, "memory is bounded");
    let live = exchange(&server.address, "GET /health/live HTTP/1.1", "").unwrap();
    assert!(live.starts_with("HTTP/1.1 200"));
}

/// The length of the largest answer that nobody has to sign in for.
fn read_document(address: SocketAddr) -> usize {
    beyond(address, "/openapi.json").len()
}

/// What one more, from an address of its own, is answered.
fn beyond(address: SocketAddr, path: &str) -> String {
    let mut stream = connect(address, Ipv4Addr::new(127, 0, 0, 9));
    let _ =
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    read(&mut stream)
}

fn connect(to: SocketAddr, from: Ipv4Addr) -> TcpStream {
    let stream = socket(from, to);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// A connection from a chosen address of this machine.
fn socket(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).unwrap();
        let stream = socket.connect(to).await.unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
    })
}

/// Open and quiet: not closed by the other side.
fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let open = matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    open
}

fn read(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The most that the server has held in memory so far.
fn memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
