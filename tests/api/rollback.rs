//! An older database put in place of a newer one is refused at the start, and accepted only on purpose.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::SignedDuration;
use latchkey::app::App;
use latchkey::config::Config;
use latchkey::domain::account::{OrganizationId, OrganizationSettings, Role, UserId};
use latchkey::domain::audit::{ActorRef, Event, EventType, LogKeys, LogSigner, Tampering};
use latchkey::service::administration::{NewOrganization, NewUser, create_organization, create_user};
use latchkey::service::session;
use latchkey::service::trail::{self, RolledBack};
use latchkey::store::audit;

use crate::support::enrol;

pub async fn organization(app: &App, slug: &str) -> OrganizationId {
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
pub async fn rolled_back(dir: &Path) -> Config {
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

pub fn refusal(config: &Config) -> Option<RolledBack> {
    App::open(config.clone())
        .err()
        .map(|error| error.downcast::<RolledBack>().unwrap())
}

/// So many entries were signed, and so many of them are there.
#[track_caller]
pub fn assert_older(refused: &RolledBack, of_signed: u64, are_found: u64) {
    assert!(
        matches!(refused, RolledBack::Older { signed, found, .. } if (*signed, *found) == (of_signed, are_found)),
        "{refused}"
    );
}

pub async fn assert_starts_once_accepted(config: &Config) {
    let app = App::open_unchecked(config.clone()).unwrap();
    trail::accept_rollback(&app.services, None).await.unwrap();
    drop(app);
    assert!(refusal(config).is_none(), "it starts");
}

#[tokio::test]
async fn an_older_database_is_refused_with_what_is_missing_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    let refused = refusal(&config).expect("it is refused");
    assert_older(&refused, 2, 1);
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
        // The number that follows, and what makes the name one of its kind.
        let (_, name) = accepted
            .key
            .split_once("/audit-log/2-")
            .expect("it is the second");
        let (drawn, _) = name.split_once('+').expect("it is a key");
        assert!(
            drawn.len() == 8 && drawn.chars().all(|c| c.is_ascii_hexdigit()),
            "{drawn}"
        );
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
    assert_starts_once_accepted(&config).await;
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
    assert_older(&refusal(&config).expect("it is refused"), 2, 1);
}

/// Puts an earlier database back, with all that SQLite keeps beside it.
pub fn put_back(dir: &Path, copy: &str) {
    for besides in ["latchkey.db-wal", "latchkey.db-shm"] {
        let _ = fs::remove_file(dir.join(besides));
    }
    fs::copy(dir.join(copy), dir.join("latchkey.db")).unwrap();
}

#[tokio::test]
async fn without_the_memory_of_what_was_signed_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
    let refused = refusal(&config).expect("it is refused");
    assert!(matches!(refused, RolledBack::Forgotten { .. }), "{refused}");
    assert!(refused.to_string().contains("latchkey audit accept-rollback"));
    assert_starts_once_accepted(&config).await;
}

#[tokio::test]
async fn an_older_note_in_place_of_the_newest_does_not_hide_an_older_database() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    let history = fs::read_to_string(dir.path().join("checkpoints/history")).unwrap();
    let first: serde_json::Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    let latest = dir.path().join("checkpoints/latest");
    fs::write(&latest, first["note"].as_str().unwrap()).unwrap();
    let refused = refusal(&config).expect("it is refused");
    assert_older(&refused, 2, 1);
}

