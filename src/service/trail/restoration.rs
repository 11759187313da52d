//! After a backup was restored: the entry, the end of every session, the trail's new name.

use std::path::Path;

use jiff::Timestamp;

use super::checkpoints;
use super::rollback::{successor, unreadable};
use crate::domain::Result;
use crate::domain::audit::checkpoint::origin_of;
use crate::domain::audit::{ActorRef, Event, EventType, LogSigner};
use crate::service::Services;
use crate::service::backup::Restored;
use crate::store::audit::{self, checkpoints as kept};
use crate::store::backup;

/// Ends every session, login and enrolment under way, appends the entry of the restore, and begins the log
/// that follows the one in the backup. `made_at` is the backup's time.
///
/// # Errors
/// [`crate::domain::Error`], with nothing changed.
pub async fn begin_after_restore(
    services: &Services,
    made_at: Timestamp,
    replaced: Option<&Path>,
) -> Result<Restored> {
    let (mut revived, logs) = services.store.read(|db| {
        let revived = audit::find_revived(db, replaced).map_err(unreadable)?;
        Ok((revived, kept::known_logs(db)?))
    })?;
    let keys = services.store.read(backup::find_live_api_keys)?;
    revived.extend(keys);
    let abandoned = logs.last().map_or_else(
        || origin_of(&services.settings.public_url),
        |log| log.key.origin().to_owned(),
    );
    let signer = LogSigner::new(&successor(&abandoned), &services.keys.audit_signing_key());
    let key = signer.log_key();
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let count = |kind: &str| revived.iter().filter(|one| one.kind == kind).count();
    let sessions = count("session");
    let event = Event::new(EventType::BackupRestore, None, ActorRef::operator())
        .with("backupOf", made_at.to_string())
        .with("abandonedOrigin", abandoned)
        .with("revived", revived.len())
        .with("revivedSessions", sessions)
        .with("revivedApiKeys", count("API key"))
        .with("exact", replaced.is_some())
        .with("newKey", key.to_string());
    let begun = key.clone();
    let sessions_ended = services
        .store
        .write(move |tx| {
            let ended = audit::clear_every_session(tx)?;
            let event = event.clone().with("sessionsEnded", ended);
            let size = audit::size(tx)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            kept::begin_log(tx, &begun, size, at)?;
            Ok(ended)
        })
        .await?;
    checkpoints::checkpoint(services).await?;
    Ok(Restored {
        sessions_ended,
        revived,
        exact: replaced.is_some(),
        key: key.to_string(),
    })
}
