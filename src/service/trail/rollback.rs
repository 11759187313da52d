//! Rollback detection: an older database in place of a newer one is detected at start-up and accepted only on
//! request.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Services;
use super::checkpoints::{self, LATEST, directory};
use super::key_change::{begin_key_change, promote_key, stage_key};
use super::memory::{Known, Memory, memories, successor};
use crate::domain::audit::{ActorRef, Checkpoint, Event, EventType, LogSigner, LogsGivenUp};
use crate::domain::{Error, Result};
use crate::store::audit::{self, Revived, VerifyError};

/// Why the appliance does not start; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RolledBack {
    /// The database has fewer entries than were signed.
    #[error(
        "the database is older than its last checkpoint: {file} covers {signed} entries, the database has {found}. \
         All resets, revocations and removals in the missing {} entries are undone in it. Put the newer database \
         back or, if you restored a backup on purpose, run: latchkey audit accept-rollback", .signed - .found
    )]
    Older {
        /// The checkpoint's file.
        file: PathBuf,
        /// Number of entries when it was signed.
        signed: u64,
        /// Number of entries now.
        found: u64,
    },
    /// The signed entries differ from those in the database.
    #[error(
        "the database is not the one that was signed: {file} covers {signed} entries, and the first {signed} of the \
         database differ. If that file belongs to another node, give this node a witness directory of its own. \
         Otherwise find the difference with latchkey audit verify and put the right database back, or abandon its \
         trail on purpose: latchkey audit accept-rollback"
    )]
    Other {
        /// The checkpoint's file.
        file: PathBuf,
        /// Number of entries when it was signed.
        signed: u64,
    },
    /// The checkpoint outside the database is invalid.
    #[error(
        "{file} is not valid ({problem}): it was changed, or it belongs to another installation. If another node \
         uses the same witness directory, give this node a witness directory of its own. Otherwise restore the file, \
         or start anew from the database as it is: latchkey audit accept-rollback"
    )]
    Unreadable {
        /// The checkpoint's file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint to compare with is missing.
    #[error(
        "{file} is missing: the database was signed, but without its last checkpoint it can't be shown to be the \
         newest. Put the file back (from the witness or a copy of the directory), or start anew from the database as \
         it is: latchkey audit accept-rollback"
    )]
    Forgotten {
        /// The checkpoint's file.
        file: PathBuf,
    },
    /// The trail could not be read.
    #[error("the trail can't be compared with its checkpoint: {0}")]
    Trail(String),
}

/// The result of accepting an older database.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Number of entries in the database.
    pub found: u64,
    /// Number of entries that were signed.
    pub signed: u64,
    /// Number of sessions ended.
    pub sessions_ended: usize,
    /// Sessions and factors that had reappeared. The sessions were ended, the factors were not.
    pub revived: Vec<Revived>,
    /// The key that signs checkpoints from here on, to be given to readers.
    pub key: String,
}

/// Compares the database with the newest checkpoints beside it and at the witness.
///
/// # Errors
/// [`RolledBack`].
pub fn check_rollback(services: &Services) -> Result<(), RolledBack> {
    let known = Known::read(services).map_err(trail)?;
    let found = memories(services, &known);
    for memory in &found {
        compare(services, &known, memory)?;
    }
    let latest = directory(services).join(LATEST);
    if known.was_signed && !found.iter().any(|memory| memory.file == latest) {
        return Err(RolledBack::Forgotten { file: latest });
    }
    Ok(())
}

/// Accepts the database as it is: ends all sessions, pending logins and enrolments, records it, and continues
/// under a new name, since a log must never sign two histories (C2SP tlog-checkpoint), and with a new key, put in
/// place as by [`rotate_key`](super::rotate_key). `replaced` is the newer database, if it still exists, to find
/// exactly what has reappeared.
///
/// # Errors
/// [`Error::Refused`] when there is nothing to accept; [`Error::Internal`] when it could not be recorded.
pub async fn accept_rollback(services: &Services, replaced: Option<&Path>) -> Result<Accepted> {
    let Err(rolled_back) = check_rollback(services) else {
        return Err(Error::Refused(
            "The database is the one that was signed last; there is nothing to accept",
        ));
    };
    let revived = services
        .store
        .read(|db| audit::find_revived(db, replaced).map_err(unreadable))?;
    let given_up = give_up(services, Vec::new())?;
    let changing = begin_key_change(services)?;
    let signer = given_up.signer(&stage_key(services, &changing)?);
    let (key, signed) = (signer.log_key(), given_up.signed);
    let url = services.settings.trail.witness_url.clone();
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let event = Event::new(EventType::AuditRollbackAccept, None, ActorRef::operator())
        .with("why", rolled_back.to_string())
        .with("checkpointSize", signed)
        .with("revived", revived.len());
    let (found, sessions_ended, begun) = services
        .store
        .write(move |tx| {
            let found = audit::size(tx)?;
            let ended = audit::clear_every_session(tx, at)?;
            let event = event
                .clone()
                .with("databaseSize", found)
                .with("sessionsEnded", ended);
            let event = given_up.logs(&signer, found).record(event);
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok((
                found,
                ended,
                checkpoints::begin(tx, &signer, found, url.as_deref(), at)?,
            ))
        })
        .await?;
    promote_key(services, changing);
    checkpoints::keep_beside(services, &begun, key.origin(), at).await?;
    Ok(Accepted {
        found,
        signed,
        sessions_ended,
        revived,
        key: key.to_string(),
    })
}

