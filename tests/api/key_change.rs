//! Another key signs the trail: whoever has the old one is led to it by what the old one has signed, and by
//! nothing else; and whatever crashes on the way, the trail goes on.

use std::fs;
use std::path::Path;

use latchkey::app::App;
use latchkey::config::Config;
use latchkey::domain::audit::export::{EndLine, GapLine, Line};
use latchkey::domain::audit::{
    ActorRef, Anchor, Event, EventType, FileVerifier, KeyChange, LogKey, LogKeys, LogSigner, Report,
    Tampering, Verdict, check_receipt,
};
use latchkey::service::trail::{self, Format, KeyChanged, Selection};
use latchkey::store::audit;
use sha2::{Digest as _, Sha256};

use crate::support;

async fn append(app: &App) -> u64 {
    append_event(app, Event::new(EventType::UserLogin, None, ActorRef::operator())).await
}

async fn append_event(app: &App, event: Event) -> u64 {
    support::append(&app.services, event).await.unwrap()
}

/// A data directory whose trail has a few entries, signed on the way.
async fn begun(dir: &Path) -> App {
    let app = App::open(Config::for_data_dir(dir)).unwrap();
    for _ in 0..5 {
        append(&app).await;
        trail::checkpoint(&app.services).await.unwrap();
    }
    app
}

async fn rotated(app: &App) -> KeyChanged {
    trail::rotate_key(&app.services, ActorRef::operator())
        .await
        .unwrap()
}

fn keys(texts: &[&str]) -> LogKeys {
    LogKeys::new(texts.iter().map(|text| LogKey::parse(text).unwrap()).collect())
}

fn check_with(dir: &Path, keys: &LogKeys, anchors: Vec<Anchor>) -> Report {
    trail::verify_data_dir(dir, keys, anchors, |_, _| {}).unwrap()
}

/// Intact, every entry signed, and nothing that waits for its key.
fn assert_intact(dir: &Path, given: &[&str]) {
    let report = check_with(dir, &keys(given), Vec::new());
    assert_eq!(report.findings, [], "{given:?}");
    assert_eq!(
        report.verdict(&[], Some(0)),
        Verdict::Intact,
        "{given:?}: {report:?}"
    );
    let idle = report.notes.iter().filter(|note| note.contains("does not count"));
    assert_eq!(idle.count(), 0, "{given:?}: {:?}", report.notes);
}

async fn export(app: &App, selection: &Selection) -> String {
    let mut file = Vec::new();
    let actor = ActorRef::operator();
    trail::export(
        &app.services,
        actor,
        selection,
        Format::Ndjson,
        &mut file,
        |_, _| {},
    )
    .await
    .unwrap();
    String::from_utf8(file).unwrap()
}

fn check_file(file: &str, given: &[&str]) -> Report {
    let mut verifier = FileVerifier::new(keys(given), Vec::new());
    for line in file.lines() {
        verifier.line(line, None).unwrap();
    }
    verifier.finish().unwrap()
}

fn kinds(report: &Report) -> Vec<Tampering> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

/// All that is wrong is what a key signed that had retired, whichever keys were given.
#[track_caller]
fn assert_retired(report: &Report, given: &[&str]) {
    assert_eq!(
        kinds(report),
        [Tampering::ForgedCheckpoint],
        "{given:?}: {report:?}"
    );
    let told = &report.findings[0].text;
    assert!(told.contains("retired the key"), "{given:?}: {report:?}");
}

/// A key of the same name that nobody vouches for.
fn stranger(of: &str) -> LogSigner {
    LogSigner::new(LogKey::parse(of).unwrap().origin(), &[9; 32])
}

