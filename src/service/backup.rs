//! Backups: a copy of the appliance at one instant, made beside a running server.
//!
//! A backup is a directory that `latchkey audit verify` reads like a data directory:
//!
//! | file | contents |
//! |---|---|
//! | `latchkey.db` | the database, in one file |
//! | `keys/` or `keys.sealed` | the keys, readable only by the owner or sealed under a passphrase; may be
//! absent |
//! | `checkpoints/latest` | signed checkpoint of the trail in the copy |
//! | `manifest.json` | description of the backup, with the SHA-256 of each file |
//! | `manifest.mac` | HMAC-SHA-256 of the manifest, under a key derived from the appliance's own |
//!
//! The directory appears under its name only once it is complete, verified and on disk. The configuration file
//! and the plugin cache are not included.

mod files;
mod manifest;
mod owner;
mod restore;
mod schedule;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::trail;
use crate::clock::Clock;
use crate::domain::audit::{Anchor, LogKey, LogKeys, Report};
use crate::entropy::Entropy;
use crate::keys::{KEY_DIRECTORY, KeyError, KeyRing, read_key_texts, seal_keys, write_key_texts};
use crate::store::audit::{self, checkpoints as kept};
use crate::store::{DATABASE_FILE, backup as copying, free_space, integrity};

pub use files::Unfinished;
pub use manifest::Manifest;
pub use owner::Owner;
pub use restore::{Restored, Source, conclude_restore, try_replaced, unpack, unpack_database};
pub use schedule::{
    Newest, Schedule, back_up_when_due, clear_unfinished, find_newest, name_of, try_schedule,
    wait_after_failures,
};

/// Its presence makes a directory a backup.
pub const MANIFEST_FILE: &str = "manifest.json";
const MAC_FILE: &str = "manifest.mac";
const SEALED_KEYS_FILE: &str = "keys.sealed";
const CHECKPOINT_FILE: &str = "checkpoints/latest";
/// Free space that a backup leaves to other writers on its disk: often the server itself, whose WAL can't be
/// reset until the copy is made.
const RESERVE_BYTES: u64 = 64 << 20;

/// How the keys are included in a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyChoice {
    /// Unencrypted, readable only by the owner. Anyone who obtains the backup has everything.
    #[default]
    Plain,
    /// Encrypted under a passphrase.
    Sealed,
    /// Not included. Keep them elsewhere: without them no TOTP secret can ever be read again.
    None,
}

/// What to back up, and how.
#[derive(Clone)]
pub struct BackupOrder {
    /// The data directory, in use or not.
    pub data_dir: PathBuf,
    /// The new directory to create.
    pub destination: PathBuf,
    /// How to include the keys.
    pub keys: KeyChoice,
    /// For [`KeyChoice::Sealed`].
    pub passphrase: Option<zeroize::Zeroizing<String>>,
    /// Determines the log's name if no log has begun yet.
    pub public_url: String,
}

/// Progress callback: current step, amount done, total amount. Returns whether to continue.
pub type Watch<'a> = &'a mut dyn FnMut(&'static str, u64, u64) -> ControlFlow<()>;

/// Why a backup can't be made, read or restored; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The request can't be carried out as given; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// The backup, or the data to be backed up, is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The keys can't be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The operating system refused an operation.
    #[error("{path}: {problem}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error. Not a `source`: it is in the text already and would appear twice.
        problem: std::io::Error,
    },
    /// The database can't be copied.
    #[error(transparent)]
    Copy(copying::CopyError),
    /// The progress callback asked to stop.
    #[error("stopped before it was done")]
    Stopped,
    /// The database can't be read or changed.
    #[error("the database: {0}")]
    Database(String),
}

impl From<copying::CopyError> for BackupError {
    fn from(error: copying::CopyError) -> Self {
        match error {
            copying::CopyError::Stopped => Self::Stopped,
            other => Self::Copy(other),
        }
    }
}

