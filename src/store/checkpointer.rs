//! Checkpoints the WAL into the database on a separate thread instead of the writer's: measured with SQLite alone,
//! this doubles the resets per second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde::{Deserialize, Serialize};

/// Minimum number of unmoved frames (pages of 4 KiB) for a checkpoint; fewer are not worth its fsyncs. Not larger,
/// because commits wait while a checkpoint keeps the disk busy: with 2,048, their p99 latency at half load is
/// three times as long.
const FRAMES_SOFT: i64 = 256;
/// Number of frames from which the writer makes the WAL start over. In a pause between two groups it starts over
/// by itself, once all frames have been moved; under constant load there is no pause unless the writer makes one.
const FRAMES_LONG: i64 = 8192;
/// Maximum number of unmoved frames when it starts over; the writer moves these itself.
const FRAMES_LEFT: i64 = 1024;
/// Maximum number of successive checkpoints to catch up with concurrent writes; each leaves fewer frames.
const ROUNDS: usize = 4;
/// Size in bytes above which the WAL file is truncated when it starts over; it grows that large during a long
/// read.
const FILE_HARD_BYTES: u64 = 256 * 1024 * 1024;
/// Minimum time between two looks at the WAL. After a checkpoint that took longer, the disk is left to commits for as
/// long again: on one whose fsyncs take four milliseconds, a node then does an eighth more under full load.
const PAUSE: Duration = Duration::from_millis(5);
/// Maximum of that time: a shutdown waits for it.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Time without a commit after which the remaining frames are checkpointed.
const IDLE: Duration = Duration::from_secs(30);

/// Maximum number of times that the writer waits for readers, [`READER_LOOK`] each, when it starts the WAL over.
/// Most reads take microseconds; after a longer one, such as a backup, it is tried again later. SQLite's own busy
/// handler waits for whole milliseconds, which would delay every change.
const READER_LOOKS: i32 = 100;
const READER_LOOK: Duration = Duration::from_micros(50);
/// How long the last checkpoint, at shutdown, waits for readers.
const LAST_PATIENCE: Duration = Duration::from_millis(50);
/// How long a connection waits for another one's lock: with a single writer, only external tools ever hold one.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(10);
/// WAL size in bytes above which a warning is logged.
const WAL_ALARM_BYTES: u64 = 1024 * 1024 * 1024;
/// Minimum time between two warnings of checkpoints that fail: the disk that is full may be that of the log.
const FAILURES_TOLD_EVERY: Duration = Duration::from_secs(60);
/// Size of a frame in bytes: a page and its header (SQLite's file format, §4.1).
const FRAME_BYTES: u64 = 4096 + 24;

/// Mode of a checkpoint that moves nothing and tells how long the WAL is.
const LOOK: &str = "NOOP";

/// Who checkpoints the WAL into the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpoints {
    /// This store.
    #[default]
    Latchkey,
    /// An external replicator, which has to see every page first.
    External,
}

/// Disables the checkpoint that SQLite runs when a connection closes, if a replicator has to see the WAL first.
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

/// The channel between writer and checkpointer.
#[derive(Clone, Debug)]
pub(super) struct Signal {
    committed: SyncSender<()>,
    start_over: Arc<AtomicBool>,
    /// Whether the end of the checkpointer thread has been logged.
    told: Arc<AtomicBool>,
}

impl Signal {
    /// Returns a signal without a checkpointer, and its receiver.
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

    /// Notifies the checkpointer of a commit. Never blocks.
    pub(super) fn notify(&self) {
        // A full channel means that it has been notified already.
        if let Err(TrySendError::Disconnected(())) = self.committed.try_send(())
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::error!("the checkpointer thread ended, and the WAL grows: restart latchkey");
        }
    }

    /// Makes the WAL start over if the checkpointer has asked for it, having moved nearly all frames. The writer
    /// calls it between two groups: only the writer knows a moment in which nothing is being written, and a WAL
    /// that never starts over grows until a caller has to wait for a checkpoint of all of it.
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
        let failed = |error| tracing::warn!(%error, "could not set how long the writer waits for locks");
        writer.busy_handler(Some(await_readers)).unwrap_or_else(failed);
        if let Err(error) = checkpoint(writer, mode) {
            tracing::warn!(error, mode, "checkpoint failed");
        }
        writer.busy_timeout(WRITER_PATIENCE).unwrap_or_else(failed);
    }
}

