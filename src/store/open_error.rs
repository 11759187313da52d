//! Why the store can't be opened.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why the store can't be opened; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {0} is in use by another latchkey process; stop it first")]
    InUse(PathBuf),
    /// Written by a newer version.
    #[error(
        "the database has schema version {found}, this latchkey knows versions up to {known}; \
         use the newer latchkey that wrote it, or restore a backup made before the upgrade"
    )]
    Newer {
        /// Version in the file.
        found: usize,
        /// Newest version this binary knows.
        known: usize,
    },
    /// Not a SQLite database, a damaged one, or a disk that won't have it.
    #[error("{path} can't be used as a database: {problem}; {}", remedy(.problem))]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        problem: rusqlite::Error,
    },
    /// The directory or a file in it can't be used.
    #[error("{path}: {problem}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says. No `source`: it is in the text, and would be told twice.
        problem: std::io::Error,
    },
    /// Somebody put code into it.
    #[error(
        "{path}: {what}: somebody changed the database. Find out who, then drop it with the sqlite3 tool, or restore \
         a backup"
    )]
    ForeignCode {
        /// The file.
        path: PathBuf,
        /// A trigger or view.
        what: String,
    },
    /// A migration failed; nothing was changed.
    #[error("the database could not be migrated, nothing was changed: {0}")]
    Migration(String),
}

/// What to do about a database that can't be opened.
fn remedy(problem: &rusqlite::Error) -> &'static str {
    match problem.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "make room on the disk and start again",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "see that this user may write the file and its directory, and that the disk is not read-only"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk fails: see the system's log before starting again",
        _ => "restore it from a backup",
    }
}
