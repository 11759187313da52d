//! Where a clean replay is required: what is not switched to, and ways around it.

use latchkey::domain::account::OrganizationSettings;
use latchkey::plugin_host::{HostOptions, PluginHost};
use serde_json::{Value, json};

use super::allowing;
use crate::guests::{Guest, Manifest, before, denying};
use crate::plugins::{
    assert_denied, bind, fixture, install, install_and_bind, path, patient, replay, roll_back,
};
use crate::support::{Answer, Caller, DEVELOPER, Setup, TestApp, enrol};

async fn acme_wants_clean_replays() -> TestApp {
    TestApp::with(wants_clean_replays()).await
}

fn wants_clean_replays() -> Setup {
    Setup {
        acme: OrganizationSettings {
            clean_replay_required: true,
            ..Default::default()
        },
        ..Default::default()
    }
}

async fn set_mode(caller: &Caller<'_>, binding: &str, mode: &str) -> Answer {
    caller.patch(binding, json!({ "mode": mode })).await
}

const NOT_CLEAN: &str = "This organisation lets another version count only when it decides the resets of \
     the last 30 days as they were decided, and 2 of 2 differ; replay the plugin to see which";

#[tokio::test]
async fn where_a_clean_replay_is_required_a_version_that_decides_otherwise_is_not_switched_to() {
    let app = acme_wants_clean_replays().await;
    let admin = app.admin().await;
    let strict = install(&admin, denying("1.0.0", "one")).await;
    let same = install(&admin, denying("1.0.1", "one")).await;
    let loose = install(&admin, allowing("2.0.0")).await;
    let binding = path(&bind(&admin, &strict, patient(json!({}))).await);
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    let entries = app.trail().len();

    let refused = admin.patch(&binding, json!({ "pluginDigest": loose })).await;
    refused.assert_error(409, NOT_CLEAN);
    // Nothing is changed, and that somebody tried is on the record.
    assert_eq!(app.trail().len(), entries + 1);
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"], &entry["errorMessage"]),
        (
            &json!("POLICY_PLUGIN_UPDATE"),
            &json!("DENIED"),
            &json!(NOT_CLEAN)
        )
    );
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    let switched = admin.patch(&binding, json!({ "pluginDigest": same })).await;
    assert_eq!(switched.assert_ok()["current"]["version"], "1.0.1");
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["version"], "1.0.0");
}

/// Ways around it: each is several permitted steps that together are a switch.
#[tokio::test]
async fn a_required_replay_is_not_got_around() {
    let app = acme_wants_clean_replays().await;
    let admin = app.admin().await;
    let strict = install(&admin, denying("1.0.0", "one")).await;
    let loose = install(&admin, allowing("2.0.0")).await;
    let binding = path(&bind(&admin, &strict, patient(json!({}))).await);
    assert_denied(&admin.reset(DEVELOPER).await, "one");

    // Bound beside it, which only makes things stricter; then the strict one may not go.
    let beside = path(&bind(&admin, &loose, patient(json!({}))).await);
    for answer in [
        admin.delete(&binding).await,
        admin.patch(&binding, json!({ "disabled": true })).await,
        set_mode(&admin, &binding, "monitor").await,
    ] {
        assert_eq!(answer.status.as_u16(), 409, "{}", answer.text);
    }
    assert_eq!(admin.delete(&beside).await.status.as_u16(), 204);

    // Switched while it is only watched, then enforced; or taken back and rolled forward.
    set_mode(&admin, &binding, "monitor").await.assert_ok();
    admin
        .patch(&binding, json!({ "pluginDigest": loose }))
        .await
        .assert_ok();
    for mode in [json!({ "mode": "enforce" }), json!({ "canaryPercent": 1 })] {
        admin.patch(&binding, mode).await.assert_error(409, NOT_CLEAN);
    }
    roll_back(&admin, &binding).await.assert_ok();
    set_mode(&admin, &binding, "enforce").await.assert_ok(); // what it was
    let forward = roll_back(&admin, &binding).await;
    forward.assert_error(409, NOT_CLEAN);

    // Unbound and bound anew.
    assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
    bind(&admin, &loose, patient(json!({})))
        .await
        .assert_error(409, NOT_CLEAN);
    let off = path(&bind(&admin, &loose, patient(json!({ "mode": "monitor" }))).await);
    set_mode(&admin, &off, "enforce")
        .await
        .assert_error(409, NOT_CLEAN);
    let again = bind(&admin, &strict, patient(json!({}))).await;
    assert_eq!(
        again.status.as_u16(),
        201,
        "the same version may come back: {}",
        again.text
    );
    // What never decided anything is bound freely.
    let new = install(&admin, fixture("ticket-required")).await;
    assert_eq!(
        bind(&admin, &new, json!({ "config": { "prefixes": ["HD-"] } }))
            .await
            .status
            .as_u16(),
        201
    );
}

/// What is refused where replays are required and decisions would be others.
#[track_caller]
fn assert_not_clean(answer: &Answer) {
    assert_eq!(answer.status.as_u16(), 409, "{}", answer.text);
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("lets another version count only"), "{message}");
}

