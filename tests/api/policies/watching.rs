//! What nobody asks for: alarms, re-checks of live decisions, retention.

use std::time::Duration;

use jiff::SignedDuration;
use latchkey::domain::audit::Tampering;
use latchkey::plugin_host::{HostOptions, PluginHost};
use latchkey::service::plugins::{PluginSettings, alarm_count, recheck_waiting};
use latchkey::service::{Settings, housekeeping};
use latchkey::store::audit;
use serde_json::{Value, json};

use crate::guests::{Guest, before, denying};
use crate::keeping::tidy_by_a_settled_clock;
use crate::plugins::{BINDINGS, PLUGINS, bind, fixture, install, install_and_bind, path, patient, replay};
use crate::support::{DEVELOPER, Setup, TestApp, reset_path};

async fn app_with(plugins: PluginSettings) -> TestApp {
    TestApp::with(Settings {
        plugins,
        ..Settings::default()
    })
    .await
}

/// An alarm is raised after three failures in a row.
async fn app_that_alarms() -> TestApp {
    app_with(PluginSettings {
        alarm_after: 3,
        ..PluginSettings::default()
    })
    .await
}

/// Every live decision is checked again.
async fn app_that_rechecks() -> TestApp {
    app_with(PluginSettings {
        recheck_one_in: 1,
        ..PluginSettings::default()
    })
    .await
}

/// Makes all decisions of [`denying`] others than they were.
async fn falsify(app: &TestApp) {
    app.execute("UPDATE decision SET record = replace(record, '\"no\"', '\"yes\"')")
        .await;
}

/// Undoes [`falsify`].
async fn put_right(app: &TestApp) {
    app.execute("UPDATE decision SET record = replace(record, '\"yes\"', '\"no\"')")
        .await;
}

fn alarms(app: &TestApp) -> Vec<Value> {
    let mut entries = app.trail();
    entries.retain(|entry| entry["eventType"] == "POLICY_PLUGIN_ALARM");
    entries
}

/// It traps where it is given a text of 499 bytes, and answers otherwise.
fn touchy() -> Vec<u8> {
    Guest {
        items: "(global $touched (mut i32) (i32.const 0))".into(),
        realloc: "(if (i32.eq (local.get 3) (i32.const 499)) (then (global.set $touched (i32.const 1)))) \
                  (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8))) \
                  (global.get $heap) (global.set $heap (i32.add (global.get $heap) (local.get 3)))"
            .into(),
        before: "(if (global.get $touched) (then unreachable)) (i32.const 512)".into(),
        ..Guest::default()
    }
    .wasm()
}

#[tokio::test]
async fn failures_in_a_row_raise_one_alarm_and_the_policy_is_never_switched_off() {
    let app = app_that_alarms().await;
    let admin = app.admin().await;
    let digest = install(&admin, touchy()).await;
    let binding = path(&bind(&admin, &digest, patient(json!({}))).await);
    let long = json!({ "reason": "x".repeat(499) });
    let fail = async || {
        let failed = admin.post(&reset_path(DEVELOPER), long.clone()).await;
        failed.assert_error(500, "A policy could not be evaluated");
    };
    fail().await;
    fail().await;
    assert_eq!(alarms(&app).len(), 0);
    fail().await;
    fail().await;
    let raised = alarms(&app);
    assert_eq!(raised.len(), 1, "one, until it has answered again: {raised:?}");
    let alarm = &raised[0];
    assert_eq!(alarm["result"], "FAILURE");
    assert_eq!(alarm["resource"]["id"], *digest);
    assert_eq!(alarm["resource"]["name"], "guest");
    assert_eq!(alarm["details"]["version"], "1.0.0");
    assert_eq!(alarm["details"]["reason"], "failures-in-a-row");
    assert_eq!(alarm["details"]["failuresInARow"], 3);
    assert_eq!(alarm["details"]["cause"], "trap");
    let shown = admin.get(&binding).await;
    assert_eq!(
        shown.assert_ok()["disabledAt"],
        Value::Null,
        "it goes on being asked"
    );
    assert_eq!(shown.body["statistics"]["failuresInARow"], 4);

    admin.reset(DEVELOPER).await.assert_ok(); // it answers
    assert_eq!(admin.get(&binding).await.body["statistics"]["failuresInARow"], 0);
    crate::support::enrol(&app.services, app.developer.id).await;
    for _ in 0..3 {
        fail().await;
    }
    assert_eq!(alarms(&app).len(), 2);
    assert_eq!(alarm_count(&app.services), 2);
}

