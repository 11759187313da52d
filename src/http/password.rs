//! `POST /account/password`: changing the caller's own password.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Tag;
use super::account::MessageBody;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S409, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::Context;
use crate::service::Services;
use crate::service::login::{self, Password};

/// Handler of `/account/password`.
pub struct PasswordApi;

/// The current password and the new one.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "ChangePasswordRequest",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct ChangePasswordBody {
    /// The current password.
    #[oai(validator(max_length = 1024))]
    pub current_password: String,
    /// The new password. Must satisfy the organisation's password rules.
    #[oai(validator(max_length = 1024))]
    pub new_password: String,
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Authentication")]
impl PasswordApi {
    /// Change the caller's own password.
    ///
    /// Ends the user's other sessions and their refresh tokens; the session of this call stays, and so do API
    /// keys that the user created, as with an expired password. A wrong current password is a 400 on
    /// `currentPassword` rather than a 401, so that clients do not take it for an invalid token, and counts
    /// towards the limit on password attempts at login: 429 when there were too many. A user with a second
    /// factor must have used it within the last ten minutes, or less where the organisation says so; otherwise
    /// the answer is 401 with `error="insufficient_user_authentication"`, and `POST /auth/step-up` is needed
    /// first.
    #[oai(path = "/account/password", method = "post", operation_id = "changePassword")]
    async fn change_password(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<ChangePasswordBody>,
    ) -> Result<J<MessageBody>, ApiErr<{ SECURED | S400 | S409 | BODY | S429 }>> {
        let J(body) = body;
        let current = Password(Zeroizing::new(body.current_password));
        let new = Password(Zeroizing::new(body.new_password));
        login::change_own_password(&services, &caller.0, current, new, &context.0).await?;
        Ok(J(MessageBody {
            message: "Password changed successfully".into(),
        }))
    }
}

prints_no_secret!(ChangePasswordBody);
