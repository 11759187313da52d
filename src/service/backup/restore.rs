//! Restoring a backup to a data directory: verified, and recorded in the trail.
//!
//! A backup is older than what it replaces, so anything ended, revoked or removed since is present in it again.
//! Therefore every session, login and enrolment in progress is ended, what may have come back is reported, and
//! the trail continues under a new name: a log never signs two histories (C2SP tlog-checkpoint).

use std::fs;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::files::{self, Unfinished, io_error};
use super::{
    BackupError, CHECKPOINT_FILE, KeyChoice, MAC_FILE, MANIFEST_FILE, Manifest, SEALED_KEYS_FILE, Watch,
    check, check_from, read_and_copy,
};
use crate::clock::Clock;
use crate::domain::audit::{LogKey, LogKeys};
use crate::entropy::Entropy;
use crate::keys::{
    KEY_DIRECTORY, KeyRing, KeyTexts, UnsealError, read_key_texts, unseal_keys, write_key_texts,
};
use crate::service::{Services, trail};
use crate::store::audit::{self, Revived, checkpoints as kept};
use crate::store::{DATABASE_FILE, backup as copying, installation};

/// A backup, and how to obtain its keys.
#[derive(Clone)]
pub struct Source {
    /// The backup.
    pub backup: PathBuf,
    /// Passphrase for sealed keys.
    pub passphrase: Option<Zeroizing<String>>,
    /// A directory with the keys, for a backup without them.
    pub keys_from: Option<PathBuf>,
}

/// The result of a restore.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Number of sessions in the backup, all of which were ended.
    pub sessions_ended: usize,
    /// Sessions, factors and API keys that are back, or may be: the sessions were ended, the others were not.
    pub revived: Vec<Revived>,
    /// True if `revived` is exact because the replaced database could be compared.
    pub exact: bool,
    /// The trail's key from now on: readers need it.
    pub key: String,
    /// The first checkpoint under that key: the witness needs it.
    pub checkpoint: String,
}

/// Verifies a backup and copies it into a directory beside `data_dir`, or inside it; `data_dir` must be new or
/// empty.
///
/// # Errors
/// [`BackupError`].
pub fn unpack(
    source: &Source,
    data_dir: &Path,
    entropy: &Entropy,
    watch: Watch<'_>,
) -> Result<(Manifest, Unfinished), BackupError> {
    files::refuse_filled(data_dir, None)?;
    let manifest_path = source.backup.join(MANIFEST_FILE);
    let text = fs::read_to_string(&manifest_path).map_err(|error| {
        BackupError::Refused(format!(
            "{} is not a backup: {MANIFEST_FILE}: {error}",
            source.backup.display()
        ))
    })?;
    let manifest = Manifest::parse(&text)
        .map_err(|problem| BackupError::Damaged(format!("{}: {problem}", manifest_path.display())))?;
    compare_files(&source.backup, &manifest, watch)?;
    let key_texts = read_keys(source, &manifest)?;

    let unfinished = Unfinished::of(data_dir, &hex::encode(entropy.bytes::<4>()))?;
    let folder = unfinished.path();
    write_key_texts(&folder.join(KEY_DIRECTORY), &key_texts)?;
    let keys = KeyRing::open(folder, entropy)?;
    compare_keys(&source.backup, &manifest, &text, &keys)?;
    let all = manifest.files.get(DATABASE_FILE).map_or(0, |file| file.bytes);
    let mut done = 0;
    files::copy_private(
        &source.backup.join(DATABASE_FILE),
        &folder.join(DATABASE_FILE),
        |bytes| {
            done += bytes;
            watch("copy", done, all)
        },
    )?;
    let note = fs::read_to_string(source.backup.join(CHECKPOINT_FILE))
        .map_err(|error| io_error(&source.backup.join(CHECKPOINT_FILE), error))?;
    files::write_private(&folder.join(CHECKPOINT_FILE), &note)?;
    let trusted = trusted(&manifest, &keys, &folder.join(DATABASE_FILE), source)?;
    check(folder, &manifest, &trusted, watch)?;
    Ok((manifest, unfinished))
}

