//! `POST /auth/accept-invitation`: setting a password with a link, and the page behind the link.

use std::sync::Arc;

use poem::RouteMethod;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::account::MessageBody;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S401, S429};
use super::payload::J;
use super::schema::Context;
use super::{Tag, document};
use crate::service::Services;
use crate::service::login::Password;
use crate::service::users;

/// Handler of `/auth/accept-invitation`.
pub struct InvitationApi;

/// The token of a link and the new password.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "AcceptInvitationRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct AcceptInvitationBody {
    /// The part of the link after the `#`.
    #[oai(validator(max_length = 128))]
    pub token: String,
    /// The new password. Must satisfy the organisation's password rules.
    #[oai(validator(max_length = 1024))]
    pub password: String,
}

prints_no_secret!(AcceptInvitationBody);

#[OpenApi(prefix_path = "/api/v1/auth", tag = "Tag::Authentication")]
impl InvitationApi {
    /// Set a password with a link.
    ///
    /// Takes the token of the link that a new user gets, or that `POST /users/{id}/reset-password` sends. It
    /// can be used once. Every session of the user ends; they must then log in with the new password.
    #[oai(
        path = "/accept-invitation",
        method = "post",
        operation_id = "acceptInvitation"
    )]
    async fn accept_invitation(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<AcceptInvitationBody>,
    ) -> Result<J<MessageBody>, ApiErr<{ S400 | S401 | BODY | S429 }>> {
        let J(body) = body;
        let password = Password(Zeroizing::new(body.password));
        users::accept_invitation(&services, &body.token, password, &context.0).await?;
        Ok(J(MessageBody {
            message: "Password set successfully".into(),
        }))
    }
}

/// Serves the page behind the link, which is self-contained and makes only the call above.
pub(super) fn page() -> RouteMethod {
    document::page_endpoint(include_str!("invitations/page.html").to_owned())
}
