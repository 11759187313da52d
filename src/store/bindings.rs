//! Bindings of plugins to organisations, their configurations, and the policy revisions.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::plugins::{json, to_json};
use super::row::{column, millis, optional};
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Grants, Hook, Mode};
use crate::domain::{Error, Result};

/// A module, its configuration and the hooks at which it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRow {
    /// SHA-256 of the file.
    pub plugin_digest: [u8; 32],
    /// SHA-256 of the configuration.
    pub config_digest: [u8; 32],
    /// Hooks at which it is called. Kept per version and not per binding, since versions implement different
    /// hooks.
    pub hooks: Vec<Hook>,
    /// Whether an answer of this version, at any of these hooks, has ever counted; only then is it eligible for
    /// rollback and as a fallback.
    pub answered: bool,
}

impl VersionRow {
    /// Returns whether this is the same file as `other` with the same configuration, called at no fewer hooks.
    #[must_use]
    pub fn stands_for(&self, other: &Self) -> bool {
        self.plugin_digest == other.plugin_digest
            && self.config_digest == other.config_digest
            && other.hooks.iter().all(|hook| self.hooks.contains(hook))
    }
}

/// A plugin bound to an organisation, or to all of them.
///
/// `on_failure` and `limits` are kept as JSON: their types belong to the plugin host, which the store does
/// not depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingRow {
    /// Id of the binding.
    pub id: Uuid,
    /// The organisation it belongs to; `None` if the node binds it for every organisation.
    pub organization_id: Option<OrganizationId>,
    /// The version that is called.
    pub version: VersionRow,
    /// The last earlier version whose answers counted: for rollback, canaries and failures.
    pub previous: Option<VersionRow>,
    /// Order among the bindings, ascending.
    pub position: i64,
    /// Whether answers count.
    pub mode: Mode,
    /// How to treat a failed call, as JSON.
    pub on_failure: String,
    /// Effects that the plugin may request.
    pub grants: Grants,
    /// Resource limits of a call, as JSON.
    pub limits: String,
    /// When it was switched off; `None` while it is on.
    pub disabled_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it first demanded a second admin; `None` if it never has.
    pub approval_demanded_at: Option<Timestamp>,
    /// Revision; grows with every change.
    pub revision: i64,
}

impl BindingRow {
    /// Merges the `answered` flags from another reading of the same binding: setting one does not change the
    /// revision.
    pub fn remember(&mut self, other: &Self) {
        for version in std::iter::once(&mut self.version).chain(&mut self.previous) {
            for known in std::iter::once(&other.version).chain(&other.previous) {
                version.answered |= known.answered && version.stands_for(known);
            }
        }
    }
}

/// Inserts a binding.
pub fn insert_binding(tx: &Connection, binding: &BindingRow) -> Result<()> {
    let at = binding.created_at;
    execute(
        tx,
        "INSERT INTO binding (id, revision, organization_id, plugin_digest, config_digest, hooks, answered, \
         previous_digest, previous_config_digest, previous_hooks, previous_answered, position, mode, \
         on_failure, grants, limits, disabled_at, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?18)",
        binding,
        at,
    )?;
    touch(tx, binding.id, at)?;
    bump_policy_revision(tx, binding.organization_id)
}

/// Updates a binding.
///
/// # Errors
/// [`Error::Stale`] when its revision differs from `binding.revision`.
pub fn update_binding(tx: &Connection, binding: &BindingRow, at: Timestamp) -> Result<()> {
    touch(tx, binding.id, at)?;
    let changed = execute(
        tx,
        "UPDATE binding SET plugin_digest = ?4, config_digest = ?5, hooks = ?6, answered = ?7, \
         previous_digest = ?8, previous_config_digest = ?9, previous_hooks = ?10, previous_answered = ?11, \
         position = ?12, mode = ?13, on_failure = ?14, grants = ?15, limits = ?16, disabled_at = ?17, \
         updated_at = ?18, revision = revision + 1 WHERE id = ?1 AND revision = ?2",
        binding,
        at,
    )?;
    if changed != 1 {
        return Err(Error::Stale);
    }
    touch(tx, binding.id, at)?;
    bump_policy_revision(tx, binding.organization_id)
}

/// Executes a statement that writes a binding, with its columns as parameters in this order. Returns how many rows
/// it wrote.
fn execute(tx: &Connection, sql: &str, binding: &BindingRow, at: Timestamp) -> Result<usize> {
    let previous = binding.previous.as_ref();
    let written = tx.prepare_cached(sql)?.execute(params![
        binding.id.as_bytes(),
        binding.revision,
        binding.organization_id.map(|id| id.0.into_bytes()),
        binding.version.plugin_digest,
        binding.version.config_digest,
        to_json(&binding.version.hooks)?,
        binding.version.answered,
        previous.map(|version| version.plugin_digest),
        previous.map(|version| version.config_digest),
        previous.map(|version| to_json(&version.hooks)).transpose()?,
        previous.map(|version| version.answered),
        binding.position,
        to_json(&binding.mode)?,
        binding.on_failure,
        to_json(&binding.grants)?,
        binding.limits,
        binding.disabled_at.map(millis),
        millis(at),
    ])?;
    Ok(written)
}

