//! The installed plugins and the bindings, as their managers see them.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::{Manager, from_json, is_unsigned};
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Manifest, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{Digest, Limits, OnFailure, PluginCounters};
use crate::service::Services;
use crate::store::bindings::{self, BindingRow, Of, VersionRow};
use crate::store::plugins::{self, ModuleRow, PluginRow};
use crate::store::{Connection, configurations};

/// Lists the plugins that a manager can bind: for an admin, their organisation's and the node's; for the
/// operator, all.
///
/// # Errors
/// The store can't be read.
pub async fn list_plugins(services: &Services, manager: &Manager) -> Result<Vec<PluginRow>> {
    let organization = manager.organization();
    services
        .store
        .read_long(organization, move |db| plugins::find_plugins(db, organization))
        .await
}

/// Finds an installed plugin: the manager's organisation's, otherwise the node's.
///
/// # Errors
/// [`Error::NotFound`], also for a plugin that only another organisation installed.
pub fn find_plugin(services: &Services, manager: &Manager, digest: &str) -> Result<PluginRow> {
    let digest = parse_digest(digest)?;
    services
        .store
        .read(|db| usable_plugin(db, digest, manager.organization()))
}

/// Finds a plugin that `owner` can bind.
pub(super) fn usable_plugin(
    db: &Connection,
    digest: Digest,
    owner: Option<OrganizationId>,
) -> Result<PluginRow> {
    let own = match owner {
        Some(_) => plugins::find_plugin(db, &digest.0, owner)?,
        None => None,
    };
    match own {
        Some(own) => Ok(own),
        None => plugins::find_plugin(db, &digest.0, None)?.ok_or_else(|| unknown_plugin(digest)),
    }
}

/// Finds the plugin that a binding is to use from now on. A switch to a file that is switched off on this node would
/// end the policy without a word; one that the binding uses already ends nothing.
pub(super) fn plugin_to_switch_to(db: &Connection, digest: Digest, now: &BindingRow) -> Result<PluginRow> {
    let plugin = usable_plugin(db, digest, now.organization_id)?;
    if plugin.disabled_at.is_some() && digest.0 != now.version.plugin_digest {
        return Err(Error::Conflict(format!(
            "{} {} is switched off on this node, so this policy would no longer be asked. Have the operator switch it \
             on, or disable the binding",
            plugin.manifest.name, plugin.manifest.version
        )));
    }
    Ok(plugin)
}

pub(super) fn unknown_plugin(digest: impl ToString) -> Error {
    Error::NotFound {
        what: "Plugin",
        id: digest.to_string(),
    }
}

/// Parses a digest as callers write it: 64 hex digits, with or without `sha256:`.
///
/// # Errors
/// [`Error::Malformed`].
pub fn parse_digest(text: &str) -> Result<Digest> {
    let malformed = || Error::Malformed("A plugin's digest is 64 hexadecimal digits".into());
    text.strip_prefix("sha256:")
        .unwrap_or(text)
        .parse()
        .map_err(|_| malformed())
}

/// A version of a plugin with its configuration.
#[derive(Clone, Debug)]
pub struct VersionView {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// The plugin's manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: Value,
    /// SHA-256 of the configuration's text.
    pub config_digest: Digest,
}

/// A binding as its managers see it.
#[derive(Clone, Debug)]
pub struct BindingView {
    /// The stored row.
    pub row: BindingRow,
    /// The bound version.
    pub version: VersionView,
    /// The version before the last switch, kept for rollback and fallback.
    pub previous: Option<VersionView>,
    /// What a failure means for the reset.
    pub on_failure: OnFailure,
    /// Limits of one call.
    pub limits: Limits,
    /// Whether the operator has switched the plugin off for everybody.
    pub plugin_disabled: bool,
    /// Whether the operator has switched the previous version off for everybody.
    pub previous_disabled: bool,
    /// Whether the limits name fuel, which this node does not count.
    pub fuel_uncounted: bool,
    /// Whether none of the keys that this node trusts has signed the plugin.
    pub unsigned: bool,
    /// Counters since the start of the process.
    pub counters: PluginCounters,
}

impl BindingView {
    /// Returns a warning for the manager: that a canary without a previous version only records, and does not
    /// judge, the resets of users outside its share, or judges them too since that version is switched off; that a
    /// limit is not applied; or that the plugin could not be installed today.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let alone = match (self.row.mode, &self.row.previous) {
            (Mode::Canary(percent), None) => Some(format!(
                "There is no version before, so this policy judges {percent} in a hundred users; for the others \
                 its answers are only recorded"
            )),
            (Mode::Canary(_), Some(_)) if self.previous_disabled => Some(PREVIOUS_OFF.to_owned()),
            _ => None,
        };
        let warnings: Vec<_> = alone
            .into_iter()
            .chain(self.fuel_uncounted.then(|| FUEL_UNCOUNTED.to_owned()))
            .chain(self.unsigned.then(|| UNSIGNED.to_owned()))
            .collect();
        (!warnings.is_empty()).then(|| warnings.join(". "))
    }
}

