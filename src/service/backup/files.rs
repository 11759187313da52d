//! Directories that appear whole or not at all, and files for the owner alone.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::manifest::FileFacts;
use super::{BackupError, CHECKPOINT_FILE, SEALED_KEYS_FILE, Watch};
use crate::entropy::Entropy;
use crate::keys::{KEY_DIRECTORY, key_file_names};
use crate::store::DATABASE_FILE;

/// In the names of directories that are not finished.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// A directory that is being filled; dropped before it is finished, it is removed.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    finished: bool,
}

impl Unfinished {
    /// Makes one beside where it is to be in the end, readable for the owner alone.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn beside(destination: &Path, entropy: &Entropy) -> Result<Self, BackupError> {
        let name = destination
            .file_name()
            .ok_or_else(|| BackupError::Refused(format!("{} is no new directory", destination.display())))?;
        let mut unfinished = std::ffi::OsString::from(".");
        unfinished.push(name);
        unfinished.push(UNFINISHED);
        unfinished.push(hex::encode(entropy.bytes::<4>()));
        let path = destination.with_file_name(unfinished);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| io_error(&path, source))?;
        Ok(Self {
            path,
            finished: false,
        })
    }

    /// Where it is now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it where it belongs, on disk.
    ///
    /// # Errors
    /// [`BackupError::Io`]; then it is removed.
    pub fn finish(mut self, destination: &Path) -> Result<(), BackupError> {
        sync_tree(&self.path)?;
        // Onto an empty directory too (rename(2)); one that was filled meanwhile is left alone.
        fs::rename(&self.path, destination).map_err(|source| io_error(destination, source))?;
        self.finished = true;
        let parent = destination
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new(".")))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "an unfinished directory could not be removed");
        }
    }
}

/// The files a backup may have besides its manifest.
pub(super) fn file_names() -> impl Iterator<Item = String> {
    let keys = key_file_names().map(|name| format!("{KEY_DIRECTORY}/{name}"));
    [DATABASE_FILE, CHECKPOINT_FILE, SEALED_KEYS_FILE]
        .map(str::to_owned)
        .into_iter()
        .chain(keys)
}

/// Length and hash of each file that a backup may have.
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
                watch("hash", done, all);
            })?;
            Ok((name, facts))
        })
        .collect()
}

fn digest(path: &Path, mut read: impl FnMut(u64)) -> Result<FileFacts, BackupError> {
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
        read(count as u64);
    }
    Ok(FileFacts {
        bytes,
        sha256: hex::encode(hash.finalize()),
    })
}

/// Copies a file to a new one for the owner alone.
pub(super) fn copy_private(from: &Path, to: &Path, mut copied: impl FnMut(u64)) -> Result<(), BackupError> {
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
        copied(count as u64);
    }
}

/// Makes a file and the directory that it is in, for the owner alone.
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

/// Puts a directory and what is in it on disk.
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