/// Records that an answer of a version has counted. Leaves the binding's revision as it is.
pub fn note_answered(tx: &Connection, id: Uuid, plugin: &[u8; 32], config: &[u8; 32]) -> Result<()> {
    let noted = [
        "UPDATE binding SET answered = 1 WHERE id = ?1 AND plugin_digest = ?2 AND config_digest = ?3 \
         AND NOT answered",
        "UPDATE binding SET previous_answered = 1 WHERE id = ?1 AND previous_digest = ?2 \
         AND previous_config_digest = ?3 AND NOT previous_answered",
    ];
    for sql in noted {
        tx.prepare_cached(sql)?
            .execute(params![id.as_bytes(), plugin, config])?;
    }
    Ok(())
}

/// Records that a binding demanded a second admin. Leaves the binding's revision as it is.
pub fn note_approval_demanded(tx: &Connection, id: Uuid, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "UPDATE binding SET approval_demanded_at = ?2 WHERE id = ?1 AND approval_demanded_at IS NULL",
    )?
    .execute(params![id.as_bytes(), millis(at)])?;
    Ok(())
}

/// Deletes a binding, if it is still at `binding.revision`.
///
/// # Errors
/// [`Error::Stale`] when it was changed or removed meanwhile.
pub fn delete_binding(tx: &Connection, binding: &BindingRow, at: Timestamp) -> Result<()> {
    touch(tx, binding.id, at)?;
    let removed = tx
        .prepare_cached("DELETE FROM binding WHERE id = ?1 AND revision = ?2")?
        .execute(params![binding.id.as_bytes(), binding.revision])?;
    if removed != 1 {
        return Err(Error::Stale);
    }
    bump_policy_revision(tx, binding.organization_id)
}

/// Finds a binding by id.
pub fn find_binding(db: &Connection, id: Uuid) -> Result<Option<BindingRow>> {
    let mut statement = db.prepare_cached(&format!("{BINDING} WHERE id = ?1"))?;
    Ok(statement
        .query_row([id.as_bytes()], binding_from_row)
        .optional()?)
}

/// Selects bindings by owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// All bindings.
    All,
    /// The node's bindings and those of an organisation: all that its resets are judged by.
    Organization(OrganizationId),
}

impl Of {
    /// Query parameters: whether to select all; otherwise the organisation to select besides the node.
    pub(super) fn parameters(self) -> (bool, Option<[u8; 16]>) {
        match self {
            Self::All => (true, None),
            Self::Organization(id) => (false, Some(id.0.into_bytes())),
        }
    }
}

