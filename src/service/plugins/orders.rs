//! The operator's orders from the command line: carried out by the process that has the data directory open,
//! either the command itself or the running server.

mod naming;
mod setting_up;
mod terms;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::decisions::find_decisions_anywhere;
use super::exposition;
use super::replay::replay_manifest;
use super::replay_report::{Follow, Replay, parse_since};
use super::{
    BindingPatch, BindingView, Digest, Manager, Watch, blocking, list_bindings, list_plugins, off_the_path,
    parse_digest, refused, roll_back_binding, switch_plugin, unbind_plugin, update_binding,
};
use crate::domain::account::{Organization, OrganizationId};
use crate::domain::policy::Mode;
use crate::domain::{Error, Result};
use crate::service::{Services, operator};
use crate::store::{accounts, bindings};

pub use setting_up::{BindOrder, InstallOrder};
pub use terms::{FailureRule, Limit, TermsOrder};

/// An order about policies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum PolicyOrder {
    /// Show installed plugins and bindings.
    List {
        /// Slug of the organisation to show; absent: all.
        organization: Option<String>,
    },
    /// Check, compile and store a plugin.
    Install(InstallOrder),
    /// Remove an installed plugin that nothing uses.
    Uninstall {
        /// Its name, or a prefix of its digest that fits no other plugin of the same owner.
        plugin: String,
        /// Slug of the organisation that installed it; absent: the node.
        organization: Option<String>,
    },
    /// Bind a plugin to an organisation's resets.
    Bind(BindOrder),
    /// Change the terms of a binding.
    Change {
        /// Id of the binding.
        binding: Uuid,
        /// The terms to change.
        terms: TermsOrder,
    },
    /// Show a configuration that is or was bound.
    Config {
        /// Its digest, or a prefix of it.
        digest: String,
    },
    /// Show the bindings' counters since the start, as text for a collector.
    Metrics,
    /// Switch a binding off, or on again.
    Switch {
        /// Id of the binding.
        binding: Uuid,
        /// True to switch it off.
        off: bool,
    },
    /// Switch a plugin off for everybody, or on again.
    SwitchPlugin {
        /// Its name, or a prefix of its digest that fits no other plugin.
        plugin: String,
        /// True to switch it off.
        off: bool,
    },
    /// Change whether a binding's answers count.
    SetMode {
        /// Id of the binding.
        binding: Uuid,
        /// The new mode.
        mode: Mode,
    },
    /// Switch a binding to another installed version of its plugin.
    SetVersion {
        /// Id of the binding.
        binding: Uuid,
        /// Name of the plugin (its newest version), or a prefix of its digest.
        plugin: String,
        /// New configuration; absent: unchanged.
        config: Option<Value>,
    },
    /// Switch back to the previous version.
    RollBack {
        /// Id of the binding.
        binding: Uuid,
    },
    /// Remove a binding.
    Unbind {
        /// Id of the binding.
        binding: Uuid,
    },
    /// Ask a plugin, which need not be installed, the questions of past decisions.
    Replay(ReplayOrder),
    /// Show what is kept with the audit entry of a reset.
    Decisions {
        /// Id of the entry.
        entry: Uuid,
    },
}

/// A plugin file as base64 text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileText(String);

impl FileText {
    /// Encodes a file with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(STANDARD.encode(bytes))
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        STANDARD
            .decode(&self.0)
            .map_err(|_| Error::Malformed("The file is not base64".into()))
    }
}

/// A replay to run with a given plugin file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayOrder {
    /// The candidate's file.
    pub file: FileText,
    /// Slug of the organisation; absent: everybody's resets.
    pub organization: Option<String>,
    /// Start of the period: `30d`, `12h` or a time.
    pub since: String,
    /// Id of a binding, to replay only its decisions.
    pub binding: Option<Uuid>,
    /// The candidate's configuration; absent: the one that each decision was made with.
    pub config: Option<Value>,
}

/// Carries out an order and records it with the operator as its actor. The result is for people and scripts.
///
/// # Errors
/// Those of the order.
pub async fn carry_out_order(services: &Services, order: PolicyOrder, watch: Watch) -> Result<Value> {
    carry_out(services, order, watch).await.map_err(naming::as_typed)
}

