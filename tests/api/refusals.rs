//! What is refused without work being done, and when it comes on the record.

use jiff::SignedDuration;
use latchkey::limiter::{Limit, Limits};
use latchkey::service::refusals::record_floods;
use serde_json::{Value, json};

use crate::support::{DEVELOPER, Setup, SlowDisk, TestApp};

/// Anybody may ask: however many do, the writer's queue is there for others.
#[tokio::test]
async fn however_many_ask_whether_it_is_ready_they_take_one_place_of_the_queue() {
    let app = TestApp::with(Setup {
        queue_length: 2,
        ..Default::default()
    })
    .await;
    let admin = app.admin().await;
    let generation = app.services.store.generation();
    let disk = SlowDisk::new(&app).await;
    let nobody = app.anonymous();
    let asking = futures_util::future::join_all((0..20).map(|_| nobody.get("/health/ready")));
    let (asked, (), reset) = tokio::join!(
        asking,
        async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            disk.go_on().await;
        },
        admin.reset(DEVELOPER)
    );
    reset.assert_ok();
    for answer in asked {
        answer.assert_ok();
    }
    // A writer that hangs is told soon, and not by hanging with it.
    let disk = SlowDisk::new(&app).await;
    let began = std::time::Instant::now();
    let answer = nobody.get("/health/ready").await;
    answer.assert_error(503, "The server is busy. Try again in 1 s");
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
    disk.go_on().await;
    // The reset counts, and no question does: who called is remembered as long as nothing changes.
    assert_eq!(app.services.store.generation(), generation + 1);
}

#[tokio::test]
async fn a_crowd_of_one_organisation_leaves_places_to_another() {
    let app = TestApp::with(Setup {
        queue_length: 4,
        ..Default::default()
    })
    .await;
    let (admin, other) = (app.admin().await, app.admin_of_other_org().await);
    let disk = SlowDisk::new(&app).await;
    let crowd = futures_util::future::join_all((0..6).map(|_| admin.reset(DEVELOPER)));
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        tokio::join!(other.reset(app.other_developer.id), disk.go_on_soon()).0
    };
    let (crowd, others) = tokio::join!(crowd, late);
    others.assert_ok();
    let busy = crowd.iter().filter(|answer| answer.status == 503).count();
    assert_eq!(busy, 4, "half of the queue is theirs");
}

#[tokio::test]
async fn a_full_queue_is_503_and_one_entry_with_a_count_once_there_is_room() {
    let app = TestApp::with(Setup {
        queue_length: 1,
        ..Default::default()
    })
    .await;
    let (admin, member) = (app.admin().await, app.caller(&app.member).await);
    let disk = SlowDisk::new(&app).await;
    let waiting = tokio::spawn({
        let store = app.services.store.clone();
        async move { store.write(|_| Ok(())).await }
    });
    tokio::task::yield_now().await;
    // What is refused for another reason can't be recorded either, so that it is 503, too.
    for caller in [&admin, &admin, &member] {
        let answer = caller.reset(DEVELOPER).await;
        answer.assert_error(503, "The server is busy. Try again in 1 s");
        assert_eq!(answer.header("retry-after"), "1");
    }
    disk.go_on().await;
    waiting.await.unwrap().unwrap();
    let entries = app.trail().len();
    assert_eq!(record_floods(&app.services, false).await.unwrap(), 0, "too early");
    app.advance(SignedDuration::from_secs(61));
    assert_eq!(record_floods(&app.services, false).await.unwrap(), 2);
    let trail = app.trail();
    assert_eq!(trail.len(), entries + 2, "one for each caller");
    let refused = |entry: &Value| (entry["details"]["refused"].as_i64(), entry["result"].clone());
    let mut counts: Vec<_> = trail[..2].iter().map(|entry| refused(entry).0).collect();
    counts.sort_unstable();
    assert_eq!(counts, [Some(1), Some(2)]);
    assert_eq!(refused(&trail[0]).1, "FAILURE");
    assert_eq!(trail[0]["errorMessage"], "The server was busy");
    // Nothing was done: the same again is done now.
    app.admin().await.reset(DEVELOPER).await.assert_ok();
}

