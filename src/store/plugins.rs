//! Installed plugins: files by digest, and their installations by owner.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::bindings;
use super::row::{column, millis, optional, unreadable};
use crate::domain::account::OrganizationId;
use crate::domain::policy::Manifest;
use crate::domain::{Error, Result};

/// Maximum number of bindings listed in a refusal.
const BINDINGS_NAMED: usize = 20;

/// An installed plugin, without its file.
#[derive(Clone, Debug)]
pub struct PluginRow {
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// The organisation that installed it; `None` if it is installed for the node.
    pub organization_id: Option<OrganizationId>,
    /// The plugin's manifest.
    pub manifest: Manifest,
    /// The minisign signature it came with.
    pub signature: Option<String>,
    /// Id of the minisign key that verified the signature.
    pub signed_by: Option<String>,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// When it was installed.
    pub installed_at: Timestamp,
    /// When the operator switched it off for all organisations; `None` while it is on.
    pub disabled_at: Option<Timestamp>,
}

/// Inserts a plugin and its file. Returns whether it is new to its owner; installing the same file again changes
/// nothing.
pub fn insert_plugin(tx: &Connection, plugin: &PluginRow, bytes: &[u8]) -> Result<bool> {
    tx.prepare_cached(
        "INSERT INTO module (digest, manifest, size_bytes) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
    )?
    .execute(params![plugin.digest, to_json(&plugin.manifest)?, bytes.len()])?;
    tx.prepare_cached("INSERT INTO module_file (digest, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![plugin.digest, bytes])?;
    let inserted = tx
        .prepare_cached(
            "INSERT INTO plugin (digest, organization_id, signature, signed_by, installed_at) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (digest, coalesce(organization_id, x'')) DO UPDATE SET \
             signature = excluded.signature, signed_by = excluded.signed_by, \
             installed_at = excluded.installed_at, removed_at = NULL WHERE removed_at IS NOT NULL",
        )?
        .execute(params![
            plugin.digest,
            plugin.organization_id.map(|id| id.0.into_bytes()),
            plugin.signature,
            plugin.signed_by,
            millis(plugin.installed_at),
        ])?;
    Ok(inserted == 1)
}

/// Updates the signature of an installed plugin. Returns whether it was made with another key than before.
pub fn update_signature(tx: &Connection, plugin: &PluginRow) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE plugin SET signature = ?3, signed_by = ?4 WHERE digest = ?1 AND removed_at IS NULL \
             AND coalesce(organization_id, x'') = coalesce(?2, x'') AND signed_by IS NOT ?4",
        )?
        .execute(params![
            plugin.digest,
            plugin.organization_id.map(|id| id.0.into_bytes()),
            plugin.signature,
            plugin.signed_by,
        ])?;
    Ok(changed == 1)
}

/// Lists the plugins that an organisation can bind: its own, then the node's, by name and time of installation.
/// Without an organisation, lists all installed plugins.
pub fn find_plugins(db: &Connection, organization: Option<OrganizationId>) -> Result<Vec<PluginRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{PLUGIN} AND (?1 IS NULL OR p.organization_id IS NULL OR p.organization_id = ?1) \
         ORDER BY p.organization_id IS NULL, m.manifest ->> '$.name', p.installed_at, p.rowid"
    ))?;
    let rows = statement.query_map([organization.map(|id| id.0.into_bytes())], plugin_from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Finds an owner's installation of a file by digest; the owner is an organisation, or with `None` the node.
pub fn find_plugin(
    db: &Connection,
    digest: &[u8; 32],
    owner: Option<OrganizationId>,
) -> Result<Option<PluginRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{PLUGIN} AND p.digest = ?1 AND coalesce(p.organization_id, x'') = coalesce(?2, x'')"
    ))?;
    Ok(statement
        .query_row(
            params![digest, owner.map(|id| id.0.into_bytes())],
            plugin_from_row,
        )
        .optional()?)
}

