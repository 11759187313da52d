//! `POST /users/{id}/reset-mfa` on the wire: the request with its optional body and headers, and the response.

use std::sync::Arc;

use poem::http::StatusCode;
use poem::web::Data;
use poem::{IntoResponse, Response};
use poem_openapi::param::Path;
use poem_openapi::registry::{MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{Example, Type as _};
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde::Deserialize;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S422, S429, SECURED};
use super::parameter::{DeferredFlag, WrittenHeader};
use super::payload::{Deferred, J, ok};
use super::principal::AnySession;
use super::schema::{Context, WrittenId};
use crate::domain::{Error, Result as Checked};
use crate::service::Services;
use crate::service::reset::{self, ResetAnswer, ResetBody, ResetRequest};
use crate::service::trail;

/// Handler of `/users/{id}/reset-mfa`.
pub struct ResetApi;

/// The reason for a reset, which is passed to the policies and kept in the audit entry.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "ResetMfaRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    skip_serializing_if_is_none,
    example
)]
pub struct ResetRequestBody {
    /// The reason, in the caller's words.
    #[oai(validator(max_length = 500))]
    pub reason: Option<String>,
    /// Reference to a ticket.
    #[oai(validator(max_length = 500))]
    pub ticket: Option<String>,
}

impl Example for ResetRequestBody {
    fn example() -> Self {
        Self {
            reason: Some("Lost phone, identity checked by video".into()),
            ticket: Some("HD-4711".into()),
        }
    }
}

prints_no_secret!(ResetResponseBody);

/// Result of a reset.
#[derive(Clone, Object)]
#[oai(
    rename = "ResetMfaResponse",
    rename_all = "camelCase",
    skip_serializing_if_is_none,
    example
)]
pub struct ResetResponseBody {
    /// `MFA reset successfully`, or `MFA reset awaits approval`.
    pub message: String,
    /// Id of the approval that the reset waits for; only with 202.
    pub approval_id: Option<String>,
    /// The code that the user must enter at enrolment, where the organisation or a policy demands one. Shown
    /// only once: a repeat with the same `Idempotency-Key` does not return it. Hand it over in person or by
    /// phone, never by mail. If it was lost, an administrator gets a new one with `PATCH /users/{id}` and
    /// `locked: false`.
    pub enrolment_code: Option<String>,
    /// The audit entry and the proof that it is in the trail (C2SP tlog-proof), for `latchkey audit
    /// check-receipt`; only if requested.
    pub receipt: Option<String>,
}

impl Example for ResetResponseBody {
    fn example() -> Self {
        Self {
            message: DONE.into(),
            approval_id: None,
            enrolment_code: None,
            receipt: None,
        }
    }
}

/// Maximum length of the `Prefer` header, in bytes; the document says the same.
const PREFER_LIMIT: usize = 1000;
const DONE: &str = "MFA reset successfully";
const AWAITS_APPROVAL: &str = "MFA reset awaits approval";

type Errors = ApiErr<{ SECURED | S400 | S404 | S409 | BODY | S422 | S429 }>;

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Reset")]
impl ResetApi {
    /// Reset a user's MFA.
    ///
    /// Removes every second factor of a user of the caller's organisation, ends their sessions and records it,
    /// in one transaction. The organisation's policies are called before and after. Requires the role
    /// `ORG_ADMIN`, or `HELP_DESK` where the organisation uses it (`helpDeskEnabled`), which resets only members.
    /// Errors are checked in this order: 413, 401, 429 (caller), 403 (role, own account), 429 (user), 400 (malformed
    /// id), 404, 403 (who may act on whom), 400 or 415 (malformed parameter, header or body), 400 (no MFA), 403
    /// (policy).
    #[oai(path = "/users/:id/reset-mfa", method = "post", operation_id = "resetMfa")]
    async fn reset_mfa(
        &self,
        caller: AnySession,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the user.
        id: Path<WrittenId>,
        /// A key for safe retries, 1 to 255 visible ASCII characters. After a 200 or 202 a repeat with the same
        /// key and request within 24 hours returns the same outcome, without `enrolmentCode`, and changes nothing.
        /// No other outcome is remembered: a repeat is judged anew and may then reset.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: WrittenHeader,
        /// Whether to include a receipt in the response.
        #[oai(default)]
        receipt: DeferredFlag,
        /// The preference `receipt` (RFC 7240) requests a receipt, too.
        #[oai(name = "Prefer", validator(max_length = 1000))]
        prefer: WrittenHeader,
        body: Deferred<ResetRequestBody>,
    ) -> Result<ResetReply, Errors> {
        let request = ResetRequest {
            context: context.0,
            target: id.0.0,
            body: body.0.map(|body| body.map(ResetBody::from).unwrap_or_default()),
            idempotency_keys: idempotency_key.0,
            receipt: wants_receipt(receipt.0, &prefer.0),
        };
        let wants_receipt = request.receipt == Ok(true);
        let answer = reset::reset_mfa(&services, &caller.0, request).await?;
        let receipt = if wants_receipt {
            trail::receipt_of(&services, &caller.0, answer.audit_id).await
        } else {
            None
        };
        Ok(ResetReply { answer, receipt })
    }
}

/// Returns whether a receipt is requested: by the parameter, or by a `Prefer` header among all that were sent.
///
/// # Errors
/// [`Error::Malformed`].
fn wants_receipt(parameter: Checked<bool>, prefer: &[Vec<u8>]) -> Checked<bool> {
    if prefer.iter().map(Vec::len).sum::<usize>() > PREFER_LIMIT {
        return Err(Error::Malformed(format!(
            "The Prefer header must have at most {PREFER_LIMIT} characters"
        )));
    }
    let mut readable = prefer.iter().filter_map(|value| str::from_utf8(value).ok());
    Ok(parameter? || readable.any(prefers_receipt))
}

/// Returns whether `receipt` is among the preferences (RFC 7240 §2); all others are ignored.
fn prefers_receipt(preferences: &str) -> bool {
    preferences
        .split(',')
        .filter_map(|preference| preference.split(['=', ';']).next())
        .any(|name| name.trim().eq_ignore_ascii_case("receipt"))
}

impl From<ResetRequestBody> for ResetBody {
    fn from(body: ResetRequestBody) -> Self {
        Self {
            reason: body.reason,
            ticket: body.ticket,
        }
    }
}

/// A 200, or a 202 if a second administrator must approve.
struct ResetReply {
    answer: ResetAnswer,
    receipt: Option<String>,
}

impl IntoResponse for ResetReply {
    fn into_response(self) -> Response {
        let Self { answer, receipt } = self;
        let awaits = answer.approval_id.is_some();
        let body = ResetResponseBody {
            message: if awaits { AWAITS_APPROVAL } else { DONE }.into(),
            approval_id: answer.approval_id.map(|id| id.to_string()),
            enrolment_code: answer.enrolment_code,
            receipt,
        };
        let status = if awaits {
            StatusCode::ACCEPTED
        } else {
            StatusCode::OK
        };
        J(body).with_status(status).into_response()
    }
}

impl ApiResponse for ResetReply {
    fn meta() -> MetaResponses {
        let done = ok::<ResetResponseBody>("The reset is complete, recorded and on disk");
        let accepted =
            ok::<ResetResponseBody>("A second administrator must approve; nothing has been changed");
        MetaResponses {
            responses: vec![
                done,
                MetaResponse {
                    status: Some(202),
                    ..accepted
                },
            ],
        }
    }

    fn register(registry: &mut Registry) {
        ResetResponseBody::register(registry);
    }
}
