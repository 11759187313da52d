//! A snapshot of the trail on a separate connection, for long-running work in the process that owns the data
//! directory or in another one. SQLite's WAL lets it read while others write.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::verify::{VerifyError, harmless, refuse_missing};
use crate::store::migrations;

/// A snapshot, held as long as this value lives. The WAL grows meanwhile, but no writer waits.
#[derive(Debug)]
pub struct Beside {
    connection: Connection,
}

impl Beside {
    /// Takes the snapshot. Changes nothing, and needs no lock.
    ///
    /// # Errors
    /// [`VerifyError`] when the file is not a database or has another schema version: a database that a running
    /// server may be using is never migrated.
    pub fn open(path: &Path) -> Result<Self, VerifyError> {
        refuse_missing(path)?;
        let open = || {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            harmless(&connection)?;
            connection.execute_batch("BEGIN")?;
            // The snapshot is taken by the first read.
            let version: usize =
                connection.query_row("SELECT user_version FROM pragma_user_version", [], |row| {
                    row.get(0)
                })?;
            Ok((connection, version))
        };
        let (connection, version) = open().map_err(|problem| VerifyError::Database {
            path: path.to_owned(),
            problem,
        })?;
        if version != migrations::newest() {
            return Err(VerifyError::Trail(format!(
                "{} has schema version {version}, this latchkey reads version {}; use the latchkey that serves it",
                path.display(),
                migrations::newest()
            )));
        }
        Ok(Self { connection })
    }

    /// The connection that reads the snapshot.
    #[must_use]
    pub fn db(&self) -> &Connection {
        &self.connection
    }
}
