//! `latchkey plugin install, list, bind, unbind, disable, enable`: plugins over a data directory, while
//! no server runs. The author's commands are in `plugin.rs`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use super::exit::Refusal;
use super::{Global, output, wait_for};
use crate::app::App;
use crate::domain::Error;
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Grants, Mode};
use crate::plugin_host::{Digest, FailureAction, Limits, OnFailure};
use crate::service::operator;
use crate::service::plugins::{
    BindingPatch, Manager, NewBinding, NewPlugin, bind_plugin, install_plugin, list_bindings, list_plugins,
    unbind_plugin, unwatched, update_binding,
};
use crate::store::plugins::PluginRow;

/// What operators do with plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Judge, compile and keep a plugin. It is asked once it is bound.
    #[command(after_help = "Examples:\n  latchkey plugin install office-hours.wasm\n  \
                            latchkey plugin install theirs.wasm --org acme")]
    Install(Install),
    /// Show what is installed, and who is asked in which order.
    List {
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let an organisation's resets be judged by an installed plugin.
    ///
    /// The configuration is checked against the plugin's schema and by the plugin. Of the effects that
    /// the plugin asks for it gets those that are granted here, and no others.
    #[command(
        after_help = "Examples:\n  latchkey plugin bind office-hours --org acme --config '{\"from\":\"08:00\"}'\n  \
                            latchkey plugin bind force-reenrollment --org acme --config @forced.json \\\n      \
                            --grant require-enrolment --position 20\n  \
                            latchkey plugin bind new-rule --every-org --config '{}' --monitor"
    )]
    Bind(Bind),
    /// Remove a binding.
    Unbind {
        /// Id of the binding, as `latchkey plugin list` shows it.
        #[arg(value_parser = binding_id)]
        binding: Uuid,
    },
    /// Switch a binding off; it keeps its place and configuration.
    Disable {
        /// Id of the binding, as `latchkey plugin list` shows it.
        #[arg(value_parser = binding_id)]
        binding: Uuid,
    },
    /// Switch a binding on again.
    Enable {
        /// Id of the binding, as `latchkey plugin list` shows it.
        #[arg(value_parser = binding_id)]
        binding: Uuid,
    },
}

/// A plugin's name is no id: it can be bound more than once.
fn binding_id(text: &str) -> Result<Uuid, &'static str> {
    text.parse()
        .map_err(|_| "a binding is named by its id, a UUID that `latchkey plugin list` shows")
}

#[derive(Debug, Args)]
pub(super) struct Install {
    /// The plugin: a component, or a core module that becomes one.
    file: PathBuf,
    /// Its signature (minisign format), where the node demands one.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Only this organisation may bind it.
    #[arg(long, value_name = "SLUG")]
    org: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Bind {
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
    /// Ask it and record its answer, but don't apply it.
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
}

impl PolicyCommand {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let app = global.open()?;
        let manager = Manager::operator(&app.services);
        match self {
            Self::Install(install) => install.run(&app, &manager),
            Self::List { json } => list(&app, &manager, json),
            Self::Bind(bind) => bind.run(&app, &manager),
            Self::Unbind { binding } => {
                wait_for(unbind_plugin(&app.services, &manager, binding))?;
                output::line(format_args!("Binding {binding} removed"))
            }
            Self::Disable { binding } => {
                wait_for(update_binding(
                    &app.services,
                    &manager,
                    binding,
                    switched_off(true),
                ))?;
                output::line(format_args!("Binding {binding} switched off"))
            }
            Self::Enable { binding } => {
                wait_for(update_binding(
                    &app.services,
                    &manager,
                    binding,
                    switched_off(false),
                ))?;
                output::line(format_args!("Binding {binding} switched on"))
            }
        }
    }
}

fn switched_off(disabled: bool) -> BindingPatch {
    BindingPatch {
        disabled: Some(disabled),
        ..BindingPatch::default()
    }
}