/// As [`unpack`], from a database alone, such as a replicator keeps: only its trail vouches for it, which must
/// have been signed with these keys, or with one that they vouch for.
///
/// # Errors
/// [`BackupError`].
pub fn unpack_database(
    database: &Path,
    keys_from: &Path,
    data_dir: &Path,
    public_url: &str,
    (clock, entropy): (&Clock, &Entropy),
    watch: Watch<'_>,
) -> Result<(Manifest, Unfinished), BackupError> {
    files::refuse_filled(data_dir, None)?;
    let key_texts = read_key_texts(keys_from)?;
    let unfinished = Unfinished::of(data_dir, &hex::encode(entropy.bytes::<4>()))?;
    let folder = unfinished.path();
    write_key_texts(&folder.join(KEY_DIRECTORY), &key_texts)?;
    let keys = KeyRing::open(folder, entropy)?;
    let copy = folder.join(DATABASE_FILE);
    files::new_private_file(&copy)?;
    let mut copied = read_and_copy(
        database,
        &copy,
        &keys,
        (KeyChoice::None, public_url),
        clock.now(),
        watch,
    )?;
    let write_checkpoint = |note: &str| files::write_private(&folder.join(CHECKPOINT_FILE), note);
    if copied.is_ours {
        write_checkpoint(&copied.manifest.trail.checkpoint)?;
        check(folder, &copied.manifest, &copied.trusted, watch)?;
    } else if let Some(signed) = signed_with_newer_key(&copy, &keys)? {
        tracing::warn!(keys = %keys_from.display(), "{OLD_KEYS_SERVE}");
        write_checkpoint(&signed.note)?;
        check_signed(folder, &signed, watch)?;
        copied.manifest.trail.key = signed.key.to_string();
        copied.manifest.trail.checkpoint = signed.note;
    } else {
        return Err(refuse_keys(database, &copy, keys_from, &keys)?);
    }
    Ok((copied.manifest, unfinished))
}

/// Logged when a copy of the keys is used that was made before the trail's key was changed.
const OLD_KEYS_SERVE: &str = "this copy of the keys is older than the last change of the trail's key, and the old key \
                              vouches for the new one; store the keys of the restored appliance again";

/// What a key that is not at hand has signed, and the keys that lead to it.
struct SignedWithNewerKey {
    key: LogKey,
    /// The key's newest checkpoint.
    note: String,
    trusted: LogKeys,
}

/// Finds what a database's newest key has signed, if one of `keys` vouches for it. The old key must not sign such a
/// trail, since its last checkpoint was over the entry that retired it; and the database's own word for its keys is
/// not enough, so that only the holder of the newest key can have signed what is found.
fn signed_with_newer_key(database: &Path, keys: &KeyRing) -> Result<Option<SignedWithNewerKey>, BackupError> {
    let found = copying::read_copy(database, |db| {
        let newest = kept::known_logs(db)?.pop().map(|log| log.key);
        let note = kept::find_newest_checkpoint(db)?.map(|(_, _, note)| note);
        Ok((newest.zip(note), trail::find_vouched_keys(db, keys)?))
    })?;
    let (Some((key, note)), trusted) = found else {
        return Ok(None);
    };
    let is_signed = LogKeys::new(vec![key.clone()]).open(&note).is_ok();
    let counts = is_signed && trusted.contains(&key);
    Ok(counts.then_some(SignedWithNewerKey { key, note, trusted }))
}

/// Checks that the copy is sound, and that its trail leads to what the newest key has signed.
fn check_signed(folder: &Path, signed: &SignedWithNewerKey, watch: Watch<'_>) -> Result<(), BackupError> {
    let (size, report) = check_from(folder, &signed.note, &signed.trusted, watch)?;
    if report.vouched_size < size {
        return Err(BackupError::Damaged(format!(
            "{}: the trail does not agree with its newest checkpoint",
            folder.display()
        )));
    }
    Ok(())
}

/// Returns why the keys can't be used for a database that neither they nor a key that they vouch for has signed.
fn refuse_keys(
    database: &Path,
    copy: &Path,
    keys_from: &Path,
    keys: &KeyRing,
) -> Result<BackupError, BackupError> {
    let belongs_to = copying::read_copy(copy, installation::find_key_fingerprint)?;
    Ok(if belongs_to.as_deref() == Some(keys.fingerprint()) {
        refuse_old_keys(keys_from)
    } else {
        let database = database.display();
        BackupError::Refused(format!(
            "{database} was not signed with these keys: they belong to another appliance"
        ))
    })
}

fn refuse_old_keys(keys_from: &Path) -> BackupError {
    BackupError::Refused(format!(
        "the keys in {} are of this appliance, but older than the last change of the trail's key (latchkey audit \
         rotate-key, a restore), and do not vouch for the new one; name a copy that was made after it",
        keys_from.display()
    ))
}

/// Checks that the replaced, newer database can be compared with, before the work of a restore begins.
///
/// # Errors
/// [`BackupError::Refused`] if it can't be read.
pub fn try_replaced(database: &Path) -> Result<(), BackupError> {
    audit::try_replaced(database)
        .map_err(|error| BackupError::Refused(format!("the database that was replaced: {error}")))
}

/// Ends what has come back, records the restore and continues the trail under a new name. `services` runs on
/// the unpacked directory, without a witness; `replaced` is the newer database, if it still exists, to
/// determine exactly what has come back, and `witness` the directory that may have seen more than the backup.
///
/// # Errors
/// [`BackupError::Database`].
pub async fn conclude_restore(
    services: &Services,
    manifest: &Manifest,
    replaced: Option<&Path>,
    witness: Option<&Path>,
) -> Result<Restored, BackupError> {
    trail::begin_after_restore(services, manifest.created_at, replaced, witness)
        .await
        .map_err(|error| BackupError::Database(error.for_operator()))
}

