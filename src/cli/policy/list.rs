//! Output of `latchkey plugin list`, and of commands that change a binding.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use crate::cli::output;

/// Prints the lists of plugins and bindings.
pub(super) fn print(lists: &Value) -> Result<()> {
    output::line("Installed")?;
    if items(lists, "plugins").is_empty() {
        output::line("None: latchkey plugin install FILE")?;
    }
    let rows: Vec<_> = items(lists, "plugins")
        .iter()
        .map(|plugin| {
            [
                owner(plugin),
                text(plugin, "name"),
                text(plugin, "version"),
                short(plugin, "digest"),
                if plugin["disabled"] == true { "off" } else { "on" }.to_owned(),
                text(plugin, "summary"),
            ]
        })
        .collect();
    output::table(
        ["ORGANISATION", "NAME", "VERSION", "DIGEST", "STATE", "SUMMARY"],
        &rows,
    )?;
    output::line("\nAsked at a reset, in this order")?;
    if items(lists, "bindings").is_empty() {
        output::line("None: any admin may reset anybody; latchkey plugin bind NAME --org SLUG")?;
    }
    let rows: Vec<_> = items(lists, "bindings")
        .iter()
        .map(|binding| {
            let off = binding["disabled"] == true || binding["pluginDisabled"] == true;
            [
                owner(binding),
                binding["position"].to_string(),
                format!("{} {}", text(binding, "plugin"), text(binding, "version")),
                previous(binding).unwrap_or_else(|| "-".to_owned()),
                if off {
                    "off".to_owned()
                } else {
                    mode(&binding["mode"])
                },
                binding["calls"].to_string(),
                binding["denials"].to_string(),
                failures(binding).to_string(),
                text(binding, "id"),
                short(binding, "digest"),
                short(binding, "configDigest"),
                binding["config"].to_string(),
            ]
        })
        .collect();
    output::table(
        [
            "ORGANISATION",
            "POSITION",
            "PLUGIN",
            "PREVIOUS",
            "STATE",
            "CALLS",
            "DENIALS",
            "FAILURES",
            "BINDING",
            "DIGEST",
            "CONFIG DIGEST",
            "CONFIGURATION",
        ],
        &rows,
    )?;
    for binding in items(lists, "bindings") {
        if let Some(warning) = binding["warning"].as_str() {
            output::line(format!("warning: binding {}: {warning}", text(binding, "id")))?;
        }
    }
    Ok(())
}

/// Returns a line that says which version a binding asks, and its previous version.
pub(super) fn version(verb: &str, binding: &Value) -> String {
    let [id, plugin, version] = ["id", "plugin", "version"].map(|field| text(binding, field));
    // Two bindings of one version may differ only in their configuration.
    let config = short(binding, "configDigest");
    let mut line = format!("Binding {id} {verb} {plugin} {version}, configuration {config}");
    if let Some(previous) = previous(binding) {
        let _ = write!(
            line,
            "\nPrevious: {previous}; to return to it: latchkey plugin rollback {id}"
        );
    }
    line
}

/// Returns the previous version. The digests of file and configuration tell apart two with the same name.
fn previous(binding: &Value) -> Option<String> {
    let version = binding["previous"].as_str()?;
    let [file, config] = ["previousDigest", "previousConfigDigest"].map(|field| short(binding, field));
    Some(format!("{version} (file {file}, configuration {config})"))
}

/// Returns the organisation that owns a plugin or binding.
fn owner(of: &Value) -> String {
    match &of["organization"] {
        Value::String(slug) => slug.clone(),
        _ => "(every organisation)".to_owned(),
    }
}

/// Returns a mode as it is typed on the command line.
pub(super) fn mode(mode: &Value) -> String {
    match (mode.as_str(), &mode["canary"]) {
        (Some(mode), _) => mode.to_owned(),
        (None, percent) => format!("canary:{percent}"),
    }
}

/// Returns the number of failures of all causes.
fn failures(binding: &Value) -> u64 {
    let by_cause = binding["failures"].as_object();
    by_cause
        .into_iter()
        .flatten()
        .filter_map(|(_, count)| count.as_u64())
        .sum()
}

fn items<'a>(lists: &'a Value, name: &str) -> &'a [Value] {
    lists[name].as_array().map_or(&[], Vec::as_slice)
}

/// Returns the first 12 digits of a digest, which are enough to identify it.
fn short(value: &Value, field: &str) -> String {
    text(value, field).chars().take(12).collect()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
