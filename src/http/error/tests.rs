//! One row for each way a request can fail: its status, message and headers.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::error::{PolicyDenial, Quota};
use crate::domain::policy::Denial;

/// Numbers the variants in the order of their definition. A new one does not compile until it is listed here,
/// and the test fails until it has a row.
fn number(error: &Error) -> usize {
    match error {
        Error::Token(_) => 0,
        Error::ApiKey => 1,
        Error::StepUpRequired { .. } => 2,
        Error::InvalidCredentials => 3,
        Error::InvalidCode => 4,
        Error::InvalidPasskey => 5,
        Error::DeadToken(_) => 6,
        Error::AccountLocked => 7,
        Error::NotOrgAdmin => 8,
        Error::MissingScope(_) => 9,
        Error::EnrolmentOnly => 10,
        Error::MayNotAct(_) => 11,
        Error::Denied(_) => 12,
        Error::UserNotFound(_) => 13,
        Error::NotFound { .. } => 14,
        Error::NoMfa => 15,
        Error::MfaNotEnabled => 16,
        Error::Malformed(_) => 17,
        Error::Validation(_) => 18,
        Error::Refused(_) => 19,
        Error::Conflict(_) => 20,
        Error::IdempotencyKeyReused => 21,
        Error::PluginRefused(_) => 22,
        Error::TooLarge { .. } => 23,
        Error::WrongContentType(_) => 24,
        Error::RateLimited { .. } => 25,
        Error::Busy { .. } => 26,
        Error::Stale => 27,
        Error::PolicyFailed { .. } => 28,
        Error::Internal(_) => 29,
        Error::Unwritable { .. } => 30,
        Error::PasswordExpired => 31,
    }
}

const VARIANTS: usize = 32;

/// An error with its expected status, message and headers.
type Row = (Error, u16, &'static str, &'static str);

fn unauthenticated() -> Vec<Row> {
    let bearer = "WWW-Authenticate: Bearer realm=\"latchkey\"";
    vec![
        (
            Error::Token(TokenFault::Missing),
            401,
            "Authentication is required",
            bearer,
        ),
        (
            Error::Token(TokenFault::Invalid),
            401,
            "The access token is invalid",
            "WWW-Authenticate: Bearer realm=\"latchkey\", error=\"invalid_token\", error_description=\"invalid\"",
        ),
        (
            Error::Token(TokenFault::Expired),
            401,
            "The access token has expired",
            "WWW-Authenticate: Bearer realm=\"latchkey\", error=\"invalid_token\", error_description=\"expired\"",
        ),
        (
            Error::Token(TokenFault::NotYetValid),
            401,
            "The access token is not valid yet",
            "WWW-Authenticate: Bearer realm=\"latchkey\", error=\"invalid_token\", error_description=\"not yet valid\"",
        ),
        (
            Error::Token(TokenFault::Revoked),
            401,
            "The access token has been revoked",
            "WWW-Authenticate: Bearer realm=\"latchkey\", error=\"invalid_token\", error_description=\"revoked\"",
        ),
        (
            Error::Token(TokenFault::SubjectGone),
            401,
            "The access token's subject is gone or inactive",
            "WWW-Authenticate: Bearer realm=\"latchkey\", error=\"invalid_token\", error_description=\"subject gone or inactive\"",
        ),
        (
            Error::ApiKey,
            401,
            "The API key is invalid",
            "WWW-Authenticate: ApiKey realm=\"latchkey\"",
        ),
        // RFC 9470 §3, to the letter.
        (
            Error::StepUpRequired { max_age_secs: 300 },
            401,
            "A more recent authentication is required",
            "WWW-Authenticate: Bearer realm=\"latchkey\", error=\"insufficient_user_authentication\", \
             error_description=\"A more recent authentication is required\", max_age=300",
        ),
        (Error::InvalidCredentials, 401, "Invalid credentials", bearer),
        (Error::InvalidCode, 401, "Invalid MFA code", bearer),
        (Error::InvalidPasskey, 401, "Invalid passkey", bearer),
        (
            Error::DeadToken("refresh token"),
            401,
            "The refresh token is invalid or has expired",
            bearer,
        ),
    ]
}

