//! Signatures of plugin files in minisign's format, compatible with the `minisign` tool.

use std::io::Cursor;

use minisign::{PublicKeyBox, SignatureBox};

/// A key whose signatures an operator trusts.
#[derive(Clone, Debug)]
pub struct SignerKey(minisign::PublicKey);

impl SignerKey {
    /// Parses a public key: the content of a `.pub` file, or the base64 line alone.
    ///
    /// # Errors
    /// A message: the text is not a minisign public key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let key = if text.contains('\n') {
            PublicKeyBox::from_string(text).and_then(PublicKeyBox::into_public_key)
        } else {
            minisign::PublicKey::from_base64(text)
        };
        key.map(Self)
            .map_err(|error| format!("not a minisign public key: {error}"))
    }

    /// Returns the key id as minisign shows it.
    #[must_use]
    pub fn id(&self) -> String {
        key_id(self.0.keynum())
    }
}

/// A valid signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Id of the key that signed.
    pub key_id: String,
    /// The trusted comment, which the signature covers.
    pub comment: String,
}

/// Why a signature does not count.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Not in minisign's format.
    #[error("this is not a valid signature: {0}")]
    Malformed(String),
    /// Made with a key that is not trusted.
    #[error("signed with the key {key_id}, which is not trusted here")]
    UnknownKey {
        /// Id of the key that signed.
        key_id: String,
    },
    /// Made over other bytes, or changed.
    #[error("the signature does not fit this file: the file or the signature was changed")]
    Mismatch,
}

impl SignatureError {
    /// Returns a stable code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "signature-malformed",
            Self::UnknownKey { .. } => "signature-unknown-key",
            Self::Mismatch => "signature-mismatch",
        }
    }
}

/// Verifies a signature over `bytes` made by any of the trusted `keys`.
///
/// # Errors
/// The signature is malformed, by an unknown key, or over other bytes.
pub fn verify(bytes: &[u8], signature: &str, keys: &[SignerKey]) -> Result<Signed, SignatureError> {
    let malformed = |error: minisign::PError| SignatureError::Malformed(error.to_string());
    let signature = SignatureBox::from_string(signature).map_err(malformed)?;
    // A legacy signature covers the file itself, not its hash; minisign has not made these by default for
    // years.
    if !signature.is_prehashed() {
        return Err(SignatureError::Malformed(
            "it is of minisign's old form (-l), which is not accepted; sign again without -l".to_owned(),
        ));
    }
    let key_id = key_id(signature.keynum());
    let Some(key) = keys.iter().find(|key| key.0.keynum() == signature.keynum()) else {
        return Err(SignatureError::UnknownKey { key_id });
    };
    minisign::verify(&key.0, &signature, Cursor::new(bytes), true, false, false)
        .map_err(|_| SignatureError::Mismatch)?;
    Ok(Signed {
        key_id,
        comment: signature.trusted_comment().map_err(malformed)?,
    })
}

/// Formats a key id: little-endian on disk, upper-case hex for people.
fn key_id(keynum: &[u8]) -> String {
    hex::encode_upper(keynum.iter().rev().copied().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use minisign::KeyPair;

    use super::*;

    #[test]
    fn only_the_signed_bytes_under_a_trusted_key_verify() {
        let pair = || KeyPair::generate_unencrypted_keypair().expect("a key");
        let (mine, other) = (pair(), pair());
        let key = |pair: &KeyPair| SignerKey::parse(&pair.pk.to_base64()).expect("a public key");
        let bytes = b"\0asm plugin";
        let signature = minisign::sign(
            None,
            &mine.sk,
            Cursor::new(bytes),
            Some("latchkey plugin p 1.0.0"),
            None,
        );
        let signature = signature.expect("signed").into_string();

        let signed = verify(bytes, &signature, &[key(&other), key(&mine)]).expect("good");
        assert_eq!(signed.comment, "latchkey plugin p 1.0.0");
        assert_eq!(signed.key_id, key(&mine).id());

        let refused = |bytes: &[u8], signature: &str, key: SignerKey| {
            verify(bytes, signature, &[key]).expect_err("refused").to_string()
        };
        assert!(refused(b"\0asm plugin!", &signature, key(&mine)).contains("was changed"));
        assert!(refused(bytes, &signature, key(&other)).contains("not trusted"));
        assert!(refused(bytes, "nonsense", key(&mine)).contains("not a valid signature"));
        let forged = signature.replace("plugin p 1.0.0", "plugin p 9.0.0");
        assert!(
            refused(bytes, &forged, key(&mine)).contains("was changed"),
            "the comment is signed, too"
        );
    }

    #[test]
    fn a_key_is_read_from_its_file_or_its_line() {
        let pair = KeyPair::generate_unencrypted_keypair().expect("a key");
        let file = pair.pk.to_box().expect("a box").into_string();
        assert_eq!(
            SignerKey::parse(&file).expect("a file").id(),
            SignerKey::parse(&pair.pk.to_base64()).expect("a line").id()
        );
        assert!(SignerKey::parse("RWnonsense").is_err());
    }
}
