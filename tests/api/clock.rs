//! A clock that jumps: forwards (a machine that slept), backwards (a correction). Clear refusals, no double
//! reset, and a trail that verifies.

use jiff::SignedDuration;

use crate::support::{DEVELOPER, TestApp, enrol};

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
