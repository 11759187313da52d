//! An older database put in place of a newer one is noticed at the start, and accepted only on purpose.

use std::fs;
use std::path::{Path, PathBuf};

use super::Services;
use super::checkpoints::{self, LATEST, directory};
use crate::domain::audit::checkpoint::{origin_of, unchecked};
use crate::domain::audit::{ActorRef, Checkpoint, Event, EventType, LogSigner};
use crate::domain::{Error, Result};
use crate::store::audit::{self, Revived, VerifyError, checkpoints as kept};

/// Why the appliance does not start; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RolledBack {
    /// There were more entries once.
    #[error(
        "the database is older than it was: {file} was signed over {signed} entries, the database has {found}. \
         Whatever was reset, revoked or removed in the missing {} entries is undone in it. Put the newer database \
         back, or, if you restored a backup on purpose: latchkey audit accept-rollback", .signed - .found
    )]
    Older {
        /// The checkpoint's file.
        file: PathBuf,
        /// Entries when it was signed.
        signed: u64,
        /// Entries now.
        found: u64,
    },
    /// The same entries were others once.
    #[error(
        "the database is not the one that was signed: {file} was signed over {signed} entries, and the first \
         {signed} of the database are others. Find out where with latchkey audit verify, put the right database \
         back, or give its trail up on purpose: latchkey audit accept-rollback"
    )]
    Other {
        /// The checkpoint's file.
        file: PathBuf,
        /// Entries when it was signed.
        signed: u64,
    },
    /// The memory itself can't be relied on.
    #[error(
        "{file} does not count ({problem}): it was changed, or it belongs to another installation. Restore it, or \
         start anew from the database as it is: latchkey audit accept-rollback"
    )]
    Unreadable {
        /// The checkpoint's file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing could be compared.
    #[error("the trail can't be compared with its checkpoint: {0}")]
    Trail(String),
}

/// What accepting an older database did.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Entries that the database has.
    pub found: u64,
    /// Entries that were signed.
    pub signed: u64,
    /// Sessions that were ended.
    pub sessions_ended: usize,
    /// Sessions and factors that were back. The sessions are ended; the factors are not.
    pub revived: Vec<Revived>,
    /// The key that checkpoints are signed under from here on: readers have to be given it.
    pub key: String,
}

/// Compares the database with the newest checkpoint beside it, and with the witness directory's.
///
/// # Errors
/// [`RolledBack`].
pub fn check_rollback(services: &Services) -> Result<(), RolledBack> {
    for file in memories(services) {
        let Ok(note) = fs::read_to_string(&file) else {
            // A first start, or a database moved alone.
            continue;
        };
        compare(services, &file, &note)?;
    }
    Ok(())
}

/// Accepts the database as it is: ends every session, login and enrolment under way, records it, and
/// goes on under a new name, since a log never signs two histories (C2SP tlog-checkpoint).
/// `replaced` is the newer database, if it is still there, to tell exactly what is back.
///
/// # Errors
/// [`Error::Refused`] when there is nothing to accept; [`Error::Internal`] when it could not be recorded.
pub async fn accept_rollback(services: &Services, replaced: Option<&Path>) -> Result<Accepted> {
    let Err(rolled_back) = check_rollback(services) else {
        return Err(Error::Refused(
            "The database is the one that was signed last; there is nothing to accept",
        ));
    };
    let newest = memories(services)
        .into_iter()
        .filter_map(|file| unchecked(&fs::read_to_string(file).ok()?))
        .max_by_key(|checkpoint| checkpoint.size);
    let signed = newest.as_ref().map_or(0, |checkpoint| checkpoint.size);
    let (revived, logs) = services.store.read(|db| {
        let revived = audit::find_revived(db, replaced).map_err(unreadable)?;
        Ok((revived, kept::known_logs(db)?))
    })?;
    let abandoned = logs
        .last()
        .map(|log| log.key.origin().to_owned())
        .or(newest.map(|checkpoint| checkpoint.origin))
        .unwrap_or_else(|| origin_of(&services.settings.public_url));
    let signer = LogSigner::new(&successor(&abandoned), &services.keys.audit_signing_key());
    let key = signer.log_key();
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let event = Event::new(EventType::AuditRollbackAccept, None, ActorRef::operator())
        .with("why", rolled_back.to_string())
        .with("checkpointSize", signed)
        .with("abandonedOrigin", abandoned)
        .with("revived", revived.len())
        .with("newKey", key.to_string());
    let begun = key.clone();
    let (found, sessions_ended) = services
        .store
        .write(move |tx| {
            let found = audit::size(tx)?;
            let ended = audit::clear_every_session(tx)?;
            let event = event
                .clone()
                .with("databaseSize", found)
                .with("sessionsEnded", ended);
            audit::append_entry(tx, at, entry_id, &event)?;
            kept::begin_log(tx, &begun, found, at)?;
            Ok((found, ended))
        })
        .await?;
    checkpoints::checkpoint(services).await?;
    Ok(Accepted {
        found,
        signed,
        sessions_ended,
        revived,
        key: key.to_string(),
    })
}

