//! The SQLite store: opened once, with many readers and a single writer.
//!
//! Only the store itself begins and ends transactions. `store/writer.rs` commits writes in groups;
//! `store/readers.rs` gives every read one snapshot; `store/checkpointer.rs` keeps the WAL short without
//! blocking the writer. The functions that read and change rows live in the files named after their tables, and
//! take the connection first.

mod access;
pub mod accounts;
pub mod api_keys;
pub mod approvals;
pub mod audit;
pub mod backup;
pub mod bindings;
pub mod challenges;
mod checkpointer;
pub mod configurations;
pub mod decisions;
pub mod deliveries;
pub mod expiry;
pub mod factors;
mod free_space;
pub mod installation;
pub mod integrity;
mod invalidation;
mod migrations;
mod open_error;
pub mod passkeys;
pub mod passwords;
pub mod places;
pub mod plugins;
mod readers;
pub mod requests;
pub mod revisions;
mod row;
pub mod sessions;
#[cfg(test)]
mod testing;
pub mod turns;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
/// The first argument of every store function; re-exported so that only the store depends on rusqlite.
pub use rusqlite::{Connection, Transaction};
use rusqlite::{OpenFlags, TransactionBehavior};

use crate::domain::{Error, Result};

pub use checkpointer::{Checkpoints, wal_bytes};
pub use free_space::{Space, free_space};
pub use invalidation::Touched;
pub use open_error::OpenError;
use readers::Readers;
use turns::{Party, Turns};
pub use writer::{QUEUE_LENGTH, WriteTerms, WriterStats};

/// The database's file name in the data directory.
pub const DATABASE_FILE: &str = "latchkey.db";

/// Handle to the store. Cheap to clone; dropping the last clone stops the writer once its queue is empty.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Declared in the order in which they must be dropped: writer, then checkpointer, then the lock.
    writer: writer::Writer,
    checkpointer: checkpointer::Checkpointer,
    readers: Readers,
    // A separate pool, so that a short read never waits for a long one.
    long_readers: Readers,
    long_turns: Turns,
    counts: Arc<audit::Counts>,
    path: PathBuf,
    _lock: File,
}

/// The operator's settings for the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether this process or an external replicator checkpoints the WAL.
    pub checkpoints: Checkpoints,
    /// Maximum number of changes waiting for the writer.
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
    /// Opens the database in `data_dir`, creating it if it is missing, and migrates its schema.
    ///
    /// # Errors
    /// [`OpenError`], before anything was changed.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        Self::open_with(data_dir, Options::default())
    }

    /// Opens the database like [`Store::open`], with the operator's settings.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(data_dir: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_as(data_dir, options, migrations::run)
    }

    /// Opens an existing database like [`Store::open_with`], but leaves its schema as it is.
    ///
    /// # Errors
    /// As [`Store::open`], and [`OpenError::Older`] for a database that would be migrated.
    pub fn open_unmigrated(data_dir: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_as(data_dir, options, |connection| migrations::check(connection))
    }

    fn open_as(
        data_dir: &Path,
        options: Options,
        migrate: impl FnOnce(&mut Connection) -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        let checkpoints = options.checkpoints;
        let lock = access::lock(data_dir)?;
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
        access::restrict_to_owner(&path)?;
        checkpointer::prepare(&connection, checkpoints).map_err(database)?;
        migrate(&mut connection)?;
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
    /// The error of `read`; [`Error::Internal`] when SQLite fails.
    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.inner.readers.read(read)
    }

    /// Runs a long read (a list, a page of the trail) on a thread that may block. At most one per core runs at a
    /// time; permits rotate among organisations, so that none waits behind another's backlog.
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
            // Held by the work itself, so that a client that disconnects does not free the permit early.
            let _turn = turn;
            store.inner.long_readers.read(read)
        })
        .await
        .map_err(|e| Error::Internal(format!("a read ended early: {e}")))?
    }

    /// Runs `change` in a transaction and returns once it is on disk. Waiting changes are committed
    /// together, but each one wholly or not at all, so `change` may be run twice and must not keep
    /// state between runs. It must not block: no password hashing, no guest code.
    ///
    /// # Errors
    /// The error of `change`, after rolling its changes back; [`Error::Busy`] when the queue is full;
    /// [`Error::Internal`] when SQLite fails, with nothing changed.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnMut(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_by(WriteTerms::NODE, change).await
    }

    /// [`Store::write`] on behalf of an organisation, which uses its own share of the queue: its crowd leaves places
    /// to the others. `None`: the operator.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn write_for<T: Send + 'static>(
        &self,
        party: impl Into<Party>,
        change: impl FnMut(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let terms = WriteTerms {
            party: party.into(),
            touched: Touched::Everybody,
        };
        self.write_by(terms, change).await
    }

    /// [`Store::write`] on behalf of an organisation, or for a change that affects the standing of known users
    /// only: cached reads of all other users stay valid.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn write_by<T: Send + 'static>(
        &self,
        terms: WriteTerms,
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
            .submit(WriteTerms::NODE, change)?
            .blocking_recv()
            .map_err(|_| Error::Internal("the writer ended".into()))?
    }

    /// Returns the number of commits so far; it grows before a commit's callers are answered. A value read after
    /// this call stays current as long as the number does not change, since only the writer writes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.writer.generation()
    }

    /// Returns the current generation and the users whose standing the commits since `generation` may have
    /// changed.
    #[must_use]
    pub fn touched_since(&self, generation: u64) -> (u64, Touched) {
        self.inner.writer.touched_since(generation)
    }

    /// Returns whether the last group of changes could not be committed (the disk is full, read-only or broken).
    /// Reset by the next successful commit.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.inner.writer.is_failing()
    }

    /// Returns whether the checkpointer thread has ended. If so, the WAL grows until the next start.
    #[must_use]
    pub fn has_lost_checkpointer(&self) -> bool {
        self.inner.checkpointer.has_ended()
    }

    /// Rewrites a page with its old content to test whether the disk accepts writes.
    ///
    /// # Errors
    /// [`Error::Internal`] when it does not.
    pub async fn probe(&self) -> Result<()> {
        self.write(|tx| Ok(writer::rewrite_page(tx)?)).await?;
        self.inner.writer.recovered();
        Ok(())
    }

    /// Path of the database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The cached counts of audit entries.
    #[must_use]
    pub fn counts(&self) -> Arc<audit::Counts> {
        Arc::clone(&self.inner.counts)
    }

    /// The writer's counters since the store was opened.
    #[must_use]
    pub fn writer_stats(&self) -> WriterStats {
        self.inner.writer.stats()
    }
}

fn open_connection(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(checkpointer::WRITER_PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(128);
    if flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An answered 200 is on disk (invariant 2).
        connection.pragma_update(None, "synchronous", "FULL")?;
        // The checkpointer thread checkpoints, so that the writer never waits for it.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // Overwrite deleted content: it may be a secret or an e-mail address.
        connection.pragma_update(None, "secure_delete", true)?;
        // In KiB (negative). Holds the inner pages of a million users' B-trees, which every group of resets walks.
        connection.pragma_update(None, "cache_size", -16 * 1024)?;
    }
    // Query plans must not depend on bound values: otherwise SQLite re-prepares every statement with a bound
    // range or LIMIT at each use (6 % of a reset).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // The schema has no triggers or views; one added by an attacker could drop writes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // No memory mapping: an unreadable sector must fail one request, not kill the process with SIGBUS.
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        // SQLite's messages name tables and columns, never bound values; they go only to the log.
        Self::Internal(format!("database: {error}"))
    }
}