fn forbidden_or_missing() -> Vec<Row> {
    let denial = Denial {
        code: "budget".into(),
        message: "Five resets a day are enough".into(),
        because: Vec::new(),
        allowed_from: None,
    };
    vec![
        (
            Error::AccountLocked,
            403,
            "The account is locked. Ask an administrator to unlock it",
            "",
        ),
        (
            Error::PasswordExpired,
            403,
            "The password has expired. Replace it, then log in again",
            "",
        ),
        (Error::NotOrgAdmin, 403, "Role ORG_ADMIN is required", ""),
        (
            Error::MissingScope("audit:read"),
            403,
            "Scope audit:read is required",
            "",
        ),
        (Error::EnrolmentOnly, 403, "Set up MFA before anything else", ""),
        (Error::MayNotAct("Not on yourself"), 403, "Not on yourself", ""),
        (
            Error::Denied(Box::new(PolicyDenial {
                plugin: "reset-budget".into(),
                denial,
            })),
            403,
            "Five resets a day are enough",
            "",
        ),
        (
            Error::UserNotFound("x".into()),
            404,
            "User not found with id: x",
            "",
        ),
        (
            Error::NotFound {
                what: "API key",
                id: "x".into(),
            },
            404,
            "API key not found with id: x",
            "",
        ),
        (Error::NoMfa, 404, "MFA is not enabled", ""),
    ]
}

fn others() -> Vec<Row> {
    let quota = Quota {
        name: "reset-by-caller",
        limit: 30,
        window_secs: 60,
    };
    vec![
        (Error::MfaNotEnabled, 400, "MFA is not enabled for this user", ""),
        (
            Error::Malformed("The body is not UTF-8".into()),
            400,
            "The body is not UTF-8",
            "",
        ),
        (Error::Validation(BTreeMap::new()), 400, "Validation failed", ""),
        (Error::Refused("Cannot do that"), 400, "Cannot do that", ""),
        (Error::Conflict("It is taken".into()), 409, "It is taken", ""),
        (
            Error::Stale,
            409,
            "The user was changed at the same time. Try again",
            "",
        ),
        (
            Error::IdempotencyKeyReused,
            422,
            "The Idempotency-Key was used with a different request",
            "",
        ),
        (
            Error::PluginRefused("No WebAssembly".into()),
            400,
            "No WebAssembly",
            "",
        ),
        (
            Error::TooLarge { limit_bytes: 7 },
            413,
            "The request body is larger than 7 bytes",
            "",
        ),
        (
            Error::WrongContentType("application/json"),
            415,
            "The content type must be application/json",
            "",
        ),
        (
            Error::RateLimited {
                retry_after_secs: 42,
                quota,
            },
            429,
            "Too many requests. Try again in 42 s",
            "Retry-After: 42; RateLimit: \"reset-by-caller\";r=0;t=42; RateLimit-Policy: \"reset-by-caller\";q=30;w=60",
        ),
        (
            Error::Busy { retry_after_secs: 3 },
            503,
            "The server is busy. Try again in 3 s",
            "Retry-After: 3",
        ),
        (
            Error::Unwritable { retry_after_secs: 3 },
            503,
            "Changes can't be put on disk now; nothing has been changed. Try again in 3 s",
            "Retry-After: 3",
        ),
        (
            Error::PolicyFailed {
                cause: "secret insides".into(),
            },
            500,
            "A policy could not be evaluated",
            "",
        ),
        (
            Error::Internal("secret insides".into()),
            500,
            "Internal error",
            "",
        ),
    ]
}

#[test]
fn every_error_has_its_status_its_message_and_its_headers() {
    let mut seen = BTreeSet::new();
    for (error, expected, message, with) in [unauthenticated(), forbidden_or_missing(), others()].concat() {
        seen.insert(number(&error));
        assert_eq!(status(&error).as_u16(), expected, "{error:?}");
        assert_eq!(error.to_string(), message);
        let headers: Vec<_> = headers(&error)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(headers.join("; "), with, "{error:?}");
        assert!(!error.to_string().contains("insides"), "{error:?} tells too much");
    }
    let missing: Vec<_> = (0..VARIANTS).filter(|variant| !seen.contains(variant)).collect();
    assert!(missing.is_empty(), "no row for the variants number {missing:?}");
}

#[test]
fn an_operation_answers_what_its_bits_say_and_what_every_operation_can() {
    use answers::{BODY, SECURED};
    let statuses = described::<{ SECURED | BODY }>().map(|(status, _)| status);
    assert_eq!(statuses.collect::<Vec<_>>(), [401, 403, 413, 415, 500, 503]);
    assert!(documented::<0>(StatusCode::SERVICE_UNAVAILABLE));
    assert!(!documented::<SECURED>(StatusCode::CONFLICT));
}
