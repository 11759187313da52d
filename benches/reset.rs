//! The parts of a reset and the whole of it, in process: the token check, a write to the store alone and
//! 64 at once, a reset with two Rust policies alone and 64 at once, then with three and
//! with none. What says CPU counts the CPU time of the whole process (so that a busy machine does not blur it);
//! the rest is the clock.
//! `cargo bench --bench reset`; with `BENCH_FSYNC_MS=2` on a disk whose fsyncs take so much longer.

#![expect(clippy::cast_precision_loss, reason = "figures are rounded for people")]

mod disk;
#[expect(dead_code, reason = "the bench of the load uses more of it")]
#[path = "load/seed.rs"]
mod seed;

use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use criterion::{Criterion, Throughput};
use latchkey::domain::account::{OrganizationId, Principal, UserId};
use latchkey::service::plugins::Manager;
use latchkey::service::reset::{ResetBody, ResetRequest, reset_mfa};
use latchkey::service::{RequestContext, Services, plugins, session};
use latchkey::store::factors;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

/// What is done at once where something is done at once.
const AT_ONCE: usize = 64;

struct Bench {
    services: Arc<Services>,
    principal: Arc<Principal>,
    token: String,
    organization: OrganizationId,
    runtime: Runtime,
}

impl Bench {
    /// Users who can be reset, made outside of what is measured.
    fn users(&self, count: u64) -> Vec<Uuid> {
        let ids: Vec<Uuid> = (0..count)
            .map(|_| Uuid::from_bytes(self.services.entropy.bytes()))
            .collect();
        for chunk in ids.chunks(5_000) {
            seed::insert(&self.services, self.organization, chunk.to_vec());
        }
        ids
    }

    /// Does `one` for each id, `at_once` of them at a time.
    fn each<F: Future<Output = ()> + Send + 'static>(
        &self,
        ids: Vec<Uuid>,
        at_once: usize,
        one: impl Fn(Arc<Services>, Uuid) -> F,
    ) {
        self.runtime.block_on(async {
            let mut under_way = JoinSet::new();
            for id in ids {
                if under_way.len() == at_once {
                    under_way
                        .join_next()
                        .await
                        .expect("some are under way")
                        .expect("no panic");
                }
                under_way.spawn(one(Arc::clone(&self.services), id));
            }
            under_way.join_all().await;
        });
    }

    /// The clock of so many resets, one after the other; what one took is kept in `mean`.
    fn alone(&self, count: u64, mean: &Cell<Duration>) -> Duration {
        let ids = self.users(count);
        let took = wall(|| self.resets(ids, 1));
        mean.set(took.div_f64(count as f64));
        took
    }

    fn resets(&self, ids: Vec<Uuid>, at_once: usize) {
        let principal = &self.principal;
        self.each(ids, at_once, |services, id| {
            let principal = Arc::clone(principal);
            async move {
                let request = ResetRequest {
                    context: RequestContext::cli(&services),
                    target: id.to_string(),
                    body: Ok(ResetBody::default()),
                    idempotency_keys: Vec::new(),
                    receipt: Ok(false),
                };
                let answer = reset_mfa(&services, &principal, request).await;
                black_box(answer.expect("the policies allow it"));
            }
        });
    }

    fn writes(&self, ids: Vec<Uuid>, at_once: usize) {
        self.each(ids, at_once, |services, id| async move {
            let at = services.clock.now();
            let written = services
                .store
                .write(move |tx| factors::touch_user(tx, UserId(id), at));
            written.await.expect("a write");
        });
    }
}

fn wall(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn cpu(work: impl FnOnce()) -> Duration {
    let started = ProcessTime::now();
    work();
    started.elapsed()
}

fn main() {
    disk::slow_down_if_asked();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let seeded = seed::seed(dir.path(), 10_000);
    let services = Arc::new(seed::services(dir.path()));
    plugins::reload(&services).expect("the policies are ready");
    let token = seeded.admins[0].clone();
    let at = services.clock.now();
    let principal = session::authenticate(&services, Some(&token), at).expect("a good token");
    let bench = Bench {
        organization: principal.organization.id,
        principal: Arc::new(principal),
        services,
        token,
        runtime: Runtime::new().expect("a runtime"),
    };

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("reset");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_millis(500))
        .throughput(Throughput::Elements(1));
    group.bench_function("token check", |b| {
        let services = &bench.services;
        b.iter(|| session::authenticate(services, Some(black_box(&bench.token)), at).expect("a good token"));
    });
    group.bench_function("store write, alone", |b| {
        b.iter_custom(|n| {
            let ids = bench.users(n);
            wall(|| bench.writes(ids, 1))
        });
    });
    group.bench_function("store write, 64 at once", |b| {
        b.iter_custom(|n| {
            let ids = bench.users(n);
            wall(|| bench.writes(ids, AT_ONCE))
        });
    });
    group.bench_function("whole reset, alone", |b| {
        b.iter_custom(|n| {
            let ids = bench.users(n);
            wall(|| bench.resets(ids, 1))
        });
    });
    group.bench_function("whole reset, 64 at once", |b| {
        b.iter_custom(|n| {
            let ids = bench.users(n);
            wall(|| bench.resets(ids, AT_ONCE))
        });
    });
    group.bench_function("whole reset, 64 at once, CPU", |b| {
        b.iter_custom(|n| {
            let ids = bench.users(n);
            cpu(|| bench.resets(ids, AT_ONCE))
        });
    });
    // What policies add to a reset that is on disk when it is answered.
    bench.runtime.block_on(async {
        let all_day = serde_json::json!({ "timeZone": "Europe/Berlin", "from": "00:00", "to": "24:00",
            "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] });
        seed::bind(&bench.services, bench.organization, [("change-window", all_day)]).await;
    });
    let (three, none) = (Cell::default(), Cell::default());
    group.bench_function("whole reset, alone, three policies", |b| {
        b.iter_custom(|n| bench.alone(n, &three));
    });
    bench.runtime.block_on(async {
        let operator = Manager::operator(&bench.services);
        let installed = plugins::list_plugins(&bench.services, &operator)
            .await
            .expect("a list");
        for plugin in installed {
            let digest = plugins::Digest(plugin.digest).to_string();
            plugins::switch_plugin(&bench.services, &operator, &digest, true)
                .await
                .expect("the emergency switch");
        }
    });
    group.bench_function("whole reset, alone, no policy", |b| {
        b.iter_custom(|n| bench.alone(n, &none));
    });
    group.finish();
    let (three, none): (Duration, Duration) = (three.get(), none.get());
    let added = 100.0 * (three.as_secs_f64() / none.as_secs_f64() - 1.0);
    println!(
        "three policies add {added:.1} % to a reset alone: {none:.1?} to {three:.1?} (the last samples)"
    );
    criterion.final_summary();
}
