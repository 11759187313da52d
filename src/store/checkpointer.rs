//! Moves committed pages from the WAL into the database, beside the writer instead of inside it:
//! on the measured floor that doubles the resets per second.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde::{Deserialize, Serialize};

/// Below this size of the WAL, in bytes, a checkpoint is not worth its fsyncs.
const WAL_SOFT_BYTES: u64 = 16 * 1024 * 1024;
/// Above this size, in bytes, the checkpoint also makes the WAL start over, for which writers wait.
const WAL_HARD_BYTES: u64 = 256 * 1024 * 1024;
/// At most one look at the WAL in this time.
const PAUSE: Duration = Duration::from_millis(200);
/// With no commit for this long, what is left is checkpointed.
const IDLE: Duration = Duration::from_secs(30);

/// How long a checkpoint waits for a reader. Where it makes the WAL start over, writers wait with it, so it is
/// short: a reader that takes longer, a backup for example, is waited for at the next look.
const READER_PATIENCE: Duration = Duration::from_millis(50);
/// Above this size of the WAL, in bytes, something is said where nobody else moves it.
const WAL_ALARM_BYTES: u64 = 1024 * 1024 * 1024;

/// Who moves the WAL into the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpoints {
    /// This store.
    #[default]
    Latchkey,
    /// Somebody who has to see every page first: a replicator.
    External,
}

/// Makes a connection leave the WAL alone when it ends, where somebody else has to see it first.
pub(super) fn prepare(connection: &Connection, checkpoints: Checkpoints) -> rusqlite::Result<()> {
    if checkpoints == Checkpoints::External {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    }
    Ok(())
}

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
    pub(super) fn start(connection: Connection, database: &Path, checkpoints: Checkpoints) -> Self {
        let (signal, committed) = sync_channel(1);
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let wal = PathBuf::from(wal);
        let thread = std::thread::Builder::new()
            .name("checkpointer".into())
            .spawn(move || match checkpoints {
                Checkpoints::Latchkey => run(&connection, &wal, &committed),
                Checkpoints::External => watch(&wal, &committed),
            })
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

/// Somebody else does it; says so when nobody does.
fn watch(wal: &Path, committed: &Receiver<()>) {
    let mut warned = 0;
    loop {
        match committed.recv_timeout(IDLE) {
            Ok(()) => std::thread::sleep(PAUSE),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let size = std::fs::metadata(wal).map_or(0, |m| m.len());
        if size > WAL_ALARM_BYTES.max(warned * 2) {
            tracing::warn!(
                bytes = size,
                "nobody moves the WAL into the database: does the replicator run?"
            );
            warned = size;
        }
    }
}

fn run(connection: &Connection, wal: &Path, committed: &Receiver<()>) {
    if let Err(error) = connection.busy_timeout(READER_PATIENCE) {
        tracing::warn!(%error, "checkpoints wait longer than they should");
    }
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
