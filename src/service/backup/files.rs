//! Directories that appear complete or not at all, and files readable only by the owner.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::manifest::FileFacts;
use super::{BackupError, CHECKPOINT_FILE, MANIFEST_FILE, SEALED_KEYS_FILE, Watch};
use crate::keys::{KEY_DIRECTORY, key_file_names};
use crate::store::DATABASE_FILE;

/// Part of the names of unfinished directories.
pub(super) const UNFINISHED: &str = ".unfinished-";
/// Directory that a newly created file system contains.
const LOST_AND_FOUND: &str = "lost+found";

/// A directory that is being filled; removed on drop unless finished.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    destination: PathBuf,
    finished: bool,
}

impl Unfinished {
    /// Creates a working directory for `destination`, readable only by the owner: beside it, or inside it if it
    /// exists already, since a mounted volume can't be replaced. `mark` distinguishes it from others.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn of(destination: &Path, mark: &str) -> Result<Self, BackupError> {
        let path = if destination.is_dir() {
            destination.join(format!("{UNFINISHED}{mark}"))
        } else {
            let name = destination.file_name().ok_or_else(|| {
                BackupError::Refused(format!("{} is not a new directory", destination.display()))
            })?;
            let mut unfinished = std::ffi::OsString::from(".");
            unfinished.push(name);
            unfinished.push(UNFINISHED);
            warn_of_left(destination, &unfinished);
            unfinished.push(mark);
            destination.with_file_name(unfinished)
        };
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|problem| match problem.kind() {
            io::ErrorKind::PermissionDenied if !destination.is_dir() => BackupError::Refused(format!(
                "no permission to create a directory in {}; create the new directory as root, and it will be filled: \
                 sudo install -d -m 0700 -o OWNER {}",
                parent(destination).display(),
                destination.display()
            )),
            _ => io_error(&path, problem),
        })?;
        Ok(Self {
            path,
            destination: destination.to_owned(),
            finished: false,
        })
    }

    /// Returns the current path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to its destination and syncs it to disk.
    ///
    /// # Errors
    /// [`BackupError`]; the directory is then removed.
    pub fn finish(mut self) -> Result<(), BackupError> {
        sync_tree(&self.path)?;
        if self.path.parent() == Some(self.destination.as_path()) {
            self.move_out()?;
            self.finished = true;
            return sync(&self.destination);
        }
        // Also replaces an empty directory created in the meantime (rename(2)); a non-empty one is left alone.
        fs::rename(&self.path, &self.destination).map_err(|problem| io_error(&self.destination, problem))?;
        self.finished = true;
        sync(parent(&self.destination))
    }

    /// Moves the contents one level up; the file that makes the directory a data directory or a backup comes
    /// last.
    fn move_out(&self) -> Result<(), BackupError> {
        refuse_filled(&self.destination, self.path.file_name())?;
        let failed = |problem| io_error(&self.destination, problem);
        let entries = fs::read_dir(&self.path).map_err(failed)?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        names.sort_by_key(|name| (name == MANIFEST_FILE, name == DATABASE_FILE));
        for (at, name) in names.iter().enumerate() {
            if let Err(problem) = fs::rename(self.path.join(name), self.destination.join(name)) {
                for moved in &names[..at] {
                    let _ = fs::rename(self.destination.join(moved), self.path.join(moved));
                }
                return Err(failed(problem));
            }
        }
        fs::remove_dir(&self.path).map_err(failed)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "an unfinished directory could not be removed");
        }
    }
}

/// Warns of what a killed process left beside `destination`, in directories whose names begin with `unfinished`.
/// They are not removed, since another process may be filling one.
fn warn_of_left(destination: &Path, unfinished: &OsStr) {
    for entry in fs::read_dir(parent(destination)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(unfinished.as_encoded_bytes()) {
            tracing::warn!(
                path = %entry.path().display(),
                "a backup or a restore to the same place ended early and left this, which may have the keys; if none is \
                 running, remove it"
            );
        }
    }
}

