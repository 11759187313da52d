//! Checkpoints: signed when due, stored in the database and beside it.
//!
//! Beside the database, `<data-dir>/checkpoints/latest` holds the newest and `history` all of them, as lines of
//! JSON, so that an older database put in its place is detected. A witness directory, which proves something only
//! on another machine, gets each as a separate file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::thinning::thin_history;
use super::witness::Testimony;
use super::{ForwardTo, Services};
use crate::domain::audit::checkpoint::{origin_of, public_half, unchecked};
use crate::domain::audit::{ActorRef, KeyChange, LogKey, LogKeys, LogSigner};
use crate::domain::{Error, Result};
use crate::durable;
use crate::keys::KeyRing;
use crate::service::deliveries;
use crate::store::audit::{self, checkpoints};
use crate::store::{Transaction, deliveries as owed};

/// The directory's name in the data directory.
pub const CHECKPOINT_DIRECTORY: &str = "checkpoints";
/// The type of the webhook call to the witness.
pub const CHECKPOINT_CALL: &str = "audit.checkpoint";
pub(super) const LATEST: &str = "latest";
pub(super) const HISTORY: &str = "history";
/// How often the signer is looked for while somebody changes the key.
const SIGNER_TRIES: usize = 5;
/// Maximum length of a line of the history, in bytes.
const LONGEST_LINE: u64 = 16 << 10;

/// When checkpoints are due, and where else they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Number of new entries after which a checkpoint is due.
    pub checkpoint_entries: u64,
    /// Seconds after which a checkpoint is due, if there is a new entry.
    pub checkpoint_secs: i64,
    /// Directory that gets a copy of each checkpoint.
    pub witness_dir: Option<PathBuf>,
    /// URL that is sent checkpoints, as signed webhook calls.
    pub witness_url: Option<String>,
    /// Where entries are forwarded to.
    pub forward_to: ForwardTo,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            checkpoint_entries: 1000,
            checkpoint_secs: 60,
            witness_dir: None,
            witness_url: None,
            forward_to: ForwardTo::default(),
        }
    }
}

/// A signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Number of entries that it covers.
    pub size: u64,
    /// The signed note.
    pub note: String,
}

/// Signs a checkpoint if enough entries or time have passed since the last one.
///
/// # Errors
/// [`Error::Internal`] when it can't be stored; it will be due again.
pub async fn checkpoint_if_due(services: &Services) -> Result<Option<Signed>> {
    let now = services.clock.now();
    let due = services.store.read(|db| {
        let size = audit::size(db)?;
        let newest = checkpoints::find_newest_checkpoint(db)?;
        let (signed, at) = newest.map_or((0, 0), |(size, at, _)| (size, at));
        let settings = &services.settings.trail;
        // Treat a checkpoint from the future, signed while the clock was ahead, as too old as well.
        let age_millis = now.as_millisecond().saturating_sub(at).saturating_abs();
        Ok(size > signed
            && (size - signed >= settings.checkpoint_entries
                || age_millis >= settings.checkpoint_secs.saturating_mul(1000))
            // An undelivered call to the witness is itself an entry, which must not cause the next call.
            && checkpoints::is_worth_signing(db, signed, CHECKPOINT_CALL)?)
    })?;
    if due {
        checkpoint(services).await.map(Some)
    } else {
        Ok(None)
    }
}

/// Signs a checkpoint over all entries so far, and stores it before returning it.
///
/// # Errors
/// [`Error::Internal`] when it can't be stored.
pub async fn checkpoint(services: &Services) -> Result<Signed> {
    sign(services, None).await
}

/// Signs a checkpoint over the first `size` entries.
///
/// # Errors
/// [`Error::Conflict`] when the key was changed after the trail had that size; [`Error::Internal`] when it can't
/// be stored.
pub(super) async fn checkpoint_at(services: &Services, size: u64) -> Result<Signed> {
    sign(services, Some(size)).await
}

