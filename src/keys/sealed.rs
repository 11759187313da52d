//! Key files encrypted under a passphrase, for a backup that may fall into other hands.
//!
//! Argon2id (RFC 9106) derives a key from the passphrase, and XChaCha20-Poly1305 encrypts the files with it. A
//! sealed file may come from anyone, so its parameters are bounded before they cost anything.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files::{
    AUDIT_FILE, AUDIT_NEXT_FILE, AUDIT_RETIRED_FILE, KeyError, ROOT_FILE, TOKENS_FILE, check_mode, io_error,
    read_secret, sync_directory, write_new,
};
use crate::entropy::Entropy;

/// RFC 9106 §4, second recommended option: m = 64 MiB, t = 3, with one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// Upper bounds on the parameters accepted from a file.
const MOST_MEMORY_KIB: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 16;
/// Files that every key directory has.
const ALWAYS: [&str; 3] = [ROOT_FILE, AUDIT_FILE, TOKENS_FILE];
/// Files that exist once the trail's key was changed.
const SOMETIMES: [&str; 2] = [AUDIT_NEXT_FILE, AUDIT_RETIRED_FILE];
const LABEL: &[u8] = b"latchkey sealed keys 1";

/// Key files: name to contents.
pub type KeyTexts = BTreeMap<String, Zeroizing<String>>;

/// Why sealed keys can't be opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// The contents are not what latchkey wrote.
    #[error("the sealed keys are damaged: {0}")]
    Damaged(&'static str),
    /// Wrong passphrase or changed file; the two can't be told apart.
    #[error("the passphrase is wrong, or the sealed keys were changed")]
    Passphrase,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    nonce: String,
    ciphertext: String,
}

/// Encrypts key files under a passphrase. Takes about 250 ms and 64 MiB.
///
/// # Panics
/// Never: the parameters are in range, and the files are far shorter than the cipher's limit.
#[must_use]
pub fn seal_keys(texts: &KeyTexts, passphrase: &str, entropy: &Entropy) -> String {
    let plain: BTreeMap<&str, &str> = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let plain = Zeroizing::new(serde_json::to_vec(&plain).expect("names and texts are plain JSON"));
    let (salt, nonce): ([u8; 16], [u8; 24]) = (entropy.bytes(), entropy.bytes());
    let key = derive(passphrase, salt, MEMORY_KIB, PASSES, LANES).expect("the parameters are in range");
    let payload = Payload {
        msg: &plain,
        aad: LABEL,
    };
    let ciphertext = XChaCha20Poly1305::new((&*key).into())
        .encrypt(XNonce::from_slice(&nonce), payload)
        .expect("key files are far shorter than the cipher's limit");
    let sealed = Sealed {
        format: String::from_utf8_lossy(LABEL).into_owned(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: LANES,
        salt: hex::encode(salt),
        nonce: hex::encode(nonce),
        ciphertext: hex::encode(ciphertext),
    };
    serde_json::to_string_pretty(&sealed).expect("sealed keys are plain JSON") + "\n"
}

/// Decrypts the output of [`seal_keys`].
///
/// # Errors
/// [`UnsealError`].
pub fn unseal_keys(sealed: &str, passphrase: &str) -> Result<KeyTexts, UnsealError> {
    let sealed: Sealed =
        serde_json::from_str(sealed).map_err(|_| UnsealError::Damaged("they can't be read"))?;
    if sealed.format.as_bytes() != LABEL {
        return Err(UnsealError::Damaged("their format is unknown"));
    }
    if sealed.memory_kib > MOST_MEMORY_KIB || sealed.passes > MOST_PASSES || sealed.lanes > 16 {
        return Err(UnsealError::Damaged("they ask for too much memory or time"));
    }
    let (mut salt, mut nonce) = ([0; 16], [0; 24]);
    let ciphertext = hex::decode_to_slice(&sealed.salt, &mut salt)
        .and_then(|()| hex::decode_to_slice(&sealed.nonce, &mut nonce))
        .and_then(|()| hex::decode(&sealed.ciphertext))
        .map_err(|_| UnsealError::Damaged("they are not hexadecimal"))?;
    let key = derive(passphrase, salt, sealed.memory_kib, sealed.passes, sealed.lanes)
        .ok_or(UnsealError::Damaged("their parameters are out of range"))?;
    let payload = Payload {
        msg: &ciphertext,
        aad: LABEL,
    };
    let plain = XChaCha20Poly1305::new((&*key).into())
        .decrypt(XNonce::from_slice(&nonce), payload)
        .map(Zeroizing::new)
        .map_err(|_| UnsealError::Passphrase)?;
    let texts: BTreeMap<String, String> =
        serde_json::from_slice(&plain).map_err(|_| UnsealError::Damaged("they do not contain key files"))?;
    Ok(texts
        .into_iter()
        .map(|(name, text)| (name, Zeroizing::new(text)))
        .collect())
}

/// Returns the name of every file that a key directory may have.
pub fn key_file_names() -> impl Iterator<Item = &'static str> {
    ALWAYS.into_iter().chain(SOMETIMES)
}

