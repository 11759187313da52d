//! Who may use the data directory: one process at a time, of its owner.

use std::fs::{File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::OpenError;

const LOCK_FILE: &str = "latchkey.lock";
/// How long a lock that is held is tried again: a process that starts a child shares its locks with it until the child
/// runs its own program, so that a lock can outlive its holder by milliseconds. Each command beside a running server
/// waits so long.
const PATIENCE: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(1);

/// Locks the data directory until the file is closed.
///
/// # Errors
/// [`OpenError::InUse`], or [`OpenError::Io`] when the lock's file can't be opened.
pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    lock_within(data_dir, PATIENCE)
}

fn lock_within(data_dir: &Path, patience: Duration) -> Result<File, OpenError> {
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
    let until = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(data_dir.to_owned())),
            Err(TryLockError::Error(problem)) => return Err(OpenError::Io { path, problem }),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_given_up_in_time_is_taken_and_another_ones_is_respected() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let held = lock(dir.path()).expect("the first lock");
        assert!(matches!(lock(dir.path()), Err(OpenError::InUse(_))));
        let given_up = std::thread::spawn(move || {
            std::thread::sleep(LOOK * 5);
            drop(held);
        });
        assert!(lock_within(dir.path(), Duration::from_secs(60)).is_ok());
        given_up.join().expect("no panic");
    }
}
