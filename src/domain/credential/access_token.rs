//! Access tokens: JWTs of type `at+jwt` (RFC 9068), signed with one of a ring of keys, each named by a `kid`.
//!
//! A key has one algorithm, and a token is verified only with the algorithm of the key that its `kid` names (RFC
//! 8725 §3.1), so that neither `none` nor algorithm confusion can succeed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use crate::domain::account::{OrganizationId, Role, SessionId, UserId};
use crate::domain::error::TokenFault;

/// Audience of access tokens (`aud`).
pub const AUDIENCE: &str = "latchkey";
/// Audience of tokens that permit enrolment only: a service that verifies our tokens with the public key expects
/// [`AUDIENCE`], and so refuses these.
pub const ENROLMENT_AUDIENCE: &str = "latchkey-enrolment";
/// `typ` of the header (RFC 9068 §2.1).
const TOKEN_TYPE: &str = "at+jwt";
/// Seconds by which a clock may have been set back since the token was issued. `exp` has no such leeway.
const NOT_BEFORE_LEEWAY_SECS: i64 = 5;
/// Maximum length of a token; a longer one can't be ours and is not parsed.
const MAX_TOKEN_BYTES: usize = 4096;

/// The claims of an access token. A token with further claims is not ours: RFC 7519 §4 has unknown claims
/// ignored, but `serde_json` does not check whether what it ignores is valid Unicode (RFC 7519 §7.2, step 10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Issuer: names this installation.
    pub iss: String,
    /// Audience: [`AUDIENCE`] or [`ENROLMENT_AUDIENCE`].
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// The user's organisation.
    pub org: OrganizationId,
    /// The user's role at the time of issue. For clients to read; the database decides.
    #[serde(with = "wire_role")]
    pub role: Role,
    /// The session.
    pub sid: SessionId,
    /// When the user last authenticated, in seconds since the epoch.
    pub auth_time: i64,
    /// Authentication methods used (RFC 8176).
    pub amr: Vec<Amr>,
    /// Id of this token.
    pub jti: Uuid,
    /// Time of issue, seconds since the epoch.
    pub iat: i64,
    /// Start of validity, seconds since the epoch.
    pub nbf: i64,
    /// End of validity, exclusive, seconds since the epoch.
    pub exp: i64,
}

/// How a user authenticated (RFC 8176 §2, and one value of our own).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amr {
    /// Password.
    Pwd,
    /// One-time password.
    Otp,
    /// Proof of possession of a key: a passkey.
    Pop,
    /// User presence, confirmed by a touch.
    User,
    /// More than one factor.
    Mfa,
    /// No authentication: an operator minted the token on the command line.
    Cli,
}

/// The signature algorithm of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256 (RFC 7518 §3.2).
    #[default]
    #[serde(rename = "HS256")]
    Hs256,
    /// Ed25519 (RFC 8037 §3.1): others can verify tokens with the public key, but not create them.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl TokenAlgorithm {
    /// Returns its name in a token's header (RFC 7518 §3.1).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A signing key as stored in the key directory. The first one of a list signs.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SigningKeyRecord {
    /// Name of the key in a token's header.
    pub kid: String,
    /// Algorithm that it signs with.
    pub algorithm: TokenAlgorithm,
    /// The key, base64url.
    secret: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it is dropped, once another key signs; until then it still verifies tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapses_at: Option<Timestamp>,
}

/// A public key with which others verify tokens (RFC 7517, RFC 8037 §2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicKey {
    /// Name of the key in a token's header.
    pub kid: String,
    /// The key, 32 bytes, base64url.
    pub x: String,
}

/// The key ring: one key signs, all verify.
pub struct AccessKeys {
    issuer: String,
    keys: Vec<Key>,
}

struct Key {
    kid: String,
    lapses_at: Option<Timestamp>,
    header: Header,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    public: Option<PublicKey>,
}

