//! How long the trail keeps what: pruned entries and erased data leave every proof as it was.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use latchkey::domain::audit::{ActorRef, Event, EventType, Report, Resource, check_receipt};
use latchkey::service::trail::{self, Format, Selection};
use latchkey::service::{Services, housekeeping};
use latchkey::store::audit;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Value, json};

use crate::people::app_with_mail;
use crate::support::{DEVELOPER, TestApp, append, reset_path};
use crate::trail_file::{check, export};

const SETTINGS: &str = "/api/v1/organization/settings";
pub const LOGS: &str = "/api/v1/audit-logs";
pub const DEVELOPERS_ADDRESS: &str = "dev@acme.example";

pub fn verified(services: &Services) -> Report {
    services.store.read(audit::verify).unwrap()
}

/// A receipt of the newest entry.
pub async fn receipt_of_newest(app: &TestApp) -> String {
    let sequence = trail::size(&app.services).unwrap() - 1;
    trail::receipt(&app.services, sequence).await.unwrap()
}

async fn keep_days(app: &TestApp, days: Value) -> crate::support::Answer {
    let patch = json!({ "auditRetentionDays": days });
    app.admin().await.patch(SETTINGS, patch).await
}

/// Housekeeping, then once more when the clock has run evenly for long enough to destroy by it.
pub async fn tidy_by_a_settled_clock(app: &TestApp) {
    housekeeping::tidy(&app.services).await;
    app.advance(SignedDuration::from_hours(6));
    housekeeping::tidy(&app.services).await;
}

#[tokio::test]
async fn entries_past_the_limit_are_pruned_and_every_proof_still_holds() {
    let app = TestApp::new().await;
    app.bind("reset-budget", json!({ "perAdmin": { "maxPerDay": 5 } }))
        .await;
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    assert_eq!(app.count("SELECT count(*) FROM question"), 1);
    let old_receipt = receipt_of_newest(&app).await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let before = trail::checkpoint(&app.services).await.unwrap();
    keep_days(&app, json!(30)).await.assert_ok();
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(verified(&app.services).pruned, 0, "nothing is old enough");

    app.advance(SignedDuration::from_hours(31 * 24));
    app.admin().await.reset(&app.member.id).await;
    tidy_by_a_settled_clock(&app).await;
    let report = verified(&app.services);
    assert_eq!(report.findings, []);
    let of_acme = "SELECT count(*) FROM audit_entry e JOIN organization o ON o.id = e.organization_id \
                   WHERE o.slug = 'acme'";
    assert_eq!(
        app.count(&format!("{of_acme} AND pruned_by IS NULL")),
        3,
        "what is young (a token, a refusal), and the entry of the pruning"
    );
    assert_eq!(
        app.count("SELECT count(*) FROM audit_entry WHERE pruned_by IS NOT NULL"),
        i64::try_from(report.pruned).unwrap()
    );
    let globex = "SELECT count(*) FROM audit_entry e JOIN organization o ON o.id = e.organization_id \
                  WHERE o.slug = 'globex' AND pruned_by IS NOT NULL";
    assert_eq!(app.count(globex), 0, "only where a limit is set");
    assert_eq!(
        app.count("SELECT count(*) FROM question"),
        0,
        "nor what policies were told"
    );
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "AUDIT_PRUNE");
    assert_eq!(entry["actor"]["type"], "SYSTEM");
    assert_eq!(entry["details"]["removed"], report.pruned);

    // What was proven before is proven still, and the tree is the one that was signed.
    check_receipt(&old_receipt, &keys).unwrap();
    check_receipt(&receipt_of_newest(&app).await, &keys).unwrap();
    let told = keys.open(&before.note).unwrap();
    let root = app.services.store.read(|db| audit::root(db, told.size)).unwrap();
    assert_eq!(root, told.root);
    let listed = app.admin().await.get(&format!("{LOGS}?size=100")).await;
    assert_eq!(listed.assert_ok()["totalElements"], 4, "these, and the new token");

    // Every kind of export of it is intact.
    for selection in [
        Selection::default(),
        Selection {
            organization_id: Some(app.acme),
            ..Selection::default()
        },
    ] {
        let file = export(&app, selection, Format::Ndjson).await;
        assert!(file.contains("{\"kind\":\"pruned\""), "{file}");
        assert!(!file.contains(DEVELOPERS_ADDRESS));
        let report = check(&file, &keys);
        assert_eq!(report.findings, []);
        assert!(report.pruned > 0);
    }
    let size = trail::size(&app.services).unwrap();
    housekeeping::tidy(&app.services).await;
    assert_eq!(
        trail::size(&app.services).unwrap(),
        size,
        "nothing is pruned twice"
    );
}