/// The version before is the same file, and answers whenever the configuration makes the one in use fail.
#[tokio::test]
async fn a_configuration_that_always_fails_is_not_excused_by_the_one_before() {
    let app = app_that_alarms().await;
    let admin = app.admin().await;
    let terms = patient(json!({ "onFailure": { "otherwise": "last-good-version" } }));
    let binding = install_and_bind(&admin, touchy(), terms).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let failing = json!({ "text": "x".repeat(499 - r#"{"text":""}"#.len()) });
    let changed = admin.patch(&binding, json!({ "config": failing })).await;
    let config = changed.assert_ok()["current"]["configDigest"].clone();
    for (resets, raised) in [(2, 0), (2, 1)] {
        for _ in 0..resets {
            crate::support::enrol(&app.services, app.developer.id).await;
            admin.reset(DEVELOPER).await.assert_ok();
            let calls = app.last_entry_of("USER_MFA_RESET")["details"]["policies"].clone();
            assert_eq!(calls[0]["end"]["failure"]["cause"], "trap", "{calls}");
            assert_eq!(calls[0]["config"], config, "{calls}");
            assert!(calls[1]["end"]["answer"].is_object(), "{calls}");
        }
        assert_eq!(alarms(&app).len(), raised, "{:?}", alarms(&app));
    }
}

/// Skipped, it stops no reset; what it asks for is lost at each of them, and only the alarm says so.
#[tokio::test]
async fn a_policy_that_answers_before_and_always_fails_after_raises_one_alarm() {
    let app = app_that_alarms().await;
    let admin = app.admin().await;
    let digest = install(
        &admin,
        Guest {
            after: "(unreachable)".into(),
            ..Guest::default()
        }
        .wasm(),
    )
    .await;
    let terms = patient(json!({ "onFailure": { "otherwise": "skip" } }));
    let binding = path(&bind(&admin, &digest, terms).await);
    for (reset, raised) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
        admin.reset(DEVELOPER).await.assert_ok();
        assert_eq!(alarms(&app).len(), raised, "after {reset} resets");
        let shown = admin.get(&binding).await;
        assert_eq!(shown.body["statistics"]["failuresInARow"], reset);
        crate::support::enrol(&app.services, app.developer.id).await;
    }
    let alarm = &alarms(&app)[0];
    assert_eq!(alarm["details"]["hook"], "after-reset", "{alarm}");
    assert_eq!(alarm["details"]["failuresInARow"], 3);
    assert_eq!(alarm["details"]["cause"], "trap");
}

/// Only watched, it stops nothing: so the entry alone says that nobody was asked.
#[tokio::test]
async fn a_watched_policy_that_got_no_turn_is_in_the_entry() {
    let options = HostOptions {
        per_organization_concurrency: 1,
        slot_wait: Duration::from_millis(20),
        ..HostOptions::default()
    };
    let app = TestApp::with(Setup {
        plugin_host: Some(PluginHost::new(options).unwrap()),
        ..Setup::default()
    })
    .await;
    let admin = app.admin().await;
    let endless = Guest {
        before: "(loop (br 0)) (unreachable)".into(),
        ..Guest::default()
    };
    let digest = install(&admin, endless.wasm()).await;
    let watched = patient(json!({ "mode": "monitor", "hooks": ["before-reset"] }));
    bind(&admin, &digest, watched).await;
    // The first keeps the only slot for a second at least.
    let (one, two) = tokio::join!(admin.reset(DEVELOPER), admin.reset(app.second_admin.id));
    one.assert_ok();
    two.assert_ok();
    let mut causes: Vec<_> = app.trail()[..2]
        .iter()
        .map(|entry| entry["details"]["policies"][0]["end"]["failure"]["cause"].clone())
        .collect();
    causes.sort_by_key(Value::to_string);
    assert_eq!(causes, ["busy", "deadline"]);
    // There is no answer to compare with, and a replay says so.
    let replayed = replay(&admin, &digest, json!({})).await;
    assert_eq!(
        replayed.assert_ok()["verdict"],
        "nothing-compared",
        "{}",
        replayed.text
    );
    assert_eq!(replayed.body["notComparable"], 2, "{}", replayed.text);
}

#[tokio::test]
async fn a_live_decision_that_is_not_what_the_module_answers_raises_an_alarm() {
    let app = app_that_rechecks().await;
    app.bind("reset-budget", json!({ "perUser": { "max": 3, "days": 30 } }))
        .await;
    app.bind("force-reenrollment", json!({ "hours": 8 })).await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    assert_eq!(recheck_waiting(&app.services).await, 0, "pure functions");
    assert_eq!(alarms(&app).len(), 0);

    // Somebody changes what was asked: the module, asked that, answers something else.
    admin.reset(app.second_admin.id).await.assert_ok();
    let asked: String = app
        .services
        .store
        .read(|db| {
            let newest = "SELECT question FROM question ORDER BY audit_sequence DESC LIMIT 1";
            Ok(db.query_row(newest, [], |row| row.get(0))?)
        })
        .unwrap();
    let changed = app
        .execute(
            "UPDATE question SET question = json_set(question, '$.history.targetResetsLast30Days', 9, \
             '$.history.ofTarget', json('[]')) WHERE audit_sequence = (SELECT max(audit_sequence) FROM question)",
        )
        .await;
    assert_eq!(changed, 1);
    assert_eq!(recheck_waiting(&app.services).await, 1);
    let alarm = alarms(&app).remove(0);
    assert_eq!(alarm["details"]["reason"], "replay-differs", "{alarm}");
    assert_eq!(alarm["details"]["hook"], "before-reset");
    assert!(alarm["details"]["replayed"]["deny"].is_object(), "{alarm}");
    assert_eq!(alarm["resource"]["name"], "reset-budget");
    assert_eq!(recheck_waiting(&app.services).await, 0, "once");

    // The entry of the reset committed to what was asked.
    assert_eq!(tampering(&app), [Tampering::DerivedDataChanged]);
    let as_asked = move |tx: &latchkey::store::Transaction<'_>| {
        let newest = "UPDATE question SET question = ?1 \
                      WHERE audit_sequence = (SELECT max(audit_sequence) FROM question)";
        Ok(tx.execute(newest, [&asked])?)
    };
    app.services.store.write(as_asked).await.unwrap();
    assert_eq!(tampering(&app), []);
}

/// What the check of the trail finds.
fn tampering(app: &TestApp) -> Vec<Tampering> {
    let report = app.services.store.read(audit::verify).unwrap();
    report.findings.iter().map(|found| found.kind).collect()
}

#[tokio::test]
async fn one_in_so_many_is_rechecked_and_none_where_that_is_nought() {
    for (one_in, waiting) in [(0, 0), (2, 2)] {
        let app = app_with(PluginSettings {
            recheck_one_in: one_in,
            ..PluginSettings::default()
        })
        .await;
        app.bind_module(denying("1.0.0", "no")).await;
        let admin = app.admin().await;
        for _ in 0..4 {
            admin.reset(DEVELOPER).await;
        }
        falsify(&app).await;
        assert_eq!(recheck_waiting(&app.services).await, waiting, "one in {one_in}");
        // The entries committed to the answers.
        assert_eq!(tampering(&app).len(), 4);
        put_right(&app).await;
    }
}

#[tokio::test]
async fn questions_decisions_and_what_only_they_needed_are_forgotten_after_their_days() {
    let app = app_with(PluginSettings {
        decision_days: 10,
        ..PluginSettings::default()
    })
    .await;
    let admin = app.admin().await;
    let gone = install(&admin, before("(i32.const 512)")).await;
    let kept = install(&admin, fixture("ticket-required")).await;
    let binding = path(&bind(&admin, &gone, patient(json!({}))).await);
    admin.reset(DEVELOPER).await.assert_ok();
    assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
    assert_eq!(
        admin.delete(&format!("{PLUGINS}/{gone}")).await.status.as_u16(),
        204
    );
    let kept_things = |app: &TestApp| {
        [
            "question",
            "decision",
            "module",
            "module_file",
            "plugin_configuration",
        ]
        .map(|table| app.count(&format!("SELECT count(*) FROM {table}")))
    };
    app.advance(SignedDuration::from_hours(24 * 10 - 7));
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(
        kept_things(&app),
        [1, 2, 2, 2, 1],
        "the removed plugin's file is still needed for replay"
    );
    app.advance(SignedDuration::from_hours(2));
    housekeeping::tidy(&app.services).await;
    assert_eq!(kept_things(&app), [0, 0, 1, 1, 0]);
    let admin = app.admin().await;
    let listed = admin.get(PLUGINS).await;
    assert_eq!(listed.assert_ok()[0]["digest"], *kept);
    // The trail keeps what decided.
    let reset = app.last_entry_of("USER_MFA_RESET");
    assert_eq!(reset["details"]["policies"][0]["digest"], *gone);
    // The days are counted from the last use: what is bound anew keeps its file.
    bind(&admin, &kept, json!({ "config": { "prefixes": ["HD-"] } })).await;
    app.advance(SignedDuration::from_hours(24 * 30));
    tidy_by_a_settled_clock(&app).await;
    let admin = app.admin().await;
    assert_eq!(admin.get(BINDINGS).await.assert_ok().as_array().unwrap().len(), 1);
    let answer = admin.reset(app.second_admin.id).await;
    assert_eq!(
        answer.body["denial"]["plugin"], "ticket-required",
        "{}",
        answer.text
    );
}

/// What a binding granted when it answered is granted when it is asked again: no false alarm, and a replay
/// of the installed version is byte for byte.
#[tokio::test]
async fn a_large_answer_is_replayed_and_rechecked_as_it_was_given() {
    let app = app_that_rechecks().await;
    let admin = app.admin().await;
    let wordy = Guest {
        memory: "32".into(),
        // The message is 512 KiB of "x".
        before: "(memory.fill (i32.const 1048576) (i32.const 120) (i32.const 524288)) \
                 (i32.store (i32.const 536) (i32.const 1048576)) (i32.store (i32.const 540) (i32.const 524288)) \
                 (i32.const 512)"
            .into(),
        ..crate::guests::denier("1.0.0", "no")
    };
    let digest = install(&admin, wordy.wasm()).await;
    let terms = json!({ "limits": { "deadlineMs": 1000, "answerBytes": 4 << 20 } });
    bind(&admin, &digest, terms).await;
    crate::plugins::assert_denied(&admin.reset(DEVELOPER).await, "no");
    assert_eq!(
        app.count("SELECT length(record) > 500000 FROM decision WHERE record ->> '$.hook' = 'before-reset'"),
        1,
        "it is recorded in full"
    );
    assert_eq!(recheck_waiting(&app.services).await, 0, "{:?}", alarms(&app));
    let replayed = replay(&admin, &digest, json!({})).await;
    assert_eq!(replayed.assert_ok()["verdict"], "clean");
}

#[tokio::test]
async fn a_reset_that_cannot_be_rechecked_keeps_no_other_from_it() {
    let app = app_that_rechecks().await;
    app.bind_module(denying("1.0.0", "no")).await;
    let admin = app.admin().await;
    for _ in 0..3 {
        admin.reset(DEVELOPER).await;
    }
    falsify(&app).await;
    let unreadable = "UPDATE question SET question = '?' || question \
                      WHERE audit_sequence = (SELECT min(audit_sequence) FROM question)";
    assert_eq!(app.execute(unreadable).await, 1);
    assert_eq!(recheck_waiting(&app.services).await, 2, "all but the first");
    assert_eq!(recheck_waiting(&app.services).await, 0, "none waits any more");
    // The entries committed to what was asked and answered.
    assert_eq!(tampering(&app).len(), 3);
    put_right(&app).await;
    assert_eq!(tampering(&app).len(), 1);
    app.execute("UPDATE question SET question = substr(question, 2) WHERE question LIKE '?%'")
        .await;
    assert_eq!(tampering(&app), []);
}
