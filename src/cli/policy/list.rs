//! What is installed and bound, as the operator reads it.

use anyhow::Result;
use serde_json::Value;

use crate::cli::exit::Refusal;
use crate::cli::output;
use crate::domain::Error;

/// Prints the lists of plugins and bindings.
pub(super) fn print(lists: &Value) -> Result<()> {
    output::line("Installed")?;
    let rows: Vec<_> = items(lists, "plugins")
        .iter()
        .map(|plugin| {
            let digest = text(plugin, "digest");
            [
                text(plugin, "name"),
                text(plugin, "version"),
                digest[..digest.len().min(12)].to_owned(),
                if plugin["disabled"] == true { "off" } else { "on" }.to_owned(),
                text(plugin, "summary"),
            ]
        })
        .collect();
    output::table(["NAME", "VERSION", "DIGEST", "STATE", "SUMMARY"], &rows)?;
    output::line("\nAsked at a reset, in this order")?;
    let rows: Vec<_> = items(lists, "bindings")
        .iter()
        .map(|binding| {
            let off = binding["disabled"] == true || binding["pluginDisabled"] == true;
            [
                match &binding["organization"] {
                    Value::String(slug) => slug.clone(),
                    _ => "(every organisation)".to_owned(),
                },
                binding["position"].to_string(),
                format!("{} {}", text(binding, "plugin"), text(binding, "version")),
                if off {
                    "off".to_owned()
                } else {
                    mode(&binding["mode"])
                },
                text(binding, "id"),
                binding["config"].to_string(),
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

/// Says which version a binding asks.
pub(super) fn version(verb: &str, binding: &Value) -> Result<()> {
    output::line(format_args!(
        "Binding {} {verb} {} {}",
        text(binding, "id"),
        text(binding, "plugin"),
        text(binding, "version")
    ))
}

/// A mode as it is typed.
pub(super) fn mode(mode: &Value) -> String {
    match (mode.as_str(), &mode["canary"]) {
        (Some(mode), _) => mode.to_owned(),
        (None, percent) => format!("canary:{percent}"),
    }
}

/// The digest of the plugin of that name, of several versions the newest, or whose digest begins so.
pub(super) fn find_digest(lists: &Value, name_or_digest: &str) -> Result<String> {
    let plugins = items(lists, "plugins");
    let named = plugins.iter().filter(|plugin| plugin["name"] == name_or_digest);
    if let Some(newest) = named.max_by_key(|plugin| text(plugin, "installedAt")) {
        return Ok(text(newest, "digest"));
    }
    let fits = |digest: &String| name_or_digest.len() >= 6 && digest.starts_with(name_or_digest);
    let mut found: Vec<_> = plugins
        .iter()
        .map(|plugin| text(plugin, "digest"))
        .filter(fits)
        .collect();
    found.dedup(); // the same file of several owners
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::NotFound {
            what: "Plugin",
            id: name_or_digest.to_owned(),
        }
        .into()),
        _ => Err(Refusal(format!("{name_or_digest} fits several plugins")).into()),
    }
}

fn items<'a>(lists: &'a Value, name: &str) -> &'a [Value] {
    lists[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