#[tokio::test]
async fn the_old_key_leads_to_the_new_one_and_an_unrelated_one_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let app = begun(dir.path()).await;
    let receipt = trail::receipt(&app.services, 2).await.unwrap();
    let kept = trail::checkpoint(&app.services).await.unwrap().note;
    let first = rotated(&app).await;
    // At once, and with entries that only the new key has signed.
    let both = [first.from.as_str(), &first.to];
    for given in [&[][..], &both[..1], &both[1..], &both] {
        assert_intact(dir.path(), given);
    }
    append(&app).await;
    trail::checkpoint(&app.services).await.unwrap();
    for given in [&[][..], &both[..1], &both[1..], &both] {
        assert_intact(dir.path(), given);
    }
    let report = check_with(dir.path(), &keys(&both[..1]), Vec::new());
    let led = report.notes.iter().any(|note| note.contains(&first.to));
    assert!(led, "the new key is told: {:?}", report.notes);
    let unrelated = stranger(&first.from).log_key().to_string();
    let report = check_with(dir.path(), &keys(&[&unrelated]), Vec::new());
    assert_ne!(report.verdict(&[], None), Verdict::Intact);
    assert_eq!(report.vouched_size, 0);
    let elsewhere = LogSigner::new("elsewhere/audit-log", &[9; 32])
        .log_key()
        .to_string();
    let report = check_with(dir.path(), &keys(&[&elsewhere]), Vec::new());
    assert_eq!(report.verdict(&[], None), Verdict::Unsigned);

    // Once more: the first key leads over the second to the third.
    let second = rotated(&app).await;
    append(&app).await;
    trail::checkpoint(&app.services).await.unwrap();
    assert_eq!(second.from, first.to);
    let all = [first.from.as_str(), &first.to, &second.to];
    for given in [&all[..1], &all[1..2], &all[2..], &all] {
        assert_intact(dir.path(), given);
    }
    assert_eq!(trail::log_keys(&app.services).await.unwrap(), keys(&all));

    // What was kept and given out before stays good, and leads on.
    let old = keys(&all[..1]);
    assert_eq!(check_receipt(&receipt, &old).unwrap().record.sequence, 2);
    let anchor = Anchor {
        checkpoint: old.open(&kept).unwrap(),
        source: "mine".to_owned(),
    };
    let report = check_with(dir.path(), &old, vec![anchor]);
    assert_eq!(report.verdict(&["mine".to_owned()], Some(0)), Verdict::Intact);
    // A receipt from afterwards is signed by the new key alone.
    let receipt = trail::receipt(&app.services, 2).await.unwrap();
    assert!(check_receipt(&receipt, &old).is_err());
    assert!(check_receipt(&receipt, &keys(&all[2..])).is_ok());
}

#[tokio::test]
async fn an_export_across_a_change_is_intact_with_either_key() {
    let dir = tempfile::tempdir().unwrap();
    let app = begun(dir.path()).await;
    let before = export(&app, &Selection::default()).await;
    let changed = rotated(&app).await;
    let both = [changed.from.as_str(), &changed.to];
    // The change is the newest entry in the one, and is not in the other.
    let newest = export(&app, &Selection::default()).await;
    append(&app).await;
    trail::checkpoint(&app.services).await.unwrap();
    append(&app).await;
    let across = export(&app, &Selection::default()).await;
    for (name, file) in [("newest", &newest), ("across", &across)] {
        for given in [&[][..], &both[..1], &both[1..], &both] {
            let report = check_file(file, given);
            assert_eq!(report.findings, [], "{name}, {given:?}");
            assert_eq!(report.verdict(&[], Some(0)), Verdict::Intact, "{name}, {given:?}");
        }
        let unrelated = stranger(&changed.from).log_key().to_string();
        let report = check_file(file, &[&unrelated]);
        assert_eq!(report.verdict(&[], None), Verdict::Tampered, "{name}");
        assert_eq!(report.vouched_size, 0, "{name}");
    }
    assert_eq!(check_file(&before, &both[..1]).findings, []);

    // Without the entry that vouches for it, the new key is none that the old one leads to.
    let at = |sequence: u64| format!("\"sequence\":{sequence}}}");
    let without: Vec<_> = across
        .lines()
        .filter(|line| !line.contains(&at(changed.sequence)))
        .collect();
    assert_eq!(without.len() + 1, across.lines().count());
    let report = check_file(&without.join("\n"), &both[..1]);
    assert!(
        kinds(&report).contains(&Tampering::ForgedCheckpoint),
        "{report:?}"
    );
    let from = app.services.clock.now();
    append(&app).await;
    let part = export(
        &app,
        &Selection {
            from: Some(from),
            ..Selection::default()
        },
    )
    .await;
    assert_eq!(check_file(&part, &both[1..]).findings, []);
    let report = check_file(&part, &both[..1]);
    assert_eq!(kinds(&report)[0], Tampering::ForgedCheckpoint);
    assert!(
        report.findings[0].text.contains("none vouches here for the key"),
        "{report:?}"
    );
}

