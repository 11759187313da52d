//! Modes, and what follows when a version fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use latchkey::plugin_host::base_question;
use latchkey::service::plugins::{Manager, switch_plugin};
use serde_json::{Value, json};

use crate::guests::{before, denying};
use crate::plugins::{
    assert_denied, bind, fixture, install, install_and_bind, path, patient, replay, roll_back, version,
};
use crate::support::{Caller, DEVELOPER, TestApp, enrol};

/// Binds 1.0.0, which denies with "one", and switches to `second` with these terms.
async fn switched(caller: &Caller<'_>, second: Vec<u8>, mut terms: Value) -> String {
    let first = install(caller, denying("1.0.0", "one")).await;
    let second = install(caller, second).await;
    let binding = path(&bind(caller, &first, patient(json!({}))).await);
    terms["pluginDigest"] = json!(second);
    caller.patch(&binding, terms).await.assert_ok();
    binding
}

/// The digest of the version before.
async fn previous(caller: &Caller<'_>, binding: &str) -> String {
    let digest = caller.get(binding).await.body["previous"]["digest"].clone();
    digest.as_str().expect("a version before").to_owned()
}

/// Switches a plugin off for the whole node, as the operator, or on again.
async fn switch_for_node(app: &TestApp, digest: &str, off: bool) {
    let operator = Manager::operator(&app.services);
    assert!(
        switch_plugin(&app.services, &operator, digest, off)
            .await
            .unwrap()
    );
}

fn policies(app: &TestApp) -> Value {
    app.last_entry()["details"]["policies"].clone()
}

#[tokio::test]
async fn monitor_records_what_it_would_have_decided_and_applies_nothing() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = patient(json!({ "mode": "monitor" }));
    let binding = install_and_bind(&admin, denying("1.0.0", "no"), terms).await;
    let trap = install(&admin, version("2.0.0", "unreachable")).await;
    bind(&admin, &trap, json!({ "mode": "monitor" })).await;
    let forced = install(&admin, fixture("force-reenrollment")).await;
    let terms = json!({ "mode": "monitor", "config": { "hours": 8 }, "grants": ["require-enrolment"] });
    bind(&admin, &forced, terms).await;

    admin.reset(DEVELOPER).await.assert_ok();
    let entry = app.last_entry();
    assert_eq!(entry["details"]["enrolmentDueUntil"], Value::Null, "{entry}");
    assert_eq!(entry["details"]["effects"], Value::Null, "{entry}");
    let policies = policies(&app);
    assert!(
        policies
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["mode"] == "monitor"),
        "{policies}"
    );
    assert_eq!(policies[0]["end"]["answer"]["deny"]["code"], "no", "{policies}");
    assert_eq!(policies[1]["end"]["failure"]["cause"], "trap", "{policies}");
    let listed = admin.get(&binding).await;
    assert_eq!(listed.assert_ok()["mode"], "monitor");
    assert_eq!(listed.body["statistics"]["denials"], 1);

    // Enforced from the next reset on, without a restart.
    admin
        .patch(&binding, json!({ "mode": "enforce" }))
        .await
        .assert_ok();
    assert_denied(&admin.reset(app.second_admin.id).await, "no");
}

/// By hash of binding, version and target: whoever is denied can't ask again until the other version
/// answers.
#[tokio::test]
async fn a_canary_decides_its_share_and_the_version_before_the_rest() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = json!({ "mode": "canary", "canaryPercent": 30 });
    let binding = switched(&admin, denying("2.0.0", "two"), terms).await;
    let mut share = 0;
    for n in 0..60 {
        let target = app.employee(&format!("n{n}")).await;
        let answer = admin.reset(target.id).await;
        let code = answer.body["denial"]["code"].as_str().unwrap().to_owned();
        let record = &policies(&app)[0];
        let expected = if code == "two" { "2.0.0" } else { "1.0.0" };
        assert_eq!(record["version"], expected, "{record}");
        assert_denied(&admin.reset(target.id).await, &code);
        share += u32::from(code == "two");
    }
    // 60 × 30 % is 18, give or take; beyond these bounds once in a million runs.
    assert!((3..=36).contains(&share), "{share} of 60");
    assert_eq!(
        app.count(
            "SELECT count(*) FROM decision WHERE record ->> '$.asked' = 'version-before' \
             AND record ->> '$.hook' = 'before-reset'"
        ),
        2 * i64::from(60 - share)
    );
    let canary = "SELECT count(*) FROM decision WHERE record ->> '$.canary' = 30";
    assert_eq!(app.count(canary), 2 * 120, "both hooks, twice each");
    let whole = admin.patch(&binding, json!({ "mode": "enforce" })).await;
    assert_eq!(whole.assert_ok()["canaryPercent"], Value::Null);
    assert_denied(&admin.reset(DEVELOPER).await, "two");
}

