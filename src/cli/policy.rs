//! `latchkey plugin install, uninstall, list, config, bind, change, switch, mode, rollback, disable, enable,
//! unbind, replay, decisions, metrics`: the operator's commands. While a server runs, the server carries them
//! out at once. The commands of authors are in `plugin.rs`.

mod bind;
mod decisions;
mod install;
mod list;
mod replay;
mod terms;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use super::exit::Refusal;
use super::{Global, files, orders, output};
use crate::domain::policy::Mode;
use crate::service::plugins::PolicyOrder;
use bind::{Bind, Change};
use install::Install;
use replay::Replay;
use terms::mode;

/// The operator's plugin commands.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Check, compile and install a plugin. It is asked only once it is bound.
    ///
    /// A large plugin takes seconds to compile; progress is shown on standard error.
    #[command(after_help = "Examples:\n  latchkey plugin install office-hours.wasm\n  \
                            latchkey plugin install theirs.wasm --org acme\n  \
                            latchkey plugin install theirs.wasm --signature theirs.wasm.minisig --public-key author.pub")]
    Install(Install),
    /// Remove an installed plugin that no binding uses, neither as its current nor as its previous version.
    ///
    /// Its past decisions can still be replayed until they expire.
    #[command(
        visible_alias = "remove",
        after_help = "Examples:\n  latchkey plugin uninstall office-hours\n  \
                            latchkey plugin uninstall 2c26b46b --org acme --json"
    )]
    Uninstall {
        /// Name of the plugin, if one version of it is installed, or the beginning of its digest, at least 4
        /// digits.
        plugin: String,
        /// Organisation that the plugin is installed for [default: the node, for every organisation].
        #[arg(long, value_name = "SLUG")]
        org: Option<String>,
        /// Print the removed plugin as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List installed plugins, and the bindings in the order in which they are asked.
    #[command(after_help = "Examples:\n  latchkey plugin list\n  latchkey plugin list --org acme --json")]
    List {
        /// Show only what this organisation can bind and what its resets ask: its own and the node's.
        #[arg(long, value_name = "SLUG")]
        org: Option<String>,
        /// Print the lists as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print a bound configuration by its digest: the text behind a digest in the audit trail.
    ///
    /// A configuration is kept for as long as a binding uses it or a decision made with it can be replayed.
    /// The digest is the SHA-256 of the text, without the newline at its end.
    #[command(after_help = "Examples:\n  latchkey plugin config 9f86d081884c\n  \
                            latchkey plugin config 9f86d081884c > earlier.json    # for --config @earlier.json")]
    Config {
        /// Digest of the configuration, or the beginning of it, at least 8 digits: shown by `latchkey plugin
        /// list` and as `configDigest` in the trail.
        digest: String,
    },
    /// Print counters of the bindings since the server started, in the Prometheus text format.
    ///
    /// Calls, denials, failures by cause, and durations; by plugin, version and digest.
    #[command(after_help = "Examples:\n  latchkey plugin metrics > /var/lib/node_exporter/latchkey.prom")]
    Metrics,
    /// Bind an installed plugin, so that it judges the resets of an organisation.
    ///
    /// The configuration is checked against the plugin's schema and by the plugin itself. Of the effects that
    /// the plugin requests, it gets those granted here, and no others. Defaults: the configuration is {}; the
    /// position is after all existing policies; the hooks are all that the plugin has; no effect is granted;
    /// answers are enforced; every failure denies the reset.
    #[command(
        after_help = "Examples:\n  latchkey plugin bind office-hours --org acme --config '{\"from\":\"08:00\"}'\n  \
                            latchkey plugin bind force-reenrollment --org acme --config @forced.json \\\n      \
                            --hook after-reset --grant require-enrolment --position 20\n  \
                            latchkey plugin bind new-rule --every-org --mode monitor \\\n      \
                            --on-failure deny --on-failure deadline=skip --limit deadline-ms=20"
    )]
    Bind(Bind),
    /// Change a binding: position, hooks, grants, limits, failure actions, mode, configuration.
    ///
    /// Takes effect with the next reset. Options that are not given stay unchanged. Hooks, grants and
    /// configuration are replaced as a whole; limits and failure actions are changed one by one. To change
    /// the version of the plugin, use latchkey plugin switch.
    #[command(
        override_usage = "latchkey plugin change [OPTIONS] <BINDING>",
        after_help = "Examples:\n  latchkey plugin change 0197… --position 5\n  \
                            latchkey plugin change 0197… --config @new.json --limit deadline-ms=20\n  \
                            latchkey plugin change 0197… --on-failure trap=last-good-version\n  \
                            latchkey plugin change 0197… --on-failure deny    # for every cause, replacing earlier rules\n  \
                            latchkey plugin change 0197… --hook before-reset --no-grants --json"
    )]
    Change(Change),
    /// Switch a binding to another installed version of its plugin; the previous one stays available for a
    /// rollback.
    #[command(after_help = "Examples:\n  latchkey plugin switch 0197… office-hours\n  \
                            latchkey plugin switch 0197… 2c26b46b --config @new.json")]
    Switch {
        /// Id of the binding (UUID), as shown by `latchkey plugin list`.
        #[arg(value_parser = binding_id)]
        binding: Uuid,
        /// Name of the plugin (its newest version, the node's or the organisation's own), or the beginning of
        /// its digest, at least 4 digits.
        plugin: String,
        /// Configuration: JSON, or a file that holds it [default: unchanged].
        #[arg(long, value_name = "JSON|@FILE|FILE")]
        config: Option<String>,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set whether the answers of a binding are enforced or only recorded.
    #[command(after_help = "Examples:\n  latchkey plugin mode 0197… monitor\n  \
                            latchkey plugin mode 0197… canary:10\n  latchkey plugin mode 0197… enforce")]
    Mode {
        /// Id of the binding (UUID), as shown by `latchkey plugin list`.
        #[arg(value_parser = binding_id)]
        binding: Uuid,
        /// enforce, monitor (answers are recorded but decide nothing), or canary:10 (enforced for 10 % of the
        /// users; for the others the previous version is asked, so an enforced binding needs one).
        #[arg(value_parser = mode)]
        mode: Mode,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Return a binding to its previous version, with the configuration that it had.
    ///
    /// Another file is another version, and so is another configuration. The previous version is the last one
    /// that answered without failing while enforced: one that never answered, or was tried only on a canary's
    /// share, does not take its place. `latchkey plugin list` shows which it is, with its digests.
    #[command(
        after_help = "Examples:\n  latchkey plugin rollback 0197…    # a second rollback undoes the first, unless it ended a canary"
    )]
    Rollback {
        /// Id of the binding (UUID), as shown by `latchkey plugin list`.
        #[arg(value_parser = binding_id)]
        binding: Uuid,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Replay the decisions of past resets with a candidate, and show which would differ.
    ///
    /// Exits with 0 if none differs and all could be replayed; with 1 if some differ, not all could be
    /// replayed, or there was nothing to compare. Changes nothing.
    #[command(after_help = "Examples:\n  latchkey plugin replay new.wasm --since 30d\n  \
                            latchkey plugin replay new.wasm --since 2026-01-01T00:00:00Z --org acme --json")]
    Replay(Replay),
    /// Show what the policies were asked at a reset and what each answered, with its log, its resource usage
    /// and the configuration that decided.
    ///
    /// Decisions are kept with the entry that records the reset, for as long as they can be replayed.
    #[command(
        after_help = "Examples:\n  latchkey plugin decisions 019c7063-9f40-7cc3-98c4-dc0c0c07398f\n  \
                            latchkey plugin decisions 019c7063-9f40-7cc3-98c4-dc0c0c07398f --json"
    )]
    Decisions {
        /// Id of the audit entry of the reset (UUID), as the trail shows it.
        entry: Uuid,
        /// Print the question and the answers as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a binding.
    #[command(after_help = "Examples:\n  latchkey plugin unbind 0197…")]
    Unbind {
        /// Id of the binding (UUID), as shown by `latchkey plugin list`.
        #[arg(value_parser = binding_id)]
        binding: Uuid,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Disable a binding, which keeps its position and configuration, or a plugin wherever it is bound.
    ///
    /// The emergency switch: works whether or not a server runs, takes effect with the next reset, and needs
    /// neither the plugin nor a second admin.
    #[command(after_help = "Examples:\n  latchkey plugin disable 0197…\n  \
                            latchkey plugin disable --plugin office-hours    # wherever it is bound")]
    Disable(Which),
    /// Enable a disabled binding, or a plugin wherever it is bound.
    #[command(after_help = "Examples:\n  latchkey plugin enable 0197…")]
    Enable(Which),
}

/// A binding, or a plugin wherever it is bound.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["binding", "plugin"])))]
pub(super) struct Which {
    /// Id of the binding (UUID), as shown by `latchkey plugin list`.
    #[arg(value_parser = binding_id)]
    binding: Option<Uuid>,
    /// Instead of a binding: one version of a plugin, wherever it is bound. Its name, if no other version is
    /// installed, or the beginning of its digest, at least 4 digits.
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Parses the id of a binding. The name of a plugin does not identify one: a plugin can be bound more than
/// once.
fn binding_id(text: &str) -> Result<Uuid, &'static str> {
    text.parse()
        .map_err(|_| "a binding is named by its id, a UUID that `latchkey plugin list` shows")
}

impl PolicyCommand {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let order = |order| orders::carry_out(global, order);
        match self {
            Self::Install(install) => install.run(global),
            Self::Bind(bind) => bind.run(order),
            Self::Change(change) => change.run(order),
            Self::Replay(replay) => replay.run(global),
            Self::Uninstall { plugin, org, json } => {
                let gone = order(PolicyOrder::Uninstall {
                    plugin,
                    organization: org,
                })?;
                let [name, version, digest] =
                    ["name", "version", "digest"].map(|key| gone[key].as_str().unwrap_or_default());
                done(
                    json,
                    &gone,
                    format_args!("{name} {version} removed, SHA-256 {digest}"),
                )
            }
            Self::List { org, json } => {
                let lists = order(PolicyOrder::List { organization: org })?;
                if json {
                    output::json(&lists)
                } else {
                    list::print(&lists)
                }
            }
            Self::Config { digest } => {
                let found = order(PolicyOrder::Config { digest })?;
                let config = found["config"].as_str().unwrap_or_default();
                // Redirected output is the exact text: its digest is the one that was asked for.
                if io::stdout().is_terminal() {
                    output::line(output::escaped(config))
                } else {
                    output::line(config)
                }
            }
            Self::Decisions { entry, json } => {
                let found = order(PolicyOrder::Decisions { entry })?;
                if json {
                    output::json(&found)
                } else {
                    decisions::print(&found)
                }
            }
            Self::Metrics => {
                let text = order(PolicyOrder::Metrics)?;
                output::line(text.as_str().unwrap_or_default().trim_end())
            }
            Self::Switch {
                binding,
                plugin,
                config: given,
                json,
            } => {
                let config = given.as_deref().map(config).transpose()?;
                let now = order(PolicyOrder::SetVersion {
                    binding,
                    plugin,
                    config,
                })?;
                let verb = match now["changed"] == false {
                    true => "already asks",
                    false => "now asks",
                };
                done(json, &now, list::version(verb, &now))?;
                warn(&now)
            }
            Self::Mode { binding, mode, json } => {
                let now = order(PolicyOrder::SetMode { binding, mode })?;
                let mode = list::mode(&now["mode"]);
                done(json, &now, format_args!("Binding {binding}: {mode}"))?;
                warn(&now)
            }
            Self::Rollback { binding, json } => {
                let now = order(PolicyOrder::RollBack { binding })?;
                done(json, &now, list::version("asks again", &now))
            }
            Self::Unbind { binding, json } => {
                let gone = order(PolicyOrder::Unbind { binding })?;
                done(json, &gone, format_args!("Binding {binding} removed"))
            }
            Self::Disable(which) => which.switch(true, order),
            Self::Enable(which) => which.switch(false, order),
        }
    }
}

