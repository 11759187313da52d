//! `latchkey plugin bind`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::config;
use crate::cli::exit::Refusal;
use crate::cli::output;
use crate::domain::policy::{Grants, Mode};
use crate::plugin_host::{FailureAction, Limits, OnFailure};
use crate::service::plugins::{BindOrder, PolicyOrder};

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
    pub(super) fn run(self, carry_out: impl Fn(PolicyOrder) -> Result<Value>) -> Result<()> {
        if let Some(effect) = self.grant.iter().find(|effect| !Grants::all().contains(effect)) {
            return Err(Refusal(format!("{effect} is no effect; see latchkey help plugin bind")).into());
        }
        let mut limits = Limits::default();
        if let Some(deadline_ms) = self.deadline_ms {
            limits.deadline_ms = deadline_ms;
        }
        let bound = carry_out(PolicyOrder::Bind(BindOrder {
            plugin: self.plugin,
            organization: self.org.clone(),
            config: config(&self.config)?,
            position: self.position,
            grants: self.grant.clone(),
            mode: if self.monitor { Mode::Monitor } else { self.mode },
            on_failure: OnFailure::always(match self.on_failure {
                OnFailureName::Deny => FailureAction::Deny,
                OnFailureName::Skip => FailureAction::Skip,
                OnFailureName::LastGoodVersion => FailureAction::LastGoodVersion,
            }),
            limits,
        }))?;
        let [binding, name, version] = ["binding", "name", "version"].map(|key| bound[key].as_str());
        let [binding, name, version] = [binding, name, version].map(Option::unwrap_or_default);
        if self.json {
            return output::json(&json!({ "binding": binding, "name": name, "version": version }));
        }
        let whose = self.org.as_deref().unwrap_or("every organisation");
        output::line(format_args!(
            "{name} {version} bound to {whose}, binding {binding}"
        ))?;
        for effect in super::texts(&bound["wants"]).filter(|effect| !self.grant.iter().any(|g| g == effect)) {
            output::line(format_args!(
                "It asks for {effect}, which was not granted (--grant {effect})"
            ))?;
        }
        Ok(())
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
