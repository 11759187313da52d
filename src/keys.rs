//! The appliance's own secrets: generated at the first start in `<data-dir>/keys/`, readable only by their
//! owner.
//!
//! | file | contents | changes |
//! |---|---|---|
//! | `root.key` | 32 random bytes; the other keys are derived from it by label | never |
//! | `audit.key` | seed of the Ed25519 key that signs the trail | by `latchkey audit rotate-key` |
//! | `audit.next.key` | seed of the next signing key, while the key is being changed | |
//! | `audit.retired` | public keys of the signing keys that were replaced | |
//! | `tokens.json` | keys that sign access tokens, by `kid` | by `latchkey keys rotate` |
//!
//! A copy of the database is useless without this directory, and so is a backup.

mod audit;
mod files;
mod sealed;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;
use uuid::Builder;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::credential::{AccessKeys, SigningKeyRecord};
use crate::domain::policy::FactorKind;
use crate::domain::{Error, Result, second_factor};
use crate::entropy::Entropy;
use audit::AuditKeys;
pub use audit::Changing;
pub use files::KeyError;
use files::{
    ROOT_FILE, TOKENS_FILE, check_mode, first_record, make, read_key, read_records, records_text, replace,
};
pub use sealed::{
    KeyTexts, UnsealError, key_file_names, read_key_texts, seal_keys, unseal_keys, write_key_texts,
};

/// The directory's name in the data directory.
pub const KEY_DIRECTORY: &str = "keys";
/// First byte of every ciphertext: identifies the key and cipher. Only one version exists so far.
const SEAL_VERSION: u8 = 1;
const NONCE_LENGTH: usize = 24;

/// Holds every secret of the appliance; its `Debug` output shows none of them.
pub struct KeyRing {
    directory: Option<PathBuf>,
    audit: AuditKeys,
    seal: XChaCha20Poly1305,
    texts: XChaCha20Poly1305,
    token_mac: Zeroizing<[u8; 32]>,
    pepper: Zeroizing<[u8; 32]>,
    plugin_cache: Zeroizing<[u8; 32]>,
    webhooks: Zeroizing<[u8; 32]>,
    backup_mac: Zeroizing<[u8; 32]>,
    fingerprint: String,
    issuer: String,
    access: RwLock<Access>,
}

struct Access {
    records: Vec<SigningKeyRecord>,
    keys: Arc<AccessKeys>,
}

impl KeyRing {
    /// Opens the keys in `data_dir`, or generates them if there are none yet. Never overwrites a key.
    ///
    /// # Errors
    /// [`KeyError`]: others can read the keys, one is missing or damaged, or the directory can't be used.
    pub fn open(data_dir: &Path, entropy: &Entropy) -> Result<Self, KeyError> {
        let directory = data_dir.join(KEY_DIRECTORY);
        if !directory.exists() {
            make(&directory, entropy, Clock::system().now())?;
        }
        check_mode(&directory, 0o700)?;
        let root = read_key(&directory.join(ROOT_FILE))?;
        let audit = AuditKeys::read(&directory)?;
        let records = read_records(&directory.join(TOKENS_FILE))?;
        Ok(Self::assemble(Some(directory), &root, audit, records))
    }

    /// Returns keys that exist only in memory, for tests and for commands that only describe the API.
    #[must_use]
    pub fn ephemeral(entropy: &Entropy) -> Self {
        let records = vec![first_record(entropy, Timestamp::UNIX_EPOCH)];
        let root = Zeroizing::new(entropy.bytes());
        let audit = AuditKeys::new(Zeroizing::new(entropy.bytes()));
        Self::assemble(None, &root, audit, records)
    }

