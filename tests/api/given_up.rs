//! A log can be given up only with the key of the log that follows, and that key is a new one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use latchkey::app::App;
use latchkey::config::Config;
use latchkey::domain::audit::{ActorRef, Event, EventType, LogKeys, LogSigner, LogsGivenUp};
use latchkey::keys::KeyRing;
use latchkey::service::trail::{self, RolledBack};
use latchkey::store::{Transaction, audit};

use crate::rollback::{
    assert_older, assert_starts_once_accepted, organization, put_back, refusal, rolled_back,
};

/// Returns the log name under which the trail is signed.
async fn origin(app: &App) -> String {
    let keys = trail::log_keys(&app.services).await.unwrap();
    keys.iter().last().unwrap().origin().to_owned()
}

/// Appends an entry that records that a log was given up.
async fn give_up(
    app: &App,
    logs: impl Fn(u64) -> Option<LogsGivenUp> + Send + Sync + 'static,
    origin: String,
    before: impl Fn(&Transaction<'_>) + Send + Sync + 'static,
) {
    let at = app.services.clock.now();
    let id = app.services.entropy.uuid(at);
    let written = app.services.store.write(move |tx| {
        before(tx);
        let event = Event::new(EventType::AuditRollbackAccept, None, ActorRef::operator())
            .with("abandonedOrigin", origin.clone());
        let event = match logs(audit::size(tx)?) {
            Some(logs) => logs.record(event),
            None => event,
        };
        audit::append_entry(tx, at, id, &event)
    });
    written.await.unwrap();
}

/// Anybody who can write the database can append the entry, and the server signs over it as over any other.
#[tokio::test]
async fn an_entry_that_the_server_signed_over_does_not_give_up_the_log_in_use() {
    for by_a_retired_key in [None, Some(false), Some(true)] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::for_data_dir(dir.path());
        let app = App::open(config.clone()).unwrap();
        organization(&app, "first").await;
        trail::checkpoint(&app.services).await.unwrap();
        let origin = origin(&app).await;
        let leaked = app.services.keys.audit_signing_key();
        trail::rotate_key(&app.services, ActorRef::operator())
            .await
            .unwrap();
        let seed = if by_a_retired_key == Some(true) {
            leaked
        } else {
            [9; 32]
        };
        let forger = LogSigner::new(&format!("{origin}/2"), &seed);
        let names = vec![origin.clone()];
        let logs = move |place| by_a_retired_key.map(|_| LogsGivenUp::by(&forger, names.clone(), place));
        give_up(&app, logs, origin, |_| ()).await;
        trail::checkpoint(&app.services).await.unwrap();
        drop(app);
        fs::copy(dir.path().join("latchkey.db"), dir.path().join("copy")).unwrap();
        let app = App::open(config.clone()).unwrap();
        organization(&app, "second").await;
        trail::checkpoint(&app.services).await.unwrap();
        let size = trail::size(&app.services).unwrap();
        drop(app);
        put_back(dir.path(), "copy");
        let refused = refusal(&config).expect("it is refused");
        assert!(
            matches!(refused, RolledBack::Older { signed, found, .. } if (signed, found) == (size, size - 1)),
            "{by_a_retired_key:?}: {refused}"
        );
    }
}

/// The database also holds the log name under which the server signs.
#[tokio::test]
async fn a_server_that_was_made_to_sign_under_another_name_gives_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::for_data_dir(dir.path());
    let app = App::open(config.clone()).unwrap();
    for slug in ["first", "second", "third"] {
        organization(&app, slug).await;
    }
    trail::checkpoint(&app.services).await.unwrap();
    let (origin, at) = (origin(&app).await, app.services.clock.now());
    let seed = app.services.keys.audit_signing_key();
    let key = LogSigner::new(&format!("{origin}/2"), &seed).log_key();
    let name = key.origin().to_owned();
    // The database is edited while the server runs: the latest entries are removed, and another log begins.
    let undo = move |tx: &Transaction<'_>| {
        tx.execute_batch(
            "DELETE FROM audit_entry WHERE sequence >= 1; DELETE FROM audit_head;
             INSERT INTO audit_head (organization_id, sequence, previous, entries)
               SELECT coalesce(organization_id, x''), max(sequence), organization_previous, count(*)
               FROM audit_entry GROUP BY 1",
        )
        .unwrap();
        audit::checkpoints::begin_log(tx, &key, 1, at).unwrap();
    };
    give_up(&app, |_| None, origin, undo).await;
    let signed = trail::checkpoint(&app.services).await.unwrap();
    assert!(signed.note.starts_with(&name), "{}", signed.note);
    drop(app);
    let refused = refusal(&config).expect("it is refused");
    assert_older(&refused, 3, 2);
}

