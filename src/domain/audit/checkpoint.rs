//! Signed statements about the whole trail: C2SP tlog-checkpoint inside a C2SP signed-note, Ed25519.

use std::fmt;
use std::net::IpAddr;

use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use signed_note::{Note, Signer, StandardVerifier, Verifier, VerifierList};

use super::leaf::Hash32;

/// The log's name and signing key.
#[derive(Clone)]
pub struct LogSigner {
    origin: String,
    key_id: u32,
    key: SigningKey,
}

/// A log's name and the public key that verifies its signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    verifier_key: String,
    origin: String,
}

/// A set of trusted keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogKeys(Vec<LogKey>);

/// The size of the trail and the root hash over all its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them (RFC 6962 §2.1).
    pub root: Hash32,
    /// The key that signed it; absent if the signature was not checked.
    pub key: Option<LogKey>,
}

/// Why a text is not a checkpoint of a trusted log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a checkpoint.
    #[error("it is not a checkpoint (C2SP tlog-checkpoint in a signed note)")]
    Malformed,
    /// No signature by a trusted key.
    #[error("no trusted key has signed it")]
    UnknownKey,
    /// The signature by a trusted key is invalid.
    #[error("its signature does not fit: it is forged or was changed")]
    Forged,
}

/// The text is not a verifier key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a verifier key (NAME+HASH+BASE64, as `latchkey audit key` prints it)")]
pub struct KeyError(pub String);

impl LogSigner {
    /// Creates the signer of the log `origin` from the seed of its Ed25519 key.
    ///
    /// # Panics
    /// Never: [`origin_of`] returns valid key names only.
    #[must_use]
    pub fn new(origin: &str, seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let verifier_key = signed_note::new_ed25519_verifier_key(origin, &key.verifying_key());
        let verifier = StandardVerifier::new(&verifier_key).expect("an origin is a valid key name");
        Self {
            origin: origin.to_owned(),
            key_id: verifier.key_id(),
            key,
        }
    }

    /// Returns the log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the public key, to be handed to verifiers.
    #[must_use]
    pub fn log_key(&self) -> LogKey {
        LogKey {
            verifier_key: signed_note::new_ed25519_verifier_key(&self.origin, &self.key.verifying_key()),
            origin: self.origin.clone(),
        }
    }

    /// Returns a checkpoint over `size` entries, as a signed note.
    ///
    /// # Panics
    /// Never: a name, a number and a hash make a well-formed text.
    #[must_use]
    pub fn checkpoint(&self, size: u64, root: Hash32) -> String {
        let text = tlog_tiles::Checkpoint::new(&self.origin, size, tlog_tiles::Hash(root), "")
            .expect("an origin is not empty")
            .to_bytes();
        self.sign(&String::from_utf8(text).expect("a checkpoint is text"))
    }

    /// Returns a statement about the lines of an export, as a signed note.
    #[must_use]
    pub fn export_end(&self, lines: u64, sha256: Hash32) -> String {
        self.sign(&export_text(&self.origin, lines, sha256))
    }

    /// Returns `text` as a signed note.
    pub(super) fn sign(&self, text: &str) -> String {
        let mut note = Note::new(text.as_bytes(), &[]).expect("our texts end with a newline");
        note.add_sigs(&[self]).expect("Ed25519 signs any text");
        String::from_utf8(note.to_bytes()).expect("a note is text")
    }
}

impl Signer for LogSigner {
    fn name(&self) -> &str {
        &self.origin
    }

    fn key_id(&self) -> u32 {
        self.key_id
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        use ed25519_dalek::Signer as _;
        self.key.try_sign(text).map(|signature| signature.to_vec())
    }
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSigner")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl LogKey {
    /// Parses `NAME+HASH+BASE64` (C2SP signed-note, "verifier keys").
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let verifier = StandardVerifier::new(text).map_err(|_| KeyError(text.to_owned()))?;
        Ok(Self {
            verifier_key: text.to_owned(),
            origin: verifier.name().to_owned(),
        })
    }

    /// Returns the key of the log `origin` with this public half.
    #[must_use]
    pub fn of(origin: &str, public: &Hash32) -> Option<Self> {
        let key = VerifyingKey::from_bytes(public).ok()?;
        Self::parse(&signed_note::new_ed25519_verifier_key(origin, &key)).ok()
    }

    /// Returns the log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    fn verifier(&self) -> StandardVerifier {
        StandardVerifier::new(&self.verifier_key).expect("it was parsed before")
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verifier_key)
    }
}

impl fmt::Display for LogKeys {
    /// Formats the keys, one per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|key| writeln!(f, "{key}"))
    }
}

impl LogKeys {
    /// Creates a set of these keys.
    #[must_use]
    pub fn new(keys: Vec<LogKey>) -> Self {
        Self(keys)
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a trusted key.
    pub fn add(&mut self, key: LogKey) {
        if !self.0.contains(&key) {
            self.0.push(key);
        }
    }

    /// Returns whether the set contains the key.
    #[must_use]
    pub fn contains(&self, key: &LogKey) -> bool {
        self.0.contains(key)
    }

    /// Iterates over the keys.
    pub fn iter(&self) -> impl Iterator<Item = &LogKey> {
        self.0.iter()
    }

    /// Parses a checkpoint and checks that a trusted key of the log that it names signed it.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(&self, note: &str) -> Result<Checkpoint, CheckpointError> {
        let (mut checkpoint, key) = self.open_note(note, |text| {
            let checkpoint = read(text)?;
            Some((checkpoint.origin.clone(), checkpoint))
        })?;
        checkpoint.key = Some(key.clone());
        Ok(checkpoint)
    }

