//! Is the database itself in order, and is it the one that we made?

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
    let mut missing = objects(&expected)?;
    let mut changes = Vec::new();
    for object in found {
        // One stands for one: a second row of the same name is none of ours, whatever it says.
        if let Some(at) = missing.iter().position(|made| *made == object) {
            missing.swap_remove(at);
        } else {
            changes.push((object.r#type, object.name, "is none of ours"));
        }
    }
    for Object { r#type, name, .. } in missing {
        let same = |(other, called, _): &&mut (String, String, &str)| *other == r#type && *called == name;
        match changes.iter_mut().find(same) {
            Some((_, _, what)) => *what = "is not as it was made",
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

/// A row of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    r#type: String,
    name: String,
    table: String,
    /// The text that makes it: all that SQLite goes by when it opens the file.
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

/// What ANALYZE makes, and Litestream where it replicates the database (`fixtures/litestream`).
const EXPECTED_BESIDES: [&str; 4] = [
    "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
    "CREATE TABLE _litestream_lock (id INTEGER)",
];

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

/// By their text, not by what the schema calls them: that is not what SQLite goes by.
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
        .map(|Object { r#type, name, .. }| format!("the {type} {name} is none of ours"))
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
        let litestream = "CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
            CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER);";
        assert_eq!(changes(litestream), [""; 0]);
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
        // Called an index, and a trigger all the same.
        let hidden = "PRAGMA writable_schema = ON;
            INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES ('index', 'sqlite_stat1',
              'audit_entry', 0, 'CREATE TRIGGER q BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(IGNORE); END');
            PRAGMA writable_schema = OFF";
        let db = testing::database();
        db.execute_batch(hidden).expect("the change is SQL");
        let found = find_schema_changes(&db).expect("readable").changes;
        assert_eq!(found, ["the index sqlite_stat1 is none of ours"]);
        assert!(refuse_foreign_code(&db, Path::new("latchkey.db")).is_err());
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
