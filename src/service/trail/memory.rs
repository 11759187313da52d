//! What is remembered of the trail outside of its database: checkpoints beside it and at the witness, and
//! which of them no longer count.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoints::{self, CHECKPOINT_DIRECTORY, HISTORY, LATEST};
use super::witness::witness_directory;
use crate::domain::Result;
use crate::domain::audit::checkpoint::{CheckpointError, unchecked};
use crate::domain::audit::{
    Checkpoint, Content, LogKey, LogKeys, LogsGivenUp, Record, check_receipt, write_receipt,
};
use crate::keys::KeyRing;
use crate::service::Services;
use crate::store::audit::{self, checkpoints as kept};

/// A checkpoint that is kept outside of the database.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub file: PathBuf,
    pub note: String,
    /// What it says, whoever signed it.
    pub told: Option<Checkpoint>,
    /// Whether it has to be readable: `latest`, and what the witness has of the log in use and of others of its name.
    /// What else lies there counts only where our own key has signed it: it may belong to another appliance.
    pub is_binding: bool,
}

/// What the database says of its own past.
pub(super) struct Known {
    pub logs: Vec<kept::KnownLog>,
    /// Entries now.
    pub size: u64,
    /// Whether any checkpoint was ever kept in it.
    pub was_signed: bool,
    abandoned: Vec<Abandoned>,
}

/// A log that was given up on purpose.
struct Abandoned {
    origin: String,
    /// Of the key of the log that followed: how many keys came before it.
    key_age: usize,
}

impl Memory {
    fn read(file: PathBuf, is_binding: bool) -> Option<Self> {
        let note = fs::read_to_string(&file).ok()?;
        Some(Self::of(file, note, is_binding))
    }

    fn of(file: PathBuf, note: String, is_binding: bool) -> Self {
        Self {
            told: unchecked(&note),
            file,
            note,
            is_binding,
        }
    }

    /// Opens it; `None` where it is of no concern.
    pub(super) fn open(
        &self,
        services: &Services,
        known: &Known,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        let logs = known.logs.iter().filter(|_| self.is_binding);
        let mut keys = LogKeys::new(logs.map(|log| log.key.clone()).collect());
        // An older database may not know the log yet; whose key it is, is not told by the database anyway.
        if let Some(origin) = self.origin() {
            for public in services.keys.audit_public_keys() {
                if let Some(key) = LogKey::of(origin, &public) {
                    keys.add(key);
                }
            }
        }
        match keys.open(&self.note) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(_) if !self.is_binding => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The log's name, if it can be one.
    pub(super) fn origin(&self) -> Option<&str> {
        let origin = self.told.as_ref()?.origin.as_str();
        signed_note_name(origin).then_some(origin)
    }
}

impl Known {
    pub(super) fn read(services: &Services) -> Result<Self> {
        services.store.read(|db| {
            let logs = kept::known_logs(db)?;
            Ok(Self {
                size: audit::size(db)?,
                was_signed: kept::is_any_kept(db)?,
                abandoned: find_abandoned(db, &logs, &services.keys)?,
                logs,
            })
        })
    }

    /// The name of the log in use.
    pub(super) fn origin(&self, services: &Services) -> String {
        self.logs.last().map_or_else(
            || checkpoints::first_origin(services),
            |log| log.key.origin().to_owned(),
        )
    }

    /// A log of the same name, but for its number, follows ours or goes before it. Where we have not its key, the keys
    /// went back with the database: it is not another appliance's.
    pub(super) fn bind(&self, services: &Services, mut memory: Memory) -> Memory {
        let ours = self.origin(services);
        memory.is_binding |= memory
            .origin()
            .is_some_and(|origin| split(origin).0 == split(&ours).0);
        memory
    }