/// Makes and verifies a backup, and returns its manifest.
///
/// # Errors
/// [`BackupError`]; no new directory is left then.
pub fn create(
    order: &BackupOrder,
    clock: &Clock,
    entropy: &Entropy,
    watch: Watch<'_>,
) -> Result<Manifest, BackupError> {
    files::refuse_filled(&order.destination, None)?;
    let source = order.data_dir.join(DATABASE_FILE);
    if !source.is_file() {
        let place = order.data_dir.display();
        return Err(BackupError::Refused(format!("there is no database in {place}")));
    }
    refuse_without_room(&order.destination, &source)?;
    let key_directory = order.data_dir.join(KEY_DIRECTORY);
    let key_texts = read_key_texts(&key_directory)?;
    let keys = KeyRing::open(&order.data_dir, entropy)?;
    let owner = copying::read_copy(&source, |db| Owner::in_database(db, &keys, &order.public_url))?;
    let drawn = hex::encode(entropy.bytes::<4>());
    // The name shows which appliance it belongs to, in case it is left behind.
    let unfinished = Unfinished::of(&order.destination, &format!("{}-{drawn}", owner.mark()))?;
    let folder = unfinished.path();

    let copy = folder.join(DATABASE_FILE);
    files::new_private_file(&copy)?;
    let mut copied = read_and_copy(
        &source,
        &copy,
        &keys,
        (order.keys, &order.public_url),
        clock.now(),
        watch,
    )?;
    let keys_now = KeyRing::open(&order.data_dir, entropy)?.audit_public_keys();
    if !copied.is_ours && keys_now != keys.audit_public_keys() {
        let text = "the trail's key was changed in the meantime; run the backup again".to_owned();
        return Err(BackupError::Refused(text));
    }
    files::write_private(&folder.join(CHECKPOINT_FILE), &copied.manifest.trail.checkpoint)?;
    match order.keys {
        KeyChoice::Plain => write_key_texts(&folder.join(KEY_DIRECTORY), &key_texts)?,
        KeyChoice::Sealed => {
            let passphrase = order.passphrase.as_deref().filter(|text| !text.is_empty());
            let passphrase = passphrase.ok_or_else(|| {
                BackupError::Refused("sealed keys need a passphrase, and it must not be empty".to_owned())
            })?;
            let sealed = seal_keys(&key_texts, passphrase, entropy);
            files::write_private(&folder.join(SEALED_KEYS_FILE), &sealed)?;
        }
        KeyChoice::None => {}
    }
    check(folder, &copied.manifest, &copied.trusted, watch)?;
    copied.manifest.files = files::digests(folder, watch)?;
    let text = copied.manifest.to_text();
    files::write_private(&folder.join(MANIFEST_FILE), &text)?;
    files::write_private(
        &folder.join(MAC_FILE),
        &format!("{}\n", hex::encode(keys.backup_mac(text.as_bytes()))),
    )?;
    unfinished.finish()?;
    Ok(copied.manifest)
}

/// Refuses to open a backup as a data directory, since restoring does more than copying. Also refuses the
/// remains of a restore that was interrupted.
///
/// # Errors
/// [`BackupError::Refused`].
pub fn refuse_backup(data_dir: &Path) -> Result<(), BackupError> {
    if data_dir.join(MANIFEST_FILE).exists() {
        return Err(BackupError::Refused(format!(
            "{0} is a backup, not a data directory; restore it first: latchkey restore {0} --data-dir NEW",
            data_dir.display()
        )));
    }
    files::refuse_half_moved(data_dir)
}

struct Copied {
    manifest: Manifest,
    trusted: LogKeys,
    /// True if the newest log was begun with these keys.
    is_ours: bool,
}

