//! Applies a patch to a binding and checks the result.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::listing::plugin_to_switch_to;
use super::terms::{check_config, check_terms};
use super::to_json;
use crate::domain::policy::{Grants, Hook, Manifest, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{Digest, Limits, OnFailure, Prepared};
use crate::service::Services;
use crate::store::bindings::{BindingRow, VersionRow};
use crate::store::configurations;
use crate::store::plugins::{self, ModuleRow};

/// Changes to a binding; absent fields stay unchanged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BindingPatch {
    /// SHA-256 of another version of the plugin; the previous one is kept for rollback.
    pub plugin_digest: Option<Digest>,
    /// New configuration, JSON; the previous one is kept for rollback, too.
    pub config: Option<Value>,
    /// Position among the owner's bindings.
    pub position: Option<i64>,
    /// Hooks at which it is asked.
    pub hooks: Option<Vec<Hook>>,
    /// Whether its answers count.
    pub mode: Option<Mode>,
    /// What a failure means for the reset.
    pub on_failure: Option<OnFailure>,
    /// Effects that are granted.
    pub grants: Option<Grants>,
    /// Limits of one call.
    pub limits: Option<Limits>,
    /// Whether it is switched off.
    pub disabled: Option<bool>,
}

impl BindingPatch {
    /// Changes everything but the version.
    fn apply_terms(&self, row: &mut BindingRow, at: Timestamp) -> Result<()> {
        row.position = self.position.unwrap_or(row.position);
        row.mode = self.mode.unwrap_or(row.mode);
        if let Some(grants) = &self.grants {
            row.grants = grants.clone();
        }
        if let Some(on_failure) = &self.on_failure {
            row.on_failure = to_json(on_failure)?;
        }
        if let Some(limits) = self.limits {
            row.limits = to_json(&limits)?;
        }
        if let Some(disabled) = self.disabled {
            row.disabled_at = if disabled {
                row.disabled_at.or(Some(at))
            } else {
                None
            };
        }
        Ok(())
    }
}

/// A binding after a change, checked.
pub(super) struct Changed {
    pub(super) row: BindingRow,
    pub(super) manifest: Manifest,
    /// The configuration's text, if it may be new.
    pub(super) config: Option<String>,
    /// The module, if it may be new to the bindings; held until they have loaded it.
    pub(super) ready: Option<Arc<Prepared>>,
}

/// Returns the binding as it is after the patch.
pub(super) async fn patched(services: &Services, now: BindingRow, patch: &BindingPatch) -> Result<Changed> {
    let digest = patch.plugin_digest.unwrap_or(Digest(now.version.plugin_digest));
    let switched = digest.0 != now.version.plugin_digest;
    let (manifest, old, kept_config) = services.store.read(|db| {
        let old = plugins::find_manifest(db, &now.version.plugin_digest)?.ok_or(Error::Stale)?;
        // What is bound can be switched off and changed even if its installation is gone.
        let manifest = match switched {
            true => plugin_to_switch_to(db, digest, &now)?.manifest,
            false => old.clone(),
        };
        let config =
            configurations::find_configuration(db, &now.version.config_digest)?.ok_or(Error::Stale)?;
        Ok((manifest, old, config))
    })?;
    if manifest.name != old.name {
        let problem = format!(
            "is a version of {}, this binding is of {}: bind it anew",
            manifest.name, old.name
        );
        return Err(Error::field("pluginDigest", problem));
    }
    let config = match &patch.config {
        Some(config) => to_json(config)?,
        None => kept_config,
    };
    let mut row = now.clone();
    let config_kept = patch.config.is_none();
    row.version = VersionRow {
        plugin_digest: digest.0,
        config_digest: Digest::of(config.as_bytes()).0,
        hooks: match &patch.hooks {
            Some(hooks) => hooks.clone(),
            None if switched => hooks_kept(&now.version.hooks, &old.hooks, &manifest.hooks),
            None => now.version.hooks.clone(),
        },
        answered: false,
    };
    // For some plugins the configuration is the whole policy, so another configuration is another version.
    if switched || row.version.config_digest != now.version.config_digest {
        row.previous = to_go_back_to(&now, &row.version);
    }
    row.remember(&now);
    patch.apply_terms(&mut row, services.clock.now())?;
    // Effects that were granted to the previous version need not be wanted again.
    let asked_for = patch.grants.clone().unwrap_or_default();
    let before = match &row.previous {
        Some(previous) => services
            .store
            .read(|db| plugins::find_module_row(db, &previous.plugin_digest))?,
        None => None,
    };
    keeps_judging(now.mode, row.mode, before.as_ref())?;
    check_terms(
        &services.plugin_host,
        &manifest,
        before.as_ref().map(|before| &before.manifest),
        &row.version.hooks,
        row.mode,
        &asked_for,
        // Limits that are kept were accepted before; refusing them now would refuse to switch the policy off.
        patch.limits,
    )?;
    // A change that only loosens or switches off must not depend on a module that may be unusable.
    let ready = if !switched && config_kept && patch.disabled != Some(false) {
        None
    } else {
        Some(check_config(services, digest, &manifest, &config).await?)
    };
    Ok(Changed {
        row,
        manifest,
        config: Some(config),
        ready,
    })
}

/// Refuses to begin a canary without a version before that judges the other users: one of an enforced binding must
/// have one, and none may rest on one that is switched off.
fn keeps_judging(now: Mode, then: Mode, before: Option<&ModuleRow>) -> Result<()> {
    let (Mode::Enforce | Mode::Monitor, Mode::Canary(percent)) = (now, then) else {
        return Ok(());
    };
    let others = 100_u8.saturating_sub(percent);
    match before {
        None if now == Mode::Enforce => Err(Error::Conflict(format!(
            "There is no version before: the other {others} in a hundred users would no longer be judged by this \
             policy. Leave it enforced, or set it to monitor first"
        ))),
        Some(before) if before.disabled_at.is_some() => Err(Error::Conflict(format!(
            "The version before is switched off on this node, so it can't judge the other {others} in a hundred \
             users. Enforce or monitor this one, or have the operator switch that one on"
        ))),
        _ => Ok(()),
    }
}

/// Returns the hooks after a switch: those that the binding left out stay left out, those that the new version
/// adds are asked.
fn hooks_kept(now: &[Hook], old: &[Hook], new: &[Hook]) -> Vec<Hook> {
    let kept = |hook: &&Hook| now.contains(hook) || !old.contains(hook);
    new.iter().filter(kept).copied().collect()
}

/// Returns the version that a switch to `then` (another file or configuration) keeps for rollback and fallback:
/// the one that it replaces, unless that was only tried on a canary's share, or has never answered while the one
/// before it has.
fn to_go_back_to(now: &BindingRow, then: &VersionRow) -> Option<VersionRow> {
    let replaced = &now.version;
    match (&now.previous, now.mode) {
        (previous, Mode::Canary(_)) => previous.clone(),
        (Some(good), _) if good.answered && !replaced.answered && !then.stands_for(good) => {
            Some(good.clone())
        }
        _ => Some(replaced.clone()),
    }
}