/// Busy handler of the writer: waits once, and returns whether to check for readers again.
fn await_readers(looks: i32) -> bool {
    std::thread::sleep(READER_LOOK);
    looks < READER_LOOKS
}

/// Returns the path of a database's WAL.
pub(super) fn wal_path(database: impl AsRef<Path>) -> PathBuf {
    let mut wal = database.as_ref().as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

/// Returns the size of a database's WAL file in bytes; 0 if it can't be determined.
#[must_use]
pub fn wal_bytes(database: &Path) -> u64 {
    std::fs::metadata(wal_path(database)).map_or(0, |wal| wal.len())
}

/// Decides when to warn about the size of the WAL: once above a limit, and again at each doubling.
struct Alarm {
    /// The limit in bytes.
    above: u64,
    /// Size in bytes at the last warning; 0 if there was none since the WAL was within the limit.
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

/// Decides when to log that checkpoints fail, and that they work again. There may be a failure every few
/// milliseconds.
#[derive(Default)]
struct Failures {
    told_at: Option<Instant>,
    /// Whether the last thing told is that they fail.
    is_told: bool,
}

impl Failures {
    /// Returns whether to log a failure: the first, and then one in every [`FAILURES_TOLD_EVERY`].
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self
            .told_at
            .is_none_or(|told| now.duration_since(told) >= FAILURES_TOLD_EVERY);
        if is_due {
            (self.told_at, self.is_told) = (Some(now), true);
        }
        is_due
    }

    /// Returns whether to log that checkpoints work again.
    fn are_over(&mut self) -> bool {
        std::mem::take(&mut self.is_told)
    }
}

/// The checkpointer's connection, and what it has told of it.
struct Mover<'a> {
    connection: &'a Connection,
    failures: Failures,
}

impl Mover<'_> {
    /// Runs a checkpoint in the given mode. Returns `None` if it failed: the WAL still holds all commits, and the
    /// next look tries again.
    fn checkpoint(&mut self, mode: &str) -> Option<Wal> {
        let wal = checkpoint(self.connection, mode);
        match &wal {
            // A look that moves nothing does not show that frames can be moved again.
            Ok(_) if mode != LOOK && self.failures.are_over() => tracing::info!("checkpoints work again"),
            Err(error) if self.failures.is_due(Instant::now()) => {
                tracing::warn!(
                    error,
                    mode,
                    "checkpoint failed, and is tried again: check the disk"
                );
            }
            Ok(_) | Err(_) => {}
        }
        wal.ok()
    }

    /// Moves frames until at most [`FRAMES_LEFT`] are left for the writer. Returns false if there are still more.
    fn catch_up(&mut self, mut wal: Wal) -> bool {
        for _ in 0..ROUNDS {
            if wal.frames - wal.moved <= FRAMES_LEFT {
                return true;
            }
            let Some(now) = self.checkpoint("PASSIVE") else {
                return false;
            };
            wal = now;
        }
        wal.frames - wal.moved <= FRAMES_LEFT
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

    /// Returns whether the thread has ended, so that nothing checkpoints the WAL any more.
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

/// Watches the size of a WAL that a replicator checkpoints, and warns when it grows too large.
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
                "the WAL is not being checkpointed: check that the replicator is running"
            );
        }
    }
}

