//! The keys that the database belongs to.

use rusqlite::{Connection, OptionalExtension as _};

use crate::domain::Result;

/// Finds the fingerprint of the keys that the database was first opened with; `None` in a new database.
pub fn find_key_fingerprint(db: &Connection) -> Result<Option<String>> {
    let mut statement = db.prepare_cached("SELECT key_fingerprint FROM installation")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?)
}

/// Stores the fingerprint of the keys; fails if there is one already.
pub fn insert_key_fingerprint(tx: &Connection, fingerprint: &str) -> Result<()> {
    tx.prepare_cached("INSERT INTO installation (only, key_fingerprint) VALUES (1, ?1)")?
        .execute([fingerprint])?;
    Ok(())
}
