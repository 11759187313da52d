//! The plugin host against plain and hostile guests: each ends within its budget plus a tick, is named
//! for what it did, and disturbs nobody else.

#[expect(dead_code, reason = "the file is shared with other tests")]
mod guests;
#[path = "plugin_host/installing.rs"]
mod installing;
#[path = "plugin_host/together.rs"]
mod together;

use std::sync::Arc;
use std::time::{Duration, Instant};

use guests::{Guest, before};
use latchkey::domain::policy::{
    Actor, Answer, Channel, Decision, Effect, FactorFacts, FactorKind, Grants, History, Hook, Mode,
    OrganizationFacts, Outcome, Question, RequestFacts, ResultKind, Role, Target,
};
use latchkey::plugin_host::{
    BoundPlugin, CallEnd, DecisionRecord, Digest, Evaluation, FailureAction, FailureCause, HostOptions,
    Limits, OnFailure, PluginHost, PluginVersion, Prepared,
};
use uuid::Uuid;

fn host() -> PluginHost {
    PluginHost::new(HostOptions::default()).expect("a host")
}

fn bound(prepared: &Arc<Prepared>) -> BoundPlugin {
    BoundPlugin {
        binding_id: Uuid::from_u128(7),
        name: "guest".into(),
        current: PluginVersion {
            version: "1.0.0".into(),
            prepared: Arc::clone(prepared),
            config: "{}".into(),
            config_digest: Digest::of(b"{}"),
            hooks: vec![Hook::BeforeReset, Hook::AfterReset],
            history_days: 90,
            grants: Grants::all(),
        },
        mode: Mode::Enforce,
        on_failure: OnFailure::default(),
        limits: Limits::default(),
        before: None,
    }
}

fn load(host: &PluginHost, wasm: &[u8]) -> BoundPlugin {
    bound(&host.prepare(wasm).expect("the guest is accepted"))
}

fn question() -> Arc<Question> {
    question_of("880e8400-e29b-41d4-a716-446655440000")
}

fn question_of(organization: &str) -> Arc<Question> {
    let at = |text: &str| text.parse().expect("a time");
    Arc::new(Question {
        organization: OrganizationFacts {
            id: organization.into(),
            slug: "acme".into(),
            name: "Acme".into(),
            mfa_required: true,
        },
        actor: Actor {
            id: "770e8400-e29b-41d4-a716-446655440003".into(),
            email: "admin@acme.example".into(),
            name: Some("Ada Admin".into()),
            role: Role::OrgAdmin,
            second_factor_used: true,
            authenticated_secs_ago: 60,
        },
        target: Target {
            id: "770e8400-e29b-41d4-a716-446655440004".into(),
            email: "dev@acme.example".into(),
            name: None,
            role: Role::Member,
            active: true,
            factors: vec![FactorFacts {
                kind: FactorKind::Totp,
                enrolled_at: at("2026-01-02T03:04:05Z"),
                last_used_at: None,
            }],
            active_sessions: 2,
            created_at: at("2025-01-01T00:00:00Z"),
            last_login_at: Some(at("2026-02-17T08:00:00Z")),
        },
        request: RequestFacts {
            id: "req-1".into(),
            at: at("2026-02-18T10:30:00Z"),
            utc_offset_minutes: 60,
            channel: Channel::Api,
            ip: Some("192.0.2.7".into()),
            user_agent: None,
            reason: Some("lost phone".into()),
            ticket: None,
            dry_run: false,
        },
        history: History::default(),
        attributes: vec![],
    })
}

fn outcome() -> Outcome {
    Outcome {
        kind: ResultKind::Done,
        removed: question().target.factors.clone(),
        effects: vec![Effect::RevokeSessions],
        denial: None,
        approved_by: vec![],
    }
}

async fn ask(host: &PluginHost, plugin: BoundPlugin) -> Evaluation {
    host.before(&[plugin], &question()).await
}

fn cause(evaluation: &Evaluation) -> FailureCause {
    evaluation
        .failure
        .as_ref()
        .expect("the plugin fails")
        .failure
        .cause
}

