//! Plugins and bindings as JSON.

use poem_openapi::types::Example;
use poem_openapi::{Enum, Object};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::account::OrganizationId;
use crate::domain::policy::{Grants, Hook, Manifest, Mode};
use crate::domain::{Error, Result};
use crate::http::schema::Time;
use crate::service::plugins::{
    BindingPatch, BindingView, FailureAction, FailureCause, Limits, NewBinding, OnFailure, PluginRow,
    VersionView, parse_digest,
};

/// When a plugin is asked.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyHook", rename_all = "kebab-case")]
pub enum HookBody {
    /// Decides.
    BeforeReset,
    /// Adds effects to what was decided.
    AfterReset,
}

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
        }
    }
}

/// Whether a policy's answers count.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyMode", rename_all = "kebab-case")]
pub enum ModeBody {
    /// They count.
    Enforce,
    /// They are recorded only.
    Monitor,
    /// They count for some users' resets; for the others those of the version before do.
    Canary,
}

/// What follows when a policy fails.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyFailureAction", rename_all = "kebab-case")]
pub enum ActionBody {
    /// The reset does not happen.
    Deny,
    /// As if the policy were not bound.
    Skip,
    /// The version before is asked; without one the reset does not happen.
    LastGoodVersion,
}

/// What follows when a policy fails, by cause.
#[derive(Clone, Debug, Default, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "PolicyOnFailure",
    rename_all = "camelCase",
    deny_unknown_fields,
    skip_serializing_if_is_none
)]
pub struct OnFailureBody {
    /// For causes that are not named; `deny` when absent.
    pub otherwise: Option<ActionBody>,
    /// The plugin trapped.
    pub trap: Option<ActionBody>,
    /// The time was up.
    pub deadline: Option<ActionBody>,
    /// It asked for more memory than it may have.
    pub memory: Option<ActionBody>,
    /// The fuel ran out.
    pub fuel: Option<ActionBody>,
    /// The stack ran out.
    pub stack: Option<ActionBody>,
    /// Its answer can't be read.
    pub bad_answer: Option<ActionBody>,
    /// It answered with an error.
    pub hook_error: Option<ActionBody>,
    /// It could not be started.
    pub instantiation: Option<ActionBody>,
}

/// What one call may use up. What is absent has its default.
#[derive(Clone, Copy, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[oai(
    rename = "PolicyLimits",
    rename_all = "camelCase",
    deny_unknown_fields,
    default
)]
pub struct LimitsBody {
    /// Wall clock in milliseconds, 5 to 1000.
    pub deadline_ms: u32,
    /// Linear memory in bytes, 1 MiB to 256 MiB.
    pub memory_bytes: u64,
    /// Table elements, at most 200,000.
    pub table_elements: u32,
    /// Fuel, where the node counts it; 0: no limit.
    pub fuel: u64,
    /// Bytes of strings and lists in an answer, 4 KiB to 4 MiB.
    pub answer_bytes: u32,
    /// Log lines kept, at most 1000.
    pub log_lines: u32,
    /// Bytes of log kept, at most 256 KiB.
    pub log_bytes: u32,
}

impl Default for LimitsBody {
    fn default() -> Self {
        Limits::default().into()
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
    /// What was asked before the last switch.
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
    /// What it did since the start of the process.
    pub statistics: StatisticsBody,
    /// When it was made.
    pub created_at: Time,
    /// Last change.
    pub updated_at: Time,
}

impl From<BindingView> for BindingBody {
    fn from(view: BindingView) -> Self {
        let Manifest { name, wants, .. } = view.version.manifest.clone();
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
            hooks: hooks(&view.row.hooks),
            mode,
            canary_percent,
            wants,
            grants: view.row.grants.iter().map(str::to_owned).collect(),
            on_failure: view.on_failure.into(),
            limits: view.limits.into(),
            disabled_at: view.row.disabled_at.map(Time),
            plugin_disabled: view.plugin_disabled,
            statistics: StatisticsBody {
                calls: view.counters.calls,
                denials: view.counters.denials,
                failures: view.counters.failures.values().sum(),
                failures_in_a_row: view.counters.failures_in_a_row,
                fallbacks: view.counters.fallbacks,
            },
            created_at: Time(view.row.created_at),
            updated_at: Time(view.row.updated_at),
        }
    }
}

