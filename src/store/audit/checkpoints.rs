//! Checkpoints, and the names and keys under which they were signed.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::row::millis;
use super::{from_column, to_column};
use crate::domain::audit::{LogKey, LogKeys};
use crate::domain::{Error, Result};

/// A name and key under which checkpoints are or were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLog {
    /// Counts from 1.
    pub number: i64,
    /// Name and key.
    pub key: LogKey,
    /// How many entries there were when it began.
    pub first_size: u64,
}

/// Every name and key so far, the one in use last.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails or a key is damaged.
pub fn known_logs(connection: &Connection) -> Result<Vec<KnownLog>> {
    connection
        .prepare_cached("SELECT number, verifier_key, first_size FROM audit_log ORDER BY number")?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, from_column(row.get(2)?)))
        })?
        .map(|row| {
            let (number, key, first_size) = row?;
            let key = LogKey::parse(&key).map_err(|e| Error::Internal(format!("audit_log: {e}")))?;
            Ok(KnownLog {
                number,
                key,
                first_size,
            })
        })
        .collect()
}

/// The keys of [`known_logs`].
///
/// # Errors
/// As [`known_logs`].
pub fn known_keys(connection: &Connection) -> Result<LogKeys> {
    let logs = known_logs(connection)?;
    Ok(LogKeys::new(logs.into_iter().map(|log| log.key).collect()))
}

/// Begins a log: checkpoints are signed under `key` from here on.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn begin_log(tx: &Connection, key: &LogKey, first_size: u64, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO audit_log (origin, verifier_key, first_size, started_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        key.origin(),
        key.to_string(),
        to_column(first_size),
        millis(at)
    ])?;
    Ok(())
}

/// Keeps a checkpoint of the log in use; one over as many entries is replaced.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn insert_checkpoint(tx: &Connection, size: u64, note: &str, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO audit_checkpoint (size, log, note, at)
         VALUES (?1, (SELECT max(number) FROM audit_log), ?2, ?3)",
    )?
    .execute(params![to_column(size), note, millis(at)])?;
    Ok(())
}

/// The newest checkpoint of the log in use, with its size and time.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn find_newest_checkpoint(connection: &Connection) -> Result<Option<(u64, i64, String)>> {
    Ok(connection
        .prepare_cached(
            "SELECT size, at, note FROM audit_checkpoint
             WHERE log = (SELECT max(number) FROM audit_log) ORDER BY size DESC LIMIT 1",
        )?
        .query_row([], |row| Ok((from_column(row.get(0)?), row.get(1)?, row.get(2)?)))
        .optional()?)
}

/// Whether any checkpoint was ever kept, of whichever log.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn is_any_kept(connection: &Connection) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM audit_checkpoint)")?
        .query_row([], |row| row.get(0))?)
}

/// Every checkpoint, smallest first.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn notes(connection: &Connection) -> Result<Vec<(u64, String)>> {
    Ok(connection
        .prepare_cached("SELECT size, note FROM audit_checkpoint ORDER BY size, log")?
        .query_map([], |row| Ok((from_column(row.get(0)?), row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?)
}
