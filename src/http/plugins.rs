//! Policy plugins and their bindings, for the admins of an organisation. What the node's operator
//! installed and bound is shown and can't be changed here.

mod bodies;
mod decisions;
mod replay;
mod upload;
mod words;

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::{Header, Path};
use poem_openapi::{ApiResponse, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::Context;
use super::users::AwaitsApprovalBody;
use crate::domain::account::Principal;
use crate::domain::{Error, Result};
use crate::service::plugins::{self, BindingView, Ended, Manager, NewPlugin};
use crate::service::{RequestContext, Services};
use bodies::{BindingBody, BindingPatchBody, BindingRequest, PluginBody};
pub use decisions::DecisionsBody;
use replay::{ReplayReportBody, ReplayRequest};
pub use upload::is_upload;
use upload::{Upload, UploadTurns, signature_text};

/// Policies.
#[derive(Default)]
pub struct PluginApi {
    uploads: UploadTurns,
}

/// What installing ended in.
#[derive(ApiResponse)]
enum InstallReply {
    /// The plugin is installed.
    #[oai(status = 201)]
    New(J<PluginBody>),
    /// It was installed already; nothing has been changed, but for `signedBy` where a signature came that counts.
    #[oai(status = 200)]
    There(J<PluginBody>),
}

#[derive(ApiResponse)]
enum BoundReply {
    /// The plugin is bound: from the next reset on it is asked.
    #[oai(status = 201)]
    Bound(J<BindingBody>),
}

#[derive(ApiResponse)]
enum Gone {
    /// It is removed.
    #[oai(status = 204)]
    Done,
}

#[derive(ApiResponse)]
enum Changed {
    /// It is changed: from the next reset on that holds.
    #[oai(status = 200)]
    Done(J<BindingBody>),
    /// Another admin has to agree; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<BindingBody>),
}

#[derive(ApiResponse)]
enum Unbound {
    /// It is removed: from the next reset on it is not asked.
    #[oai(status = 204)]
    Done,
    /// Another admin has to agree; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<AwaitsApprovalBody>),
}

type ReadErrors = ApiErr<{ SECURED | S400 | S404 }>;
type Errors = ApiErr<{ SECURED | S400 | S404 | S409 | S429 | BODY }>;

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Policies")]
impl PluginApi {
    /// Install a plugin for the organisation.
    ///
    /// The body is the plugin file: a WebAssembly component, or a core module that holds the contract.
    /// It is judged, compiled (seconds for a large one) and its golden cases are run before anything is
    /// stored; a refusal says what is wrong and ends in a stable word in brackets. The same file again
    /// changes nothing. Requires the role `ORG_ADMIN`.
    #[oai(path = "/plugins", method = "post", operation_id = "installPlugin")]
    async fn install_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The file's minisign signature (the `.minisig` file), base64. Required where the operator
        /// configured trusted keys.
        #[oai(name = "X-Plugin-Signature", validator(max_length = 4096))]
        signature: Header<Option<String>>,
        upload: Upload,
    ) -> Result<InstallReply, Errors> {
        let manager = change(&caller.0, &context.0)?;
        let signature = signature.0.as_deref().map(signature_text).transpose()?;
        // Before anything of the file is read, and before it takes a turn from anybody.
        manager.admit(&services)?;
        let turn = self.uploads.take(caller.0.organization.id)?;
        let new = NewPlugin {
            owner: Some(caller.0.organization.id),
            bytes: upload.read().await?.into(),
            signature,
            public_key: None,
        };
        // A task of its own: a caller who hangs up does not stop what a second call then finds done. The turn goes
        // with it, for so does the file.
        let services = Arc::clone(&services);
        let install = async move {
            let _turn = turn;
            plugins::install_plugin(&services, &manager, new, plugins::unwatched()).await
        };
        let installed = tokio::spawn(install)
            .await
            .map_err(|e| Error::Internal(format!("an installation ended early: {e}")))??;
        let warning = installed.warning().map(str::to_owned);
        let mut body = PluginBody::from(installed.plugin);
        body.warning = warning;
        let body = J(body);
        Ok(if installed.new {
            InstallReply::New(body)
        } else {
            InstallReply::There(body)
        })
    }

    /// List the plugins that can be bound: the organisation's and the node's.
    ///
    /// Requires the role `ORG_ADMIN`.
    #[oai(path = "/plugins", method = "get", operation_id = "listPlugins")]
    async fn list_plugins(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<Vec<PluginBody>>, ApiErr<{ SECURED }>> {
        let manager = Manager::admin(caller.0.org_admin()?, &context.0);
        let found = plugins::list_plugins(&services, &manager).await?;
        Ok(J(found.into_iter().map(PluginBody::from).collect()))
    }

    /// Get an installed plugin.
    ///
    /// Requires the role `ORG_ADMIN`.
    #[oai(path = "/plugins/:digest", method = "get", operation_id = "getPlugin")]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn find_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// SHA-256 of the file, hexadecimal.
        digest: Path<String>,
    ) -> Result<J<PluginBody>, ReadErrors> {
        let manager = Manager::admin(caller.0.org_admin()?, &context.0);
        Ok(J(plugins::find_plugin(&services, &manager, &digest.0)?.into()))
    }

    /// Remove one of the organisation's plugins.
    ///
    /// Refused while a binding uses it, now or as the version before. Requires the role `ORG_ADMIN`.
    #[oai(path = "/plugins/:digest", method = "delete", operation_id = "removePlugin")]
    async fn remove_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// SHA-256 of the file, hexadecimal.
        digest: Path<String>,
    ) -> Result<Gone, Errors> {
        let manager = change(&caller.0, &context.0)?;
        plugins::remove_plugin(&services, &manager, &digest.0).await?;
        Ok(Gone::Done)
    }

    /// Replay a plugin over past resets.
    ///
    /// Puts the recorded questions to an installed plugin and says which decisions would have been others.
    /// The version that answered them must answer the same, byte for byte. Nothing is carried out. An
    /// organisation has one replay at a time. Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/plugins/:digest/replay",
        method = "post",
        operation_id = "replayPlugin"
    )]
    async fn replay_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// SHA-256 of the file, hexadecimal.
        digest: Path<String>,
        replay: J<ReplayRequest>,
    ) -> Result<J<ReplayReportBody>, Errors> {
        let admin = caller.0.org_admin()?;
        let manager = Manager::admin(admin, &context.0);
        let replay = replay
            .0
            .into_replay(&digest.0, admin.organization.id, context.0.at)?;
        let report = plugins::replay_plugin(&services, &manager, replay, plugins::unwatched()).await?;
        Ok(J(report.into()))
    }

    /// List the policies that resets are judged by, in the order in which they are asked.
    ///
    /// The node's come first and can't be changed here. Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/policy-bindings",
        method = "get",
        operation_id = "listPolicyBindings"
    )]
    async fn list_bindings(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<Vec<BindingBody>>, ApiErr<{ SECURED | S409 }>> {
        let manager = Manager::admin(caller.0.org_admin()?, &context.0);
        let found = plugins::list_bindings(&services, &manager).await?;
        Ok(J(found.into_iter().map(BindingBody::from).collect()))
    }

    /// Get a policy binding.
    ///
    /// Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/policy-bindings/:id",
        method = "get",
        operation_id = "getPolicyBinding"
    )]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn find_binding(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The binding's id.
        id: Path<Uuid>,
    ) -> Result<J<BindingBody>, ApiErr<{ SECURED | S400 | S404 | S409 }>> {
        let manager = Manager::admin(caller.0.org_admin()?, &context.0);
        Ok(J(plugins::find_binding(&services, &manager, id.0)?.into()))
    }

    /// Bind a plugin: from the next reset on it is asked.
    ///
    /// The configuration is judged by the plugin's JSON Schema and by the plugin itself. Effects that are
    /// not granted are refused and recorded. Requires the role `ORG_ADMIN`.
    #[oai(path = "/policy-bindings", method = "post", operation_id = "bindPlugin")]
    async fn bind_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        binding: J<BindingRequest>,
    ) -> Result<BoundReply, Errors> {
        let manager = change(&caller.0, &context.0)?;
        let new = binding.0.into_new(caller.0.organization.id)?;
        let bound = plugins::bind_plugin(&services, &manager, new).await?;
        Ok(BoundReply::Bound(J(bound.into())))
    }

    /// Change a policy binding.
    ///
    /// What is absent stays as it is. Another `pluginDigest` switches the version, atomically and without
    /// a restart. The one before stays at hand as `previous`, for rollback and to fall back on; one that was
    /// only tried as a canary, or never answered, does not take its place. Once a policy has demanded a second admin for
    /// a reset, or where the organisation wants that of every policy, a change waits for another admin's
    /// approval (202). Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/policy-bindings/:id",
        method = "patch",
        operation_id = "updatePolicyBinding"
    )]
    async fn update_binding(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The binding's id.
        id: Path<Uuid>,
        patch: J<BindingPatchBody>,
    ) -> Result<Changed, Errors> {
        let manager = change(&caller.0, &context.0)?;
        let patch = patch.0.into_patch()?;
        let ended = plugins::update_binding(&services, &manager, id.0, patch).await?;
        Changed::of(&services, &manager, id.0, ended)
    }

    /// Remove a policy binding.
    ///
    /// Waits for another admin's approval (202) where a change does. Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/policy-bindings/:id",
        method = "delete",
        operation_id = "unbindPlugin"
    )]
    async fn unbind_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The binding's id.
        id: Path<Uuid>,
    ) -> Result<Unbound, Errors> {
        let manager = change(&caller.0, &context.0)?;
        Ok(match plugins::unbind_plugin(&services, &manager, id.0).await? {
            Ended::Done(()) => Unbound::Done,
            Ended::Awaits(id) => Unbound::Awaits(J(AwaitsApprovalBody {
                message: "Removal of the policy awaits approval".into(),
                approval_id: id.to_string(),
            })),
        })
    }

    /// Go back to the version before, with the configuration and the hooks that it had.
    ///
    /// Once more undoes that. A canary ends: the version before decides everything again, and the one that
    /// was tried is not kept as `previous`. Waits for another admin's approval (202) where a change does. Requires the
    /// role `ORG_ADMIN`.
    #[oai(
        path = "/policy-bindings/:id/rollback",
        method = "post",
        operation_id = "rollBackPolicyBinding"
    )]
    async fn roll_back_binding(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The binding's id.
        id: Path<Uuid>,
    ) -> Result<Changed, Errors> {
        let manager = change(&caller.0, &context.0)?;
        let ended = plugins::roll_back_binding(&services, &manager, id.0).await?;
        Changed::of(&services, &manager, id.0, ended)
    }
}

impl Changed {
    fn of(
        services: &Services,
        manager: &Manager,
        id: Uuid,
        ended: Ended<BindingView>,
    ) -> Result<Self, Errors> {
        Ok(match ended {
            Ended::Done(changed) => Self::Done(J(changed.into())),
            Ended::Awaits(approval) => {
                let mut body = BindingBody::from(plugins::find_binding(services, manager, id)?);
                body.approval_id = Some(approval.to_string());
                Self::Awaits(J(body))
            }
        })
    }
}

/// An admin about to change policies: whoever can do that can open the door to a reset, so it takes the
/// same fresh second factor.
fn change(principal: &Principal, context: &RequestContext) -> Result<Manager> {
    let admin = principal.org_admin()?;
    principal.stepped_up(context.at)?;
    Ok(Manager::admin(admin, context))
}
