//! Who may use the data directory: one process at a time, of its owner.

use std::fs::{File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::OpenError;

const LOCK_FILE: &str = "latchkey.lock";

/// Locks the data directory until the file is closed.
///
/// # Errors
/// [`OpenError::InUse`], or [`OpenError::Io`] when the lock's file can't be opened.
pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let path = data_dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|problem| OpenError::Io {
            path: path.clone(),
            problem,
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(problem)) => Err(OpenError::Io { path, problem }),
    }
}

/// Makes the file readable by its owner only: it holds password hashes and encrypted secrets.
///
/// # Errors
/// [`OpenError::Io`].
pub(super) fn restrict_to_owner(path: &Path) -> Result<(), OpenError> {
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|problem| OpenError::Io {
        path: path.to_owned(),
        problem,
    })
}
