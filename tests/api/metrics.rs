//! What an operator's collector reads.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use latchkey::limiter::{Limit, Limits};
use latchkey::service::backup::{KeyChoice, Schedule, back_up_when_due};
use latchkey::service::{metrics, trail};
use serde_json::json;

use crate::guests::{before, denying};
use crate::plugins::{bind, fixture, install, path, patient};
use crate::support::{DEVELOPER, TestApp, enrol};

fn read(app: &TestApp) -> BTreeMap<String, u64> {
    let text = metrics::exposition(&app.services).unwrap();
    sound(&text)
}

/// Reads the text as a collector does, and stricter: each family is described once and before its samples, no sample
/// comes twice, counters are called `_total`, buckets add up.
fn sound(text: &str) -> BTreeMap<String, u64> {
    let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    let mut current = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            help.split(' ').next().unwrap().clone_into(&mut current);
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows its HELP");
            assert!(
                kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} twice"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        let suffix = name.strip_prefix(current.as_str());
        let allowed = match kinds[&current].as_str() {
            "histogram" => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
            _ => suffix == Some(""),
        };
        assert!(allowed, "{line} within {current}");
        value.parse::<f64>().unwrap();
        let value = value.parse().unwrap_or_default(); // seconds have a fraction, counts none
        assert!(
            samples.insert(sample.to_owned(), value).is_none(),
            "{sample} twice"
        );
    }
    for (sample, count) in &samples {
        if let Some(labels) = sample.strip_prefix("latchkey_policy_call_duration_seconds_count{") {
            let labels = labels.trim_end_matches('}');
            let buckets: Vec<u64> = text
                .lines()
                .filter(|line| {
                    line.starts_with("latchkey_policy_call_duration_seconds_bucket{") && line.contains(labels)
                })
                .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
                .collect();
            assert!(
                buckets.is_sorted() && buckets.last() == Some(count),
                "{sample}: {buckets:?}"
            );
        }
    }
    samples
}

#[tokio::test]
async fn resets_requests_and_policies_are_counted_and_nobody_is_named() {
    let limits = Limits {
        reset_by_target: Limit {
            requests: 6,
            window_secs: 3600,
        },
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let admin = app.admin().await;
    let trapping = install(&admin, before("unreachable")).await;
    let denies = install(&admin, denying("2.0.0", "no")).await;
    let terms = patient(json!({}));

    admin.reset(DEVELOPER).await.assert_ok();
    admin.reset(DEVELOPER).await; // 400: there is no MFA any more
    enrol(&app.services, app.developer.id).await;
    let binding = path(&bind(&admin, &denies, terms.clone()).await);
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 403);
    assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
    let binding = path(&bind(&admin, &trapping, terms.clone()).await);
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 500);
    assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
    let second = install(&admin, fixture("second-admin")).await;
    let terms = patient(json!({ "config": { "privileged": true, "emails": ["dev@acme.example"] } }));
    bind(&admin, &second, terms).await;
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 202);
    let member = app.member().await;
    assert_eq!(member.reset(app.second_admin.id).await.status.as_u16(), 403);
    let unknown = "770e8400-e29b-41d4-a716-446655440099";
    for status in [404, 404, 404, 404, 404, 404, 429] {
        assert_eq!(admin.reset(unknown).await.status.as_u16(), status);
    }

    let now = read(&app);
    let resets = |outcome: &str| now[&format!("latchkey_resets_total{{outcome=\"{outcome}\"}}")];
    assert_eq!(
        [
            "done",
            "denied",
            "policy-failed",
            "awaits-approval",
            "rate-limited",
            "error"
        ]
        .map(resets),
        [1, 1, 1, 1, 1, 0]
    );
    // No MFA, a member, and an unknown user until the limit.
    assert_eq!(resets("refused"), 8);
    let requests = |status: u16| now[&format!("latchkey_http_requests_total{{status=\"{status}\"}}")];
    assert_eq!([202, 429, 500].map(requests), [1, 1, 1]);
    assert_eq!([403, 404].map(requests), [2, 6]);
    assert_eq!(now["latchkey_writer_queue_length"], 0);
    assert_eq!(now["latchkey_store_failing"], 0);
    assert!(now["latchkey_writer_commits_total"] > 5);
    assert!(now.contains_key("latchkey_deliveries_owed{channel=\"webhook\"}"));
    assert_eq!(now["latchkey_deliveries_dead"], 0);

    // By plugin, version and digest, after they were unbound too.
    let of = |family: &str, version: &str, digest: &str, more: &str| {
        let labels = format!("plugin=\"guest\",version=\"{version}\",digest=\"{digest}\"{more}");
        now[&format!("latchkey_policy_{family}{{{labels}}}")]
    };
    assert_eq!(of("denials_total", "2.0.0", &denies, ""), 1);
    assert_eq!(of("failures_total", "1.0.0", &trapping, ",cause=\"trap\""), 1);
    assert_eq!(of("failures_total", "1.0.0", &trapping, ",cause=\"deadline\""), 0);
    assert_eq!(of("calls_total", "2.0.0", &denies, ""), 2, "before and after");
    assert_eq!(of("call_duration_seconds_count", "2.0.0", &denies, ""), 2);

    let labels: BTreeSet<&str> = now
        .keys()
        .filter_map(|sample| sample.split_once('{'))
        .flat_map(|(_, labels)| labels.trim_end_matches('}').split(','))
        .map(|label| label.split('=').next().unwrap())
        .collect();
    let known = [
        "cause", "channel", "digest", "le", "outcome", "plugin", "status", "version",
    ];
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), known);
    let text = metrics::exposition(&app.services).unwrap();
    for personal in ["acme", "@", DEVELOPER, "127.0.0.1"] {
        assert!(!text.contains(personal), "{personal} in {text}");
    }
}

