//! Creates, changes, rolls back and removes bindings: each change is judged, then committed in one transaction
//! with its audit entry.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::governance::{self, Ended};
use super::listing::{BindingView, plugin_to_switch_to, unknown_binding, usable_plugin, view};
use super::patching::{BindingPatch, Changed, patched};
use super::promotion::{self, Gate};
use super::terms::{check_config, check_terms, differences, named, terms};
use super::watching::forget_versions;
use super::{Manager, catch_up, prepare, to_json};
use crate::domain::account::OrganizationId;
use crate::domain::approval::PolicyVerb;
use crate::domain::audit::EventType;
use crate::domain::policy::{Grants, Hook, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{Digest, Limits, OnFailure, Prepared};
use crate::service::Services;
use crate::store::bindings::{self, BindingRow, VersionRow};
use crate::store::{accounts, audit, configurations};

/// How often a change is judged again if the binding was changed in the meantime.
const ATTEMPTS: usize = 3;
/// Maximum policies that one owner may bind: each is asked at every reset.
const BINDINGS_PER_OWNER: usize = 20;

/// A binding to create.
#[derive(Clone, Debug)]
pub struct NewBinding {
    /// Owner of the binding; absent for every organisation.
    pub owner: Option<OrganizationId>,
    /// SHA-256 of the plugin file.
    pub plugin_digest: Digest,
    /// Configuration, JSON.
    pub config: Value,
    /// Position among the owner's bindings; absent: after the existing ones.
    pub position: Option<i64>,
    /// Hooks at which it is asked; absent: all that it implements.
    pub hooks: Option<Vec<Hook>>,
    /// Whether its answers count.
    pub mode: Mode,
    /// What a failure means for the reset.
    pub on_failure: OnFailure,
    /// Effects that are granted.
    pub grants: Grants,
    /// Limits of one call.
    pub limits: Limits,
}

/// Binds an installed plugin. It is asked from the next reset on.
///
/// # Errors
/// [`Error::NotFound`] for an unknown plugin or organisation, [`Error::Validation`] with the path and reason for
/// a configuration that the plugin refuses, [`Error::Conflict`] if the owner has too many bindings.
pub async fn bind_plugin(services: &Services, manager: &Manager, new: NewBinding) -> Result<BindingView> {
    manager.may_change(new.owner)?;
    manager.admit(services)?;
    for _ in 0..ATTEMPTS {
        match bind(services, manager, new.clone()).await {
            Err(Error::Stale) => {} // the policies changed while this one was replayed: judge again
            ended => return ended,
        }
    }
    Err(changed_meanwhile())
}

async fn bind(services: &Services, manager: &Manager, new: NewBinding) -> Result<BindingView> {
    let at = manager.at();
    let (plugin, last) = services.store.read(|db| {
        governance::may_bind(db, manager)?;
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
    check_terms(
        &services.plugin_host,
        &plugin.manifest,
        None,
        &hooks,
        new.mode,
        &new.grants,
        Some(new.limits),
    )?;
    let config = to_json(&new.config)?;
    let ready = check_config(services, new.plugin_digest, &plugin.manifest, &config).await?;

    let row = BindingRow {
        id: services.entropy.uuid(at),
        organization_id: new.owner,
        version: VersionRow {
            plugin_digest: new.plugin_digest.0,
            config_digest: Digest::of(config.as_bytes()).0,
            hooks,
            answered: false,
        },
        previous: None,
        position: new
            .position
            .unwrap_or_else(|| last.map_or(1, |last| last.saturating_add(1))),
        mode: new.mode,
        on_failure: to_json(&new.on_failure)?,
        grants: new.grants,
        limits: to_json(&new.limits)?,
        disabled_at: None,
        approval_demanded_at: None,
        created_at: at,
        updated_at: at,
        revision: 0,
    };
    let gate = promotion::judge(services, manager, None, Some(&row), Some(&config)).await?;
    let mut event = named(manager, EventType::PolicyPluginBind, &row, &plugin.manifest);
    for (name, value) in terms(&row)? {
        event = event.with(&name, value);
    }
    let entry_id = services.entropy.uuid(at);
    let binder = manager.clone();
    let kept = services
        .store
        .write_for(manager.organization(), move |tx| {
            gate.still_open(tx)?;
            binder.still_may(tx)?;
            governance::may_bind(tx, &binder)?;
            usable_plugin(tx, new.plugin_digest, new.owner)?; // it may have been removed meanwhile
            if bindings::count_bindings(tx, row.organization_id)? >= BINDINGS_PER_OWNER {
                return Err(Error::Conflict(format!(
                    "At most {BINDINGS_PER_OWNER} policies can be bound: each is asked at every reset"
                )));
            }
            configurations::insert_configuration(tx, &row.version.config_digest, &config, at)?;
            bindings::insert_binding(tx, &row)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(row.clone())
        })
        .await?;
    taken_up(services, kept, Some(ready)).await
}

/// Changes a binding atomically, without a restart, from the next reset on. Running calls finish on the old
/// version, and their decisions are judged again before they are committed.
///
/// # Errors
/// As [`bind_plugin`]; [`Error::MayNotAct`] for a binding of the node; [`Error::Conflict`] if the organisation
/// requires a clean replay first and this version's is not clean.
pub async fn update_binding(
    services: &Services,
    manager: &Manager,
    id: Uuid,
    patch: BindingPatch,
) -> Result<Ended<BindingView>> {
    manager.admit(services)?;
    for _ in 0..ATTEMPTS {
        let now = changeable(services, manager, id)?;
        let changed = patched(services, now.clone(), &patch).await?;
        let config = changed.config.as_deref();
        let gate = promotion::judge(services, manager, Some(&now), Some(&changed.row), config).await?;
        match commit(services, manager, &now, changed, gate, Verb::Update(&patch)).await {
            // The binding was changed in the meantime.
            Err(Error::Stale) if manager.may_judge_again() => {}
            ended => return ended,
        }
    }
    Err(changed_meanwhile())
}

/// Switches back to the previous version, with its configuration and hooks; a second call undoes the first. A
/// version whose answers counted before needs no replay, and nothing is compiled again, since this is for
/// emergencies. It ends a canary, whose version never decided for everybody and so is not kept for a further
/// rollback.
///
/// # Errors
/// [`Error::NotFound`], [`Error::MayNotAct`] for a binding of the node, [`Error::Conflict`] if there is no
/// previous version or it is switched off.
pub async fn roll_back_binding(
    services: &Services,
    manager: &Manager,
    id: Uuid,
) -> Result<Ended<BindingView>> {
    for _ in 0..ATTEMPTS {
        let now = changeable(services, manager, id)?;
        let Some(previous) = now.previous.clone() else {
            return Err(Error::Conflict(
                "There is no version before this one to roll back to".into(),
            ));
        };
        let digest = Digest(previous.plugin_digest);
        let plugin = services.store.read(|db| plugin_to_switch_to(db, digest, &now))?;
        let mut row = now.clone();
        row.previous = if let Mode::Canary(_) = row.mode {
            // The share belonged to the canary's version. If kept, the version behind it would decide for nearly
            // everybody.
            row.mode = Mode::Enforce;
            None
        } else {
            Some(row.version)
        };
        row.version = previous;
        let back = Changed {
            ready: Some(prepare(services, digest).await?),
            manifest: plugin.manifest,
            config: None,
            row,
        };
        let gate = promotion::judge(services, manager, Some(&now), Some(&back.row), None).await?;
        match commit(services, manager, &now, back, gate, Verb::RollBack).await {
            Err(Error::Stale) if manager.may_judge_again() => {}
            ended => return ended,
        }
    }
    Err(changed_meanwhile())
}

/// Removes a binding. It is not asked from the next reset on.
///
/// # Errors
/// [`Error::NotFound`], [`Error::MayNotAct`] for a binding of the node.
pub async fn unbind_plugin(services: &Services, manager: &Manager, id: Uuid) -> Result<Ended<()>> {
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
        let gate = promotion::judge(services, manager, Some(&now), None, None).await?;
        if governance::asks(services, manager, &now)? {
            let change = governance::wanted(&now, &manifest.name, PolicyVerb::Unbind);
            match governance::ask(services, manager, &now, change).await {
                Err(Error::Stale) => continue,
                asked => return asked.map(Ended::Awaits),
            }
        }
        let (entry_id, agreed_id) = (services.entropy.uuid(at), services.entropy.uuid(at));
        let remover = manager.clone();
        let removed = services
            .store
            .write_for(manager.organization(), move |tx| {
                gate.still_open(tx)?;
                governance::settle(tx, &remover, agreed_id, id)?;
                bindings::delete_binding(tx, &now, at)?;
                audit::append_entry(tx, at, entry_id, &event).map(|_| ())
            })
            .await;
        match removed {
            Err(Error::Stale) if manager.may_judge_again() => {}
            Err(error) => return Err(error),
            Ok(()) => {
                catch_up(services, owner).await?;
                services.plugin_host.forget(id);
                forget_versions(services, id, &[]);
                return Ok(Ended::Done(()));
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
    manager.agreed_to(row.revision)?;
    Ok(row)
}

/// The kind of change to an existing binding.
#[derive(Clone, Copy)]
enum Verb<'a> {
    Update(&'a BindingPatch),
    RollBack,
}

/// Commits a change with its audit entry; a change without effect leaves no entry.
async fn commit(
    services: &Services,
    manager: &Manager,
    now: &BindingRow,
    changed: Changed,
    gate: Gate,
    verb: Verb<'_>,
) -> Result<Ended<BindingView>> {
    let at = manager.at();
    let Changed {
        mut row,
        manifest,
        config,
        ready,
    } = changed;
    let changes = differences(now, &row)?;
    if changes.is_empty() {
        return view(services, row).map(Ended::Done);
    }
    if governance::asks(services, manager, now)? {
        let mut change = governance::wanted(now, &manifest.name, PolicyVerb::RollBack);
        if let Verb::Update(patch) = verb {
            change.verb = PolicyVerb::Update;
            change.patch = json!(patch);
        }
        change.changes = Value::Object(changes);
        return governance::ask(services, manager, now, change)
            .await
            .map(Ended::Awaits);
    }
    let verb = match verb {
        Verb::Update(_) => "update",
        Verb::RollBack => "rollback",
    };
    let event = named(manager, EventType::PolicyPluginUpdate, &row, &manifest)
        .with("verb", verb)
        .with("changes", changes);
    let (entry_id, agreed_id) = (services.entropy.uuid(at), services.entropy.uuid(at));
    let (changer, before) = (manager.clone(), now.clone());
    let digest = Digest(row.version.plugin_digest);
    let switched = digest.0 != now.version.plugin_digest;
    let kept = services
        .store
        .write_for(manager.organization(), move |tx| {
            gate.still_open(tx)?;
            governance::settle(tx, &changer, agreed_id, row.id)?;
            if switched {
                // It may have been removed or switched off meanwhile.
                plugin_to_switch_to(tx, digest, &before)?;
            }
            if let Some(config) = &config {
                configurations::insert_configuration(tx, &row.version.config_digest, config, at)?;
            }
            if let Some(now) = bindings::find_binding(tx, row.id)? {
                row.remember(&now);
            }
            bindings::update_binding(tx, &row, at)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            bindings::find_binding(tx, row.id)?.ok_or(Error::Stale)
        })
        .await?;
    let named: Vec<_> = std::iter::once(&kept.version).chain(&kept.previous).collect();
    forget_versions(services, kept.id, &named);
    taken_up(services, kept, ready).await.map(Ended::Done)
}

async fn taken_up(services: &Services, row: BindingRow, ready: Option<Arc<Prepared>>) -> Result<BindingView> {
    catch_up(services, row.organization_id).await?;
    drop(ready);
    view(services, row)
}

fn changed_meanwhile() -> Error {
    Error::Conflict("The policy binding was changed at the same time. Try again".into())
}