/// For some plugins the configuration is the whole of the policy.
#[tokio::test]
async fn a_required_replay_is_not_got_around_by_a_configuration() {
    let app = acme_wants_clean_replays().await; // Wednesday
    let admin = app.admin().await;
    let digest = install(&admin, fixture("change-window")).await;
    let window = |days: Value| json!({ "timeZone": "UTC", "days": days, "from": "08:00", "to": "18:00" });
    let (closed, open) = (window(json!(["mon"])), window(json!(["mon", "wed"])));
    let of = |config: &Value, more: Value| {
        let mut terms = patient(more);
        terms["config"] = config.clone();
        terms
    };
    let binding = path(&bind(&admin, &digest, of(&closed, json!({}))).await);
    assert_denied(&admin.reset(DEVELOPER).await, "outside-change-window");

    let opened = json!({ "config": open });
    assert_not_clean(&admin.patch(&binding, opened.clone()).await);
    let same_file = json!({ "pluginDigest": digest, "config": open });
    assert_not_clean(&admin.patch(&binding, same_file).await);
    // Changed while it is only watched, then enforced.
    set_mode(&admin, &binding, "monitor").await.assert_ok();
    admin.patch(&binding, opened).await.assert_ok();
    assert_not_clean(&set_mode(&admin, &binding, "enforce").await);
    admin
        .patch(&binding, json!({ "config": closed }))
        .await
        .assert_ok();
    set_mode(&admin, &binding, "enforce").await.assert_ok(); // what it was
    // Bound beside it, which only makes things stricter; then the strict one may not go.
    let beside = path(&bind(&admin, &digest, of(&open, json!({}))).await);
    assert_not_clean(&admin.delete(&binding).await);
    assert_not_clean(&admin.patch(&binding, json!({ "disabled": true })).await);
    assert_eq!(admin.delete(&beside).await.status.as_u16(), 204);
    // Unbound and bound anew.
    assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
    assert_not_clean(&bind(&admin, &digest, of(&open, json!({}))).await);
    let again = bind(&admin, &digest, of(&closed, json!({}))).await;
    assert_eq!(again.status.as_u16(), 201, "{}", again.text);
    assert_denied(&admin.reset(DEVELOPER).await, "outside-change-window");
}

#[tokio::test]
async fn a_required_replay_is_not_got_around_by_asking_at_fewer_hooks() {
    let app = acme_wants_clean_replays().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), patient(json!({}))).await;
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    let fewer = json!({ "hooks": ["after-reset"] });
    assert_not_clean(&admin.patch(&binding, fewer.clone()).await);
    set_mode(&admin, &binding, "monitor").await.assert_ok();
    admin.patch(&binding, fewer).await.assert_ok();
    assert_not_clean(&set_mode(&admin, &binding, "enforce").await);
    let all = json!({ "hooks": ["before-reset", "after-reset"], "mode": "enforce" });
    admin.patch(&binding, all).await.assert_ok();
    assert_denied(&admin.reset(DEVELOPER).await, "one");
}

/// Two policies of one plugin are two policies: one of them may go as any other may.
#[tokio::test]
async fn what_stood_beside_a_policy_all_the_time_is_no_version_of_it() {
    let app = acme_wants_clean_replays().await;
    let admin = app.admin().await;
    let digest = install(&admin, fixture("change-window")).await;
    let window = |day: &str| {
        let config = json!({ "timeZone": "UTC", "days": [day], "from": "08:00", "to": "18:00" });
        patient(json!({ "config": config }))
    };
    let closed = path(&bind(&admin, &digest, window("mon")).await);
    bind(&admin, &digest, window("sat")).await;
    app.advance(jiff::SignedDuration::from_hours(24 * 31)); // a Saturday
    let admin = app.admin().await;
    assert_denied(&admin.reset(DEVELOPER).await, "outside-change-window");
    assert_eq!(admin.delete(&closed).await.status.as_u16(), 204);
    admin.reset(DEVELOPER).await.assert_ok();
}

/// In a quiet organisation the version before may have decided nothing for long.
#[tokio::test]
async fn going_back_needs_no_replay_however_long_ago_the_version_before_counted() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let first = install(&admin, allowing("1.0.0")).await;
    let second = install(&admin, denying("2.0.0", "two")).await;
    let binding = path(&bind(&admin, &first, patient(json!({}))).await);
    admin.reset(DEVELOPER).await.assert_ok();
    enrol(&app.services, app.developer.id).await;
    app.advance(jiff::SignedDuration::from_hours(24 * 31));
    let admin = app.admin().await;
    admin
        .patch(&binding, json!({ "pluginDigest": second }))
        .await
        .assert_ok();
    assert_denied(&admin.reset(DEVELOPER).await, "two");
    let wanted = admin
        .patch(
            "/api/v1/organization/settings",
            json!({ "cleanReplayRequired": true }),
        )
        .await;
    wanted.assert_ok();

    let third = install(&admin, allowing("3.0.0")).await;
    assert_not_clean(&admin.patch(&binding, json!({ "pluginDigest": third })).await);
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["version"], "1.0.0", "{}", back.text);
    admin.reset(DEVELOPER).await.assert_ok();
    // Forward again, too: that one counted as well.
    let forward = roll_back(&admin, &binding).await;
    assert_eq!(
        forward.assert_ok()["current"]["version"],
        "2.0.0",
        "{}",
        forward.text
    );
}