async fn sign(services: &Services, over: Option<u64>) -> Result<Signed> {
    loop {
        let signer = signer(services).await?;
        let key = signer.log_key();
        let made = services.store.read(|db| {
            let Some(log) = checkpoints::known_logs(db)?.pop().filter(|log| log.key == key) else {
                return Ok(None);
            };
            if over.is_some_and(|size| size < log.first_size) {
                return Err(key_changed());
            }
            let size = over.map_or_else(|| audit::size(db), Ok)?;
            let newest = checkpoints::find_newest_checkpoint(db)?;
            if let Some((_, _, note)) = newest.as_ref().filter(|(newest, ..)| *newest == size) {
                let note = note.clone();
                return Ok(Some((Signed { size, note }, false)));
            }
            let note = signer.checkpoint(size, audit::root(db, size)?);
            // A larger one covers this one and is the one to remember.
            let is_newest = newest.is_none_or(|(newest, ..)| newest < size);
            Ok(Some((Signed { size, note }, is_newest)))
        })?;
        // The key was changed meanwhile: sign with the new one, since the old one has signed its last checkpoint.
        let Some((signed, is_newest)) = made else { continue };
        if is_newest {
            keep(services, &signed, &key).await?;
        }
        return Ok(signed);
    }
}

/// Refuses a size that the trail had before the current key was in use.
///
/// # Errors
/// [`Error::Conflict`].
pub(super) async fn refuse_if_begun_after(services: &Services, size: u64) -> Result<()> {
    signer(services).await?;
    let log = services.store.read(checkpoints::known_logs)?.pop();
    if log.is_some_and(|log| size < log.first_size) {
        return Err(key_changed());
    }
    Ok(())
}

pub(super) fn key_changed() -> Error {
    Error::Conflict("The trail's key was changed meanwhile; run it again".to_owned())
}

/// Returns a checkpoint that covers the entry at `sequence`: the newest if it does, so that many receipts share
/// one signature, otherwise a new one.
///
/// # Errors
/// [`Error::Internal`] when it can't be stored.
pub(super) async fn checkpoint_over(services: &Services, sequence: u64) -> Result<Signed> {
    let newest = services.store.read(checkpoints::find_newest_checkpoint)?;
    let key = signer(services).await?.log_key();
    match newest {
        // If the key was changed since, the new one signs anew.
        Some((size, _, note)) if size > sequence && LogKeys::new(vec![key]).open(&note).is_ok() => {
            Ok(Signed { size, note })
        }
        _ => checkpoint(services).await,
    }
}

/// Returns the keys under which this appliance's log has signed, the current one last.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub async fn log_keys(services: &Services) -> Result<LogKeys> {
    signer(services).await?;
    services.store.read(checkpoints::known_keys)
}

/// Returns the signer of the current log. Begins a log if there is none or the key was changed.
pub(super) async fn signer(services: &Services) -> Result<LogSigner> {
    for _ in 1..SIGNER_TRIES {
        match signer_as_read(services).await {
            Err(Error::Conflict(_)) => {} // the key was changed twice between the two readings
            ended => return ended,
        }
    }
    signer_as_read(services).await
}

async fn signer_as_read(services: &Services) -> Result<LogSigner> {
    // Read before the key ring, so that the ring has the key named here even if it is being changed meanwhile.
    let in_use = services
        .store
        .read(checkpoints::known_logs)?
        .pop()
        .map(|log| log.key);
    let origin = in_use
        .as_ref()
        .map_or_else(|| first_origin(services), |key| key.origin().to_owned());
    let signer = signer_of(&services.keys, &origin, in_use.as_ref());
    let key = signer.log_key();
    if in_use.as_ref() != Some(&key) {
        begin_log(services, key, in_use).await?;
    }
    Ok(signer)
}

/// Returns the name of the first log, before it has begun.
pub(super) fn first_origin(services: &Services) -> String {
    let public = public_half(&services.keys.audit_signing_key());
    origin_of(&services.settings.public_url, &public)
}

