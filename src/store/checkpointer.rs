//! Moves committed pages from the WAL into the database, beside the writer instead of inside it:
//! on the measured floor that doubles the resets per second.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

/// Below this size of the WAL, in bytes, a checkpoint is not worth its fsyncs.
const WAL_SOFT_BYTES: u64 = 16 * 1024 * 1024;
/// Above this size, in bytes, the checkpoint also makes the WAL start over, for which writers wait.
const WAL_HARD_BYTES: u64 = 256 * 1024 * 1024;
/// At most one look at the WAL in this time.
const PAUSE: Duration = Duration::from_millis(200);
/// With no commit for this long, what is left is checkpointed.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Checkpointer {
    signal: Option<Signal>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the checkpointer that something was committed. Never blocks.
#[derive(Clone, Debug)]
pub(super) struct Signal(SyncSender<()>);

impl Signal {
    pub(super) fn notify(&self) {
        // Full means that it has been told already.
        if let Err(TrySendError::Disconnected(())) = self.0.try_send(()) {
            tracing::error!("the checkpointer thread ended");
        }
    }
}

impl Checkpointer {
    pub(super) fn start(connection: Connection, database: &Path) -> Self {
        let (signal, committed) = sync_channel(1);
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let wal = PathBuf::from(wal);
        let thread = std::thread::Builder::new()
            .name("checkpointer".into())
            .spawn(move || run(&connection, &wal, &committed))
            .expect("the operating system gives the checkpointer a thread");
        Self {
            signal: Some(Signal(signal)),
            thread: Some(thread),
        }
    }

    pub(super) fn signal(&self) -> Signal {
        self.signal
            .clone()
            .expect("the signal is there until the checkpointer is dropped")
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.signal.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpointer thread panicked");
        }
    }
}

fn run(connection: &Connection, wal: &Path, committed: &Receiver<()>) {
    let mut dirty = false;
    loop {
        match committed.recv_timeout(IDLE) {
            Ok(()) => {
                dirty = true;
                let size = std::fs::metadata(wal).map_or(0, |m| m.len());
                if size > WAL_SOFT_BYTES {
                    checkpoint(
                        connection,
                        if size > WAL_HARD_BYTES {
                            "TRUNCATE"
                        } else {
                            "PASSIVE"
                        },
                    );
                }
                std::thread::sleep(PAUSE);
            }
            Err(RecvTimeoutError::Timeout) if dirty => {
                checkpoint(connection, "PASSIVE");
                dirty = false;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                checkpoint(connection, "TRUNCATE");
                return;
            }
        }
    }
}

fn checkpoint(connection: &Connection, mode: &str) {
    let result = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
    if let Err(error) = result {
        // The WAL keeps what was committed; the next look tries again.
        tracing::warn!(%error, mode, "checkpoint failed");
    }
}