/// There is nobody to judge the others: what is enforced must not stop to hold for them unnoticed.
#[tokio::test]
async fn a_canary_of_what_is_enforced_needs_a_version_before() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let digest = install(&admin, denying("1.0.0", "one")).await;
    let binding = path(&bind(&admin, &digest, patient(json!({}))).await);
    let canary = json!({ "mode": "canary", "canaryPercent": 1 });
    for patch in [canary.clone(), json!({ "canaryPercent": 99, "order": 5 })] {
        let refused = admin.patch(&binding, patch).await;
        assert_eq!(refused.status.as_u16(), 409, "{}", refused.text);
        assert!(
            refused.text.contains("There is no version before"),
            "{}",
            refused.text
        );
    }
    let now = admin.get(&binding).await;
    assert_eq!(
        (&now.body["mode"], &now.body["order"]),
        (&json!("enforce"), &json!(1))
    );
    assert_denied(&admin.reset(DEVELOPER).await, "one");

    // From watching on it is more than there was; that it is not for all is said.
    let watched = admin.patch(&binding, json!({ "mode": "monitor" })).await;
    assert_eq!(watched.assert_ok()["warning"], Value::Null);
    let tried = admin.patch(&binding, canary.clone()).await;
    let warning = tried.assert_ok()["warning"].as_str().unwrap().to_owned();
    assert!(
        warning.contains("1 in a hundred users") && warning.contains("only recorded"),
        "{warning}"
    );
    let more = admin.patch(&binding, json!({ "canaryPercent": 20 })).await;
    assert_eq!(more.assert_ok()["canaryPercent"], 20);
    let fresh = bind(&admin, &digest, canary.clone()).await;
    assert!(fresh.body["warning"].is_string(), "{}", fresh.text);

    // With a version before there is somebody: another file, or another configuration.
    admin
        .patch(&binding, json!({ "mode": "enforce" }))
        .await
        .assert_ok();
    let mut other = canary;
    other["config"] = json!({ "n": 2 });
    let tried = admin.patch(&binding, other).await;
    assert_eq!(tried.assert_ok()["warning"], Value::Null);
    assert_eq!(tried.body["previous"]["config"], json!({}), "{}", tried.text);
}

/// A policy is not silently switched off by a switch to a version that is: the admin is told, and can disable the
/// binding on purpose.
#[tokio::test]
async fn no_switch_ends_at_a_version_that_is_switched_off() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = switched(&admin, denying("2.0.0", "two"), json!({})).await;
    let first = previous(&admin, &binding).await;
    switch_for_node(&app, &first, true).await;
    let back = roll_back(&admin, &binding).await;
    let there = admin.patch(&binding, json!({ "pluginDigest": first })).await;
    for refused in [back, there] {
        assert_eq!(refused.status.as_u16(), 409, "{}", refused.text);
        assert!(
            refused.text.contains("switched off on this node"),
            "{}",
            refused.text
        );
    }
    assert_eq!(admin.get(&binding).await.body["current"]["version"], "2.0.0");
    assert_eq!(admin.reset(DEVELOPER).await.body["denial"]["code"], "two");

    switch_for_node(&app, &first, false).await;
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["version"], "1.0.0", "{}", back.text);
    assert_eq!(admin.reset(DEVELOPER).await.body["denial"]["code"], "one");

    // To an earlier configuration of what is switched off already is another matter: nothing ends by it.
    admin
        .patch(&binding, json!({ "config": { "n": 2 } }))
        .await
        .assert_ok();
    switch_for_node(&app, &first, true).await;
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["config"], json!({}), "{}", back.text);
}

