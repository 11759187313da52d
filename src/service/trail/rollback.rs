//! An older database put in place of a newer one is noticed at the start, and accepted only on purpose.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Services;
use super::checkpoints::{self, LATEST, directory};
use super::key_change::{begin_key_change, promote_key, stage_key};
use super::memory::{Known, Memory, memories, successor};
use crate::domain::audit::{ActorRef, Checkpoint, Event, EventType, LogSigner, LogsGivenUp};
use crate::domain::{Error, Result};
use crate::store::audit::{self, Revived, VerifyError};

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
         {signed} of the database are others. Where that file is another node's, give this node a witness directory of \
         its own. Else find out where with latchkey audit verify, put the right database back, or give its trail up \
         on purpose: latchkey audit accept-rollback"
    )]
    Other {
        /// The checkpoint's file.
        file: PathBuf,
        /// Entries when it was signed.
        signed: u64,
    },
    /// The memory itself can't be relied on.
    #[error(
        "{file} does not count ({problem}): it was changed, or it belongs to another installation. Where that is \
         another node that uses the same witness directory, give this node a witness directory of its own. Else \
         restore it, or start anew from the database as it is: latchkey audit accept-rollback"
    )]
    Unreadable {
        /// The checkpoint's file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing is left to compare with.
    #[error(
        "{file} is gone: the database was signed, and what was signed last is not remembered beside it, so \
         that it may be older than it was. Put the file back (the witness and a copy of the directory have it), or \
         start anew from the database as it is: latchkey audit accept-rollback"
    )]
    Forgotten {
        /// The checkpoint's file.
        file: PathBuf,
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

/// Accepts the database as it is: ends every session, login and enrolment under way, records it, and
/// goes on under a new name, since a log never signs two histories (C2SP tlog-checkpoint), and with a new key, put in
/// place as [`rotate_key`](super::rotate_key) does. `replaced` is the newer database, if it is still there, to tell
/// exactly what is back.
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

/// What no longer counts once the database is taken as it is.
pub(super) struct GivenUp {
    /// The name of the newest log whose checkpoints do not fit, and of others.
    origins: Vec<String>,
    /// Entries that were signed.
    signed: u64,
    /// The name of the log that follows.
    successor: String,
}

/// Finds the logs whose checkpoints, here or in `elsewhere`, do not fit the database.
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
    /// Signs as the log that follows, with the key of that seed: one of its own, since the key before may be known to
    /// whoever made a database come back, or to whoever once had the backup.
    pub(super) fn signer(&self, seed: &[u8; 32]) -> LogSigner {
        LogSigner::new(&self.successor, seed)
    }

    /// What the entry at `place` says no longer counts, which the log that follows vouches for.
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
        // Whatever it is: of that log nothing counts any more.
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
    RolledBack::Trail(format!("{error:?}"))
}

pub(super) fn unreadable(error: VerifyError) -> Error {
    Error::Conflict(error.to_string())
}
