//! The check of a data directory, also of one that is in use or a copy.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::checkpoints::{CHECKPOINT_DIRECTORY, HISTORY, LATEST};
use crate::domain::audit::{Anchor, LogKeys, Report};
use crate::store::audit::VerifyError;
use crate::store::{DATABASE_FILE, audit};

/// Checks the trail in a data directory against `keys`, the checkpoints in the database and beside it,
/// and `anchors` besides. Without keys, those in the database are believed: that finds whatever was
/// changed without the signing key. `progress` is told the places done and how many there are.
///
/// # Errors
/// [`VerifyError`] when there is no database to read.
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

/// The checkpoints beside a database.
fn notes_beside(directory: &Path) -> Vec<(String, String)> {
    let mut notes = Vec::new();
    let latest = directory.join(LATEST);
    if let Ok(note) = fs::read_to_string(&latest) {
        notes.push((latest.display().to_string(), note));
    }
    let history = directory.join(HISTORY);
    // Not as text: a line may have been cut within a character.
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