    /// Checks that a trusted key signed this statement about the lines of an export, and returns that key.
    ///
    /// # Errors
    /// [`CheckpointError`]; [`CheckpointError::Forged`] also for a statement about other lines.
    pub fn check_export_end(
        &self,
        note: &str,
        lines: u64,
        sha256: Hash32,
    ) -> Result<&LogKey, CheckpointError> {
        let ((origin, text), key) = self.open_note(note, |text| {
            let text = std::str::from_utf8(text).ok()?;
            let origin = text.lines().nth(1)?.to_owned();
            Some((origin.clone(), (origin, text.to_owned())))
        })?;
        if text == export_text(&origin, lines, sha256) {
            Ok(key)
        } else {
            Err(CheckpointError::Forged)
        }
    }

    /// Checks that a trusted key of the log `origin` signed exactly this text.
    ///
    /// # Errors
    /// [`CheckpointError`]; [`CheckpointError::Forged`] also for another text.
    pub(super) fn check_text(&self, note: &str, origin: &str, expected: &str) -> Result<(), CheckpointError> {
        let (text, _) = self.open_note(note, |text| Some((origin.to_owned(), text.to_vec())))?;
        if text == expected.as_bytes() {
            Ok(())
        } else {
            Err(CheckpointError::Forged)
        }
    }

    /// Opens a note whose text names the log that must have signed it; returns the key that did.
    fn open_note<T>(
        &self,
        note: &str,
        read: impl FnOnce(&[u8]) -> Option<(String, T)>,
    ) -> Result<(T, &LogKey), CheckpointError> {
        let note = Note::from_bytes(note.as_bytes()).map_err(|_| CheckpointError::Malformed)?;
        let (origin, value) = read(note.text()).ok_or(CheckpointError::Malformed)?;
        for key in self.0.iter().filter(|key| key.origin == origin) {
            match note.verify(&VerifierList::new(vec![Box::new(key.verifier())])) {
                Ok(_) => return Ok((value, key)),
                Err(signed_note::NoteError::InvalidSignature { .. }) => return Err(CheckpointError::Forged),
                Err(_) => {}
            }
        }
        Err(CheckpointError::UnknownKey)
    }
}

/// Returns the statement about an export. It can't be mistaken for a checkpoint, whose second line is a number.
fn export_text(origin: &str, lines: u64, sha256: Hash32) -> String {
    format!(
        "{}\n{origin}\n{lines} lines\n{}\n",
        super::export::EXPORT_FORMAT,
        hex::encode(sha256)
    )
}

/// Parses a note without checking its signature: only to report which checkpoint is invalid.
#[must_use]
pub fn unchecked(note: &str) -> Option<Checkpoint> {
    let note = Note::from_bytes(note.as_bytes()).ok()?;
    read(note.text())
}

fn read(text: &[u8]) -> Option<Checkpoint> {
    let parsed = tlog_tiles::Checkpoint::from_bytes(text).ok()?;
    Some(Checkpoint {
        origin: parsed.origin().to_owned(),
        size: parsed.size(),
        root: parsed.hash().0,
        key: None,
    })
}

/// Returns the public half of the key with that seed.
#[must_use]
pub fn public_half(seed: &[u8; 32]) -> Hash32 {
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

/// Returns the log's name for an appliance reached at `public_url`, whose key has this public half: a URL without
/// its scheme (C2SP tlog-checkpoint), for example `mfa.example.org/audit-log`. It is chosen once, at the first
/// checkpoint.
///
/// Every machine is reachable at `127.0.0.1`, so there eight digits of the key tell logs apart:
/// `127.0.0.1:8080/1a2b3c4d/audit-log`.
#[must_use]
pub fn origin_of(public_url: &str, public: &Hash32) -> String {
    let host = public_url.split_once("://").map_or(public_url, |(_, rest)| rest);
    let host = host.trim_end_matches('/');
    let host: String = host
        .chars()
        .map(|c| {
            if c.is_whitespace() || c == '+' || c.is_control() {
                '-'
            } else {
                c
            }
        })
        .collect();
    if host.is_empty() || is_this_machine(&host) {
        let host = if host.is_empty() { "latchkey" } else { &host };
        let digest = Sha256::new_with_prefix(b"latchkey log name\0")
            .chain_update(public)
            .finalize();
        return format!("{host}/{}/audit-log", hex::encode(&digest[..4]));
    }
    format!("{host}/audit-log")
}

/// Returns whether a URL without its scheme names the local machine.
fn is_this_machine(url: &str) -> bool {
    let host = url.split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let host = host.to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_called_by_its_host_and_at_home_by_its_key_too() {
        let (one, other) = ([1; 32], [2; 32]);
        for at_home in [
            "http://127.0.0.1:8080",
            "http://localhost/",
            "http://[::1]:8080",
            "http://a.localhost/x",
        ] {
            let name = origin_of(at_home, &one);
            assert_ne!(name, origin_of(at_home, &other), "two of them share a witness");
            assert_eq!(name, origin_of(at_home, &one));
            assert!(name.ends_with("/audit-log"), "{name}");
            assert!(LogKey::of(&name, &public_half(&[7; 32])).is_some(), "{name}");
        }
        for (url, name) in [
            ("https://mfa.example.org", "mfa.example.org/audit-log"),
            (
                "https://mfa.example.org:8443/x/",
                "mfa.example.org:8443/x/audit-log",
            ),
            ("https://localhost.example.org", "localhost.example.org/audit-log"),
            ("http://192.0.2.1", "192.0.2.1/audit-log"),
        ] {
            assert_eq!(origin_of(url, &one), name);
        }
    }
}