/// Whoever can write the database can append an entry, name a key and keep what it signs.
#[tokio::test]
async fn a_change_that_the_old_key_has_not_signed_leads_nowhere() {
    for forged_statement in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let app = begun(dir.path()).await;
        let log = trail::log_keys(&app.services).await.unwrap();
        let old = log.iter().next().unwrap().clone();
        let evil = stranger(&old.to_string());
        let mut event = KeyChange::found(old.clone(), evil.log_key()).event(ActorRef::operator());
        if forged_statement {
            let size = trail::size(&app.services).unwrap();
            let theirs = KeyChange::by(&evil, old.clone(), size).event(ActorRef::operator());
            event = event.with("vouchedFor", theirs.details["vouchedFor"].clone());
        }
        append_event(&app, event).await;
        // The log signs over it like over anything.
        trail::checkpoint(&app.services).await.unwrap();
        let at = app.services.clock.now();
        let key = evil.log_key();
        let put = app.services.store.write(move |tx| {
            let size = audit::size(tx)?;
            audit::checkpoints::begin_log(tx, &key, size, at)?;
            let note = evil.checkpoint(size, audit::root(tx, size)?);
            audit::checkpoints::insert_checkpoint(tx, &key, size, &note, at)
        });
        put.await.unwrap();
        let report = check_with(dir.path(), &keys(&[&old.to_string()]), Vec::new());
        assert_eq!(report.verdict(&[], None), Verdict::Tampered, "{report:?}");
        assert!(
            kinds(&report)
                .iter()
                .all(|kind| *kind == Tampering::ForgedCheckpoint)
        );
        let own = check_with(dir.path(), &LogKeys::default(), Vec::new());
        assert!(own.trusted_own_keys);
        assert_eq!(own.is_intact(), !forged_statement, "{own:?}");
    }
}

#[tokio::test]
async fn what_a_retired_key_signs_later_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let app = begun(dir.path()).await;
    let leaked = app.services.keys.audit_signing_key();
    let changed = rotated(&app).await;
    append(&app).await;
    let origin = LogKey::parse(&changed.from).unwrap().origin().to_owned();
    let thief = LogSigner::new(&origin, &leaked);
    assert_eq!(thief.log_key().to_string(), changed.from);
    let at = app.services.clock.now();
    let put = app.services.store.write(move |tx| {
        let size = audit::size(tx)?;
        let note = thief.checkpoint(size, audit::root(tx, size)?);
        audit::checkpoints::insert_checkpoint(tx, &thief.log_key(), size, &note, at)
    });
    put.await.unwrap();
    for given in [
        vec![],
        vec![&*changed.from],
        vec![&*changed.to],
        vec![&*changed.from, &*changed.to],
    ] {
        trail::checkpoint(&app.services).await.unwrap();
        let report = check_with(dir.path(), &keys(&given), Vec::new());
        assert_retired(&report, &given);
    }
}

/// Whoever has the retired key and writes the database leads nobody to a key of their own.
#[tokio::test]
async fn a_retired_key_vouches_for_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let app = begun(dir.path()).await;
    let leaked = app.services.keys.audit_signing_key();
    let changed = rotated(&app).await;
    append(&app).await;
    let old = LogKey::parse(&changed.from).unwrap();
    let thief = LogSigner::new(old.origin(), &leaked);
    let evil = stranger(&changed.from).log_key();
    let place = app.services.store.read(audit::size).unwrap();
    let event = KeyChange::by(&thief, evil.clone(), place).event(ActorRef::operator());
    assert_eq!(append_event(&app, event).await, place);
    append(&app).await;
    for given in [vec![&*changed.from], vec![&*changed.to]] {
        trail::checkpoint(&app.services).await.unwrap();
        let report = check_with(dir.path(), &keys(&given), Vec::new());
        assert_retired(&report, &given);
        let led = report.notes.iter().any(|note| note.contains(&evil.to_string()));
        assert!(!led, "{:?}", report.notes);
        let file = export(&app, &Selection::default()).await;
        assert_eq!(kinds(&check_file(&file, &given)), [Tampering::ForgedCheckpoint]);
    }
}

