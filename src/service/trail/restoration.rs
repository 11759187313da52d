//! Restoring a backup: ends all sessions, records the restore, and continues the trail under a new name and with a
//! new key.

use std::path::Path;

use jiff::Timestamp;

use super::checkpoints::{self, Signed};
use super::key_change::{begin_key_change, promote_key, stage_key};
use super::memory::{memories_at, memories_beside};
use super::rollback::{give_up, unreadable};
use super::witness::{self, Testimony};
use crate::domain::Result;
use crate::domain::audit::checkpoint::unchecked;
use crate::domain::audit::{ActorRef, Event, EventType};
use crate::entropy::Entropy;
use crate::service::Services;
use crate::service::backup::Restored;
use crate::store::audit;
use crate::store::backup;

/// Ends all sessions, pending logins and enrolments, appends the entry of the restore, and begins a new log after
/// the one in the backup, with a key that is in no backup. `made_at` is the backup's time. The `witness` directory
/// is only read; call [`give_to_witness`] once the restored directory is in its place.
///
/// # Errors
/// [`crate::domain::Error`], with nothing changed.
pub async fn begin_after_restore(
    services: &Services,
    made_at: Timestamp,
    replaced: Option<&Path>,
    witness: Option<&Path>,
) -> Result<Restored> {
    let mut revived = services
        .store
        .read(|db| audit::find_revived(db, replaced).map_err(unreadable))?;
    let keys = services.store.read(backup::find_live_api_keys)?;
    revived.extend(keys);
    let mut elsewhere = replaced.map(memories_beside).unwrap_or_default();
    let at_witness = witness.and_then(|witness| services.witness.read(witness, |at| memories_at(at, None)));
    elsewhere.extend(at_witness.flatten().unwrap_or_default());
    let given_up = give_up(services, elsewhere)?;
    let changing = begin_key_change(services)?;
    let signer = given_up.signer(&stage_key(services, &changing)?);
    let key = signer.log_key();
    let url = services.settings.trail.witness_url.clone();
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let count = |kind: &str| revived.iter().filter(|one| one.kind == kind).count();
    let sessions = count("session");
    let event = Event::new(EventType::BackupRestore, None, ActorRef::operator())
        .with("backupOf", made_at.to_string())
        .with("revived", revived.len())
        .with("revivedSessions", sessions)
        .with("revivedApiKeys", count("API key"))
        .with("exact", replaced.is_some());
    let (sessions_ended, begun) = services
        .store
        .write(move |tx| {
            let ended = audit::clear_every_session(tx, at)?;
            let size = audit::size(tx)?;
            let event = event.clone().with("sessionsEnded", ended);
            let event = given_up.logs(&signer, size).record(event);
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok((ended, checkpoints::begin(tx, &signer, size, url.as_deref(), at)?))
        })
        .await?;
    promote_key(services, changing);
    checkpoints::keep_beside(services, &begun, key.origin(), at).await?;
    Ok(Restored {
        sessions_ended,
        revived,
        exact: replaced.is_some(),
        key: key.to_string(),
        checkpoint: begun.note,
    })
}

/// Copies the first checkpoint of the restored trail to the witness directory, and waits for that for at most 5
/// seconds. A failure is only logged, since the next checkpoint goes there too.
///
/// # Panics
/// Never: the checkpoint was signed by this appliance.
pub fn give_to_witness(restored: &Restored, witness: &Path, entropy: &Entropy) {
    let told = unchecked(&restored.checkpoint).expect("we have signed it");
    let testimony = Testimony {
        witness: witness.to_owned(),
        origin: told.origin,
        signed: Signed {
            size: told.size,
            note: restored.checkpoint.clone(),
        },
        drawn: hex::encode(entropy.bytes::<4>()),
    };
    let given = witness::in_time(witness, "it will get the next checkpoint", move |_| {
        witness::keep(&testimony)
    });
    if let Some(Err(error)) = given {
        tracing::error!(%error, directory = %witness.display(), "could not copy the checkpoint to the witness directory");
    }
}