/// Counts an organisation's plugins, and their total size in bytes. Removed plugins count as long as their
/// decisions are kept.
pub fn count_plugins(db: &Connection, organization: OrganizationId) -> Result<(u64, u64)> {
    Ok(db
        .prepare_cached(
            "SELECT count(*), coalesce(sum(m.size_bytes), 0) FROM plugin p \
             JOIN module m ON m.digest = p.digest WHERE p.organization_id = ?1",
        )?
        .query_row([organization.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Removes an owner's plugin. The file stays as long as it may be needed to replay decisions; one that was never
/// bound is deleted at once. Returns false if there was no such plugin.
///
/// # Errors
/// [`Error::Conflict`] while a binding uses it.
pub fn remove_plugin(
    tx: &Connection,
    digest: &[u8; 32],
    owner: Option<OrganizationId>,
    at: Timestamp,
) -> Result<bool> {
    let bound = bindings::find_bindings_of(tx, digest, owner)?;
    if !bound.is_empty() {
        let ids: Vec<_> = bound.iter().take(BINDINGS_NAMED).map(Uuid::to_string).collect();
        return Err(Error::Conflict(format!(
            "{} policy binding(s) use this plugin, now or as the version before; remove them first: {}{}",
            bound.len(),
            ids.join(", "),
            if bound.len() > ids.len() { " …" } else { "" }
        )));
    }
    let owner = owner.map(|id| id.0.into_bytes());
    let removed = tx
        .prepare_cached(
            "UPDATE plugin SET removed_at = ?3 WHERE digest = ?1 AND removed_at IS NULL \
             AND coalesce(organization_id, x'') = coalesce(?2, x'')",
        )?
        .execute(params![digest, owner, millis(at)])?;
    let ever_bound = tx
        .prepare_cached("SELECT last_bound_at IS NOT NULL FROM module WHERE digest = ?1")?
        .query_row([digest], |row| row.get(0))
        .optional()?;
    if removed == 1 && ever_bound == Some(false) {
        tx.prepare_cached(
            "DELETE FROM plugin WHERE digest = ?1 AND removed_at IS NOT NULL \
             AND coalesce(organization_id, x'') = coalesce(?2, x'')",
        )?
        .execute(params![digest, owner])?;
        clear_modules(tx)?;
    }
    Ok(removed == 1)
}

/// Deletes the plugins removed before `before`, and files without an installation. Returns the number of plugins.
pub fn clear_removed_plugins(tx: &Connection, before: Timestamp) -> Result<usize> {
    let cleared = tx
        .prepare_cached("DELETE FROM plugin WHERE removed_at < ?1")?
        .execute([millis(before)])?;
    if cleared > 0 {
        clear_modules(tx)?;
    }
    Ok(cleared)
}

/// Deletes the files without an installation, unless a binding still holds one. The row of one that the operator
/// switched off stays, so that it is still off when it is installed again.
fn clear_modules(tx: &Connection) -> Result<()> {
    let unused = "digest NOT IN (SELECT digest FROM plugin UNION SELECT plugin_digest FROM binding \
                  UNION SELECT previous_digest FROM binding WHERE previous_digest IS NOT NULL)";
    tx.prepare_cached(&format!("DELETE FROM module_file WHERE {unused}"))?
        .execute([])?;
    tx.prepare_cached(&format!(
        "DELETE FROM module WHERE disabled_at IS NULL AND {unused}"
    ))?
    .execute([])?;
    Ok(())
}

/// Lists the digests of all stored files.
pub fn find_module_digests(db: &Connection) -> Result<Vec<[u8; 32]>> {
    let mut statement = db.prepare_cached("SELECT digest FROM module_file")?;
    let digests = statement.query_map([], |row| row.get(0))?;
    Ok(digests.collect::<rusqlite::Result<_>>()?)
}

/// Finds a plugin's file by digest.
pub fn find_module(db: &Connection, digest: &[u8; 32]) -> Result<Option<Vec<u8>>> {
    let mut statement = db.prepare_cached("SELECT bytes FROM module_file WHERE digest = ?1")?;
    Ok(statement.query_row([digest], |row| row.get(0)).optional()?)
}

/// Finds the manifest of a file, whoever installed it.
pub fn find_manifest(db: &Connection, digest: &[u8; 32]) -> Result<Option<Manifest>> {
    let mut statement = db.prepare_cached("SELECT manifest FROM module WHERE digest = ?1")?;
    Ok(statement.query_row([digest], |row| json(row, 0)).optional()?)
}

/// Finds a file's metadata, whoever installed it.
pub fn find_module_row(db: &Connection, digest: &[u8; 32]) -> Result<Option<ModuleRow>> {
    let mut statement =
        db.prepare_cached("SELECT digest, manifest, size_bytes, disabled_at FROM module WHERE digest = ?1")?;
    Ok(statement.query_row([digest], module_from_row).optional()?)
}

/// A plugin file's metadata, without its bytes.
#[derive(Clone, Debug)]
pub struct ModuleRow {
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// The plugin's manifest.
    pub manifest: Manifest,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// When the operator switched it off for all organisations; `None` while it is on.
    pub disabled_at: Option<Timestamp>,
}

/// Lists the files that bindings use, as current or previous version.
pub fn find_bound_modules(db: &Connection, of: bindings::Of) -> Result<Vec<ModuleRow>> {
    let (all, organization) = of.parameters();
    let mut statement = db.prepare_cached(
        "SELECT digest, manifest, size_bytes, disabled_at FROM module WHERE digest IN \
         (SELECT plugin_digest FROM binding WHERE ?1 OR organization_id IS NULL OR organization_id = ?2 \
          UNION SELECT previous_digest FROM binding WHERE ?1 OR organization_id IS NULL OR organization_id = ?2)",
    )?;
    let rows = statement.query_map(params![all, organization], module_from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn module_from_row(row: &Row<'_>) -> rusqlite::Result<ModuleRow> {
    Ok(ModuleRow {
        digest: row.get(0)?,
        manifest: json(row, 1)?,
        size_bytes: row.get(2)?,
        disabled_at: optional(row, 3)?,
    })
}

/// Switches a file off for all organisations (`Some`) or on again (`None`). Returns whether that changed anything.
pub fn update_module_disabled(tx: &Connection, digest: &[u8; 32], since: Option<Timestamp>) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE module SET disabled_at = ?2 WHERE digest = ?1 AND (disabled_at IS NULL) <> (?2 IS NULL)",
        )?
        .execute(params![digest, since.map(millis)])?;
    bindings::bump_policy_revision(tx, None)?;
    Ok(changed == 1)
}

const PLUGIN: &str = "SELECT p.digest, p.organization_id, m.manifest, p.signature, p.signed_by, \
    m.size_bytes, p.installed_at, m.disabled_at FROM plugin p JOIN module m ON m.digest = p.digest \
    WHERE p.removed_at IS NULL";

fn plugin_from_row(row: &Row<'_>) -> rusqlite::Result<PluginRow> {
    Ok(PluginRow {
        digest: row.get(0)?,
        organization_id: optional(row, 1)?,
        manifest: json(row, 2)?,
        signature: row.get(3)?,
        signed_by: row.get(4)?,
        size_bytes: row.get(5)?,
        installed_at: column(row, 6)?,
        disabled_at: optional(row, 7)?,
    })
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(index)?.as_str()?)
        .map_err(|e| unreadable(index, rusqlite::types::Type::Text, e))
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(format!("JSON: {e}")))
}
