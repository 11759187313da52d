//! Hooks: real components decide, and what they say commits with the reset or not at all.

mod bounds;
mod compared;
mod decisions;
mod effects;
mod failures;
mod governance;
mod grants;
mod measured;
mod modes;
mod order;
mod replay;
mod signed;
mod starting;
mod versions;
mod watching;

use latchkey::domain::account::OrganizationSettings;
use latchkey::plugin_host::{Digest, FailureAction, OnFailure};
use serde_json::{Value, json};

use crate::guests::before;
use crate::support::{ADMIN, DEVELOPER, PASSWORD, TestApp, enrol, reset_path};

#[tokio::test]
async fn a_budget_denies_with_the_plugins_reason_and_facts() {
    let app = TestApp::new().await;
    app.bind("reset-budget", json!({ "perUser": { "max": 1, "days": 30 } }))
        .await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    enrol(&app.services, app.developer.id).await;
    let denied = admin.reset(DEVELOPER).await;
    assert_eq!(denied.status.as_u16(), 403, "{}", denied.text);
    denied.assert_envelope();
    let denial = &denied.body["denial"];
    assert_eq!(denial["plugin"], "reset-budget");
    assert!(
        denial["code"].is_string() && denial["allowedFrom"].is_string(),
        "{denial}"
    );
    assert!(!denial["because"].as_object().unwrap().is_empty());
    let entry = app.last_entry();
    assert_eq!(entry["result"], "DENIED");
    assert_eq!(entry["errorMessage"], denied.body["message"]);
    assert_eq!(entry["details"]["deniedBy"], "reset-budget");
    let kept = &entry["details"]["denial"];
    assert_eq!(kept["code"], denial["code"], "{entry}");
    let because = kept["because"].as_array().unwrap().iter();
    let because: serde_json::Map<_, _> = because
        .map(|fact| (fact["name"].as_str().unwrap().to_owned(), fact["value"].clone()))
        .collect();
    // As text, so that the policy's order counts.
    assert_eq!(
        Value::Object(because).to_string(),
        denial["because"].to_string(),
        "{entry}"
    );
    assert_eq!(kept["allowedFrom"], "2026-03-20T10:30:00Z", "{entry}");
    assert_eq!(denial["allowedFrom"], "2026-03-20T10:30:00.000Z");
    assert_eq!(
        app.count("SELECT count(*) FROM reset_call WHERE outcome = 'denied'"),
        1
    );
    assert_eq!(app.count("SELECT count(*) FROM factor WHERE suspended_at IS NULL AND user_id = x'770e8400e29b41d4a716446655440004'"), 1);
}

#[tokio::test]
async fn a_budget_is_not_overrun_by_asking_side_by_side() {
    let app = TestApp::new().await;
    app.bind("reset-budget", json!({ "perAdmin": { "maxPerDay": 1 } }))
        .await;
    let admin = app.admin().await;
    let (one, two) = tokio::join!(admin.reset(DEVELOPER), admin.reset(app.second_admin.id));
    let done = [&one, &two].iter().filter(|a| a.status.as_u16() == 200).count();
    assert!(done <= 1, "{} {}", one.text, two.text);
    assert_eq!(
        app.count("SELECT count(*) FROM reset_call WHERE outcome = 'done'"),
        i64::try_from(done).unwrap()
    );
}

#[tokio::test]
async fn force_reenrollment_commits_with_the_reset() {
    let app = TestApp::new().await;
    app.bind("force-reenrollment", json!({ "hours": 8 })).await;
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    let entry = app.last_entry();
    assert_eq!(
        entry["details"]["enrolmentDueUntil"], "2026-02-18T18:30:00Z",
        "{entry}"
    );
    let login = json!({ "organizationSlug": "acme", "email": "dev@acme.example", "password": PASSWORD });
    let answer = app.anonymous().post("/api/v1/auth/login", login).await;
    assert_eq!(answer.assert_ok()["mfaSetupRequired"], true, "{}", answer.text);
}

