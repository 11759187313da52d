//! Who has to agree to a change of a bound policy, and how the change waits for them.
//!
//! An admin who could loosen a policy alone would not be bound by it. Binding a further policy needs no
//! agreement, since it can only make a reset harder.

use serde_json::Value;
use uuid::Uuid;

use super::change::{roll_back_binding, unbind_plugin, update_binding};
use super::patching::BindingPatch;
use super::{Manager, from_json};
use crate::domain::account::{May, Principal, may_change_policy};
use crate::domain::approval::{Approval, ApprovalState, PolicyChange, PolicyVerb};
use crate::domain::audit::{EventType, Resource};
use crate::domain::{Error, Result};
use crate::service::deliveries::owe;
use crate::service::mandate::Mandate;
use crate::service::{RequestContext, Services, approvals};
use crate::store::approvals::{insert_approval, update_state};
use crate::store::bindings::{self, BindingRow};
use crate::store::{Connection, Transaction, accounts, audit};

/// How a change of a policy ended.
#[derive(Clone, Debug)]
pub enum Ended<T> {
    /// The change is made.
    Done(T),
    /// Nothing is changed yet: another admin has to agree to the approval with this id.
    Awaits(Uuid),
}

/// Returns whether the manager may change this binding, alone or with another admin.
///
/// # Errors
/// [`Error::MayNotAct`] if only the operator may.
pub(super) fn ruling(db: &Connection, manager: &Manager, binding: &BindingRow) -> Result<May> {
    let Some(mandate) = manager.mandate() else {
        return Ok(May::Yes); // the operator
    };
    let organization = accounts::find_organization(db, mandate.organization)?
        .ok_or_else(|| Error::Internal("the caller's organisation is gone".into()))?;
    may_change_policy(&organization.settings, binding.approval_demanded_at.is_some())
}

/// Checks that the manager may bind a further policy.
///
/// # Errors
/// [`Error::MayNotAct`] if only the operator may.
pub(super) fn may_bind(db: &Connection, manager: &Manager) -> Result<()> {
    let Some(mandate) = manager.mandate() else {
        return Ok(());
    };
    let organization = accounts::find_organization(db, mandate.organization)?
        .ok_or_else(|| Error::Internal("the caller's organisation is gone".into()))?;
    may_change_policy(&organization.settings, false).map(drop)
}

/// Returns whether another admin still has to agree before this change.
pub(super) fn asks(services: &Services, manager: &Manager, binding: &BindingRow) -> Result<bool> {
    let may = services.store.read(|db| ruling(db, manager, binding))?;
    Ok(may == May::WithSecondAdmin && manager.agreement().is_none())
}

/// Checks in the transaction of a change that its manager may still make it, and completes the approval that it
/// was waiting for.
///
/// # Errors
/// As [`ruling`] and [`Mandate::still_holds`]; [`Error::Stale`] if another admin has to agree by now.
pub(super) fn settle(tx: &Transaction<'_>, manager: &Manager, agreed_id: Uuid, binding: Uuid) -> Result<()> {
    manager.still_may(tx)?;
    let row = bindings::find_binding(tx, binding)?.ok_or(Error::Stale)?;
    let Some(agreement) = manager.agreement() else {
        return match ruling(tx, manager, &row)? {
            May::Yes => Ok(()),
            May::WithSecondAdmin => Err(Error::Stale),
        };
    };
    ruling(tx, manager, &row)?;
    let approval = &agreement.approval;
    update_state(tx, approval, ApprovalState::Done, &agreement.all(), manager.at())?;
    if let Some(entry) = manager.agreed_event() {
        audit::append_entry(tx, manager.at(), agreed_id, &entry)?;
    }
    Ok(())
}

/// Asks for another admin's agreement.
///
/// # Errors
/// [`Error::Conflict`] if there is no other admin.
pub(super) async fn ask(
    services: &Services,
    manager: &Manager,
    binding: &BindingRow,
    change: PolicyChange,
) -> Result<Uuid> {
    let mandate = manager.mandate().cloned().ok_or(Error::NotOrgAdmin)?;
    let (organization, requester, admins) = services.store.read(|db| {
        let organization = accounts::find_organization(db, mandate.organization)?.ok_or(Error::Stale)?;
        let requester = accounts::find_user(db, organization.id, mandate.actor)?.ok_or(Error::NotOrgAdmin)?;
        if !accounts::other_admin_exists(db, organization.id, requester.id)? {
            return Err(Error::Conflict(
                "Another administrator would have to agree, and there is none; the operator can change it at \
                 the command line"
                    .into(),
            ));
        }
        let admins = accounts::find_active_admins(db, organization.id)?;
        Ok((organization, requester, admins))
    })?;
    let plugin = change.plugin.clone();
    let approval = approvals::of_policy(services, &mandate, change, manager.at());
    let emails: Vec<_> = admins.into_iter().map(|admin| admin.email).collect();
    let deliveries = approvals::asked_notices(
        services,
        &organization,
        &requester,
        &requester,
        &emails,
        &approval,
    );
    let resource = Resource::other("PLUGIN", hex::encode(binding.version.plugin_digest), Some(plugin));
    let event = manager
        .event(EventType::ApprovalRequest, Some(organization.id))
        .on(resource)
        .with("approvalId", approval.id.to_string())
        .with("wanted", serde_json::json!(approval.wanted));
    let (id, at, entry_id) = (approval.id, manager.at(), services.entropy.uuid(manager.at()));
    let (manager, read) = (manager.clone(), binding.clone());
    services
        .store
        .write_for(manager.organization(), move |tx| {
            manager.still_may(tx)?;
            let now = bindings::find_binding(tx, read.id)?;
            if now.is_none_or(|now| now.revision != read.revision) {
                return Err(Error::Stale);
            }
            insert_approval(tx, &approval)?;
            let entry = audit::append_entry(tx, at, entry_id, &event)?;
            owe(tx, &deliveries, entry.sequence, at)
        })
        .await?;
    Ok(id)
}

/// Carries out a change to which `approver` was the last to agree.
///
/// # Errors
/// [`Error::NotOrgAdmin`] if the admin who asked may no longer; [`Error::Conflict`] if the binding is no longer
/// as agreed; otherwise as the change itself.
pub(in crate::service) async fn carry_out_agreed(
    services: &Services,
    approver: &Principal,
    context: &RequestContext,
    approval: Approval,
    change: PolicyChange,
) -> Result<()> {
    let requester = services
        .store
        .read(|db| accounts::find_user(db, approval.organization_id, approval.requester_id))?
        .ok_or(Error::NotOrgAdmin)?;
    let mandate = Mandate::agreed(approval, approver);
    let manager = Manager::agreed(requester, mandate, change.revision, context);
    let id = change.binding;
    let ended = match change.verb {
        PolicyVerb::Update => {
            let patch: BindingPatch = from_json(&change.patch.to_string())?;
            update_binding(services, &manager, id, patch).await.map(drop)
        }
        PolicyVerb::RollBack => roll_back_binding(services, &manager, id).await.map(drop),
        PolicyVerb::Unbind => unbind_plugin(services, &manager, id).await.map(drop),
    };
    match ended {
        Err(Error::NotFound { .. }) => Err(Error::Conflict("The policy binding is gone".into())),
        ended => ended,
    }
}

/// Returns the part of a change that an approval stores.
pub(super) fn wanted(binding: &BindingRow, plugin: &str, verb: PolicyVerb) -> PolicyChange {
    PolicyChange {
        binding: binding.id,
        revision: binding.revision,
        plugin: plugin.to_owned(),
        verb,
        patch: Value::Null,
        changes: Value::Null,
    }
}