fn mode(mode: Option<ModeBody>, percent: Option<u8>) -> Result<Option<Mode>> {
    match (mode, percent) {
        (None, None) => Ok(None),
        (Some(ModeBody::Enforce), None) => Ok(Some(Mode::Enforce)),
        (Some(ModeBody::Monitor), None) => Ok(Some(Mode::Monitor)),
        (Some(ModeBody::Canary) | None, Some(percent)) => Ok(Some(Mode::Canary(percent))),
        (Some(ModeBody::Canary), None) => Err(Error::field("canaryPercent", "is missing")),
        (Some(ModeBody::Enforce | ModeBody::Monitor), Some(_)) => {
            Err(Error::field("canaryPercent", "belongs to mode canary alone"))
        }
    }
}

fn hooks(hooks: &[Hook]) -> Vec<HookBody> {
    let body = |hook: &Hook| match hook {
        Hook::BeforeReset => HookBody::BeforeReset,
        Hook::AfterReset => HookBody::AfterReset,
    };
    hooks.iter().map(body).collect()
}

fn from_hooks(hooks: Vec<HookBody>) -> Vec<Hook> {
    let hook = |body| match body {
        HookBody::BeforeReset => Hook::BeforeReset,
        HookBody::AfterReset => Hook::AfterReset,
    };
    hooks.into_iter().map(hook).collect()
}

impl From<ActionBody> for FailureAction {
    fn from(body: ActionBody) -> Self {
        match body {
            ActionBody::Deny => Self::Deny,
            ActionBody::Skip => Self::Skip,
            ActionBody::LastGoodVersion => Self::LastGoodVersion,
        }
    }
}

impl From<FailureAction> for ActionBody {
    fn from(action: FailureAction) -> Self {
        match action {
            FailureAction::Deny => Self::Deny,
            FailureAction::Skip => Self::Skip,
            FailureAction::LastGoodVersion => Self::LastGoodVersion,
        }
    }
}

impl From<OnFailureBody> for OnFailure {
    fn from(body: OnFailureBody) -> Self {
        let causes = [
            (FailureCause::Trap, body.trap),
            (FailureCause::Deadline, body.deadline),
            (FailureCause::Memory, body.memory),
            (FailureCause::Fuel, body.fuel),
            (FailureCause::Stack, body.stack),
            (FailureCause::BadAnswer, body.bad_answer),
            (FailureCause::HookError, body.hook_error),
            (FailureCause::Instantiation, body.instantiation),
        ];
        Self {
            otherwise: body.otherwise.map(Into::into).unwrap_or_default(),
            causes: causes
                .into_iter()
                .filter_map(|(cause, action)| Some((cause, action?.into())))
                .collect(),
        }
    }
}

impl From<OnFailure> for OnFailureBody {
    fn from(on_failure: OnFailure) -> Self {
        let of = |cause| {
            let named = on_failure.causes.iter().find(|(named, _)| *named == cause);
            named.map(|(_, action)| ActionBody::from(*action))
        };
        Self {
            otherwise: Some(on_failure.otherwise.into()),
            trap: of(FailureCause::Trap),
            deadline: of(FailureCause::Deadline),
            memory: of(FailureCause::Memory),
            fuel: of(FailureCause::Fuel),
            stack: of(FailureCause::Stack),
            bad_answer: of(FailureCause::BadAnswer),
            hook_error: of(FailureCause::HookError),
            instantiation: of(FailureCause::Instantiation),
        }
    }
}

impl From<LimitsBody> for Limits {
    fn from(body: LimitsBody) -> Self {
        Self {
            deadline_ms: body.deadline_ms,
            memory_bytes: body.memory_bytes,
            table_elements: body.table_elements,
            fuel: body.fuel,
            answer_bytes: body.answer_bytes,
            log_lines: body.log_lines,
            log_bytes: body.log_bytes,
        }
    }
}

impl From<Limits> for LimitsBody {
    fn from(limits: Limits) -> Self {
        Self {
            deadline_ms: limits.deadline_ms,
            memory_bytes: limits.memory_bytes,
            table_elements: limits.table_elements,
            fuel: limits.fuel,
            answer_bytes: limits.answer_bytes,
            log_lines: limits.log_lines,
            log_bytes: limits.log_bytes,
        }
    }
}
