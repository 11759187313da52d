//! Removes files that a killed process left half written.

use std::fs;
use std::path::Path;

use crate::durable;
use crate::keys::KEY_DIRECTORY;
use crate::service::trail::CHECKPOINT_DIRECTORY;

/// Removes unfinished files of the keys and checkpoints, some of which hold secrets. Call it only while
/// holding the data directory exclusively: another process might be about to rename such a file into place.
pub(super) fn remove(data_dir: &Path) {
    for directory in [KEY_DIRECTORY, CHECKPOINT_DIRECTORY] {
        let Ok(entries) = fs::read_dir(data_dir.join(directory)) else {
            continue; // not made yet
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if durable::is_unfinished(&path)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, file = %path.display(), "could not remove an unfinished file of a killed process; remove it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::app::App;
    use crate::config::Config;

    use super::*;

    #[test]
    fn a_start_removes_what_was_left_unfinished_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        drop(App::open(Config::for_data_dir(folder.path())).unwrap());
        let keys = folder.path().join(KEY_DIRECTORY);
        let checkpoints = folder.path().join(CHECKPOINT_DIRECTORY);
        fs::create_dir_all(&checkpoints).unwrap();
        let left = [
            keys.join("tokens.new-00ff"),
            checkpoints.join("latest.new-0a0b"),
            checkpoints.join("history.new-0a0b"),
        ];
        for file in &left {
            fs::write(file, "half").unwrap();
        }
        let before = fs::read_dir(&keys).unwrap().count();
        drop(App::open(Config::for_data_dir(folder.path())).unwrap());
        assert!(left.iter().all(|file| !file.exists()));
        assert_eq!(fs::read_dir(&keys).unwrap().count(), before - 1);
    }
}