/// Returns a signer for `origin` with the key in use: the next key, if a key change lacks its last step.
pub(in crate::service) fn signer_of(keys: &KeyRing, origin: &str, in_use: Option<&LogKey>) -> LogSigner {
    let next = keys.next_audit_key().map(|seed| LogSigner::new(origin, &seed));
    next.filter(|next| in_use == Some(&next.log_key()))
        .unwrap_or_else(|| LogSigner::new(origin, &keys.audit_signing_key()))
}

async fn begin_log(services: &Services, key: LogKey, before: Option<LogKey>) -> Result<()> {
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            // Another task may have been faster.
            let in_use = checkpoints::known_logs(tx)?.pop().map(|log| log.key);
            if in_use.as_ref() == Some(&key) {
                return Ok(());
            }
            if in_use != before {
                return Err(key_changed());
            }
            if let Some(before) = &before {
                // The old key is not available to vouch for the new one.
                let change = KeyChange::found(before.clone(), key.clone());
                audit::append_entry(tx, at, entry_id, &change.event(ActorRef::system()))?;
            }
            checkpoints::begin_log(tx, &key, audit::size(tx)?, at)
        })
        .await
}

/// Begins `signer`'s log and signs its first checkpoint, in the transaction of the entry that gives the reason, so
/// that no log is abandoned without a successor that records it. Pass the result to [`keep_beside`] afterwards.
pub(super) fn begin(
    tx: &Transaction<'_>,
    signer: &LogSigner,
    first_size: u64,
    witness_url: Option<&str>,
    at: Timestamp,
) -> Result<Signed> {
    checkpoints::begin_log(tx, &signer.log_key(), first_size, at)?;
    let size = audit::size(tx)?;
    let note = signer.checkpoint(size, audit::root(tx, size)?);
    let signed = Signed { size, note };
    insert(tx, &signer.log_key(), &signed, witness_url, at)?;
    Ok(signed)
}

/// Stores a checkpoint, in the files first, so that after any crash a checkpoint in the database is also beside
/// it. The entries that it covers are already committed.
async fn keep(services: &Services, signed: &Signed, key: &LogKey) -> Result<()> {
    let at = services.clock.now();
    keep_beside(services, signed, key.origin(), at).await?;
    let (signed, key) = (signed.clone(), key.clone());
    let url = services.settings.trail.witness_url.clone();
    services
        .store
        .write(move |tx| insert(tx, &key, &signed, url.as_deref(), at))
        .await
}

/// Inserts a checkpoint, and a webhook call to the witness. Only the newest call is owed, since its checkpoint
/// covers all earlier ones.
pub(super) fn insert(
    tx: &Transaction<'_>,
    key: &LogKey,
    signed: &Signed,
    witness_url: Option<&str>,
    at: Timestamp,
) -> Result<()> {
    checkpoints::insert_checkpoint(tx, key, signed.size, &signed.note, at)?;
    let Some(url) = witness_url else {
        return Ok(());
    };
    let data = json!({ "size": signed.size, "checkpoint": signed.note });
    let call = deliveries::webhook(None, url, CHECKPOINT_CALL, at, data);
    owed::replace_owed_call(tx, &call, CHECKPOINT_CALL, signed.size.saturating_sub(1), at)
}

/// Stores a checkpoint beside the database and copies it to the witness directory. Failures are logged, and block
/// nothing.
pub(super) async fn keep_beside(
    services: &Services,
    signed: &Signed,
    origin: &str,
    at: Timestamp,
) -> Result<()> {
    let directory = directory(services);
    let kept = signed.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = keep_file(&directory, &kept, at) {
            tracing::error!(%error, directory = %directory.display(), "could not store the checkpoint beside the database");
        }
    })
    .await
    .map_err(|e| Error::Internal(format!("keeping a checkpoint ended early: {e}")))?;
    if let Some(witness) = &services.settings.trail.witness_dir {
        let testimony = Testimony {
            witness: witness.clone(),
            origin: origin.to_owned(),
            signed: signed.clone(),
            drawn: hex::encode(services.entropy.bytes::<4>()),
        };
        services.witness.give(testimony).await;
    }
    Ok(())
}

