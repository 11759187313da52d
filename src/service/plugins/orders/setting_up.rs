//! Orders to install a plugin file and to bind it to an organisation.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{FileText, TermsOrder, naming};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::policy::Grants;
use crate::plugin_host::{Digest, Limits, OnFailure};
use crate::service::plugins::install::uninstall_plugin;
use crate::service::plugins::{
    Manager, NewBinding, NewPlugin, Watch, bind_plugin, install_plugin, list_plugins,
};
use crate::service::{Services, operator};

/// A plugin to install.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallOrder {
    /// The plugin file.
    pub file: FileText,
    /// Its minisign signature.
    pub signature: Option<String>,
    /// Minisign public key that must have signed it.
    #[serde(default)]
    pub public_key: Option<String>,
    /// Slug of the only organisation that may bind it; absent: everybody may.
    pub organization: Option<String>,
}

/// A plugin to bind, and the terms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindOrder {
    /// Name of the plugin (its newest version), or a prefix of its digest.
    pub plugin: String,
    /// Slug of the organisation; absent: everybody's resets.
    pub organization: Option<String>,
    /// Terms of the binding.
    #[serde(default)]
    pub terms: TermsOrder,
}

pub(super) async fn install(services: &Services, order: InstallOrder, watch: Watch) -> Result<Value> {
    let bytes = order.file.bytes()?;
    let new = NewPlugin {
        owner: owner(services, order.organization.as_deref())?,
        bytes: bytes.into(),
        signature: order.signature,
        public_key: order.public_key,
    };
    let installed = install_plugin(services, &Manager::operator(services), new, watch).await?;
    let (new, warning) = (installed.new, installed.warning());
    let plugin = installed.plugin;
    Ok(json!({
        "name": plugin.manifest.name,
        "version": plugin.manifest.version,
        "digest": hex::encode(plugin.digest),
        "wants": plugin.manifest.wants,
        "signedBy": plugin.signed_by,
        "new": new,
        "warning": warning,
    }))
}

pub(super) async fn uninstall(services: &Services, plugin: &str, slug: Option<&str>) -> Result<Value> {
    let manager = Manager::operator(services);
    let owner = owner(services, slug)?;
    let plugins = list_plugins(services, &manager).await?;
    let plugin = naming::find_owned(&plugins, plugin, owner)?;
    uninstall_plugin(services, &manager, plugin).await?;
    Ok(json!({
        "name": plugin.manifest.name,
        "version": plugin.manifest.version,
        "digest": hex::encode(plugin.digest),
        "organization": slug,
    }))
}

pub(super) async fn bind(services: &Services, order: BindOrder) -> Result<Value> {
    let manager = Manager::operator(services);
    let owner = owner(services, order.organization.as_deref())?;
    let plugins = list_plugins(services, &manager).await?;
    let plugin = naming::find_usable(&plugins, &order.plugin, owner)?;
    let terms = order.terms;
    let new = NewBinding {
        owner,
        plugin_digest: Digest(plugin.digest),
        on_failure: terms.on_failure(OnFailure::default()),
        limits: terms.limits(Limits::default()),
        config: terms.config.unwrap_or_else(|| json!({})),
        position: terms.position,
        hooks: terms.hooks,
        mode: terms.mode.unwrap_or_default(),
        grants: Grants::of(terms.grants.unwrap_or_default()),
    };
    let bound = bind_plugin(services, &manager, new).await?;
    let mut said = super::show(services, &manager, bound.row.id)?;
    said["binding"] = json!(bound.row.id);
    said["name"] = json!(plugin.manifest.name);
    Ok(said)
}

pub(super) fn owner(services: &Services, slug: Option<&str>) -> Result<Option<OrganizationId>> {
    let found = slug
        .map(|slug| operator::find_organization(services, slug))
        .transpose()?;
    Ok(found.map(|organization| organization.id))
}
