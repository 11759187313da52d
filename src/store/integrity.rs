//! Integrity checks: is the file sound, and does its schema match the migrations?

use std::path::Path;

use rusqlite::Connection;

use super::{OpenError, migrations};
use crate::domain::{Error, Result};

/// Finds damage: whatever SQLite reports (at most 100 findings, indexes compared with their tables), and every
/// difference between the schema and the migrations. Empty when all is sound. Reads the whole file.
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

/// Differences between the schema and the migrations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaChanges {
    /// One sentence each.
    pub changes: Vec<String>,
    /// True if the schema is newer than this version knows: then only triggers and views were looked for, which
    /// no version creates.
    pub is_newer: bool,
}

/// Compares the schema with the migrations. Anyone with write access to the file could add a trigger that drops
/// entries, or an index that omits some.
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
    let mut missing = objects(&expected)?;
    let mut changes = Vec::new();
    for object in found {
        // Each expected object matches one row: a second row with the same content is reported.
        if let Some(at) = missing.iter().position(|made| *made == object) {
            missing.swap_remove(at);
        } else {
            changes.push((object.r#type, object.name, "is not part of the schema"));
        }
    }
    for Object { r#type, name, .. } in missing {
        let same = |(other, called, _): &&mut (String, String, &str)| *other == r#type && *called == name;
        match changes.iter_mut().find(same) {
            Some((_, _, what)) => *what = "differs from the schema",
            None => changes.push((r#type, name, "is missing")),
        }
    }
    changes.sort();
    Ok(SchemaChanges {
        changes: changes
            .into_iter()
            .map(|(r#type, name, what)| format!("the {type} {name} {what}"))
            .collect(),
        is_newer: false,
    })
}

/// Refuses a database with triggers or views. No version creates any; one would run, or be read, instead of the
/// program's own statements and tables.
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

/// A row of `sqlite_schema`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    r#type: String,
    name: String,
    table: String,
    /// The `CREATE` statement: all that SQLite goes by when it opens the file.
    sql: String,
}

fn objects(db: &Connection) -> Result<Vec<Object>> {
    let mut statement = db.prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")?;
    let rows = statement.query_map([], |row| {
        Ok(Object {
            r#type: row.get(0)?,
            name: row.get(1)?,
            table: row.get(2)?,
            sql: plain(&row.get::<_, String>(3)?),
        })
    })?;
    let mut all = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    all.retain(|object| !EXPECTED_BESIDES.contains(&object.sql.as_str()));
    Ok(all)
}

/// Tables created by ANALYZE, and by Litestream when it replicates the database (`fixtures/litestream`).
const EXPECTED_BESIDES: [&str; 4] = [
    "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
    "CREATE TABLE _litestream_lock (id INTEGER)",
];

/// Strips comments and line breaks from a statement, since versions may word a comment differently.
fn plain(sql: &str) -> String {
    let lines = sql
        .lines()
        .map(|line| line.split_once("--").map_or(line, |(code, _)| code));
    lines
        .flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Finds triggers, views and unknown statements. Goes by the statement's text too, as SQLite does: the `type`
/// column can be forged.
fn foreign_code(found: &[Object]) -> Vec<String> {
    let ours = |sql: &str| {
        sql.is_empty()
            || ["CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE INDEX "]
                .iter()
                .any(|beginning| sql.starts_with(beginning))
    };
    found
        .iter()
        .filter(|object| matches!(object.r#type.as_str(), "trigger" | "view") || !ours(&object.sql))
        .map(|Object { r#type, name, .. }| format!("the {type} {name} is not part of the schema"))
        .collect()
}

/// Finds rows with a dangling foreign key; returns the table's name once per row.
///
/// # Errors
/// As [`find_damage`].
pub fn find_orphans(db: &Connection) -> Result<Vec<String>> {
    let mut statement = db.prepare("PRAGMA foreign_key_check")?;
    Ok(statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Runs [`find_damage`] on a database file that no other process uses.
///
/// # Errors
/// SQLite's message when it can't read the file at all.
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
        let litestream = "CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
            CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER);";
        assert_eq!(changes(litestream), [""; 0]);
        for (sql, named) in [
            (
                "CREATE TRIGGER quiet BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(IGNORE); END",
                "the trigger quiet is not part of the schema",
            ),
            (
                "CREATE VIEW shown AS SELECT 1",
                "the view shown is not part of the schema",
            ),
            (
                "CREATE TABLE beside (a) STRICT",
                "the table beside is not part of the schema",
            ),
            (
                "DROP INDEX audit_entry_by_time",
                "the index audit_entry_by_time is missing",
            ),
            (
                "DROP INDEX audit_entry_by_time; CREATE INDEX audit_entry_by_time ON audit_entry \
                 (organization_id, at) WHERE at IS NOT NULL AND sequence <> 7",
                "the index audit_entry_by_time differs from the schema",
            ),
            (
                "ALTER TABLE audit_entry ADD COLUMN note TEXT",
                "the table audit_entry differs from the schema",
            ),
        ] {
            let sql = sql.replace("(a) STRICT", "(a INTEGER) STRICT");
            assert_eq!(changes(&sql), [named], "{sql}");
        }
        assert!(
            !changes("PRAGMA user_version = 0").is_empty(),
            "no version at all"
        );
        // A trigger whose row claims to be an index.
        let hidden = "PRAGMA writable_schema = ON;
            INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES ('index', 'sqlite_stat1',
              'audit_entry', 0, 'CREATE TRIGGER q BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(IGNORE); END');
            PRAGMA writable_schema = OFF";
        let db = testing::database();
        db.execute_batch(hidden).expect("the change is SQL");
        let found = find_schema_changes(&db).expect("readable").changes;
        assert_eq!(found, ["the index sqlite_stat1 is not part of the schema"]);
        assert!(refuse_foreign_code(&db, Path::new("latchkey.db")).is_err());
        let newer = "PRAGMA user_version = 999; CREATE VIEW shown AS SELECT 1";
        assert_eq!(changes(newer), ["the view shown is not part of the schema"]);
    }

    /// The index omits an entry although its definition in the schema includes it.
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