const PREVIOUS_OFF: &str = "The version before is switched off on this node, so the canary's version judges all \
                            users, not its share alone";
const FUEL_UNCOUNTED: &str = "limits.fuel limits nothing: this node does not count fuel (plugins.count_fuel)";
const UNSIGNED: &str = "No key that this node trusts (plugins.trusted_keys) has signed this plugin: it was installed \
                        before they were trusted. Install it again with its signature";

/// Lists the policies that judge the resets of a manager's organisation, in the order in which they are asked:
/// the node's first. The operator sees every organisation's.
///
/// # Errors
/// The store can't be read.
pub async fn list_bindings(services: &Services, manager: &Manager) -> Result<Vec<BindingView>> {
    let organization = manager.organization();
    let of = organization.map_or(Of::All, Of::Organization);
    let rows = services
        .store
        .read_long(organization, move |db| {
            Snapshot::read(db, bindings::find_bindings(db, of)?, organization)
        })
        .await?;
    rows.views(services)
}

/// Finds a binding.
///
/// # Errors
/// [`Error::NotFound`], also for another organisation's binding.
pub fn find_binding(services: &Services, manager: &Manager, id: Uuid) -> Result<BindingView> {
    let row = services.store.read(|db| bindings::find_binding(db, id))?;
    let row = row
        .filter(|row| manager.sees(row.organization_id))
        .ok_or_else(|| unknown_binding(id))?;
    view(services, row)
}

pub(super) fn unknown_binding(id: Uuid) -> Error {
    Error::NotFound {
        what: "Policy binding",
        id: id.to_string(),
    }
}

pub(super) fn view(services: &Services, row: BindingRow) -> Result<BindingView> {
    let organization = row.organization_id;
    let snapshot = services
        .store
        .read(|db| Snapshot::read(db, vec![row], organization))?;
    let mut views = snapshot.views(services)?;
    views
        .pop()
        .ok_or_else(|| Error::Internal("a binding has no view".into()))
}

struct Snapshot {
    rows: Vec<BindingRow>,
    modules: HashMap<[u8; 32], ModuleRow>,
    configurations: HashMap<[u8; 32], String>,
    plugins: Vec<PluginRow>,
}

impl Snapshot {
    /// `organization`: whose bindings they are; absent: those of several, or of the node.
    fn read(db: &Connection, rows: Vec<BindingRow>, organization: Option<OrganizationId>) -> Result<Self> {
        let of = organization.map_or(Of::All, Of::Organization);
        Ok(Self {
            rows,
            plugins: plugins::find_plugins(db, organization)?,
            modules: plugins::find_bound_modules(db, of)?
                .into_iter()
                .map(|module| (module.digest, module))
                .collect(),
            configurations: configurations::find_bound_configurations(db, of)?
                .into_iter()
                .collect(),
        })
    }

    fn views(self, services: &Services) -> Result<Vec<BindingView>> {
        let view = |row: &BindingRow| {
            let (version, plugin_disabled) = self.version(&row.version)?;
            let previous = row.previous.as_ref().map(|v| self.version(v)).transpose()?;
            let limits: Limits = from_json(&row.limits)?;
            Ok(BindingView {
                version,
                previous_disabled: previous.as_ref().is_some_and(|(_, disabled)| *disabled),
                previous: previous.map(|(version, _)| version),
                on_failure: from_json(&row.on_failure)?,
                fuel_uncounted: !services.plugin_host.applies(limits),
                limits,
                plugin_disabled,
                unsigned: self
                    .plugin(row)
                    .is_some_and(|plugin| is_unsigned(&services.settings.plugins, plugin)),
                counters: services.plugin_host.counters(row.id).unwrap_or_default(),
                row: row.clone(),
            })
        };
        self.rows.iter().map(view).collect()
    }

    /// The installed plugin that a binding uses: its owner's, otherwise the node's.
    fn plugin(&self, row: &BindingRow) -> Option<&PluginRow> {
        let of = |owner: Option<OrganizationId>| {
            let named = |plugin: &&PluginRow| {
                plugin.digest == row.version.plugin_digest && plugin.organization_id == owner
            };
            self.plugins.iter().find(named)
        };
        of(row.organization_id).or_else(|| of(None))
    }

    fn version(&self, row: &VersionRow) -> Result<(VersionView, bool)> {
        let gone = || Error::Stale; // changed between two reads of the store
        let module = self.modules.get(&row.plugin_digest).ok_or_else(gone)?;
        let config = self.configurations.get(&row.config_digest).ok_or_else(gone)?;
        let view = VersionView {
            digest: Digest(row.plugin_digest),
            manifest: module.manifest.clone(),
            config: from_json(config)?,
            config_digest: Digest(row.config_digest),
        };
        Ok((view, module.disabled_at.is_some()))
    }
}