/// Who has taken over an admin must not be able to have the trail of it pruned within the minute.
#[tokio::test]
async fn a_shorter_limit_takes_effect_after_a_week_that_the_entry_names() {
    let app = app_with_mail().await;
    app.advance(SignedDuration::from_hours(500 * 24));
    keep_days(&app, json!(400)).await.assert_ok();
    let entry = app.last_entry();
    let effect: jiff::Timestamp = entry["details"]["auditRetentionTakesEffect"]
        .as_str()
        .expect("the entry says when")
        .parse()
        .unwrap();
    assert_eq!(
        effect.duration_since(app.services.clock.now()),
        SignedDuration::from_hours(7 * 24)
    );
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(
        verified(&app.services).pruned,
        0,
        "the first limit is a shorter one, too"
    );
    app.advance(SignedDuration::from_hours(7 * 24));
    tidy_by_a_settled_clock(&app).await;
    let pruned = verified(&app.services).pruned;
    assert!(pruned > 0);

    app.advance(SignedDuration::from_hours(60 * 24));
    keep_days(&app, json!(30)).await.assert_ok();
    keep_days(&app, json!(31)).await.assert_ok();
    assert_eq!(
        app.last_entry()["details"].get("auditRetentionTakesEffect"),
        None,
        "a longer one counts at once"
    );
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(verified(&app.services).pruned, pruned);
    app.advance(SignedDuration::from_hours(7 * 24));
    tidy_by_a_settled_clock(&app).await;
    assert!(verified(&app.services).pruned > pruned);
}

#[tokio::test]
async fn the_other_admins_are_told_of_a_shorter_limit() {
    let app = app_with_mail().await;
    let patch = json!({ "securityContact": "soc@acme.example" });
    app.admin().await.patch(SETTINGS, patch).await.assert_ok();
    let owed = "SELECT count(*) FROM delivery WHERE payload LIKE '%audit trail for 400 days%' \
                AND payload ->> '$.to' = 'soc@acme.example'";
    keep_days(&app, json!(400)).await.assert_ok();
    assert_eq!(app.count(owed), 1);
    let mails = "SELECT count(*) FROM delivery WHERE payload LIKE '%audit trail for%'";
    let told = app.count(mails);
    let to_caller = "SELECT count(*) FROM delivery WHERE payload ->> '$.to' = 'admin@acme.example' \
                     AND payload LIKE '%audit trail for%'";
    assert_eq!(app.count(to_caller), 0);
    keep_days(&app, json!(500)).await.assert_ok();
    assert_eq!(app.count(mails), told, "longer is no news");
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_prunes_nothing_until_it_has_run_for_hours() {
    let app = TestApp::new().await;
    keep_days(&app, json!(30)).await.assert_ok();
    app.advance(SignedDuration::from_hours(8 * 24));
    tidy_by_a_settled_clock(&app).await;
    app.advance(SignedDuration::from_hours(365 * 24));
    // What is done at that time makes it no truer.
    app.admin().await.reset(&app.member.id).await;
    for _ in 0..5 {
        housekeeping::tidy(&app.services).await;
        app.advance(SignedDuration::from_hours(1));
        assert_eq!(verified(&app.services).pruned, 0);
    }
    app.advance(SignedDuration::from_hours(1));
    housekeeping::tidy(&app.services).await;
    assert!(
        verified(&app.services).pruned > 0,
        "a machine that was off for long prunes again"
    );
}

/// What is known beside the trail goes with it: free text in which anybody may stand.
#[tokio::test]
async fn tickets_go_with_their_entries_and_calls_with_the_longest_history() {
    let app = TestApp::new().await;
    keep_days(&app, json!(30)).await.assert_ok();
    let body = json!({ "reason": "lost phone", "ticket": "HD-1 Dev, +49 170 0000000" });
    let admin = app.admin().await;
    admin.post(&reset_path(DEVELOPER), body).await.assert_ok();
    let tickets = "SELECT count(*) FROM reset_call WHERE ticket IS NOT NULL";
    let now = app.services.clock.now().as_millisecond();
    insert_approval(&app, "rejected", Some(now)).await;
    insert_approval(&app, "open", None).await;
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(app.count(tickets), 1);
    app.advance(SignedDuration::from_hours(31 * 24));
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(app.count(tickets), 0);
    assert_eq!(
        app.count("SELECT count(*) FROM approval WHERE ended_at IS NULL"),
        1
    );
    assert_eq!(app.count("SELECT count(*) FROM approval"), 1);
    assert_eq!(
        app.count("SELECT count(*) FROM reset_call"),
        1,
        "policies may still ask"
    );
    app.advance(SignedDuration::from_hours(337 * 24));
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 0);
}

