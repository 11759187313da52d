//! The keys that sign access tokens: listing, and rotation by an operator or by age.

use jiff::{SignedDuration, Timestamp};

use super::Services;
use crate::domain::audit::{ActorRef, AuditResult, Event, EventType, Resource};
use crate::domain::credential::{PublicKey, SigningKeyRecord, TokenAlgorithm};
use crate::domain::{Error, Result};
use crate::store::{audit, sessions};

/// A key that signs or verifies access tokens, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// Key id in a token's header.
    pub kid: String,
    /// Signature algorithm.
    pub algorithm: TokenAlgorithm,
    /// When it was created.
    pub created_at: Timestamp,
    /// Until when it verifies tokens; absent for the key that signs.
    pub lapses_at: Option<Timestamp>,
}

/// Returns the keys, the signing key first.
#[must_use]
pub fn list_keys(services: &Services) -> Vec<ListedKey> {
    services.keys.map_signing_keys(|record| ListedKey {
        kid: record.kid.clone(),
        algorithm: record.algorithm,
        created_at: record.created_at,
        lapses_at: record.lapses_at,
    })
}

/// The result of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Id of the key that signs from now on.
    pub kid: String,
    /// Its algorithm.
    pub algorithm: TokenAlgorithm,
    /// Until when the earlier keys verify tokens.
    pub old_until: Timestamp,
}

/// Creates a new signing key. The old ones verify tokens for as long as any token they signed can be valid.
/// Blocks: for use from the command line.
///
/// # Errors
/// [`Error::Internal`] if the key directory or the store can't be written.
pub fn rotate_keys(services: &Services, algorithm: TokenAlgorithm, actor: ActorRef) -> Result<Rotation> {
    let change = Change::prepare(services, algorithm, actor)?;
    let at = services.clock.now();
    let (entry_id, event) = (services.entropy.uuid(at), change.event.clone());
    services
        .store
        .write_blocking(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))?;
    change.rotate(services).or_else(|failed| {
        let (entry_id, event) = (services.entropy.uuid(at), failed.event);
        services
            .store
            .write_blocking(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))?;
        Err(failed.error)
    })
}

/// Rotates if the signing key has another algorithm than configured, or is older than configured. Returns the
/// number of rotations: 0 or 1. Called at startup and periodically.
///
/// # Errors
/// As [`rotate_keys`].
pub async fn rotate_keys_when_due(services: &Services) -> Result<usize> {
    let settings = &services.settings;
    let at = services.clock.now();
    let days = i64::from(settings.key_rotation_days);
    // A key dated by a clock that was far ahead is due as well.
    let age = at.duration_since(services.keys.signing_since()).abs();
    let too_old = days > 0 && age >= SignedDuration::from_hours(24 * days);
    if !too_old && services.keys.access().algorithm() == settings.token_algorithm {
        return Ok(0);
    }
    let change = Change::prepare(services, settings.token_algorithm, ActorRef::system())?;
    let (entry_id, event) = (services.entropy.uuid(at), change.event.clone());
    services
        .store
        .write(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))
        .await?;
    let failed = match change.rotate(services) {
        Ok(done) => {
            tracing::info!(
                kid = done.kid,
                algorithm = done.algorithm.name(),
                old_keys_until = %done.old_until,
                why = if too_old { "tokens.key_rotation_days" } else { "tokens.algorithm" },
                "a new key signs access tokens"
            );
            return Ok(1);
        }
        Err(failed) => failed,
    };
    let (entry_id, event) = (services.entropy.uuid(at), failed.event);
    services
        .store
        .write(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))
        .await?;
    Err(failed.error)
}

/// A prepared rotation. Its entry is written first: a transaction can't include a file, and a key that signs
/// without an entry would be worse than an entry without a key.
struct Change {
    new: SigningKeyRecord,
    old_until: Timestamp,
    event: Event,
}

/// Why the rotation failed, and the entry that records it.
struct Failed {
    error: Error,
    event: Event,
}

impl Change {
    fn prepare(services: &Services, algorithm: TokenAlgorithm, actor: ActorRef) -> Result<Self> {
        let at = services.clock.now();
        let minted = services.store.read(sessions::find_last_minted_expiry)?;
        let logged_in = at + SignedDuration::from_secs(services.settings.access_token_secs);
        let old_until = minted.map_or(logged_in, |minted| minted.max(logged_in));
        let new = SigningKeyRecord::generate(algorithm, services.entropy.bytes(), at);
        let event = Event::new(EventType::TokenKeyRotate, None, actor)
            .on(Resource::other("TOKEN_KEY", &new.kid, None))
            .with("algorithm", algorithm.name())
            .with("oldKeysUntil", old_until.to_string());
        Ok(Self {
            new,
            old_until,
            event,
        })
    }

    fn rotate(self, services: &Services) -> Result<Rotation, Box<Failed>> {
        let rotation = Rotation {
            kid: self.new.kid.clone(),
            algorithm: self.new.algorithm,
            old_until: self.old_until,
        };
        match services.keys.rotate(self.new, self.old_until) {
            Ok(()) => Ok(rotation),
            Err(error) => Err(Box::new(Failed {
                error: Error::Internal(error.to_string()),
                event: self.event.ended(
                    AuditResult::Failure,
                    "The key file could not be written; the old key goes on signing",
                ),
            })),
        }
    }
}

/// Returns the public keys with which others can verify access tokens; empty while HS256 signs them.
#[must_use]
pub fn public_keys(services: &Services, at: Timestamp) -> Vec<PublicKey> {
    services.keys.access().public_keys(at)
}