async fn carry_out(services: &Services, order: PolicyOrder, watch: Watch) -> Result<Value> {
    let manager = Manager::operator(services);
    match order {
        PolicyOrder::List { organization } => list(services, &manager, organization.as_deref()).await,
        PolicyOrder::Install(order) => setting_up::install(services, order, watch).await,
        PolicyOrder::Uninstall { plugin, organization } => {
            setting_up::uninstall(services, &plugin, organization.as_deref()).await
        }
        PolicyOrder::Bind(order) => setting_up::bind(services, order).await,
        PolicyOrder::Change { binding, terms } => {
            let now = super::find_binding(services, &manager, binding)?;
            change(services, &manager, binding, terms.patch(&now)).await
        }
        PolicyOrder::Config { digest } => {
            let (digest, config) = services
                .store
                .read(|db| naming::find_configuration(db, &digest))?;
            Ok(json!({ "digest": digest, "config": config }))
        }
        PolicyOrder::Metrics => Ok(Value::String(exposition::metrics(services, &manager).await?)),
        PolicyOrder::Switch { binding, off } => {
            let patch = BindingPatch {
                disabled: Some(off),
                ..BindingPatch::default()
            };
            change(services, &manager, binding, patch).await
        }
        PolicyOrder::SwitchPlugin { plugin, off } => switch(services, &manager, &plugin, off).await,
        PolicyOrder::SetMode { binding, mode } => {
            let patch = BindingPatch {
                mode: Some(mode),
                ..BindingPatch::default()
            };
            change(services, &manager, binding, patch).await
        }
        PolicyOrder::SetVersion {
            binding,
            plugin,
            config,
        } => {
            let before = super::find_binding(services, &manager, binding)?.row;
            let plugins = list_plugins(services, &manager).await?;
            let usable = naming::find_usable(&plugins, &plugin, before.organization_id)?;
            let patch = BindingPatch {
                plugin_digest: Some(Digest(usable.digest)),
                config,
                ..BindingPatch::default()
            };
            update_binding(services, &manager, binding, patch).await?;
            let now = super::find_binding(services, &manager, binding)?;
            let mut said = self::binding(&now, &organizations(services)?);
            said["changed"] = json!(now.row.revision != before.revision);
            Ok(said)
        }
        PolicyOrder::RollBack { binding } => {
            roll_back_binding(services, &manager, binding).await?;
            show(services, &manager, binding)
        }
        PolicyOrder::Unbind { binding } => {
            unbind_plugin(services, &manager, binding).await?;
            Ok(json!({ "id": binding }))
        }
        PolicyOrder::Replay(order) => replay(services, order, watch).await,
        PolicyOrder::Decisions { entry } => Ok(json!(find_decisions_anywhere(services, entry).await?)),
    }
}

async fn change(services: &Services, manager: &Manager, id: Uuid, patch: BindingPatch) -> Result<Value> {
    update_binding(services, manager, id, patch).await?;
    show(services, manager, id)
}

async fn switch(services: &Services, manager: &Manager, plugin: &str, off: bool) -> Result<Value> {
    // With a whole digest nothing else need be read, which matters in an emergency.
    let digest = if let Ok(digest) = parse_digest(plugin) {
        digest
    } else {
        let plugins = list_plugins(services, manager).await?;
        let bindings = list_bindings(services, manager).await?;
        naming::find_anywhere(&plugins, plugin, &bindings, &organizations(services)?)?
    };
    let digest = digest.to_string();
    let changed = switch_plugin(services, manager, &digest, off).await?;
    Ok(json!({ "digest": digest, "disabled": off, "changed": changed }))
}

fn show(services: &Services, manager: &Manager, id: Uuid) -> Result<Value> {
    let view = super::find_binding(services, manager, id)?;
    Ok(binding(&view, &organizations(services)?))
}