/// Lists bindings in the order in which they are called: the node's first, then each organisation's.
pub fn find_bindings(db: &Connection, of: Of) -> Result<Vec<BindingRow>> {
    let (all, organization) = of.parameters();
    let mut statement = db.prepare_cached(&format!(
        "{BINDING} WHERE ?1 OR organization_id IS NULL OR organization_id = ?2 \
         ORDER BY organization_id, position, created_at, id"
    ))?;
    let rows = statement.query_map(params![all, organization], binding_from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Finds the organisations with a binding to a file, as current or previous version, switched off or not.
pub fn find_organizations_bound(db: &Connection, digest: &[u8; 32]) -> Result<Vec<OrganizationId>> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT organization_id FROM binding \
         WHERE organization_id IS NOT NULL AND ?1 IN (plugin_digest, previous_digest)",
    )?;
    let rows = statement.query_map([digest], |row| column(row, 0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Counts the bindings of an owner; `None` is the node.
pub fn count_bindings(db: &Connection, owner: Option<OrganizationId>) -> Result<usize> {
    Ok(db
        .prepare_cached("SELECT count(*) FROM binding WHERE organization_id IS ?1")?
        .query_row([owner.map(|id| id.0.into_bytes())], |row| row.get(0))?)
}

/// Finds the highest position among an owner's bindings.
pub fn find_last_position(db: &Connection, owner: Option<OrganizationId>) -> Result<Option<i64>> {
    Ok(db
        .prepare_cached("SELECT max(position) FROM binding WHERE organization_id IS ?1")?
        .query_row([owner.map(|id| id.0.into_bytes())], |row| row.get(0))?)
}

/// Finds the bindings that use a file, as current or previous version, by way of `owner`'s installation of it.
pub(super) fn find_bindings_of(
    db: &Connection,
    digest: &[u8; 32],
    owner: Option<OrganizationId>,
) -> Result<Vec<Uuid>> {
    // The node's installation serves every organisation that has not installed the file itself.
    let mut statement = db.prepare_cached(
        "SELECT b.id FROM binding b WHERE ?1 IN (b.plugin_digest, b.previous_digest) \
         AND CASE WHEN ?2 IS NOT NULL THEN b.organization_id = ?2 AND NOT EXISTS (SELECT 1 FROM plugin p \
             WHERE p.digest = ?1 AND p.organization_id IS NULL AND p.removed_at IS NULL) \
         ELSE b.organization_id IS NULL OR NOT EXISTS (SELECT 1 FROM plugin p \
             WHERE p.digest = ?1 AND p.organization_id = b.organization_id AND p.removed_at IS NULL) END ORDER BY b.id",
    )?;
    let ids = statement.query_map(params![digest, owner.map(|id| id.0.into_bytes())], |row| {
        column(row, 0)
    })?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Renews `last_bound_at` of what a binding uses. Called before and after a change: decisions can only be replayed
/// as long as their module and configuration are kept.
fn touch(tx: &Connection, binding: Uuid, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "UPDATE plugin_configuration SET last_bound_at = ?2 WHERE digest IN \
         (SELECT config_digest FROM binding WHERE id = ?1 \
          UNION SELECT previous_config_digest FROM binding WHERE id = ?1)",
    )?
    .execute(params![binding.as_bytes(), millis(at)])?;
    tx.prepare_cached(
        "UPDATE module SET last_bound_at = ?2 WHERE digest IN \
         (SELECT plugin_digest FROM binding WHERE id = ?1 \
          UNION SELECT previous_digest FROM binding WHERE id = ?1)",
    )?
    .execute(params![binding.as_bytes(), millis(at)])?;
    Ok(())
}

/// The revisions of the policies that an organisation's resets are judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyRevision {
    /// Revision of the node's bindings and of switched-off plugins.
    pub node: i64,
    /// Revision of the organisation's bindings.
    pub organization: i64,
}

/// Finds the current policy revision of an organisation.
pub fn find_policy_revision(db: &Connection, organization: OrganizationId) -> Result<PolicyRevision> {
    let mut statement =
        db.prepare_cached("SELECT revision FROM policy_revision WHERE organization_id = ?1")?;
    let mut of = |id: &[u8]| statement.query_row([id], |row| row.get(0)).optional();
    Ok(PolicyRevision {
        node: of(&[])?.unwrap_or(0),
        organization: of(organization.0.as_bytes())?.unwrap_or(0),
    })
}

/// Lists the policy revisions: the node's, and that of every organisation that ever had a binding.
pub fn find_policy_revisions(db: &Connection) -> Result<(i64, Vec<(OrganizationId, i64)>)> {
    let mut statement = db.prepare_cached("SELECT organization_id, revision FROM policy_revision")?;
    let mut rows = statement.query([])?;
    let (mut node, mut organizations) = (0, Vec::new());
    while let Some(row) = rows.next()? {
        match row.get_ref(0)?.as_blob().map(<[u8]>::is_empty) {
            Ok(true) => node = row.get(1)?,
            _ => organizations.push((column(row, 0)?, row.get(1)?)),
        }
    }
    Ok((node, organizations))
}

/// Increments the policy revision of an organisation, or of the node for `None`.
pub(super) fn bump_policy_revision(tx: &Connection, organization: Option<OrganizationId>) -> Result<()> {
    let id = organization.map_or_else(Vec::new, |id| id.0.as_bytes().to_vec());
    tx.prepare_cached(
        "INSERT INTO policy_revision (organization_id, revision) VALUES (?1, 1) \
         ON CONFLICT (organization_id) DO UPDATE SET revision = revision + 1",
    )?
    .execute([id])?;
    Ok(())
}

const BINDING: &str = "SELECT id, organization_id, plugin_digest, config_digest, hooks, answered, \
    previous_digest, previous_config_digest, previous_hooks, previous_answered, position, mode, on_failure, \
    grants, limits, disabled_at, created_at, updated_at, revision, approval_demanded_at FROM binding";

fn binding_from_row(row: &Row<'_>) -> rusqlite::Result<BindingRow> {
    let previous = match row.get::<_, Option<[u8; 32]>>(6)? {
        Some(_) => Some(version_from_row(row, 6)?),
        None => None,
    };
    Ok(BindingRow {
        id: column(row, 0)?,
        organization_id: optional(row, 1)?,
        version: version_from_row(row, 2)?,
        previous,
        position: row.get(10)?,
        mode: json(row, 11)?,
        on_failure: row.get(12)?,
        grants: json(row, 13)?,
        limits: row.get(14)?,
        disabled_at: optional(row, 15)?,
        created_at: column(row, 16)?,
        updated_at: column(row, 17)?,
        revision: row.get(18)?,
        approval_demanded_at: optional(row, 19)?,
    })
}

/// Reads a version from the four columns starting at `first`.
fn version_from_row(row: &Row<'_>, first: usize) -> rusqlite::Result<VersionRow> {
    Ok(VersionRow {
        plugin_digest: row.get(first)?,
        config_digest: row.get(first + 1)?,
        hooks: json(row, first + 2)?,
        answered: row.get(first + 3)?,
    })
}