#[tokio::test]
async fn outside_the_change_window_it_is_denied_with_the_next_opening() {
    let app = TestApp::new().await; // Wednesday, 10:30 UTC
    let window =
        json!({ "timeZone": "Europe/Berlin", "days": ["mon", "tue"], "from": "08:00", "to": "18:00" });
    app.bind("change-window", window).await;
    let denied = app.admin().await.reset(DEVELOPER).await;
    assert_eq!(denied.status.as_u16(), 403, "{}", denied.text);
    assert_eq!(
        denied.body["denial"]["allowedFrom"], "2026-02-23T07:00:00.000Z",
        "{}",
        denied.text
    );
}

#[tokio::test]
async fn what_was_asked_and_answered_is_kept_for_replay() {
    let app = TestApp::new().await;
    app.bind("reset-budget", json!({ "perUser": { "max": 3, "days": 30 } }))
        .await;
    app.admin()
        .await
        .post(&reset_path(DEVELOPER), json!({ "ticket": "HD-1" }))
        .await
        .assert_ok();
    assert_eq!(app.count("SELECT count(*) FROM question"), 1);
    assert_eq!(
        app.count("SELECT count(*) FROM decision WHERE length(plugin_digest) = 32"),
        1
    );
    let question: String = app
        .services
        .store
        .read(|db| Ok(db.query_row("SELECT question FROM question", [], |r| r.get(0))?))
        .unwrap();
    let question: Value = serde_json::from_str(&question).unwrap();
    let decision = "SELECT record, hex(plugin_digest), hex(config_digest) FROM decision";
    let kept: (String, String, String) = app
        .services
        .store
        .read(|db| Ok(db.query_row(decision, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?))
        .unwrap();
    let record: Value = serde_json::from_str(&kept.0).unwrap();
    assert_eq!(record["hook"], "before-reset", "{record}");
    assert_eq!(record["end"], json!({ "answer": { "allow": [] } }), "{record}");
    assert_eq!(record["digest"], *kept.1.to_lowercase());
    assert_eq!(record["configDigest"], *kept.2.to_lowercase());
    // The digest is of the configuration as it is kept, to the letter.
    let config: String = app
        .services
        .store
        .read(|db| Ok(db.query_row("SELECT config FROM plugin_configuration", [], |r| r.get(0))?))
        .unwrap();
    assert_eq!(config, r#"{"perUser":{"max":3,"days":30}}"#);
    assert_eq!(record["configDigest"], Digest::of(config.as_bytes()).to_string());
    assert_eq!(question["actor"]["id"], ADMIN);
    assert_eq!(question["request"]["ticket"], "HD-1");
    assert!(!question.to_string().contains(PASSWORD));
}

/// A trap, an endless loop and a memory bomb: 500, nothing changed, an entry, and a server that goes on.
#[tokio::test]
async fn a_failing_policy_fails_closed_and_the_server_goes_on() {
    let trap = before("unreachable");
    let endless = before("(loop (br 0)) (unreachable)");
    let bomb = before("(loop (br_if 0 (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)");
    for (name, module) in [("trap", trap), ("endless loop", endless), ("memory bomb", bomb)] {
        let app = TestApp::new().await;
        app.bind_module(module).await;
        let admin = app.admin().await;
        let failed = admin.reset(DEVELOPER).await;
        failed.assert_error(500, "A policy could not be evaluated");
        let entry = app.last_entry();
        assert_eq!(entry["result"], "FAILURE", "{name}");
        assert!(
            entry["details"]["cause"]
                .as_str()
                .unwrap()
                .contains("guest 1.0.0"),
            "{name}: {entry}"
        );
        let still = admin.get(&format!("/api/v1/users/{DEVELOPER}")).await;
        assert_eq!(
            still.assert_ok()["mfaEnabled"],
            true,
            "{name}: nothing has been changed"
        );
        let elsewhere = app.admin_of_other_org().await.reset(app.other_developer.id).await;
        elsewhere.assert_ok();
    }
}

#[tokio::test]
async fn a_failing_policy_can_be_skipped_where_the_operator_says_so() {
    let app = TestApp::new().await;
    app.bind_module_with(
        before("unreachable"),
        json!({}),
        OnFailure::always(FailureAction::Skip),
    )
    .await;
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    let policies = app.last_entry()["details"]["policies"].clone();
    assert_eq!(policies[0]["end"]["failure"]["cause"], "trap", "{policies}");
}

#[tokio::test]
async fn a_change_of_policy_between_judging_and_committing_judges_again() {
    let app = TestApp::new().await; // Wednesday
    let closed = json!({ "timeZone": "UTC", "days": ["mon"], "from": "08:00", "to": "18:00" });
    app.bind("change-window", closed).await;
    // The policy is switched off while the set in memory is old: what that set decides must not be
    // committed, and the caller must not notice.
    for sql in [
        "UPDATE binding SET disabled_at = 1",
        "UPDATE policy_revision SET revision = revision + 1",
    ] {
        app.execute(sql).await;
    }
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    assert_eq!(app.last_entry()["details"]["policies"], json!(null));
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 1);
}

#[tokio::test]
async fn an_enrolment_code_is_shown_once_and_only_its_hash_is_kept() {
    let acme = OrganizationSettings {
        enrolment_code_required: true,
        ..Default::default()
    };
    let app = TestApp::with(acme).await;
    let answer = app.admin().await.reset(DEVELOPER).await;
    let code = answer.assert_ok()["enrolmentCode"].as_str().unwrap().to_owned();
    assert!(code.len() >= 8, "{code}");
    let entry = app.last_entry();
    assert!(
        !entry.to_string().contains(&code),
        "no secret reaches the trail (invariant 7)"
    );
}

/// Counts are differences of running totals: exact, whatever lies between, and a clock that was set back
/// hides nothing.
#[tokio::test]
async fn history_counts_what_was_done_in_each_window() {
    use jiff::SignedDuration;
    use latchkey::domain::policy::ResultKind;
    use latchkey::store::requests::{ResetCall, clear_old_calls, find_history, insert_reset_call};

    let app = TestApp::new().await;
    let (organization, actor, target) = (app.acme, app.admin.id, app.developer.id);
    let now = app.services.clock.now();
    let ago = |hours: i64, outcome| ResetCall {
        organization_id: organization,
        actor_id: actor,
        target_id: target,
        at: now - SignedDuration::from_hours(hours),
        outcome,
        ticket: None,
    };
    let calls = [
        ago(800, ResultKind::Done),
        ago(700, ResultKind::Done),
        ago(30, ResultKind::Done),
        ago(5, ResultKind::Denied),
        ago(3, ResultKind::Done),
        ago(0, ResultKind::Done),
        ago(100, ResultKind::Done), // the clock was set back: it counts as now
    ];
    let keep = move |tx: &_| calls.iter().try_for_each(|call| insert_reset_call(tx, call));
    app.services.store.write(move |tx| keep(tx)).await.unwrap();
    let read = |db: &_| find_history(db, organization, actor, target, now, 30);
    let history = app.services.store.read(read).unwrap();
    assert_eq!(history.actor_resets_last_hour, 2);
    assert_eq!(history.actor_resets_last_day, 3);
    assert_eq!(history.target_resets_last_30_days, 5);
    assert_eq!(history.of_target.len(), 6);
    assert_eq!(history.organization_resets_last_day, 3);
    // The oldest are forgotten, and the rest counts as before.
    let counts = |back: i64| {
        let before = now - SignedDuration::from_hours(back);
        let clear = move |tx: &latchkey::store::Transaction<'_>| clear_old_calls(tx, before);
        let store = app.services.store.clone();
        async move {
            let cleared = store.write(clear).await.unwrap();
            let history = store.read(read).unwrap();
            let of = |h: &latchkey::domain::policy::History| {
                (
                    h.target_resets_last_30_days,
                    h.actor_resets_last_day,
                    h.organization_resets_last_day,
                )
            };
            (cleared, of(&history), history.actor_resets_last_hour)
        }
    };
    assert_eq!(counts(750).await, (1, (5, 3, 3), 2));
    assert_eq!(counts(20).await, (2, (3, 3, 3), 2));
    assert_eq!(counts(4).await, (1, (3, 3, 3), 2), "a refusal");
    // Nothing of this happened over HTTP: leave no resets without entries behind.
    app.services
        .store
        .write(|tx| Ok(tx.execute("DELETE FROM reset_call", [])?))
        .await
        .unwrap();
}
