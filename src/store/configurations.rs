//! Configurations of policies, kept by digest as long as a binding uses them or a decision was made with them.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::bindings::Of;
use super::row::millis;
use crate::domain::Result;

/// Inserts a configuration, or renews its `last_bound_at`.
pub fn insert_configuration(tx: &Connection, digest: &[u8; 32], config: &str, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO plugin_configuration (digest, config, last_bound_at) VALUES (?1, ?2, ?3) \
         ON CONFLICT (digest) DO UPDATE SET last_bound_at = max(last_bound_at, excluded.last_bound_at)",
    )?
    .execute(params![digest, config, millis(at)])?;
    Ok(())
}

/// Finds a configuration's JSON text by its digest.
pub fn find_configuration(db: &Connection, digest: &[u8; 32]) -> Result<Option<String>> {
    let mut statement = db.prepare_cached("SELECT config FROM plugin_configuration WHERE digest = ?1")?;
    Ok(statement.query_row([digest], |row| row.get(0)).optional()?)
}

/// Finds the configurations whose digest begins with these lower-case hexadecimal digits.
pub fn find_configurations_beginning(db: &Connection, digits: &str) -> Result<Vec<([u8; 32], String)>> {
    let mut statement = db.prepare_cached(
        "SELECT digest, config FROM plugin_configuration WHERE substr(lower(hex(digest)), 1, ?2) = ?1 \
         ORDER BY digest",
    )?;
    let rows = statement.query_map(params![digits, digits.len()], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Lists the configurations that bindings use, as current or previous version.
pub fn find_bound_configurations(db: &Connection, of: Of) -> Result<Vec<([u8; 32], String)>> {
    let (all, organization) = of.parameters();
    let mut statement = db.prepare_cached(
        "SELECT digest, config FROM plugin_configuration WHERE digest IN \
         (SELECT config_digest FROM binding WHERE ?1 OR organization_id IS NULL OR organization_id = ?2 \
          UNION SELECT previous_config_digest FROM binding \
          WHERE ?1 OR organization_id IS NULL OR organization_id = ?2)",
    )?;
    let rows = statement.query_map(params![all, organization], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Counts the configurations that no binding has used since `before`.
pub fn count_unbound_configurations(db: &Connection, before: Timestamp) -> Result<usize> {
    Ok(db
        .prepare_cached(&format!(
            "SELECT count(*) FROM plugin_configuration WHERE {UNBOUND_SINCE}"
        ))?
        .query_row([millis(before)], |row| row.get(0))?)
}

/// Lists the configurations that no binding has used since `before`, and that no decision was made with. Reads every
/// decision.
pub fn find_undecided_configurations(db: &Connection, before: Timestamp) -> Result<Vec<[u8; 32]>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT digest FROM plugin_configuration WHERE {UNBOUND_SINCE} \
         AND digest NOT IN (SELECT config_digest FROM decision)"
    ))?;
    let digests = statement.query_map([millis(before)], |row| row.get(0))?;
    Ok(digests.collect::<rusqlite::Result<_>>()?)
}

/// Deletes those of these configurations that no binding has used since `before`, still. Returns how many.
pub fn delete_configurations(tx: &Connection, digests: &[[u8; 32]], before: Timestamp) -> Result<usize> {
    let mut statement = tx.prepare_cached(&format!(
        "DELETE FROM plugin_configuration WHERE digest = ?2 AND {UNBOUND_SINCE}"
    ))?;
    let mut deleted = 0;
    for digest in digests {
        deleted += statement.execute(params![millis(before), digest])?;
    }
    Ok(deleted)
}

/// Deletes the configurations that no binding has used since `before`. Returns how many.
pub fn clear_unbound_configurations(tx: &Connection, before: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached(&format!("DELETE FROM plugin_configuration WHERE {UNBOUND_SINCE}"))?
        .execute([millis(before)])?)
}

const UNBOUND_SINCE: &str = "last_bound_at < ?1 AND digest NOT IN (SELECT config_digest FROM binding \
    UNION SELECT previous_config_digest FROM binding WHERE previous_config_digest IS NOT NULL)";
