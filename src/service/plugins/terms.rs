//! Checks the terms of a binding, and renders them for the trail.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::install::resource;
use super::{Manager, from_json, off_the_path, prepare};
use crate::domain::audit::{Event, EventType};
use crate::domain::policy::{Effect, Grants, Hook, Manifest, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{ConfigError, Digest, Limits, PluginHost, Prepared};
use crate::service::Services;
use crate::store::bindings::BindingRow;

/// Checks everything about a binding but its configuration. Each granted effect must be wanted by its version or
/// by the previous one, which may be asked too. `limits` are absent if they stay as they are.
pub(super) fn check_terms(
    host: &PluginHost,
    manifest: &Manifest,
    before: Option<&Manifest>,
    hooks: &[Hook],
    mode: Mode,
    grants: &Grants,
    limits: Option<Limits>,
) -> Result<()> {
    let mut problems = BTreeMap::new();
    let mut must = |holds: bool, field: &str, problem: &dyn Fn() -> String| {
        if !holds {
            problems.entry(field.to_owned()).or_insert_with(problem);
        }
    };
    must(!hooks.is_empty(), "hooks", &|| {
        "names none, so it would never be asked".into()
    });
    for hook in hooks {
        must(manifest.hooks.contains(hook), "hooks", &|| {
            format!("{} does not implement {}", manifest.name, json!(hook))
        });
    }
    if let Mode::Canary(percent) = mode {
        must((1..=99).contains(&percent), "canaryPercent", &|| {
            "must be 1 to 99".into()
        });
    }
    let mut wants = manifest.wants.clone();
    wants.extend(before.into_iter().flat_map(|before| before.wants.iter().cloned()));
    wants.sort_unstable();
    wants.dedup();
    for name in grants.iter() {
        must(Effect::NAMES.contains(&name), "grants", &|| {
            format!(
                "{name:?} is not an effect; the effects are {}",
                Effect::NAMES.join(", ")
            )
        });
        must(wants.iter().any(|wanted| wanted == name), "grants", &|| {
            format!(
                "{} does not ask for {name}; it asks for: {}",
                manifest.name,
                listed(&wants)
            )
        });
    }
    must(
        limits.is_none_or(|limits| host.applies(limits)),
        "limits.fuel",
        &|| {
            "is not counted on this node, so it would limit nothing: 0, unless its operator switches \
         plugins.count_fuel on"
                .into()
        },
    );
    if let Some((field, problem)) = limits.and_then(out_of_bounds) {
        must(false, &format!("limits.{field}"), &|| problem.clone());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Validation(problems))
    }
}

/// Returns the first limit that the host would have to clamp, and how.
fn out_of_bounds(limits: Limits) -> Option<(String, String)> {
    let fields = |limits: Limits| match json!(limits) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let bounded = fields(limits.bounded());
    fields(limits).into_iter().find_map(|(field, value)| {
        let nearest = &bounded[&field];
        (*nearest != value).then(|| {
            (
                field,
                format!("{value} is out of bounds; the nearest allowed is {nearest}"),
            )
        })
    })
}

/// Checks a configuration by the plugin's schema and by the plugin itself; returns the module, ready to call.
pub(super) async fn check_config(
    services: &Services,
    digest: Digest,
    manifest: &Manifest,
    config: &str,
) -> Result<Arc<Prepared>> {
    let prepared = prepare(services, digest).await?;
    let (host, manifest, config) = (services.plugin_host.clone(), manifest.clone(), config.to_owned());
    let module = Arc::clone(&prepared);
    off_the_path(move || async move { host.check_config(&module, &manifest, &config).await })
        .await?
        .map_err(|error| {
            let (field, reason) = config_problem(error);
            Error::field(field, reason)
        })?;
    Ok(prepared)
}

/// Returns where a configuration is wrong, and why.
pub(super) fn config_problem(error: ConfigError) -> (String, String) {
    match error {
        ConfigError::Schema { path, reason } if !path.is_empty() => {
            (format!("config{}", path.replace('/', ".")), reason)
        }
        ConfigError::Schema { reason, .. } => ("config".to_owned(), reason),
        error => ("config".to_owned(), error.to_string()),
    }
}

/// Returns an audit event that describes a binding.
pub(super) fn named(
    manager: &Manager,
    event_type: EventType,
    row: &BindingRow,
    manifest: &Manifest,
) -> Event {
    manager
        .event(event_type, row.organization_id)
        .on(resource(Digest(row.version.plugin_digest), manifest))
        .with("binding", row.id.to_string())
        .with("version", manifest.version.as_str())
}

/// Returns the terms of a binding as the trail keeps them; of configurations only the digest.
pub(super) fn terms(row: &BindingRow) -> Result<Map<String, Value>> {
    let terms = json!({
        "pluginDigest": Digest(row.version.plugin_digest),
        "configDigest": Digest(row.version.config_digest),
        "order": row.position,
        "hooks": row.version.hooks,
        "mode": row.mode,
        "onFailure": from_json::<Value>(&row.on_failure)?,
        "grants": row.grants,
        "limits": from_json::<Value>(&row.limits)?,
        "disabled": row.disabled_at.is_some(),
    });
    match terms {
        Value::Object(terms) => Ok(terms),
        _ => Err(Error::Internal("an object is an object".into())),
    }
}

pub(super) fn differences(from: &BindingRow, to: &BindingRow) -> Result<Map<String, Value>> {
    let (from, to) = (terms(from)?, terms(to)?);
    let changed = to.into_iter().filter(|(name, value)| from[name] != *value);
    Ok(changed
        .map(|(name, value)| (name.clone(), json!({ "from": from[&name], "to": value })))
        .collect())
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}