impl AccessKeys {
    /// Creates the ring of these keys; the first one signs.
    ///
    /// # Panics
    /// If a record is invalid; call [`SigningKeyRecord::check`] first.
    #[must_use]
    pub fn new(issuer: String, records: &[SigningKeyRecord]) -> Self {
        // Choose jsonwebtoken's backend explicitly, so that it does not depend on the features of other crates.
        // The call fails if this was already done, which is fine.
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        assert!(!records.is_empty(), "a ring has at least one key");
        Self {
            issuer,
            keys: records.iter().map(Key::new).collect(),
        }
    }

    /// Returns the `iss` of the tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the names of the keys, the signing one first.
    #[must_use]
    pub fn kids(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.kid.clone()).collect()
    }

    /// Returns the algorithm of the signing key.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        match self.keys[0].header.alg {
            Algorithm::EdDSA => TokenAlgorithm::EdDsa,
            _ => TokenAlgorithm::Hs256,
        }
    }

    /// Returns the public keys that verify tokens at `at`; empty for HS256, whose keys are secret.
    #[must_use]
    pub fn public_keys(&self, at: Timestamp) -> Vec<PublicKey> {
        let alive = self
            .keys
            .iter()
            .filter(|key| key.lapses_at.is_none_or(|lapse| at < lapse));
        alive.filter_map(|key| key.public.clone()).collect()
    }

    /// Signs a token.
    ///
    /// # Panics
    /// Never in practice: the key fits its algorithm, and claims are plain JSON.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        let key = &self.keys[0];
        jsonwebtoken::encode(&key.header, claims, &key.encoding).expect("claims are JSON and the key fits")
    }

    /// Verifies a token and returns its claims, if it is ours and valid at `at`.
    ///
    /// # Errors
    /// [`TokenFault::Invalid`], [`TokenFault::Expired`] or [`TokenFault::NotYetValid`]; the latter two only for
    /// tokens with a valid signature.
    pub fn verify(&self, token: &str, at: Timestamp) -> Result<Claims, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenFault::Invalid)?;
        let is_access_token = header
            .typ
            .as_deref()
            .is_some_and(|t| t.eq_ignore_ascii_case(TOKEN_TYPE));
        // `crit` names extensions that must be understood (RFC 7515 §4.1.11); we support none.
        if !is_access_token || header.crit.is_some() {
            return Err(TokenFault::Invalid);
        }
        let key = self.key(header.kid.as_deref(), at).ok_or(TokenFault::Invalid)?;
        let claims: Claims = jsonwebtoken::decode(token, &key.decoding, &key.validation)
            .map_err(|_| TokenFault::Invalid)?
            .claims;
        // Either audience is accepted here: the database knows what the session may be used for.
        let is_ours = [AUDIENCE, ENROLMENT_AUDIENCE].contains(&claims.aud.as_str());
        if claims.iss != self.issuer || !is_ours || claims.exp < claims.nbf {
            return Err(TokenFault::Invalid);
        }
        let now = at.as_second();
        if now >= claims.exp {
            return Err(TokenFault::Expired);
        }
        if now + NOT_BEFORE_LEEWAY_SECS < claims.nbf {
            return Err(TokenFault::NotYetValid);
        }
        Ok(claims)
    }

    fn key(&self, kid: Option<&str>, at: Timestamp) -> Option<&Key> {
        let key = self.keys.iter().find(|key| Some(key.kid.as_str()) == kid)?;
        key.lapses_at.is_none_or(|lapse| at < lapse).then_some(key)
    }
}

impl fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids: Vec<_> = self.keys.iter().map(|key| &key.kid).collect();
        f.debug_struct("AccessKeys")
            .field("kids", &kids)
            .finish_non_exhaustive()
    }
}