impl Which {
    fn switch(self, off: bool, order: impl Fn(PolicyOrder) -> Result<Value>) -> Result<()> {
        let how = if off { "off" } else { "on" };
        match (self.binding, self.plugin) {
            (Some(binding), _) => {
                let now = order(PolicyOrder::Switch { binding, off })?;
                done(self.json, &now, format_args!("Binding {binding} switched {how}"))
            }
            (None, Some(plugin)) => {
                let switched = order(PolicyOrder::SwitchPlugin { plugin, off })?;
                let digest = switched["digest"].as_str().unwrap_or_default();
                let text = format!("Plugin {digest} switched {how} for everybody");
                done(self.json, &switched, text)
            }
            (None, None) => Err(Refusal("name a binding or a plugin".to_owned()).into()),
        }
    }
}

/// Prints the result, as JSON or as text.
fn done(json: bool, now: &Value, text: impl std::fmt::Display) -> Result<()> {
    if json {
        output::json(now)
    } else {
        output::line(text)
    }
}

/// Prints the warning of a result, if it has one, on standard error.
fn warn(now: &Value) -> Result<()> {
    match now["warning"].as_str() {
        Some(warning) => Ok(writeln!(io::stderr().lock(), "warning: {warning}")?),
        None => Ok(()),
    }
}

