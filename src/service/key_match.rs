//! Checks that keys and database belong together: with the wrong keys no enrolled factor could be read, every
//! login would fail at its second step, and factors enrolled in the meantime would be lost with those keys.

use super::Services;
use crate::domain::Result;
use crate::store::installation;

/// The keys beside the database belong to another one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the keys belong to another database: their fingerprint is {found}, and this one was made with {expected}. \
     Without its own keys no enrolled second factor can be read. Put the keys directory back that belongs to it, \
     from the same backup"
)]
pub struct KeysOfAnother {
    /// Fingerprint of the keys that are present.
    pub found: String,
    /// Fingerprint of the keys that the database was created with.
    pub expected: String,
}

/// Compares the keys with the fingerprint in the database, and changes nothing. Returns whether there is one: a new
/// database has none.
///
/// # Errors
/// As [`check_keys`].
pub fn compare_keys(services: &Services) -> Result<Result<bool, KeysOfAnother>> {
    let found = services.keys.fingerprint().to_owned();
    Ok(match services.store.read(installation::find_key_fingerprint)? {
        Some(expected) if expected != found => Err(KeysOfAnother { found, expected }),
        expected => Ok(expected.is_some()),
    })
}

/// Compares the keys with the fingerprint in the database; a new database stores the fingerprint.
///
/// # Errors
/// [`KeysOfAnother`] inside the `Ok`, to distinguish it from a failure of the store.
///
/// # Panics
/// If the writer thread panics.
pub fn check_keys(services: &Services) -> Result<Result<(), KeysOfAnother>> {
    let is_new = match compare_keys(services)? {
        Ok(has_fingerprint) => !has_fingerprint,
        Err(of_another) => return Ok(Err(of_another)),
    };
    if is_new {
        let found = services.keys.fingerprint().to_owned();
        let write = || {
            services
                .store
                .write_blocking(move |tx| installation::insert_key_fingerprint(tx, &found))
        };
        // On a separate thread: the caller may be async, and must not block on the writer.
        std::thread::scope(|scope| scope.spawn(write).join().expect("it does not panic"))?;
    }
    Ok(Ok(()))
}
