//! `latchkey plugin bind` and `latchkey plugin change`.

use anyhow::Result;
use clap::Args;
use serde_json::Value;
use uuid::Uuid;

use super::terms::{self, Terms};
use super::{binding_id, list};
use crate::cli::output;
use crate::service::plugins::{BindOrder, PolicyOrder};

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["org", "every_org"])))]
pub(in crate::cli) struct Bind {
    /// Name of the plugin (its newest version), or the beginning of its digest, at least 4 digits.
    plugin: String,
    /// Slug of the organisation whose resets it judges.
    #[arg(long, value_name = "SLUG")]
    org: Option<String>,
    /// Judge the resets of every organisation, before their own plugins.
    #[arg(long)]
    every_org: bool,
    #[command(flatten)]
    terms: Terms,
    /// Print the binding as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args([
    "config", "position", "hook", "grant", "no_grants", "mode", "monitor", "on_failure", "limit", "deadline_ms",
])))]
pub(in crate::cli) struct Change {
    /// Id of the binding (UUID), as shown by `latchkey plugin list`.
    #[arg(value_parser = binding_id)]
    binding: Uuid,
    #[command(flatten)]
    terms: Terms,
    /// Withdraw all grants: it may request no effect any more.
    #[arg(long, conflicts_with = "grant")]
    no_grants: bool,
    /// Print the binding as JSON.
    #[arg(long)]
    json: bool,
}

impl Bind {
    pub(super) fn run(self, carry_out: impl Fn(PolicyOrder) -> Result<Value>) -> Result<()> {
        let granted = self.terms.grant.clone();
        let bound = carry_out(PolicyOrder::Bind(BindOrder {
            plugin: self.plugin,
            organization: self.org.clone(),
            terms: self.terms.order()?,
        }))?;
        let [binding, name, version] = ["binding", "name", "version"].map(|key| bound[key].as_str());
        let [binding, name, version] = [binding, name, version].map(Option::unwrap_or_default);
        if self.json {
            output::json(&bound)?;
            return super::warn(&bound);
        }
        let whose = self.org.as_deref().unwrap_or("every organisation");
        output::line(format_args!(
            "{name} {version} bound to {whose}, binding {binding}"
        ))?;
        for effect in super::texts(&bound["wants"]).filter(|effect| !granted.iter().any(|g| g == effect)) {
            output::line(format_args!(
                "It requests {effect}, which was not granted (--grant {effect})"
            ))?;
        }
        super::warn(&bound)
    }
}

impl Change {
    pub(super) fn run(self, carry_out: impl Fn(PolicyOrder) -> Result<Value>) -> Result<()> {
        let mut terms = self.terms.order()?;
        if self.no_grants {
            terms.grants = Some(Vec::new());
        }
        let changed = carry_out(PolicyOrder::Change {
            binding: self.binding,
            terms,
        })?;
        if self.json {
            output::json(&changed)?;
        } else {
            output::line(list::version("asks", &changed))?;
            terms::print(&changed)?;
        }
        super::warn(&changed)
    }
}
