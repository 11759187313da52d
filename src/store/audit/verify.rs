//! Verification of the whole trail, in one pass from the first row to the last.

mod derived;

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{checkpoints, from_column, row};
use crate::domain::Result;
use crate::domain::audit::checkpoint::unchecked;
use crate::domain::audit::{Anchor, CheckpointError, LogKeys, Report, Tampering, Verifier};

/// Verifies the trail against the checkpoints and keys in the database itself. This finds every change made
/// without the signing key; to find changes made with it, keys and checkpoints must come from elsewhere:
/// [`verify_against`].
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite can't read the trail at all.
pub fn verify(connection: &Connection) -> Result<Report> {
    verify_watched(connection, |_| {})
}

/// Verifies the trail as [`verify`] does, and calls `progress` with the sequence of each record.
///
/// # Errors
/// As [`verify`].
pub fn verify_watched(connection: &Connection, progress: impl FnMut(u64)) -> Result<Report> {
    let mut verifier = Verifier::new(Vec::new(), true);
    verifier.trust_own(&checkpoints::known_keys(connection)?);
    run(connection, verifier, progress)
}

/// Verifies the trail against `keys`, the checkpoints in the database and `anchors`. Calls `progress` with the
/// sequence of each entry read.
///
/// # Errors
/// As [`verify`].
pub fn verify_against(
    connection: &Connection,
    keys: &LogKeys,
    anchors: Vec<Anchor>,
    progress: impl FnMut(u64),
) -> Result<Report> {
    let mut verifier = Verifier::new(anchors, true);
    verifier.trust(keys);
    run(connection, verifier, progress)
}

/// Why a database can't be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file does not exist.
    #[error("{path} does not exist; is the volume mounted? Name an export or a data directory")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be opened as a database.
    #[error("{path} can't be read as a database: {problem}")]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's error. Not a `source`: the message includes it, and would show it twice.
        problem: rusqlite::Error,
    },
    /// The database has no readable trail.
    #[error("the trail can't be read: {0}")]
    Trail(String),
}

/// Verifies the trail in a database file, without taking its lock and without changing it. Trusts `keys`, or if
/// there are none the keys in the database; then `prepare` adds further anchors to the verifier. Calls `progress`
/// with the sequence of each entry read and the trail's size.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_database(
    path: &Path,
    keys: &LogKeys,
    mut progress: impl FnMut(u64, u64),
    prepare: impl FnOnce(&mut Verifier),
) -> Result<Report, VerifyError> {
    let database = |problem| VerifyError::Database {
        path: path.to_owned(),
        problem,
    };
    let trail = |error: crate::domain::Error| VerifyError::Trail(format!("{error:?}"));
    refuse_missing(path)?;
    let connection = open_to_read(path).map_err(database)?;
    // Read one snapshot, however long it takes.
    let snapshot = connection.unchecked_transaction().map_err(database)?;
    let size = super::size(&snapshot).map_err(trail)?;
    let mut verifier = Verifier::new(Vec::new(), true);
    if keys.is_empty() {
        verifier.trust_own(&checkpoints::known_keys(&snapshot).map_err(trail)?);
    } else {
        verifier.trust(keys);
    }
    prepare(&mut verifier);
    run(&snapshot, verifier, |sequence| progress(sequence, size)).map_err(trail)
}

/// Returns an error if the file does not exist: SQLite would only say that it can't be opened.
pub(super) fn refuse_missing(path: &Path) -> Result<(), VerifyError> {
    if matches!(path.try_exists(), Ok(false)) {
        return Err(VerifyError::Missing {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Opens a database read-only: through the WAL if a server is using it; as immutable if that fails, for a copy on
/// a read-only medium.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    harmless(&connection)?;
    let readable = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    });
    if readable.is_ok() {
        return Ok(connection);
    }
    let escaped: Vec<String> = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                char::from(*byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let uri = format!("file:{}?immutable=1", escaped.concat());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags)?;
    harmless(&connection)?;
    Ok(connection)
}

/// Guards against a hostile file: a view in place of a table could run for ever.
pub(super) fn harmless(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.pragma_update(None, "trusted_schema", false)
}

fn run(connection: &Connection, mut verifier: Verifier, mut progress: impl FnMut(u64)) -> Result<Report> {
    let mut signed =
        connection.prepare_cached("SELECT size, note FROM audit_checkpoint ORDER BY size, log")?;
    // Stream the checkpoints: there is one a minute, for years.
    let mut signed = signed.query_map([], |row| Ok((from_column(row.get(0)?), row.get::<_, String>(1)?)))?;
    let mut ahead = signed.next().transpose()?;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM audit_entry ORDER BY sequence",
        row::RECORD_COLUMNS
    ))?;
    let mut rows = statement.query([])?;
    let mut tally = derived::Tally::default();
    loop {
        let next = match rows.next() {
            Ok(next) => next,
            Err(error) => {
                // A damaged page: the rest can't be reached; the checkpoints show how much is missing.
                verifier.unreadable(verifier.next_sequence(), &error.to_string());
                break;
            }
        };
        let Some(next) = next else { break };
        match row::record(next) {
            Ok(record) => {
                progress(record.sequence);
                tally.add(next)?;
                let sequence = record.sequence;
                let asked = derived::compare_asked(connection, &record)?;
                while let Some((size, note)) = ahead.take_if(|(size, _)| *size <= sequence) {
                    read_checkpoint(&mut verifier, size, &note);
                    ahead = signed.next().transpose()?;
                }
                verifier.record(record);
                if let Some(what) = row::irregular(next)? {
                    let text = format!("entry {sequence} was edited: {what}");
                    verifier.finding(Tampering::Edited, sequence, sequence, text);
                }
                if let Some(text) = asked {
                    verifier.finding(Tampering::DerivedDataChanged, sequence, sequence, text);
                }
            }
            Err(error) => {
                let sequence = next.get(0).map(from_column)?;
                verifier.unreadable(sequence, &error.to_string());
            }
        }
    }
    while let Some((size, note)) = ahead {
        read_checkpoint(&mut verifier, size, &note);
        ahead = signed.next().transpose()?;
    }
    derived::check_heads(connection, &mut verifier)?;
    derived::check_asked(connection, &mut verifier)?;
    derived::check_schema(connection, &tally, &mut verifier)?;
    Ok(verifier.finish())
}

fn read_checkpoint(verifier: &mut Verifier, size: u64, note: &str) {
    let of_ours = names_known_log(verifier.keys(), note);
    if let Some(told) = unchecked(note).filter(|told| of_ours && told.size != size) {
        let text = format!("the checkpoint stored for {size} entries covers {}", told.size);
        verifier.finding(Tampering::ForgedCheckpoint, size, size, text);
        return;
    }
    match verifier.offer(note, "the database", true) {
        Ok(()) => {}
        // Keys given by the caller may belong to only one of several logs.
        Err(CheckpointError::UnknownKey) if !verifier.keys().is_empty() && !of_ours => {
            verifier.note(format!(
                "the checkpoint over {size} entries is signed by another log's key and was not used"
            ));
        }
        Err(error) => verifier.finding(
            Tampering::ForgedCheckpoint,
            size.saturating_sub(1),
            size.saturating_sub(1),
            format!("the checkpoint over {size} entries does not count: {error}"),
        ),
    }
}

fn names_known_log(keys: &LogKeys, note: &str) -> bool {
    note.lines()
        .next()
        .is_some_and(|origin| keys.iter().any(|key| key.origin() == origin))
}
