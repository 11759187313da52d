//! A copy of the database while others read and write it.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::audit::Revived;
use super::checkpointer::wal_path;
use crate::domain::Result;

/// Pages copied between two words to `progress`: 4 MiB.
const PAGES_PER_STEP: i32 = 1024;
/// As [`super::open_connection`]: others may hold the file for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a database can't be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It, or the copy.
    #[error("{path}: {problem}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says. No `source`: it is in the text, and would be told twice.
        problem: rusqlite::Error,
    },
    /// What is told of it can't be read.
    #[error("the database can't be read: {0}")]
    Read(String),
    /// Whoever was told of the progress asked for the end.
    #[error("the copy was stopped")]
    Stopped,
}

/// How long a copy of the database may get: as long as its file and what waits in the WAL.
///
/// # Errors
/// What the operating system says.
pub fn copy_bytes(database: &Path) -> io::Result<u64> {
    let waiting = wal_path(database).metadata().map_or(0, |wal| wal.len());
    Ok(database.metadata()?.len() + waiting)
}

/// Copies the database at `source` into the file `to`, as it is at one instant: whatever is written meanwhile
/// is not in the copy. Takes no lock that a writer waits for; the WAL can't start over while it lasts. `read`
/// is given the same instant; `progress` is told the pages done and how many there are, and may stop it.
///
/// The copy is one file, without a WAL, and on disk.
///
/// # Errors
/// [`CopyError`]; then there may be an unfinished file.
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
    // The copy goes on in this transaction's snapshot; without it, each commit would make it start over.
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
            // For a moment, as a rule; and for as long as it lasts, the WAL can't start over.
            _ if moved.elapsed() < patience => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                let text = "another process does not let go of it; find out which, and try again";
                return Err(rusqlite::Error::SqliteFailure(busy, Some(text.to_owned())));
            }
        }
    }
}

/// Reads a database that nobody writes.
///
/// # Errors
/// [`CopyError`].
pub fn read_copy<T>(path: &Path, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T, CopyError> {
    let database = |problem| CopyError::Database {
        path: path.to_owned(),
        problem,
    };
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(database)?;
    read(&connection).map_err(|error| CopyError::Read(error.for_operator()))
}

/// The schema's version (`user_version`).
///
/// # Errors
/// [`crate::domain::Error::Internal`] when SQLite fails.
pub fn schema_version(db: &Connection) -> Result<u64> {
    Ok(db.query_row("PRAGMA user_version", [], |row| {
        row.get::<_, i64>(0)
            .map(|version| u64::try_from(version).unwrap_or(0))
    })?)
}

/// How many organisations and users there are.
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

/// API keys that a backup brings back: any of them may have been revoked since.
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
        assert!(error.to_string().contains("does not let go"), "{error}");
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