/// Returns the public halves of keys, without the log names.
fn public_halves(keys: &LogKeys) -> Vec<String> {
    let half = |key: &str| key.rsplit_once('+').unwrap().1.to_owned();
    keys.iter().map(|key| half(&key.to_string())).collect()
}

#[tokio::test]
async fn what_follows_signs_with_a_key_of_its_own_whatever_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    let key_file = |name: &str| dir.path().join("keys").join(name);
    let old = fs::read_to_string(key_file("audit.key")).unwrap();
    let app = App::open_unchecked(config.clone()).unwrap();
    let before = public_halves(&trail::log_keys(&app.services).await.unwrap());
    let accepted = trail::accept_rollback(&app.services, None).await.unwrap();
    drop(app);
    let new = fs::read_to_string(key_file("audit.key")).unwrap();
    assert_ne!(old, new);
    let half = accepted.key.rsplit_once('+').unwrap().1.to_owned();
    assert!(!before.contains(&half), "{half}");
    for file in fs::read_dir(dir.path().join("keys")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(old.trim()), "the old private key is deleted");
    }
    // As after a crash: the database names the new key, but the key's file is not in its place yet.
    for (name, text) in [("audit.key", &old), ("audit.next.key", &new)] {
        fs::write(key_file(name), text).unwrap();
        fs::set_permissions(key_file(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    fs::remove_file(key_file("audit.retired")).unwrap();
    let app = App::open(config.clone()).unwrap();
    organization(&app, "later").await;
    let signed = trail::checkpoint(&app.services).await.unwrap();
    let keys = trail::log_keys(&app.services).await.unwrap();
    assert_eq!(keys.iter().last().unwrap().to_string(), accepted.key);
    assert!(keys.open(&signed.note).is_ok());
    drop(app);
    assert_eq!(fs::read_to_string(key_file("audit.key")).unwrap(), new);
    let report = trail::verify_data_dir(dir.path(), &LogKeys::default(), Vec::new(), |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    assert!(refusal(&config).is_none());
}

/// Restoring a snapshot of the whole machine rolls the keys back, too.
#[tokio::test]
async fn a_witness_tells_of_a_log_that_followed_even_where_its_key_went_back() {
    let (dir, witness) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (older, newer) = (dir.path().join("older"), dir.path().join("newer"));
    let config = |of: &Path| {
        let mut config = Config::for_data_dir(of);
        config.settings.trail.witness_dir = Some(witness.path().to_owned());
        config
    };
    let app = App::open(config(&newer)).unwrap();
    organization(&app, "first").await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    let copied = Command::new("cp").arg("-a").args([&newer, &older]).status();
    assert!(copied.unwrap().success());
    fs::remove_file(newer.join("checkpoints/latest")).unwrap();
    let app = App::open_unchecked(config(&newer)).unwrap();
    trail::accept_rollback(&app.services, None).await.unwrap();
    organization(&app, "second").await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    assert!(refusal(&config(&newer)).is_none());
    let refused = refusal(&config(&older)).expect("it is refused");
    assert!(matches!(refused, RolledBack::Unreadable { .. }), "{refused}");
    // Once accepted, it starts: no checkpoint of the log whose key it lacks counts any more.
    assert_starts_once_accepted(&config(&older)).await;
    assert!(refusal(&config(&newer)).is_some());
}

/// A database with different entries than were signed can be accepted as it is, as the refusal says.
#[tokio::test]
async fn another_history_of_the_same_length_starts_once_it_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let config = rolled_back(dir.path()).await;
    let app = App::open_unchecked(config.clone()).unwrap();
    organization(&app, "another").await;
    drop(app);
    assert!(matches!(refusal(&config), Some(RolledBack::Other { .. })));
    let app = App::open_unchecked(config.clone()).unwrap();
    trail::accept_rollback(&app.services, None).await.unwrap();
    let keys: &KeyRing = &app.services.keys;
    assert_eq!(keys.audit_public_keys().len(), 2);
    drop(app);
    assert!(refusal(&config).is_none(), "it starts");
}