pub async fn insert_approval(app: &TestApp, state: &'static str, ended_at: Option<i64>) {
    let (acme, admin, developer) = (app.acme, app.admin.id, app.developer.id);
    let id = app.services.entropy.uuid(app.services.clock.now());
    let insert = app.services.store.write(move |tx| {
        tx.execute(
            "INSERT INTO approval (id, organization_id, requester_id, target_id, wanted, reason, ticket, asked_because,
               authenticated_at, second_factor_used, needed, state, created_at, expires_at, ended_at, requester_role)
             VALUES (?1, ?2, ?3, ?4, '\"DELETE_USER\"', 'Dev called', 'HD-1', 'rule', 0, 1, 1, ?5, 0, 99999999999999, ?6,
               'org-admin')",
            rusqlite::params![
                id.as_bytes(),
                acme.0.as_bytes(),
                admin.0.as_bytes(),
                developer.0.as_bytes(),
                state,
                ended_at
            ],
        )?;
        Ok(())
    });
    insert.await.unwrap();
}

#[tokio::test]
async fn ended_approvals_are_forgotten_after_ninety_days() {
    let app = TestApp::new().await;
    let now = app.services.clock.now().as_millisecond();
    insert_approval(&app, "rejected", Some(now)).await;
    app.advance(SignedDuration::from_hours(90 * 24 - 6));
    tidy_by_a_settled_clock(&app).await;
    assert_eq!(app.count("SELECT count(*) FROM approval"), 1);
    app.advance(SignedDuration::from_secs(1));
    housekeeping::tidy(&app.services).await;
    assert_eq!(app.count("SELECT count(*) FROM approval"), 0);
}

#[tokio::test]
async fn pruning_goes_on_in_batches_each_on_the_record() {
    let app = TestApp::new().await;
    let (at, id, acme) = (
        app.services.clock.now(),
        app.services.entropy.uuid(app.services.clock.now()),
        app.acme,
    );
    let append = app.services.store.write(move |tx| {
        for n in 0..1_100 {
            let event = Event::new(EventType::UserLogin, Some(acme), ActorRef::operator()).with("n", n);
            audit::append_entry(tx, at, id, &event)?;
        }
        Ok(())
    });
    append.await.unwrap();
    keep_days(&app, json!(30)).await.assert_ok();
    app.advance(SignedDuration::from_hours(31 * 24));
    tidy_by_a_settled_clock(&app).await;
    let entries: Vec<_> = app
        .trail()
        .into_iter()
        .filter(|entry| entry["eventType"] == "AUDIT_PRUNE")
        .map(|entry| entry["details"]["removed"].as_u64().unwrap())
        .collect();
    assert!(
        entries.len() >= 3 && entries.iter().all(|count| *count <= 500),
        "{entries:?}"
    );
    let report = verified(&app.services);
    assert_eq!(report.findings, []);
    assert_eq!(report.pruned, entries.iter().sum::<u64>());
}

#[tokio::test]
async fn the_limit_has_bounds_and_is_the_admins_to_set() {
    let app = TestApp::new().await;
    for days in [json!(0), json!(29), json!(36_501)] {
        let refused = keep_days(&app, days.clone()).await;
        assert_eq!(refused.status.as_u16(), 400, "{days}: {}", refused.text);
        assert_eq!(
            refused.body["validationErrors"]["auditRetentionDays"],
            "must be between 30 and 36500, or null"
        );
    }
    let member = app.member().await;
    let refused = member.patch(SETTINGS, json!({ "auditRetentionDays": 30 })).await;
    refused.assert_error(403, "Role ORG_ADMIN is required");
    assert_eq!(
        keep_days(&app, json!(400)).await.assert_ok()["auditRetentionDays"],
        400
    );
    let entry = app.last_entry();
    assert_eq!(entry["details"]["changes"]["auditRetentionDays"]["to"], 400);
    let kept = keep_days(&app, json!(null)).await;
    assert_eq!(kept.assert_ok()["auditRetentionDays"], json!(null));
}

/// What is done to the trail, in any order.
#[derive(Clone, Debug)]
enum Step {
    Act(u8),
    Wait(u8),
    Prune,
    Erase(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Step::Act),
        2 => (1..20_u8).prop_map(Step::Wait),
        1 => Just(Step::Prune),
        1 => (0..3_u8).prop_map(Step::Erase),
    ]
}

