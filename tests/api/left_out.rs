//! Exports of a part, after somebody who can write the database made entries look as if they did not belong in it.

use jiff::{SignedDuration, Timestamp};
use latchkey::app::App;
use latchkey::config::Config;
use latchkey::domain::account::OrganizationId;
use latchkey::domain::audit::{ActorRef, Event, EventType};
use latchkey::service::trail::{self, ExportError, Format, Selection};
use latchkey::store::audit;

use crate::rollback::organization;

/// A trail with alternating entries of two organisations, a minute apart, and then many of the second one. In an
/// export of the first one, hashes would cover a hidden newest entry together with those.
struct Kept {
    dir: tempfile::TempDir,
    acme: OrganizationId,
    /// Sequence of acme's newest entry.
    newest: u64,
    newest_at: Timestamp,
}

impl Kept {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let app = App::open(Config::for_data_dir(dir.path())).unwrap();
        let acme = organization(&app, "acme").await;
        let globex = organization(&app, "globex").await;
        let begin = app.services.clock.now();
        let (mut newest, mut newest_at) = (0, begin);
        for n in 0..40 {
            let of_acme = n < 16 && n % 2 == 0;
            let of = if of_acme { acme } else { globex };
            let at = begin + SignedDuration::from_mins(n);
            let event = Event::new(EventType::UserLogin, Some(of), ActorRef::operator());
            let id = app.services.entropy.uuid(at);
            let write = move |tx: &latchkey::store::Transaction<'_>| audit::append_entry(tx, at, id, &event);
            let appended = app.services.store.write(write).await.unwrap();
            if of_acme {
                (newest, newest_at) = (appended.sequence, at);
            }
        }
        trail::checkpoint(&app.services).await.unwrap();
        Self {
            dir,
            acme,
            newest,
            newest_at,
        }
    }

    async fn after(sql: &str) -> Self {
        let kept = Self::new().await;
        let sql = sql
            .replace("NEWEST", &kept.newest.to_string())
            .replace("OF_ACME", &format!("x'{}'", kept.acme.0.simple()));
        let database = kept.dir.path().join("latchkey.db");
        let connection = rusqlite::Connection::open(database).unwrap();
        connection.execute_batch(&sql).unwrap();
        kept
    }

    async fn export(&self, selection: Selection) -> Result<u64, ExportError> {
        let app = App::open(Config::for_data_dir(self.dir.path())).unwrap();
        let actor = ActorRef::operator();
        trail::export(
            &app.services,
            actor,
            &selection,
            Format::Ndjson,
            Vec::new(),
            |_, _| {},
        )
        .await
    }

    fn of_acme(&self) -> Selection {
        Selection {
            organization_id: Some(self.acme),
            ..Selection::default()
        }
    }

    fn until_newest(&self, organization_id: Option<OrganizationId>) -> Selection {
        Selection {
            organization_id,
            from: None,
            to: Some(self.newest_at),
        }
    }

    /// Asserts that the export is refused because of a changed entry, and that the error contains `told`.
    async fn assert_changed(&self, selection: Selection, told: &str) {
        match self.export(selection).await {
            Err(changed @ ExportError::Changed(_)) => {
                let text = changed.to_string();
                assert!(
                    text.contains(told) && text.contains("latchkey audit verify"),
                    "{text}"
                );
            }
            other => panic!("{told}: {other:?}"),
        }
    }
}

/// Sets acme's row of `audit_head` back to what it was before the newest entry.
const HEAD_BACK: &str = "UPDATE audit_head SET entries = entries - 1, sequence = previous,
    previous = (SELECT organization_previous FROM audit_entry e WHERE e.sequence = audit_head.previous)
  WHERE organization_id = OF_ACME;";

