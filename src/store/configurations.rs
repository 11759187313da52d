//! Configurations of policies that nothing needs any more: no binding uses them and no decision was made with them.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::row::millis;
use crate::domain::Result;

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

const UNBOUND_SINCE: &str = "last_bound_at < ?1 AND digest NOT IN (SELECT config_digest FROM binding \
    UNION SELECT previous_config_digest FROM binding WHERE previous_config_digest IS NOT NULL)";