/// Somebody acted on somebody.
async fn act(app: &TestApp, actor: u8, n: usize) {
    let users = [&app.admin, &app.developer, &app.member];
    let (actor, subject) = (users[usize::from(actor)], users[n % 3]);
    let event = Event::new(EventType::UserUpdate, Some(app.acme), ActorRef::user(actor))
        .on(Resource::user(subject))
        .from_request("request", Some([192, 0, 2, 9].into()))
        .with("n", n);
    append(&app.services, event).await.unwrap();
}

/// In whatever order entries are added, pruned and erased: the trail verifies, its exports too, every
/// checkpoint and receipt from before holds, and nothing erased is left.
#[tokio::test]
async fn any_order_of_pruning_and_erasing_keeps_every_proof() {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let cases = prop::collection::vec(step(), 1..30);
    for _ in 0..10 {
        let steps = cases.new_tree(&mut runner).unwrap().current();
        let app = TestApp::new().await;
        keep_days(&app, json!(30)).await.assert_ok();
        let keys = trail::log_keys(&app.services).await.unwrap();
        let (mut notes, mut receipts, mut erased) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (n, step) in steps.iter().enumerate() {
            match step {
                Step::Act(actor) => {
                    act(&app, *actor, n).await;
                    for user in [usize::from(*actor), n % 3] {
                        erased.remove(&user);
                    }
                    receipts.push(receipt_of_newest(&app).await);
                }
                Step::Wait(days) => app.advance(SignedDuration::from_hours(24 * i64::from(*days))),
                Step::Prune => {
                    trail::prune_expired(&app.services).await.unwrap();
                    app.advance(SignedDuration::from_hours(6));
                    trail::prune_expired(&app.services).await.unwrap();
                }
                Step::Erase(user) => {
                    let id = [&app.admin, &app.developer, &app.member][usize::from(*user)].id;
                    let done = trail::erase_user(&app.services, app.acme, id, ActorRef::system(), |_, _| {});
                    done.await.unwrap();
                    erased.insert(usize::from(*user));
                }
            }
            notes.push(trail::checkpoint(&app.services).await.unwrap().note);
        }
        let report = verified(&app.services);
        assert_eq!(report.findings, [], "{steps:?}");
        let file = export(&app, Selection::default(), Format::Ndjson).await;
        assert_eq!(check(&file, &keys).findings, [], "{steps:?}");
        for note in notes {
            let told = keys.open(&note).unwrap();
            let root = app.services.store.read(|db| audit::root(db, told.size)).unwrap();
            assert_eq!(root, told.root, "{steps:?}");
        }
        for receipt in receipts {
            check_receipt(&receipt, &keys).unwrap();
        }
        for user in erased {
            let address = &[&app.admin, &app.developer, &app.member][user].email;
            assert!(!file.contains(address.as_str()), "{steps:?}: {address} in {file}");
        }
    }
}

/// Whatever is removed without an entry that says so is found.
#[tokio::test]
async fn a_removal_that_nobody_recorded_is_found() {
    let app = TestApp::new().await;
    keep_days(&app, json!(30)).await.assert_ok();
    app.advance(SignedDuration::from_hours(31 * 24));
    tidy_by_a_settled_clock(&app).await;
    let other = app.admin_of_other_org().await;
    other.reset(app.other_admin.id).await;
    app.erase(&app.other_admin).await;
    let copy = |name: &str| {
        let path = app.services.store.path().with_file_name(name);
        let original = rusqlite::Connection::open(app.services.store.path()).unwrap();
        original
            .execute("VACUUM INTO ?1", [path.to_str().unwrap()])
            .unwrap();
        rusqlite::Connection::open(path).unwrap()
    };
    for (n, sql) in [
        // One more pruned than was recorded.
        "UPDATE audit_entry SET pruned_by = (SELECT max(sequence) FROM audit_entry WHERE event_type = 'AUDIT_PRUNE'), \
         at = NULL WHERE sequence = (SELECT max(sequence) FROM audit_entry WHERE event_type = 'USER_CREATE')",
        // By an entry that records something else.
        "UPDATE audit_entry SET pruned_by = pruned_by + 1 WHERE pruned_by IS NOT NULL",
        "UPDATE audit_entry SET actor_erased_by = 3 WHERE actor_erased_by IS NOT NULL",
        "UPDATE audit_entry SET subject_erased_by = subject_erased_by - 1 WHERE subject_erased_by IS NOT NULL",
        "UPDATE audit_head SET pruned = pruned + 1",
    ]
    .into_iter()
    .enumerate()
    {
        let database = copy(&format!("copy{n}.db"));
        assert_eq!(audit::verify(&database).unwrap().findings, [], "{sql}");
        assert!(database.execute(sql, []).unwrap() > 0, "{sql}");
        assert!(!audit::verify(&database).unwrap().is_intact(), "{sql}");
    }
}
