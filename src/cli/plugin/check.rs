//! `latchkey plugin check` and `latchkey plugin inspect`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{Loaded, bytes, line};
use crate::cli::exit::CodedRefusal;
use crate::cli::files::{self, refused_plugin};
use crate::cli::output;
use crate::domain::policy::Effect;
use crate::plugin_host::{CaseError, Package, embedded_cases, read_package};

/// Arguments of `latchkey plugin check`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  latchkey plugin check target/policy.wasm")]
pub struct Check {
    /// Plugin file: a component, or a core module with the contract inside.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        let loaded = Loaded::open(&self.plugin, false)?;
        let package = read_package(&loaded.bytes).map_err(|error| refused_plugin(&self.plugin, &error))?;
        let manifest = loaded.manifest(&self.plugin)?;
        let cases = embedded_cases(&loaded.bytes).map_err(|error| bad_cases(&self.plugin, &error))?;
        let failed = loaded.host.run_cases(&loaded.prepared, &cases, |_| ());
        let failed = loaded
            .runtime
            .block_on(failed)
            .map_err(|error| bad_cases(&self.plugin, &error))?;
        if let Some(report) = failed {
            let text = format!(
                "{}: a golden case inside fails: {}: {}",
                self.plugin.display(),
                report.description,
                report.differences.join("; ")
            );
            let code = "golden-case-failed";
            return Err(CodedRefusal { text, code }.into());
        }

        let mut facts = facts(&package, &loaded.bytes, cases.len());
        facts["manifest"] = serde_json::to_value(&manifest)?;
        if self.json {
            return output::json(&facts);
        }
        line(format_args!(
            "{} {}: an appliance of this version takes it",
            manifest.name, manifest.version
        ))?;
        line(format_args!("  {}", manifest.summary))?;
        let hooks: Vec<Value> = manifest.hooks.iter().map(|hook| json!(hook)).collect();
        line(format_args!("  hooks     {}", words(&hooks)))?;
        let wants: Vec<Value> = manifest.wants.iter().map(|name| json!(name)).collect();
        line(format_args!("  wants     {}", words(&wants)))?;
        line(format_args!("  history   {} days", manifest.history_days))?;
        print_facts(&facts)?;
        for name in manifest
            .wants
            .iter()
            .filter(|name| !Effect::NAMES.contains(&name.as_str()))
        {
            eprintln!("note: no effect {name:?} is known here, so it would always be refused");
        }
        Ok(())
    }
}

/// Arguments of `latchkey plugin inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  latchkey plugin inspect downloaded.wasm --json")]
pub struct Inspect {
    /// Plugin file.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<()> {
        let bytes = files::plugin(&self.plugin)?;
        let package = read_package(&bytes).map_err(|error| refused_plugin(&self.plugin, &error))?;
        let cases = embedded_cases(&bytes).map_err(|error| bad_cases(&self.plugin, &error))?;
        let facts = facts(&package, &bytes, cases.len());
        if self.json {
            output::json(&facts)
        } else {
            print_facts(&facts)
        }
    }
}

fn bad_cases(plugin: &Path, error: &CaseError) -> CodedRefusal {
    CodedRefusal {
        text: format!("{}: golden cases inside: {error}", plugin.display()),
        code: "golden-cases",
    }
}

fn facts(package: &Package<'_>, bytes: &[u8], cases: usize) -> Value {
    json!({
        "ok": true,
        "sha256": package.digest,
        "bytes": bytes.len(),
        "kind": if package.from_core_module { "core-module" } else { "component" },
        "contract": package.contract.to_string(),
        "imports": package.imports,
        "exports": package.exports,
        "producers": package.producers,
        "goldenCases": cases,
    })
}

fn print_facts(facts: &Value) -> Result<()> {
    let size = facts["bytes"].as_u64().unwrap_or_default();
    line(format_args!(
        "  sha256    {}",
        facts["sha256"].as_str().unwrap_or_default()
    ))?;
    line(format_args!(
        "  size      {} ({})",
        bytes(size),
        facts["kind"].as_str().unwrap_or_default()
    ))?;
    line(format_args!(
        "  contract  latchkey:policy {}",
        facts["contract"].as_str().unwrap_or_default()
    ))?;
    for (name, label) in [
        ("imports", "imports  "),
        ("exports", "exports  "),
        ("producers", "made with"),
    ] {
        let values = facts[name].as_array().map_or(&[][..], Vec::as_slice);
        line(format_args!("  {label} {}", words(values)))?;
    }
    line(format_args!("  cases     {} inside", facts["goldenCases"]))
}

fn words(values: &[Value]) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    values
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