fn keep_file(directory: &Path, signed: &Signed, at: Timestamp) -> io::Result<()> {
    durable::create_private_directory(directory)?;
    let latest = directory.join(LATEST);
    let there = fs::read_to_string(&latest);
    if there.as_ref().is_ok_and(|note| *note == signed.note) {
        // Stored earlier, when the database write failed.
        return Ok(());
    }
    let added = append_history(&directory.join(HISTORY), signed, at)?;
    // Tasks that sign concurrently finish in any order.
    let ahead = there
        .ok()
        .and_then(|note| unchecked(&note))
        .zip(unchecked(&signed.note))
        .is_some_and(|(kept, new)| kept.origin == new.origin && kept.size > new.size);
    if !ahead {
        durable::replace(&latest, &[signed.note.as_bytes()])?;
    }
    thin_history(&directory.join(HISTORY), added, at)
}

/// Appends a line, unless it is already the last one because a later step failed. Returns the number of bytes
/// added.
fn append_history(path: &Path, signed: &Signed, at: Timestamp) -> io::Result<u64> {
    let mut history = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)?;
    let last = last_line(&mut history)?;
    let is_there =
        serde_json::from_str(&last).is_ok_and(|line: serde_json::Value| line["note"] == signed.note.as_str());
    let line = serde_json::json!({ "at": at, "size": signed.size, "note": signed.note });
    // A line that a full disk cut short must not swallow this one.
    let begin = if last.is_empty() || last.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let line = format!("{begin}{line}\n");
    if !is_there {
        history.write_all(line.as_bytes())?;
        history.sync_data()?;
    }
    Ok(if is_there { 0 } else { line.len() as u64 })
}

/// Reads the last line of a file, with its line end if it has one; empty for an empty file.
fn last_line(file: &mut File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_LINE)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    Ok(text
        .split_inclusive('\n')
        .next_back()
        .unwrap_or_default()
        .to_owned())
}

/// Returns the directory of the checkpoints beside the database.
pub(super) fn directory(services: &Services) -> PathBuf {
    services.store.path().with_file_name(CHECKPOINT_DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(size: u64) -> Signed {
        let note = LogSigner::new("h/audit-log", &[7; 32]).checkpoint(size, [0; 32]);
        Signed { size, note }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_cannot_be_finished_leaves_no_file_behind_and_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("checkpoints");
        // `latest` is a directory, so that renaming a file over it fails.
        fs::create_dir_all(directory.join(LATEST)).unwrap();
        for _ in 0..3 {
            keep_file(&directory, &signed(3), Timestamp::UNIX_EPOCH).unwrap_err();
        }
        assert_eq!(names(&directory), [HISTORY, LATEST]);
        let lines = || fs::read(directory.join(HISTORY)).unwrap();
        assert_eq!(
            lines().split(|byte| *byte == b'\n').count(),
            2,
            "a line and its end"
        );
        fs::remove_dir(directory.join(LATEST)).unwrap();
        keep_file(&directory, &signed(3), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            fs::read_to_string(directory.join(LATEST)).unwrap(),
            signed(3).note
        );
        assert_eq!(lines().split(|byte| *byte == b'\n').count(), 2);
    }

    #[test]
    fn a_line_that_was_cut_swallows_none_that_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HISTORY);
        let cut = b"{\"at\":\"2026-01-01T00:00:00Z\",\"note\":\"h/audit-log\n\xe2\x80".as_slice();
        fs::write(&path, cut).unwrap();
        append_history(&path, &signed(3), Timestamp::UNIX_EPOCH).unwrap();
        append_history(&path, &signed(4), Timestamp::UNIX_EPOCH).unwrap();
        let text = fs::read(&path).unwrap();
        assert!(text.starts_with(cut));
        let notes: Vec<_> = text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
            .map(|line| line["note"].clone())
            .collect();
        assert_eq!(notes, [signed(3).note, signed(4).note]);
    }
}
