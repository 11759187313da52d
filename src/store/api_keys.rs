//! API keys. Only hashes are stored; keys are 256 random bits and need no salt.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::row::{column, millis, optional, unreadable};
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::{Error, Result};

/// A stored API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Id of the key.
    pub id: Uuid,
    /// The organisation it gives access to.
    pub organization_id: OrganizationId,
    /// The user who created it; it is valid only while they are an active admin.
    pub created_by: UserId,
    /// Name given by the admin.
    pub name: String,
    /// Its first characters, to tell keys apart.
    pub prefix: String,
    /// Scopes that it grants.
    pub scopes: Vec<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

const API_KEY: &str = "SELECT id, organization_id, created_by, name, prefix, scopes, created_at, expires_at, \
     last_used_at, revoked_at FROM api_key";

/// Inserts a key with its hash.
pub fn insert_api_key(tx: &Connection, key: &ApiKeyRow, hash: &[u8; 32]) -> Result<()> {
    let scopes = serde_json::to_string(&key.scopes).map_err(|e| Error::Internal(format!("JSON: {e}")))?;
    tx.prepare_cached(
        "INSERT INTO api_key (id, organization_id, created_by, name, hash, prefix, scopes, created_at, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        key.id.as_bytes(),
        key.organization_id.0.as_bytes(),
        key.created_by.0.as_bytes(),
        key.name,
        hash,
        key.prefix,
        scopes,
        millis(key.created_at),
        millis(key.expires_at),
    ])?;
    Ok(())
}

/// Finds a key and its hash by id, if it is valid at `at` and its creator is an active, unlocked admin.
pub fn find_live_api_key(db: &Connection, id: Uuid, at: Timestamp) -> Result<Option<(ApiKeyRow, [u8; 32])>> {
    let mut statement = db.prepare_cached(
        "SELECT k.id, k.organization_id, k.created_by, k.name, k.prefix, k.scopes, k.created_at, k.expires_at, \
         k.last_used_at, k.revoked_at, k.hash FROM api_key k JOIN user u ON u.id = k.created_by \
         WHERE k.id = ?1 AND k.revoked_at IS NULL AND k.expires_at > ?2 \
         AND u.role = 'org-admin' AND u.active = 1 AND u.locked_at IS NULL",
    )?;
    Ok(statement
        .query_row(params![id.as_bytes(), millis(at)], |row| {
            Ok((from_row(row)?, row.get(10)?))
        })
        .optional()?)
}

/// Lists an organisation's keys, newest first, including expired and revoked ones.
pub fn find_api_keys(db: &Connection, organization: OrganizationId) -> Result<Vec<ApiKeyRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{API_KEY} WHERE organization_id = ?1 ORDER BY created_at DESC, id DESC"
    ))?;
    Ok(statement
        .query_map([organization.0.as_bytes()], from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Counts an organisation's keys that are neither revoked nor expired at `at`, whatever the state of their
/// creators.
pub fn count_live(db: &Connection, organization: OrganizationId, at: Timestamp) -> Result<u32> {
    let mut statement = db.prepare_cached(
        "SELECT count(*) FROM api_key WHERE organization_id = ?1 AND revoked_at IS NULL AND expires_at > ?2",
    )?;
    Ok(statement.query_row(params![organization.0.as_bytes(), millis(at)], |row| row.get(0))?)
}

/// Revokes a key and returns it as it was before; `None` if there is none or it was already revoked.
pub fn revoke_api_key(
    tx: &Connection,
    organization: OrganizationId,
    id: Uuid,
    at: Timestamp,
) -> Result<Option<ApiKeyRow>> {
    let found = tx
        .prepare_cached(&format!(
            "{API_KEY} WHERE id = ?1 AND organization_id = ?2 AND revoked_at IS NULL"
        ))?
        .query_row(params![id.as_bytes(), organization.0.as_bytes()], from_row)
        .optional()?;
    if found.is_some() {
        tx.prepare_cached("UPDATE api_key SET revoked_at = ?2 WHERE id = ?1")?
            .execute(params![id.as_bytes(), millis(at)])?;
    }
    Ok(found)
}

/// Revokes all keys that a user created. Returns how many.
pub fn revoke_made_by(tx: &Connection, user: UserId, at: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached("UPDATE api_key SET revoked_at = ?2 WHERE created_by = ?1 AND revoked_at IS NULL")?
        .execute(params![user.0.as_bytes(), millis(at)])?)
}

/// Records the time of a use.
pub fn update_last_used(tx: &Connection, id: Uuid, at: Timestamp) -> Result<()> {
    tx.prepare_cached("UPDATE api_key SET last_used_at = ?2 WHERE id = ?1")?
        .execute(params![id.as_bytes(), millis(at)])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<ApiKeyRow> {
    let scopes = row.get_ref(5)?.as_str()?;
    Ok(ApiKeyRow {
        id: column(row, 0)?,
        organization_id: column(row, 1)?,
        created_by: column(row, 2)?,
        name: row.get(3)?,
        prefix: row.get(4)?,
        scopes: serde_json::from_str(scopes).map_err(|e| unreadable(5, rusqlite::types::Type::Text, e))?,
        created_at: column(row, 6)?,
        expires_at: column(row, 7)?,
        last_used_at: optional(row, 8)?,
        revoked_at: optional(row, 9)?,
    })
}
