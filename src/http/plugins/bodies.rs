//! Plugins and bindings as JSON.

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::words::{HookBody, LimitsBody, ModeBody, OnFailureBody, from_hooks, hooks, mode};
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
    /// SHA-256 of the file, hexadecimal: the plugin's identity.
    pub digest: String,
    /// Name.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// Hooks that it implements.
    pub hooks: Vec<HookBody>,
    /// Effects that it may ask for; it gets those that a binding grants.
    pub wants: Vec<String>,
    /// How far back it wants to know of earlier resets, in days.
    pub history_days: u16,
    /// JSON Schema of its configuration.
    pub config_schema: Value,
    /// Size of the file, in bytes.
    pub size_bytes: u64,
    /// Number of the trusted key that signed it, where signatures are checked.
    #[oai(nullable)]
    pub signed_by: Option<String>,
    /// Whether it is the node's: visible to every organisation, changed by none.
    pub of_node: bool,
    /// When it was installed.
    pub installed_at: Time,
    /// Since when the node's operator has it switched off for everybody.
    #[oai(nullable)]
    pub disabled_at: Option<Time>,
    /// Only of an installation: what to know of it, of a signature that was not checked for example.
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

/// What to bind, and how.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PolicyBindingRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    example
)]
pub struct BindingRequest {
    /// SHA-256 of an installed plugin's file, hexadecimal.
    pub plugin_digest: String,
    /// The configuration, as the plugin's schema wants it.
    #[serde(default = "empty")]
    #[oai(default = "empty")]
    pub config: Value,
    /// Order among the organisation's policies; absent: behind those there are.
    pub order: Option<i32>,
    /// When it is asked; absent: at every hook that it implements.
    pub hooks: Option<Vec<HookBody>>,
    /// Whether answers count; absent: enforce.
    pub mode: Option<ModeBody>,
    /// With mode `canary`: for how many in a hundred users, 1 to 99.
    pub canary_percent: Option<u8>,
    /// Names of the effects that are granted; absent: none.
    pub grants: Option<Vec<String>>,
    /// What a failure means; absent: deny.
    pub on_failure: Option<OnFailureBody>,
    /// What a call may use up.
    pub limits: Option<LimitsBody>,
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

/// Changes to a binding: what is absent stays as it is.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "PolicyBindingPatch", rename_all = "camelCase", deny_unknown_fields)]
pub struct BindingPatchBody {
    /// Another version of the same plugin.
    pub plugin_digest: Option<String>,
    /// The configuration.
    pub config: Option<Value>,
    /// Order among the organisation's policies.
    pub order: Option<i32>,
    /// When it is asked.
    pub hooks: Option<Vec<HookBody>>,
    /// Whether answers count.
    pub mode: Option<ModeBody>,
    /// With mode `canary`: for how many in a hundred users, 1 to 99.
    pub canary_percent: Option<u8>,
    /// Names of the effects that are granted.
    pub grants: Option<Vec<String>>,
    /// What a failure means: the whole of it.
    pub on_failure: Option<OnFailureBody>,
    /// What a call may use up: the whole of it.
    pub limits: Option<LimitsBody>,
    /// Whether it is switched off.
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

/// A version of a plugin with its configuration.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyVersion", rename_all = "camelCase")]
pub struct VersionBody {
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// Semantic version.
    pub version: String,
    /// The configuration.
    pub config: Value,
    /// SHA-256 of the configuration's text.
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

/// What a policy did since the start of the process.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyStatistics", rename_all = "camelCase")]
pub struct StatisticsBody {
    /// Calls.
    pub calls: u64,
    /// Calls that denied; with mode `monitor`, would have.
    pub denials: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Failures since the last answer.
    pub failures_in_a_row: u32,
    /// Calls of the version before, since this one had failed.
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

/// A plugin bound to the organisation, or to all of them.
#[derive(Clone, Debug, Object)]
#[oai(rename = "PolicyBinding", rename_all = "camelCase")]
pub struct BindingBody {
    /// Id.
    pub id: Uuid,
    /// Whether it is the node's: it holds for every organisation and can't be changed here.
    pub of_node: bool,
    /// The plugin's name.
    pub plugin: String,
    /// What is asked.
    pub current: VersionBody,
    /// What was asked before, the last that answered for good: for rollback, canaries and failures.
    #[oai(nullable)]
    pub previous: Option<VersionBody>,
    /// Order among the policies of its owner.
    pub order: i64,
    /// When it is asked.
    pub hooks: Vec<HookBody>,
    /// Whether answers count.
    pub mode: ModeBody,
    /// With mode `canary`: for how many in a hundred users.
    #[oai(nullable)]
    pub canary_percent: Option<u8>,
    /// What to know of that: of a canary without a version before the other users are not judged.
    #[oai(nullable)]
    pub warning: Option<String>,
    /// Effects that the plugin asks for.
    pub wants: Vec<String>,
    /// Effects that are granted.
    pub grants: Vec<String>,
    /// What a failure means.
    pub on_failure: OnFailureBody,
    /// What a call may use up.
    pub limits: LimitsBody,
    /// Since when it is switched off.
    #[oai(nullable)]
    pub disabled_at: Option<Time>,
    /// Whether the node's operator has the plugin switched off for everybody.
    pub plugin_disabled: bool,
    /// What it did since the start of the process; absent for the node's, which are asked by every
    /// organisation: their figures would tell of the others' resets.
    #[oai(skip_serializing_if_is_none)]
    pub statistics: Option<StatisticsBody>,
    /// When it was made.
    pub created_at: Time,
    /// Last change.
    pub updated_at: Time,
    /// Only with 202: what another admin has to agree to before the change is made.
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
