//! Copies the database while others read and write it.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::audit::Revived;
use super::checkpointer::wal_path;
use crate::domain::Result;

/// Pages copied between two calls of `progress`: 4 MiB.
const PAGES_PER_STEP: i32 = 1024;
/// How long to wait for others that hold the file, as in [`super::open_connection`].
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a database can't be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// SQLite failed on the database or on the copy.
    #[error("{path}: {problem}")]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's error. Not a `source`: the message includes it, and would show it twice.
        problem: rusqlite::Error,
    },
    /// The caller's `read` failed.
    #[error("the database can't be read: {0}")]
    Read(String),
    /// The caller's `progress` stopped the copy.
    #[error("the copy was stopped")]
    Stopped,
}

/// Returns the maximum size of a copy in bytes: that of the database file and its WAL.
///
/// # Errors
/// The operating system's error.
pub fn copy_bytes(database: &Path) -> io::Result<u64> {
    let waiting = wal_path(database).metadata().map_or(0, |wal| wal.len());
    Ok(database.metadata()?.len() + waiting)
}

/// Copies a snapshot of the database at `source` into the file `to`; later writes are not in the copy. Takes no
/// lock that a writer waits for, but the WAL can't start over meanwhile. `read` reads the same snapshot.
/// `progress` is called with the number of pages copied and their total, and may stop the copy.
///
/// The copy is a single file without a WAL, synced to disk.
///
/// # Errors
/// [`CopyError`]; an unfinished file may remain.
pub fn copy_database<T>(
    source: &Path,
    to: &Path,
    read: impl FnOnce(&Connection) -> Result<T>,
    progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<T, CopyError> {
    let of = |path: &Path| {
        let path = path.to_owned();
        move |problem| CopyError::Database { path, problem }
    };
    let connection =
        Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(of(source))?;
    connection.busy_timeout(PATIENCE).map_err(of(source))?;
    // The copy reads this transaction's snapshot; without it, each commit would make it start over.
    let snapshot = connection.unchecked_transaction().map_err(of(source))?;
    let told = read(&snapshot).map_err(|error| CopyError::Read(error.for_operator()))?;
    let mut copy = Connection::open(to).map_err(of(to))?;
    copy.pragma_update(None, "synchronous", "FULL").map_err(of(to))?;
    let backup = Backup::new(&snapshot, &mut copy).map_err(of(to))?;
    if copy_pages(&backup, PATIENCE, progress)
        .map_err(of(to))?
        .is_break()
    {
        return Err(CopyError::Stopped);
    }
    drop(backup);
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
        .map_err(of(to))?;
    copy.close().map_err(|(_, error)| of(to)(error))?;
    Ok(told)
}

fn copy_pages(
    backup: &Backup<'_, '_>,
    patience: Duration,
    mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> rusqlite::Result<ControlFlow<()>> {
    let mut moved = Instant::now();
    loop {
        let step = backup.step(PAGES_PER_STEP)?;
        let pages = backup.progress();
        let done = u64::try_from(pages.pagecount - pages.remaining).unwrap_or(0);
        if progress(done, u64::try_from(pages.pagecount).unwrap_or(0)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        match step {
            StepResult::Done => return Ok(ControlFlow::Continue(())),
            StepResult::More => moved = Instant::now(),
            // Busy: usually for a moment, but not to be waited for indefinitely, since meanwhile the WAL can't
            // start over.
            _ if moved.elapsed() < patience => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                let text = "another process keeps it locked; find out which, and try again";
                return Err(rusqlite::Error::SqliteFailure(busy, Some(text.to_owned())));
            }
        }
    }
}

/// Reads a database without changing it; other processes may write it meanwhile.
///
/// # Errors
/// [`CopyError`].
pub fn read_copy<T>(path: &Path, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T, CopyError> {
    let database = |problem| CopyError::Database {
        path: path.to_owned(),
        problem,
    };
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(database)?;
    connection.busy_timeout(PATIENCE).map_err(database)?;
    read(&connection).map_err(|error| CopyError::Read(error.for_operator()))
}

/// Returns the schema version (`user_version`).
///
/// # Errors
/// [`crate::domain::Error::Internal`] when SQLite fails.
pub fn schema_version(db: &Connection) -> Result<u64> {
    Ok(db.query_row("PRAGMA user_version", [], |row| {
        row.get::<_, i64>(0)
            .map(|version| u64::try_from(version).unwrap_or(0))
    })?)
}

/// Counts organisations and users, in this order.
///
/// # Errors
/// As [`schema_version`].
pub fn count_people(db: &Connection) -> Result<(u64, u64)> {
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0).map(i64::unsigned_abs));
    Ok((
        count("SELECT count(*) FROM organization")?,
        count("SELECT count(*) FROM user")?,
    ))
}

/// Finds the unrevoked API keys in a restored backup: any of them may have been revoked since.
///
/// # Errors
/// As [`schema_version`].
pub fn find_live_api_keys(db: &Connection) -> Result<Vec<Revived>> {
    let mut statement = db.prepare(
        "SELECT u.email, k.created_at FROM api_key k JOIN user u ON u.id = k.created_by
         WHERE k.revoked_at IS NULL ORDER BY 1, 2",
    )?;
    Ok(statement
        .query_map([], |row| {
            Ok(Revived {
                email: row.get(0)?,
                kind: "API key".to_owned(),
                since: super::row::column(row, 1)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path) -> Connection {
        let database = Connection::open(path).expect("opens");
        database
            .execute_batch("CREATE TABLE kept (text TEXT); INSERT INTO kept VALUES ('here')")
            .expect("the statements are SQL");
        database
    }

    #[test]
    fn a_copy_that_another_process_holds_is_given_up() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let source = database(&folder.path().join("source"));
        let to = folder.path().join("copy");
        let holder = Connection::open(&to).expect("opens");
        holder
            .execute_batch("BEGIN EXCLUSIVE")
            .expect("nobody else has it");
        let mut copy = Connection::open(&to).expect("opens");
        copy.busy_timeout(Duration::ZERO).expect("set");
        let backup = Backup::new(&source, &mut copy).expect("begun");
        let patience = Duration::from_millis(50);
        let ended = copy_pages(&backup, patience, |_, _| ControlFlow::Continue(()));
        let error = ended.expect_err("it is held");
        assert!(error.to_string().contains("keeps it locked"), "{error}");
    }

    #[test]
    fn a_copy_stops_when_it_is_asked_to_and_may_be_as_long_as_file_and_wal() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let source = folder.path().join("latchkey.db");
        let kept = database(&source);
        let length = || source.metadata().expect("it is there").len();
        assert_eq!(copy_bytes(&source).expect("there"), length());
        kept.execute_batch("PRAGMA journal_mode = WAL; INSERT INTO kept VALUES ('waits')")
            .expect("the statements are SQL");
        assert!(copy_bytes(&source).expect("there") > length(), "the WAL counts");
        assert!(copy_bytes(&folder.path().join("nowhere")).is_err());
        let copy = folder.path().join("copy");
        let stopped = copy_database(&source, &copy, |_| Ok(()), |_, _| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(CopyError::Stopped)));
        let done = copy_database(&source, &copy, |_| Ok(()), |_, _| ControlFlow::Continue(()));
        done.expect("copied");
    }
}
