//! Request and response bodies for plugins and bindings.

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::words::{HookBody, LimitsBody, LimitsRequest, ModeBody, OnFailureBody, from_hooks, hooks, mode};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Grants, Manifest, Mode};
use crate::http::schema::Time;
use crate::service::plugins::{
    BindingPatch, BindingView, NewBinding, PluginCounters, PluginRow, VersionView, parse_digest,
};

/// An installed plugin.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Plugin", rename_all = "camelCase")]
pub struct PluginBody {
    /// SHA-256 digest of the file, in hexadecimal: the plugin's identity.
    pub digest: String,
    /// Name of the plugin.
    pub name: String,
    /// Semantic version of the plugin.
    pub version: String,
    /// What the plugin does, in one sentence.
    pub summary: String,
    /// Hooks that the plugin implements.
    pub hooks: Vec<HookBody>,
    /// Effects that the plugin may request; only those that a binding grants are carried out.
    pub wants: Vec<String>,
    /// Number of days of earlier resets that the plugin wants to know about.
    pub history_days: u16,
    /// JSON Schema of the plugin's configuration.
    pub config_schema: Value,
    /// Size of the file, in bytes.
    pub size_bytes: u64,
    /// Id of the trusted key that signed it, where signatures are checked; null otherwise.
    #[oai(nullable)]
    pub signed_by: Option<String>,
    /// Whether it belongs to the node: visible to every organisation, and changed by none.
    pub of_node: bool,
    /// When it was installed.
    pub installed_at: Time,
    /// Since when the node's operator has switched it off for all organisations; null if it is on.
    #[oai(nullable)]
    pub disabled_at: Option<Time>,
    /// A warning about the installation, for example that the signature was not checked; only in responses to
    /// an installation.
    #[oai(skip_serializing_if_is_none)]
    pub warning: Option<String>,
}

impl From<PluginRow> for PluginBody {
    fn from(row: PluginRow) -> Self {
        Self {
            digest: hex::encode(row.digest),
            name: row.manifest.name,
            version: row.manifest.version,
            summary: row.manifest.summary,
            hooks: hooks(&row.manifest.hooks),
            wants: row.manifest.wants,
            history_days: row.manifest.history_days,
            config_schema: serde_json::from_str(&row.manifest.config_schema).unwrap_or_default(),
            size_bytes: row.size_bytes,
            signed_by: row.signed_by,
            of_node: row.organization_id.is_none(),
            installed_at: Time(row.installed_at),
            disabled_at: row.disabled_at.map(Time),
            warning: None,
        }
    }
}

/// A request to bind a plugin.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PolicyBindingRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    example
)]
pub struct BindingRequest {
    /// SHA-256 digest of an installed plugin's file, in hexadecimal.
    pub plugin_digest: String,
    /// Configuration, which must match the plugin's `configSchema`; an empty object if absent.
    #[serde(default = "empty")]
    #[oai(default = "empty")]
    pub config: Value,
    /// Position among the organisation's policies, which are called in ascending order; after all others if
    /// absent.
    pub order: Option<i32>,
    /// Hooks at which it is called; every hook that it implements if absent.
    pub hooks: Option<Vec<HookBody>>,
    /// Whether its answers count; `enforce` if absent.
    pub mode: Option<ModeBody>,
    /// With mode `canary`: percentage of users for whom it counts, 1 to 99.
    pub canary_percent: Option<u8>,
    /// Names of the effects that it is granted; none if absent.
    pub grants: Option<Vec<String>>,
    /// What happens if a call fails; deny if absent.
    pub on_failure: Option<OnFailureBody>,
    /// Resource limits of a call.
    pub limits: Option<LimitsRequest>,
}

impl Example for BindingRequest {
    fn example() -> Self {
        Self {
            plugin_digest: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae".into(),
            config: json!({ "perUser": { "max": 2, "days": 30 } }),
            order: Some(1),
            hooks: None,
            mode: Some(ModeBody::Monitor),
            canary_percent: None,
            grants: Some(vec![]),
            on_failure: None,
            limits: None,
        }
    }
}

fn empty() -> Value {
    json!({})
}

impl BindingRequest {
    pub(super) fn into_new(self, owner: OrganizationId) -> Result<NewBinding> {
        Ok(NewBinding {
            owner: Some(owner),
            plugin_digest: parse_digest(&self.plugin_digest)?,
            config: self.config,
            position: self.order.map(i64::from),
            hooks: self.hooks.map(from_hooks),
            mode: mode(self.mode, self.canary_percent)?.unwrap_or_default(),
            on_failure: self.on_failure.unwrap_or_default().into(),
            grants: Grants::of(self.grants.unwrap_or_default()),
            limits: self.limits.unwrap_or_default().into(),
        })
    }
}

/// Changes to a binding. Absent fields stay as they are.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "PolicyBindingPatch", rename_all = "camelCase", deny_unknown_fields)]
pub struct BindingPatchBody {
    /// SHA-256 digest of another version of the same plugin, in hexadecimal.
    pub plugin_digest: Option<String>,
    /// The new configuration.
    pub config: Option<Value>,
    /// Position among the organisation's policies.
    pub order: Option<i32>,
    /// Hooks at which it is called.
    pub hooks: Option<Vec<HookBody>>,
    /// Whether its answers count.
    pub mode: Option<ModeBody>,
    /// With mode `canary`: percentage of users for whom it counts, 1 to 99.
    pub canary_percent: Option<u8>,
    /// Names of the effects that it is granted.
    pub grants: Option<Vec<String>>,
    /// What happens if a call fails. Replaces the previous value as a whole.
    pub on_failure: Option<OnFailureBody>,
    /// Resource limits of a call. Replaces the previous value as a whole.
    pub limits: Option<LimitsRequest>,
    /// Whether the binding is switched off.
    pub disabled: Option<bool>,
}

