//! Is the database itself in order?

use rusqlite::Connection;

use crate::domain::Result;

/// What SQLite finds damaged, at most a hundred places; empty when it is sound. Reads the whole file.
///
/// # Errors
/// [`crate::domain::Error::Internal`] when SQLite can't read it at all.
pub fn find_damage(db: &Connection) -> Result<Vec<String>> {
    let mut statement = db.prepare("PRAGMA quick_check(100)")?;
    let found: Vec<String> = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(found.into_iter().filter(|line| line != "ok").collect())
}

/// Rows whose foreign key names nothing, by table.
///
/// # Errors
/// As [`find_damage`].
pub fn find_orphans(db: &Connection) -> Result<Vec<String>> {
    let mut statement = db.prepare("PRAGMA foreign_key_check")?;
    Ok(statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// [`find_damage`] in a database file that nobody else uses.
///
/// # Errors
/// What SQLite says when it can't read it at all.
pub fn check_file(path: &std::path::Path) -> Result<Vec<String>, String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| e.to_string())?;
    find_damage(&connection).map_err(|e| format!("{e:?}"))
}