/// Refuses a directory that is not empty, and a path that is not a directory.
pub(super) fn refuse_filled(destination: &Path, besides: Option<&OsStr>) -> Result<(), BackupError> {
    let taken = match fs::read_dir(destination) {
        Ok(entries) => entries.flatten().any(|entry| {
            let name = entry.file_name();
            name != LOST_AND_FOUND && Some(name.as_os_str()) != besides
        }),
        Err(_) => destination.symlink_metadata().is_ok(),
    };
    if taken {
        if besides.is_none() {
            refuse_half_moved(destination)?;
        }
        let place = destination.display();
        return Err(BackupError::Refused(format!(
            "{place} exists; name a new directory, nothing is overwritten"
        )));
    }
    Ok(())
}

/// Refuses a directory that is being filled, or whose filling was interrupted.
pub(super) fn refuse_half_moved(directory: &Path) -> Result<(), BackupError> {
    let mut entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let left = entries.find(|entry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
    });
    left.map_or(Ok(()), |left| {
        Err(BackupError::Refused(format!(
            "{}: a restore or a backup is in progress, or has ended early; if none is running, remove everything in {} \
             and start again",
            left.path().display(),
            directory.display()
        )))
    })
}

/// Returns the directory that contains, or will contain, `path`.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Returns the names of the files that a backup may have besides its manifest.
pub(super) fn file_names() -> impl Iterator<Item = String> {
    let keys = key_file_names().map(|name| format!("{KEY_DIRECTORY}/{name}"));
    [DATABASE_FILE, CHECKPOINT_FILE, SEALED_KEYS_FILE]
        .map(str::to_owned)
        .into_iter()
        .chain(keys)
}

/// Returns length and hash of each file of a backup.
pub(super) fn digests(folder: &Path, watch: Watch<'_>) -> Result<BTreeMap<String, FileFacts>, BackupError> {
    let there: Vec<_> = file_names().filter(|name| folder.join(name).is_file()).collect();
    let mut all = 0;
    for name in &there {
        let path = folder.join(name);
        all += fs::metadata(&path)
            .map_err(|source| io_error(&path, source))?
            .len();
    }
    let mut done = 0;
    there
        .into_iter()
        .map(|name| {
            let facts = digest(&folder.join(&name), |bytes| {
                done += bytes;
                watch("hash", done, all)
            })?;
            Ok((name, facts))
        })
        .collect()
}

fn digest(path: &Path, mut read: impl FnMut(u64) -> ControlFlow<()>) -> Result<FileFacts, BackupError> {
    let failed = |source| io_error(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        bytes += count as u64;
        if read(count as u64).is_break() {
            return Err(BackupError::Stopped);
        }
    }
    Ok(FileFacts {
        bytes,
        sha256: hex::encode(hash.finalize()),
    })
}

/// Copies a file to a new one readable only by the owner.
pub(super) fn copy_private(
    from: &Path,
    to: &Path,
    mut copied: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), BackupError> {
    let mut source = File::open(from).map_err(|source| io_error(from, source))?;
    let mut target = new_private_file(to)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = source
            .read(&mut buffer)
            .map_err(|source| io_error(from, source))?;
        if count == 0 {
            return target.sync_all().map_err(|source| io_error(to, source));
        }
        target
            .write_all(&buffer[..count])
            .map_err(|source| io_error(to, source))?;
        if copied(count as u64).is_break() {
            return Err(BackupError::Stopped);
        }
    }
}

/// Creates a file and its parent directory, readable only by the owner.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), BackupError> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|source| io_error(parent, source))?;
    }
    new_private_file(path)?
        .write_all(text.as_bytes())
        .map_err(|source| io_error(path, source))
}

pub(super) fn new_private_file(path: &Path) -> Result<File, BackupError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| io_error(path, source))
}

/// Syncs a directory and everything in it to disk.
fn sync_tree(folder: &Path) -> Result<(), BackupError> {
    let entries = fs::read_dir(folder).map_err(|source| io_error(folder, source))?;
    for entry in entries {
        let path = entry.map_err(|source| io_error(folder, source))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            sync(&path)?;
        }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| io_error(path, source))
}

pub(super) fn io_error(path: &Path, problem: io::Error) -> BackupError {
    BackupError::Io {
        path: path.to_owned(),
        problem,
    }
}