/// What the operator switches off judges nobody: neither may a canary rest on it, nor those be judged by nobody whom
/// it judged.
#[tokio::test]
async fn a_canary_judges_everybody_where_the_version_before_is_switched_off() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = switched(&admin, denying("2.0.0", "two"), json!({})).await;
    let first = previous(&admin, &binding).await;
    let canary = json!({ "mode": "canary", "canaryPercent": 1 });
    switch_for_node(&app, &first, true).await;
    for mode in ["enforce", "monitor"] {
        admin.patch(&binding, json!({ "mode": mode })).await.assert_ok();
        let refused = admin.patch(&binding, canary.clone()).await;
        assert_eq!(refused.status.as_u16(), 409, "{mode}: {}", refused.text);
        let why = "The version before is switched off";
        assert!(refused.text.contains(why), "{mode}: {}", refused.text);
    }
    switch_for_node(&app, &first, false).await;
    admin
        .patch(&binding, json!({ "mode": "enforce" }))
        .await
        .assert_ok();
    let tried = admin.patch(&binding, canary).await;
    assert_eq!(tried.assert_ok()["warning"], Value::Null, "{}", tried.text);

    let mut users = Vec::new();
    for n in 0..10 {
        users.push(app.employee(&format!("n{n}")).await.id);
    }
    let judged_by_first = async || {
        let mut by_first = 0;
        for user in &users {
            let denied = admin.reset(*user).await;
            assert_eq!(denied.status.as_u16(), 403, "{}", denied.text);
            by_first += u32::from(denied.body["denial"]["code"] == "one");
        }
        by_first
    };
    assert!(judged_by_first().await >= 5, "one in a hundred is tried");
    switch_for_node(&app, &first, true).await;
    assert_eq!(judged_by_first().await, 0);
    let listed = admin.get(&binding).await;
    let warning = listed.assert_ok()["warning"].as_str().unwrap_or_default();
    assert!(warning.contains("judges all users"), "{}", listed.text);
    switch_for_node(&app, &first, false).await;
    assert!(judged_by_first().await >= 5);
    assert_eq!(admin.get(&binding).await.body["warning"], Value::Null);
}

#[tokio::test]
async fn a_canary_that_fails_or_overspends_falls_back_to_the_version_before() {
    let runaway = "(loop (br 0)) (unreachable)";
    let bomb = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)";
    for (cause, body) in [("trap", "unreachable"), ("deadline", runaway), ("memory", bomb)] {
        let app = TestApp::new().await;
        let admin = app.admin().await;
        let terms = json!({ "mode": "canary", "canaryPercent": 99, "limits": { "deadlineMs": 200 } });
        let binding = switched(&admin, version("2.0.0", body), terms).await;
        let (mut failed, mut n) = (0, 0);
        while failed < 3 {
            n += 1;
            let target = app.employee(&format!("n{n}")).await;
            assert_denied(&admin.reset(target.id).await, "one");
            let asked = policies(&app);
            if asked[0]["version"] == "2.0.0" {
                failed += 1;
                assert_eq!(asked[0]["end"]["failure"]["cause"], cause, "{asked}");
                assert_eq!(asked[1]["version"], "1.0.0", "{asked}");
                assert_eq!(asked[1]["end"]["answer"]["deny"]["code"], "one", "{asked}");
            }
        }
        let listed = admin.get(&binding).await;
        let statistics = &listed.assert_ok()["statistics"];
        let asked = policies(&app);
        assert_eq!(
            statistics["fallbacks"], 6,
            "both hooks, {cause}: {statistics} {asked}"
        );
        assert_eq!(statistics["failures"], 3, "{cause}: {statistics} {asked}");
    }
}

#[tokio::test]
async fn what_a_failure_means_is_said_for_each_cause() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let on_failure = |of: Value| json!({ "onFailure": of, "limits": { "deadlineMs": 50 } });
    let terms = on_failure(json!({ "otherwise": "deny", "trap": "skip", "deadline": "last-good-version" }));
    let binding = switched(&admin, version("2.0.0", "unreachable"), terms).await;
    let second = admin.get(&binding).await.body["current"]["digest"].clone();

    // A trap is passed over, as if it were not bound; the entry says so.
    admin.reset(DEVELOPER).await.assert_ok();
    let asked = policies(&app);
    assert_eq!(asked[0]["end"]["failure"]["cause"], "trap", "{asked}");
    assert_eq!(asked[0]["digest"], second, "{asked}");

    // Otherwise: nothing happens to the user.
    let error = "(i32.store8 (i32.const 512) (i32.const 1)) (i32.const 512)"; // err("")
    let third = install(&admin, version("3.0.0", error)).await;
    admin
        .patch(&binding, json!({ "pluginDigest": third }))
        .await
        .assert_ok();
    let failed = admin.reset(app.second_admin.id).await;
    failed.assert_error(500, "A policy could not be evaluated");
    let entry = app.last_entry();
    assert_eq!(entry["result"], "FAILURE");
    let cause = entry["details"]["cause"].as_str().unwrap();
    assert!(
        cause.starts_with(&format!("plugin guest 3.0.0 (sha256:{third}) failed, hook-error")),
        "{cause}"
    );

    // A deadline: the version before decides. It is 1.0.0 once more.
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["version"], "2.0.0");
    let first = install(&admin, denying("1.0.0", "one")).await;
    admin
        .patch(&binding, json!({ "pluginDigest": first }))
        .await
        .assert_ok();
    assert_denied(&admin.reset(app.second_admin.id).await, "one");
    let slow = install(&admin, version("4.0.0", "(loop (br 0)) (unreachable)")).await;
    admin
        .patch(&binding, json!({ "pluginDigest": slow }))
        .await
        .assert_ok();
    assert_denied(&admin.reset(app.second_admin.id).await, "one");
    let asked = policies(&app);
    assert_eq!(asked[0]["end"]["failure"]["cause"], "deadline", "{asked}");
    assert_eq!(asked[1]["version"], "1.0.0", "{asked}");
}