#[tokio::test]
async fn a_plain_guest_describes_itself_and_lets_the_reset_pass() {
    let host = host();
    let plugin = load(&host, &Guest::default().wasm());
    let manifest = host.describe(&plugin.current.prepared).await.expect("a manifest");
    assert_eq!(
        (manifest.name.as_str(), manifest.version.as_str()),
        ("guest", "1.0.0")
    );
    assert_eq!(manifest.hooks, [Hook::BeforeReset, Hook::AfterReset]);
    assert!(
        host.check_config(&plugin.current.prepared, &manifest, "{}")
            .await
            .is_ok()
    );

    let evaluation = ask(&host, plugin.clone()).await;
    assert!(evaluation.failure.is_none());
    assert_eq!(evaluation.decision, Decision::Allow);
    let record = &evaluation.records[0];
    assert_eq!(record.end, CallEnd::Answer(Answer::Allow(vec![])));
    assert_eq!(record.usage.peak_memory_bytes, 4 << 16);

    let evaluation = host.after(&[plugin], &question(), outcome()).await;
    assert_eq!(
        evaluation.records[0].end,
        CallEnd::Answer(Answer::Effects(vec![]))
    );
}

#[tokio::test]
async fn a_denial_reaches_the_caller_and_ends_the_round() {
    let host = host();
    // result ok, verdict deny; code, message, allowed-from, because.
    let no = "
        (i32.store8 (i32.const 8200) (i32.const 1))
        (i32.store (i32.const 8208) (i32.const 8400)) (i32.store (i32.const 8212) (i32.const 14))
        (i32.store (i32.const 8216) (i32.const 8416)) (i32.store (i32.const 8220) (i32.const 8))
        (i32.store8 (i32.const 8224) (i32.const 1)) (i64.store (i32.const 8232) (i64.const 1771405200000))
        (i32.const 8192)";
    let deny = Guest {
        items: r#"(data (i32.const 8400) "outside-window") (data (i32.const 8416) "Too late")"#.into(),
        before: no.into(),
        ..Guest::default()
    };
    let (deny, allow) = (load(&host, &deny.wasm()), load(&host, &Guest::default().wasm()));
    let evaluation = host.before(&[allow.clone(), deny, allow], &question()).await;
    let Decision::Deny(denial) = &evaluation.decision else {
        panic!("not denied: {evaluation:?}")
    };
    assert_eq!(
        (denial.code.as_str(), denial.message.as_str()),
        ("outside-window", "Too late")
    );
    assert_eq!(
        denial.allowed_from.expect("a time").to_string(),
        "2026-02-18T09:00:00Z"
    );
    assert_eq!(evaluation.records.len(), 2, "the third plugin is not asked");
}

/// A body of `before-reset` that answers `ok(allow([effect]))` for an effect without payload.
fn allow_with(effect: u8) -> String {
    format!(
        "(i32.store (i32.const 8208) (i32.const 8300)) (i32.store (i32.const 8212) (i32.const 1))
         (i32.store8 (i32.const 8300) (i32.const {effect})) (i32.const 8192)"
    )
}

#[tokio::test]
async fn effects_need_a_grant_and_monitors_change_nothing() {
    let host = host();
    let plugin = load(&host, &before(&allow_with(3)));
    let evaluation = ask(&host, plugin.clone()).await;
    assert_eq!(evaluation.effects, [Effect::LockAccount]);

    let mut ungranted = plugin.clone();
    ungranted.current.grants = Grants::of(["notify"]);
    let evaluation = ask(&host, ungranted).await;
    assert!(evaluation.effects.is_empty());
    assert_eq!(evaluation.records[0].refused[0].effect, Effect::LockAccount);

    let monitored = BoundPlugin {
        mode: Mode::Monitor,
        ..plugin
    };
    let evaluation = ask(&host, monitored).await;
    assert!(evaluation.effects.is_empty());
    assert_eq!(
        evaluation.records[0].end,
        CallEnd::Answer(Answer::Allow(vec![Effect::LockAccount]))
    );
}

