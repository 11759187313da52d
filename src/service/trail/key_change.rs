//! Another key signs the trail: made, vouched for by the one before, put in its place.

use serde::Serialize;

use super::checkpoints::{self, Signed, key_changed, signer};
use crate::domain::audit::{ActorRef, KeyChange, LogSigner};
use crate::domain::{Error, Result};
use crate::keys::{Changing, KeyError};
use crate::service::Services;
use crate::store::audit::{self, checkpoints as kept};

/// What a change of the key did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyChanged {
    /// The key before.
    pub from: String,
    /// The key from here on: readers who check against a key should be given it.
    pub to: String,
    /// The entry by which the one vouches for the other.
    pub sequence: u64,
    /// The last checkpoint by the key before, over that entry, too.
    pub last_word: String,
    /// The first one by the new key, over just as much.
    pub checkpoint: String,
}

/// Lets a new key sign the trail under the same name, and lets the old one vouch for it: by a statement in the entry,
/// and by a last checkpoint that is over the entry.
///
/// The steps, and what a crash after each of them leaves: the new key is beside the old one (the old one signs, the
/// new one is never used); the database has the entry, both checkpoints and the new log, in one transaction (the new
/// key signs, and [`finish_key_change`] does the rest at the next start); the new key's file is in its place (only
/// the files beside the database lack the newest checkpoint, as after any crash).
///
/// # Errors
/// [`Error::Conflict`] while another change is under way; [`Error::Internal`] when a file or the database can't be
/// written: then the old key signs on.
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

/// Begins a change of the key, once the one before is finished.
///
/// # Errors
/// [`Error::Conflict`] while another change is under way; [`Error::Internal`] as [`finish_key_change`].
pub(super) fn begin_key_change(services: &Services) -> Result<Changing<'_>> {
    let Some(changing) = services.keys.begin_audit_change() else {
        return Err(key_changed());
    };
    finish_key_change(services)?;
    Ok(changing)
}

/// A key that nobody has seen, beside the one in use until the database names it. Gives its seed.
///
/// # Errors
/// [`Error::Internal`] when its file can't be written.
pub(super) fn stage_key(services: &Services, changing: &Changing<'_>) -> Result<[u8; 32]> {
    let staged = services.keys.stage_audit_key(changing, &services.entropy);
    staged.map_err(|error| internal(&error))
}

/// Puts the key that the database names by now in the place of the one before, and ends the change.
pub(super) fn promote_key(services: &Services, changing: Changing<'_>) {
    if let Err(error) = services.keys.promote_audit_key(&services.entropy) {
        // It is on disk beside the old one, and signs from there.
        tracing::warn!(%error, "the trail's new key could not be put in the place of the old one, trying again at the next start");
    }
    drop(changing);
}

/// Puts the key that the database names in its place, where a crash had left it beside the one before.
///
/// # Errors
/// [`Error::Internal`] when the database can't be read or a file not be written.
pub fn finish_key_change(services: &Services) -> Result<()> {
    let Some(next) = services.keys.next_audit_key() else {
        return Ok(());
    };
    let in_use = services.store.read(kept::known_logs)?.pop().map(|log| log.key);
    let is_next = in_use.is_some_and(|key| LogSigner::new(key.origin(), &next).log_key() == key);
    if is_next {
        let promoted = services.keys.promote_audit_key(&services.entropy);
        return promoted.map_err(|error| internal(&error));
    }
    // It never came into use; it is replaced at the next change.
    Ok(())
}

fn internal(error: &KeyError) -> Error {
    Error::Internal(error.to_string())
}
