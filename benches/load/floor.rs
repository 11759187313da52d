//! What the machine can do without us, measured in the same run: fsync, SQLite, bare routes, a bare hash.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use latchkey::domain::credential::hash_password;
use latchkey::store::DATABASE_FILE;
use poem::listener::TcpListener;
use poem::middleware::AddData;
use poem::{Endpoint, EndpointExt as _, IntoResponse, Route, Server, get, handler};
use poem_openapi::auth::Bearer;
use poem_openapi::payload::Json;
use poem_openapi::{OpenApi, OpenApiService, SecurityScheme, param};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Options;
use super::drive::{self, Run};
use super::seed::Seeded;

/// Median and 99th percentile of 1,000 appends of 4 KiB with fdatasync, µs.
pub fn fsync_micros(dir: &Path) -> (f64, f64) {
    let mut file = File::create(dir.join("fsync")).expect("a file");
    let mut times: Vec<f64> = (0..1_000)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&[7; 4096]).expect("it takes bytes");
            file.sync_data().expect("it syncs");
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// One Argon2id hash with the parameters of the appliance, on one core, µs.
pub fn hash_micros() -> f64 {
    let started = Instant::now();
    for n in 0..10 {
        std::hint::black_box(hash_password("correct horse battery staple", [n; 16]));
    }
    started.elapsed().as_secs_f64() * 1e6 / 10.0
}

/// The rows that a reset adds, as the newest one of a database added them, and how a reset changes the rest.
pub struct Reset {
    entry: Vec<Value>,
    call: Vec<Value>,
    question: Vec<Value>,
    decisions: Vec<Vec<Value>>,
    admins: Vec<Vec<u8>>,
}

impl Reset {
    /// Reads the newest reset of a data directory that no server uses.
    pub fn sample(dir: &Path) -> Self {
        let db = open(&dir.join(DATABASE_FILE));
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .expect("a checkpoint");
        let question = row(&db, "SELECT * FROM question ORDER BY 1 DESC LIMIT 1");
        let of = |sql: &str| sql.replace("?1", &integer(&question[0]).to_string());
        let mut decisions = Vec::new();
        let calls = of("FROM decision WHERE id / 1024 = ?1");
        for position in 0..integer(&row(&db, &format!("SELECT count(*) {calls}"))[0]) {
            decisions.push(row(
                &db,
                &format!("SELECT * {calls} ORDER BY id LIMIT 1 OFFSET {position}"),
            ));
        }
        let admins = db
            .prepare("SELECT id FROM user WHERE role = 'org-admin'")
            .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
            .expect("the admins");
        Self {
            entry: row(&db, &of("SELECT * FROM audit_entry WHERE sequence = ?1")),
            call: row(&db, "SELECT * FROM reset_call ORDER BY id DESC LIMIT 1"),
            question,
            decisions,
            admins,
        }
    }

    /// Bytes of text and blobs in the rows that one reset adds.
    pub fn bytes(&self) -> usize {
        let rows = [&self.entry, &self.call, &self.question];
        rows.into_iter()
            .chain(&self.decisions)
            .flatten()
            .map(|value| match value {
                Value::Text(text) => text.len(),
                Value::Blob(bytes) => bytes.len(),
                Value::Null | Value::Integer(_) | Value::Real(_) => 8,
            })
            .sum()
    }
}

fn row(db: &Connection, sql: &str) -> Vec<Value> {
    let mut statement = db.prepare(sql).expect("the tables are as the bench knows them");
    let columns = statement.column_count();
    statement
        .query_row([], |row| (0..columns).map(|n| row.get(n)).collect())
        .expect("a reset was done")
}

fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(n) => *n,
        other => panic!("no integer: {other:?}"),
    }
}

/// What SQLite alone does.
#[derive(Clone, Copy)]
pub struct Writes {
    pub per_second: f64,
    /// CPU time, user and system, of writing and checkpoints together, µs.
    pub cpu_micros: f64,
}