fn compare_files(backup: &Path, manifest: &Manifest, watch: Watch<'_>) -> Result<(), BackupError> {
    let found = files::digests(backup, watch)?;
    for (name, told) in &manifest.files {
        match found.get(name) {
            Some(there) if there == told => {}
            Some(there) => {
                return Err(BackupError::Damaged(format!(
                    "{}: {name} was changed: its SHA-256 is {}, the manifest says {}",
                    backup.display(),
                    there.sha256,
                    told.sha256
                )));
            }
            None => {
                return Err(BackupError::Damaged(format!(
                    "{}: {name} is missing",
                    backup.display()
                )));
            }
        }
    }
    let mut extra = found.keys().filter(|name| !manifest.files.contains_key(*name));
    if let Some(extra) = extra.find(|name| !manifest.leaves_out(name)) {
        let place = backup.display();
        return Err(BackupError::Damaged(format!(
            "{place}: {extra} is not in the manifest"
        )));
    }
    if !manifest.files.contains_key(DATABASE_FILE) {
        return Err(BackupError::Damaged(format!(
            "{}: there is no database in it",
            backup.display()
        )));
    }
    Ok(())
}

fn read_keys(source: &Source, manifest: &Manifest) -> Result<KeyTexts, BackupError> {
    let refused = |text: &str| Err(BackupError::Refused(text.to_owned()));
    match (manifest.keys, &source.keys_from) {
        (_, Some(directory)) => Ok(read_key_texts(directory)?),
        (KeyChoice::Plain, None) => Ok(read_key_texts(&source.backup.join(KEY_DIRECTORY))?),
        (KeyChoice::None, None) => {
            refused("the backup was made without keys; name the directory that has them with --keys-from")
        }
        (KeyChoice::Sealed, None) => {
            let Some(passphrase) = &source.passphrase else {
                return refused("the backup's keys are under a passphrase; give it with --passphrase-file");
            };
            let path = source.backup.join(SEALED_KEYS_FILE);
            let sealed = fs::read_to_string(&path).map_err(|source| io_error(&path, source))?;
            unseal_keys(&sealed, passphrase).map_err(|error| match error {
                UnsealError::Passphrase => BackupError::Refused(error.to_string()),
                UnsealError::Damaged(_) => BackupError::Damaged(error.to_string()),
            })
        }
    }
}

/// Checks that the keys belong to the database and that the manifest was made by a holder of them.
fn compare_keys(backup: &Path, manifest: &Manifest, text: &str, keys: &KeyRing) -> Result<(), BackupError> {
    let place = backup.display();
    if keys.fingerprint() != manifest.key_fingerprint {
        return Err(BackupError::Refused(format!(
            "these are not the backup's keys: their fingerprint is {}, the backup's is {}",
            keys.fingerprint(),
            manifest.key_fingerprint
        )));
    }
    let path = backup.join(MAC_FILE);
    let mac = fs::read_to_string(&path).map_err(|source| io_error(&path, source))?;
    let expected = keys.backup_mac(text.as_bytes());
    let equal = hex::decode(mac.trim_end())
        .is_ok_and(|mac| bool::from(subtle::ConstantTimeEq::ct_eq(mac.as_slice(), expected.as_slice())));
    if equal {
        Ok(())
    } else {
        Err(BackupError::Damaged(format!(
            "{place}: the manifest was changed after the backup was made"
        )))
    }
}

/// Returns the key that the manifest names, which must be ours or one that ours vouch for, and the keys that signed
/// before it, as the database lists them: the maker of the manifest had our keys, and the manifest names the
/// database by its hash.
fn trusted(
    manifest: &Manifest,
    keys: &KeyRing,
    database: &Path,
    source: &Source,
) -> Result<LogKeys, BackupError> {
    let told = LogKey::parse(&manifest.trail.key)
        .map_err(|error| BackupError::Damaged(format!("the manifest: {error}")))?;
    // Keys given separately may have been changed since the backup.
    let ours = keys.audit_public_keys();
    let mut ours = ours.iter().filter_map(|key| LogKey::of(told.origin(), key));
    if !ours.any(|ours| ours == told) {
        let vouched = copying::read_copy(database, |db| trail::find_vouched_keys(db, keys))
            .map_err(|error| BackupError::Damaged(error.to_string()))?;
        match &source.keys_from {
            Some(keys_from) if vouched.contains(&told) => {
                tracing::warn!(keys = %keys_from.display(), "{OLD_KEYS_SERVE}");
            }
            Some(keys_from) => return Err(refuse_old_keys(keys_from)),
            None => {
                return Err(BackupError::Damaged(
                    "the trail's key in the manifest is not the backup's".to_owned(),
                ));
            }
        }
    }
    let mut trusted = copying::read_copy(database, kept::known_keys)
        .map_err(|error| BackupError::Damaged(error.to_string()))?;
    trusted.add(told);
    Ok(trusted)
}

prints_no_secret!(Source);
