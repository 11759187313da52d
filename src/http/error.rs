//! Domain errors on the wire: one status each, one body for all (contract A).

mod facts;

use poem::http::StatusCode;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, Object};

use super::schema::Time;
use crate::domain::error::{Error, TokenFault};
use facts::Facts;

/// The one error body.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "ApiError",
    rename_all = "camelCase",
    skip_serializing_if_is_none,
    example
)]
pub struct ErrorBody {
    /// When, RFC 3339, UTC.
    pub timestamp: String,
    /// HTTP status.
    pub status: u16,
    /// The status's standard phrase.
    pub error: String,
    /// What is wrong and, where it helps, what to do.
    pub message: String,
    /// The path that was asked for.
    pub path: String,
    /// Field → what is wrong with it; only on a 400 that is about fields.
    pub validation_errors: Option<std::collections::HashMap<String, String>>,
    /// The policy's stable word, facts and, where it knows, the time from which the request would be
    /// allowed; only on a 403 by a policy.
    pub denial: Option<DenialBody>,
}

/// Why a policy refused.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Denial", rename_all = "camelCase", skip_serializing_if_is_none)]
pub struct DenialBody {
    /// The plugin that decided.
    pub plugin: String,
    /// Stable word for programs, kebab-case.
    pub code: String,
    /// From when on the same request would be allowed, RFC 3339, UTC.
    pub allowed_from: Option<Time>,
    /// The facts that decided.
    pub because: Facts,
}

impl poem_openapi::types::Example for ErrorBody {
    fn example() -> Self {
        Self {
            timestamp: "2026-02-18T10:30:00Z".into(),
            status: 404,
            error: "Not Found".into(),
            message: "User not found with id: 770e8400-e29b-41d4-a716-446655440004".into(),
            path: "/api/v1/users/770e8400-e29b-41d4-a716-446655440004/reset-mfa".into(),
            validation_errors: None,
            denial: None,
        }
    }
}

/// A domain error on its way through poem.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Problem(#[from] pub Error);

impl poem::error::ResponseError for Problem {
    fn status(&self) -> StatusCode {
        status(&self.0)
    }
}

