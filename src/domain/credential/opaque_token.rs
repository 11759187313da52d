//! Tokens that mean something to us alone. Both name their user in front, so that what they stand for
//! is found beside the user's other rows.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::domain::account::{SessionId, UserId};

/// Prefixes let scanners for leaked secrets find them.
const REFRESH_PREFIX: &str = "lkr_";
const ONE_USE_PREFIX: &str = "lko_";

/// A refresh token: user, session, generation and a MAC over them. Authenticity needs no row, so that an
/// old generation is told from a forgery even after its family was rotated many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// Whose.
    pub user: UserId,
    /// Which session (refresh family).
    pub session: SessionId,
    /// How often the family had been rotated when it was issued.
    pub generation: u32,
}

impl RefreshToken {
    const BODY: usize = 36;
    const LENGTH: usize = Self::BODY + 32;

    /// The token as the client keeps it.
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

    /// What a token stands for, if we made it.
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

/// A token that works once: a login that waits for its code, a change of an expired password, an
/// invitation. The store keeps its hash; 256 random bits need no salt (NIST SP 800-63B-4 §3.1.2.2).
#[derive(Clone, PartialEq, Eq)]
pub struct OneUseToken {
    /// Whose.
    pub user: UserId,
    random: [u8; 32],
}

impl OneUseToken {
    /// A new token.
    #[must_use]
    pub fn new(user: UserId, random: [u8; 32]) -> Self {
        Self { user, random }
    }

    /// The token as the client keeps it.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(self.user.0.as_bytes());
        bytes[16..].copy_from_slice(&self.random);
        format!("{ONE_USE_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The token that a client shows, if it has the shape of one.
    #[must_use]
    pub fn decode(token: &str) -> Option<Self> {
        let bytes: [u8; 48] = decode(token, ONE_USE_PREFIX)?;
        let (user, random) = bytes.split_at(16);
        Some(Self {
            user: UserId(Uuid::from_slice(user).ok()?),
            random: random.try_into().ok()?,
        })
    }

    /// What the store keeps.
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
    fn debug_tells_no_secret() {
        let text = format!("{:?}", OneUseToken::new(UserId(Uuid::nil()), [201; 32]));
        assert!(!text.contains("201"), "{text}");
    }
}