/// What is exported does not grow with what callers send. (Nor without bound with what is installed:
/// `plugin_host/metrics.rs`. All apps of these tests share one host, so that versions come and stay meanwhile.)
#[tokio::test]
async fn the_number_of_samples_is_bounded() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let read = |app: &TestApp| -> BTreeSet<String> {
        let names = read(app).into_keys();
        names.filter(|sample| !sample.contains("{plugin=")).collect()
    };
    let before = read(&app).len();
    for n in 0..50 {
        admin.get(&format!("/no-such-path-{n}")).await;
        admin.get(&format!("/api/v1/users/{n}")).await;
    }
    let after = read(&app).len();
    assert!(after <= before + 2, "{before} grew to {after}: a status or two");
}

#[tokio::test]
async fn backups_checkpoints_and_what_was_given_up_are_told() {
    let app = TestApp::new().await;
    let (backup, age) = (
        "latchkey_backup_last_success_timestamp_seconds",
        "latchkey_checkpoint_age_seconds",
    );
    let before = read(&app);
    assert!(before["latchkey_wal_bytes"] > 0, "{before:?}");
    assert!(
        !before.contains_key(backup) && !before.contains_key(age),
        "{before:?}"
    );

    let folder = tempfile::tempdir().unwrap();
    let schedule = Schedule {
        directory: folder.path().to_owned(),
        every: SignedDuration::from_hours(1),
        keep: 2,
        keys: KeyChoice::None,
        passphrase_file: None,
    };
    let services = app.services.clone();
    let made = tokio::task::spawn_blocking(move || back_up_when_due(&services, &schedule, &|| false));
    made.await.unwrap().unwrap().expect("one was due");
    trail::checkpoint(&app.services).await.unwrap();
    let at = u64::try_from(app.services.clock.now().as_second()).unwrap();
    app.advance(SignedDuration::from_secs(90));
    app.execute(
        "INSERT INTO delivery (channel, payload, state, next_attempt_at, created_at, ended_at) \
         VALUES ('mail', '{}', 'dead', 0, 0, 1)",
    )
    .await;
    let now = read(&app);
    assert_eq!(now[backup], at);
    assert_eq!(now[age], 90);
    assert_eq!(now["latchkey_deliveries_dead"], 1);
}
