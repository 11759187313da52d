//! The keys that sign the trail: the current one, the next one during a change, and the public keys of past
//! ones.
//!
//! The database records which key is in use, and a database and a file can't be changed in one step. So the new
//! key is first written beside the old one, then the database names it, and then it replaces the old file:
//! whenever a crash happens, the key that the database names is in this directory. Of a replaced key only the
//! public half is kept: it verifies what older backups state, and cannot sign even if it is stolen.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use zeroize::Zeroizing;

use super::KeyRing;
use super::files::{
    AUDIT_FILE, AUDIT_NEXT_FILE, AUDIT_RETIRED_FILE, KeyError, hex_line, io_error, read_key, read_secret,
    replace, sync_directory,
};
use crate::domain::Result;
use crate::domain::audit::LogKey;
use crate::domain::audit::checkpoint::public_half;
use crate::entropy::Entropy;

/// Seeds of Ed25519 keys.
pub(super) struct AuditKeys {
    seeds: RwLock<Seeds>,
    changing: AtomicBool,
}

struct Seeds {
    current: Zeroizing<[u8; 32]>,
    next: Option<Zeroizing<[u8; 32]>>,
    retired: Vec<[u8; 32]>,
}

/// A key change in progress; at most one exists at a time.
pub struct Changing<'a>(&'a AtomicBool);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl AuditKeys {
    pub(super) fn new(current: Zeroizing<[u8; 32]>) -> Self {
        Self {
            seeds: RwLock::new(Seeds {
                current,
                next: None,
                retired: Vec::new(),
            }),
            changing: AtomicBool::new(false),
        }
    }

    pub(super) fn read(directory: &Path) -> Result<Self, KeyError> {
        let keys = Self::new(read_key(&directory.join(AUDIT_FILE))?);
        let (next, retired) = (
            directory.join(AUDIT_NEXT_FILE),
            directory.join(AUDIT_RETIRED_FILE),
        );
        {
            let mut seeds = keys.seeds.write().unwrap_or_else(PoisonError::into_inner);
            if next.exists() {
                seeds.next = Some(read_key(&next)?);
            }
            if retired.exists() {
                seeds.retired = read_retired(&retired)?;
            }
        }
        Ok(keys)
    }