impl Install {
    fn run(self, app: &App, manager: &Manager) -> Result<()> {
        let bytes = fs::read(&self.file).with_context(|| format!("{} can't be read", self.file.display()))?;
        let signature = match &self.signature {
            Some(file) => {
                Some(fs::read_to_string(file).with_context(|| format!("{} can't be read", file.display()))?)
            }
            None => None,
        };
        let owner = organization(app, self.org.as_deref())?;
        let new = NewPlugin {
            owner,
            bytes: bytes.into(),
            signature,
        };
        let installed = wait_for(install_plugin(&app.services, manager, new, unwatched()))?.plugin;
        let digest = hex::encode(installed.digest);
        let (name, version) = (&installed.manifest.name, &installed.manifest.version);
        if self.json {
            return output::json(&json!({ "name": name, "version": version, "digest": digest }));
        }
        output::line(format_args!("{name} {version} installed, SHA-256 {digest}"))?;
        if !installed.manifest.wants.is_empty() {
            output::line(format_args!(
                "It asks for: {}",
                installed.manifest.wants.join(", ")
            ))?;
        }
        output::line(format_args!(
            "Next: latchkey plugin bind {name} --org SLUG --config JSON"
        ))
    }
}

impl Bind {
    fn run(self, app: &App, manager: &Manager) -> Result<()> {
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
            mode: if self.monitor {
                Mode::Monitor
            } else {
                Mode::Enforce
            },
            on_failure: OnFailure::always(match self.on_failure {
                OnFailureName::Deny => FailureAction::Deny,
                OnFailureName::Skip => FailureAction::Skip,
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
fn find_plugin<'a>(
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

fn organization(app: &App, slug: Option<&str>) -> Result<Option<OrganizationId>> {
    Ok(slug
        .map(|slug| operator::find_organization(&app.services, slug))
        .transpose()?
        .map(|o| o.id))
}

fn config(given: &str) -> Result<Value> {
    let text = match given.strip_prefix('@') {
        Some(file) => fs::read_to_string(file).with_context(|| format!("{file} can't be read"))?,
        None => given.to_owned(),
    };
    serde_json::from_str(&text).map_err(|e| Refusal(format!("the configuration is not JSON: {e}")).into())
}

fn list(app: &App, manager: &Manager, as_json: bool) -> Result<()> {
    let plugins = wait_for(list_plugins(&app.services, manager))?;
    let bindings = wait_for(list_bindings(&app.services, manager))?;
    let organizations = operator::list_organizations(&app.services)?;
    let slug = |id: Option<OrganizationId>| {
        let of = organizations.iter().find(|o| Some(o.organization.id) == id);
        of.map(|o| o.organization.slug.clone())
    };
    if as_json {
        let plugins: Vec<_> = plugins
            .iter()
            .map(|p| {
                json!({
                    "name": p.manifest.name, "version": p.manifest.version, "digest": hex::encode(p.digest),
                    "summary": p.manifest.summary, "hooks": p.manifest.hooks, "wants": p.manifest.wants,
                    "organization": slug(p.organization_id), "sizeBytes": p.size_bytes,
                    "installedAt": p.installed_at, "disabled": p.disabled_at.is_some(),
                })
            })
            .collect();
        let bindings: Vec<_> = bindings
            .iter()
            .map(|b| {
                json!({
                    "id": b.row.id, "organization": slug(b.row.organization_id), "position": b.row.position,
                    "plugin": b.version.manifest.name, "version": b.version.manifest.version,
                    "digest": hex::encode(b.version.digest.0), "config": b.version.config,
                    "disabled": b.row.disabled_at.is_some(),
                })
            })
            .collect();
        return output::json(&json!({ "plugins": plugins, "bindings": bindings }));
    }
    output::line("Installed")?;
    let rows: Vec<_> = plugins
        .into_iter()
        .map(|p| {
            let digest = hex::encode(&p.digest[..6]);
            [p.manifest.name, p.manifest.version, digest, p.manifest.summary]
        })
        .collect();
    output::table(["NAME", "VERSION", "DIGEST", "SUMMARY"], &rows)?;
    output::line("\nAsked at a reset, in this order")?;
    let rows: Vec<_> = bindings
        .into_iter()
        .map(|b| {
            [
                slug(b.row.organization_id).unwrap_or_else(|| "(every organisation)".to_owned()),
                b.row.position.to_string(),
                b.version.manifest.name,
                if b.row.disabled_at.is_some() { "off" } else { "on" }.to_owned(),
                b.row.id.to_string(),
                b.version.config.to_string(),
            ]
        })
        .collect();
    output::table(
        [
            "ORGANISATION",
            "POSITION",
            "PLUGIN",
            "STATE",
            "BINDING",
            "CONFIGURATION",
        ],
        &rows,
    )
}
