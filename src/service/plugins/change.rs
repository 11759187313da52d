//! Bindings are made, changed, rolled back and removed: judged first, then one transaction with its entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::bound::{BindingView, unknown_binding, usable_plugin, view};
use super::install::resource;
use super::{Manager, catch_up, from_json, off_the_path, prepare, to_json};
use crate::domain::account::OrganizationId;
use crate::domain::audit::{Event, EventType};
use crate::domain::policy::{Effect, Grants, Hook, Manifest, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{Digest, Limits, OnFailure, Prepared};
use crate::service::Services;
use crate::store::bindings::{self, BindingRow, VersionRow};
use crate::store::{accounts, audit};

/// How often a change is judged again when somebody else changed the binding meanwhile.
const ATTEMPTS: usize = 3;
/// Policies that one owner may bind: each is asked at every reset.
const BINDINGS_PER_OWNER: usize = 20;

/// What to bind, and how.
#[derive(Clone, Debug)]
pub struct NewBinding {
    /// Whose; absent for every organisation.
    pub owner: Option<OrganizationId>,
    /// Which file.
    pub plugin_digest: Digest,
    /// The configuration, JSON.
    pub config: Value,
    /// Order among the owner's bindings; absent: behind those there are.
    pub position: Option<i64>,
    /// When it is asked; absent: at every hook that it implements.
    pub hooks: Option<Vec<Hook>>,
    /// Whether answers count.
    pub mode: Mode,
    /// What a failure means.
    pub on_failure: OnFailure,
    /// Effects that are granted.
    pub grants: Grants,
    /// What a call may use up.
    pub limits: Limits,
}

/// Changes to a binding: what is absent stays as it is.
#[derive(Clone, Debug, Default)]
pub struct BindingPatch {
    /// Another version of the plugin; the one before stays at hand for rollback.
    pub plugin_digest: Option<Digest>,
    /// The configuration, JSON.
    pub config: Option<Value>,
    /// Order among the owner's bindings.
    pub position: Option<i64>,
    /// When it is asked.
    pub hooks: Option<Vec<Hook>>,
    /// Whether answers count.
    pub mode: Option<Mode>,
    /// What a failure means.
    pub on_failure: Option<OnFailure>,
    /// Effects that are granted.
    pub grants: Option<Grants>,
    /// What a call may use up.
    pub limits: Option<Limits>,
    /// Whether it is switched off.
    pub disabled: Option<bool>,
}

/// Binds an installed plugin. From the next reset on it is asked.
///
/// # Errors
/// [`Error::NotFound`] for an unknown plugin or organisation, [`Error::Validation`] with the path and
/// reason for a configuration that the plugin refuses, [`Error::Conflict`] when there are too many.
pub async fn bind_plugin(services: &Services, manager: &Manager, new: NewBinding) -> Result<BindingView> {
    manager.may_change(new.owner)?;
    manager.admit(services)?;
    let at = manager.at();
    let (plugin, last) = services.store.read(|db| {
        if let Some(id) = new.owner
            && accounts::find_organization(db, id)?.is_none()
        {
            return Err(Error::NotFound {
                what: "Organization",
                id: id.to_string(),
            });
        }
        let plugin = usable_plugin(db, new.plugin_digest, new.owner)?;
        Ok((plugin, bindings::find_last_position(db, new.owner)?))
    })?;
    let hooks = match new.hooks {
        Some(hooks) => hooks,
        None => plugin.manifest.hooks.clone(),
    };
    check_terms(&plugin.manifest, &hooks, new.mode, &new.grants, new.limits)?;
    let config = to_json(&new.config)?;
    let ready = check_config(services, new.plugin_digest, &plugin.manifest, &config).await?;

    let row = BindingRow {
        id: services.entropy.uuid(at),
        organization_id: new.owner,
        version: VersionRow {
            plugin_digest: new.plugin_digest.0,
            config_digest: Digest::of(config.as_bytes()).0,
        },
        previous: None,
        position: new
            .position
            .unwrap_or_else(|| last.map_or(1, |last| last.saturating_add(1))),
        hooks,
        mode: new.mode,
        on_failure: to_json(&new.on_failure)?,
        grants: new.grants,
        limits: to_json(&new.limits)?,
        disabled_at: None,
        created_at: at,
        updated_at: at,
        revision: 0,
    };
    let mut event = named(manager, EventType::PolicyPluginBind, &row, &plugin.manifest);
    for (name, value) in terms(&row)? {
        event = event.with(&name, value);
    }
    let entry_id = services.entropy.uuid(at);
    let kept = services
        .store
        .write(move |tx| {
            if bindings::count_bindings(tx, row.organization_id)? >= BINDINGS_PER_OWNER {
                return Err(Error::Conflict(format!(
                    "At most {BINDINGS_PER_OWNER} policies can be bound: each is asked at every reset"
                )));
            }
            bindings::insert_configuration(tx, &row.version.config_digest, &config, at)?;
            bindings::insert_binding(tx, &row)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(row.clone())
        })
        .await?;
    taken_up(services, kept, ready).await
}

/// Changes a binding: atomic, without a restart, from the next reset on. Calls under way finish on the
/// old version, and what they decided is judged again before it is committed.
///
/// # Errors
/// As [`bind_plugin`]; [`Error::MayNotAct`] for the node's; [`Error::Conflict`] when the organisation
/// wants a clean replay first and this version's is not.
pub async fn update_binding(
    services: &Services,
    manager: &Manager,
    id: Uuid,
    patch: BindingPatch,
) -> Result<BindingView> {
    manager.admit(services)?;
    for _ in 0..ATTEMPTS {
        let now = changeable(services, manager, id)?;
        let changed = patched(services, now.clone(), &patch).await?;
        match commit(services, manager, &now, changed, "update").await {
            Err(Error::Stale) => {} // somebody else changed it meanwhile: judge again
            ended => return ended,
        }
    }
    Err(changed_meanwhile())
}

/// Goes back to the version before, with the configuration that it had; once more undoes that. Needs no
/// replay and compiles nothing anew: it is for when something is wrong.
///
/// # Errors
/// [`Error::NotFound`], [`Error::MayNotAct`] for the node's, [`Error::Conflict`] when there is none.
pub async fn roll_back_binding(services: &Services, manager: &Manager, id: Uuid) -> Result<BindingView> {
    for _ in 0..ATTEMPTS {
        let now = changeable(services, manager, id)?;
        let Some(previous) = now.previous.clone() else {
            return Err(Error::Conflict(
                "There is no version before this one to roll back to".into(),
            ));
        };
        let digest = Digest(previous.plugin_digest);
        let plugin = services
            .store
            .read(|db| usable_plugin(db, digest, now.organization_id))?;
        let mut row = now.clone();
        row.previous = Some(row.version);
        row.version = previous;
        let back = Changed {
            ready: prepare(services, digest).await?,
            manifest: plugin.manifest,
            config: None,
            row,
        };
        match commit(services, manager, &now, back, "rollback").await {
            Err(Error::Stale) => {}
            ended => return ended,
        }
    }
    Err(changed_meanwhile())
}

/// Removes a binding. From the next reset on it is not asked.
///
/// # Errors
/// [`Error::NotFound`], [`Error::MayNotAct`] for the node's.
pub async fn unbind_plugin(services: &Services, manager: &Manager, id: Uuid) -> Result<()> {
    let at = manager.at();
    for _ in 0..ATTEMPTS {
        let now = changeable(services, manager, id)?;
        let owner = now.organization_id;
        let manifest = services
            .store
            .read(|db| crate::store::plugins::find_manifest(db, &now.version.plugin_digest))?
            .ok_or(Error::Stale)?;
        let event = named(manager, EventType::PolicyPluginUnbind, &now, &manifest)
            .with("configDigest", hex::encode(now.version.config_digest));
        let entry_id = services.entropy.uuid(at);
        let removed = services
            .store
            .write(move |tx| {
                bindings::delete_binding(tx, &now, at)?;
                audit::append_entry(tx, at, entry_id, &event).map(|_| ())
            })
            .await;
        match removed {
            Err(Error::Stale) => {}
            Err(error) => return Err(error),
            Ok(()) => {
                catch_up(services, owner).await?;
                services.plugin_host.forget(id);
                return Ok(());
            }
        }
    }
    Err(changed_meanwhile())
}

fn changeable(services: &Services, manager: &Manager, id: Uuid) -> Result<BindingRow> {
    let row = services.store.read(|db| bindings::find_binding(db, id))?;
    let row = row
        .filter(|row| manager.sees(row.organization_id))
        .ok_or_else(|| unknown_binding(id))?;
    manager.may_change(row.organization_id)?;
    Ok(row)
}

/// A binding as it is to be, judged.
struct Changed {
    row: BindingRow,
    manifest: Manifest,
    /// The configuration's text, where it may be new.
    config: Option<String>,
    /// Held until the bindings have it.
    ready: Arc<Prepared>,
}

async fn patched(services: &Services, now: BindingRow, patch: &BindingPatch) -> Result<Changed> {
    let digest = patch.plugin_digest.unwrap_or(Digest(now.version.plugin_digest));
    let switched = digest.0 != now.version.plugin_digest;
    let (plugin, old, kept_config) = services.store.read(|db| {
        Ok((
            usable_plugin(db, digest, now.organization_id)?,
            crate::store::plugins::find_manifest(db, &now.version.plugin_digest)?.ok_or(Error::Stale)?,
            bindings::find_configuration(db, &now.version.config_digest)?.ok_or(Error::Stale)?,
        ))
    })?;
    if plugin.manifest.name != old.name {
        let problem = format!(
            "is a version of {}, this binding is of {}: bind it anew",
            plugin.manifest.name, old.name
        );
        return Err(Error::field("pluginDigest", problem));
    }
    let config = match &patch.config {
        Some(config) => to_json(config)?,
        None => kept_config,
    };
    let mut row = now.clone();
    row.version = VersionRow {
        plugin_digest: digest.0,
        config_digest: Digest::of(config.as_bytes()).0,
    };
    if switched {
        row.previous = Some(now.version);
        // Hooks that the binding left out stay left out; those that the new version adds are asked.
        row.hooks = plugin
            .manifest
            .hooks
            .iter()
            .filter(|hook| now.hooks.contains(hook) || !old.hooks.contains(hook))
            .copied()
            .collect();
    }
    row.position = patch.position.unwrap_or(row.position);
    row.mode = patch.mode.unwrap_or(row.mode);
    if let Some(hooks) = &patch.hooks {
        row.hooks.clone_from(hooks);
    }
    if let Some(grants) = &patch.grants {
        row.grants = grants.clone();
    }
    if let Some(on_failure) = &patch.on_failure {
        row.on_failure = to_json(on_failure)?;
    }
    if let Some(limits) = patch.limits {
        row.limits = to_json(&limits)?;
    }
    if let Some(disabled) = patch.disabled {
        row.disabled_at = if disabled {
            row.disabled_at.or(Some(services.clock.now()))
        } else {
            None
        };
    }
    // What was granted to the version before is not asked about again.
    let asked_for = patch.grants.clone().unwrap_or_default();
    // Nor are hooks that only the version before implements.
    let hooks = match &patch.hooks {
        Some(hooks) => hooks.clone(),
        None => plugin
            .manifest
            .hooks
            .iter()
            .filter(|h| row.hooks.contains(h))
            .copied()
            .collect(),
    };
    check_terms(
        &plugin.manifest,
        &hooks,
        row.mode,
        &asked_for,
        from_json(&row.limits)?,
    )?;
    let ready = check_config(services, digest, &plugin.manifest, &config).await?;
    Ok(Changed {
        row,
        manifest: plugin.manifest,
        config: Some(config),
        ready,
    })
}

/// Writes a change with its entry; a change that changes nothing leaves none.
async fn commit(
    services: &Services,
    manager: &Manager,
    now: &BindingRow,
    changed: Changed,
    verb: &str,
) -> Result<BindingView> {
    let at = manager.at();
    let Changed {
        row,
        manifest,
        config,
        ready,
    } = changed;
    let changes = differences(now, &row)?;
    if changes.is_empty() {
        return view(services, row);
    }
    let event = named(manager, EventType::PolicyPluginUpdate, &row, &manifest)
        .with("verb", verb)
        .with("changes", changes);
    let entry_id = services.entropy.uuid(at);
    let kept = services
        .store
        .write(move |tx| {
            if let Some(config) = &config {
                bindings::insert_configuration(tx, &row.version.config_digest, config, at)?;
            }
            bindings::update_binding(tx, &row, at)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            bindings::find_binding(tx, row.id)?.ok_or(Error::Stale)
        })
        .await?;
    taken_up(services, kept, ready).await
}

async fn taken_up(services: &Services, row: BindingRow, ready: Arc<Prepared>) -> Result<BindingView> {
    catch_up(services, row.organization_id).await?;
    drop(ready);
    view(services, row)
}

/// Judges everything about a binding but its configuration.
fn check_terms(
    manifest: &Manifest,
    hooks: &[Hook],
    mode: Mode,
    grants: &Grants,
    limits: Limits,
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
    for name in grants.iter() {
        must(Effect::NAMES.contains(&name), "grants", &|| {
            format!("{name:?} is no effect; there are {}", Effect::NAMES.join(", "))
        });
        must(
            manifest.wants.iter().any(|wanted| wanted == name),
            "grants",
            &|| {
                format!(
                    "{} does not ask for {name}; it asks for: {}",
                    manifest.name,
                    listed(&manifest.wants)
                )
            },
        );
    }
    if let Some((field, problem)) = out_of_bounds(limits) {
        must(false, &format!("limits.{field}"), &|| problem.clone());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Validation(problems))
    }
}

