//! Password hashes, and the time of a user's last login.

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails only when SQLite does, with Error::Internal"
)]

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::row::millis;
use crate::domain::Result;
use crate::domain::account::UserId;

/// Finds the user's password hash; `None` if no password is set.
pub fn find_password_hash(db: &Connection, user: UserId) -> Result<Option<String>> {
    let mut statement = db.prepare_cached("SELECT password_hash FROM user WHERE id = ?1")?;
    Ok(statement
        .query_row([user.0.as_bytes()], |row| row.get(0))
        .optional()?
        .flatten())
}

/// Sets a new password.
pub fn update_password(tx: &Connection, user: UserId, hash: &str, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "UPDATE user SET password_hash = ?2, password_changed_at = ?3, updated_at = ?3, \
         revision = revision + 1 WHERE id = ?1",
    )?
    .execute(params![user.0.as_bytes(), hash, millis(at)])?;
    Ok(())
}

/// Removes the password, so that the old one no longer works.
pub fn clear_password(tx: &Connection, user: UserId, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "UPDATE user SET password_hash = NULL, password_changed_at = NULL, updated_at = ?2, \
         revision = revision + 1 WHERE id = ?1",
    )?
    .execute(params![user.0.as_bytes(), millis(at)])?;
    Ok(())
}

/// Replaces a password's hash by one of the same password with newer parameters.
pub fn update_password_hash(tx: &Connection, user: UserId, old: &str, new: &str) -> Result<()> {
    tx.prepare_cached("UPDATE user SET password_hash = ?3 WHERE id = ?1 AND password_hash = ?2")?
        .execute(params![user.0.as_bytes(), old, new])?;
    Ok(())
}

/// Records a complete login. Does not change the user's revision, since no decision depends on it; otherwise
/// anyone who knows the password could keep a reset from ever being committed.
pub fn update_last_login(tx: &Connection, user: UserId, at: Timestamp) -> Result<()> {
    tx.prepare_cached("UPDATE user SET last_login_at = ?2 WHERE id = ?1")?
        .execute(params![user.0.as_bytes(), millis(at)])?;
    Ok(())
}
