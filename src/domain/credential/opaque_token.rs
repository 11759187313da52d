//! Tokens that have a meaning for this appliance only. Refresh and one-use tokens begin with their user, so that
//! the row they stand for is found beside the user's other rows.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::domain::account::{SessionId, UserId};

/// Prefixes by which secret scanners recognise leaked tokens.
const REFRESH_PREFIX: &str = "lkr_";
const ONE_USE_PREFIX: &str = "lko_";
/// Prefix of every API key.
pub const API_KEY_PREFIX: &str = "lkk_";
const DEVICE_PREFIX: &str = "lkd_";
/// Seconds for which a device is remembered.
pub const DEVICE_TOKEN_SECS: i64 = 365 * 24 * 3600;
/// Characters at the beginning of a key that may be shown: the prefix and a part of its id, nothing secret.
const SHOWN_CHARACTERS: usize = 14;

/// A refresh token: user, session, generation and a MAC over them. It is authenticated without a row in the
/// store, so that an old generation can be told from a forgery even after its family was rotated many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// The token's user.
    pub user: UserId,
    /// The session (refresh family).
    pub session: SessionId,
    /// Number of rotations of the family before it was issued.
    pub generation: u32,
}

impl RefreshToken {
    const BODY: usize = 36;
    const LENGTH: usize = Self::BODY + 32;

    /// Encodes the token for the client.
    #[must_use]
    pub fn encode(&self, mac_key: &[u8; 32]) -> String {
        let mut bytes = [0; Self::LENGTH];
        bytes[..16].copy_from_slice(self.user.0.as_bytes());
        bytes[16..32].copy_from_slice(self.session.0.as_bytes());
        bytes[32..Self::BODY].copy_from_slice(&self.generation.to_be_bytes());
        let tag = Self::mac(mac_key, &bytes[..Self::BODY]).finalize().into_bytes();
        bytes[Self::BODY..].copy_from_slice(&tag);
        format!("{REFRESH_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Decodes a token and verifies its MAC; `None` if it is not ours.
    #[must_use]
    pub fn decode(token: &str, mac_key: &[u8; 32]) -> Option<Self> {
        let bytes: [u8; Self::LENGTH] = decode(token, REFRESH_PREFIX)?;
        let (body, tag) = bytes.split_at(Self::BODY);
        Self::mac(mac_key, body).verify_slice(tag).ok()?;
        Some(Self {
            user: UserId(Uuid::from_slice(&body[..16]).ok()?),
            session: SessionId(Uuid::from_slice(&body[16..32]).ok()?),
            generation: u32::from_be_bytes(body[32..].try_into().ok()?),
        })
    }

    fn mac(key: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(key)
            .expect("HMAC takes keys of any length")
            .chain_update(body)
    }
}

/// A token that works once: for a login that waits for its code, a change of an expired password, an invitation.
/// The store keeps its hash; 256 random bits need no salt (NIST SP 800-63B-4 §3.1.2.2).
#[derive(Clone, PartialEq, Eq)]
pub struct OneUseToken {
    /// The token's user.
    pub user: UserId,
    random: [u8; 32],
}

impl OneUseToken {
    /// Creates a token from random bytes.
    #[must_use]
    pub fn new(user: UserId, random: [u8; 32]) -> Self {
        Self { user, random }
    }

    /// Encodes the token for the client.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(self.user.0.as_bytes());
        bytes[16..].copy_from_slice(&self.random);
        format!("{ONE_USE_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Decodes a token that a client presents; `None` if it has another form.
    #[must_use]
    pub fn decode(token: &str) -> Option<Self> {
        let bytes: [u8; 48] = decode(token, ONE_USE_PREFIX)?;
        let (user, random) = bytes.split_at(16);
        Some(Self {
            user: UserId(Uuid::from_slice(user).ok()?),
            random: random.try_into().ok()?,
        })
    }

    /// Returns the hash that the store keeps.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.user.0.as_bytes())
            .chain_update(self.random)
            .finalize()
            .into()
    }
}

impl fmt::Debug for OneUseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneUseToken")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// An API key: its id, by which its row is found, and 256 random bits, of which the store keeps a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyToken {
    /// Id of the key.
    pub id: Uuid,
    random: [u8; 32],
}

impl ApiKeyToken {
    /// Creates a key from random bytes.
    #[must_use]
    pub fn new(id: Uuid, random: [u8; 32]) -> Self {
        Self { id, random }
    }

