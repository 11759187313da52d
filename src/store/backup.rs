//! A copy of the database while others read and write it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::audit::Revived;
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
}

/// Copies the database at `source` into the file `to`, as it is at one instant: whatever is written meanwhile
/// is not in the copy. Takes no lock that a writer waits for; the WAL can't start over while it lasts. `read`
/// is given the same instant; `progress` is told the pages done and how many there are.
///
/// The copy is one file, without a WAL, and on disk.
///
/// # Errors
/// [`CopyError`]; then there may be an unfinished file.
pub fn copy_database<T>(
    source: &Path,
    to: &Path,
    read: impl FnOnce(&Connection) -> Result<T>,
    mut progress: impl FnMut(u64, u64),
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
    let told = read(&snapshot).map_err(|error| CopyError::Read(format!("{error:?}")))?;
    let mut copy = Connection::open(to).map_err(of(to))?;
    copy.pragma_update(None, "synchronous", "FULL").map_err(of(to))?;
    {
        let backup = Backup::new(&snapshot, &mut copy).map_err(of(to))?;
        loop {
            let step = backup.step(PAGES_PER_STEP).map_err(of(to))?;
            let pages = backup.progress();
            let done = u64::try_from(pages.pagecount - pages.remaining).unwrap_or(0);
            progress(done, u64::try_from(pages.pagecount).unwrap_or(0));
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // Locked for a moment by somebody else.
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
        .map_err(of(to))?;
    copy.close().map_err(|(_, error)| of(to)(error))?;
    Ok(told)
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
    read(&connection).map_err(|error| CopyError::Read(format!("{error:?}")))
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