/// The export lacks the newest entry, whose hash replaces it, and the thief of the old key signed its end.
#[tokio::test]
async fn a_retired_key_does_not_end_an_export_either() {
    let dir = tempfile::tempdir().unwrap();
    let app = begun(dir.path()).await;
    let (leaked, from) = (app.services.keys.audit_signing_key(), app.services.clock.now());
    let changed = rotated(&app).await;
    append(&app).await;
    append(&app).await;
    let selection = Selection {
        from: Some(from),
        ..Selection::default()
    };
    let part = export(&app, &selection).await;
    assert_eq!(check_file(&part, &[&changed.from]).findings, []);
    let mut lines: Vec<&str> = part.lines().collect();
    assert!(lines.pop().unwrap().contains("\"kind\":\"end\""));
    let newest = lines.pop().unwrap();
    let entry: serde_json::Value = serde_json::from_str(newest).unwrap();
    let place = entry["leaf"]["sequence"].as_u64().unwrap();
    let hash = app.services.store.read(|db| audit::cover(db, place, place + 1));
    let gap = Line::Gap(GapLine::new(place, place + 1, &hash.unwrap()));
    let gap = serde_json::to_string(&gap).unwrap();
    lines.push(&gap);
    let text = lines.join("\n") + "\n";
    let ended = |seed| {
        let signer = LogSigner::new(LogKey::parse(&changed.from).unwrap().origin(), &seed);
        let sha256 = Sha256::digest(text.as_bytes());
        let end = Line::End(EndLine {
            lines: lines.len() as u64,
            sha256: hex::encode(sha256),
            signed: signer.export_end(lines.len() as u64, sha256.into()),
        });
        format!("{text}{}", serde_json::to_string(&end).unwrap())
    };
    // Only the end shows the difference.
    let in_use = app.services.keys.audit_signing_key();
    assert_eq!(check_file(&ended(in_use), &[&changed.from]).findings, []);
    for given in [vec![], vec![&*changed.from], vec![&*changed.from, &*changed.to]] {
        let report = check_file(&ended(leaked), &given);
        assert_retired(&report, &given);
    }
}

/// A key file that somebody replaced by hand: nobody vouches for it, and the trail says so.
#[tokio::test]
async fn a_key_that_was_found_changed_is_on_the_record_and_not_vouched_for() {
    let dir = tempfile::tempdir().unwrap();
    let app = begun(dir.path()).await;
    let old = trail::log_keys(&app.services).await.unwrap();
    let old = old.iter().next().unwrap().to_string();
    drop(app);
    fs::write(
        dir.path().join("keys/audit.key"),
        format!("{}\n", "07".repeat(32)),
    )
    .unwrap();
    let app = App::open(Config::for_data_dir(dir.path())).unwrap();
    append(&app).await;
    trail::checkpoint(&app.services).await.unwrap();
    let all = trail::log_keys(&app.services).await.unwrap();
    let new = all.iter().last().unwrap().to_string();
    assert_ne!(old, new);
    let report = check_with(dir.path(), &keys(&[&old]), Vec::new());
    assert_eq!(report.verdict(&[], None), Verdict::Tampered);
    let told = report
        .notes
        .iter()
        .any(|note| note.contains("does not vouch for it"));
    assert!(told, "{:?}", report.notes);
    for given in [&[&*new][..], &[&*old, &*new]] {
        let report = check_with(dir.path(), &keys(given), Vec::new());
        assert_eq!(report.findings, [], "{given:?}");
        assert_eq!(report.verdict(&[], Some(0)), Verdict::Intact);
    }
}