/// Resets per second of plain SQLite: our schema with its indexes over a copy of our database, only the
/// statements that write (what they write is what a reset wrote), `group` to a commit, synchronous=FULL,
/// checkpoints on a second connection as ours are. No reads, no checks, no policies, no hashes, no HTTP.
pub fn sqlite(dir: &Path, seeded: &Seeded, reset: &Reset, group: usize, seconds: u64) -> Writes {
    let path = dir.join(format!("floor-{group}.db"));
    std::fs::copy(dir.join(DATABASE_FILE), &path).expect("a copy");
    let mut db = open(&path);
    let (stop, stopped) = sync_channel::<()>(0);
    let checkpoints = open(&path);
    let checkpointer = std::thread::spawn(move || {
        while stopped
            .recv_timeout(Duration::from_millis(200))
            .is_err_and(|e| e == RecvTimeoutError::Timeout)
        {
            checkpoints
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                .ok();
        }
    });
    let (first, at) = (integer(&reset.entry[0]) + 1, integer(&reset.call[4]));
    let first_call = integer(&reset.call[0]) + 1;
    let organization = reset.call[1].clone();
    let (started, cpu) = (Instant::now(), ProcessTime::now());
    let mut n = 0_i64;
    while started.elapsed() < Duration::from_secs(seconds) {
        let tx = db.transaction().expect("a transaction");
        for _ in 0..group {
            // From the last user on: the first ones are for the server.
            let place = usize::try_from(n).expect("a count") % seeded.users.len();
            let user = seeded.users[seeded.users.len() - 1 - place].as_bytes();
            let admin = &reset.admins[place % reset.admins.len()];
            let (sequence, at) = (first + n, at + n / 10);
            let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
                tx.prepare_cached(sql)
                    .and_then(|mut s| s.execute(values))
                    .expect("it writes")
            };
            let insert = |table: &str, values: &[Value]| {
                let marks = vec!["?"; values.len()].join(", ");
                tx.prepare_cached(&format!("INSERT INTO {table} VALUES ({marks})"))
                    .and_then(|mut s| s.execute(params_from_iter(values)))
                    .expect("it writes");
            };
            run(
                "UPDATE user SET enrolment_due_until = ?2, updated_at = ?2, sessions_ended_at = ?2, \
                 revision = revision + 1 WHERE id = ?1",
                params![user, at],
            );
            run(
                "UPDATE factor SET suspended_at = ?2 WHERE user_id = ?1",
                params![user, at],
            );
            run("DELETE FROM session WHERE user_id = ?1", params![user]);
            run(
                "UPDATE audit_head SET sequence = ?2, previous = ?3, entries = entries + 1 WHERE organization_id = ?1",
                params![organization, sequence, sequence - 1],
            );
            let mut entry = reset.entry.clone();
            (entry[0], entry[5]) = (sequence.into(), at.into());
            entry[12] = user.to_vec().into();
            insert("audit_entry", &entry);
            let mut call = reset.call.clone();
            (call[0], call[4]) = ((first_call + n).into(), at.into());
            (call[2], call[3]) = (admin.clone().into(), user.to_vec().into());
            insert("reset_call", &call);
            let mut question = reset.question.clone();
            question[0] = sequence.into();
            insert("question", &question);
            for (position, decision) in (0_i64..).zip(&reset.decisions) {
                let mut decision = decision.clone();
                decision[0] = (sequence * 1024 + position).into();
                insert("decision", &decision);
            }
            n += 1;
        }
        tx.commit().expect("it commits");
    }
    let writes = Writes {
        per_second: n as f64 / started.elapsed().as_secs_f64(),
        cpu_micros: cpu.elapsed().as_secs_f64() * 1e6 / n as f64,
    };
    drop(stop);
    checkpointer.join().expect("the checkpointer ends");
    drop(db);
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(dir.join(format!("floor-{group}.db{suffix}"))).ok();
    }
    writes
}

fn open(path: &Path) -> Connection {
    let db = Connection::open(path).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; \
         PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; PRAGMA mmap_size = 0;",
    )
    .expect("pragmas");
    db.set_prepared_statement_cache_capacity(64);
    db
}

#[handler]
fn hello() -> &'static str {
    "hello"
}

/// A bare poem route, in this process.
pub fn bare_route(options: &Options) -> Run {
    serve(Route::new().at("/", get(hello)), "/", None, options)
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: Uuid,
    exp: i64,
}

#[derive(SecurityScheme)]
#[oai(ty = "bearer", checker = "check")]
struct Auth(#[expect(dead_code, reason = "the check is what is measured")] Claims);

async fn check(request: &poem::Request, bearer: Bearer) -> Option<Claims> {
    let key = request.data::<DecodingKey>()?;
    jsonwebtoken::decode(&bearer.token, key, &Validation::new(Algorithm::HS256))
        .ok()
        .map(|t| t.claims)
}

struct Api;

// The macro knows a path's parameter by the name `Path`: under another name it is never found.
#[OpenApi]
impl Api {
    #[oai(path = "/users/:id", method = "get")]
    async fn user(&self, _caller: Auth, id: param::Path<Uuid>) -> Json<Uuid> {
        Json(id.0)
    }
}

/// A poem-openapi route with a UUID in its path and an HS256 check.
pub fn jwt_route(options: &Options) -> Run {
    let secret = [7_u8; 32];
    let claims = Claims {
        sub: Uuid::nil(),
        exp: 4_000_000_000,
    };
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(&secret))
        .expect("a token");
    let api = Route::new()
        .nest("/", OpenApiService::new(Api, "floor", "1"))
        .with(AddData::new(DecodingKey::from_secret(&secret)));
    serve(api, &format!("/users/{}", Uuid::nil()), Some(&token), options)
}

fn serve<E>(endpoint: E, path: &str, token: Option<&str>, options: &Options) -> Run
where
    E: Endpoint + 'static,
    E::Output: IntoResponse,
{
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port();
    let address = format!("127.0.0.1:{port}");
    runtime.spawn(Server::new(TcpListener::bind(address.clone())).run(endpoint));
    while std::net::TcpStream::connect(&address).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let script = dir.path().join("floor.lua");
    let header = token.map_or_else(String::new, |t| {
        format!("wrk.headers[\"Authorization\"] = \"Bearer {t}\"\n")
    });
    std::fs::write(&script, header + drive::FIGURES).expect("the script is written");
    let authorization = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
    let answer = drive::ask(&address, path, &authorization);
    assert!(answer.starts_with("HTTP/1.1 200"), "{path} answers {answer}");
    let url = format!("http://{address}{path}");
    let run = drive::wrk(&url, std::process::id(), &script, 64, options.seconds).whole();
    runtime.shutdown_background();
    run
}