impl Key {
    fn new(record: &SigningKeyRecord) -> Self {
        let secret = record.decode().expect("the records were checked");
        let (algorithm, encoding, decoding, public) = match record.algorithm {
            TokenAlgorithm::Hs256 => (
                Algorithm::HS256,
                EncodingKey::from_secret(&*secret),
                DecodingKey::from_secret(&*secret),
                None,
            ),
            TokenAlgorithm::EdDsa => {
                let pair = SigningKey::from_bytes(&secret);
                let der = pair.to_pkcs8_der().expect("a key of 32 bytes has a PKCS #8 form");
                let public = pair.verifying_key().to_bytes();
                (
                    Algorithm::EdDSA,
                    EncodingKey::from_ed_der(der.as_bytes()),
                    DecodingKey::from_ed_der(&public),
                    Some(PublicKey {
                        kid: record.kid.clone(),
                        x: URL_SAFE_NO_PAD.encode(public),
                    }),
                )
            }
        };
        let mut header = Header::new(algorithm);
        header.typ = Some(TOKEN_TYPE.to_owned());
        header.kid = Some(record.kid.clone());
        Self {
            kid: record.kid.clone(),
            lapses_at: record.lapses_at,
            header,
            encoding,
            decoding,
            validation: signature_only(algorithm),
            public,
        }
    }
}

/// Returns a validation of signature and algorithm only. The caller checks times against the given instant,
/// issuer and audience; the type of the claims ensures that every claim is present.
pub(super) fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

impl SigningKeyRecord {
    /// Creates a key from random bytes. Its `kid` is derived from the key, but reveals nothing about it.
    #[must_use]
    pub fn generate(algorithm: TokenAlgorithm, random: [u8; 32], at: Timestamp) -> Self {
        let digest = Sha256::new()
            .chain_update(b"latchkey kid")
            .chain_update(random)
            .finalize();
        Self {
            kid: URL_SAFE_NO_PAD.encode(&digest[..9]),
            algorithm,
            secret: URL_SAFE_NO_PAD.encode(random),
            created_at: at,
            lapses_at: None,
        }
    }

    /// Checks that a list of keys can be used as a ring.
    ///
    /// # Errors
    /// What is wrong with it; never contains a key.
    pub fn check(records: &[Self]) -> Result<(), &'static str> {
        if records.is_empty() {
            return Err("it holds no key");
        }
        for (i, record) in records.iter().enumerate() {
            if record.decode().is_none() {
                return Err("a key is not 32 bytes in base64url");
            }
            if records[..i].iter().any(|earlier| earlier.kid == record.kid) {
                return Err("two keys have the same kid");
            }
        }
        Ok(())
    }

    fn decode(&self) -> Option<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        let length = URL_SAFE_NO_PAD
            .decode_slice(&self.secret, key.as_mut_slice())
            .ok()?;
        (length == key.len()).then_some(key)
    }
}

impl Drop for SigningKeyRecord {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for SigningKeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeyRecord")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// The roles' names on the wire.
const ROLE_NAMES: [(Role, &str); 4] = [
    (Role::Member, "MEMBER"),
    (Role::HelpDesk, "HELP_DESK"),
    (Role::OrgAdmin, "ORG_ADMIN"),
    (Role::Operator, "OPERATOR"),
];

/// Returns the role with that wire name, if an account can have it: `ORG_ADMIN`, for example.
#[must_use]
pub fn role_by_name(name: &str) -> Option<Role> {
    let known = ROLE_NAMES.iter().find(|(_, known)| *known == name);
    known.map(|(role, _)| *role).filter(|role| *role < Role::Operator)
}

mod wire_role {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{ROLE_NAMES as NAMES, Role, role_by_name};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
        let (_, name) = NAMES
            .iter()
            .find(|(r, _)| r == role)
            .expect("every role has a name");
        serializer.serialize_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Role, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        role_by_name(&name).ok_or_else(|| D::Error::custom("unknown role"))
    }
}

#[cfg(test)]
#[path = "access_token_tests.rs"]
mod tests;