    /// Encodes the key for its holder.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(self.id.as_bytes());
        bytes[16..].copy_from_slice(&self.random);
        format!("{API_KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Decodes a key that a caller presents; `None` if it has another form.
    #[must_use]
    pub fn decode(key: &str) -> Option<Self> {
        let bytes: [u8; 48] = decode(key, API_KEY_PREFIX)?;
        let (id, random) = bytes.split_at(16);
        Some(Self {
            id: Uuid::from_slice(id).ok()?,
            random: random.try_into().ok()?,
        })
    }

    /// Returns its first characters, by which people tell keys apart: no part of the secret.
    #[must_use]
    pub fn shown(&self) -> String {
        self.encode().chars().take(SHOWN_CHARACTERS).collect()
    }

    /// Returns the hash that the store keeps. The key is random, so neither salt nor a slow hash is needed (ASVS
    /// 11.4.1).
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"api key\0")
            .chain_update(self.id.as_bytes())
            .chain_update(self.random)
            .finalize()
            .into()
    }

    /// Returns whether the hash is that of this key, in constant time.
    #[must_use]
    pub fn matches(&self, hash: &[u8; 32]) -> bool {
        self.hash().ct_eq(hash).into()
    }
}

impl fmt::Debug for ApiKeyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A device on which a user completed a login. It grants no access, but guesses made elsewhere don't use up its
/// attempts (OWASP, "Slow Down Online Guessing Attacks with Device Cookies"; NIST SP 800-63B-4 §3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceToken {
    /// The user who completed the login.
    pub user: UserId,
    /// Id of the device, under which its attempts are counted.
    pub device: [u8; 16],
    /// Time of the login, in seconds since 1970.
    pub since: i64,
    /// The user's revision at the login: after their next change, above all of password or second factor, the
    /// device counts as unknown again.
    pub revision: i64,
}

impl DeviceToken {
    const BODY: usize = 48;
    const LENGTH: usize = Self::BODY + 32;

