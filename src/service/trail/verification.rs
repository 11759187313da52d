//! Verification of a data directory, which may be in use or a copy.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::checkpoints::{CHECKPOINT_DIRECTORY, HISTORY, LATEST};
use crate::domain::audit::{Anchor, LogKeys, Report};
use crate::store::audit::VerifyError;
use crate::store::{DATABASE_FILE, audit};

/// Verifies the trail in a data directory against `keys`, the checkpoints in the database and beside it, and
/// `anchors`. If `keys` is empty, trusts those in the database, which finds only changes made without the signing
/// key. Calls `progress` with the sequence of each entry read and the trail's size.
///
/// # Errors
/// [`VerifyError`] when there is no readable database.
pub fn verify_data_dir(
    data_dir: &Path,
    keys: &LogKeys,
    anchors: Vec<Anchor>,
    progress: impl FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    let directory = data_dir.join(CHECKPOINT_DIRECTORY);
    let notes = notes_beside(&directory);
    audit::verify_database(&data_dir.join(DATABASE_FILE), keys, progress, |verifier| {
        for (source, note) in &notes {
            if let Err(error) = verifier.offer(note, source, false) {
                verifier.note(format!("a checkpoint in {source} was not used: {error}"));
            }
        }
        for anchor in anchors {
            verifier.anchor(anchor);
        }
    })
}

/// Reads the checkpoints beside a database, each with its file's name.
fn notes_beside(directory: &Path) -> Vec<(String, String)> {
    let mut notes = Vec::new();
    let latest = directory.join(LATEST);
    if let Ok(note) = fs::read_to_string(&latest) {
        notes.push((latest.display().to_string(), note));
    }
    let history = directory.join(HISTORY);
    // Read as bytes: a crash may have cut a line within a character.
    let lines = fs::read(&history).unwrap_or_default();
    for line in lines.split(|byte| *byte == b'\n') {
        let note = serde_json::from_slice::<Value>(line)
            .ok()
            .and_then(|line| line["note"].as_str().map(str::to_owned));
        if let Some(note) = note {
            notes.push((history.display().to_string(), note));
        }
    }
    notes
}
