//! Errors of opening the store.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why the store can't be opened. Most messages say what to do next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the data directory.
    #[error("the data directory {0} is in use by another latchkey process; stop it first")]
    InUse(PathBuf),
    /// The database was written by a newer version.
    #[error(
        "the database has schema version {found}, this latchkey knows versions up to {known}; \
         use the newer latchkey that wrote it, or restore a backup made before the upgrade"
    )]
    Newer {
        /// Schema version of the file.
        found: usize,
        /// Newest schema version this binary knows.
        known: usize,
    },
    /// The database was written by an older version, and was to be left as it is.
    #[error(
        "the database has schema version {found}; this latchkey migrates it to {known} at its start, after which an \
         older latchkey can't use it: back it up before"
    )]
    Older {
        /// Schema version of the file.
        found: usize,
        /// Schema version that this binary migrates to.
        known: usize,
    },
    /// The file is not a SQLite database or is damaged, or the disk refuses it.
    #[error("{path} can't be used as a database: {problem}; {}", remedy(.problem))]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        problem: rusqlite::Error,
    },
    /// The directory or a file in it can't be used.
    #[error("{path}: {problem}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error. Not a `source`: the message includes it, and would show it twice.
        problem: std::io::Error,
    },
    /// The database has a trigger or view, which no version creates.
    #[error(
        "{path}: {what}: somebody changed the database. Find out who, then drop it with the sqlite3 tool, or restore \
         a backup"
    )]
    ForeignCode {
        /// The file.
        path: PathBuf,
        /// Description of the trigger or view.
        what: String,
    },
    /// A migration failed; nothing was changed.
    #[error("the database could not be migrated, nothing was changed: {0}")]
    Migration(String),
}

/// Says what to do about a database that can't be opened.
fn remedy(problem: &rusqlite::Error) -> &'static str {
    match problem.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "make room on the disk and start again",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "make sure that this user may write the file and its directory, and that the disk is not read-only"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "the disk is failing: check the system's log before starting again"
        }
        _ => "restore it from a backup",
    }
}