/// Reads the key files of a data directory, to be copied into a backup.
///
/// # Errors
/// [`KeyError`]: others can read the files, or one is missing.
pub fn read_key_texts(directory: &Path) -> Result<KeyTexts, KeyError> {
    check_mode(directory, 0o700)?;
    let sometimes = SOMETIMES.into_iter().filter(|name| directory.join(name).exists());
    ALWAYS
        .into_iter()
        .chain(sometimes)
        .map(|name| Ok((name.to_owned(), read_secret(&directory.join(name))?)))
        .collect()
}

/// Writes key files into a new directory, readable only by the owner.
///
/// # Errors
/// [`KeyError`]: a file that is not a key file is among them, or one can't be written.
pub fn write_key_texts(directory: &Path, texts: &KeyTexts) -> Result<(), KeyError> {
    DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(|source| io_error(directory, source))?;
    for (name, text) in texts {
        if !key_file_names().any(|known| known == name) {
            return Err(KeyError::Damaged {
                path: directory.join(name.replace('/', "_")),
                problem: "it is not a key file".to_owned(),
            });
        }
        write_new(&directory.join(name), text)?;
    }
    sync_directory(directory)
}

fn derive(
    passphrase: &str,
    salt: [u8; 16],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
) -> Option<Zeroizing<[u8; 32]>> {
    let parameters = Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(passphrase.as_bytes(), &salt, key.as_mut_slice())
        .ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> KeyTexts {
        KeyTexts::from([("root.key".to_owned(), Zeroizing::new("secret\n".to_owned()))])
    }

    #[test]
    fn sealed_keys_open_with_their_passphrase_alone() {
        let sealed = seal_keys(&texts(), "correct horse", &Entropy::seeded(1));
        assert!(!sealed.contains("secret"));
        assert_eq!(unseal_keys(&sealed, "correct horse"), Ok(texts()));
        assert_eq!(unseal_keys(&sealed, "wrong horse"), Err(UnsealError::Passphrase));
        let at = sealed.rfind("\"\n}").expect("the ciphertext ends the file") - 1;
        let changed = if &sealed[at..=at] == "0" { "1" } else { "0" };
        let changed = format!("{}{changed}{}", &sealed[..at], &sealed[at + 1..]);
        assert_eq!(
            unseal_keys(&changed, "correct horse"),
            Err(UnsealError::Passphrase)
        );
    }

    #[test]
    fn a_file_cannot_ask_for_all_memory() {
        let sealed = seal_keys(&texts(), "correct horse", &Entropy::seeded(1));
        let greedy = sealed.replace("65536", "4000000000");
        assert!(matches!(
            unseal_keys(&greedy, "correct horse"),
            Err(UnsealError::Damaged(_))
        ));
        assert!(matches!(
            unseal_keys("{}", "correct horse"),
            Err(UnsealError::Damaged(_))
        ));
    }
}
