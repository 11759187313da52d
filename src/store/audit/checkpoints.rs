//! Checkpoints, and the logs (names and keys) under which they were signed.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::row::millis;
use super::{from_column, to_column};
use crate::domain::audit::{EventType, LogKey, LogKeys};
use crate::domain::{Error, Result};

/// A log: a name and key under which checkpoints are or were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLog {
    /// Number of the log, counted from 1.
    pub number: i64,
    /// Name and public key.
    pub key: LogKey,
    /// Number of entries in the trail when the log began.
    pub first_size: u64,
}

/// Lists all logs so far, the current one last.
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

/// Returns the keys of [`known_logs`].
///
/// # Errors
/// As [`known_logs`].
pub fn known_keys(connection: &Connection) -> Result<LogKeys> {
    let logs = known_logs(connection)?;
    Ok(LogKeys::new(logs.into_iter().map(|log| log.key).collect()))
}

/// Begins a log: from here on checkpoints are signed under `key`.
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

/// Inserts a checkpoint signed by `key`, replacing one of the same log and size.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn insert_checkpoint(tx: &Connection, key: &LogKey, size: u64, note: &str, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO audit_checkpoint (size, log, note, at)
         VALUES (?1, (SELECT max(number) FROM audit_log WHERE verifier_key = ?4), ?2, ?3)",
    )?
    .execute(params![to_column(size), note, millis(at), key.to_string()])?;
    Ok(())
}

/// Finds the newest checkpoint of the current log: its size, time in milliseconds since 1970, and note.
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

/// Returns whether any checkpoint is stored, of any log.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn is_any_kept(connection: &Connection) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM audit_checkpoint)")?
        .query_row([], |row| row.get(0))?)
}

/// Returns whether any entry from sequence `signed` on records something other than an undeliverable webhook call
/// of type `call`.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn is_worth_signing(connection: &Connection, signed: u64, call: &str) -> Result<bool> {
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM audit_entry WHERE sequence >= ?1
               AND (event_type = ?2 AND details ->> '$.call' = ?3) IS NOT TRUE)",
        )?
        .query_row(
            params![to_column(signed), EventType::DeliveryDead.as_str(), call],
            |row| row.get(0),
        )?)
}

/// When a checkpoint was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedAt {
    /// Number of the log.
    pub log: i64,
    /// Number of entries that it covers.
    pub size: u64,
    /// When it was signed, in milliseconds since 1970.
    pub at_millis: i64,
}

/// Lists the checkpoints signed before `millis` (since 1970), log by log, smallest first, without the newest of
/// each log.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn find_signed_before(connection: &Connection, millis: i64) -> Result<Vec<SignedAt>> {
    Ok(connection
        .prepare_cached(
            "SELECT c.log, c.size, c.at FROM audit_checkpoint c
             JOIN (SELECT log, max(size) AS newest FROM audit_checkpoint GROUP BY log) USING (log)
             WHERE c.at < ?1 AND c.size < newest ORDER BY c.log, c.size",
        )?
        .query_map([millis], |row| {
            Ok(SignedAt {
                log: row.get(0)?,
                size: from_column(row.get(1)?),
                at_millis: row.get(2)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// Deletes checkpoints, each given by its size and log.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn delete_checkpoints(tx: &Connection, checkpoints: &[(u64, i64)]) -> Result<()> {
    let mut delete = tx.prepare_cached("DELETE FROM audit_checkpoint WHERE size = ?1 AND log = ?2")?;
    for (size, log) in checkpoints {
        delete.execute(params![to_column(*size), log])?;
    }
    Ok(())
}

/// A stored checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptNote {
    /// Number of entries that it covers.
    pub size: u64,
    /// Number of the log.
    pub log: i64,
    /// The signed note.
    pub note: String,
}

/// Finds the next checkpoint after `before`, ordered by size and log; without `before`, the first.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn find_note_after(connection: &Connection, before: Option<&KeptNote>) -> Result<Option<KeptNote>> {
    let (size, log) = before.map_or((-1, 0), |kept| (to_column(kept.size), kept.log));
    Ok(connection
        .prepare_cached(
            "SELECT size, log, note FROM audit_checkpoint WHERE (size, log) > (?1, ?2)
             ORDER BY size, log LIMIT 1",
        )?
        .query_row([size, log], |row| {
            Ok(KeptNote {
                size: from_column(row.get(0)?),
                log: row.get(1)?,
                note: row.get(2)?,
            })
        })
        .optional()?)
}