    /// Whether a checkpoint no longer counts: its log was given up, and with a key that came after the one that has
    /// signed it. So nothing can give up what the key in use has signed, not even a key that was in use once and leaked.
    /// What the log had signed until then, the log that followed has signed over.
    pub(super) fn gave_up(&self, services: &Services, checkpoint: &Checkpoint) -> bool {
        let key = checkpoint.key.as_ref();
        let age = key.and_then(|key| services.keys.audit_key_age(key));
        self.abandoned
            .iter()
            .any(|one| one.origin == checkpoint.origin && age < Some(one.key_age))
    }
}

/// The logs that were given up. Whoever can write the database can add a log and an entry to it, and the server will
/// sign over both. What they can't make is the statement of the log that followed, signed with a key of ours.
fn find_abandoned(
    db: &crate::store::Connection,
    logs: &[kept::KnownLog],
    keys: &KeyRing,
) -> Result<Vec<Abandoned>> {
    let Some((current, newest)) = logs.last().zip(kept::find_newest_checkpoint(db)?) else {
        return Ok(Vec::new());
    };
    let signer = checkpoints::signer_of(keys, current.key.origin(), Some(&current.key));
    let ours = LogKeys::new(vec![signer.log_key()]);
    let Ok(signed) = ours.open(&newest.2) else {
        return Ok(Vec::new());
    };
    let mut abandoned = Vec::new();
    for sequence in audit::find_abandonments(db)? {
        let Some(record) = audit::find_record(db, sequence)?.filter(|_| sequence < signed.size) else {
            continue;
        };
        let proof = audit::inclusion_proof(db, sequence, signed.size)?;
        let receipt = write_receipt(&record, &proof, &newest.2);
        let checked = check_receipt(&receipt, &ours).ok();
        let given_up = checked.and_then(|checked| given_up_by(&checked.record));
        let Some((given_up, key_age)) =
            given_up.and_then(|given_up| keys.audit_key_age(&given_up.by).map(|age| (given_up, age)))
        else {
            continue;
        };
        abandoned.extend(
            given_up
                .origins
                .into_iter()
                .map(|origin| Abandoned { origin, key_age }),
        );
    }
    Ok(abandoned)
}

/// What an entry says was given up, and the log that followed has signed.
fn given_up_by(record: &Record) -> Option<LogsGivenUp> {
    let Content::Whole(body) = &record.content else {
        return None;
    };
    let details = body.subject.data()?.details.as_deref()?;
    let given_up = LogsGivenUp::read(&serde_json::from_str(details).ok()?)?;
    given_up.check(record.sequence).is_ok().then_some(given_up)
}

/// Every checkpoint that is remembered: the newest of each log and place.
pub(super) fn memories(services: &Services, known: &Known) -> Vec<Memory> {
    let directory = checkpoints::directory(services);
    let mut found: Vec<Memory> = Memory::read(directory.join(LATEST), true).into_iter().collect();
    found.extend(newest_of_history(&directory.join(HISTORY)));
    if let Some(witness) = &services.settings.trail.witness_dir {
        let current = witness_directory(witness, &known.origin(services));
        if known.was_signed && !witness.is_dir() {
            tracing::warn!(directory = %witness.display(), "the witness directory is not there: nothing was compared with it");
        }
        for log in directories(witness) {
            let found_there = newest_of_witness(&log, log == current);
            found.extend(found_there.into_iter().map(|memory| known.bind(services, memory)));
        }
    }
    found
}

/// What is remembered beside another database.
pub(super) fn memories_beside(database: &Path) -> Vec<Memory> {
    let directory = database.with_file_name(CHECKPOINT_DIRECTORY);
    let latest = Memory::read(directory.join(LATEST), false);
    latest
        .into_iter()
        .chain(newest_of_history(&directory.join(HISTORY)))
        .collect()
}

/// What a witness remembers of every log, for whoever uses none of them yet.
pub(super) fn memories_at(witness: &Path) -> Vec<Memory> {
    let logs = directories(witness);
    logs.iter()
        .flat_map(|log| newest_of_witness(log, false))
        .collect()
}

/// The largest note of each log. A line that a crash cut short is none.
fn newest_of_history(path: &Path) -> Vec<Memory> {
    let mut newest: BTreeMap<String, Memory> = BTreeMap::new();
    let Ok(file) = File::open(path) else {
        return Vec::new();
    };
    // Not as text: a line may have been cut within a character.
    for line in BufReader::new(file).split(b'\n').map_while(std::io::Result::ok) {
        let note = serde_json::from_slice::<Value>(&line)
            .ok()
            .and_then(|line| line["note"].as_str().map(str::to_owned));
        let Some(memory) = note.map(|note| Memory::of(path.to_owned(), note, false)) else {
            continue;
        };
        let size = |memory: &Memory| memory.told.as_ref().map(|told| told.size);
        if let Some(origin) = memory.origin().map(str::to_owned)
            && newest.get(&origin).is_none_or(|kept| size(kept) <= size(&memory))
        {
            newest.insert(origin, memory);
        }
    }
    newest.into_values().collect()
}

/// Of the greatest size; more than one where they differ, see [`super::witness`].
fn newest_of_witness(directory: &Path, is_binding: bool) -> Vec<Memory> {
    let size = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        name.split('-').next()?.parse::<u64>().ok()
    };
    let mut files: Vec<(u64, PathBuf)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_none())
        .filter_map(|path| Some((size(&path)?, path)))
        .collect();
    let greatest = files.iter().map(|(size, _)| *size).max();
    files.retain(|(size, _)| Some(*size) == greatest);
    files
        .into_iter()
        .filter_map(|(_, path)| Memory::read(path, is_binding))
        .collect()
}

fn directories(of: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(of)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// A name for the log that follows: `host/audit-log` → `host/audit-log/2-1a2b3c4d`. Numbered beyond every
/// name that was seen, and drawn: the same backup may be restored twice on machines that know nothing of each
/// other, and a name never signs two histories.
pub(super) fn successor(current: &str, seen: &[String], drawn: [u8; 4]) -> String {
    let (base, number) = split(current);
    let newest = seen
        .iter()
        .map(|origin| split(origin))
        .filter(|(of, _)| *of == base)
        .map(|(_, number)| number)
        .fold(number, u32::max);
    format!("{base}/{}-{}", newest.saturating_add(1), hex::encode(drawn))
}

fn split(origin: &str) -> (&str, u32) {
    let number = |last: &str| last.split('-').next()?.parse::<u32>().ok();
    origin
        .rsplit_once('/')
        .and_then(|(base, last)| Some((base, number(last)?)))
        .unwrap_or((origin, 1))
}

/// Whether a name can be a key's (C2SP signed-note).
fn signed_note_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 500
        && !name.contains('+')
        && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_beyond_every_name_that_was_seen_and_drawn() {
        let seen = ["h/audit-log/2-0a0b0c0d", "h/audit-log/7", "other/audit-log/9"].map(str::to_owned);
        let first = successor("h/audit-log", &[], [1, 2, 3, 4]);
        assert_eq!(first, "h/audit-log/2-01020304");
        assert_eq!(successor(&first, &[], [5; 4]), "h/audit-log/3-05050505");
        assert_eq!(successor(&first, &seen, [5; 4]), "h/audit-log/8-05050505");
        assert_ne!(
            successor("h/audit-log", &[], [1; 4]),
            successor("h/audit-log", &[], [2; 4])
        );
    }
}