/// Returns the strings in a JSON array.
fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Reads a configuration as typed: JSON, @FILE, the path of a file, or - for standard input.
pub(in crate::cli) fn config(given: &str) -> Result<Value> {
    let read = |file: &str| match file {
        "-" => io::read_to_string(io::stdin()).context("standard input can't be read"),
        file => files::text(Path::new(file)),
    };
    let parsed = match given.strip_prefix('@') {
        Some(file) => files::json_of(&read(file)?),
        None if given == "-" => files::json_of(&read(given)?),
        None => match files::json_of(given) {
            Err(_) if Path::new(given).is_file() => files::json_of(&read(given)?),
            parsed => parsed,
        },
    };
    match parsed {
        // In an order to a server, null would mean that no configuration was given.
        Ok(Value::Null) => Err(Refusal("the configuration is null; {} is an empty one".to_owned()).into()),
        Ok(config) => Ok(config),
        Err(_) if named_like_a_file(given) => Err(Refusal(format!(
            "the configuration is not JSON, and there is no file {given}"
        ))
        .into()),
        Err(e) => Err(Refusal(format!(
            "the configuration is not JSON: {e}; it is JSON, @FILE, the path of a file with it, or - for standard input"
        ))
        .into()),
    }
}

/// Returns whether the text looks like the name of a file rather than JSON.
fn named_like_a_file(given: &str) -> bool {
    !given.starts_with('@')
        && given != "-"
        && !Path::new(given).exists()
        && !given.contains(['{', '[', '"', ' ', ':'])
        && given.contains(['.', '/'])
}
