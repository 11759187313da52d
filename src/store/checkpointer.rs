//! Moves committed pages from the WAL into the database, beside the writer instead of inside it:
//! on the measured floor that doubles the resets per second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde::{Deserialize, Serialize};

/// Below so many frames (pages of 4 KiB) to be moved, a checkpoint is not worth its fsyncs. Above, commits wait for
/// the disk that a checkpoint keeps busy: little at a time holds them up least. With 2,048 instead their p99 at half
/// load is three times as long.
const FRAMES_SOFT: i64 = 256;
/// A WAL of so many frames starts over. In every pause between two groups it does so by itself, once all of it has
/// been moved; where there is no pause, the writer makes one.
const FRAMES_LONG: i64 = 8192;
/// So few frames the writer moves itself then.
const FRAMES_LEFT: i64 = 1024;
/// How often one look goes after what is written meanwhile: each time less is left.
const ROUNDS: usize = 4;
/// Above this size, in bytes, the file is cut when it starts over: a long read had made it grow.
const FILE_HARD_BYTES: u64 = 256 * 1024 * 1024;
/// At most one look at the WAL in this time.
const PAUSE: Duration = Duration::from_millis(5);
/// With no commit for this long, what is left is checkpointed.
const IDLE: Duration = Duration::from_secs(30);

/// How often, and how long each time, the writer waits for readers when it starts the WAL over. Reads take
/// microseconds; one that takes longer, a backup for example, is waited for at a later look. SQLite's own waiting,
/// of whole milliseconds, would hold up every change.
const READER_LOOKS: i32 = 100;
const READER_LOOK: Duration = Duration::from_micros(50);
/// The same, at the end.
const LAST_PATIENCE: Duration = Duration::from_millis(50);
/// How long writers wait for one another: only tools from outside are ever waited for.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(10);
/// Above this size of the WAL, in bytes, something is said.
const WAL_ALARM_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of a frame: a page and its header (SQLite's file format, §4.1).
const FRAME_BYTES: u64 = 4096 + 24;

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

/// What writer and checkpointer tell each other.
#[derive(Clone, Debug)]
pub(super) struct Signal {
    committed: SyncSender<()>,
    start_over: Arc<AtomicBool>,
    /// Whether its end has been told.
    told: Arc<AtomicBool>,
}

impl Signal {
    /// One that nobody listens to.
    #[cfg(test)]
    pub(super) fn untold() -> (Self, Receiver<()>) {
        let (committed, listener) = sync_channel(1);
        let signal = Self {
            committed,
            start_over: Arc::default(),
            told: Arc::default(),
        };
        (signal, listener)
    }

    /// Tells the checkpointer that something was committed. Never blocks.
    pub(super) fn notify(&self) {
        // Full means that it has been told already.
        if let Err(TrySendError::Disconnected(())) = self.committed.try_send(())
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::error!("the checkpointer thread ended, and the WAL grows: restart latchkey");
        }
    }

    /// Starts the WAL over where the checkpointer has moved nearly all of it. The writer calls it between two
    /// groups: nobody else finds a moment in which nothing is being written, and a WAL that never starts
    /// over grows until somebody has to wait for the whole of it.
    pub(super) fn start_over_if_due(&self, writer: &Connection) {
        if !self.start_over.swap(false, Ordering::Acquire) {
            return;
        }
        let file = writer.path().map(wal_path);
        let size = file.map_or(0, |wal| std::fs::metadata(wal).map_or(0, |m| m.len()));
        let mode = if size > FILE_HARD_BYTES {
            "TRUNCATE"
        } else {
            "RESTART"
        };
        let failed = |error| tracing::warn!(%error, "the writer waits longer or shorter than it should");
        writer.busy_handler(Some(await_readers)).unwrap_or_else(failed);
        checkpoint(writer, mode);
        writer.busy_timeout(WRITER_PATIENCE).unwrap_or_else(failed);
    }
}

/// Whether the writer looks once more for readers to have ended.
fn await_readers(looks: i32) -> bool {
    std::thread::sleep(READER_LOOK);
    looks < READER_LOOKS
}

