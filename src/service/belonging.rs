//! Keys and database belong together: with others' keys no enrolled factor could be read, every login
//! would fail at its second step, and what is enrolled meanwhile would be lost with them.

use super::Services;
use crate::domain::Result;
use crate::store::installation;

/// The keys beside the database are of another one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the keys belong to another database: their fingerprint is {found}, and this one was made with {expected}. \
     Without its own keys no enrolled second factor can be read. Put the keys directory back that belongs to it, \
     from the same backup"
)]
pub struct KeysOfAnother {
    /// Of the keys that are there.
    pub found: String,
    /// Of the keys that the database was made with.
    pub expected: String,
}

/// Compares the keys with what the database remembers; a new database remembers them from now on.
///
/// # Errors
/// [`KeysOfAnother`] inside of the `Ok`, so that a failing store is told apart.
///
/// # Panics
/// Where the thread that writes panics.
pub fn check_keys(services: &Services) -> Result<Result<(), KeysOfAnother>> {
    let found = services.keys.fingerprint().to_owned();
    match services.store.read(installation::find_key_fingerprint)? {
        Some(expected) if expected == found => Ok(Ok(())),
        Some(expected) => Ok(Err(KeysOfAnother { found, expected })),
        None => {
            let write = || {
                services
                    .store
                    .write_blocking(move |tx| installation::insert_key_fingerprint(tx, &found))
            };
            // On a thread of its own: the caller may be an async one, which must not wait like this.
            std::thread::scope(|scope| scope.spawn(write).join().expect("it does not panic"))?;
            Ok(Ok(()))
        }
    }
}