    /// Encodes the token for the client.
    #[must_use]
    pub fn encode(&self, mac_key: &[u8; 32]) -> String {
        let mut bytes = [0; Self::LENGTH];
        bytes[..16].copy_from_slice(self.user.0.as_bytes());
        bytes[16..32].copy_from_slice(&self.device);
        bytes[32..40].copy_from_slice(&self.since.to_be_bytes());
        bytes[40..Self::BODY].copy_from_slice(&self.revision.to_be_bytes());
        let tag = Self::mac(mac_key, &bytes[..Self::BODY]).finalize().into_bytes();
        bytes[Self::BODY..].copy_from_slice(&tag);
        format!("{DEVICE_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Decodes a token and verifies its MAC; `None` if it is not ours or has expired by `at`, in seconds since
    /// 1970.
    #[must_use]
    pub fn decode(token: &str, mac_key: &[u8; 32], at: i64) -> Option<Self> {
        let bytes: [u8; Self::LENGTH] = decode(token, DEVICE_PREFIX)?;
        let (body, tag) = bytes.split_at(Self::BODY);
        Self::mac(mac_key, body).verify_slice(tag).ok()?;
        let since = i64::from_be_bytes(body[32..40].try_into().ok()?);
        (at < since.saturating_add(DEVICE_TOKEN_SECS)).then_some(())?;
        Some(Self {
            user: UserId(Uuid::from_slice(&body[..16]).ok()?),
            device: body[16..32].try_into().ok()?,
            since,
            revision: i64::from_be_bytes(body[40..].try_into().ok()?),
        })
    }

    /// Uses the key of refresh tokens, but a MAC of one can't pass for one of the other.
    fn mac(key: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(key)
            .expect("HMAC takes keys of any length")
            .chain_update(b"device\0")
            .chain_update(body)
    }
}

fn decode<const N: usize>(token: &str, prefix: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let read = URL_SAFE_NO_PAD
        .decode_slice(token.strip_prefix(prefix)?, &mut bytes)
        .ok()?;
    (read == N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn token(generation: u32) -> RefreshToken {
        RefreshToken {
            user: UserId(Uuid::from_u128(1)),
            session: SessionId(Uuid::from_u128(2)),
            generation,
        }
    }

    #[test]
    fn a_refresh_token_of_another_installation_is_none() {
        let text = token(3).encode(&KEY);
        assert_eq!(RefreshToken::decode(&text, &KEY), Some(token(3)));
        assert_eq!(RefreshToken::decode(&text, &[8; 32]), None);
    }

    proptest! {
        #[test]
        fn a_refresh_token_survives_the_way_and_no_change(generation: u32, at in 0usize..95, to in "[A-Za-z0-9_-]") {
            let text = token(generation).encode(&KEY);
            prop_assert_eq!(RefreshToken::decode(&text, &KEY), Some(token(generation)));
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assert_eq!(RefreshToken::decode(&changed, &KEY).is_some(), changed == text);
        }

        #[test]
        fn nonsense_is_no_token(text in ".{0,120}") {
            prop_assert_eq!(RefreshToken::decode(&text, &KEY), None);
            prop_assert!(OneUseToken::decode(&text).is_none());
            prop_assert!(ApiKeyToken::decode(&text).is_none());
        }

        #[test]
        fn a_one_use_token_survives_the_way(user: u128, random: [u8; 32]) {
            let token = OneUseToken::new(UserId(Uuid::from_u128(user)), random);
            let back = OneUseToken::decode(&token.encode()).expect("decodes");
            prop_assert_eq!(back.hash(), token.hash());
            prop_assert_eq!(back.user, token.user);
        }
    }

    #[test]
    fn a_device_token_is_of_one_user_lapses_and_is_no_refresh_token() {
        let token = DeviceToken {
            user: UserId(Uuid::from_u128(1)),
            device: [3; 16],
            since: 1_000,
            revision: 7,
        };
        let text = token.encode(&KEY);
        assert_eq!(DeviceToken::decode(&text, &KEY, 1_000), Some(token));
        assert_eq!(
            DeviceToken::decode(&text, &KEY, 999 + DEVICE_TOKEN_SECS),
            Some(token)
        );
        assert_eq!(DeviceToken::decode(&text, &KEY, 1_000 + DEVICE_TOKEN_SECS), None);
        assert_eq!(DeviceToken::decode(&text, &[8; 32], 1_000), None);
        let (head, tail) = text.split_at(20);
        let other = if tail.starts_with('A') { "B" } else { "A" };
        assert_eq!(
            DeviceToken::decode(&format!("{head}{other}{}", &tail[1..]), &KEY, 1_000),
            None
        );
        assert_eq!(RefreshToken::decode(&text.replace("lkd_", "lkr_"), &KEY), None);
    }

    #[test]
    fn an_api_key_is_known_by_its_hash_and_shows_nothing_secret() {
        let key = ApiKeyToken::new(Uuid::from_u128(7), [1; 32]);
        let back = ApiKeyToken::decode(&key.encode()).expect("decodes");
        assert!(back == key && back.matches(&key.hash()));
        for other in [
            ApiKeyToken::new(Uuid::from_u128(8), [1; 32]),
            ApiKeyToken::new(Uuid::from_u128(7), [2; 32]),
        ] {
            assert!(!other.matches(&key.hash()));
        }
        assert_eq!(key.shown(), ApiKeyToken::new(key.id, [9; 32]).shown());
        assert!(OneUseToken::decode(&key.encode()).is_none());
    }

    #[test]
    fn debug_tells_no_secret() {
        let token = OneUseToken::new(UserId(Uuid::nil()), [201; 32]);
        let text = format!("{token:?} {:?}", ApiKeyToken::new(Uuid::nil(), [201; 32]));
        assert!(!text.contains("201"), "{text}");
    }
}