/// The WAL of a database.
pub(super) fn wal_path(database: impl AsRef<Path>) -> PathBuf {
    let mut wal = database.as_ref().as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

/// How many bytes the WAL of a database takes on the disk.
#[must_use]
pub fn wal_bytes(database: &Path) -> u64 {
    std::fs::metadata(wal_path(database)).map_or(0, |wal| wal.len())
}

/// Tells when the WAL has grown: once, and again whenever it is twice as long.
struct Alarm {
    above: u64,
    told: u64,
}

impl Alarm {
    fn above(bytes: u64) -> Self {
        Self {
            above: bytes,
            told: 0,
        }
    }

    fn is_due(&mut self, bytes: u64) -> bool {
        if bytes <= self.above {
            self.told = 0; // it has started over
        }
        let is_due = bytes > self.above.max(self.told * 2);
        if is_due {
            self.told = bytes;
        }
        is_due
    }
}

impl Checkpointer {
    pub(super) fn start(connection: Connection, database: &Path, checkpoints: Checkpoints) -> Self {
        let (signal, committed) = sync_channel(1);
        let start_over = Arc::new(AtomicBool::new(false));
        let signal = Signal {
            committed: signal,
            start_over: Arc::clone(&start_over),
            told: Arc::default(),
        };
        let database = database.to_owned();
        let mut alarm = Alarm::above(WAL_ALARM_BYTES);
        let thread = std::thread::Builder::new()
            .name("checkpointer".into())
            .spawn(move || match checkpoints {
                Checkpoints::Latchkey => run(&connection, &start_over, &committed, &mut alarm),
                Checkpoints::External => watch(&database, &committed, &mut alarm),
            })
            .expect("the operating system gives the checkpointer a thread");
        Self {
            signal: Some(signal),
            thread: Some(thread),
        }
    }

    /// Whether its thread is gone: nobody moves the WAL any more.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
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
fn watch(database: &Path, committed: &Receiver<()>, alarm: &mut Alarm) {
    loop {
        match committed.recv_timeout(IDLE) {
            Ok(()) => std::thread::sleep(PAUSE),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let bytes = wal_bytes(database);
        if alarm.is_due(bytes) {
            tracing::warn!(
                bytes,
                "nobody moves the WAL into the database: does the replicator run?"
            );
        }
    }
}

fn run(connection: &Connection, start_over: &AtomicBool, committed: &Receiver<()>, alarm: &mut Alarm) {
    if let Err(error) = connection.busy_timeout(LAST_PATIENCE) {
        tracing::warn!(%error, "the last checkpoint waits longer than it should");
    }
    let mut dirty = false;
    // A reader may keep the WAL from starting over; it is not asked again before as much was added.
    let mut long = FRAMES_LONG;
    loop {
        match committed.recv_timeout(IDLE) {
            Ok(()) => {
                dirty = true;
                if let Some(mut wal) = checkpoint(connection, "NOOP") {
                    let bytes = wal.frames.unsigned_abs() * FRAME_BYTES;
                    if alarm.is_due(bytes) {
                        tracing::warn!(
                            bytes,
                            "the WAL grows until the disk is full, since somebody reads an old state of the database: a \
                             backup or an export under way, most likely one that hangs; end it"
                        );
                    }
                    if wal.frames < long - FRAMES_LONG {
                        long = FRAMES_LONG; // it has started over
                    }
                    if wal.frames - wal.moved >= FRAMES_SOFT {
                        wal = checkpoint(connection, "PASSIVE").unwrap_or(wal);
                    }
                    if wal.frames >= long && catch_up(connection, wal) {
                        long = wal.frames + FRAMES_LONG;
                        start_over.store(true, Ordering::Release);
                    }
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

/// Moves frames until so few are left that the writer can move them. False: there are too many yet.
fn catch_up(connection: &Connection, mut wal: Wal) -> bool {
    for _ in 0..ROUNDS {
        if wal.frames - wal.moved <= FRAMES_LEFT {
            return true;
        }
        let Some(now) = checkpoint(connection, "PASSIVE") else {
            return false;
        };
        wal = now;
    }
    wal.frames - wal.moved <= FRAMES_LEFT
}

/// What a checkpoint found and left, in frames.
#[derive(Clone, Copy)]
struct Wal {
    frames: i64,
    moved: i64,
}

/// Runs a checkpoint of that mode. `None`: it failed, and the WAL keeps what was committed; the next look
/// tries again.
fn checkpoint(connection: &Connection, mode: &str) -> Option<Wal> {
    let mut statement = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"));
    let wal = statement
        .as_mut()
        .map_err(|e| e.to_string())
        .and_then(|statement| {
            let wal = statement.query_row([], |row| {
                Ok(Wal {
                    frames: row.get(1)?,
                    moved: row.get(2)?,
                })
            });
            wal.map_err(|e| e.to_string())
        });
    wal.inspect_err(|error| tracing::warn!(error, mode, "checkpoint failed"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Writes until the WAL has well over that many bytes.
    fn write_past(database: &Connection, path: &Path, bytes: u64) {
        database
            .execute_batch("CREATE TABLE IF NOT EXISTS kept (bytes BLOB)")
            .unwrap();
        while wal_bytes(path) < 2 * bytes {
            database
                .execute("INSERT INTO kept VALUES (zeroblob(60000))", [])
                .unwrap();
        }
    }

    #[test]
    fn a_reader_that_stays_is_told_of_once_the_wal_has_grown_and_again_at_each_doubling() {
        const LOW: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let open = || {
            let connection = Connection::open(&path).unwrap();
            let off = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0";
            connection.execute_batch(off).unwrap();
            connection
        };
        let (database, reader, looking) = (open(), open(), open());
        write_past(&database, &path, LOW / 8);
        reader.execute_batch("BEGIN; SELECT count(*) FROM kept").unwrap();
        write_past(&database, &path, LOW);
        let (committed, listener) = sync_channel(1);
        committed.send(()).unwrap();
        drop(committed);
        let mut alarm = Alarm::above(LOW);
        run(&looking, &AtomicBool::new(false), &listener, &mut alarm);
        assert!(alarm.told > LOW, "{}", alarm.told);
        assert!(wal_bytes(&path) > LOW, "the reader is still there");

        let mut alarm = Alarm::above(LOW);
        let told =
            [LOW, LOW + 1, LOW + 2, 2 * LOW + 3, 4 * LOW, LOW, LOW + 1].map(|bytes| alarm.is_due(bytes));
        assert_eq!(told, [false, true, false, true, false, false, true]);
    }

    #[test]
    fn a_thread_that_panicked_has_ended() {
        let checkpointer = Checkpointer {
            signal: None,
            thread: Some(std::thread::spawn(|| panic!("on purpose"))),
        };
        let began = Instant::now();
        while !checkpointer.has_ended() {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        let checkpointer = Checkpointer::start(connection, &path, Checkpoints::Latchkey);
        assert!(!checkpointer.has_ended());
    }
}