#[tokio::test]
async fn refusals_that_could_not_be_recorded_are_counted_on() {
    let limits = Limits {
        reset_by_caller: Limit {
            requests: 1,
            window_secs: 60,
        },
        ..Limits::off()
    };
    let app = TestApp::with(Setup {
        limits,
        ..Default::default()
    })
    .await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 429);
    app.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .await;
    assert!(record_floods(&app.services, true).await.is_err());
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 429);
    app.execute("DROP TRIGGER full").await;
    assert_eq!(record_floods(&app.services, true).await.unwrap(), 1);
    assert_eq!(app.last_entry()["details"]["refused"], 2, "before and after");
}

/// What is no id is not written where it could never be erased; an id is, as ids are spelt.
#[tokio::test]
async fn what_a_caller_writes_in_place_of_an_id_can_be_erased() {
    use latchkey::domain::audit::ActorRef;
    use latchkey::service::trail;

    let app = TestApp::new().await;
    let admin = app.admin().await;
    assert_eq!(admin.reset("dev@acme.example").await.status.as_u16(), 400);
    let entry = app.last_entry();
    assert_eq!(entry["resource"]["id"], "");
    assert_eq!(entry["resource"]["name"], "dev@acme.example");
    let page = admin.get("/api/v1/audit-logs?size=1").await;
    let told = &page.assert_ok()["content"][0];
    assert_eq!(
        (&told["resourceType"], &told["resourceId"]),
        (&"USER".into(), &Value::Null)
    );

    admin.reset(DEVELOPER.to_uppercase()).await;
    assert_eq!(app.last_entry()["resource"]["id"], DEVELOPER);
    let refused = admin
        .send(
            poem::http::Method::DELETE,
            "/api/v1/api-keys/lk_secret",
            None,
            &[],
        )
        .await;
    assert!(refused.status.is_client_error());
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["resource"]["id"]),
        (&"API_KEY_REVOKE".into(), &"".into())
    );
    assert!(!entry.to_string().contains("lk_secret"), "{entry}");

    let erase = trail::erase_user(
        &app.services,
        app.acme,
        app.developer.id,
        ActorRef::operator(),
        |_, _| {},
    );
    erase.await.unwrap();
    let everything = serde_json::to_string(&app.trail()).unwrap();
    assert!(!everything.contains("dev@acme.example"), "{everything}");
}

/// An admin's verbs have a high limit: what is refused to one caller again and again is counted. A reset is an
/// entry each.
#[tokio::test]
async fn the_same_refusal_again_and_again_is_counted_after_the_first_times_but_for_the_reset() {
    let app = TestApp::new().await;
    let (member, admin) = (app.member().await, app.admin().await);
    let path = format!("/api/v1/users/{DEVELOPER}");
    let began = app.trail().len();
    for _ in 0..15 {
        let answer = member.patch(&path, json!({ "name": "x" })).await;
        answer.assert_error(403, "Role ORG_ADMIN is required");
    }
    assert_eq!(app.trail().len(), began + 10);
    // Another verb and another caller have their own.
    member.delete(&path).await.assert_envelope();
    let nobody = format!("/api/v1/users/{}", uuid::Uuid::max());
    admin
        .patch(&nobody, json!({ "name": "x" }))
        .await
        .assert_envelope();
    assert_eq!(app.trail().len(), began + 12);
    app.advance(SignedDuration::from_secs(61));
    assert_eq!(
        record_floods(&app.services, false).await.unwrap(),
        1,
        "what was recorded is not counted"
    );
    let counted = app.last_entry();
    assert_eq!(
        (
            &counted["eventType"],
            &counted["details"]["refused"],
            &counted["actor"]["email"]
        ),
        (&json!("USER_UPDATE"), &json!(5), &json!("member@acme.example"))
    );
    member
        .patch(&path, json!({ "name": "x" }))
        .await
        .assert_envelope();
    assert_eq!(app.trail().len(), began + 14, "a new window");
    for _ in 0..15 {
        member
            .reset(DEVELOPER)
            .await
            .assert_error(403, "Role ORG_ADMIN is required");
    }
    assert_eq!(app.trail().len(), began + 29);
}