/// Lists plugins and bindings; with a slug, those that this organisation can bind and those asked at its resets.
async fn list(services: &Services, manager: &Manager, slug: Option<&str>) -> Result<Value> {
    let of = setting_up::owner(services, slug)?;
    let concerns = |owner: Option<OrganizationId>| of.is_none() || owner.is_none() || owner == of;
    let organizations = organizations(services)?;
    let plugins: Vec<_> = list_plugins(services, manager)
        .await?
        .into_iter()
        .filter(|plugin| concerns(plugin.organization_id))
        .map(|plugin| {
            json!({
                "name": plugin.manifest.name,
                "version": plugin.manifest.version,
                "digest": hex::encode(plugin.digest),
                "summary": plugin.manifest.summary,
                "hooks": plugin.manifest.hooks,
                "wants": plugin.manifest.wants,
                "organization": slug_of(&organizations, plugin.organization_id),
                "sizeBytes": plugin.size_bytes,
                "signedBy": plugin.signed_by,
                "installedAt": plugin.installed_at,
                "disabled": plugin.disabled_at.is_some(),
            })
        })
        .collect();
    let bindings = list_bindings(services, manager).await?;
    let bindings: Vec<_> = bindings
        .iter()
        .filter(|view| concerns(view.row.organization_id))
        .map(|view| binding(view, &organizations))
        .collect();
    Ok(json!({ "plugins": plugins, "bindings": bindings }))
}

fn organizations(services: &Services) -> Result<Vec<Organization>> {
    services.store.read(accounts::find_organizations)
}

/// Returns the slug of an owner; absent for the node.
pub(super) fn slug_of(organizations: &[Organization], id: Option<OrganizationId>) -> Option<&str> {
    let found = organizations
        .iter()
        .find(|organization| Some(organization.id) == id);
    found.map(|organization| organization.slug.as_str())
}

fn binding(view: &BindingView, organizations: &[Organization]) -> Value {
    json!({
        "id": view.row.id,
        "organization": slug_of(organizations, view.row.organization_id),
        "position": view.row.position,
        "plugin": view.version.manifest.name,
        "version": view.version.manifest.version,
        "digest": hex::encode(view.version.digest.0),
        "configDigest": view.version.config_digest,
        "previous": view.previous.as_ref().map(|previous| previous.manifest.version.as_str()),
        "previousDigest": view.previous.as_ref().map(|previous| previous.digest),
        "previousConfigDigest": view.previous.as_ref().map(|previous| previous.config_digest),
        "config": view.version.config,
        "hooks": view.row.version.hooks,
        "mode": view.row.mode,
        "warning": view.warning(),
        "grants": view.row.grants,
        "wants": view.version.manifest.wants,
        "onFailure": terms::failure_actions(&view.on_failure),
        "limits": view.limits,
        "disabled": view.row.disabled_at.is_some(),
        "pluginDisabled": view.plugin_disabled,
        "calls": view.counters.calls,
        "denials": view.counters.denials,
        "failures": view.counters.failures,
        "failuresInARow": view.counters.failures_in_a_row,
    })
}

async fn replay(services: &Services, order: ReplayOrder, watch: Watch) -> Result<Value> {
    let bytes = order.file.bytes()?;
    let organization = match &order.organization {
        Some(slug) => Some(operator::find_organization(services, slug)?.id),
        None => None,
    };
    let digest = Digest::of(&bytes);
    let since = parse_since(&order.since, services.clock.now())?;
    let organizations = services.store.read(|db| {
        if let Some(id) = order.binding
            && bindings::find_binding(db, id)?.is_none()
        {
            return Err(super::listing::unknown_binding(id));
        }
        Ok(match organization {
            Some(id) => vec![id],
            None => accounts::find_organizations(db)?
                .into_iter()
                .map(|o| o.id)
                .collect(),
        })
    })?;
    watch(super::Progress::Step("compiling"));
    let host = services.plugin_host.clone();
    let prepared = blocking(move || host.prepare(&bytes)).await?.map_err(refused)?;
    let (host, module) = (services.plugin_host.clone(), Arc::clone(&prepared));
    let manifest = off_the_path(move || async move { host.describe(&module).await })
        .await?
        .map_err(refused)?;
    let replay = Replay {
        plugin_digest: digest,
        organization,
        since,
        follow: order.binding.map_or(Follow::Name, Follow::Binding),
        config: order.config,
    };
    let report = replay_manifest(services, None, manifest, organizations, replay, watch).await?;
    drop(prepared); // held until here, so that the replay finds it by its digest
    let (clean, verdict) = (report.is_clean(), report.verdict());
    let mut report = json!(report);
    report["clean"] = json!(clean);
    report["verdict"] = json!(verdict);
    Ok(report)
}
