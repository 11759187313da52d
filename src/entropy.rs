//! The only source of randomness. Tests seed it; the appliance uses the operating system's generator.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rand::rngs::{OsRng, StdRng};
use rand::{Rng as _, RngCore, SeedableRng, TryRngCore};
use uuid::Uuid;

/// Generates random bytes and UUIDs.
#[derive(Clone, Default)]
pub struct Entropy(Option<Arc<Mutex<StdRng>>>);

impl Entropy {
    /// Returns a source backed by the operating system's generator.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// Returns a source with a repeatable sequence, for tests only.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Returns `N` random bytes.
    ///
    /// # Panics
    /// When the operating system's generator fails: continuing would be unsafe.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.0 {
            None => OsRng
                .try_fill_bytes(&mut bytes)
                .expect("the operating system gives randomness"),
            Some(rng) => rng
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .fill_bytes(&mut bytes),
        }
        bytes
    }

    /// Returns a UUID of version 7 (RFC 9562 §5.7): ordered by time, so that new rows share database pages. It is a
    /// name and no secret: each request takes some, so they don't ask the operating system for every one.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where randomness comes from")]
    pub fn uuid(&self, now: Timestamp) -> Uuid {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let random = match &self.0 {
            None => rand::rng().random(),
            Some(_) => self.bytes(),
        };
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

prints_no_secret!(Entropy);
