//! `POST /auth/not-me`: reporting "this was not me", and the page behind the link in a notice.

use std::sync::Arc;

use poem::RouteMethod;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Deserialize;

use super::account::MessageBody;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S401, S429};
use super::payload::J;
use super::schema::Context;
use super::{Tag, document};
use crate::service::{Services, not_me};

/// Handler of `/auth/not-me`.
pub struct NotMeApi;

/// The token of a link.
#[derive(Clone, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "NotMeRequest", rename_all = "camelCase", deny_unknown_fields)]
pub struct NotMeBody {
    /// The part of the link after the `#`.
    #[oai(validator(max_length = 128))]
    pub token: String,
}

prints_no_secret!(NotMeBody);

#[OpenApi(prefix_path = "/api/v1/auth", tag = "Tag::Authentication")]
impl NotMeApi {
    /// Report a change of credentials that the user did not make.
    ///
    /// Takes the token of the link in the notice. Locks the account, ends its sessions, and notifies the
    /// administrators. The link can be used once; an unknown, used or expired token gets the same answer.
    #[oai(path = "/not-me", method = "post", operation_id = "reportNotMe")]
    async fn report_not_me(
        &self,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<NotMeBody>,
    ) -> Result<J<MessageBody>, ApiErr<{ S400 | S401 | BODY | S429 }>> {
        not_me::report_not_me(&services, &body.0.token, &context.0).await?;
        Ok(J(MessageBody {
            message: "The account is locked and your administrators have been notified".into(),
        }))
    }
}

/// Serves the page behind the link. It makes the call only when a person presses the button: mail scanners
/// follow links, and the token in the fragment never reaches a server by itself.
pub(super) fn page() -> RouteMethod {
    document::page_endpoint(include_str!("not_me/page.html").to_owned())
}