/// Whoever can write the database can name a successor of the log, whose key is public, and an entry that says
/// so; they can't sign.
#[tokio::test]
async fn a_log_that_was_only_written_into_the_database_gives_nothing_up() {
    for has_entry in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let witness = tempfile::tempdir().unwrap();
        let mut config = rolled_back(dir.path()).await;
        let app = App::open_unchecked(config.clone()).unwrap();
        let origin = trail::log_keys(&app.services).await.unwrap();
        let origin = origin.iter().next().unwrap().origin().to_owned();
        let seed = app.services.keys.audit_signing_key();
        let key = LogSigner::new(&format!("{origin}/2"), &seed).log_key();
        let (at, id) = (
            app.services.clock.now(),
            app.services.entropy.uuid(app.services.clock.now()),
        );
        let forged = app.services.store.write(move |tx| {
            if has_entry {
                let event = Event::new(EventType::AuditRollbackAccept, None, ActorRef::operator())
                    .with("abandonedOrigin", origin.clone());
                audit::append_entry(tx, at, id, &event)?;
            }
            audit::checkpoints::begin_log(tx, &key, 1, at)?;
            // Another log's signature, as if it were this one's.
            tx.execute("UPDATE audit_checkpoint SET log = 2", [])?;
            Ok(())
        });
        forged.await.unwrap();
        drop(app);
        let refused = refusal(&config).expect("it is refused");
        assert!(
            matches!(
                refused,
                RolledBack::Older { signed: 2, .. } | RolledBack::Other { signed: 2, .. }
            ),
            "{refused}"
        );

        // Nor does it lead past what the witness has of the true log.
        let history = fs::read_to_string(dir.path().join("checkpoints/history")).unwrap();
        let newest: serde_json::Value = serde_json::from_str(history.lines().last().unwrap()).unwrap();
        let of_log = witness.path().join("127.0.0.1_8080_audit-log");
        fs::create_dir_all(&of_log).unwrap();
        fs::write(
            of_log.join(format!("{:020}", 2)),
            newest["note"].as_str().unwrap(),
        )
        .unwrap();
        fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
        config.settings.trail.witness_dir = Some(witness.path().to_owned());
        let refused = refusal(&config).expect("it is refused");
        assert!(
            matches!(
                refused,
                RolledBack::Older { signed: 2, .. } | RolledBack::Other { signed: 2, .. }
            ),
            "{refused}"
        );
    }
}

/// The second time the database knows nothing of the first: no name signs two histories, nothing that the
/// witness has is replaced, and it starts.
#[tokio::test]
async fn the_same_database_can_be_accepted_twice_and_no_name_signs_two_histories() {
    let dir = tempfile::tempdir().unwrap();
    let witness = tempfile::tempdir().unwrap();
    let mut config = rolled_back(dir.path()).await;
    config.settings.trail.witness_dir = Some(witness.path().to_owned());
    let mut keys = Vec::new();
    let mut witnessed: std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> = Default::default();
    for round in 0..3 {
        put_back(dir.path(), "backup");
        assert!(refusal(&config).is_some(), "round {round}");
        let app = App::open_unchecked(config.clone()).unwrap();
        let accepted = trail::accept_rollback(&app.services, None).await.unwrap();
        organization(&app, &format!("round-{round}")).await;
        trail::checkpoint(&app.services).await.unwrap();
        drop(app);
        assert!(refusal(&config).is_none(), "it starts after round {round}");
        let report = trail::verify_data_dir(dir.path(), &LogKeys::default(), Vec::new(), |_, _| {}).unwrap();
        assert_eq!(report.findings, [], "round {round}");
        assert!(!keys.contains(&accepted.key));
        keys.push(accepted.key);
        for (file, content) in &witnessed {
            assert_eq!(&fs::read(file).unwrap(), content, "{}", file.display());
        }
        for log in fs::read_dir(witness.path()).unwrap() {
            for file in fs::read_dir(log.unwrap().path()).unwrap() {
                let file = file.unwrap().path();
                witnessed.insert(file.clone(), fs::read(&file).unwrap());
            }
        }
    }
    assert!(keys[2].contains("/audit-log/4-"), "{}", keys[2]);
}

#[tokio::test]
async fn tokens_of_another_issuer_from_before_are_dead_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::for_data_dir(dir.path());
    let app = App::open(config.clone()).unwrap();
    let acme = organization(&app, "acme").await;
    user(&app, acme, "dev@acme.example").await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    fs::remove_file(dir.path().join("checkpoints/latest")).unwrap();
    let app = App::open_unchecked(config).unwrap();
    let before = app.services.clock.now().as_millisecond();
    trail::accept_rollback(&app.services, None).await.unwrap();
    let ended = app.services.store.read(|db| {
        Ok(db.query_row(
            "SELECT min(coalesce(sessions_ended_at, 0)) FROM user",
            [],
            |row| row.get::<_, i64>(0),
        )?)
    });
    assert!(ended.unwrap() >= before);
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
