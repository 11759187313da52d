//! Plugins as operators handle them: install, bind, and the set that is asked at a reset.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use super::{RequestContext, Services};
use crate::domain::account::OrganizationId;
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::policy::{Grants, Manifest, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{BoundPlugin, Digest, Limits, OnFailure};
use crate::store::plugins::{self, BindingRow, PluginRow};
use crate::store::{Store, accounts, audit};

/// Longest look back that a manifest can ask for, in days.
const HISTORY_DAYS_CAP: u16 = 90;

/// The plugins of every organisation, ready to be called. Replaced as a whole by [`reload`]: calls
/// under way finish on the set they started with.
#[derive(Debug, Default)]
pub struct Bindings(RwLock<Arc<Table>>);

#[derive(Debug, Default)]
struct Table {
    revision: i64,
    node: Vec<BoundPlugin>,
    organizations: HashMap<OrganizationId, Arc<[BoundPlugin]>>,
    history_days: HashMap<Uuid, u16>,
}

/// What one organisation's resets are judged by, at one revision.
#[derive(Clone, Debug)]
pub struct BoundSet {
    /// Revision of plugins and bindings; a reset commits only if it still holds.
    pub revision: i64,
    /// In the order in which they are asked: the node's first.
    pub plugins: Arc<[BoundPlugin]>,
    history_days: u16,
}

impl BoundSet {
    /// How far back the question's history must reach, in days.
    #[must_use]
    pub fn history_days(&self) -> u16 {
        self.history_days
    }
}

impl Bindings {
    /// The plugins that an organisation's resets are judged by.
    #[must_use]
    pub fn of(&self, organization: OrganizationId) -> BoundSet {
        let table = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let plugins = match table.organizations.get(&organization) {
            Some(plugins) => Arc::clone(plugins),
            None => table.node.clone().into(),
        };
        let asked = plugins
            .iter()
            .filter_map(|plugin| table.history_days.get(&plugin.binding_id));
        BoundSet {
            revision: table.revision,
            history_days: asked.copied().max().unwrap_or(0).min(HISTORY_DAYS_CAP),
            plugins,
        }
    }

    fn replace(&self, table: Table) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// Reads all bindings and makes their modules ready. Blocks: modules that are not in the cache are
/// compiled.
///
/// # Errors
/// When the store can't be read, or a stored module is no longer acceptable.
pub fn reload(services: &Services) -> Result<()> {
    let (revision, bindings, installed) = services.store.read(|db| {
        Ok((
            plugins::find_policy_revision(db)?,
            plugins::find_bindings(db)?,
            plugins::find_plugins(db)?,
        ))
    })?;
    let installed: HashMap<[u8; 32], PluginRow> = installed.into_iter().map(|p| (p.digest, p)).collect();
    let mut table = Table {
        revision,
        ..Table::default()
    };
    let mut own: HashMap<OrganizationId, Vec<BoundPlugin>> = HashMap::new();
    for binding in bindings.into_iter().filter(|b| b.disabled_at.is_none()) {
        let plugin = installed
            .get(&binding.plugin_digest)
            .ok_or_else(|| Error::Internal(format!("binding {} names no installed plugin", binding.id)))?;
        if plugin.disabled_at.is_some() {
            continue;
        }
        table
            .history_days
            .insert(binding.id, plugin.manifest.history_days);
        let organization = binding.organization_id;
        let bound = ready(services, &plugin.manifest, binding)?;
        match organization {
            None => table.node.push(bound),
            Some(organization) => own.entry(organization).or_default().push(bound),
        }
    }
    table.organizations = own
        .into_iter()
        .map(|(organization, plugins)| {
            (
                organization,
                table
                    .node
                    .iter()
                    .cloned()
                    .chain(plugins)
                    .collect::<Vec<_>>()
                    .into(),
            )
        })
        .collect();
    services.bindings.replace(table);
    Ok(())
}

fn ready(services: &Services, manifest: &Manifest, binding: BindingRow) -> Result<BoundPlugin> {
    let module = module(&services.store, &binding.plugin_digest)?;
    let prepared = services
        .plugin_host
        .prepare(&module)
        .map_err(|e| Error::Internal(format!("plugin {} can't be used: {e}", manifest.name)))?;
    Ok(BoundPlugin {
        binding_id: binding.id,
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        prepared,
        config: binding.config.into(),
        config_digest: Digest(binding.config_digest),
        hooks: manifest.hooks.clone(),
        grants: binding.grants,
        mode: binding.mode,
        on_failure: from_json(&binding.on_failure)?,
        limits: from_json(&binding.limits)?,
    })
}

fn module(store: &Store, digest: &[u8; 32]) -> Result<Vec<u8>> {
    store
        .read(|db| plugins::find_module(db, digest))?
        .ok_or_else(|| Error::Internal(format!("module {} is missing", hex::encode(digest))))
}

/// Judges, compiles and keeps a plugin. The same file again is no error and changes nothing.
///
/// # Errors
/// [`Error::PluginRefused`] with what is wrong with the file, before anything is stored.
pub async fn install_plugin(
    services: &Services,
    organization: Option<OrganizationId>,
    module: Vec<u8>,
    signature: Option<String>,
    actor: ActorRef,
    context: Option<&RequestContext>,
) -> Result<PluginRow> {
    let at = context.map_or_else(|| services.clock.now(), |c| c.at);
    let host = services.plugin_host.clone();
    let module: Arc<[u8]> = module.into();
    let bytes = Arc::clone(&module);
    let prepared = tokio::task::spawn_blocking(move || host.prepare(&bytes))
        .await
        .map_err(|e| Error::Internal(format!("the compilation ended early: {e}")))?
        .map_err(|e| Error::PluginRefused(e.to_string()))?;
    let manifest = services
        .plugin_host
        .describe(&prepared)
        .await
        .map_err(|e| Error::PluginRefused(e.to_string()))?;
    let row = PluginRow {
        digest: prepared.digest().0,
        organization_id: organization,
        manifest,
        signature,
        size_bytes: module.len() as u64,
        installed_at: at,
        disabled_at: None,
    };
    let event = recorded(EventType::PolicyPluginInstall, organization, actor, context)
        .on(Resource::other(
            "PLUGIN",
            hex::encode(row.digest),
            Some(row.manifest.name.clone()),
        ))
        .with("version", row.manifest.version.as_str());
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            if plugins::insert_plugin(tx, &row, &module)? {
                audit::append_entry(tx, at, entry_id, &event)?;
            }
            Ok(row.clone())
        })
        .await
}

