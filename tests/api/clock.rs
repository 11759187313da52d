//! A clock that jumps: forwards (a machine that slept), backwards (a correction). Clear refusals, no double
//! reset, and a trail that verifies.

use jiff::SignedDuration;
use latchkey::limiter::Limits;
use latchkey::service::deliveries::{Channel, send_due};
use latchkey::service::housekeeping;
use latchkey::service::refusals::record_floods;
use latchkey::service::trail::{self, Way, forward_due};
use poem::http::Method;
use serde_json::json;

use crate::deliveries::app_with_mail;
use crate::deliveries::receivers::{MailServer, Receiver};
use crate::forwarding::app_with_webhook;
use crate::keeping::tidy_by_a_settled_clock;
use crate::support::{DEVELOPER, TestApp, enrol, per_minute, reset_path};

#[tokio::test]
async fn a_clock_that_jumps_forwards_ends_tokens_and_back_again_revives_none_that_was_revoked() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    app.advance(SignedDuration::from_hours(24 * 400));
    admin
        .get("/api/v1/users")
        .await
        .assert_error(401, "The access token has expired");
    let now = app.admin().await;
    now.get("/api/v1/users").await.assert_ok();
    enrol(&app.services, app.developer.id).await;
    now.reset(DEVELOPER).await.assert_ok();
    // Back to where it was: what was minted in the meantime is from the future.
    app.advance(-SignedDuration::from_hours(24 * 400));
    now.get("/api/v1/users")
        .await
        .assert_error(401, "The access token is not valid yet");
    let again = app.admin().await;
    again
        .reset(DEVELOPER)
        .await
        .assert_error(400, "MFA is not enabled for this user");
    // Drop checks that the trail verifies, and that resets and entries match one to one.
    assert_eq!(
        app.trail()
            .iter()
            .filter(|entry| entry["eventType"] == "USER_MFA_RESET")
            .count(),
        3
    );
}

/// A virtual machine whose clock is wrong for a minute.
#[tokio::test]
async fn a_clock_that_was_ahead_for_a_minute_delays_no_notice_destroys_nothing_and_blocks_no_budget() {
    let ahead = SignedDuration::from_hours(24 * 400);
    let server = MailServer::start();
    let app = app_with_mail(&server).await;
    let send = async || send_due(&app.services, Channel::Mail).await.unwrap();
    app.bind("reset-budget", json!({ "perAdmin": { "maxPerDay": 2 } }))
        .await;
    let [meanwhile, third] = [app.employee("meanwhile").await, app.employee("third").await];
    send().await;
    tidy_by_a_settled_clock(&app).await;
    let once = [("Idempotency-Key", "0123456789")];
    let admin = app.admin().await;
    let first = admin
        .send(Method::POST, &reset_path(DEVELOPER), None, &once)
        .await;
    first.assert_ok();
    send().await;
    let told = server.received().len();

    app.advance(ahead);
    app.admin().await.reset(meanwhile.id).await.assert_ok();
    housekeeping::tidy(&app.services).await;
    app.advance(-ahead);

    assert!(send().await > 0, "what is owed since then is due");
    let told: Vec<_> = server.received().split_off(told);
    assert!(told.iter().any(|mail| mail.to == [meanwhile.email.clone()]));
    assert_eq!(app.count("SELECT count(*) FROM remembered_outcome"), 1);
    let admin = app.admin().await;
    let restore = format!("/api/v1/users/{DEVELOPER}/restore-factors");
    admin.send(Method::POST, &restore, None, &[]).await.assert_ok();
    let over_budget = admin.reset(third.id).await;
    assert_eq!(over_budget.status.as_u16(), 403, "{}", over_budget.text);

    // Once the clock has run for hours, what it said before was wrong.
    tidy_by_a_settled_clock(&app).await;
    let still = app.admin().await.reset(third.id).await;
    assert_eq!(still.status.as_u16(), 403, "{}", still.text);
    app.advance(SignedDuration::from_hours(24));
    app.admin().await.reset(third.id).await.assert_ok();
}

#[tokio::test]
async fn the_trail_is_signed_on_after_a_clock_that_was_ahead() {
    let ahead = SignedDuration::from_hours(24 * 400);
    let app = TestApp::new().await;
    app.advance(ahead);
    trail::checkpoint(&app.services).await.unwrap();
    app.advance(-ahead);
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    let due = async || trail::checkpoint_if_due(&app.services).await.unwrap();
    assert!(due().await.is_some());
    app.admin().await.reset(DEVELOPER).await;
    assert!(due().await.is_none(), "not more often than otherwise");
    app.advance(SignedDuration::from_secs(60));
    assert!(due().await.is_some());
}

#[tokio::test]
async fn a_siem_is_told_at_once_after_a_clock_that_was_ahead() {
    let ahead = SignedDuration::from_hours(24 * 400);
    let receiver = Receiver::start();
    let app = app_with_webhook(&receiver, &[]).await;
    let forward = async || forward_due(&app.services, Way::Webhook).await.unwrap();
    forward().await;
    app.advance(ahead);
    app.admin().await.reset(DEVELOPER).await.assert_ok();
    receiver.answer_next(&["503 Service Unavailable"]);
    forward().await;
    app.advance(-ahead);
    let before = receiver.calls().len();
    forward().await;
    assert!(receiver.calls().len() > before);
}

#[tokio::test]
async fn a_flood_that_began_while_the_clock_was_ahead_is_recorded_at_once() {
    let ahead = SignedDuration::from_hours(24 * 400);
    let limits = Limits {
        reset_by_caller: per_minute(1),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    app.advance(ahead);
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    for _ in 0..3 {
        assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 429);
    }
    app.advance(-ahead);
    assert_eq!(record_floods(&app.services, false).await.unwrap(), 1);
    assert_eq!(app.last_entry()["details"]["refused"], 3);
}