/// The first limit that the host would have to correct, and how.
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

/// Judges a configuration by the plugin's schema and by the plugin itself; hands back the module, ready.
async fn check_config(
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
            use crate::plugin_host::ConfigError;
            match error {
                ConfigError::Schema { path, reason } if !path.is_empty() => {
                    Error::field(format!("config{}", path.replace('/', ".")), reason)
                }
                ConfigError::Schema { reason, .. } => Error::field("config", reason),
                error => Error::field("config", error.to_string()),
            }
        })?;
    Ok(prepared)
}

/// The trail's words for a binding.
fn named(manager: &Manager, event_type: EventType, row: &BindingRow, manifest: &Manifest) -> Event {
    manager
        .event(event_type, row.organization_id)
        .on(resource(Digest(row.version.plugin_digest), manifest))
        .with("binding", row.id.to_string())
        .with("version", manifest.version.as_str())
}

/// What a binding says, as the trail keeps it; of configurations only the digest.
fn terms(row: &BindingRow) -> Result<Map<String, Value>> {
    let terms = json!({
        "pluginDigest": Digest(row.version.plugin_digest),
        "configDigest": Digest(row.version.config_digest),
        "order": row.position,
        "hooks": row.hooks,
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

fn differences(from: &BindingRow, to: &BindingRow) -> Result<Map<String, Value>> {
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

fn changed_meanwhile() -> Error {
    Error::Conflict("The policy binding was changed at the same time. Try again".into())
}
