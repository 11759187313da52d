//! Domain errors on the wire: each has one status, and all share one body.

mod facts;

use poem::http::StatusCode;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiResponse, Object};

use super::schema::Time;
use crate::domain::error::{Error, TokenFault};
use facts::Facts;

/// The body of every error.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "ApiError",
    rename_all = "camelCase",
    skip_serializing_if_is_none,
    example
)]
pub struct ErrorBody {
    /// When the error occurred: RFC 3339 in UTC, whole seconds.
    pub timestamp: String,
    /// HTTP status code.
    pub status: u16,
    /// Standard reason phrase of the status.
    pub error: String,
    /// What is wrong and, where it helps, what to do. For people; its wording may change.
    pub message: String,
    /// Path of the request.
    pub path: String,
    /// Problem of each invalid field, by field name; only on a 400 that is about fields.
    pub validation_errors: Option<std::collections::HashMap<String, String>>,
    /// Why a policy denied the request; only on a 403 by a policy.
    pub denial: Option<DenialBody>,
}

/// Why a policy denied a request.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Denial", rename_all = "camelCase", skip_serializing_if_is_none)]
pub struct DenialBody {
    /// Name of the plugin that denied the request.
    pub plugin: String,
    /// Stable reason code for programs, in kebab-case.
    pub code: String,
    /// When the same request would be allowed; absent if the policy does not know.
    pub allowed_from: Option<Time>,
    /// The facts on which the decision is based, by name.
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

/// A domain error, passed through poem.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Problem(#[from] pub Error);

impl poem::error::ResponseError for Problem {
    fn status(&self) -> StatusCode {
        status(&self.0)
    }
}

/// Returns the status of an error. Exhaustive, so that a new variant does not compile without one.
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

/// Returns the headers of an error response.
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

/// Returns the `Bearer` challenge, without an error code if no token was sent (RFC 6750 §3).
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
    /// 413 and 415, for operations that take a body.
    pub const BODY: u32 = 1 << 7;
    /// 401 and 403, for operations that require authentication.
    pub const SECURED: u32 = S401 | S403;
}

/// An error of an operation that can answer the statuses in `S`, and 500 and 503, which any operation can: a
/// server at its connection limit answers 503 to every request.
#[derive(Debug)]
pub struct ApiErr<const S: u32>(pub poem::Error);

impl<const S: u32> From<Error> for ApiErr<S> {
    fn from(error: Error) -> Self {
        let status = status(&error);
        let known = documented::<S>(status);
        if !known {
            tracing::error!(%status, %error, "answering a status that the OpenAPI document does not describe here");
        }
        debug_assert!(known, "{error:?} is not among the operation's statuses");
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
    described::<S>().any(|(of, _)| of == status.as_u16())
}

/// Returns the statuses of an operation, each with its description.
fn described<const S: u32>() -> impl Iterator<Item = (u16, &'static str)> {
    let covered = STATUSES.iter().filter(|(bit, ..)| S & bit != 0 || *bit == ANY);
    covered.map(|&(_, status, description)| (status, description))
}

/// Bits of [`answers`], or [`ANY`], and the statuses for which they stand.
const STATUSES: [(u32, u16, &str); 11] = {
    use answers::{BODY, S400, S401, S403, S404, S409, S422, S429};
    [
        (S400, 400, "The request is malformed or breaks a rule"),
        (S401, 401, "Authentication is missing or invalid"),
        (
            S403,
            403,
            "The caller is not allowed to do this, or a policy denies it",
        ),
        (S404, 404, "Not found in the caller's organisation"),
        (S409, 409, "The current state does not allow it"),
        (BODY, 413, "The body is too large"),
        (BODY, 415, "The operation does not accept this content type"),
        (S422, 422, "The Idempotency-Key was used with a different request"),
        (S429, 429, "Too many requests"),
        (ANY, 500, "Unexpected error; nothing has been changed"),
        (ANY, 503, "The server is busy; nothing has been changed"),
    ]
};

/// Of every operation.
const ANY: u32 = u32::MAX;

fn responses<const S: u32>() -> Vec<MetaResponse> {
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
                "The exhausted quota: remaining requests, and seconds until it resets",
                true,
            ),
            header(
                "RateLimit-Policy",
                "The exhausted quota: number of requests, and window in seconds",
                true,
            ),
        ]
    };
    described::<S>()
        .map(|(status, description)| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: ErrorBody::schema_ref(),
            }],
            headers: match status {
                401 => challenge(),
                429 => limits(),
                503 => vec![retry()],
                _ => Vec::new(),
            },
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