fn read_and_copy(
    source: &Path,
    copy: &Path,
    keys: &KeyRing,
    (key_choice, public_url): (KeyChoice, &str),
    at: Timestamp,
    watch: Watch<'_>,
) -> Result<Copied, BackupError> {
    let read = |db: &crate::store::Connection| {
        let logs = kept::known_logs(db)?;
        let mut trusted = LogKeys::new(logs.iter().map(|log| log.key.clone()).collect());
        let origin = owner::origin(logs.last(), keys, public_url);
        let signer = trail::signer_of(keys, &origin, logs.last().map(|log| &log.key));
        let ours = keys.audit_public_keys();
        let is_ours = logs.last().is_none_or(|log| {
            let mut ours = ours.iter().map(|key| LogKey::of(log.key.origin(), key));
            ours.any(|key| key.as_ref() == Some(&log.key))
        });
        trusted.add(signer.log_key());
        let entries = audit::size(db)?;
        let (organizations, users) = copying::count_people(db)?;
        let manifest = Manifest {
            format: manifest::FORMAT,
            latchkey: env!("CARGO_PKG_VERSION").to_owned(),
            created_at: at,
            schema_version: copying::schema_version(db)?,
            organizations,
            users,
            keys: key_choice,
            key_fingerprint: keys.fingerprint().to_owned(),
            trail: manifest::Trail {
                entries,
                checkpoint: signer.checkpoint(entries, audit::root(db, entries)?),
                key: signer.log_key().to_string(),
            },
            files: std::collections::BTreeMap::new(),
        };
        Ok(Copied {
            manifest,
            trusted,
            is_ours,
        })
    };
    Ok(copying::copy_database(source, copy, read, |done, all| {
        watch("copy", done, all)
    })?)
}

/// Checks that the copy is sound, its trail intact and as long as the manifest's checkpoint states.
fn check(folder: &Path, manifest: &Manifest, trusted: &LogKeys, watch: Watch<'_>) -> Result<(), BackupError> {
    let (size, report) = check_from(folder, &manifest.trail.checkpoint, trusted, watch)?;
    if report.size != size {
        return Err(BackupError::Damaged(format!(
            "{}: the trail has {} entries, the manifest's checkpoint is over {size}",
            folder.display(),
            report.size
        )));
    }
    Ok(())
}

/// Checks that the copy is sound and its trail intact, compared with a checkpoint, after which it may go on.
/// Returns the number of entries that the checkpoint covers, and what was found.
fn check_from(
    folder: &Path,
    checkpoint: &str,
    trusted: &LogKeys,
    watch: Watch<'_>,
) -> Result<(u64, Report), BackupError> {
    let place = folder.display();
    let damage = integrity::check_file(&folder.join(DATABASE_FILE))
        .map_err(|error| BackupError::Damaged(format!("{place}: the database can't be read: {error}")))?;
    if let Some(first) = damage.first() {
        return Err(BackupError::Damaged(format!(
            "{place}: the database is damaged: {first}"
        )));
    }
    let checkpoint = trusted
        .open(checkpoint)
        .map_err(|error| BackupError::Damaged(format!("{place}: the manifest's checkpoint: {error}")))?;
    let size = checkpoint.size;
    let anchor = Anchor {
        checkpoint,
        source: MANIFEST_FILE.to_owned(),
    };
    let mut go_on = ControlFlow::Continue(());
    let report = trail::verify_data_dir(folder, trusted, vec![anchor], |done, all| {
        if go_on.is_continue() {
            go_on = watch("verify", done, all);
        }
    })
    .map_err(|error| BackupError::Damaged(format!("{place}: {error}")))?;
    if go_on.is_break() {
        return Err(BackupError::Stopped);
    }
    if let Some(finding) = report.findings.first() {
        return Err(BackupError::Damaged(format!(
            "{place}: the trail was tampered with: {}",
            finding.text
        )));
    }
    Ok((size, report))
}

/// Refuses before anything is written if there is not enough room. Otherwise the attempt would fill the disk
/// and, if the database is on it too, block every change in the meantime.
fn refuse_without_room(destination: &Path, database: &Path) -> Result<(), BackupError> {
    let place = if destination.is_dir() {
        destination
    } else {
        files::parent(destination)
    };
    let space = free_space(place).map_err(|problem| files::io_error(place, problem))?;
    let copy = copying::copy_bytes(database).map_err(|problem| files::io_error(database, problem))?;
    let needed = copy + RESERVE_BYTES;
    // Some file systems do not report their size.
    if space.total > 0 && space.free < needed {
        return Err(BackupError::Refused(format!(
            "{}: {} MiB are free, and a backup needs {}: {} for the database, and {} left free for other programs; make \
             room there, or name a directory on another disk",
            place.display(),
            space.free >> 20,
            needed.div_ceil(1 << 20),
            copy.div_ceil(1 << 20),
            RESERVE_BYTES >> 20,
        )));
    }
    Ok(())
}

prints_no_secret!(BackupOrder);