    /// Returns the keys that sign and verify access tokens.
    #[must_use]
    pub fn access(&self) -> Arc<AccessKeys> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner).keys)
    }

    /// Returns when the current signing key was created.
    #[must_use]
    pub fn signing_since(&self) -> Timestamp {
        self.access.read().unwrap_or_else(PoisonError::into_inner).records[0].created_at
    }

    /// Maps `read` over each key that signs or verifies access tokens, the signing key first.
    #[must_use]
    pub fn map_signing_keys<T>(&self, read: impl FnMut(&SigningKeyRecord) -> T) -> Vec<T> {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        access.records.iter().map(read).collect()
    }

    /// Makes `new` the key that signs access tokens. The old keys verify tokens until `lapse`; keys that lapsed
    /// before the new one was created are dropped.
    ///
    /// # Errors
    /// [`KeyError::Io`]; the old key then continues to sign.
    pub fn rotate(&self, new: SigningKeyRecord, lapse: Timestamp) -> Result<(), KeyError> {
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        let at = new.created_at;
        let mut records = vec![new];
        for record in &access.records {
            let mut old = record.clone();
            old.lapses_at.get_or_insert(lapse);
            records.push(old);
        }
        records.retain(|record| record.lapses_at.is_none_or(|lapse| at < lapse));
        if let Some(directory) = &self.directory {
            replace(&directory.join(TOKENS_FILE), &records_text(&records))?;
        }
        access.keys = Arc::new(AccessKeys::new(self.issuer.clone(), &records));
        access.records = records;
        Ok(())
    }

    /// Returns the key that authenticates refresh tokens.
    #[must_use]
    pub fn token_mac_key(&self) -> &[u8; 32] {
        &self.token_mac
    }

    /// Returns the secret mixed into recovery-code hashes, so that a copy of the database alone can't be
    /// brute-forced.
    #[must_use]
    pub fn pepper(&self) -> &[u8; 32] {
        &self.pepper
    }

    /// Generates a code for an admin to give to a user after a reset: 40 bits in two groups, valid for a day at
    /// most.
    #[must_use]
    pub fn enrolment_code(entropy: &Entropy) -> String {
        second_factor::recovery_code(&entropy.bytes::<8>())
    }

    /// Returns the hash of an enrolment code that the store keeps.
    #[must_use]
    pub fn enrolment_code_hash(&self, user: UserId, code: &str) -> [u8; 32] {
        second_factor::hash_enrolment_code(user, code, &self.pepper)
    }

    /// Returns the key that authenticates compiled plugins in the cache.
    #[must_use]
    pub fn plugin_cache_key(&self) -> [u8; 32] {
        *self.plugin_cache
    }

    /// Returns the secret that signs an organisation's webhook calls, or the node's own for `None`. One
    /// organisation's secret reveals nothing about another's.
    #[must_use]
    pub fn webhook_secret(&self, organization: Option<OrganizationId>) -> Zeroizing<[u8; 32]> {
        let of = organization.map_or_else(|| "the node".to_owned(), |id| id.to_string());
        derive(&self.webhooks, &of)
    }

    /// Authenticates a backup's manifest (HMAC-SHA-256): proves that its maker had these keys.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn backup_mac(&self, manifest: &[u8]) -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(self.backup_mac.as_slice())
            .expect("HMAC takes keys of any length");
        mac.update(manifest);
        mac.finalize().into_bytes().into()
    }

    /// Returns an identifier of this set of keys that reveals none of them: a database remembers which set it
    /// belongs to.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Encrypts a factor's secret for one user (XChaCha20-Poly1305). It decrypts only as a factor of the same
    /// kind of the same user, so that rows can't be swapped.
    ///
    /// # Panics
    /// Never in practice: a factor's secret is far shorter than 256 GiB.
    #[must_use]
    pub fn seal(&self, user: UserId, kind: FactorKind, secret: &[u8], nonce: [u8; NONCE_LENGTH]) -> Vec<u8> {
        let aad = associated_data(user, kind);
        let payload = Payload {
            msg: secret,
            aad: &aad,
        };
        let ciphertext = self
            .seal
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("a factor's secret is far shorter than the cipher's limit of 256 GiB");
        let mut sealed = Vec::with_capacity(1 + NONCE_LENGTH + ciphertext.len());
        sealed.push(SEAL_VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Encrypts a text that must be kept for a while, such as a mail containing a link. `label` names its
    /// purpose; the text decrypts only under the same label.
    ///
    /// # Panics
    /// Never in practice: the text is far shorter than 256 GiB.
    #[must_use]
    pub fn seal_text(&self, label: &str, text: &[u8], nonce: [u8; NONCE_LENGTH]) -> Vec<u8> {
        let payload = Payload {
            msg: text,
            aad: label.as_bytes(),
        };
        let ciphertext = self
            .texts
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("a text is far shorter than the cipher's limit of 256 GiB");
        let mut sealed = vec![SEAL_VERSION];
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Decrypts the output of [`KeyRing::seal_text`] for the same label.
    ///
    /// # Errors
    /// [`Error::Internal`] if it was sealed with other keys or for another purpose, or was changed.
    pub fn open_text(&self, label: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let unreadable = || Error::Internal(format!("a {label} was not sealed with these keys"));
        let Some((&SEAL_VERSION, rest)) = sealed.split_first() else {
            return Err(unreadable());
        };
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LENGTH).ok_or_else(unreadable)?;
        let payload = Payload {
            msg: ciphertext,
            aad: label.as_bytes(),
        };
        self.texts
            .decrypt(XNonce::from_slice(nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| unreadable())
    }

    /// Decrypts the output of [`KeyRing::seal`] for the same user and kind.
    ///
    /// # Errors
    /// [`Error::Internal`] if it was sealed with other keys or for another user or kind, or was changed.
    pub fn unseal(&self, user: UserId, kind: FactorKind, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let unreadable = || {
            Error::Internal(format!(
                "a {kind:?} secret of user {user} was not sealed with these keys"
            ))
        };
        let Some((&SEAL_VERSION, rest)) = sealed.split_first() else {
            return Err(unreadable());
        };
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LENGTH).ok_or_else(unreadable)?;
        let aad = associated_data(user, kind);
        self.seal
            .decrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: ciphertext,
                    aad: &aad,
                },
            )
            .map(Zeroizing::new)
            .map_err(|_| unreadable())
    }

    fn assemble(
        directory: Option<PathBuf>,
        root: &[u8; 32],
        audit: AuditKeys,
        records: Vec<SigningKeyRecord>,
    ) -> Self {
        // The issuer identifies the set of keys, not an address: a token minted on the command line is valid
        // whatever address the server listens on, and one of another installation never is.
        let issuer = Builder::from_custom_bytes(derive16(root, "issuer"))
            .into_uuid()
            .urn()
            .to_string();
        Self {
            directory,
            audit,
            seal: XChaCha20Poly1305::new((&*derive(root, "factor secrets")).into()),
            texts: XChaCha20Poly1305::new((&*derive(root, "owed texts")).into()),
            token_mac: derive(root, "refresh tokens"),
            pepper: derive(root, "recovery-code pepper"),
            plugin_cache: derive(root, "plugin cache"),
            webhooks: derive(root, "webhook secrets"),
            backup_mac: derive(root, "backup manifest"),
            fingerprint: hex::encode(derive16(root, "fingerprint")),
            access: RwLock::new(Access {
                keys: Arc::new(AccessKeys::new(issuer.clone(), &records)),
                records,
            }),
            issuer,
        }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("directory", &self.directory)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// HKDF-Expand of one block (RFC 5869 §2.3): the root is uniformly random, so no Extract step is needed.
fn derive(root: &[u8; 32], label: &str) -> Zeroizing<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(root).expect("HMAC takes keys of any length");
    mac.update(b"latchkey ");
    mac.update(label.as_bytes());
    mac.update(&[1]);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn derive16(root: &[u8; 32], label: &str) -> [u8; 16] {
    let key = derive(root, label);
    std::array::from_fn(|i| key[i])
}

fn associated_data(user: UserId, kind: FactorKind) -> [u8; 17] {
    let kind = match kind {
        FactorKind::Totp => 1,
        FactorKind::Passkey => 2,
        FactorKind::RecoveryCodes => 3,
    };
    let mut data = [kind; 17];
    data[..16].copy_from_slice(user.0.as_bytes());
    data
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use uuid::Uuid;

    use super::*;
    use crate::domain::credential::TokenAlgorithm;

    fn open(path: &Path) -> Result<KeyRing, KeyError> {
        KeyRing::open(path, &Entropy::seeded(7))
    }

    #[test]
    fn keys_are_made_once_for_the_owner_alone_and_read_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = open(dir.path()).expect("made");
        let second = KeyRing::open(dir.path(), &Entropy::seeded(8)).expect("read");
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(first.audit_signing_key(), second.audit_signing_key());
        assert_eq!(first.pepper(), second.pepper());
        let keys = dir.path().join(KEY_DIRECTORY);
        assert_eq!(keys.metadata().unwrap().mode() & 0o777, 0o700);
        let mut files = 0;
        for file in std::fs::read_dir(&keys).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
            files += 1;
        }
        assert_eq!(files, 3);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing unfinished is left"
        );
    }

    #[test]
    fn keys_that_others_can_read_are_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("temporary directory");
        open(dir.path()).expect("made");
        let file = dir.path().join(KEY_DIRECTORY).join(ROOT_FILE);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = open(dir.path()).expect_err("refused");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let keys = dir.path().join(KEY_DIRECTORY);
        std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = open(dir.path()).expect_err("refused");
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_missing_or_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        open(dir.path()).expect("made");
        let file = dir.path().join(KEY_DIRECTORY).join(TOKENS_FILE);
        let good = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, good.replace('"', "'")).unwrap();
        let error = open(dir.path()).expect_err("damaged");
        assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(open(dir.path()), Err(KeyError::Incomplete(_))));
        assert!(!file.exists());
    }

    #[test]
    fn rotation_keeps_old_keys_until_they_lapse_and_survives_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let entropy = Entropy::seeded(3);
        let at = |second| Timestamp::from_second(second).expect("a time");
        let keys = open(dir.path()).expect("made");
        let first = keys.access().kids();
        let rotate = |keys: &KeyRing, algorithm, made, lapse| {
            let new = SigningKeyRecord::generate(algorithm, entropy.bytes(), at(made));
            let kid = new.kid.clone();
            keys.rotate(new, at(lapse)).expect("rotated");
            kid
        };
        let second = rotate(&keys, TokenAlgorithm::EdDsa, 100, 200);
        assert_eq!(keys.access().kids(), [second.as_str(), first[0].as_str()]);
        assert_eq!(keys.access().algorithm(), TokenAlgorithm::EdDsa);
        assert_eq!(keys.signing_since(), at(100));
        let again = open(dir.path()).expect("read");
        assert_eq!(again.access().kids(), keys.access().kids());
        let third = rotate(&again, TokenAlgorithm::Hs256, 200, 300);
        assert_eq!(again.access().kids(), [third, second], "the first has lapsed");
        let file = dir.path().join(KEY_DIRECTORY).join(TOKENS_FILE);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(dir.path().join(KEY_DIRECTORY)).unwrap().count(),
            3
        );
    }

    #[test]
    fn a_sealed_secret_opens_only_for_its_user_and_kind_and_with_its_keys() {
        let keys = KeyRing::ephemeral(&Entropy::seeded(1));
        let alice = UserId(Uuid::from_u128(1));
        let sealed = keys.seal(alice, FactorKind::Totp, b"secret", [9; 24]);
        assert_eq!(
            *keys.unseal(alice, FactorKind::Totp, &sealed).expect("opens"),
            b"secret"
        );
        assert!(
            keys.unseal(UserId(Uuid::from_u128(2)), FactorKind::Totp, &sealed)
                .is_err()
        );
        assert!(keys.unseal(alice, FactorKind::Passkey, &sealed).is_err());
        let others = KeyRing::ephemeral(&Entropy::seeded(2));
        assert!(others.unseal(alice, FactorKind::Totp, &sealed).is_err());
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert!(
                keys.unseal(alice, FactorKind::Totp, &changed).is_err(),
                "byte {i}"
            );
        }
        assert!(keys.unseal(alice, FactorKind::Totp, &[]).is_err());
    }

    #[test]
    fn a_sealed_text_opens_only_as_what_it_is_and_with_its_keys() {
        let keys = KeyRing::ephemeral(&Entropy::seeded(1));
        let sealed = keys.seal_text("mail body", b"a link", [9; 24]);
        assert_eq!(*keys.open_text("mail body", &sealed).expect("opens"), b"a link");
        assert!(keys.open_text("something else", &sealed).is_err());
        let others = KeyRing::ephemeral(&Entropy::seeded(2));
        assert!(others.open_text("mail body", &sealed).is_err());
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert!(keys.open_text("mail body", &changed).is_err(), "byte {i}");
        }
    }

    #[test]
    fn debug_tells_no_secret() {
        let keys = KeyRing::ephemeral(&Entropy::seeded(1));
        let text = format!("{keys:?}");
        for secret in [keys.pepper(), keys.token_mac_key(), &keys.audit_signing_key()] {
            assert!(!text.contains(&hex::encode(secret)) && !text.contains(&format!("{secret:?}")));
        }
    }
}
