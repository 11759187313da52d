//! What a full disk does: no entry, no reset, and reads go on.

use latchkey::domain::audit::{ActorRef, Event, EventType};
use latchkey::service::trail;
use latchkey::store::audit;

use crate::support::{self, DEVELOPER, TestApp};

/// SQLite may take no further page: what it says then is what it says of a full disk (`SQLITE_FULL`).
async fn limit_pages(app: &TestApp, further: i64) {
    let limit = app.services.store.write(move |tx| {
        let pages: i64 = tx.pragma_query_value(None, "page_count", |row| row.get(0))?;
        tx.pragma_update(None, "max_page_count", pages + further)?;
        Ok(())
    });
    limit.await.unwrap();
}

async fn append(app: &TestApp, bytes: usize) -> bool {
    let event =
        Event::new(EventType::UserUpdate, Some(app.acme), ActorRef::operator()).with("n", "x".repeat(bytes));
    support::append(&app.services, event).await.is_ok()
}

#[tokio::test]
async fn a_full_disk_is_no_entry_and_no_reset_and_reads_go_on() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    limit_pages(&app, 0).await;
    // Fills the pages that are there, the last bytes too.
    for bytes in [3_000, 400, 10] {
        while append(&app, bytes).await {}
    }
    let factors = "SELECT count(*) FROM factor WHERE suspended_at IS NULL";
    let calls = "SELECT count(*) FROM reset_call";
    let before = (
        app.count(factors),
        app.count(calls),
        trail::size(&app.services).unwrap(),
    );
    for user in [DEVELOPER.to_owned(), app.member.id.to_string()] {
        let refused = admin.reset(&user).await;
        assert_eq!(refused.status.as_u16(), 500, "{}", refused.text);
        refused.assert_error(500, "Changes can't be put on disk now; nothing has been changed");
        assert!(
            !refused.text.contains("full") && !refused.text.contains("database"),
            "{}",
            refused.text
        );
    }
    let after = (
        app.count(factors),
        app.count(calls),
        trail::size(&app.services).unwrap(),
    );
    assert_eq!(after, before, "nothing was changed");

    // Reads go on, the trail is intact.
    let page = admin.get("/api/v1/audit-logs?size=5").await;
    assert_eq!(page.assert_ok()["content"].as_array().unwrap().len(), 5);
    admin.get("/api/v1/users").await.assert_ok();
    let report = app.services.store.read(audit::verify).unwrap();
    assert_eq!(report.findings, []);

    // Room again: everything works, without a restart.
    limit_pages(&app, 1_000_000).await;
    admin.reset(DEVELOPER).await.assert_ok();
    assert!(trail::checkpoint(&app.services).await.is_ok());
}