fn compare(services: &Services, file: &Path, note: &str) -> Result<(), RolledBack> {
    let trail = |error: Error| RolledBack::Trail(format!("{error:?}"));
    let logs = services.store.read(kept::known_logs).map_err(trail)?;
    let told = unchecked(note);
    // A log that was given up no longer counts.
    let given_up = |checkpoint: &Checkpoint| {
        logs.split_last().is_some_and(|(current, former)| {
            checkpoint.origin != current.key.origin()
                && former.iter().any(|log| log.key.origin() == checkpoint.origin)
        })
    };
    if told.as_ref().is_some_and(given_up) {
        return Ok(());
    }
    // An older database may not know the log yet; whose key it is, is not told by the database anyway.
    let seed = services.keys.audit_signing_key();
    let mut keys = services.store.read(kept::known_keys).map_err(trail)?;
    if let Some(told) = &told
        && signed_note_name(&told.origin)
    {
        keys.add(LogSigner::new(&told.origin, &seed).log_key());
    }
    let checkpoint = keys.open(note).map_err(|error| RolledBack::Unreadable {
        file: file.to_owned(),
        problem: error.to_string(),
    })?;
    let signed = checkpoint.size;
    let (found, root) = services
        .store
        .read(|db| {
            let found = audit::size(db)?;
            let root = if found < signed {
                None
            } else {
                Some(audit::root(db, signed)?)
            };
            Ok((found, root))
        })
        .map_err(trail)?;
    match root {
        None => Err(RolledBack::Older {
            file: file.to_owned(),
            signed,
            found,
        }),
        Some(root) if root != checkpoint.root => Err(RolledBack::Other {
            file: file.to_owned(),
            signed,
        }),
        Some(_) => Ok(()),
    }
}

/// Where the newest checkpoint is remembered.
fn memories(services: &Services) -> Vec<PathBuf> {
    let mut files = vec![directory(services).join(LATEST)];
    if let Some(witness) = &services.settings.trail.witness_dir {
        let logs = services.store.read(kept::known_logs).unwrap_or_default();
        let origin = logs.last().map_or_else(
            || origin_of(&services.settings.public_url),
            |log| log.key.origin().to_owned(),
        );
        let newest = fs::read_dir(checkpoints::witness_directory(witness, &origin))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_none())
            .max();
        files.extend(newest);
    }
    files
}

/// `host/audit-log` → `host/audit-log/2` → `host/audit-log/3`.
pub(super) fn successor(origin: &str) -> String {
    match origin.rsplit_once('/') {
        Some((base, number)) if number.parse::<u32>().is_ok() => {
            format!(
                "{base}/{}",
                number.parse::<u32>().map_or(2, |number| number.saturating_add(1))
            )
        }
        _ => format!("{origin}/2"),
    }
}

/// Whether a name can be a key's (C2SP signed-note).
fn signed_note_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('+') && !name.chars().any(char::is_whitespace)
}

pub(super) fn unreadable(error: VerifyError) -> Error {
    Error::Conflict(error.to_string())
}
