//! An older database put in place of a newer one is refused at the start, and accepted only on purpose.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::SignedDuration;
use latchkey::app::App;
use latchkey::config::Config;
use latchkey::domain::account::{OrganizationId, OrganizationSettings, Role, UserId};
use latchkey::domain::audit::{ActorRef, LogKeys, Tampering};
use latchkey::service::administration::{NewOrganization, NewUser, create_organization, create_user};
use latchkey::service::session;
use latchkey::service::trail::{self, RolledBack};

use crate::support::enrol;

async fn organization(app: &App, slug: &str) -> OrganizationId {
    let new = NewOrganization {
        id: None,
        slug: slug.into(),
        name: slug.into(),
        settings: OrganizationSettings::default(),
    };
    create_organization(&app.services, new).await.unwrap().id
}

/// A user with a second factor and a session.
async fn user(app: &App, organization: OrganizationId, email: &str) -> UserId {
    let new = NewUser {
        id: None,
        email: email.into(),
        name: None,
        role: Role::Member,
        password_hash: None,
    };
    let user = create_user(&app.services, organization, new, ActorRef::operator(), None);
    let id = user.await.unwrap().id;
    enrol(&app.services, id).await;
    let services = Arc::clone(&app.services);
    let mint = move || session::mint_token(&services, id, SignedDuration::from_hours(1));
    tokio::task::spawn_blocking(mint).await.unwrap().unwrap();
    id
}

/// A data directory with two entries, signed, in which the database of one entry was put back.
async fn rolled_back(dir: &Path) -> Config {
    let config = Config::for_data_dir(dir);
    let database = dir.join("latchkey.db");
    let app = App::open(config.clone()).unwrap();
    organization(&app, "first").await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    fs::copy(&database, dir.join("backup")).unwrap();
    let app = App::open(config.clone()).unwrap();
    organization(&app, "second").await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    fs::rename(&database, dir.join("replaced")).unwrap();
    for besides in ["latchkey.db-wal", "latchkey.db-shm"] {
        let _ = fs::remove_file(dir.join(besides));
    }
    fs::copy(dir.join("backup"), &database).unwrap();
    config
}

fn refusal(config: &Config) -> Option<RolledBack> {
    App::open(config.clone())
        .err()
        .map(|error| error.downcast::<RolledBack>().unwrap())
}

#[tokio::test]
async fn an_older_database_is_refused_with_what_is_missing_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    let refused = refusal(&config).expect("it is refused");
    assert!(
        matches!(
            refused,
            RolledBack::Older {
                signed: 2,
                found: 1,
                ..
            }
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains("latchkey audit accept-rollback"));
    let report = trail::verify_data_dir(dir.path(), &LogKeys::default(), Vec::new(), |_, _| {}).unwrap();
    assert_eq!(report.findings[0].kind, Tampering::CutOff);
}

#[tokio::test]
async fn accepting_it_is_an_entry_under_a_new_name_and_then_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    let old_keys = {
        let app = App::open_unchecked(config.clone()).unwrap();
        let keys = trail::log_keys(&app.services).await.unwrap();
        let replaced = dir.path().join("replaced");
        let accepted = trail::accept_rollback(&app.services, Some(&replaced))
            .await
            .unwrap();
        assert_eq!((accepted.found, accepted.signed), (1, 2));
        assert!(accepted.key.contains("/audit-log/2+"), "{}", accepted.key);
        keys
    };
    assert!(refusal(&config).is_none(), "it starts");
    let report = trail::verify_data_dir(dir.path(), &LogKeys::default(), Vec::new(), |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("put in place on purpose")),
        "{:?}",
        report.notes
    );
    // Whoever has the old key only is told that another one has signed since.
    let report = trail::verify_data_dir(dir.path(), &old_keys, Vec::new(), |_, _| {}).unwrap();
    assert!(
        report.notes.iter().any(|note| note.contains("another log's key")),
        "{:?}",
        report.notes
    );
}

