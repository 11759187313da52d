//! What the trail costs: an append with its tree, the same row without, a leaf, a check of everything,
//! a page and a receipt's proof. `LATCHKEY_TRAIL_ENTRIES=10000000 cargo bench --bench audit -- "of many"`
//! grows the trail that is checked and read (built anew each time, some minutes for ten million).

#![expect(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench: what fails ends it, and its size is an argument"
)]

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use latchkey::domain::account::OrganizationId;
use latchkey::domain::audit::{ActorRef, ActorType, Event, EventType, Filter, Resource};
use latchkey::store::{DATABASE_FILE, Store, audit};
use rusqlite::{Connection, params};
use serde_json::json;
use uuid::Uuid;

/// Appends in one transaction: a group commit's worth.
const GROUP: u64 = 64;

fn event(n: u64) -> Event {
    let kinds = [
        EventType::UserMfaReset,
        EventType::UserLogin,
        EventType::UserLogin,
        EventType::UserMfaEnabled,
    ];
    let user = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 100_000;
    let actor = ActorRef {
        r#type: ActorType::User,
        id: Some(Uuid::from_u128(u128::from(n % 7))),
        email: Some(format!("admin{}@example.org", n % 7)),
    };
    let kind = kinds[usize::try_from(n % 4).unwrap()];
    Event::new(kind, Some(organization(n % 3)), actor)
        .on(Resource::other(
            "USER",
            Uuid::from_u128(u128::from(user)),
            Some(format!("user{user}@example.org")),
        ))
        .from_request(
            "01a2b3c4-0000-7000-8000-000000000000",
            Some([192, 0, 2, 17].into()),
        )
        .with("reason", "lost phone, called from desk 17")
        .with("ticket", format!("HD-{n}"))
        .with("sessionsEnded", 2)
        .with("removed", json!(["totp", "recovery-codes"]))
}

fn organization(n: u64) -> OrganizationId {
    OrganizationId(Uuid::from_u128(0x550e_8400 + u128::from(n)))
}

fn at(n: u64) -> Timestamp {
    let millis = i64::try_from(n).unwrap() * 37;
    Timestamp::from_millisecond(1_771_410_600_000 + millis).unwrap()
}

/// The appliance's schema, on a connection of our own and without waiting for the disk.
fn open(dir: &Path) -> Connection {
    drop(Store::open(dir).unwrap());
    let connection = Connection::open(dir.join(DATABASE_FILE)).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    connection.set_prepared_statement_cache_capacity(64);
    connection
}

fn append(connection: &Connection, n: u64) {
    let id = Uuid::from_u128(u128::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
    audit::append_entry(connection, at(n), id, &event(n)).unwrap();
}

fn appends(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = open(dir.path());
    let mut group = c.benchmark_group("64 appends in a transaction");
    group.throughput(Throughput::Elements(GROUP));
    let mut n = 0;
    group.bench_function("with the tree", |b| {
        b.iter(|| {
            let tx = connection.transaction().unwrap();
            for _ in 0..GROUP {
                append(&tx, n);
                n += 1;
            }
            tx.commit().unwrap();
        });
    });
    let dir = tempfile::tempdir().unwrap();
    let mut connection = open(dir.path());
    let mut n = 0;
    group.bench_function("the rows alone", |b| {
        b.iter(|| {
            let tx = connection.transaction().unwrap();
            for _ in 0..GROUP {
                insert_row(&tx, n);
                n += 1;
            }
            tx.commit().unwrap();
        });
    });
    group.finish();
}

/// What an append would be without leaf, seals, hashes and chain.
fn insert_row(connection: &Connection, n: u64) {
    let event = event(n);
    let organization = event.organization_id.unwrap();
    let resource = event.resource.unwrap();
    connection
        .prepare_cached(
            "INSERT INTO audit_entry (hashes, organization_id, organization_index, at, id, event_type, result,
               actor_type, actor_id, resource_type, resource_id, request_id, actor_email, ip_address,
               resource_name, details)
             VALUES (x'', ?1, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )
        .unwrap()
        .execute(params![
            organization.0.as_bytes(),
            at(n).as_millisecond(),
            Uuid::from_u128(u128::from(n)).as_bytes(),
            event.event_type.as_str(),
            event.result.as_str(),
            event.actor.r#type.as_str(),
            event.actor.id.unwrap().as_bytes(),
            resource.r#type,
            resource.id,
            event.request_id,
            event.actor.email,
            event.ip_address,
            resource.name,
            serde_json::to_string(&event.details).unwrap(),
        ])
        .unwrap();
}

fn reads(c: &mut Criterion) {
    let entries: u64 = std::env::var("LATCHKEY_TRAIL_ENTRIES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000);
    let dir = tempfile::tempdir().unwrap();
    let mut connection = open(dir.path());
    for first in (0..entries).step_by(10_000) {
        let tx = connection.transaction().unwrap();
        for n in first..(first + 10_000).min(entries) {
            append(&tx, n);
        }
        tx.commit().unwrap();
    }
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    let bytes = std::fs::metadata(dir.path().join(DATABASE_FILE)).unwrap().len();
    println!("{entries} entries, {} bytes each", bytes / entries);

    let counts = audit::Counts::default();
    let mut group = c.benchmark_group("of many");
    let acme = Some(organization(0));
    group.bench_function("the newest page", |b| {
        b.iter(|| audit::page_entries(&connection, acme, &Filter::default(), &counts, 0, 20).unwrap());
    });
    let deep = u32::try_from(entries / 3 / 20 - 1).unwrap();
    group.bench_function("the last page by number", |b| {
        b.iter(|| audit::page_entries(&connection, acme, &Filter::default(), &counts, deep, 20).unwrap());
    });
    let oldest = audit::page_entries(&connection, acme, &Filter::default(), &counts, deep, 1).unwrap();
    let cursor = Some(audit::Cursor::after(&oldest.content[0]));
    group.bench_function("a far page by cursor", |b| {
        b.iter(|| audit::page_entries_after(&connection, acme, &Filter::default(), cursor, 20).unwrap());
    });
    let filter = Filter {
        event_type: Some(EventType::UserMfaReset),
        ..Filter::default()
    };
    group.bench_function("a page of one event type, counted", |b| {
        b.iter(|| audit::page_entries(&connection, acme, &filter, &audit::Counts::default(), 0, 20).unwrap());
    });
    group.bench_function("the same, the count remembered", |b| {
        b.iter(|| audit::page_entries(&connection, acme, &filter, &counts, 0, 20).unwrap());
    });
    group.bench_function("the same by cursor, not counted", |b| {
        b.iter(|| audit::page_entries_after(&connection, acme, &filter, None, 20).unwrap());
    });
    let mut n = 0;
    group.bench_function("an inclusion proof", |b| {
        b.iter_batched(
            || {
                n = (n + 7919) % entries;
                n
            },
            |n| black_box(audit::inclusion_proof(&connection, n, entries).unwrap()),
            BatchSize::SmallInput,
        );
    });
    group.sample_size(10);
    group.throughput(Throughput::Elements(entries));
    group.bench_function("check everything", |b| {
        b.iter(|| assert!(audit::verify(&connection).unwrap().is_intact()));
    });
    group.finish();
}

criterion_group!(benches, appends, reads);
criterion_main!(benches);
