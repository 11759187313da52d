//! What an organisation's admins ask about their policies. Each call is admitted first, and each refused change is
//! an entry. The operator's orders and agreed changes do not pass here: they are admitted and recorded as such.

use uuid::Uuid;

use super::{
    BindingPatch, BindingView, Digest, Ended, Installed, Manager, NewBinding, NewPlugin, PluginRow, Replay,
    ReplayReport, parse_digest, unwatched,
};
use crate::domain::account::Principal;
use crate::domain::audit::{EventType, Resource};
use crate::domain::{Error, Result};
use crate::service::refusals::{admit_admin, admit_reader, record_refusal};
use crate::service::{RequestContext, Services};

/// A binding after a call that changed it, or asked for a change.
#[derive(Clone, Debug)]
pub struct ChangedBinding {
    /// The binding as it is now.
    pub binding: BindingView,
    /// The approval that the change waits for; nothing is changed then.
    pub approval_id: Option<Uuid>,
}

/// Lists the plugins that the organisation can bind: its own and the node's.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::RateLimited`].
pub async fn list_plugins(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Vec<PluginRow>> {
    let manager = reader(services, principal, context)?;
    super::list_plugins(services, &manager).await
}

/// Finds an installed plugin: the organisation's, otherwise the node's.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::RateLimited`], [`Error::Malformed`], [`Error::NotFound`].
pub fn find_plugin(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    digest: &str,
) -> Result<PluginRow> {
    let manager = reader(services, principal, context)?;
    super::find_plugin(services, &manager, digest)
}

/// Lists the policies that judge the organisation's resets, in the order in which they are asked.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::RateLimited`].
pub async fn list_bindings(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Vec<BindingView>> {
    let manager = reader(services, principal, context)?;
    super::list_bindings(services, &manager).await
}

/// Finds a binding of the organisation or the node.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::RateLimited`], [`Error::NotFound`].
pub fn find_binding(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    id: Uuid,
) -> Result<BindingView> {
    let manager = reader(services, principal, context)?;
    super::find_binding(services, &manager, id)
}

/// Replays a plugin over the organisation's past resets.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::RateLimited`], and as [`replay_plugin`](super::replay_plugin).
pub async fn replay_plugin(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    replay: Result<Replay>,
) -> Result<ReplayReport> {
    let manager = reader(services, principal, context)?;
    super::replay_plugin(services, &manager, replay?, unwatched()).await
}

/// Admits an upload, before its file is read.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::RateLimited`]. Each is recorded in the trail.
pub async fn admit_upload(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<()> {
    let admitted = changer(services, principal, context).and_then(|manager| manager.admit(services));
    let (event_type, unread) = (EventType::PolicyPluginInstall, plugin(None));
    recorded(services, principal, context, event_type, unread, admitted).await
}

/// Installs a plugin file of a caller whom [`admit_upload`] has let in; not counted again.
///
/// # Errors
/// As [`install_plugin`](super::install_plugin). Each is recorded in the trail.
pub async fn install_plugin(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    new: NewPlugin,
) -> Result<Installed> {
    let admin = principal.org_admin()?;
    admin.stepped_up(context.at)?;
    let file = plugin(Some(Digest::of(&new.bytes)));
    let installed = super::install_plugin(services, &Manager::admin(admin, context), new, unwatched()).await;
    if let Err(Error::PluginRefused(_)) = &installed {
        return installed; // recorded already, as a refused file of the operator's is, too
    }
    let event_type = EventType::PolicyPluginInstall;
    recorded(services, principal, context, event_type, file, installed).await
}

/// Removes a plugin of the organisation that no binding uses.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::RateLimited`], and as
/// [`remove_plugin`](super::remove_plugin). Each but [`Error::Malformed`] is recorded in the trail.
pub async fn remove_plugin(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    digest: &str,
) -> Result<()> {
    let attempt = async {
        let manager = changer(services, principal, context)?;
        super::remove_plugin(services, &manager, digest).await
    };
    let (event_type, named) = (EventType::PolicyPluginRemove, plugin(parse_digest(digest).ok()));
    recorded(services, principal, context, event_type, named, attempt.await).await
}

/// Binds an installed plugin to the organisation's resets.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::RateLimited`], and as
/// [`bind_plugin`](super::bind_plugin). Each but [`Error::Malformed`] and [`Error::Validation`] is recorded in the
/// trail.
pub async fn bind_plugin(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    new: Result<NewBinding>,
) -> Result<BindingView> {
    let named = plugin(new.as_ref().ok().map(|new| new.plugin_digest));
    let attempt = async {
        let manager = changer(services, principal, context)?;
        super::bind_plugin(services, &manager, new?).await
    };
    let event_type = EventType::PolicyPluginBind;
    recorded(services, principal, context, event_type, named, attempt.await).await
}

/// Changes a binding of the organisation, or asks another admin to agree to it.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::RateLimited`], and as
/// [`update_binding`](super::update_binding). Each but [`Error::Malformed`] and [`Error::Validation`] is recorded in
/// the trail.
pub async fn update_binding(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    id: Uuid,
    patch: Result<BindingPatch>,
) -> Result<ChangedBinding> {
    let attempt = async {
        let manager = changer(services, principal, context)?;
        let ended = super::update_binding(services, &manager, id, patch?).await?;
        Ok((manager, ended))
    };
    updated(services, principal, context, id, attempt.await).await
}

/// Rolls a binding of the organisation back to its previous version, or asks another admin to agree to it.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::RateLimited`], and as
/// [`roll_back_binding`](super::roll_back_binding). Each is recorded in the trail.
pub async fn roll_back_binding(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    id: Uuid,
) -> Result<ChangedBinding> {
    let attempt = async {
        let manager = changer(services, principal, context)?;
        let ended = super::roll_back_binding(services, &manager, id).await?;
        Ok((manager, ended))
    };
    updated(services, principal, context, id, attempt.await).await
}

/// Removes a binding of the organisation, or asks another admin to agree to it.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::RateLimited`], and as
/// [`unbind_plugin`](super::unbind_plugin). Each is recorded in the trail.
pub async fn unbind_plugin(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    id: Uuid,
) -> Result<Ended<()>> {
    let attempt = async {
        let manager = changer(services, principal, context)?;
        super::unbind_plugin(services, &manager, id).await
    };
    let event_type = EventType::PolicyPluginUnbind;
    recorded(
        services,
        principal,
        context,
        event_type,
        binding(id),
        attempt.await,
    )
    .await
}

fn reader(services: &Services, principal: &Principal, context: &RequestContext) -> Result<Manager> {
    Ok(Manager::admin(admit_reader(services, principal)?, context))
}

/// Changing a policy can open the way to a reset, so it requires the same recent second factor.
fn changer(services: &Services, principal: &Principal, context: &RequestContext) -> Result<Manager> {
    let admin = admit_admin(services, principal, context)?;
    Ok(Manager::admin(admin, context))
}

/// Records a refusal. What is merely written wrongly (400) is none: an author tries until a configuration fits.
async fn recorded<T>(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    event_type: EventType,
    resource: Resource,
    ended: Result<T>,
) -> Result<T> {
    match ended {
        Ok(done) => Ok(done),
        Err(error @ (Error::Malformed(_) | Error::Validation(_))) => Err(error),
        Err(error) => Err(record_refusal(services, principal, context, event_type, resource, error).await),
    }
}

/// Records a refused change of a binding; otherwise returns the binding as it is after the change, or while the change
/// awaits approval.
async fn updated(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    id: Uuid,
    ended: Result<(Manager, Ended<BindingView>)>,
) -> Result<ChangedBinding> {
    let event_type = EventType::PolicyPluginUpdate;
    let ended = recorded(services, principal, context, event_type, binding(id), ended).await;
    Ok(match ended? {
        (_, Ended::Done(binding)) => ChangedBinding {
            binding,
            approval_id: None,
        },
        (manager, Ended::Awaits(approval)) => ChangedBinding {
            binding: super::find_binding(services, &manager, id)?,
            approval_id: Some(approval),
        },
    })
}

fn plugin(digest: Option<Digest>) -> Resource {
    let id = digest.map(|digest| digest.to_string());
    Resource::other("PLUGIN", id.unwrap_or_default(), None)
}

fn binding(id: Uuid) -> Resource {
    Resource::other("POLICY_BINDING", id, None)
}