#[tokio::test]
async fn an_entry_that_was_given_to_nobody_is_missed_in_its_organisations_export() {
    let untouched = Kept::new().await;
    let of_acme = untouched.export(untouched.of_acme()).await.unwrap();
    assert_eq!(of_acme, 9, "eight, and the creation of the organisation");
    for to in ["NULL", "zeroblob(16)"] {
        let hide = format!("UPDATE audit_entry SET organization_id = {to} WHERE sequence = NEWEST;");
        let kept = Kept::after(&format!("{HEAD_BACK} {hide}")).await;
        let edited = format!("entry {} was edited", kept.newest);
        kept.assert_changed(kept.of_acme(), &edited).await;
        // The whole trail is exported as it is: a check of the file finds the entry.
        assert!(kept.export(Selection::default()).await.is_ok());
    }
    // With its hashes overwritten: the hashes above do not match.
    let hide = "UPDATE audit_entry SET organization_id = NULL, hashes = zeroblob(length(hashes)) WHERE sequence = NEWEST;";
    let kept = Kept::after(&format!("{HEAD_BACK} {hide}")).await;
    kept.assert_changed(kept.of_acme(), &format!("entry {}", kept.newest))
        .await;
    // As if it had been pruned, together with another organisation's entries.
    let hide = "UPDATE audit_entry SET organization_id = zeroblob(16), organization_index = 0,
          organization_previous = NULL, at = NULL, id = NULL, event_type = NULL, result = NULL, actor_type = NULL,
          actor_id = NULL, actor_seal = NULL, subject_seal = NULL, details = NULL, pruned_by = NEWEST + 1
        WHERE sequence = NEWEST;";
    let kept = Kept::after(&format!("{HEAD_BACK} {hide}")).await;
    kept.assert_changed(kept.of_acme(), "parts were removed").await;
}

#[tokio::test]
async fn an_entry_whose_time_was_moved_is_missed_in_an_export_by_times() {
    let untouched = Kept::new().await;
    for organization in [None, Some(untouched.acme)] {
        let exported = untouched.export(untouched.until_newest(organization)).await;
        assert!(exported.unwrap() >= 9);
    }
    for of_acme in [true, false] {
        // To after the end of the requested period.
        let hide = "UPDATE audit_entry SET at = at + 60000 WHERE sequence = NEWEST;";
        let kept = Kept::after(hide).await;
        let selection = kept.until_newest(of_acme.then_some(kept.acme));
        let edited = format!("entry {} was edited", kept.newest);
        kept.assert_changed(selection, &edited).await;
        // To before the start of the requested period.
        let hide = "UPDATE audit_entry SET at = at - 1000000 WHERE sequence = NEWEST;";
        let kept = Kept::after(hide).await;
        let selection = Selection {
            organization_id: of_acme.then_some(kept.acme),
            from: Some(kept.newest_at),
            to: None,
        };
        kept.assert_changed(selection, &edited).await;
    }
}

/// For entries pruned after its newest entry, the whole trail shows which entry records the pruning.
#[tokio::test]
async fn what_was_pruned_of_another_organisation_does_not_keep_an_export_from_its_end() {
    let kept = Kept::new().await;
    let app = App::open(Config::for_data_dir(kept.dir.path())).unwrap();
    let globex = app.services.store.read(|db| {
        let sql = "SELECT organization_id FROM audit_entry ORDER BY sequence DESC LIMIT 1";
        Ok(db.query_row(sql, [], |row| row.get::<_, [u8; 16]>(0))?)
    });
    let globex = OrganizationId(uuid::Uuid::from_bytes(globex.unwrap()));
    assert_ne!(globex, kept.acme);
    let (before, at) = (
        kept.newest_at + SignedDuration::from_mins(5),
        kept.newest_at + SignedDuration::from_hours(1),
    );
    let id = app.services.entropy.uuid(at);
    let prune =
        move |tx: &latchkey::store::Transaction<'_>| audit::prune_entries(tx, globex, before, 100, at, id);
    assert!(app.services.store.write(prune).await.unwrap() > 8);
    drop(app);
    assert_eq!(kept.export(kept.of_acme()).await.unwrap(), 9);
}

/// An entry that is missing in an index is still in the table.
#[tokio::test]
async fn an_entry_that_an_index_lost_is_missed_too() {
    let kept = Kept::new().await;
    let file = kept.dir.path().join("latchkey.db");
    let connection = rusqlite::Connection::open(&file).unwrap();
    // The entry is missing in the index, while the schema still shows the original index.
    let (at, sequence) = (kept.newest_at.as_millisecond(), kept.newest);
    connection
        .execute_batch(&format!(
            "PRAGMA writable_schema = ON;
             CREATE TEMP TABLE was AS SELECT sql FROM sqlite_schema WHERE name = 'audit_entry_by_time';
             DROP INDEX audit_entry_by_time;
             CREATE INDEX audit_entry_by_time ON audit_entry (organization_id, at) WHERE at IS NOT NULL AND at <> {at};
             UPDATE sqlite_schema SET sql = (SELECT sql FROM was) WHERE name = 'audit_entry_by_time';
             PRAGMA writable_schema = OFF;"
        ))
        .unwrap();
    drop(connection);
    kept.assert_changed(
        kept.until_newest(Some(kept.acme)),
        &format!("entry {sequence} belongs in it"),
    )
    .await;
}
