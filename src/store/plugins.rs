//! Installed plugins, their configurations and bindings.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::row::{column, millis, optional, unreadable};
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Grants, Manifest, Mode};
use crate::domain::{Error, Result};

/// An installed plugin, without its module.
#[derive(Clone, Debug)]
pub struct PluginRow {
    /// SHA-256 of the module.
    pub digest: [u8; 32],
    /// Whose; absent for the node's own.
    pub organization_id: Option<OrganizationId>,
    /// What it says of itself.
    pub manifest: Manifest,
    /// minisign signature it came with.
    pub signature: Option<String>,
    /// Size of the module in bytes.
    pub size_bytes: u64,
    /// When it was installed.
    pub installed_at: Timestamp,
    /// Switched off since when, if it is.
    pub disabled_at: Option<Timestamp>,
}

/// A plugin bound to an organisation, or to all of them.
///
/// `on_failure` and `limits` are kept as JSON: they are the plugin host's words, which the store
/// does not know.
#[derive(Clone, Debug)]
pub struct BindingRow {
    /// Id.
    pub id: Uuid,
    /// Whose; absent for one that the node binds for every organisation.
    pub organization_id: Option<OrganizationId>,
    /// Which module.
    pub plugin_digest: [u8; 32],
    /// The module before the last switch, for rollback.
    pub previous_digest: Option<[u8; 32]>,
    /// SHA-256 of the configuration.
    pub config_digest: [u8; 32],
    /// The configuration, JSON.
    pub config: String,
    /// Order among the bindings.
    pub position: i64,
    /// Whether answers count.
    pub mode: Mode,
    /// What a failure means, JSON.
    pub on_failure: String,
    /// Effects that are granted.
    pub grants: Grants,
    /// What a call may use up, JSON.
    pub limits: String,
    /// Switched off since when, if it is.
    pub disabled_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Keeps a plugin. Says whether it is new: the same module again changes nothing.
pub fn insert_plugin(tx: &Connection, plugin: &PluginRow, module: &[u8]) -> Result<bool> {
    let inserted = tx
        .prepare_cached(
            "INSERT INTO plugin (digest, organization_id, name, version, manifest, module, signature, \
             installed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (digest) DO NOTHING",
        )?
        .execute(params![
            plugin.digest,
            plugin.organization_id.map(|id| id.0.into_bytes()),
            plugin.manifest.name,
            plugin.manifest.version,
            to_json(&plugin.manifest)?,
            module,
            plugin.signature,
            millis(plugin.installed_at),
        ])?;
    Ok(inserted == 1)
}

/// Every installed plugin, by name and time.
pub fn find_plugins(db: &Connection) -> Result<Vec<PluginRow>> {
    let mut statement = db.prepare_cached(&format!("{PLUGIN} ORDER BY name, installed_at"))?;
    Ok(statement
        .query_map([], plugin_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// The plugin with that digest.
pub fn find_plugin(db: &Connection, digest: &[u8; 32]) -> Result<Option<PluginRow>> {
    let mut statement = db.prepare_cached(&format!("{PLUGIN} WHERE digest = ?1"))?;
    Ok(statement.query_row([digest], plugin_from_row).optional()?)
}

/// A plugin's module.
pub fn find_module(db: &Connection, digest: &[u8; 32]) -> Result<Option<Vec<u8>>> {
    let mut statement = db.prepare_cached("SELECT module FROM plugin WHERE digest = ?1")?;
    Ok(statement.query_row([digest], |row| row.get(0)).optional()?)
}

/// Switches a plugin off (`Some`) or on again (`None`). Says whether there is one.
pub fn update_plugin_disabled(tx: &Connection, digest: &[u8; 32], since: Option<Timestamp>) -> Result<bool> {
    let changed = tx
        .prepare_cached("UPDATE plugin SET disabled_at = ?2 WHERE digest = ?1")?
        .execute(params![digest, since.map(millis)])?;
    bump_policy_revision(tx)?;
    Ok(changed == 1)
}

/// Keeps a binding, or replaces the one with its id.
pub fn put_binding(tx: &Connection, binding: &BindingRow) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO plugin_configuration (digest, config) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?
    .execute(params![binding.config_digest, binding.config])?;
    tx.prepare_cached(
        "INSERT INTO binding (id, organization_id, plugin_digest, previous_digest, config_digest, position, \
         mode, on_failure, grants, limits, disabled_at, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12) \
         ON CONFLICT (id) DO UPDATE SET plugin_digest = excluded.plugin_digest, \
         previous_digest = excluded.previous_digest, config_digest = excluded.config_digest, \
         position = excluded.position, mode = excluded.mode, on_failure = excluded.on_failure, \
         grants = excluded.grants, limits = excluded.limits, disabled_at = excluded.disabled_at, \
         updated_at = excluded.updated_at, revision = revision + 1",
    )?
    .execute(params![
        binding.id.as_bytes(),
        binding.organization_id.map(|id| id.0.into_bytes()),
        binding.plugin_digest,
        binding.previous_digest,
        binding.config_digest,
        binding.position,
        to_json(&binding.mode)?,
        binding.on_failure,
        to_json(&binding.grants)?,
        binding.limits,
        binding.disabled_at.map(millis),
        millis(binding.created_at),
    ])?;
    bump_policy_revision(tx)
}

/// Removes a binding. Says whether there was one.
pub fn delete_binding(tx: &Connection, id: Uuid) -> Result<bool> {
    let removed = tx
        .prepare_cached("DELETE FROM binding WHERE id = ?1")?
        .execute([id.as_bytes()])?;
    bump_policy_revision(tx)?;
    Ok(removed == 1)
}

/// Every binding in the order in which it is asked: the node's first, then each organisation's.
pub fn find_bindings(db: &Connection) -> Result<Vec<BindingRow>> {
    let mut statement = db.prepare_cached(
        "SELECT b.id, b.organization_id, b.plugin_digest, b.previous_digest, b.config_digest, c.config, \
         b.position, b.mode, b.on_failure, b.grants, b.limits, b.disabled_at, b.created_at \
         FROM binding b JOIN plugin_configuration c ON c.digest = b.config_digest \
         ORDER BY b.organization_id, b.position, b.created_at, b.id",
    )?;
    Ok(statement
        .query_map([], binding_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// The revision of plugins and bindings: grows with every change of either.
pub fn find_policy_revision(db: &Connection) -> Result<i64> {
    Ok(db
        .prepare_cached("SELECT revision FROM policy_revision WHERE only = 1")?
        .query_row([], |row| row.get(0))?)
}

fn bump_policy_revision(tx: &Connection) -> Result<()> {
    tx.prepare_cached("UPDATE policy_revision SET revision = revision + 1 WHERE only = 1")?
        .execute([])?;
    Ok(())
}

const PLUGIN: &str = "SELECT digest, organization_id, manifest, signature, length(module), installed_at, disabled_at FROM plugin";

fn plugin_from_row(row: &Row<'_>) -> rusqlite::Result<PluginRow> {
    Ok(PluginRow {
        digest: row.get(0)?,
        organization_id: optional(row, 1)?,
        manifest: json(row, 2)?,
        signature: row.get(3)?,
        size_bytes: row.get(4)?,
        installed_at: column(row, 5)?,
        disabled_at: optional(row, 6)?,
    })
}

fn binding_from_row(row: &Row<'_>) -> rusqlite::Result<BindingRow> {
    Ok(BindingRow {
        id: column(row, 0)?,
        organization_id: optional(row, 1)?,
        plugin_digest: row.get(2)?,
        previous_digest: row.get(3)?,
        config_digest: row.get(4)?,
        config: row.get(5)?,
        position: row.get(6)?,
        mode: json(row, 7)?,
        on_failure: row.get(8)?,
        grants: json(row, 9)?,
        limits: row.get(10)?,
        disabled_at: optional(row, 11)?,
        created_at: column(row, 12)?,
    })
}

fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(index)?.as_str()?)
        .map_err(|e| unreadable(index, rusqlite::types::Type::Text, e))
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(format!("JSON: {e}")))
}
