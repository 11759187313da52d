//! Setting a password with a link (contract B3), and the page that the link leads to.

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

/// Setting a password with a link.
pub struct InvitationApi;

/// A link's token and the password to be.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "AcceptInvitationRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct AcceptInvitationBody {
    /// What stands behind the `#` of the link.
    #[oai(validator(max_length = 128))]
    pub token: String,
    /// The password, by the organisation's rules.
    #[oai(validator(max_length = 1024))]
    pub password: String,
}

prints_no_secret!(AcceptInvitationBody);

#[OpenApi(prefix_path = "/api/v1/auth", tag = "Tag::Authentication")]
impl InvitationApi {
    /// Set a password with a link.
    ///
    /// For the link that a new user gets, and that `POST /users/{id}/reset-password` sends. It works once.
    /// Every session of the user ends; they log in with the new password.
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

/// The page behind the link: it needs nothing but itself and the call above.
pub(super) fn page() -> RouteMethod {
    document::page_endpoint(include_str!("invitations/page.html").to_owned())
}