#[tokio::test]
async fn another_history_of_the_same_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    let app = App::open_unchecked(config.clone()).unwrap();
    organization(&app, "another").await;
    drop(app);
    let refused = refusal(&config).expect("it is refused");
    assert!(
        matches!(refused, RolledBack::Other { signed: 2, .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_forged_memory_is_refused_and_a_database_that_went_on_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::for_data_dir(dir.path());
    let app = App::open(config.clone()).unwrap();
    organization(&app, "first").await;
    trail::checkpoint(&app.services).await.unwrap();
    organization(&app, "second").await;
    drop(app);
    assert!(refusal(&config).is_none());
    let latest = dir.path().join("checkpoints/latest");
    let note = fs::read_to_string(&latest).unwrap();
    fs::write(&latest, note.replacen("\n1\n", "\n0\n", 1)).unwrap();
    assert!(matches!(refusal(&config), Some(RolledBack::Unreadable { .. })));
    let app = App::open_unchecked(config.clone()).unwrap();
    trail::accept_rollback(&app.services, None).await.unwrap();
    drop(app);
    assert!(refusal(&config).is_none());
}

#[tokio::test]
async fn a_witness_directory_remembers_what_the_machine_forgot() {
    let dir = tempfile::tempdir().unwrap();
    let witness = tempfile::tempdir().unwrap();
    let mut config = Config::for_data_dir(dir.path());
    config.settings.trail.witness_dir = Some(witness.path().to_owned());
    let app = App::open(config.clone()).unwrap();
    organization(&app, "first").await;
    drop(app);
    fs::copy(dir.path().join("latchkey.db"), dir.path().join("backup")).unwrap();
    let app = App::open(config.clone()).unwrap();
    organization(&app, "second").await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    fs::copy(dir.path().join("backup"), dir.path().join("latchkey.db")).unwrap();
    fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
    assert!(matches!(
        refusal(&config),
        Some(RolledBack::Older {
            signed: 2,
            found: 1,
            ..
        })
    ));
}

/// What was taken away since and is back with the older database is named; its sessions are ended, and the
/// entry says so.
#[tokio::test]
async fn what_an_older_database_brings_back_is_named_and_sessions_end() {
    for is_known in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_data_dir(dir.path());
        let database = dir.path().join("latchkey.db");
        let app = App::open(config.clone()).unwrap();
        let acme = organization(&app, "acme").await;
        let lost = user(&app, acme, "lost@acme.example").await;
        user(&app, acme, "kept@acme.example").await;
        trail::checkpoint(&app.services).await.unwrap();
        drop(app);
        fs::copy(&database, dir.path().join("backup")).unwrap();
        let app = App::open(config.clone()).unwrap();
        let reset = app.services.store.write(move |tx| {
            for table in ["session", "factor"] {
                tx.execute(
                    &format!("DELETE FROM {table} WHERE user_id = ?1"),
                    [lost.0.as_bytes()],
                )?;
            }
            Ok(())
        });
        reset.await.unwrap();
        organization(&app, "later").await;
        trail::checkpoint(&app.services).await.unwrap();
        drop(app);
        let replaced = dir.path().join("replaced");
        fs::rename(&database, &replaced).unwrap();
        fs::copy(dir.path().join("backup"), &database).unwrap();
        assert!(refusal(&config).is_some());

        let app = App::open_unchecked(config.clone()).unwrap();
        let newer = is_known.then_some(replaced.as_path());
        let accepted = trail::accept_rollback(&app.services, newer).await.unwrap();
        let back: Vec<_> = accepted
            .revived
            .iter()
            .map(|one| (one.email.as_str(), one.kind.as_str()))
            .collect();
        let of = |email| [(email, "session"), (email, "totp")];
        // Without the newer database each of them may be back.
        let expected = if is_known {
            of("lost@acme.example").to_vec()
        } else {
            [of("kept@acme.example"), of("lost@acme.example")].concat()
        };
        assert_eq!(back, expected);
        assert_eq!(accepted.sessions_ended, 2);
        let count = |sql: &'static str| {
            let read =
                |db: &latchkey::store::Connection| Ok(db.query_row(sql, [], |row| row.get::<_, i64>(0))?);
            app.services.store.read(read).unwrap()
        };
        assert_eq!(count("SELECT count(*) FROM session"), 0);
        assert_eq!(
            count("SELECT count(*) FROM factor"),
            2,
            "factors are told, not taken"
        );
        let entry = "SELECT details ->> '$.sessionsEnded' FROM audit_entry WHERE event_type = 'AUDIT_ROLLBACK_ACCEPT'";
        assert_eq!(count(entry), 2);
        drop(app);
        assert!(refusal(&config).is_none(), "it starts");
    }
}
