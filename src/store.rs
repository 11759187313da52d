//! The SQLite store: opened once, read by many, written by one.
//!
//! Only this file begins and ends transactions. `store/writer.rs` commits writes in groups;
//! `store/checkpointer.rs` keeps the WAL short without making a writer wait. The verbs that read
//! and change rows live in the files named after what they keep, and take the connection first.

pub mod accounts;
pub mod api_keys;
pub mod approvals;
pub mod audit;
pub mod backup;
pub mod bindings;
pub mod challenges;
mod checkpointer;
pub mod decisions;
pub mod deliveries;
pub mod factors;
pub mod installation;
pub mod integrity;
mod migrations;
mod open_error;
pub mod passkeys;
pub mod passwords;
mod places;
pub mod plugins;
pub mod requests;
pub mod revisions;
mod room;
mod row;
pub mod sessions;
pub mod sweep;
#[cfg(test)]
mod testing;
mod touched;
pub mod turns;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rusqlite::config::DbConfig;
/// What verbs take first; services name them from here, so that only the store knows rusqlite.
pub use rusqlite::{Connection, Transaction};
use rusqlite::{OpenFlags, TransactionBehavior};

use crate::domain::{Error, Result};

pub use checkpointer::{Checkpoints, wal_bytes};
pub use open_error::OpenError;
pub use room::{Space, free_space};
pub use touched::Touched;
use turns::{Party, Turns};
pub use writer::{QUEUE_LENGTH, Terms, WriterStats};

/// The database's file name in the data directory.
pub const DATABASE_FILE: &str = "latchkey.db";
const LOCK_FILE: &str = "latchkey.lock";

/// The store. Cheap to clone; the last clone dropped ends the writer after what it has queued.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Declared in the order in which they must end: writer before checkpointer before the lock.
    writer: writer::Writer,
    checkpointer: checkpointer::Checkpointer,
    readers: Readers,
    // Apart, so that no short read ever waits for a long one.
    long_readers: Readers,
    long_turns: Turns,
    counts: Arc<audit::Counts>,
    path: PathBuf,
    _lock: File,
}

/// How the operator wants the database kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Who moves the WAL into the database.
    pub checkpoints: Checkpoints,
    /// Changes that may wait for the writer.
    pub queue_length: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpoints: Checkpoints::default(),
            queue_length: QUEUE_LENGTH,
        }
    }
}

impl Store {
    /// Opens the database in `data_dir`, makes it if it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`], before anything was changed.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        Self::open_with(data_dir, Options::default())
    }

    /// [`Store::open`] as the operator configured it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(data_dir: &Path, options: Options) -> Result<Self, OpenError> {
        let checkpoints = options.checkpoints;
        let lock = lock(data_dir)?;
        let path = data_dir.join(DATABASE_FILE);
        let database = |problem| OpenError::Database {
            path: path.clone(),
            problem,
        };
        let mut connection = open_connection(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        )
        .map_err(database)?;
        restrict_to_owner(&path)?;
        checkpointer::prepare(&connection, checkpoints).map_err(database)?;
        migrations::run(&mut connection)?;
        integrity::refuse_foreign_code(&connection, &path)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let readers = |count| {
            let opened = (0..count).map(|_| open_connection(&path, OpenFlags::SQLITE_OPEN_READ_ONLY));
            let opened = opened.collect::<rusqlite::Result<_>>();
            opened.map(Readers::new).map_err(database)
        };
        let (readers, long_readers) = (readers(cores * 2)?, readers(cores)?);
        let checkpoint = open_connection(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(database)?;
        checkpointer::prepare(&checkpoint, checkpoints).map_err(database)?;
        let checkpointer = checkpointer::Checkpointer::start(checkpoint, &path, checkpoints);
        let writer = writer::Writer::start(connection, checkpointer.signal(), options.queue_length);
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                checkpointer,
                readers,
                long_readers,
                long_turns: Turns::new(cores),
                counts: Arc::default(),
                path,
                _lock: lock,
            }),
        })
    }

    /// Runs a short read on one consistent snapshot, on the caller's thread.
    ///
    /// # Errors
    /// What `read` returns; [`Error::Internal`] when SQLite fails.
    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.inner.readers.read(read)
    }

    /// Runs a long read (a list, a page of the trail) on a thread that may block. As many at a time as there are
    /// cores, and no organisation waits behind the crowd of another one.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn read_long<T: Send + 'static>(
        &self,
        party: Party,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.inner.long_turns.take(party).await;
        let store = self.clone();
        tokio::task::spawn_blocking(move || {
            // Held by the work: who hangs up frees no connection.
            let _turn = turn;
            store.inner.long_readers.read(read)
        })
        .await
        .map_err(|e| Error::Internal(format!("a read ended early: {e}")))?
    }

    /// Runs `change` in a transaction and answers once it is on disk. Waiting changes are committed
    /// together, but each one wholly or not at all, so `change` may be run twice and must not keep
    /// state between runs. It must not block: no hashing of passwords, no guest code.
    ///
    /// # Errors
    /// What `change` returns, after rolling its changes back; [`Error::Busy`] when the queue is full;
    /// [`Error::Internal`] when SQLite fails, with nothing changed.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnMut(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_by(Terms::NODE, change).await
    }

    /// [`Store::write`] for an organisation, or where it is known whose standing `change` may alter: what was read of
    /// everybody else stays good.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn write_by<T: Send + 'static>(
        &self,
        terms: Terms,
        change: impl FnMut(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner
            .writer
            .submit(terms, change)?
            .await
            .map_err(|_| Error::Internal("the writer ended".into()))?
    }

    /// [`Store::write`] for the command line and start-up, where no async runtime runs.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_blocking<T: Send + 'static>(
        &self,
        change: impl FnMut(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner
            .writer
            .submit(Terms::NODE, change)?
            .blocking_recv()
            .map_err(|_| Error::Internal("the writer ended".into()))?
    }

    /// Grows with every commit, before it is answered. What was read after this number was taken is what the
    /// database says for as long as it stands: only the writer writes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.writer.generation()
    }

    /// Whose standing the commits after a generation may have altered, and which generation it is now.
    #[must_use]
    pub fn touched_since(&self, generation: u64) -> (u64, Touched) {
        self.inner.writer.touched_since(generation)
    }

    /// Whether the last group of changes could not be committed: the disk is full, read-only or broken. It is
    /// so until one is.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.inner.writer.is_failing()
    }

    /// Whether the thread ended that moves what was committed into the database: its WAL grows until the next start.
    #[must_use]
    pub fn has_lost_checkpointer(&self) -> bool {
        self.inner.checkpointer.has_ended()
    }

    /// Puts a page on disk that says what it said before, to find out whether that is possible.
    ///
    /// # Errors
    /// [`Error::Internal`] when it isn't.
    pub async fn probe(&self) -> Result<()> {
        self.write(|tx| {
            let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok(tx.pragma_update(None, "user_version", version)?)
        })
        .await?;
        self.inner.writer.recovered();
        Ok(())
    }

    /// The database's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Counts of the trail's entries that are remembered.
    #[must_use]
    pub fn counts(&self) -> Arc<audit::Counts> {
        Arc::clone(&self.inner.counts)
    }

    /// What the writer has done so far.
    #[must_use]
    pub fn writer_stats(&self) -> WriterStats {
        self.inner.writer.stats()
    }
}

