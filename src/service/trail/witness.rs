//! The witness directory, which holds a copy of each checkpoint; it proves something only on another machine.
//!
//! A remote directory (NFS) may hang for ever: callers wait for it only briefly, and at most one thread is
//! blocked in a copy. While a copy is in progress, at most one more waits, the one over the most entries, which
//! covers all earlier ones. A start that reads from the directory continues after the same wait, as if the
//! directory did not exist.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::checkpoints::Signed;
use crate::domain::audit::checkpoint::unchecked;
use crate::durable;

/// How long a signer waits for the copy, and a reader for the directory's answer. A copy made in time exists
/// before the checkpoint is handed out.
const PATIENCE: Duration = Duration::from_secs(5);

/// A checkpoint to be copied to the witness directory.
pub(super) struct Testimony {
    /// The witness directory.
    pub(super) witness: PathBuf,
    /// The log's name.
    pub(super) origin: String,
    pub(super) signed: Signed,
    /// Random part of the file's name, where another checkpoint has the name already.
    pub(super) drawn: String,
}

/// Copies checkpoints to the witness directory.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Copying>>);

#[derive(Default)]
struct Copying {
    under_way: bool,
    /// A caller has timed out; until a copy completes, later callers do not wait.
    hangs: bool,
    next: Option<(Testimony, oneshot::Sender<()>)>,
}

impl Witness {
    /// Makes a copy, and waits for it for at most 5 seconds. Failures are logged.
    pub(super) async fn give(&self, testimony: Testimony) {
        let (done, copied) = oneshot::channel();
        let patience = {
            let mut copying = self.copying();
            let offered = (testimony, done);
            if copying
                .next
                .as_ref()
                .is_none_or(|waiting| !says_more(&waiting.0, &offered.0))
            {
                copying.next = Some(offered);
            }
            if !copying.under_way {
                let this = self.clone();
                let thread = std::thread::Builder::new().name("witness".into());
                if let Err(error) = thread.spawn(move || this.copy_all()) {
                    tracing::error!(%error, "could not copy a checkpoint to the witness directory");
                    return;
                }
                copying.under_way = true;
            }
            if copying.hangs { Duration::ZERO } else { PATIENCE }
        };
        // A copy replaced by a newer one need not be waited for either; its sender is dropped.
        if timeout(patience, copied).await.is_err() {
            let mut copying = self.copying();
            if copying.under_way && !copying.hangs {
                copying.hangs = true;
                tracing::error!(
                    "the witness directory does not respond; it will get the newest checkpoint once it does"
                );
            }
        }
    }

    /// Reads from the witness directory. Returns `None` if it does not respond within 5 seconds, and logs that.
    /// Until a copy completes, later calls return `None` without waiting.
    pub(super) fn read<T: Send + 'static>(
        &self,
        directory: &Path,
        read: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Option<T> {
        if self.copying().hangs {
            return None;
        }
        let told = in_time(directory, "nothing was compared with it", read);
        if told.is_none() {
            self.copying().hangs = true;
        }
        told
    }

    /// Returns whether the directory exists, or `None` if it does not respond.
    pub(in crate::service) fn is_there(&self, directory: &Path) -> Option<bool> {
        self.read(directory, Path::is_dir)
    }

    fn copy_all(&self) {
        loop {
            let next = {
                let mut copying = self.copying();
                copying.under_way = copying.next.is_some();
                copying.next.take()
            };
            let Some((testimony, done)) = next else { return };
            if let Err(error) = keep(&testimony) {
                let directory = testimony.witness.display();
                tracing::error!(%error, %directory, "could not copy the checkpoint to the witness directory");
            }
            self.copying().hangs = false;
            // The caller may no longer be waiting.
            let _ = done.send(());
        }
    }

