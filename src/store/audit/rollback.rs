//! Finds and ends what reappears when an older database replaces a newer one.

use std::collections::HashSet;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::Connection;

use super::super::row::{column, millis};
use super::from_column;
use super::verify::{VerifyError, open_to_read};
use crate::domain::Result;
use crate::domain::audit::EventType;

/// A session or factor that has reappeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revived {
    /// The user's e-mail address.
    pub email: String,
    /// `session`, or the kind of factor.
    pub kind: String,
    /// When it was created or enrolled.
    pub since: Timestamp,
}

const EVERYTHING: &str = "
    SELECT s.id, u.email, 'session', s.created_at FROM session s JOIN user u ON u.id = s.user_id
    UNION ALL
    SELECT f.id, u.email, f.kind, f.enrolled_at FROM factor f JOIN user u ON u.id = f.user_id
      WHERE f.suspended_at IS NULL
    ORDER BY 2, 3, 4";

/// Finds the sessions and factors that are in this database but not in the replaced one. Without the replaced
/// database, returns all: any of them may have been ended since.
///
/// # Errors
/// [`VerifyError::Database`] when the replaced database can't be read, [`VerifyError::Trail`] when this one can't.
pub fn find_revived(connection: &Connection, replaced: Option<&Path>) -> Result<Vec<Revived>, VerifyError> {
    let trail = |error: rusqlite::Error| VerifyError::Trail(error.to_string());
    let known: HashSet<Vec<u8>> = match replaced {
        None => HashSet::new(),
        Some(path) => everything_in(path)?.into_iter().map(|(id, _)| id).collect(),
    };
    let rows = everything(connection).map_err(trail)?;
    Ok(rows
        .into_iter()
        .filter(|(id, _)| !known.contains(id))
        .map(|(_, revived)| revived)
        .collect())
}

/// Ends all sessions, one-use tokens and pending enrolments, and the sessions of all tokens that another issuer
/// issued up to `at`, since the rollback may have moved `sessions_ended_at` back. Returns the number of sessions.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn clear_every_session(tx: &Connection, at: Timestamp) -> Result<usize> {
    tx.execute("DELETE FROM challenge", [])?;
    tx.execute("DELETE FROM enrolment", [])?;
    tx.execute(
        "UPDATE user SET sessions_ended_at = max(?1, coalesce(sessions_ended_at, ?1))",
        [millis(at)],
    )?;
    Ok(tx.execute("DELETE FROM session", [])?)
}

/// Finds the sequences of the entries that gave up checkpoints of earlier logs, oldest first.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_abandonments(connection: &Connection) -> Result<Vec<u64>> {
    find_of(
        connection,
        [EventType::AuditRollbackAccept, EventType::BackupRestore],
    )
}

/// Finds the sequences of the entries that record a change of the trail's key, oldest first.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_key_changes(connection: &Connection) -> Result<Vec<u64>> {
    find_of(connection, [EventType::AuditKeyChange; 2])
}

fn find_of(connection: &Connection, kinds: [EventType; 2]) -> Result<Vec<u64>> {
    Ok(connection
        .prepare_cached(
            "SELECT sequence FROM audit_entry WHERE organization_id IS NULL AND event_type IN (?1, ?2)
               AND at IS NOT NULL ORDER BY sequence",
        )?
        .query_map(kinds.map(EventType::as_str), |row| row.get(0).map(from_column))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Checks that the replaced database can be read for a comparison.
///
/// # Errors
/// [`VerifyError`] with the cause if it can't be.
pub fn try_replaced(path: &Path) -> Result<(), VerifyError> {
    everything_in(path).map(drop)
}

fn everything_in(path: &Path) -> Result<Vec<(Vec<u8>, Revived)>, VerifyError> {
    let database = |problem| VerifyError::Database {
        path: path.to_owned(),
        problem,
    };
    let connection = open_to_read(path).map_err(database)?;
    everything(&connection).map_err(database)
}

fn everything(connection: &Connection) -> rusqlite::Result<Vec<(Vec<u8>, Revived)>> {
    connection
        .prepare(EVERYTHING)?
        .query_map([], |row| {
            Ok((
                row.get(0)?,
                Revived {
                    email: row.get(1)?,
                    kind: row.get(2)?,
                    since: column(row, 3)?,
                },
            ))
        })?
        .collect()
}
