//! An older database put in place of a newer one is noticed at the start, and accepted only on purpose.

use std::path::{Path, PathBuf};

use super::Services;
use super::checkpoints::{self, LATEST, directory};
use super::memory::{Known, Memory, memories, successor};
use crate::domain::audit::{ActorRef, Event, EventType, LogSigner};
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
    let revived = services
        .store
        .read(|db| audit::find_revived(db, replaced).map_err(unreadable))?;
    let given_up = give_up(services, Vec::new())?;
    let signer = given_up.signer(services);
    let (key, signed) = (signer.log_key(), given_up.signed);
    let url = services.settings.trail.witness_url.clone();
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let event = given_up.record(
        Event::new(EventType::AuditRollbackAccept, None, ActorRef::operator())
            .with("why", rolled_back.to_string())
            .with("checkpointSize", signed)
            .with("revived", revived.len())
            .with("newKey", key.to_string()),
    );
    let (found, sessions_ended, begun) = services
        .store
        .write(move |tx| {
            let found = audit::size(tx)?;
            let ended = audit::clear_every_session(tx, at)?;
            let event = event
                .clone()
                .with("databaseSize", found)
                .with("sessionsEnded", ended);
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok((
                found,
                ended,
                checkpoints::begin(tx, &signer, found, url.as_deref(), at)?,
            ))
        })
        .await?;
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
    /// The name of the newest log whose checkpoints do not fit.
    origin: String,
    /// The names of others.
    also: Vec<String>,
    /// Entries that were signed.
    signed: u64,
    /// The name of the log that follows.
    successor: String,
}

/// Finds the logs whose checkpoints, here or in `elsewhere`, do not fit the database.
pub(super) fn give_up(services: &Services, elsewhere: Vec<Memory>) -> Result<GivenUp> {
    let known = Known::read(services)?;
    let mut found = memories(services, &known);
    found.extend(elsewhere);
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
    let origin = names.remove(0);
    names.retain(|name| *name != origin);
    names.sort();
    names.dedup();
    Ok(GivenUp {
        origin,
        also: names,
        signed,
        successor: successor(&current, &seen, services.entropy.bytes()),
    })
}

impl GivenUp {
    /// Signs as the log that follows.
    pub(super) fn signer(&self, services: &Services) -> LogSigner {
        LogSigner::new(&self.successor, &services.keys.audit_signing_key())
    }

    /// Names in an entry what no longer counts.
    pub(super) fn record(&self, event: Event) -> Event {
        let event = event.with("abandonedOrigin", self.origin.clone());
        if self.also.is_empty() {
            event
        } else {
            event.with("alsoAbandoned", self.also.clone())
        }
    }
}

fn compare(services: &Services, known: &Known, memory: &Memory) -> Result<(), RolledBack> {
    let file = memory.file.clone();
    let checkpoint = match memory.open(services, known) {
        Ok(Some(checkpoint)) if !known.gave_up(&checkpoint) => checkpoint,
        Ok(_) => return Ok(()),
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
