//! The trail as it grows: a stream that can be left and gone on with.

use std::time::Duration;

use jiff::SignedDuration;
use latchkey::service::trail;
use poem::http::Method;
use serde_json::json;

use crate::support::{DEVELOPER, TestApp};

const LOGS: &str = "/api/v1/audit-logs";

#[tokio::test]
async fn a_tail_tells_what_is_new_and_goes_on_where_it_was_left() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let before = trail::size(&app.services).unwrap();
    admin.reset(DEVELOPER).await.assert_ok();
    let path = format!("{LOGS}/tail");
    let header = (before - 1).to_string();
    let events = admin
        .stream(&path, &[("Last-Event-ID", &header)], Duration::from_secs(2))
        .await;
    assert!(events.contains("event: entry\n"), "{events}");
    assert!(events.contains(&format!("id: {before}\n")), "{events}");
    assert!(events.contains("\"eventType\":\"USER_MFA_RESET\""), "{events}");
    let header = before.to_string();
    let nothing = admin
        .stream(&path, &[("Last-Event-ID", &header)], Duration::from_secs(1))
        .await;
    assert!(!nothing.contains("data:"), "{nothing}");
}

/// Else a reader whose quarter of an hour passed without an entry would come back without an id, and miss what
/// came in between.
#[tokio::test]
async fn a_tail_says_at_once_where_to_come_back_to() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let size = trail::size(&app.services).unwrap();
    let path = format!("{LOGS}/tail");
    let said = admin.stream(&path, &[], Duration::from_secs(1)).await;
    assert!(said.starts_with(&format!("id: {}\n\n", size - 1)), "{said}");
    assert!(!said.contains("data:"), "{said}");
    // Nor does the document promise more of an event.
    let event = &latchkey::http::document()["paths"][&path]["get"]["responses"]["200"]["content"]["text/event-stream"]
        ["schema"];
    assert_eq!(event["required"], json!(["id"]));
    admin.reset(DEVELOPER).await.assert_ok();
    let last = (size - 1).to_string();
    let events = admin
        .stream(&path, &[("Last-Event-ID", &last)], Duration::from_secs(1))
        .await;
    assert!(events.contains("\"eventType\":\"USER_MFA_RESET\""), "{events}");
}

#[tokio::test]
async fn a_tail_from_beyond_any_entry_is_refused_or_waits() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = format!("{LOGS}/tail");
    for beyond in ["9223372036854775808", "18446744073709551615"] {
        let headers = [("Last-Event-ID", beyond)];
        let refused = tokio::time::timeout(
            Duration::from_secs(5),
            admin.send(Method::GET, &path, None, &headers),
        )
        .await
        .expect("an answer, not a stream");
        refused.assert_error(400, "The parameter 'Last-Event-ID' is malformed");
    }
    let last = [("Last-Event-ID", "9223372036854775807")];
    let waiting = tokio::time::timeout(Duration::from_millis(1500), async {
        admin.stream(&path, &last, Duration::from_secs(20)).await
    });
    assert!(waiting.await.is_err(), "the stream stays open");
}

#[tokio::test]
async fn a_tail_ends_with_the_right_to_read() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = format!("{LOGS}/tail");
    let tail = admin.stream(&path, &[], Duration::from_secs(20));
    let end = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        app.advance(SignedDuration::from_hours(13));
    };
    let (events, ()) = tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(tail, end) })
        .await
        .expect("the tail ends by itself");
    assert!(!events.contains("data:"), "{events}");
}

#[tokio::test]
async fn an_organisation_that_opens_tail_after_tail_leaves_others_theirs() {
    let app = TestApp::new().await;
    let (admin, other) = (app.admin().await, app.admin_of_other_org().await);
    let path = format!("{LOGS}/tail");
    let mut open = Vec::new();
    loop {
        let tail = admin.open(&path, &[]).await;
        if tail.status() != 200 {
            break;
        }
        open.push(tail);
    }
    let refused = admin.get(&path).await;
    refused.assert_error(503, "The server is busy. Try again in 10 s");
    assert_eq!(refused.header("retry-after"), "10");
    assert_eq!(open.len(), 32, "half of them");
    let said = other.stream(&path, &[], Duration::from_secs(1)).await;
    assert!(said.starts_with("id: "), "{said}");
    open.pop();
    assert_eq!(
        admin.open(&path, &[]).await.status(),
        200,
        "its place is free again"
    );
}