impl BindingPatchBody {
    pub(super) fn into_patch(self) -> Result<BindingPatch> {
        Ok(BindingPatch {
            plugin_digest: self.plugin_digest.as_deref().map(parse_digest).transpose()?,
            config: self.config,
            position: self.order.map(i64::from),
            hooks: self.hooks.map(from_hooks),
            mode: mode(self.mode, self.canary_percent)?,
            on_failure: self.on_failure.map(Into::into),
            grants: self.grants.map(Grants::of),
            limits: self.limits.map(Into::into),
            disabled: self.disabled,
        })
    }
}

/// A version of a plugin, with its configuration.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyVersion", rename_all = "camelCase")]
pub struct VersionBody {
    /// SHA-256 digest of the plugin file, in hexadecimal.
    pub digest: String,
    /// Semantic version of the plugin.
    pub version: String,
    /// Configuration of the plugin.
    pub config: Value,
    /// SHA-256 digest of the configuration's text, in hexadecimal.
    pub config_digest: String,
}

impl From<VersionView> for VersionBody {
    fn from(view: VersionView) -> Self {
        Self {
            digest: view.digest.to_string(),
            version: view.manifest.version,
            config: view.config,
            config_digest: view.config_digest.to_string(),
        }
    }
}

/// Statistics of a policy since the start of the process.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyStatistics", rename_all = "camelCase")]
pub struct StatisticsBody {
    /// Number of calls.
    pub calls: u64,
    /// Number of calls that denied a reset, or would have with mode `monitor`.
    pub denials: u64,
    /// Number of calls that failed.
    pub failures: u64,
    /// Number of consecutive failures at one hook since its last answer: of the hook with more of them.
    pub failures_in_a_row: u32,
    /// Number of calls of the previous version because this one had failed.
    pub fallbacks: u64,
}

impl From<&PluginCounters> for StatisticsBody {
    fn from(counters: &PluginCounters) -> Self {
        Self {
            calls: counters.calls,
            denials: counters.denials,
            failures: counters.failures.values().sum(),
            failures_in_a_row: counters.failures_in_a_row,
            fallbacks: counters.fallbacks,
        }
    }
}

/// A plugin that is bound to the organisation, or to all organisations.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyBinding", rename_all = "camelCase")]
pub struct BindingBody {
    /// Id of the binding.
    pub id: Uuid,
    /// Whether it belongs to the node: it applies to every organisation and can't be changed here.
    pub of_node: bool,
    /// Name of the plugin.
    pub plugin: String,
    /// The version that is called.
    pub current: VersionBody,
    /// The previous version, the last one whose answers counted: for rollback, canaries and failures; null if
    /// there is none.
    #[oai(nullable)]
    pub previous: Option<VersionBody>,
    /// Position among the policies of its owner.
    pub order: i64,
    /// Hooks at which it is called.
    pub hooks: Vec<HookBody>,
    /// Whether its answers count.
    pub mode: ModeBody,
    /// Percentage of users for whom it counts; null unless the mode is `canary`.
    #[oai(nullable)]
    pub canary_percent: Option<u8>,
    /// What the administrator should know; null if there is nothing: that without a previous version a canary's
    /// answers are only recorded for the other users, that they count for all users since the operator switched the
    /// previous version off, that the node does not count fuel, or that no key which the node trusts has signed the
    /// plugin.
    #[oai(nullable)]
    pub warning: Option<String>,
    /// Effects that the plugin may request.
    pub wants: Vec<String>,
    /// Effects that the plugin is granted.
    pub grants: Vec<String>,
    /// What happens if a call fails.
    pub on_failure: OnFailureBody,
    /// Resource limits of a call.
    pub limits: LimitsBody,
    /// Since when the binding is switched off; null if it is on.
    #[oai(nullable)]
    pub disabled_at: Option<Time>,
    /// Whether the node's operator has switched the plugin off for all organisations.
    pub plugin_disabled: bool,
    /// Statistics since the start of the process; absent for the node's bindings, which every organisation's
    /// resets call, so that their figures would reveal other organisations' resets.
    #[oai(skip_serializing_if_is_none)]
    pub statistics: Option<StatisticsBody>,
    /// When the binding was created.
    pub created_at: Time,
    /// When the binding was last changed.
    pub updated_at: Time,
    /// Id of the approval that the change waits for; only with 202.
    #[oai(skip_serializing_if_is_none)]
    pub approval_id: Option<String>,
}

impl From<BindingView> for BindingBody {
    fn from(view: BindingView) -> Self {
        let Manifest { name, wants, .. } = view.version.manifest.clone();
        let warning = view.warning();
        let (mode, canary_percent) = match view.row.mode {
            Mode::Enforce => (ModeBody::Enforce, None),
            Mode::Monitor => (ModeBody::Monitor, None),
            Mode::Canary(percent) => (ModeBody::Canary, Some(percent)),
        };
        Self {
            id: view.row.id,
            of_node: view.row.organization_id.is_none(),
            plugin: name,
            current: view.version.into(),
            previous: view.previous.map(VersionBody::from),
            order: view.row.position,
            hooks: hooks(&view.row.version.hooks),
            mode,
            canary_percent,
            warning,
            wants,
            grants: view.row.grants.iter().map(str::to_owned).collect(),
            on_failure: view.on_failure.into(),
            limits: view.limits.into(),
            disabled_at: view.row.disabled_at.map(Time),
            plugin_disabled: view.plugin_disabled,
            statistics: view.row.organization_id.map(|_| (&view.counters).into()),
            created_at: Time(view.row.created_at),
            updated_at: Time(view.row.updated_at),
            approval_id: None,
        }
    }
}
