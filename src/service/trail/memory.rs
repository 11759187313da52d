//! Checkpoints remembered outside the database, beside it and in the witness directory, and which of them no
//! longer count.

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

/// A checkpoint kept outside the database.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub file: PathBuf,
    pub note: String,
    /// Its content, with the signature not verified; `None` if it can't be parsed.
    pub told: Option<Checkpoint>,
    /// Whether it is an error if the note is invalid: true for `latest`, and for the witness's checkpoints of the
    /// current log and of its predecessors and successors. Others count only if signed by this node's key, since
    /// they may belong to another appliance.
    pub is_binding: bool,
}

/// What the database records about its own checkpoints.
pub(super) struct Known {
    pub logs: Vec<kept::KnownLog>,
    /// Number of entries now.
    pub size: u64,
    /// Whether it holds any checkpoint.
    pub was_signed: bool,
    abandoned: Vec<Abandoned>,
}

/// A log that was abandoned on purpose.
struct Abandoned {
    origin: String,
    /// Number of this node's keys that came before the key of the log that followed.
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

    /// Verifies the note. Returns `None` if it is not binding and not signed by this node.
    pub(super) fn open(
        &self,
        services: &Services,
        known: &Known,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        let logs = known.logs.iter().filter(|_| self.is_binding);
        let mut keys = LogKeys::new(logs.map(|log| log.key.clone()).collect());
        // An older database may not know the log yet, and can't be trusted to say which keys are this node's.
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

    /// The log's name, if it is valid.
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

    /// Returns the name of the current log.
    pub(super) fn origin(&self, services: &Services) -> String {
        self.logs.last().map_or_else(
            || checkpoints::first_origin(services),
            |log| log.key.origin().to_owned(),
        )
    }

    /// Makes a checkpoint binding if its log's name differs from the current one's at most in its number: it is a
    /// predecessor or successor of the current log, not another appliance's. If its key is not one of this node's,
    /// the keys were rolled back together with the database.
    pub(super) fn bind(&self, services: &Services, mut memory: Memory) -> Memory {
        let ours = self.origin(services);
        memory.is_binding |= memory
            .origin()
            .is_some_and(|origin| split(origin).0 == split(&ours).0);
        memory
    }

    /// Returns whether a checkpoint no longer counts, because its log was abandoned with a key that is newer than
    /// the one that signed the checkpoint. So nothing can abandon what the current key has signed, not even a
    /// leaked key that was in use before. The log that followed has signed over the abandoned log's entries that
    /// are still in the database.
    pub(super) fn gave_up(&self, services: &Services, checkpoint: &Checkpoint) -> bool {
        let key = checkpoint.key.as_ref();
        let age = key.and_then(|key| services.keys.audit_key_age(key));
        self.abandoned
            .iter()
            .any(|one| one.origin == checkpoint.origin && age < Some(one.key_age))
    }
}

/// Finds the abandoned logs. Anyone who can write the database can add a log and an entry to it, and the server
/// will sign over both. So an entry counts only with the statement of the log that followed, signed with a key of
/// this node, which they can't make.
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

/// Returns the logs that an entry records as given up, if the statement of the log that followed is valid.
fn given_up_by(record: &Record) -> Option<LogsGivenUp> {
    let Content::Whole(body) = &record.content else {
        return None;
    };
    let details = body.subject.data()?.details.as_deref()?;
    let given_up = LogsGivenUp::read(&serde_json::from_str(details).ok()?)?;
    given_up.check(record.sequence).is_ok().then_some(given_up)
}

/// Returns the remembered checkpoints: the newest of each log and place.
pub(super) fn memories(services: &Services, known: &Known) -> Vec<Memory> {
    let directory = checkpoints::directory(services);
    let mut found: Vec<Memory> = Memory::read(directory.join(LATEST), true).into_iter().collect();
    found.extend(newest_of_history(&directory.join(HISTORY)));
    if let Some(witness) = &services.settings.trail.witness_dir {
        let current = witness_directory(witness, &known.origin(services));
        let read = move |witness: &Path| memories_at(witness, Some(&current));
        match services.witness.read(witness, read) {
            Some(Some(there)) => {
                found.extend(there.into_iter().map(|memory| known.bind(services, memory)));
            }
            Some(None) if known.was_signed => {
                tracing::warn!(directory = %witness.display(), "the witness directory does not exist: nothing was compared with it");
            }
            Some(None) | None => {}
        }
    }
    found
}

/// Returns the checkpoints remembered beside another database.
pub(super) fn memories_beside(database: &Path) -> Vec<Memory> {
    let directory = database.with_file_name(CHECKPOINT_DIRECTORY);
    let latest = Memory::read(directory.join(LATEST), false);
    latest
        .into_iter()
        .chain(newest_of_history(&directory.join(HISTORY)))
        .collect()
}

/// Returns a witness directory's newest checkpoints of all logs, of which `current` may be in use; `None` if the
/// directory does not exist. Blocks for as long as the directory does: call it through [`super::Witness`].
pub(super) fn memories_at(witness: &Path, current: Option<&Path>) -> Option<Vec<Memory>> {
    let logs = witness.is_dir().then(|| directories(witness))?;
    let newest = |log: &PathBuf| newest_of_witness(log, current == Some(log.as_path()));
    Some(logs.iter().flat_map(newest).collect())
}

/// Returns the checkpoint with the greatest size of each log. Ignores lines that a crash cut short.
fn newest_of_history(path: &Path) -> Vec<Memory> {
    let mut newest: BTreeMap<String, Memory> = BTreeMap::new();
    let Ok(file) = File::open(path) else {
        return Vec::new();
    };
    // Read as bytes: a crash may have cut a line within a character.
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

/// Returns the checkpoint of the greatest size; several if they differ, see [`super::witness`].
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

/// Returns a name for the log that follows: `host/audit-log` → `host/audit-log/2-1a2b3c4d`. The number is greater
/// than that of every name seen. The random part is needed because the same backup may be restored on two machines
/// that do not know of each other, and a name must never sign two histories.
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

/// Returns whether a name is valid for a key (C2SP signed-note).
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