/// The logs whose checkpoints no longer count once the database is accepted as it is.
pub(super) struct GivenUp {
    /// Names of the logs: first the newest whose checkpoints do not match the database, then the others, including
    /// the current log.
    origins: Vec<String>,
    /// Number of entries that were signed.
    signed: u64,
    /// Name of the log that follows.
    successor: String,
}

/// Finds the logs whose checkpoints, here or in `elsewhere`, do not match the database.
pub(super) fn give_up(services: &Services, elsewhere: Vec<Memory>) -> Result<GivenUp> {
    let known = Known::read(services)?;
    let mut found = memories(services, &known);
    found.extend(elsewhere.into_iter().map(|memory| known.bind(services, memory)));
    let current = known.origin(services);
    let mut seen: Vec<String> = known.logs.iter().map(|log| log.key.origin().to_owned()).collect();
    seen.extend(found.iter().filter_map(Memory::origin).map(str::to_owned));
    let mut unfit: Vec<(u64, String)> = found
        .iter()
        .filter(|memory| compare(services, &known, memory).is_err())
        .filter_map(|memory| Some((memory.told.as_ref()?.size, memory.origin()?.to_owned())))
        .collect();
    unfit.sort_unstable();
    let signed = unfit.last().map_or(0, |(size, _)| *size);
    let mut names: Vec<String> = unfit.into_iter().rev().map(|(_, origin)| origin).collect();
    names.push(current.clone());
    names[1..].sort();
    let mut told = HashSet::new();
    names.retain(|name| told.insert(name.clone()));
    Ok(GivenUp {
        origins: names,
        signed,
        successor: successor(&current, &seen, services.entropy.bytes()),
    })
}

impl GivenUp {
    /// Returns the signer of the log that follows, with the key of `seed`. The key must be a new one, since the
    /// previous one may be known to somebody who rolled the database back or had the backup.
    pub(super) fn signer(&self, seed: &[u8; 32]) -> LogSigner {
        LogSigner::new(&self.successor, seed)
    }

    /// Returns the names of the logs and the statement of the log that follows, for the entry at `place`.
    pub(super) fn logs(&self, signer: &LogSigner, place: u64) -> LogsGivenUp {
        LogsGivenUp::by(signer, self.origins.clone(), place)
    }
}

fn compare(services: &Services, known: &Known, memory: &Memory) -> Result<(), RolledBack> {
    let file = memory.file.clone();
    let gave_up = |checkpoint: &Checkpoint| known.gave_up(services, checkpoint);
    let checkpoint = match memory.open(services, known) {
        Ok(Some(checkpoint)) if !gave_up(&checkpoint) => checkpoint,
        Ok(_) => return Ok(()),
        // The log was abandoned, so none of its checkpoints counts any more, not even an invalid one.
        Err(_) if memory.told.as_ref().is_some_and(gave_up) => return Ok(()),
        Err(error) => {
            return Err(RolledBack::Unreadable {
                file,
                problem: error.to_string(),
            });
        }
    };
    let (signed, found) = (checkpoint.size, known.size);
    if found < signed {
        return Err(RolledBack::Older { file, signed, found });
    }
    let root = services.store.read(|db| audit::root(db, signed)).map_err(trail)?;
    if root == checkpoint.root {
        Ok(())
    } else {
        Err(RolledBack::Other { file, signed })
    }
}

fn trail(error: Error) -> RolledBack {
    RolledBack::Trail(error.for_operator())
}

pub(super) fn unreadable(error: VerifyError) -> Error {
    Error::Conflict(error.to_string())
}
