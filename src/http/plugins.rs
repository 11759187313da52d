//! `/plugins` and `/policy-bindings`: policy plugins and their bindings, for the administrators of an
//! organisation. Those of the node's operator are listed and can't be changed here.

mod bodies;
mod decisions;
mod replay;
mod upload;
mod words;

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{ApiResponse, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::parameter::WrittenHeader;
use super::payload::J;
use super::principal::Caller;
use super::schema::Context;
use super::users::AwaitsApprovalBody;
use crate::domain::{Error, Result};
use crate::service::Services;
use crate::service::plugins::by_admin::{self, ChangedBinding};
use crate::service::plugins::{Ended, NewPlugin};
use bodies::{BindingBody, BindingPatchBody, BindingRequest, PluginBody};
pub use decisions::DecisionsBody;
use replay::{ReplayReportBody, ReplayRequest};
pub use upload::is_upload;
use upload::{Upload, UploadTurns, signature_text};

/// Handlers of `/plugins` and `/policy-bindings`.
#[derive(Default)]
pub struct PluginApi {
    uploads: UploadTurns,
}

/// Result of an installation.
#[derive(ApiResponse)]
enum InstallReply {
    /// The plugin is installed.
    #[oai(status = 201)]
    New(J<PluginBody>),
    /// The plugin was installed already; nothing has been changed, except `signedBy` if this request had a
    /// valid signature.
    #[oai(status = 200)]
    There(J<PluginBody>),
}

#[derive(ApiResponse)]
enum BoundReply {
    /// The plugin is bound and is called from the next reset on.
    #[oai(status = 201)]
    Bound(J<BindingBody>),
}

#[derive(ApiResponse)]
enum Gone {
    /// The plugin is removed.
    #[oai(status = 204)]
    Done,
}

#[derive(ApiResponse)]
enum Changed {
    /// The binding is changed, effective from the next reset on.
    #[oai(status = 200)]
    Done(J<BindingBody>),
    /// Another administrator must approve; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<BindingBody>),
}

#[derive(ApiResponse)]
enum Unbound {
    /// The binding is removed and is not called from the next reset on.
    #[oai(status = 204)]
    Done,
    /// Another administrator must approve; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<AwaitsApprovalBody>),
}

type ReadErrors = ApiErr<{ SECURED | S400 | S404 | S429 }>;
type Errors = ApiErr<{ SECURED | S400 | S404 | S409 | S429 | BODY }>;

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Policies")]
impl PluginApi {
    /// Install a plugin for the organisation.
    ///
    /// The body is the plugin file: a WebAssembly component, or a core module that embeds the WIT contract. It
    /// is validated and compiled (seconds for a large file), and its golden cases are run, before anything is
    /// stored. A refusal says what is wrong and ends with a stable code in brackets. Installing the same file
    /// again changes nothing. Requires the role `ORG_ADMIN`.
    #[oai(path = "/plugins", method = "post", operation_id = "installPlugin")]
    async fn install_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The minisign signature of the file (the `.minisig` file) in base64. Required if the operator has
        /// configured trusted keys.
        #[oai(name = "X-Plugin-Signature", validator(max_length = 4096))]
        signature: WrittenHeader,
        upload: Upload,
    ) -> Result<InstallReply, Errors> {
        // Check the caller before reading the file or taking an upload slot.
        by_admin::admit_upload(&services, &caller.0, &context.0).await?;
        // One that can't be read is no missing one: the plugin would be installed as unsigned.
        let signature = signature.text("X-Plugin-Signature", 4096)?;
        let signature = signature.map(signature_text).transpose()?;
        let turn = self.uploads.take(caller.0.organization.id)?;
        let new = NewPlugin {
            owner: Some(caller.0.organization.id),
            bytes: upload.read().await?.into(),
            signature,
            public_key: None,
        };
        // Run in a separate task: if the caller disconnects, the installation still completes, and a second
        // call finds it done. The upload slot moves into the task together with the file.
        let services = Arc::clone(&services);
        let install = async move {
            let _turn = turn;
            by_admin::install_plugin(&services, &caller.0, &context.0, new).await
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

    /// List installed plugins.
    ///
    /// Lists the plugins that can be bound: the organisation's and the node's. Requires the role `ORG_ADMIN`.
    #[oai(path = "/plugins", method = "get", operation_id = "listPlugins")]
    async fn list_plugins(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<Vec<PluginBody>>, ApiErr<{ SECURED | S429 }>> {
        let found = by_admin::list_plugins(&services, &caller.0, &context.0).await?;
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
        /// SHA-256 digest of the plugin file, in hexadecimal.
        digest: Path<String>,
    ) -> Result<J<PluginBody>, ReadErrors> {
        let found = by_admin::find_plugin(&services, &caller.0, &context.0, &digest.0)?;
        Ok(J(found.into()))
    }

    /// Remove one of the organisation's plugins.
    ///
    /// Refused while a binding uses it as its current or previous version. Requires the role `ORG_ADMIN`.
    #[oai(path = "/plugins/:digest", method = "delete", operation_id = "removePlugin")]
    async fn remove_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// SHA-256 digest of the plugin file, in hexadecimal.
        digest: Path<String>,
    ) -> Result<Gone, Errors> {
        by_admin::remove_plugin(&services, &caller.0, &context.0, &digest.0).await?;
        Ok(Gone::Done)
    }

    /// Replay a plugin over past resets.
    ///
    /// Puts the recorded questions to an installed plugin and reports which decisions would have been
    /// different. The version that originally answered must give the same answers, byte for byte. Nothing is
    /// carried out. An organisation can run one replay at a time. Requires the role `ORG_ADMIN`.
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
        /// SHA-256 digest of the plugin file, in hexadecimal.
        digest: Path<String>,
        replay: J<ReplayRequest>,
    ) -> Result<J<ReplayReportBody>, Errors> {
        let whose = caller.0.organization.id;
        let replay = replay.0.into_replay(&digest.0, whose, context.0.at);
        let report = by_admin::replay_plugin(&services, &caller.0, &context.0, replay).await?;
        Ok(J(report.into()))
    }

    /// List policy bindings.
    ///
    /// Lists the policies that judge resets, in the order in which they are called. The node's come first and
    /// can't be changed here. Requires the role `ORG_ADMIN`.
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
    ) -> Result<J<Vec<BindingBody>>, ApiErr<{ SECURED | S409 | S429 }>> {
        let found = by_admin::list_bindings(&services, &caller.0, &context.0).await?;
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
        /// Id of the binding.
        id: Path<Uuid>,
    ) -> Result<J<BindingBody>, ApiErr<{ SECURED | S400 | S404 | S409 | S429 }>> {
        let found = by_admin::find_binding(&services, &caller.0, &context.0, id.0)?;
        Ok(J(found.into()))
    }

    /// Bind a plugin.
    ///
    /// From the next reset on, the plugin is called. Its configuration is checked against the plugin's JSON
    /// Schema and by the plugin itself. Effects that are not granted are refused and recorded. Requires the
    /// role `ORG_ADMIN`.
    #[oai(path = "/policy-bindings", method = "post", operation_id = "bindPlugin")]
    async fn bind_plugin(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        binding: J<BindingRequest>,
    ) -> Result<BoundReply, Errors> {
        let new = binding.0.into_new(caller.0.organization.id);
        let bound = by_admin::bind_plugin(&services, &caller.0, &context.0, new).await?;
        Ok(BoundReply::Bound(J(bound.into())))
    }

    /// Change a policy binding.
    ///
    /// Absent fields stay as they are. Another `pluginDigest` switches the version, atomically and without a
    /// restart. The replaced version is kept as `previous`, for rollback and as a fallback; a version that was
    /// only tried as a canary, or never answered, does not take that place. Once a policy has demanded a second
    /// administrator for a reset, or where the organisation demands one for every policy, a change waits for
    /// another administrator's approval (202). Requires the role `ORG_ADMIN`.
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
        /// Id of the binding.
        id: Path<Uuid>,
        patch: J<BindingPatchBody>,
    ) -> Result<Changed, Errors> {
        let patch = patch.0.into_patch();
        let changed = by_admin::update_binding(&services, &caller.0, &context.0, id.0, patch).await?;
        Ok(changed.into())
    }

    /// Remove a policy binding.
    ///
    /// Waits for another administrator's approval (202) where a change would. Requires the role `ORG_ADMIN`.
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
        /// Id of the binding.
        id: Path<Uuid>,
    ) -> Result<Unbound, Errors> {
        let ended = by_admin::unbind_plugin(&services, &caller.0, &context.0, id.0).await?;
        Ok(match ended {
            Ended::Done(()) => Unbound::Done,
            Ended::Awaits(id) => Unbound::Awaits(J(AwaitsApprovalBody {
                message: "Removal of the policy awaits approval".into(),
                approval_id: id.to_string(),
            })),
        })
    }

    /// Roll a policy binding back to its previous version.
    ///
    /// Restores the previous version with its configuration and hooks. Rolling back again undoes this. A canary
    /// ends: the previous version decides everything again, and the version that was tried is not kept as
    /// `previous`. Waits for another administrator's approval (202) where a change would. Requires the role
    /// `ORG_ADMIN`.
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
        /// Id of the binding.
        id: Path<Uuid>,
    ) -> Result<Changed, Errors> {
        let changed = by_admin::roll_back_binding(&services, &caller.0, &context.0, id.0).await?;
        Ok(changed.into())
    }
}

impl From<ChangedBinding> for Changed {
    fn from(changed: ChangedBinding) -> Self {
        let mut body = BindingBody::from(changed.binding);
        body.approval_id = changed.approval_id.map(|id| id.to_string());
        match changed.approval_id {
            None => Self::Done(J(body)),
            Some(_) => Self::Awaits(J(body)),
        }
    }
}