    fn with<T>(&self, read: impl FnOnce(&Seeds) -> T) -> T {
        read(&self.seeds.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KeyRing {
    /// Returns the seed of the Ed25519 key that signs the trail.
    #[must_use]
    pub fn audit_signing_key(&self) -> [u8; 32] {
        self.audit.with(|seeds| *seeds.current)
    }

    /// Returns the seed of the next signing key, which signs already if the last step of a change is missing.
    #[must_use]
    pub fn next_audit_key(&self) -> Option<[u8; 32]> {
        self.audit.with(|seeds| seeds.next.as_deref().copied())
    }

    /// Returns the public keys of every key that signs or has signed.
    #[must_use]
    pub fn audit_public_keys(&self) -> Vec<[u8; 32]> {
        self.audit.with(|seeds| {
            let ours = [Some(&seeds.current), seeds.next.as_ref()];
            let ours = ours.into_iter().flatten().map(|seed| public_half(seed));
            ours.chain(seeds.retired.iter().copied()).collect()
        })
    }

    /// Returns how many of this ring's keys of the trail came before `key`; `None` if `key` is not one of them.
    #[must_use]
    pub fn audit_key_age(&self, key: &LogKey) -> Option<usize> {
        let by_age: Vec<_> = self.audit.with(|seeds| {
            let ours = [Some(&seeds.current), seeds.next.as_ref()];
            let ours = ours.into_iter().flatten().map(|seed| public_half(seed));
            seeds.retired.iter().copied().chain(ours).collect()
        });
        by_age
            .iter()
            .rposition(|public| LogKey::of(key.origin(), public).as_ref() == Some(key))
    }

    /// Begins a key change; returns `None` while another one is in progress.
    #[must_use]
    pub fn begin_audit_change(&self) -> Option<Changing<'_>> {
        let was_changing = self.audit.changing.swap(true, Ordering::AcqRel);
        (!was_changing).then(|| Changing(&self.audit.changing))
    }

    /// Writes a new key beside the current one, replacing any that was never put to use, and returns its seed.
    ///
    /// # Errors
    /// [`KeyError::Io`]; nothing has changed then.
    pub fn stage_audit_key(&self, _of: &Changing<'_>, entropy: &Entropy) -> Result<[u8; 32], KeyError> {
        let seed = Zeroizing::new(entropy.bytes::<32>());
        if let Some(directory) = &self.directory {
            replace(&directory.join(AUDIT_NEXT_FILE), &hex_line(&seed))?;
        }
        let mut seeds = self.audit.seeds.write().unwrap_or_else(PoisonError::into_inner);
        let staged = *seed;
        seeds.next = Some(seed);
        Ok(staged)
    }

    /// Replaces the current key with the next one and keeps only the public half of the former.
    ///
    /// # Errors
    /// [`KeyError::Io`]; both keys are then as before.
    pub fn promote_audit_key(&self) -> Result<(), KeyError> {
        let mut seeds = self.audit.seeds.write().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = seeds.next.clone() else {
            return Ok(());
        };
        let old = public_half(&seeds.current);
        let mut retired = seeds.retired.clone();
        // If the key had been retired before and came back, it was in use until now: it is the newest retired key.
        retired.retain(|key| *key != old);
        retired.push(old);
        if let Some(directory) = &self.directory {
            let lines: Vec<_> = retired.iter().map(|key| hex::encode(key) + "\n").collect();
            replace(&directory.join(AUDIT_RETIRED_FILE), &lines.concat())?;
            let (from, to) = (directory.join(AUDIT_NEXT_FILE), directory.join(AUDIT_FILE));
            std::fs::rename(&from, &to).map_err(|source| io_error(&to, source))?;
            sync_directory(directory)?;
        }
        *seeds = Seeds {
            current: next,
            next: None,
            retired,
        };
        Ok(())
    }
}

fn read_retired(path: &Path) -> Result<Vec<[u8; 32]>, KeyError> {
    let text = read_secret(path)?;
    text.lines()
        .map(|line| {
            let mut key = [0; 32];
            hex::decode_to_slice(line, &mut key).map_err(|_| KeyError::Damaged {
                path: path.to_owned(),
                problem: "each line should hold 64 hexadecimal digits".to_owned(),
            })?;
            Ok(key)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KEY_DIRECTORY;

    #[test]
    fn a_new_key_stands_beside_the_old_one_until_it_takes_its_place() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let entropy = Entropy::seeded(7);
        let open = || KeyRing::open(dir.path(), &entropy).expect("keys");
        let keys = open();
        let old = keys.audit_signing_key();
        let age = |keys: &KeyRing, seed| {
            let key = LogKey::of("h/audit-log", &public_half(&seed)).expect("a key");
            keys.audit_key_age(&key)
        };
        let changing = keys.begin_audit_change().expect("the first");
        assert!(keys.begin_audit_change().is_none(), "one at a time");
        keys.stage_audit_key(&changing, &entropy).expect("staged");
        let new = keys.stage_audit_key(&changing, &entropy).expect("in its place");
        drop(changing);
        assert!(keys.begin_audit_change().is_some());
        for keys in [keys, open()] {
            assert_eq!(
                (keys.audit_signing_key(), keys.next_audit_key()),
                (old, Some(new))
            );
            let ages = [old, new, [7; 32]].map(|seed| age(&keys, seed));
            assert_eq!(ages, [Some(0), Some(1), None]);
        }
        let keys = open();
        keys.promote_audit_key().expect("promoted");
        keys.promote_audit_key().expect("nothing to do");
        for keys in [keys, open()] {
            assert_eq!((keys.audit_signing_key(), keys.next_audit_key()), (new, None));
            assert_eq!(keys.audit_public_keys(), [public_half(&new), public_half(&old)]);
            assert_eq!([old, new].map(|seed| age(&keys, seed)), [Some(0), Some(1)]);
        }
        let folder = dir.path().join(KEY_DIRECTORY);
        let left = std::fs::read_dir(&folder).expect("keys");
        for file in left {
            let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
            assert!(
                !text.contains(&hex::encode(old)),
                "the old key signs nothing any more"
            );
        }
    }
}
