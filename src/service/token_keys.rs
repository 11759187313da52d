//! The keys that sign access tokens: seen, rotated by an operator, rotated by age.

use jiff::{SignedDuration, Timestamp};

use super::Services;
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::credential::{PublicKey, TokenAlgorithm};
use crate::domain::{Error, Result};
use crate::store::{audit, sessions};

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The key that signs from now on.
    pub kid: String,
    /// With what.
    pub algorithm: TokenAlgorithm,
    /// Until when the keys before it check tokens.
    pub old_until: Timestamp,
}

/// Lets a new key sign. The old ones check tokens for as long as any that they signed can be good. Blocks:
/// for the command line.
///
/// # Errors
/// [`Error::Internal`] when the key directory or the store can't be written.
pub fn rotate_keys(services: &Services, algorithm: TokenAlgorithm, actor: ActorRef) -> Result<Rotation> {
    let (rotation, event) = rotate(services, algorithm, actor)?;
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write_blocking(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))?;
    Ok(rotation)
}

/// Rotates when the key that signs is of another algorithm than configured, or older than configured, and
/// says how often: 0 or 1. At start and now and then.
///
/// # Errors
/// As [`rotate_keys`].
pub async fn rotate_keys_when_due(services: &Services) -> Result<usize> {
    let settings = &services.settings;
    let at = services.clock.now();
    let days = i64::from(settings.key_rotation_days);
    let age = at.duration_since(services.keys.signing_since());
    let too_old = days > 0 && age >= SignedDuration::from_hours(24 * days);
    if !too_old && services.keys.access().algorithm() == settings.token_algorithm {
        return Ok(0);
    }
    let (_, event) = rotate(services, settings.token_algorithm, ActorRef::system())?;
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))
        .await?;
    Ok(1)
}

fn rotate(services: &Services, algorithm: TokenAlgorithm, actor: ActorRef) -> Result<(Rotation, Event)> {
    let at = services.clock.now();
    let minted = services.store.read(sessions::find_last_minted_expiry)?;
    let logged_in = at + SignedDuration::from_secs(services.settings.access_token_secs);
    let old_until = minted.map_or(logged_in, |minted| minted.max(logged_in));
    let kid = services
        .keys
        .rotate(algorithm, &services.entropy, at, old_until)
        .map_err(|error| Error::Internal(error.to_string()))?;
    let event = Event::new(EventType::TokenKeyRotate, None, actor)
        .on(Resource::other("TOKEN_KEY", &kid, None))
        .with("algorithm", algorithm.name())
        .with("oldKeysUntil", old_until.to_string());
    let rotation = Rotation {
        kid,
        algorithm,
        old_until,
    };
    Ok((rotation, event))
}

/// The keys with which others can check access tokens; none while HS256 signs them.
#[must_use]
pub fn public_keys(services: &Services, at: Timestamp) -> Vec<PublicKey> {
    services.keys.access().public_keys(at)
}
