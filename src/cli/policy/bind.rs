//! `latchkey plugin bind`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{config, organization};
use crate::app::App;
use crate::cli::exit::Refusal;
use crate::cli::{output, wait_for};
use crate::domain::Error;
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Grants, Mode};
use crate::plugin_host::{Digest, FailureAction, Limits, OnFailure};
use crate::service::plugins::{Manager, NewBinding, bind_plugin, list_plugins};
use crate::store::plugins::PluginRow;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bind {
    /// Name of the plugin (its newest version), or the beginning of its digest.
    plugin: String,
    /// Whose resets it judges.
    #[arg(long, value_name = "SLUG", required_unless_present = "every_org")]
    org: Option<String>,
    /// It judges the resets of every organisation, before their own plugins.
    #[arg(long, conflicts_with = "org")]
    every_org: bool,
    /// Configuration: JSON, or @FILE.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    config: String,
    /// Place in the order; the lowest is asked first [default: behind those there are].
    #[arg(long)]
    position: Option<i64>,
    /// An effect that it may ask for: require-enrolment, require-enrolment-code, revoke-sessions,
    /// lock-account, notify or annotate. May be given several times.
    #[arg(long, value_name = "EFFECT")]
    grant: Vec<String>,
    /// Whether its answers count: enforce, monitor (recorded only), or canary:10 (for ten users in a
    /// hundred).
    #[arg(long, default_value = "enforce", value_parser = mode, conflicts_with = "monitor")]
    mode: Mode,
    /// The same as --mode monitor.
    #[arg(long)]
    monitor: bool,
    /// What follows when it traps, is too slow or asks for too much.
    #[arg(long, value_enum, default_value = "deny")]
    on_failure: OnFailureName,
    /// How long one call may take, in milliseconds (5–1000).
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u32>,
    /// Print the binding as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnFailureName {
    /// The reset does not happen.
    Deny,
    /// As if the plugin had not been bound.
    Skip,
    /// The version before is asked; without one the reset does not happen.
    LastGoodVersion,
}

/// A mode as it is typed.
pub(super) fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "enforce" => Ok(Mode::Enforce),
        "monitor" => Ok(Mode::Monitor),
        _ => text
            .strip_prefix("canary:")
            .and_then(|percent| percent.trim_end_matches('%').parse().ok())
            .filter(|percent| (1..=99).contains(percent))
            .map(Mode::Canary)
            .ok_or_else(|| "it is enforce, monitor, or canary:N with N from 1 to 99".to_owned()),
    }
}

impl Bind {
    pub(super) fn run(self, app: &App, manager: &Manager) -> Result<()> {
        let owner = organization(app, self.org.as_deref())?;
        let plugins = wait_for(list_plugins(&app.services, manager))?;
        let plugin = find_plugin(&plugins, &self.plugin, owner)?;
        if let Some(effect) = self.grant.iter().find(|effect| !Grants::all().contains(effect)) {
            return Err(Refusal(format!("{effect} is no effect; see latchkey help plugin bind")).into());
        }
        let mut limits = Limits::default();
        if let Some(deadline_ms) = self.deadline_ms {
            limits = Limits {
                deadline_ms,
                ..limits
            }
            .bounded();
        }
        let new = NewBinding {
            owner,
            plugin_digest: Digest(plugin.digest),
            config: config(&self.config)?,
            position: self.position,
            hooks: None,
            mode: if self.monitor { Mode::Monitor } else { self.mode },
            on_failure: OnFailure::always(match self.on_failure {
                OnFailureName::Deny => FailureAction::Deny,
                OnFailureName::Skip => FailureAction::Skip,
                OnFailureName::LastGoodVersion => FailureAction::LastGoodVersion,
            }),
            grants: Grants::of(self.grant.iter().cloned()),
            limits,
        };
        let bound = wait_for(bind_plugin(&app.services, manager, new))?.row.id;
        let (name, version) = (&plugin.manifest.name, &plugin.manifest.version);
        if self.json {
            return output::json(&json!({ "binding": bound, "name": name, "version": version }));
        }
        let whose = self.org.as_deref().unwrap_or("every organisation");
        output::line(format_args!("{name} {version} bound to {whose}, binding {bound}"))?;
        for effect in plugin
            .manifest
            .wants
            .iter()
            .filter(|effect| !self.grant.contains(effect))
        {
            output::line(format_args!(
                "It asks for {effect}, which was not granted (--grant {effect})"
            ))?;
        }
        Ok(())
    }
}

/// The plugin of that name, of several versions the newest, or the one whose digest begins so; the
/// node's and the owner's count.
pub(super) fn find_plugin<'a>(
    plugins: &'a [PluginRow],
    name_or_digest: &str,
    owner: Option<OrganizationId>,
) -> Result<&'a PluginRow> {
    let usable = || {
        plugins
            .iter()
            .filter(|p| p.organization_id.is_none() || p.organization_id == owner)
    };
    let newest = usable()
        .filter(|p| p.manifest.name == name_or_digest)
        .max_by_key(|p| p.installed_at);
    if let Some(newest) = newest {
        return Ok(newest);
    }
    let long_enough = name_or_digest.len() >= 6;
    let mut found = usable().filter(|p| long_enough && hex::encode(p.digest).starts_with(name_or_digest));
    match (found.next(), found.next()) {
        (Some(plugin), None) => Ok(plugin),
        (Some(_), Some(_)) => Err(Refusal(format!("{name_or_digest} fits several plugins")).into()),
        (None, _) => Err(Error::NotFound {
            what: "Plugin",
            id: name_or_digest.to_owned(),
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_they_are_typed() {
        assert_eq!(mode("enforce"), Ok(Mode::Enforce));
        assert_eq!(mode("canary:10"), Ok(Mode::Canary(10)));
        assert_eq!(mode("canary:10%"), Ok(Mode::Canary(10)));
        for bad in ["", "canary", "canary:0", "canary:100", "canary:-1", "Enforce"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