fn run(connection: &Connection, start_over: &AtomicBool, committed: &Receiver<()>, alarm: &mut Alarm) {
    if let Err(error) = connection.busy_timeout(LAST_PATIENCE) {
        tracing::warn!(%error, "could not set how long the last checkpoint waits for readers");
    }
    let mut mover = Mover {
        connection,
        failures: Failures::default(),
    };
    let mut dirty = false;
    // A reader may keep the WAL from starting over; do not try again before another `FRAMES_LONG` frames.
    let mut long = FRAMES_LONG;
    loop {
        match committed.recv_timeout(IDLE) {
            Ok(()) => {
                dirty = true;
                let began = Instant::now();
                if let Some(mut wal) = mover.checkpoint(LOOK) {
                    let bytes = wal.frames.unsigned_abs() * FRAME_BYTES;
                    if alarm.is_due(bytes) {
                        tracing::warn!(
                            bytes,
                            "the WAL grows until the disk is full, because a reader holds an old state of the database: a \
                             backup or an export under way, most likely one that hangs; end it"
                        );
                    }
                    if wal.frames < long - FRAMES_LONG {
                        long = FRAMES_LONG; // it has started over
                    }
                    if wal.frames - wal.moved >= FRAMES_SOFT {
                        wal = mover.checkpoint("PASSIVE").unwrap_or(wal);
                    }
                    if wal.frames >= long && mover.catch_up(wal) {
                        long = wal.frames + FRAMES_LONG;
                        start_over.store(true, Ordering::Release);
                    }
                }
                std::thread::sleep(began.elapsed().clamp(PAUSE, PAUSE_MAX));
            }
            Err(RecvTimeoutError::Timeout) if dirty => {
                mover.checkpoint("PASSIVE");
                dirty = false;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                mover.checkpoint("TRUNCATE");
                return;
            }
        }
    }
}

/// The result of a checkpoint: frames in the WAL, and how many of them have been moved.
#[derive(Clone, Copy)]
struct Wal {
    frames: i64,
    moved: i64,
}

/// Runs a checkpoint in the given mode.
fn checkpoint(connection: &Connection, mode: &str) -> Result<Wal, String> {
    let mut statement = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"));
    statement
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
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes until the WAL is at least twice `bytes` long.
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
    fn checkpoints_that_fail_are_told_of_once_a_minute_and_when_they_work_again() {
        let begin = Instant::now();
        let mut failures = Failures::default();
        assert!(!failures.are_over(), "nothing failed yet");
        // A look every five milliseconds, for two minutes and a bit.
        let told: Vec<_> = (0..125_000)
            .step_by(5)
            .filter(|look| failures.is_due(begin + Duration::from_millis(*look)))
            .take(4)
            .collect();
        assert_eq!(told, [0, 60_000, 120_000]);
        assert_eq!([failures.are_over(), failures.are_over()], [true, false], "once");
        // A disk on which every second one works.
        let after = |secs| begin + Duration::from_secs(secs);
        assert!(!failures.is_due(after(126)), "told of 6 s before");
        assert!(!failures.are_over(), "what was not told of is not over");
        assert!(failures.is_due(after(180)));
        assert!(failures.are_over());
    }

    /// A look that works between two checkpoints that fail is not told of as their end.
    #[test]
    fn checkpoints_work_again_only_once_one_that_moves_frames_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let database = Connection::open(&path).unwrap();
        database
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
            .unwrap();
        write_past(&database, &path, 1 << 20);
        let mut mover = Mover {
            connection: &database,
            failures: Failures::default(),
        };
        database.execute_batch("BEGIN").unwrap();
        database.execute("INSERT INTO kept VALUES (x'00')", []).unwrap();
        assert!(mover.checkpoint("PASSIVE").is_none(), "not within a transaction");
        assert!(mover.failures.is_told);
        database.execute_batch("COMMIT").unwrap();
        assert!(mover.checkpoint(LOOK).is_some());
        assert!(mover.failures.is_told, "nothing was moved");
        assert!(mover.checkpoint("PASSIVE").is_some());
        assert!(!mover.failures.is_told);
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
