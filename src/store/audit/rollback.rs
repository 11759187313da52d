//! What an older database brings back when it is put in place of a newer one.

use std::collections::HashSet;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::Connection;

use super::super::row::column;
use super::verify::{VerifyError, open_to_read};
use crate::domain::Result;

/// Something of a user's that is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revived {
    /// The user's e-mail address.
    pub email: String,
    /// What it is: `session`, or the kind of factor.
    pub kind: String,
    /// Since when it has been there.
    pub since: Timestamp,
}

const EVERYTHING: &str = "
    SELECT s.id, u.email, 'session', s.created_at FROM session s JOIN user u ON u.id = s.user_id
    UNION ALL
    SELECT f.id, u.email, f.kind, f.enrolled_at FROM factor f JOIN user u ON u.id = f.user_id
      WHERE f.suspended_at IS NULL
    ORDER BY 2, 3, 4";

/// The sessions and factors that are here and not in the database that was replaced; without that one,
/// all that are here: any of them may have been ended since.
///
/// # Errors
/// [`VerifyError`] when the replaced database can't be read;
/// [`Error::Internal`](crate::domain::Error::Internal), as its text, when this one can't.
pub fn find_revived(connection: &Connection, replaced: Option<&Path>) -> Result<Vec<Revived>, VerifyError> {
    let trail = |error: rusqlite::Error| VerifyError::Trail(error.to_string());
    let known: HashSet<Vec<u8>> = match replaced {
        None => HashSet::new(),
        Some(path) => {
            let database = |source| VerifyError::Database {
                path: path.to_owned(),
                source,
            };
            let newer = open_to_read(path).map_err(database)?;
            let rows = everything(&newer).map_err(database)?;
            rows.into_iter().map(|(id, _)| id).collect()
        }
    };
    let rows = everything(connection).map_err(trail)?;
    Ok(rows
        .into_iter()
        .filter(|(id, _)| !known.contains(id))
        .map(|(_, revived)| revived)
        .collect())
}

/// Ends every session, every login under way and every half-done enrolment; says how many sessions.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn clear_every_session(tx: &Connection) -> Result<usize> {
    tx.execute("DELETE FROM challenge", [])?;
    tx.execute("DELETE FROM enrolment", [])?;
    Ok(tx.execute("DELETE FROM session", [])?)
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