#[tokio::test]
async fn without_a_version_before_the_last_good_version_is_a_denial() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let digest = install(&admin, before("unreachable")).await;
    let terms = json!({ "onFailure": { "otherwise": "last-good-version" } });
    bind(&admin, &digest, terms).await;
    admin
        .reset(DEVELOPER)
        .await
        .assert_error(500, "A policy could not be evaluated");
}

#[tokio::test]
async fn an_effect_that_is_not_granted_is_refused_and_recorded() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = patient(json!({ "config": { "hours": 8 } }));
    let binding = install_and_bind(&admin, fixture("force-reenrollment"), terms).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let entry = app.last_entry();
    assert_eq!(entry["details"]["enrolmentDueUntil"], Value::Null, "{entry}");
    assert_eq!(entry["details"]["effects"], Value::Null, "{entry}");
    let refused: Vec<_> = policies(&app)
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|p| p["refused"].as_array().unwrap().clone())
        .collect();
    assert!(!refused.is_empty(), "{entry}");
    assert!(
        refused[0].to_string().contains("require-enrolment"),
        "{refused:?}"
    );

    let granted = json!({ "grants": ["require-enrolment"] });
    admin.patch(&binding, granted).await.assert_ok();
    admin.reset(app.second_admin.id).await.assert_ok();
    assert_eq!(
        app.last_entry()["details"]["enrolmentDueUntil"],
        "2026-02-18T18:30:00Z"
    );
}

/// What is absent is null; a caller who sends blanks instead must not get past the rule for it.
#[tokio::test]
async fn a_blank_ticket_is_none() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let digest = install(&admin, fixture("cel-rules")).await;
    let rules = |when: &str| {
        let rule = json!({ "name": "ticket-missing", "when": when, "then": "deny", "message": "No ticket." });
        patient(json!({ "config": { "rules": [rule] } }))
    };
    let refused = bind(&admin, &digest, rules("question.request.ticket == \"\"")).await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
    assert!(refused.text.contains("write == null"), "{}", refused.text);
    bind(&admin, &digest, rules("question.request.ticket == null")).await;
    let reset = format!("/api/v1/users/{DEVELOPER}/reset-mfa");
    for body in [json!({}), json!({ "ticket": "" }), json!({ "ticket": " \t" })] {
        assert_denied(&admin.post(&reset, body).await, "ticket-missing");
    }
    admin.post(&reset, json!({ "ticket": "HD-1" })).await.assert_ok();
}

/// What a policy sees of the past is its own manifest's to say, so that binding another one changes no answer of it.
#[tokio::test]
async fn history_reaches_as_far_back_as_each_policy_asks_whatever_others_ask() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let rules = install(&admin, fixture("cel-rules")).await; // 30 days
    let seen = json!({ "name": "seen", "when": "question.history.ofTarget.size() > 0", "then": "deny", "message": "Seen." });
    let terms = patient(json!({ "config": { "rules": [seen] } }));
    assert_eq!(bind(&admin, &rules, terms).await.status.as_u16(), 201);
    let budget = install(&admin, fixture("reset-budget")).await; // 90 days
    let terms = patient(json!({ "config": { "perUser": { "max": 9, "days": 90 } } }));
    assert_eq!(bind(&admin, &budget, terms).await.status.as_u16(), 201);

    admin.reset(DEVELOPER).await.assert_ok();
    for days in [31, 29] {
        app.advance(SignedDuration::from_hours(24 * days));
        enrol(&app.services, app.developer.id).await;
        let again = app.admin().await.reset(DEVELOPER).await;
        match days {
            31 => drop(again.assert_ok()),
            _ => assert_denied(&again, "seen"),
        }
    }
    let admin = app.admin().await;
    let report = replay(&admin, &rules, json!({ "since": "80d" })).await;
    let report = report.assert_ok();
    assert_eq!(report["clean"], true, "{report}");
    assert_eq!(report["resets"], 3, "{report}");
    assert_eq!(report["same"], report["compared"], "{report}");
}

