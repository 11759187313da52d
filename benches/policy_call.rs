//! What a policy costs per call: a fresh instance, the hook, the drop, in CPU time of the calling
//! thread (so that a busy machine does not blur it). `cargo bench --bench policy_call`.
//!
//! reset-budget is the same policy in Rust, C and JavaScript; `LATCHKEY_BENCH_PLUGINS=a.wasm:b.wasm` adds further
//! builds of it, such as that in Python, which is too large to keep here.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cpu_time::ThreadTime;
use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use latchkey::domain::policy::{Grants, Hook, Mode, Outcome, Question, ResultKind};
use latchkey::plugin_host::{
    BoundPlugin, Digest, HostOptions, Limits, OnFailure, PluginHost, PluginVersion, base_question,
};
use uuid::Uuid;

fn load(host: &PluginHost, path: &Path, config: &str) -> BoundPlugin {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let prepared = host
        .prepare(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    BoundPlugin {
        binding_id: Uuid::from_u128(u128::from(prepared.digest().0[0])),
        name: path.file_stem().expect("a file").to_string_lossy().into_owned(),
        current: PluginVersion {
            version: "1.0.0".into(),
            prepared,
            config: Arc::from(config),
            config_digest: Digest::of(config.as_bytes()),
            hooks: vec![Hook::BeforeReset, Hook::AfterReset],
            history_days: 90,
            grants: Grants::all(),
        },
        mode: Mode::Enforce,
        on_failure: OnFailure::default(),
        limits: Limits {
            deadline_ms: 1_000,
            memory_bytes: 256 << 20,
            ..Limits::default()
        },
        before: None,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench has no configuration but the environment"
)]
fn policies(criterion: &mut Criterion<ThreadCpu>) {
    let host = PluginHost::new(HostOptions::default()).expect("a host");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let question: Question = serde_json::from_value(base_question()).expect("the built-in question");
    let question = Arc::new(question);
    let outcome = Outcome {
        kind: ResultKind::Done,
        removed: question.target.factors.clone(),
        effects: vec![],
        denial: None,
        approved_by: vec![],
    };

    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/plugins");
    let window =
        r#"{"timeZone":"Europe/Berlin","days":["mon","tue","wed","thu","fri"],"from":"08:00","to":"18:00"}"#;
    let limit = r#"{"perUser":{"max":2,"days":30}}"#;
    let budget = load(&host, &fixtures.join("reset-budget.wasm"), limit);
    let in_c = load(&host, &fixtures.join("reset-budget-c.wasm"), limit);
    let in_javascript = load(&host, &fixtures.join("reset-budget-js.wasm"), limit);
    let more = std::env::var_os("LATCHKEY_BENCH_PLUGINS").unwrap_or_default();
    let more: Vec<_> = std::env::split_paths(&more)
        .filter(|path: &PathBuf| path.is_file())
        .map(|path| load(&host, &path, limit))
        .collect();
    let window = load(&host, &fixtures.join("change-window.wasm"), window);
    let enrol = load(
        &host,
        &fixtures.join("force-reenrollment.wasm"),
        r#"{"hours":24}"#,
    );

    let mut group = criterion.benchmark_group("policy");
    group
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_millis(500))
        .sample_size(50);
    for plugin in [&budget, &in_c, &in_javascript, &window].into_iter().chain(&more) {
        let one = std::slice::from_ref(plugin);
        group.bench_function(format!("{} before", plugin.name), |bencher| {
            bencher.iter(|| {
                let evaluation = runtime.block_on(host.before(one, black_box(&question)));
                assert!(evaluation.failure.is_none(), "{:?}", evaluation.failure);
            });
        });
    }
    group.bench_function("force-reenrollment after", |bencher| {
        let one = std::slice::from_ref(&enrol);
        bencher.iter(|| runtime.block_on(host.after(one, black_box(&question), outcome.clone())));
    });
    group.bench_function("three plugins, both hooks", |bencher| {
        let three = [budget.clone(), window.clone(), enrol.clone()];
        bencher.iter(|| {
            runtime.block_on(async {
                black_box(host.before(&three, black_box(&question)).await);
                black_box(host.after(&three, black_box(&question), outcome.clone()).await);
            });
        });
    });
    group.finish();
}

/// CPU time of this thread.
struct ThreadCpu;

impl Measurement for ThreadCpu {
    type Intermediate = ThreadTime;
    type Value = Duration;

    fn start(&self) -> ThreadTime {
        ThreadTime::now()
    }

    fn end(&self, start: ThreadTime) -> Duration {
        start.elapsed()
    }

    fn add(&self, one: &Duration, two: &Duration) -> Duration {
        *one + *two
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_secs_f64() * 1e9
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(ThreadCpu)
        .configure_from_args();
    policies(&mut criterion);
    criterion.final_summary();
}
