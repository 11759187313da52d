//! Rotation of the trail's signing key: a new key is made, vouched for by the old one, and put in its place.

use serde::Serialize;

use super::checkpoints::{self, Signed, key_changed, signer};
use crate::domain::audit::{ActorRef, Content, KeyChange, LogKeys, LogSigner, Record};
use crate::domain::{Error, Result};
use crate::keys::{Changing, KeyError, KeyRing};
use crate::service::Services;
use crate::store::Connection;
use crate::store::audit::{self, checkpoints as kept};

/// The result of a key rotation.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyChanged {
    /// The old key.
    pub from: String,
    /// The new key, to be given to readers who verify against a key.
    pub to: String,
    /// Sequence of the entry in which the old key vouches for the new one.
    pub sequence: u64,
    /// The old key's last checkpoint, which covers that entry.
    pub last_word: String,
    /// The new key's first checkpoint, over the same entries.
    pub checkpoint: String,
}

/// Makes a new key sign the trail under the same name. The old key vouches for it by a statement in an entry, and
/// by a last checkpoint that covers the entry.
///
/// The steps, and the state after a crash following each: (1) the new key is stored beside the old one (the old
/// one signs, the new one is never used); (2) the database has the entry, both checkpoints and the new log, in one
/// transaction (the new key signs, and [`finish_key_change`] completes the change at the next start); (3) the new
/// key's file is in its place (only the files beside the database lack the newest checkpoint, as after any crash).
///
/// # Errors
/// [`Error::Conflict`] while another change is in progress; [`Error::Internal`] when a file or the database can't
/// be written: then the old key continues to sign.
pub async fn rotate_key(services: &Services, actor: ActorRef) -> Result<KeyChanged> {
    let changing = begin_key_change(services)?;
    let old = signer(services).await?;
    let seed = stage_key(services, &changing)?;
    let new = LogSigner::new(old.origin(), &seed);
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let url = services.settings.trail.witness_url.clone();
    let (from, to) = (old.log_key(), new.log_key());
    let [last_word, first] = services
        .store
        .write(move |tx| {
            if kept::known_logs(tx)?.last().map(|log| &log.key) != Some(&old.log_key()) {
                return Err(key_changed());
            }
            let place = audit::size(tx)?;
            let event = KeyChange::by(&old, new.log_key(), place).event(actor.clone());
            audit::append_entry(tx, at, entry_id, &event)?;
            let size = place + 1;
            let root = audit::root(tx, size)?;
            let by = |signer: &LogSigner| Signed {
                size,
                note: signer.checkpoint(size, root),
            };
            let (last_word, first) = (by(&old), by(&new));
            checkpoints::insert(tx, &old.log_key(), &last_word, None, at)?;
            kept::begin_log(tx, &new.log_key(), size, at)?;
            checkpoints::insert(tx, &new.log_key(), &first, url.as_deref(), at)?;
            Ok([last_word, first])
        })
        .await?;
    promote_key(services, changing);
    for signed in [&last_word, &first] {
        checkpoints::keep_beside(services, signed, from.origin(), at).await?;
    }
    Ok(KeyChanged {
        from: from.to_string(),
        to: to.to_string(),
        sequence: first.size - 1,
        last_word: last_word.note,
        checkpoint: first.note,
    })
}

/// Begins a key change, after completing one that a crash interrupted.
///
/// # Errors
/// [`Error::Conflict`] while another change is in progress; [`Error::Internal`] as for [`finish_key_change`].
pub(super) fn begin_key_change(services: &Services) -> Result<Changing<'_>> {
    let Some(changing) = services.keys.begin_audit_change() else {
        return Err(key_changed());
    };
    finish_key_change(services)?;
    Ok(changing)
}

/// Generates a new key, stores it beside the current one, and returns its seed. It is not used before the database
/// names it.
///
/// # Errors
/// [`Error::Internal`] when its file can't be written.
pub(super) fn stage_key(services: &Services, changing: &Changing<'_>) -> Result<[u8; 32]> {
    let staged = services.keys.stage_audit_key(changing, &services.entropy);
    staged.map_err(|error| internal(&error))
}

/// Replaces the old key with the new one, which the database names by now, and ends the change.
pub(super) fn promote_key(services: &Services, changing: Changing<'_>) {
    if let Err(error) = services.keys.promote_audit_key() {
        // The new key is on disk beside the old one, and signs from there.
        tracing::warn!(%error, "could not replace the file of the trail's old key by the new one; trying again at the next start");
    }
    drop(changing);
}

/// Completes a key change that a crash interrupted: moves the key that the database names into its place.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read or a file can't be written.
pub fn finish_key_change(services: &Services) -> Result<()> {
    let Some(next) = services.keys.next_audit_key() else {
        return Ok(());
    };
    let in_use = services.store.read(kept::known_logs)?.pop().map(|log| log.key);
    let is_next = in_use.is_some_and(|key| LogSigner::new(key.origin(), &next).log_key() == key);
    if is_next {
        let promoted = services.keys.promote_audit_key();
        return promoted.map_err(|error| internal(&error));
    }
    // The staged key was never used; the next change replaces it.
    Ok(())
}

/// Returns the keys of the trail that are in `keys`, and those that one of them vouches for in an entry: each for one
/// other, and for none after that. The entries are not verified, only the statements in them.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read.
pub fn find_vouched_keys(db: &Connection, keys: &KeyRing) -> Result<LogKeys> {
    let logs = kept::known_logs(db)?.into_iter().map(|log| log.key);
    let ours = logs.filter(|key| keys.audit_key_age(key).is_some());
    let (mut vouched, mut retired) = (LogKeys::new(ours.collect()), LogKeys::default());
    for sequence in audit::find_key_changes(db)? {
        let record = audit::find_record(db, sequence)?;
        let Some(change) = record.as_ref().and_then(change_in) else {
            continue;
        };
        let counts = vouched.contains(&change.from) && !retired.contains(&change.from);
        if counts && change.is_vouched_for(sequence) == Some(Ok(())) {
            retired.add(change.from);
            vouched.add(change.to);
        }
    }
    Ok(vouched)
}

fn change_in(record: &Record) -> Option<KeyChange> {
    let Content::Whole(body) = &record.content else {
        return None;
    };
    let details = body.subject.data()?.details.as_deref()?;
    KeyChange::read(&serde_json::from_str(details).ok()?)
}

fn internal(error: &KeyError) -> Error {
    Error::Internal(error.to_string())
}