#[tokio::test]
async fn after_plugins_see_the_effects_of_those_before_them() {
    let host = host();
    // Answers with `lock-account` once per effect that the outcome lists (their count is at 0x.. of the
    // lowered arguments): the outcome follows the question in memory.
    let adds = "(i32.store (i32.const 516) (i32.const 8300)) (i32.store (i32.const 520) (i32.const 1))
                (i32.store8 (i32.const 8300) (i32.const 3)) (i32.const 512)";
    let first = load(
        &host,
        &Guest {
            after: adds.into(),
            ..Guest::default()
        }
        .wasm(),
    );
    let second = load(&host, &Guest::default().wasm());
    let evaluation = host.after(&[first, second], &question(), outcome()).await;
    assert_eq!(evaluation.effects, [Effect::LockAccount], "only what was added");
    assert_eq!(evaluation.records.len(), 2);
}

/// Fills 60 MiB at a time, which nothing interrupts.
fn bulk_fill() -> Vec<u8> {
    Guest {
        memory: "1000".into(),
        before: "(loop $l (memory.fill (i32.const 131072) (i32.const 7) (i32.const 62914560)) (br $l)) (unreachable)"
            .into(),
        ..Guest::default()
    }
    .wasm()
}

/// name, guest, expected cause, part of the detail
fn hostile() -> Vec<(&'static str, Vec<u8>, FailureCause, &'static str)> {
    let guest = Guest::default;
    let with_items = |items: &str, body: &str| {
        Guest {
            items: items.into(),
            before: body.into(),
            ..guest()
        }
        .wasm()
    };
    vec![
        ("endless loop", before("(loop $l (br $l)) (unreachable)"), FailureCause::Deadline, "not done after"),
        (
            "endless loop at start-up",
            with_items("(func $spin (loop $l (br $l))) (start $spin)", "(i32.const 512)"),
            FailureCause::Deadline,
            "not done after",
        ),
        (
            "endless loop in realloc",
            Guest { realloc: "(loop $l (br $l)) (unreachable)".into(), ..guest() }.wasm(),
            FailureCause::Deadline,
            "not done after",
        ),
        (
            "endless loop after the answer",
            Guest { post_before: "(loop $l (br $l))".into(), ..guest() }.wasm(),
            FailureCause::Deadline,
            "not done after",
        ),
        ("trap", before("(unreachable)"), FailureCause::Trap, "unreachable"),
        ("trap at start-up", with_items("(func $t (unreachable)) (start $t)", "(i32.const 512)"), FailureCause::Trap, "unreachable"),
        ("division by zero", before("(i32.div_u (i32.const 1) (i32.const 0))"), FailureCause::Trap, "divide by zero"),
        ("access out of bounds", before("(i32.load (i32.const -4))"), FailureCause::Trap, "out of bounds"),
        (
            "memory bomb",
            before("(loop $l (drop (memory.grow (i32.const 16))) (br $l)) (unreachable)"),
            FailureCause::Memory,
            "the limit is 67108864",
        ),
        ("memory bomb at start-up", Guest { memory: "4096".into(), ..guest() }.wasm(), FailureCause::Memory, "the limit is"),
        (
            "table bomb",
            with_items(
                "(table $t 1 funcref)",
                "(loop $l (drop (table.grow $t (ref.null func) (i32.const 30000))) (br $l)) (unreachable)",
            ),
            FailureCause::Memory,
            "asked for a table of 60001 elements, the limit is 40000",
        ),
        (
            "table filled for ever",
            with_items(
                "(table $t 40000 funcref)",
                "(loop $l (table.fill $t (i32.const 0) (ref.null func) (i32.const 40000)) (br $l)) (unreachable)",
            ),
            FailureCause::Deadline,
            "not done after",
        ),
        ("memory filled for ever", bulk_fill(), FailureCause::Deadline, "not done after"),
        (
            "many tables",
            with_items(
                "(table 30000 funcref) (table 30000 funcref) (table 30000 funcref) (table 30000 funcref)",
                "(i32.const 512)",
            ),
            FailureCause::Memory,
            "table elements",
        ),
        (
            "endless recursion",
            with_items("(func $r (param i64) (result i64) (i64.add (call $r (local.get 0)) (i64.const 1)))",
                "(drop (call $r (i64.const 1))) (i32.const 512)"),
            FailureCause::Stack,
            "call stack exhausted",
        ),
        (
            "log flood",
            before("(loop $l (call $log (i32.const 1) (i32.const 2048) (i32.const 5)) (br $l)) (unreachable)"),
            FailureCause::Deadline,
            "not done after",
        ),
        (
            "log line of two megabytes",
            Guest { memory: "40".into(), before: "(call $log (i32.const 1) (i32.const 65536) (i32.const 2000000)) (i32.const 512)".into(), ..guest() }.wasm(),
            FailureCause::BadAnswer,
            "fuel",
        ),
        (
            "list of a million effects",
            Guest {
                memory: "512".into(),
                before: "(i32.store (i32.const 8208) (i32.const 65536)) (i32.store (i32.const 8212) (i32.const 1000000)) (i32.const 8192)".into(),
                ..guest()
            }
            .wasm(),
            FailureCause::BadAnswer,
            "fuel",
        ),
        (
            "list beyond memory",
            before("(i32.store (i32.const 8208) (i32.const 64)) (i32.store (i32.const 8212) (i32.const -1)) (i32.const 8192)"),
            FailureCause::BadAnswer,
            "",
        ),
        ("answer beyond memory", before("(i32.const -8)"), FailureCause::BadAnswer, ""),
        ("answer not aligned", before("(i32.const 513)"), FailureCause::BadAnswer, ""),
        ("unknown case", before("(i32.store8 (i32.const 8200) (i32.const 9)) (i32.const 8192)"), FailureCause::BadAnswer, ""),
        (
            "text that is no UTF-8",
            before(
                "(i32.store8 (i32.const 8192) (i32.const 1)) (i32.store (i32.const 8200) (i32.const 8300))
                 (i32.store (i32.const 8204) (i32.const 1)) (i32.store8 (i32.const 8300) (i32.const 255)) (i32.const 8192)",
            ),
            FailureCause::BadAnswer,
            "",
        ),
        ("realloc beyond memory", Guest { realloc: "(i32.const -64)".into(), ..guest() }.wasm(), FailureCause::BadAnswer, ""),
        (
            "an error of its own",
            before(
                "(i32.store8 (i32.const 8192) (i32.const 1)) (i32.store (i32.const 8200) (i32.const 2048))
                 (i32.store (i32.const 8204) (i32.const 5)) (i32.const 8192)",
            ),
            FailureCause::HookError,
            "guest",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_guest_is_stopped_named_and_survived() {
    let host = host();
    let plain = load(&host, &Guest::default().wasm());
    let mut table = vec![];
    for (name, wasm, expected, detail) in hostile() {
        let plugin = load(&host, &wasm);
        let mut took = Duration::MAX;
        let mut evaluation = None;
        // 50 ms budget, 1 ms tick; the rest is for a busy test machine, on which a runaway waits for everybody else.
        for _ in 0..20 {
            let started = Instant::now();
            evaluation = Some(ask(&host, plugin.clone()).await);
            took = took.min(started.elapsed());
            if took < Duration::from_millis(250) {
                break;
            }
        }
        let evaluation = evaluation.expect("it was asked");
        let failure = evaluation
            .failure
            .as_ref()
            .unwrap_or_else(|| panic!("{name} got through: {evaluation:?}"));
        assert_eq!(failure.failure.cause, expected, "{name}: {failure}");
        assert!(failure.failure.detail.contains(detail), "{name}: {failure}");
        assert!(took < Duration::from_millis(250), "{name} took {took:?}");
        let DecisionRecord { log, log_dropped, .. } = &evaluation.records[0];
        if name == "log flood" {
            assert_eq!(log.len(), 50, "the quota");
            assert!(*log_dropped > 1_000, "only {log_dropped} lines were counted");
        } else {
            assert_eq!((log.len(), *log_dropped), (0, 0), "{name}");
        }
        assert!(
            ask(&host, plain.clone()).await.failure.is_none(),
            "a good call after {name}"
        );
        table.push(format!(
            "{name:32} {:>13} {:>8.1} ms  {}",
            expected.as_str(),
            took.as_secs_f64() * 1e3,
            failure.failure.detail
        ));
    }
    println!("{}", table.join("\n"));
}

/// Where the node counts fuel, it ends a runaway on every machine at the same instruction, long before the
/// deadline.
#[tokio::test]
async fn fuel_ends_a_runaway_at_the_same_place_each_time() {
    let options = HostOptions {
        meter_fuel: true,
        ..HostOptions::default()
    };
    let host = PluginHost::new(options).expect("a host");
    let mut runaway = load(&host, &before("(loop $l (br $l)) (unreachable)"));
    runaway.limits.fuel = 100_000;
    let mut plain = load(&host, &Guest::default().wasm());
    plain.limits.fuel = 100_000;
    for _ in 0..3 {
        let evaluation = ask(&host, runaway.clone()).await;
        let failure = &evaluation.failure.as_ref().expect("it fails").failure;
        assert_eq!(failure.cause, FailureCause::Fuel, "{failure}");
        assert_eq!(evaluation.records[0].usage.fuel, Some(100_000));
        let evaluation = ask(&host, plain.clone()).await;
        assert!(evaluation.failure.is_none());
        let used = evaluation.records[0].usage.fuel.expect("it is counted");
        assert!((1..1_000).contains(&used), "{used}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_budget_is_kept() {
    let host = host();
    let mut plugin = load(&host, &before("(loop $l (br $l)) (unreachable)"));
    plugin.limits.deadline_ms = 5;
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(cause(&ask(&host, plugin.clone()).await), FailureCause::Deadline);
        took.push(started.elapsed());
    }
    took.sort();
    assert!(took[0] >= Duration::from_millis(5));
    // The quickest tells of the budget, the others of the machine: a runaway goes on on a thread that steps back.
    assert!(took[0] < Duration::from_millis(20), "{took:?}");
}

/// Counted in ticks at which it is found running, a guest at work that nothing interrupts would have many times
/// its budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_nothing_interrupts_counts_as_the_time_it_takes() {
    let host = host();
    let plugin = load(&host, &bulk_fill());
    let mut took: Vec<Duration> = Vec::new();
    // 50 ms and the fill under way. The quickest tells of the budget, the others of the machine: a busy one is asked
    // until it has a moment.
    while took.last().is_none_or(|last| *last >= Duration::from_millis(110)) {
        assert!(took.len() < 100, "{took:?}");
        let evaluation = ask(&host, plugin.clone()).await;
        assert_eq!(cause(&evaluation), FailureCause::Deadline);
        let elapsed = Duration::from_micros(evaluation.records[0].usage.elapsed_micros);
        assert!(elapsed >= Duration::from_millis(50), "{elapsed:?}");
        took.push(elapsed);
    }
}

#[tokio::test]
async fn each_call_gets_a_fresh_instance() {
    let host = host();
    // Traps if memory, a global or a table remembers an earlier call.
    let guest = Guest {
        items: "(global $calls (mut i32) (i32.const 0)) (table $t 1 10 funcref) (elem declare func $f) (func $f)".into(),
        before: "(if (i32.or (global.get $calls) (i32.load (i32.const 60000))) (then (unreachable)))
                 (if (i32.eqz (ref.is_null (table.get $t (i32.const 0)))) (then (unreachable)))
                 (table.set $t (i32.const 0) (ref.func $f))
                 (global.set $calls (i32.const 1)) (i32.store (i32.const 60000) (i32.const 1)) (i32.const 512)"
            .into(),
        ..Guest::default()
    };
    let mut plugin = load(&host, &guest.wasm());
    plugin.limits.deadline_ms = 1_000; // on a busy machine, too
    for _ in 0..500 {
        let evaluation = ask(&host, plugin.clone()).await;
        assert!(evaluation.failure.is_none(), "{:?}", evaluation.failure);
    }
}

#[tokio::test]
async fn every_page_of_a_fresh_memory_is_empty() {
    let host = host();
    // Writes to every page of 4 MiB, more than an unused slot keeps; traps where an earlier call did.
    let guest = Guest {
        memory: "64".into(),
        before: "(local $at i32) (local.set $at (i32.const 131072))
                 (loop $next
                   (if (i32.load (local.get $at)) (then (unreachable)))
                   (i32.store (local.get $at) (i32.const -1))
                   (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                   (br_if $next (i32.lt_u (local.get $at) (i32.const 4194304))))
                 (i32.const 512)"
            .into(),
        ..Guest::default()
    };
    let mut plugin = load(&host, &guest.wasm());
    plugin.limits.deadline_ms = 1_000; // on a busy machine, too
    for _ in 0..100 {
        let evaluation = ask(&host, plugin.clone()).await;
        assert!(evaluation.failure.is_none(), "{:?}", evaluation.failure);
    }
}

#[tokio::test]
async fn a_failure_means_what_the_binding_says() {
    let host = host();
    let trap = load(&host, &before("(unreachable)"));
    let plain = BoundPlugin {
        binding_id: Uuid::from_u128(8),
        ..load(&host, &Guest::default().wasm())
    };

    let evaluation = host.before(&[trap.clone(), plain.clone()], &question()).await;
    assert_eq!(cause(&evaluation), FailureCause::Trap);
    assert_eq!(evaluation.records.len(), 1, "fail closed: nothing else is asked");

    let skipped = BoundPlugin {
        on_failure: OnFailure::always(FailureAction::Skip),
        ..trap.clone()
    };
    let evaluation = host.before(&[skipped, plain.clone()], &question()).await;
    assert!(evaluation.failure.is_none());
    assert_eq!(evaluation.records.len(), 2, "both are recorded");

    let only_deadline = OnFailure {
        otherwise: FailureAction::Deny,
        causes: vec![(FailureCause::Deadline, FailureAction::Skip)],
    };
    let by_cause = BoundPlugin {
        on_failure: only_deadline,
        ..trap.clone()
    };
    assert_eq!(cause(&ask(&host, by_cause).await), FailureCause::Trap);

    let trapping = trap.binding_id;
    let monitored = BoundPlugin {
        mode: Mode::Monitor,
        ..trap
    };
    let evaluation = host.before(&[monitored], &question()).await;
    assert!(evaluation.failure.is_none(), "a monitor stops nothing");
    assert_eq!(evaluation.records[0].failures_in_a_row, 4, "but is counted");

    let counters = host.counters(trapping).expect("it was called");
    assert_eq!(counters.failures[&FailureCause::Trap], 4);
}

/// `cargo test --test plugin_host -- --ignored --nocapture ten_thousand`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute; CI has a step for it"]
async fn ten_thousand_hostile_calls_leave_memory_where_it_was() {
    let host = host();
    let mut guests: Vec<BoundPlugin> = hostile().iter().map(|(_, wasm, ..)| load(&host, wasm)).collect();
    for guest in &mut guests {
        guest.limits.deadline_ms = 5;
    }
    let run = async |rounds: usize| {
        for _ in 0..rounds {
            for guest in &guests {
                assert!(ask(&host, guest.clone()).await.failure.is_some());
            }
        }
    };
    run(10).await;
    let before = resident_kib();
    run(10_000_usize.div_ceil(guests.len())).await;
    let after = resident_kib();
    println!("resident before {before} KiB, after 10,000 hostile calls {after} KiB");
    assert!(after < before + 8 * 1024, "{before} KiB grew to {after} KiB");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .expect("it is there");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}