/// Read-only connections, handed out one caller at a time.
#[derive(Debug)]
struct Readers {
    idle: Mutex<Vec<Connection>>,
    returned: Condvar,
}

impl Readers {
    fn new(connections: Vec<Connection>) -> Self {
        Self {
            idle: Mutex::new(connections),
            returned: Condvar::new(),
        }
    }

    /// On one consistent snapshot.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.with(|connection| {
            let snapshot = Snapshot::begin(connection)?;
            let value = read(connection);
            snapshot.end()?;
            value
        })
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> T) -> T {
        let lease = Lease {
            readers: self,
            connection: Some(self.take()),
        };
        read(
            lease
                .connection
                .as_ref()
                .expect("a lease holds its connection until it is dropped"),
        )
    }

    fn take(&self) -> Connection {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match idle.pop() {
                Some(connection) => return connection,
                None => idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Gives the connection back even when the read panics.
struct Lease<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            self.readers.returned.notify_one();
        }
    }
}

/// A read transaction. `BEGIN` and `COMMIT` come from the cache of statements: parsed anew each time they
/// would cost as much as a look-up.
struct Snapshot<'a>(&'a Connection);

impl<'a> Snapshot<'a> {
    fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(connection))
    }

    /// A read has nothing to commit; ending it releases the snapshot for the checkpointer.
    fn end(self) -> rusqlite::Result<()> {
        self.0.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // Only when the read panicked: the connection must not go back with a snapshot open.
        if !self.0.is_autocommit() {
            self.0.execute_batch("ROLLBACK").ok();
        }
    }
}

fn lock(data_dir: &Path) -> Result<File, OpenError> {
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

/// Password hashes and encrypted secrets are nobody else's business on a shared host.
fn restrict_to_owner(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|problem| OpenError::Io {
        path: path.to_owned(),
        problem,
    })
}

fn open_connection(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(checkpointer::WRITER_PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(128);
    if flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An answered 200 is on disk (invariant 2).
        connection.pragma_update(None, "synchronous", "FULL")?;
        // The checkpointer does it, so that no writer waits for it.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // What was deleted, a secret or somebody's address, is overwritten.
        connection.pragma_update(None, "secure_delete", true)?;
        // KiB: the inner pages of a million users' trees, which every group of resets walks.
        connection.pragma_update(None, "cache_size", -16 * 1024)?;
    }
    // Plans must not hang on bound values: without this, every statement with a bound range or LIMIT is
    // parsed anew at each use (6 % of a reset).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // None of ours; one that somebody else put there could drop what is to be written.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Read, not mapped: a sector that can't be read is an error of one request, not the end of the process.
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        // SQLite's texts name tables and columns, never bound values; they go to the log alone.
        Self::Internal(format!("database: {error}"))
    }
}
