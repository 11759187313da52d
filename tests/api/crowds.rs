//! Many at once: what one organisation asks for leaves places to others, and what finds none is told so.

use jiff::SignedDuration;
use latchkey::service::refusals::record_floods;
use serde_json::{Value, json};

use crate::guests::before;
use crate::plugins::{bind, install, path};
use crate::support::{Answer, DEVELOPER, Setup, SlowDisk, TestApp};

/// Where so many changes may wait for the writer.
async fn app_with_queue_of(queue_length: usize) -> TestApp {
    TestApp::with(Setup {
        queue_length,
        ..Default::default()
    })
    .await
}

/// Anybody may ask: however many do, the writer's queue is there for others.
#[tokio::test]
async fn however_many_ask_whether_it_is_ready_they_take_one_place_of_the_queue() {
    let app = app_with_queue_of(2).await;
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

/// Calls all of a crowd while nothing is written, and another once they wait. Returns the other's answer, and how many
/// of the crowd were told to come again.
async fn beside<C: Future<Output = Answer>>(
    app: &TestApp,
    crowd: impl Iterator<Item = C>,
    other: impl Future<Output = Answer>,
) -> (Answer, usize) {
    let disk = SlowDisk::new(app).await;
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        tokio::join!(other, disk.go_on_soon()).0
    };
    let (crowd, other) = tokio::join!(futures_util::future::join_all(crowd), late);
    let busy = crowd.iter().filter(|answer| answer.status == 503).count();
    (other, busy)
}

#[tokio::test]
async fn a_crowd_of_one_organisation_leaves_places_to_another() {
    let app = app_with_queue_of(4).await;
    let (admin, other) = (app.admin().await, app.admin_of_other_org().await);
    let crowd = (0..6).map(|_| admin.reset(DEVELOPER));
    let (others, busy) = beside(&app, crowd, other.reset(app.other_developer.id)).await;
    others.assert_ok();
    assert_eq!(busy, 4, "half of the queue is theirs");
}

#[tokio::test]
async fn a_crowd_of_changes_of_policies_of_one_organisation_leaves_places_to_another() {
    let app = app_with_queue_of(4).await;
    let (admin, other) = (app.admin().await, app.admin_of_other_org().await);
    let mut bindings = Vec::new();
    let digest = install(&admin, before("(i32.const 512)")).await;
    for _ in 0..6 {
        bindings.push(path(&bind(&admin, &digest, json!({})).await));
    }
    let crowd = bindings.iter().map(|binding| admin.delete(binding));
    let (others, busy) = beside(&app, crowd, other.reset(app.other_developer.id)).await;
    others.assert_ok();
    assert_eq!(busy, 4, "half of the queue is theirs");
}

/// Not resets alone: whatever an organisation's people change takes places of its own share.
#[tokio::test]
async fn a_crowd_of_any_changes_of_one_organisation_leaves_places_to_another() {
    let app = app_with_queue_of(4).await;
    let (admin, member) = (app.admin().await, app.caller(&app.member).await);
    let other = app.admin_of_other_org().await;
    let settings = "/api/v1/organization/settings";
    for round in 0..3 {
        let one = async |n: u32| match round {
            0 => {
                let new = json!({ "email": format!("new-{n}@acme.example") });
                admin.post("/api/v1/users", new).await
            }
            1 => {
                admin
                    .patch(settings, json!({ "passwordMinLength": 12 + n }))
                    .await
            }
            _ => member.post("/api/v1/mfa/setup", json!({})).await,
        };
        let new = json!({ "email": format!("late-{round}@globex.example") });
        let (others, busy) = beside(&app, (0..6).map(one), other.post("/api/v1/users", new)).await;
        others.assert_status(201);
        assert_eq!(busy, 4, "round {round}: half of the queue is theirs");
    }
}

#[tokio::test]
async fn a_full_queue_is_503_and_one_entry_with_a_count_once_there_is_room() {
    let app = app_with_queue_of(1).await;
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