/// The files of a data directory by name, as a crash would leave them.
fn copy_of(from: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                fs::create_dir(&target).unwrap();
                let mode = entry.metadata().unwrap().permissions();
                fs::set_permissions(&target, mode).unwrap();
                copy(&entry.path(), &target);
            } else if entry.file_name() != "latchkey.sock" {
                fs::copy(entry.path(), &target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(from, dir.path());
    dir
}

/// It starts, signs with the key that its database names, changes it again, and is intact with the first key.
async fn assert_goes_on(dir: &Path, first: &str, signs: &str) {
    let app = App::open(Config::for_data_dir(dir)).unwrap();
    append(&app).await;
    let note = trail::checkpoint(&app.services).await.unwrap().note;
    assert!(keys(&[signs]).open(&note).is_ok(), "{note}");
    assert_intact(dir, &[first]);
    assert_eq!(
        check_file(&export(&app, &Selection::default()).await, &[first]).findings,
        []
    );
    drop(app);
    let app = App::open(Config::for_data_dir(dir)).unwrap();
    let again = rotated(&app).await;
    assert_eq!(again.from, signs);
    append(&app).await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    drop(App::open(Config::for_data_dir(dir)).unwrap());
    assert_intact(dir, &[first]);
    assert_intact(dir, &[&again.to]);
}

#[tokio::test]
async fn a_crash_after_any_step_leaves_a_trail_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let app = begun(dir.path()).await;
    drop(app);
    let before = copy_of(dir.path());
    let app = App::open(Config::for_data_dir(dir.path())).unwrap();
    let changed = rotated(&app).await;
    drop(app);
    let after = copy_of(dir.path());
    let key = |of: &Path| fs::read_to_string(of.join("keys/audit.key")).unwrap();
    let (old, new) = (key(before.path()), key(after.path()));
    let put = |of: &Path, name: &str, text: &str| {
        let path = of.join("keys").join(name);
        fs::write(&path, text).unwrap();
        let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, owner).unwrap();
    };

    // The new key lies beside the old one, and the database knows nothing of it.
    let staged = copy_of(before.path());
    put(staged.path(), "audit.next.key", &new);
    assert_goes_on(staged.path(), &changed.from, &changed.from).await;

    // The database names the new key, and its file is not in its place; neither are the checkpoints.
    for with_checkpoints in [false, true] {
        let named = copy_of(after.path());
        put(named.path(), "audit.key", &old);
        put(named.path(), "audit.next.key", &new);
        fs::remove_file(named.path().join("keys/audit.retired")).unwrap();
        if !with_checkpoints {
            put_checkpoints_back(before.path(), named.path());
        }
        assert_goes_on(named.path(), &changed.from, &changed.to).await;
        assert!(!named.path().join("keys/audit.next.key").exists());
        assert!(
            !fs::read_to_string(named.path().join("keys/audit.key"))
                .unwrap()
                .contains(&old)
        );
    }

    // The public half of the old key is kept already, its file not yet replaced.
    let kept = copy_of(after.path());
    put(kept.path(), "audit.key", &old);
    put(kept.path(), "audit.next.key", &new);
    put_checkpoints_back(before.path(), kept.path());
    assert_goes_on(kept.path(), &changed.from, &changed.to).await;

    // All but the checkpoints beside the database; and all.
    put_checkpoints_back(before.path(), after.path());
    assert_goes_on(after.path(), &changed.from, &changed.to).await;
    assert_goes_on(dir.path(), &changed.from, &changed.to).await;
}

fn put_checkpoints_back(from: &Path, to: &Path) {
    for name in ["latest", "history"] {
        let name = Path::new("checkpoints").join(name);
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// While entries are written and signed by others, whatever order they come in.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_among_writers_and_signers_leave_one_chain_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    let app = std::sync::Arc::new(begun(dir.path()).await);
    let first = trail::log_keys(&app.services).await.unwrap();
    let first = first.iter().next().unwrap().to_string();
    let busy = |_| {
        let app = std::sync::Arc::clone(&app);
        tokio::spawn(async move {
            for _ in 0..40 {
                append(&app).await;
                trail::checkpoint(&app.services).await.unwrap();
            }
        })
    };
    let busy: Vec<_> = (0..3).map(busy).collect();
    let mut changes = 0;
    while !busy.iter().all(tokio::task::JoinHandle::is_finished) || changes < 3 {
        rotated(&app).await;
        changes += 1;
    }
    for task in busy {
        task.await.unwrap();
    }
    trail::checkpoint(&app.services).await.unwrap();
    assert_eq!(
        trail::log_keys(&app.services).await.unwrap().iter().count(),
        changes + 1
    );
    let last = trail::log_keys(&app.services).await.unwrap();
    let last = last.iter().last().unwrap().to_string();
    for given in [&[][..], &[&*first], &[&*last]] {
        assert_intact(dir.path(), given);
    }
}

/// The witness gets the old key's last word and the new one's first, over as many entries, and holds it for no fork.
#[tokio::test]
async fn a_witness_takes_both_and_an_older_database_is_noticed_across_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let witness = tempfile::tempdir().unwrap();
    let mut config = Config::for_data_dir(dir.path());
    config.settings.trail.witness_dir = Some(witness.path().to_owned());
    drop(begun(dir.path()).await);
    fs::copy(dir.path().join("latchkey.db"), dir.path().join("older")).unwrap();
    let app = App::open(config.clone()).unwrap();
    rotated(&app).await;
    drop(app);
    let of_log = fs::read_dir(witness.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(fs::read_dir(of_log).unwrap().count(), 2);
    drop(App::open(config.clone()).unwrap());
    let app = App::open(config.clone()).unwrap();
    append(&app).await;
    trail::checkpoint(&app.services).await.unwrap();
    drop(app);
    // Without any memory beside it, the witness knows.
    fs::copy(dir.path().join("older"), dir.path().join("latchkey.db")).unwrap();
    fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
    let refused = App::open(config).err().expect("it is refused");
    assert!(refused.is::<trail::RolledBack>(), "{refused}");
}
