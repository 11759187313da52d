//! Is the database itself in order, and is it the one that we made?

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use super::{OpenError, migrations};
use crate::domain::{Error, Result};

/// What SQLite finds damaged, indexes compared with their tables, and what of the schema is not as our
/// migrations make it: at most a hundred places of the former; empty when all is sound. Reads the whole file.
///
/// # Errors
/// [`crate::domain::Error::Internal`] when SQLite can't read it at all.
pub fn find_damage(db: &Connection) -> Result<Vec<String>> {
    let mut statement = db.prepare("PRAGMA integrity_check(100)")?;
    let found: Vec<String> = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut damage: Vec<_> = found.into_iter().filter(|line| line != "ok").collect();
    damage.extend(find_schema_changes(db)?.changes);
    Ok(damage)
}

/// What is not as our migrations make it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaChanges {
    /// One sentence each.
    pub changes: Vec<String>,
    /// The schema is newer than this version knows: only what no version makes was looked for.
    pub is_newer: bool,
}

/// Compares the schema with what our migrations make. Whoever may write the file could add a trigger that
/// drops entries, or an index that leaves some out.
///
/// # Errors
/// As [`find_damage`].
pub fn find_schema_changes(db: &Connection) -> Result<SchemaChanges> {
    let version: usize = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let expected = migrations::made_by(version).map_err(|error| Error::Internal(error.to_string()))?;
    let found = objects(db)?;
    let Some(expected) = expected else {
        return Ok(SchemaChanges {
            changes: foreign_code(&found),
            is_newer: true,
        });
    };
    let expected = objects(&expected)?;
    let mut changes = Vec::new();
    for (object, made) in &expected {
        let (r#type, name) = object;
        match found.get(object) {
            None => changes.push(format!("the {type} {name} is missing")),
            Some(sql) if sql != made => changes.push(format!("the {type} {name} is not as it was made")),
            Some(_) => {}
        }
    }
    for (r#type, name) in found.keys().filter(|object| !expected.contains_key(*object)) {
        changes.push(format!("the {type} {name} is none of ours"));
    }
    Ok(SchemaChanges {
        changes,
        is_newer: false,
    })
}

/// No version makes triggers or views: they would run, or be read, in our place.
pub(super) fn refuse_foreign_code(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let path = path.to_owned();
    match objects(connection).map(|found| foreign_code(&found)) {
        Ok(code) => match code.into_iter().next() {
            None => Ok(()),
            Some(what) => Err(OpenError::ForeignCode { path, what }),
        },
        Err(error) => Err(OpenError::Migration(format!("{error:?}"))),
    }
}

/// Tables, indexes, triggers and views by kind and name, with the table and the text that made them.
type Objects = BTreeMap<(String, String), (String, String)>;

fn objects(db: &Connection) -> Result<Objects> {
    let mut statement = db.prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")?;
    let rows = statement.query_map([], |row| {
        let sql: String = row.get(3)?;
        Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, plain(&sql))))
    })?;
    let all: Objects = rows.collect::<rusqlite::Result<_>>()?;
    // What ANALYZE counts.
    Ok(all
        .into_iter()
        .filter(|((_, name), _)| !name.starts_with("sqlite_stat"))
        .collect())
}

/// A statement without comments and line breaks: a version may word a comment in another way.
fn plain(sql: &str) -> String {
    let lines = sql
        .lines()
        .map(|line| line.split_once("--").map_or(line, |(code, _)| code));
    lines
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}

fn foreign_code(found: &Objects) -> Vec<String> {
    found
        .keys()
        .filter(|(r#type, _)| matches!(r#type.as_str(), "trigger" | "view"))
        .map(|(r#type, name)| format!("the {type} {name} is none of ours"))
        .collect()
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
pub fn check_file(path: &Path) -> Result<Vec<String>, String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| e.to_string())?;
    find_damage(&connection).map_err(|e| format!("{e:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    #[test]
    fn what_migrations_make_is_in_order_and_whatever_is_added_or_changed_is_named() {
        let changes = |sql: &str| {
            let db = testing::database();
            db.execute_batch(sql).expect("the change is SQL");
            find_damage(&db).expect("readable")
        };
        assert_eq!(changes("ANALYZE"), [""; 0]);
        for (sql, named) in [
            (
                "CREATE TRIGGER quiet BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(IGNORE); END",
                "the trigger quiet is none of ours",
            ),
            ("CREATE VIEW shown AS SELECT 1", "the view shown is none of ours"),
            (
                "CREATE TABLE beside (a) STRICT",
                "the table beside is none of ours",
            ),
            (
                "DROP INDEX audit_entry_by_time",
                "the index audit_entry_by_time is missing",
            ),
            (
                "DROP INDEX audit_entry_by_time; CREATE INDEX audit_entry_by_time ON audit_entry \
                 (organization_id, at) WHERE at IS NOT NULL AND sequence <> 7",
                "the index audit_entry_by_time is not as it was made",
            ),
            (
                "ALTER TABLE audit_entry ADD COLUMN note TEXT",
                "the table audit_entry is not as it was made",
            ),
        ] {
            let sql = sql.replace("(a) STRICT", "(a INTEGER) STRICT");
            assert_eq!(changes(&sql), [named], "{sql}");
        }
        assert!(
            !changes("PRAGMA user_version = 0").is_empty(),
            "no version at all"
        );
        let newer = "PRAGMA user_version = 999; CREATE VIEW shown AS SELECT 1";
        assert_eq!(changes(newer), ["the view shown is none of ours"]);
    }

    /// The index hides an entry, and the schema says that it does not.
    #[test]
    fn an_index_that_leaves_something_out_is_found() {
        let db = testing::database();
        db.execute_batch(
            "INSERT INTO audit_head (organization_id, sequence, entries) VALUES (x'01', 0, 1);
             CREATE TABLE other (organization_id BLOB, at INTEGER) STRICT;
             DROP TABLE other;
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, 'at IS NOT NULL', 'at IS NOT NULL AND sequence <> 7')
               WHERE name = 'audit_entry_by_time';
             PRAGMA writable_schema = RESET;
             REINDEX audit_entry_by_time;
             INSERT INTO audit_entry (sequence, hashes, organization_id, organization_index, at)
               VALUES (7, x'', x'01', 0, 5);
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, ' AND sequence <> 7', '')
               WHERE name = 'audit_entry_by_time';
             PRAGMA writable_schema = RESET;",
        )
        .expect("the change is SQL");
        let found = find_damage(&db).expect("readable");
        assert!(
            found.iter().any(|line| line.contains("audit_entry_by_time")),
            "{found:?}"
        );
    }
}