#[tokio::test]
async fn a_candidate_is_replayed_within_the_limits_of_the_binding_that_it_would_join() {
    let app = acme_wants_clean_replays().await;
    let admin = app.admin().await;
    let first = install(&admin, allowing("1.0.0")).await;
    let bound = bind(&admin, &first, patient(json!({}))).await;
    admin.reset(DEVELOPER).await.assert_ok();
    // It takes 100 MiB, where a call may have 64.
    let greedy = Guest {
        before:
            "(if (i32.eq (memory.grow (i32.const 1600)) (i32.const -1)) (then unreachable)) (i32.const 512)"
                .into(),
        manifest: Manifest::of("2.0.0"),
        ..Guest::default()
    };
    let greedy = install(&admin, greedy.wasm()).await;
    for body in [json!({}), json!({ "bindingId": bound.body["id"] })] {
        let report = replay(&admin, &greedy, body).await;
        let report = report.assert_ok();
        assert_eq!(report["verdict"], "differs", "{report}");
        assert_eq!(
            (&report["failed"], &report["compared"]),
            (&json!(1), &json!(2)),
            "{report}"
        );
        assert_eq!(
            report["differences"][0]["replayed"]["failure"], "memory",
            "{report}"
        );
    }
    let switch = json!({ "pluginDigest": greedy });
    assert_not_clean(&admin.patch(&path(&bound), switch.clone()).await);
    let mut with_room = switch;
    with_room["limits"] = json!({ "deadlineMs": 1000, "memoryBytes": 128 << 20 });
    admin.patch(&path(&bound), with_room).await.assert_ok();
    admin.reset(app.second_admin.id).await.assert_ok();
}

/// Each step alone is permitted: what matters is what decides in the end.
#[tokio::test]
async fn a_required_replay_is_not_got_around_by_a_version_that_never_decided() {
    let app = acme_wants_clean_replays().await;
    let admin = app.admin().await;
    let strict = install(&admin, denying("1.0.0", "one")).await;
    let also_strict = install(&admin, denying("1.0.1", "one")).await;
    let loose = install(&admin, allowing("2.0.0")).await;
    let binding = path(&bind(&admin, &strict, patient(json!({}))).await);
    assert_denied(&admin.reset(DEVELOPER).await, "one");

    // Bound beside it, and taken out again before it decides anything.
    let beside = path(&bind(&admin, &loose, patient(json!({}))).await);
    set_mode(&admin, &beside, "monitor").await.assert_ok();
    assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
    assert_not_clean(&set_mode(&admin, &beside, "enforce").await);
    // As the version before of one that may count: rolled back to, or for a canary's other share.
    let other = json!({ "pluginDigest": also_strict });
    admin.patch(&beside, other).await.assert_ok();
    let previous = admin.get(&beside).await;
    assert_eq!(previous.assert_ok()["previous"]["version"], "2.0.0");
    assert_not_clean(&admin.patch(&beside, json!({ "canaryPercent": 1 })).await);
    set_mode(&admin, &beside, "enforce").await.assert_ok();
    let back = roll_back(&admin, &beside).await;
    assert_not_clean(&back);
    assert_denied(&admin.reset(DEVELOPER).await, "one");
}

#[tokio::test]
async fn whoever_replays_without_end_keeps_no_other_organisation_from_a_switch() {
    let mut setup = wants_clean_replays();
    setup.plugin_host = Some(PluginHost::new(HostOptions::default()).unwrap()); // its runaways are no other test's
    let app = TestApp::with(setup).await;
    let (admin, other) = (app.admin().await, app.admin_of_other_org().await);
    let binding = install_and_bind(&admin, allowing("1.0.0"), patient(json!({}))).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let second = install(&admin, allowing("2.0.0")).await;
    // Three seconds for one reset: it is asked three times, a second each.
    let theirs = install(&other, allowing("1.0.0")).await;
    bind(&other, &theirs, patient(json!({}))).await;
    other.reset(app.other_developer.id).await.assert_ok();
    let endless = install(&other, before("(loop (br 0)) (unreachable)")).await;

    let one = Box::pin(replay(&other, &endless, json!({})));
    let two = Box::pin(replay(&other, &endless, json!({})));
    let (refused, still_running) = futures_util::future::select(one, two).await.factor_first();
    assert_eq!(refused.status.as_u16(), 503, "one at a time: {}", refused.text);
    let (switched, replayed) = tokio::join!(
        admin.patch(&binding, json!({ "pluginDigest": second })),
        still_running
    );
    assert_eq!(switched.status.as_u16(), 200, "{}", switched.text);
    assert_eq!(replayed.assert_ok()["failed"], 1, "{}", replayed.text);
}