/// A call under way finishes on the version that it began with; what it decided is then judged again by
/// the new one, so that no reset is committed on a policy that no longer holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_when_the_version_is_switched_ends_and_is_judged_again() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    // Each a second of work, after which it is passed over: as good as "allow".
    let slow = install(&admin, version("1.0.0", "(loop (br 0)) (unreachable)")).await;
    let next = install(&admin, denying("2.0.0", "two")).await;
    let terms = patient(json!({ "onFailure": { "otherwise": "skip" } }));
    let first = bind(&admin, &slow, terms.clone()).await;
    for _ in 0..4 {
        bind(&admin, &slow, terms.clone()).await;
    }
    let old = app.services.bindings.of(app.acme);

    let ended = AtomicBool::new(false);
    let reset = async {
        let answer = admin.reset(DEVELOPER).await;
        ended.store(true, Ordering::SeqCst);
        answer
    };
    let switch = async {
        // The first policy has been passed over, the others are still to come.
        let id = first.body["id"].as_str().unwrap().parse().unwrap();
        while app.services.plugin_host.counters(id).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started = Instant::now();
        admin
            .patch(&path(&first), json!({ "pluginDigest": next }))
            .await
            .assert_ok();
        println!(
            "the switch took {:?} while a call was under way",
            started.elapsed()
        );
        assert!(
            !ended.load(Ordering::SeqCst),
            "the switch waits for no call under way"
        );
    };
    let (answer, ()) = tokio::join!(reset, switch);
    assert_denied(&answer, "two");
    assert_eq!(policies(&app)[0]["version"], "2.0.0");
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 1, "decided once");

    // Whoever still holds the old set is answered by the old version, to the end.
    let question = serde_json::from_value(base_question()).unwrap();
    let evaluation = app
        .services
        .plugin_host
        .before(&old.plugins[..1], &Arc::new(question))
        .await;
    assert_eq!(evaluation.records[0].version, "1.0.0");
    assert_eq!(
        app.services.bindings.of(app.acme).plugins[0].current.version,
        "2.0.0"
    );
}

/// Four runaways in flight in one organisation; another one's resets go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runaways_of_one_organisation_do_not_hold_up_anothers_resets() {
    let app = TestApp::new().await;
    let (acme, globex) = (app.admin().await, app.admin_of_other_org().await);
    let digest = install(&globex, denying("1.0.0", "no")).await;
    let terms = patient(json!({}));
    bind(&globex, &digest, terms.clone()).await;
    let endless = install(&acme, before("(loop (br 0)) (unreachable)")).await;
    bind(&acme, &endless, json!({ "limits": { "deadlineMs": 400 } })).await;
    let measure = async |calls: u32| {
        let mut took = Vec::new();
        for _ in 0..calls {
            let started = Instant::now();
            assert_denied(&globex.reset(app.other_developer.id).await, "no");
            took.push(started.elapsed());
        }
        took.sort();
        (took[took.len() / 2], took[took.len() * 99 / 100])
    };
    measure(20).await;
    let quiet = measure(200).await;
    let runaway = async || {
        let started = Instant::now();
        let answer = acme.reset(DEVELOPER).await;
        assert_eq!(answer.status.as_u16(), 500, "{}", answer.text);
        started.elapsed()
    };
    let began = Instant::now();
    let (a, b, c, d, loaded) = tokio::join!(runaway(), runaway(), runaway(), runaway(), measure(100));
    let all = began.elapsed();
    println!(
        "globex p50, p99: quiet {quiet:?}, beside four runaways of acme's {loaded:?} (acme: {a:?} {b:?} {c:?} {d:?})"
    );
    // Two at a time: the other two wait for their turn.
    assert!(all >= Duration::from_millis(800), "{all:?}");
    assert!(
        loaded.0 < Duration::from_millis(400),
        "half of globex's resets wait for no runaway: {loaded:?}"
    );
}