    fn copying(&self) -> MutexGuard<'_, Copying> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `act` on the directory, on a thread that lives for as long as the directory hangs. Returns `None` if it
/// takes longer than 5 seconds, and logs that with the consequence, `otherwise`.
pub(super) fn in_time<T: Send + 'static>(
    directory: &Path,
    otherwise: &'static str,
    act: impl FnOnce(&Path) -> T + Send + 'static,
) -> Option<T> {
    let (done, acted) = mpsc::channel();
    let path = directory.to_owned();
    let thread = std::thread::Builder::new().name("witness".into());
    let started = thread.spawn(move || {
        // The caller may no longer be waiting.
        let _ = done.send(act(&path));
    });
    let told = started
        .map_err(|error| error.to_string())
        .and_then(|_| acted.recv_timeout(PATIENCE).map_err(|error| error.to_string()));
    told.inspect_err(|error| {
        let directory = directory.display();
        tracing::error!(%error, %directory, "the witness directory does not respond: {otherwise}");
    })
    .ok()
}

/// Writes a checkpoint to the witness directory. Never replaces an existing note: two different ones of the same
/// size are what a witness must preserve, so the second is put beside the first.
pub(super) fn keep(testimony: &Testimony) -> io::Result<()> {
    let Testimony { signed, drawn, .. } = testimony;
    let directory = witness_directory(&testimony.witness, &testimony.origin);
    fs::create_dir_all(&directory)?;
    let note = &[signed.note.as_bytes()];
    let name = format!("{:020}", signed.size);
    let path = directory.join(&name);
    match fs::read_to_string(&path) {
        Ok(there) if there == signed.note => Ok(()),
        // The same checkpoint by two keys: the old key's last one and the new key's first.
        Ok(there) if says_the_same(&there, &signed.note) => {
            durable::replace(&directory.join(format!("{name}-{drawn}")), note)
        }
        Ok(_) => {
            tracing::error!(file = %path.display(), "the witness has a different checkpoint over the same number of entries");
            durable::replace(&directory.join(format!("{name}-{drawn}")), note)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => durable::replace(&path, note),
        Err(error) => Err(error),
    }
}

fn says_more(one: &Testimony, other: &Testimony) -> bool {
    one.origin == other.origin && one.signed.size > other.signed.size
}

fn says_the_same(one: &str, other: &str) -> bool {
    unchecked(one).is_some_and(|one| unchecked(other) == Some(one))
}

/// Returns the directory in which the witness keeps a log's checkpoints, in files named by their size.
pub(super) fn witness_directory(witness: &Path, origin: &str) -> PathBuf {
    witness.join(origin.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn testimony(witness: &Path, size: u64) -> Testimony {
        Testimony {
            witness: witness.to_owned(),
            origin: "h/audit-log".into(),
            signed: Signed {
                size,
                note: format!("note {size}"),
            },
            drawn: format!("{size}"),
        }
    }

    /// Creates a FIFO. Opening it blocks until its other end is opened, like a file on an unreachable NFS server.
    fn hang(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }

    #[tokio::test]
    async fn a_directory_that_hangs_costs_a_moment_once_and_gets_the_newest_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = witness_directory(dir.path(), "h/audit-log");
        let file = |size: u64| folder.join(format!("{size:020}"));
        let witness = Witness::default();
        witness.give(testimony(dir.path(), 1)).await;
        assert_eq!(
            fs::read_to_string(file(1)).unwrap(),
            "note 1",
            "copied before `give` returns"
        );
        hang(&file(2));
        witness.give(testimony(dir.path(), 2)).await;
        let began = Instant::now();
        for size in [3, 5, 4] {
            witness.give(testimony(dir.path(), size)).await;
        }
        assert!(began.elapsed() < PATIENCE, "later callers do not wait");
        fs::write(file(2), "note 2").unwrap();
        let began = Instant::now();
        while !file(5).exists() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the newest is copied next"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!file(3).exists() && !file(4).exists(), "the newest covers them");
        witness.give(testimony(dir.path(), 6)).await;
        assert!(file(6).exists(), "waited for again");
    }
}
