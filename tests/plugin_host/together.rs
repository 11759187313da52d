//! Many calls at once: what they share is bounded, and no organisation takes what others need.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use latchkey::plugin_host::{
    BoundPlugin, CallEnd, FailureAction, FailureCause, HostOptions, OnFailure, PackageError, PluginHost,
};
use uuid::Uuid;

use super::guests::{Guest, before};
use super::{ask, cause, host, load, question_of};

/// Four runaways in flight, all the time; another organisation's policy is asked as before. Runaways go on on
/// threads that step back, so its calls wait for none. `cargo test --test plugin_host -- --nocapture runaways`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_runaways_of_one_organisation_leave_another_alone() {
    let host = host();
    let mut plain = load(&host, &Guest::default().wasm());
    plain.limits.deadline_ms = 1_000; // on a busy machine, too
    let mut runaway = load(&host, &before("(loop $l (br $l)) (unreachable)"));
    runaway.binding_id = Uuid::from_u128(8);
    runaway.limits.deadline_ms = 500;

    let measure = async |rounds: usize| {
        let (host, plain) = (host.clone(), plain.clone());
        let calls = async move {
            let mut took = Vec::with_capacity(rounds);
            let question = question_of("other");
            for _ in 0..rounds {
                let started = Instant::now();
                let evaluation = host.before(std::slice::from_ref(&plain), &question).await;
                took.push(started.elapsed());
                assert!(evaluation.failure.is_none(), "{:?}", evaluation.failure);
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            took.sort();
            (took[rounds / 2], took[rounds * 99 / 100])
        };
        tokio::spawn(calls).await.expect("no panic")
    };
    measure(50).await;
    let quiet = measure(1_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    let runaways: Vec<_> = (0..4)
        .map(|_| {
            let (host, runaway, stop) = (host.clone(), runaway.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(Ordering::SeqCst) {
                    let evaluation = host
                        .before(std::slice::from_ref(&runaway), &question_of("hostile"))
                        .await;
                    assert!(matches!(
                        cause(&evaluation),
                        FailureCause::Deadline | FailureCause::Busy
                    ));
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let beside = measure(1_000).await;
    stop.store(true, Ordering::SeqCst);
    let mut stopped = 0;
    for runaway in runaways {
        stopped += runaway.await.expect("no panic");
    }
    println!(
        "another organisation's evaluation, p50 and p99: quiet {quiet:?}, beside four runaways {beside:?} \
         ({stopped} runaways stopped): p99 {:.2} times the quiet one",
        beside.1.as_secs_f64() / quiet.1.as_secs_f64()
    );
    // Half of a tick: a call that waits for a runaway would wait for a whole one. The rest of the claim,
    // twice the quiet p99, needs a machine that runs nothing else.
    assert!(
        beside.0 < quiet.0 * 3 + Duration::from_micros(500),
        "quiet {quiet:?}, beside runaways {beside:?}"
    );
}

/// A guest that takes 200 MiB, and has this body of `before-reset` after that.
fn large(host: &PluginHost, then: &str) -> BoundPlugin {
    let mut plugin = load(
        host,
        &before(&format!("(drop (memory.grow (i32.const 3200))) {then}")),
    );
    plugin.limits.memory_bytes = 256 << 20;
    plugin.limits.deadline_ms = 1_000;
    plugin
}

#[tokio::test]
async fn all_calls_together_have_a_bound_on_memory_that_is_whole_again_after_them() {
    let options = HostOptions {
        // Half of it is for resets.
        memory_total_bytes: 800 << 20,
        total_concurrency: 2,
        ..HostOptions::default()
    };
    let host = PluginHost::new(options).expect("a host");
    let (holds, takes) = (
        large(&host, "(loop $l (br $l)) (unreachable)"),
        large(&host, "(i32.const 512)"),
    );
    let small = load(&host, &Guest::default().wasm());
    let held = AtomicBool::new(true);
    let holding = async {
        let question = question_of("a");
        let evaluation = host.before(&[holds], &question).await;
        held.store(false, Ordering::Relaxed);
        assert_eq!(cause(&evaluation), FailureCause::Deadline);
    };
    let others = async {
        let question = question_of("b");
        let mut refused = 0;
        while held.load(Ordering::Relaxed) {
            let evaluation = host.before(std::slice::from_ref(&takes), &question).await;
            if let Some(failed) = evaluation.failure {
                assert_eq!(failed.failure.cause, FailureCause::Busy, "never skipped");
                let detail = failed.failure.detail;
                assert!(
                    detail.contains("all policies together (plugins.memory_total_mib)"),
                    "{detail}"
                );
                refused += 1;
            }
            let evaluation = host.before(std::slice::from_ref(&small), &question).await;
            assert!(
                evaluation.failure.is_none(),
                "a small one has its own share: {evaluation:?}"
            );
            tokio::task::yield_now().await;
        }
        refused
    };
    let ((), refused) = tokio::join!(holding, others);
    assert!(refused > 0, "two of 200 MiB are all of those 400");
    let again = ask(&host, takes).await;
    assert!(again.failure.is_none(), "{again:?}");
}

/// One organisation's files describe themselves, and its resets ask its policies, with all the memory that a call may
/// have. What another one's policy needs is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_organisation_takes_the_memory_that_anothers_policies_need() {
    let host = host();
    let spin = "(drop (memory.grow (i32.const 4000))) (loop $l (br $l)) (unreachable)";
    let mut greedy = load(&host, &before(spin));
    greedy.limits.memory_bytes = 256 << 20;
    greedy.limits.deadline_ms = 1_000;
    let describing = Guest {
        describe: spin.into(),
        ..Guest::default()
    };
    let describing = host.prepare(&describing.wasm()).expect("a module");
    let mut modest = load(
        &host,
        &before("(drop (memory.grow (i32.const 960))) (i32.const 512)"),
    );
    modest.binding_id = Uuid::from_u128(8);
    modest.limits.deadline_ms = 1_000;
    modest.on_failure = OnFailure::always(FailureAction::Skip);

    let stop = Arc::new(AtomicBool::new(false));
    let mut theirs = tokio::task::JoinSet::new();
    for nth in 0..6 {
        let (host, stop) = (host.clone(), Arc::clone(&stop));
        let (describing, greedy) = (Arc::clone(&describing), greedy.clone());
        theirs.spawn(async move {
            let mut spun = 0;
            while !stop.load(Ordering::Relaxed) {
                let cause = if nth < 4 {
                    match host.describe(&describing).await {
                        Err(PackageError::Describe(failure)) => failure.cause,
                        other => panic!("{other:?}"),
                    }
                } else {
                    cause(
                        &host
                            .before(std::slice::from_ref(&greedy), &question_of("a"))
                            .await,
                    )
                };
                spun += u32::from(cause == FailureCause::Deadline);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            spun
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..100 {
        let evaluation = host
            .before(std::slice::from_ref(&modest), &question_of("b"))
            .await;
        let end = &evaluation.records[0].end;
        assert!(matches!(end, CallEnd::Answer(_)), "{end:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let spun: u32 = theirs.join_all().await.iter().sum();
    assert!(
        spun >= 2,
        "a file and a reset had all that a call may have: {spun}"
    );
}

#[tokio::test]
async fn a_dropped_call_frees_its_slot_and_instance() {
    let options = HostOptions {
        per_organization_concurrency: 1,
        total_concurrency: 1,
        ..HostOptions::default()
    };
    let host = PluginHost::new(options).expect("a host");
    let mut runaway = load(&host, &before("(loop $l (br $l)) (unreachable)"));
    runaway.limits.deadline_ms = 1_000;
    let plain = load(&host, &Guest::default().wasm());
    for _ in 0..5 {
        let question = question_of("a");
        let call = host.before(std::slice::from_ref(&runaway), &question);
        let gone = tokio::time::timeout(Duration::from_millis(10), call).await;
        assert!(gone.is_err(), "the client went away in the middle of a call");
        assert!(ask(&host, plain.clone()).await.failure.is_none());
    }
}