/// The status of every error; a new variant does not compile without one.
#[must_use]
pub fn status(error: &Error) -> StatusCode {
    match error {
        Error::Token(_)
        | Error::ApiKey
        | Error::StepUpRequired { .. }
        | Error::InvalidCredentials
        | Error::InvalidCode
        | Error::InvalidPasskey
        | Error::DeadToken(_) => StatusCode::UNAUTHORIZED,
        Error::AccountLocked
        | Error::PasswordExpired
        | Error::NotOrgAdmin
        | Error::MissingScope(_)
        | Error::EnrolmentOnly
        | Error::MayNotAct(_)
        | Error::Denied(_) => StatusCode::FORBIDDEN,
        Error::UserNotFound(_) | Error::NotFound { .. } | Error::NoMfa => StatusCode::NOT_FOUND,
        Error::MfaNotEnabled
        | Error::Malformed(_)
        | Error::Validation(_)
        | Error::Refused(_)
        | Error::PluginRefused(_) => StatusCode::BAD_REQUEST,
        Error::Conflict(_) | Error::Stale => StatusCode::CONFLICT,
        Error::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::WrongContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::Busy { .. } | Error::Unwritable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::PolicyFailed { .. } | Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The headers that go with an error, beside the body.
#[must_use]
pub fn headers(error: &Error) -> Vec<(&'static str, String)> {
    match error {
        Error::Token(fault) => vec![("WWW-Authenticate", bearer_challenge(*fault))],
        Error::ApiKey => vec![("WWW-Authenticate", "ApiKey realm=\"latchkey\"".into())],
        Error::StepUpRequired { max_age_secs } => vec![(
            "WWW-Authenticate",
            format!(
                "Bearer realm=\"latchkey\", error=\"insufficient_user_authentication\", \
                 error_description=\"A more recent authentication is required\", max_age={max_age_secs}"
            ),
        )],
        // RFC 9110 §15.5.2: a 401 names a way to authenticate, at login too.
        Error::InvalidCredentials | Error::InvalidCode | Error::InvalidPasskey | Error::DeadToken(_) => {
            vec![("WWW-Authenticate", "Bearer realm=\"latchkey\"".into())]
        }
        Error::RateLimited {
            retry_after_secs,
            quota,
        } => vec![
            ("Retry-After", retry_after_secs.to_string()),
            (
                "RateLimit",
                format!("\"{}\";r=0;t={retry_after_secs}", quota.name),
            ),
            (
                "RateLimit-Policy",
                format!("\"{}\";q={};w={}", quota.name, quota.limit, quota.window_secs),
            ),
        ],
        Error::Busy { retry_after_secs } | Error::Unwritable { retry_after_secs } => {
            vec![("Retry-After", retry_after_secs.to_string())]
        }
        _ => Vec::new(),
    }
}

/// RFC 6750 §3: no error code when no token was sent.
fn bearer_challenge(fault: TokenFault) -> String {
    let description = match fault {
        TokenFault::Missing => return "Bearer realm=\"latchkey\"".into(),
        TokenFault::Invalid => "invalid",
        TokenFault::Expired => "expired",
        TokenFault::NotYetValid => "not yet valid",
        TokenFault::Revoked => "revoked",
        TokenFault::SubjectGone => "subject gone or inactive",
        TokenFault::IsApiKey => "an API key: send it as X-API-Key",
    };
    format!("Bearer realm=\"latchkey\", error=\"invalid_token\", error_description=\"{description}\"")
}

/// Bits for [`ApiErr`]: the statuses that an operation can answer.
pub mod answers {
    /// 400.
    pub const S400: u32 = 1;
    /// 401.
    pub const S401: u32 = 1 << 1;
    /// 403.
    pub const S403: u32 = 1 << 2;
    /// 404.
    pub const S404: u32 = 1 << 3;
    /// 409.
    pub const S409: u32 = 1 << 4;
    /// 422.
    pub const S422: u32 = 1 << 5;
    /// 429.
    pub const S429: u32 = 1 << 6;
    /// 413 and 415, with a body.
    pub const BODY: u32 = 1 << 7;
    /// A bearer token is required.
    pub const SECURED: u32 = S401 | S403;
}

/// An error of an operation that can answer the statuses in `S`, 500 and 503: a server without a place for one
/// more connection says so to whatever is asked.
#[derive(Debug)]
pub struct ApiErr<const S: u32>(pub poem::Error);

impl<const S: u32> From<Error> for ApiErr<S> {
    fn from(error: Error) -> Self {
        debug_assert!(
            documented::<S>(status(&error)),
            "{error:?} is not among the operation's statuses"
        );
        Self(Problem(error).into())
    }
}

impl<const S: u32> From<poem::Error> for ApiErr<S> {
    fn from(error: poem::Error) -> Self {
        Self(error)
    }
}

impl<const S: u32> From<ApiErr<S>> for poem::Error {
    fn from(error: ApiErr<S>) -> Self {
        error.0
    }
}

fn documented<const S: u32>(status: StatusCode) -> bool {
    responses::<S>().iter().any(|r| r.status == Some(status.as_u16()))
}

fn responses<const S: u32>() -> Vec<MetaResponse> {
    use answers::{BODY, S400, S401, S403, S404, S409, S422, S429};
    let challenge = || {
        vec![header(
            "WWW-Authenticate",
            "How to authenticate (RFC 6750 §3)",
            true,
        )]
    };
    let retry = || MetaHeader {
        schema: u32::schema_ref(),
        ..header("Retry-After", "Seconds to wait (RFC 9110 §10.2.3)", true)
    };
    let limits = || {
        vec![
            retry(),
            header(
                "RateLimit",
                "The exhausted quota: remaining requests and seconds to its reset",
                true,
            ),
            header(
                "RateLimit-Policy",
                "The exhausted quota: its requests and window",
                true,
            ),
        ]
    };
    let table = [
        (S400, 400, "The request is malformed or breaks a rule", vec![]),
        (S401, 401, "Authentication is missing or invalid", challenge()),
        (
            S403,
            403,
            "The caller may not do this, or a policy denies it",
            vec![],
        ),
        (S404, 404, "Not found in the caller's organisation", vec![]),
        (S409, 409, "The state does not allow it", vec![]),
        (BODY, 413, "The body is too large", vec![]),
        (
            BODY,
            415,
            "The content type is not one that the operation takes",
            vec![],
        ),
        (
            S422,
            422,
            "The Idempotency-Key was used with a different request",
            vec![],
        ),
        (S429, 429, "Too many requests", limits()),
        (u32::MAX, 500, "Unexpected; nothing has been changed", vec![]),
        (
            u32::MAX,
            503,
            "The server is busy; nothing has been changed",
            vec![retry()],
        ),
    ];
    table
        .into_iter()
        .filter(|(bit, ..)| *bit == u32::MAX || S & bit != 0)
        .map(|(_, status, description, headers)| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: ErrorBody::schema_ref(),
            }],
            headers,
        })
        .collect()
}

fn header(name: &str, description: &str, required: bool) -> MetaHeader {
    MetaHeader {
        name: name.into(),
        description: Some(description.into()),
        required,
        deprecated: false,
        schema: String::schema_ref(),
    }
}

impl<const S: u32> ApiResponse for ApiErr<S> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: responses::<S>(),
        }
    }

    fn register(registry: &mut Registry) {
        ErrorBody::register(registry);
    }
}

#[cfg(test)]
mod tests;
