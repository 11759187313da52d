//! The files of the key directory: readable only by the owner, and after a crash either old or new, never
//! partial.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::domain::credential::{SigningKeyRecord, TokenAlgorithm};
use crate::durable;
use crate::entropy::Entropy;

pub(super) const ROOT_FILE: &str = "root.key";
pub(super) const AUDIT_FILE: &str = "audit.key";
pub(super) const AUDIT_NEXT_FILE: &str = "audit.next.key";
pub(super) const AUDIT_RETIRED_FILE: &str = "audit.retired";
pub(super) const TOKENS_FILE: &str = "tokens.json";

/// Why the keys can't be used; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Users other than the owner can read it.
    #[error("{path} has mode {mode:04o}, so that others can read the keys; run: chmod {wanted:o} {path}")]
    Permissions {
        /// File or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The required mode.
        wanted: u32,
    },
    /// The contents are not what latchkey wrote.
    #[error(
        "{path} is damaged ({problem}); restore the keys directory from a backup, don't delete it: \
             enrolled factors can't be read without it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file is missing while others are present.
    #[error("{0} is missing, but other keys are there; restore the keys directory from a backup")]
    Incomplete(PathBuf),
    /// The operating system refused an operation.
    #[error("{path}: {problem}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The operating system's error. Not a `source`: it is in the text already and would appear twice.
        problem: io::Error,
    },
}

/// Generates all keys in a directory beside the final one and renames it, so that a crash leaves none or all of
/// them.
pub(super) fn make(directory: &Path, entropy: &Entropy, at: Timestamp) -> Result<(), KeyError> {
    let unfinished = directory.with_extension(format!("new-{}", hex::encode(entropy.bytes::<8>())));
    DirBuilder::new()
        .mode(0o700)
        .create(&unfinished)
        .map_err(|source| io_error(&unfinished, source))?;
    let root = Zeroizing::new(entropy.bytes::<32>());
    let audit_seed = Zeroizing::new(entropy.bytes::<32>());
    let records = [first_record(entropy, at)];
    write_new(&unfinished.join(ROOT_FILE), &hex_line(&root))?;
    write_new(&unfinished.join(AUDIT_FILE), &hex_line(&audit_seed))?;
    write_new(&unfinished.join(TOKENS_FILE), &records_text(&records))?;
    sync_directory(&unfinished)?;
    std::fs::rename(&unfinished, directory).map_err(|source| io_error(directory, source))?;
    sync_directory(durable::parent(directory))
}

pub(super) fn first_record(entropy: &Entropy, at: Timestamp) -> SigningKeyRecord {
    SigningKeyRecord::generate(TokenAlgorithm::default(), entropy.bytes(), at)
}

/// Replaces a key file, so that a crash leaves the old or the new content.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), KeyError> {
    durable::replace(path, &[text.as_bytes()]).map_err(|source| io_error(path, source))
}

pub(super) fn hex_line(key: &[u8; 32]) -> Zeroizing<String> {
    let mut line = hex::encode(key);
    line.push('\n');
    Zeroizing::new(line)
}

pub(super) fn records_text(records: &[SigningKeyRecord]) -> Zeroizing<String> {
    let mut text = serde_json::to_string_pretty(records).expect("signing keys are plain JSON");
    text.push('\n');
    Zeroizing::new(text)
}

pub(super) fn write_new(path: &Path, text: &str) -> Result<(), KeyError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| io_error(path, source))
}

pub(super) fn sync_directory(path: &Path) -> Result<(), KeyError> {
    durable::sync_directory(path).map_err(|source| io_error(path, source))
}

pub(super) fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = read_secret(path)?;
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_end(), key.as_mut_slice()).map_err(|_| KeyError::Damaged {
        path: path.to_owned(),
        problem: "it should hold 64 hexadecimal digits".to_owned(),
    })?;
    Ok(key)
}

pub(super) fn read_records(path: &Path) -> Result<Vec<SigningKeyRecord>, KeyError> {
    let text = read_secret(path)?;
    let damaged = |problem: String| KeyError::Damaged {
        path: path.to_owned(),
        problem,
    };
    // serde_json's messages may quote values, and these are secrets: report only the position.
    let records: Vec<SigningKeyRecord> = serde_json::from_str(&text)
        .map_err(|e| damaged(format!("line {}, column {}", e.line(), e.column())))?;
    SigningKeyRecord::check(&records).map_err(|problem| damaged(problem.to_owned()))?;
    Ok(records)
}

pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    if !path.exists() {
        return Err(KeyError::Incomplete(path.to_owned()));
    }
    check_mode(path, 0o600)?;
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|source| io_error(path, source))
}

pub(super) fn check_mode(path: &Path, wanted: u32) -> Result<(), KeyError> {
    let mode = std::fs::metadata(path)
        .map_err(|source| io_error(path, source))?
        .mode()
        & 0o7777;
    let for_others = mode & 0o077;
    if for_others == 0 {
        return Ok(());
    }
    Err(KeyError::Permissions {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

pub(super) fn io_error(path: &Path, problem: io::Error) -> KeyError {
    KeyError::Io {
        path: path.to_owned(),
        problem,
    }
}