/// What to bind, and how.
#[derive(Clone, Debug)]
pub struct NewBinding {
    /// Whose; absent for every organisation.
    pub organization_id: Option<OrganizationId>,
    /// Which module.
    pub plugin_digest: [u8; 32],
    /// The configuration, JSON.
    pub config: String,
    /// Order among the bindings.
    pub position: i64,
    /// Whether answers count.
    pub mode: Mode,
    /// What a failure means.
    pub on_failure: OnFailure,
    /// Effects that are granted.
    pub grants: Grants,
    /// What a call may use up.
    pub limits: Limits,
}

/// Binds an installed plugin. From the next reset on it is asked.
///
/// # Errors
/// [`Error::NotFound`] for an unknown plugin or organisation, [`Error::Validation`] with the path and
/// reason for a configuration that the plugin refuses.
pub async fn bind_plugin(
    services: &Services,
    new: NewBinding,
    actor: ActorRef,
    context: Option<&RequestContext>,
) -> Result<BindingRow> {
    let at = context.map_or_else(|| services.clock.now(), |c| c.at);
    let unknown = || Error::NotFound {
        what: "Plugin",
        id: hex::encode(new.plugin_digest),
    };
    let (plugin, organization) = services.store.read(|db| {
        let organization = match new.organization_id {
            Some(id) => accounts::find_organization(db, id)?,
            None => None,
        };
        Ok((plugins::find_plugin(db, &new.plugin_digest)?, organization))
    })?;
    // A plugin that another organisation installed is no plugin.
    let plugin = plugin
        .filter(|p| p.organization_id.is_none() || p.organization_id == new.organization_id)
        .ok_or_else(unknown)?;
    if let Some(id) = new.organization_id
        && organization.is_none()
    {
        return Err(Error::NotFound {
            what: "Organization",
            id: id.to_string(),
        });
    }
    let bytes = module(&services.store, &new.plugin_digest)?;
    let host = services.plugin_host.clone();
    let prepared = tokio::task::spawn_blocking(move || host.prepare(&bytes))
        .await
        .map_err(|e| Error::Internal(format!("the compilation ended early: {e}")))?
        .map_err(|e| Error::PluginRefused(e.to_string()))?;
    services
        .plugin_host
        .check_config(&prepared, &plugin.manifest, &new.config)
        .await
        .map_err(|e| Error::field("config", e.to_string()))?;
    let row = BindingRow {
        id: services.entropy.uuid(at),
        organization_id: new.organization_id,
        plugin_digest: new.plugin_digest,
        previous_digest: None,
        config_digest: Digest::of(new.config.as_bytes()).0,
        config: new.config,
        position: new.position,
        mode: new.mode,
        on_failure: to_json(&new.on_failure)?,
        grants: new.grants,
        limits: to_json(&new.limits)?,
        disabled_at: None,
        created_at: at,
    };
    let event = recorded(EventType::PolicyPluginBind, row.organization_id, actor, context)
        .on(Resource::other(
            "PLUGIN",
            hex::encode(row.plugin_digest),
            Some(plugin.manifest.name.clone()),
        ))
        .with("binding", row.id.to_string())
        .with("version", plugin.manifest.version.as_str())
        .with("configDigest", hex::encode(row.config_digest))
        .with("grants", row.grants.iter().collect::<Vec<_>>());
    let entry_id = services.entropy.uuid(at);
    let kept = services
        .store
        .write(move |tx| {
            plugins::put_binding(tx, &row)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(row.clone())
        })
        .await?;
    reload(services)?;
    Ok(kept)
}

fn recorded(
    event_type: EventType,
    organization: Option<OrganizationId>,
    actor: ActorRef,
    context: Option<&RequestContext>,
) -> Event {
    let event = Event::new(event_type, organization, actor);
    match context {
        Some(context) => event.from_request(&context.request_id, context.ip_text().as_deref()),
        None => event,
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(format!("JSON: {e}")))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Internal(format!("JSON: {e}")))
}
