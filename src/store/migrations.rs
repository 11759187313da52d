//! Forward-only migrations, embedded and run in one transaction with `user_version`.

use rusqlite::Connection;
use rusqlite_migration::{M, MigrationDefinitionError, Migrations};

use super::OpenError;

const MIGRATIONS: &[M<'static>] = &[M::up(include_str!("schema/0001_initial.sql"))];

/// Migrates the schema to the newest version.
///
/// # Errors
/// [`OpenError::Newer`] for a database with a newer schema, [`OpenError::Migration`] otherwise.
pub fn run(connection: &mut Connection) -> Result<(), OpenError> {
    match Migrations::from_slice(MIGRATIONS).to_latest(connection) {
        Ok(()) => Ok(()),
        Err(rusqlite_migration::Error::MigrationDefinition(
            MigrationDefinitionError::DatabaseTooFarAhead,
        )) => {
            let found = connection
                .pragma_query_value(None, "user_version", |row| row.get(0))
                .unwrap_or(0);
            Err(OpenError::Newer {
                found,
                known: MIGRATIONS.len(),
            })
        }
        Err(error) => Err(OpenError::Migration(error.to_string())),
    }
}

/// Checks that the schema is the newest version, without changing it.
///
/// # Errors
/// [`OpenError::Older`] or [`OpenError::Newer`] if it is not, [`OpenError::Migration`] if it can't be read.
pub fn check(connection: &Connection) -> Result<(), OpenError> {
    let found = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| OpenError::Migration(error.to_string()))?;
    let known = MIGRATIONS.len();
    match found {
        _ if found < known => Err(OpenError::Older { found, known }),
        _ if found > known => Err(OpenError::Newer { found, known }),
        _ => Ok(()),
    }
}

/// The schema version that this program reads and writes.
pub fn newest() -> usize {
    MIGRATIONS.len()
}

/// Returns an empty in-memory database with the schema of `version`; `None` for an unknown version.
///
/// # Errors
/// [`OpenError::Migration`] when memory is exhausted.
pub fn made_by(version: usize) -> Result<Option<Connection>, OpenError> {
    if version > MIGRATIONS.len() {
        return Ok(None);
    }
    let failed = |error: String| OpenError::Migration(error);
    let mut connection = Connection::open_in_memory().map_err(|e| failed(e.to_string()))?;
    Migrations::from_slice(MIGRATIONS)
        .to_version(&mut connection, version)
        .map_err(|e| failed(e.to_string()))?;
    Ok(Some(connection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_is_valid_sql() {
        Migrations::from_slice(MIGRATIONS)
            .validate()
            .expect("migrations apply to an empty database");
    }

    #[test]
    fn a_newer_database_is_refused_with_both_versions() {
        let mut connection = Connection::open_in_memory().expect("in-memory database");
        connection
            .pragma_update(None, "user_version", 999)
            .expect("set the version");
        let error = run(&mut connection).expect_err("a newer database is refused");
        assert!(matches!(error, OpenError::Newer { found: 999, .. }), "{error}");
    }
}
