//! Every way in which a request can be refused or fail, in the domain's terms. HTTP statuses are in
//! `http/error.rs`.

use std::collections::BTreeMap;

use super::policy::Denial;

/// The result of every operation that can be refused or fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a bearer token is not accepted. Names the class of fault, never the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// No `Authorization: Bearer` header.
    Missing,
    /// Not a token of ours: shape, signature, algorithm, key, issuer, audience or claims.
    Invalid,
    /// Past its `exp` (RFC 7519 §4.1.4).
    Expired,
    /// Before its `nbf` (RFC 7519 §4.1.5).
    NotYetValid,
    /// Its session was ended.
    Revoked,
    /// Its subject no longer exists or is inactive.
    SubjectGone,
    /// It is an API key, which belongs in a header of its own.
    IsApiKey,
}

/// Why a request was refused or failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The bearer token is not accepted.
    #[error("{}", token_fault_text(*.0))]
    Token(TokenFault),
    /// The API key is unknown, expired or revoked.
    #[error("The API key is invalid")]
    ApiKey,
    /// The caller's second factor must have been used within this many seconds (RFC 9470 §3).
    #[error("A more recent authentication is required")]
    StepUpRequired {
        /// `max_age` of the challenge, in seconds.
        max_age_secs: u32,
    },
    /// Wrong organisation, e-mail or password: one answer for all (ASVS 6.3.8).
    #[error("Invalid credentials")]
    InvalidCredentials,
    /// The MFA code is wrong or was used before.
    #[error("Invalid MFA code")]
    InvalidCode,
    /// The passkey's answer does not match the challenge.
    #[error("Invalid passkey")]
    InvalidPasskey,
    /// The challenge, refresh token, invitation or link is unknown, used up or expired.
    #[error("The {0} is invalid or has expired")]
    DeadToken(&'static str),
    /// The account is locked; only disclosed to a caller who proved knowledge of the password.
    #[error("The account is locked. Ask an administrator to unlock it")]
    AccountLocked,
    /// The second factor is correct, but the password has expired; only disclosed to a caller who proved both.
    #[error("The password has expired. Replace it, then log in again")]
    PasswordExpired,

    /// The caller lacks the role.
    #[error("Role ORG_ADMIN is required")]
    NotOrgAdmin,
    /// The API key lacks the scope.
    #[error("Scope {0} is required")]
    MissingScope(&'static str),
    /// The session may only be used to set up MFA.
    #[error("Set up MFA before anything else")]
    EnrolmentOnly,
    /// The rules of who may act on whom forbid it.
    #[error("{0}")]
    MayNotAct(&'static str),
    /// The organisation's policy denies it.
    #[error("{}", .0.message)]
    Denied(Box<PolicyDenial>),

    /// No such user in the caller's organisation.
    #[error("User not found with id: {0}")]
    UserNotFound(String),
    /// No such object in the caller's organisation.
    #[error("{what} not found with id: {id}")]
    NotFound {
        /// Kind of object.
        what: &'static str,
        /// Its id as the caller wrote it.
        id: String,
    },
    /// The user has no second factor, so there is nothing to disable or renew.
    #[error("MFA is not enabled")]
    NoMfa,

    /// The target has no second factor, so there is nothing to reset (400).
    #[error("MFA is not enabled for this user")]
    MfaNotEnabled,
    /// The request can't be read; the text says what is wrong.
    #[error("{0}")]
    Malformed(String),
    /// Fields that break a rule: name and what is wrong.
    #[error("Validation failed")]
    Validation(BTreeMap<String, String>),
    /// A rule of the operation forbids it.
    #[error("{0}")]
    Refused(&'static str),

    /// The current state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The `Idempotency-Key` was used with another request.
    #[error("The Idempotency-Key was used with a different request")]
    IdempotencyKeyReused,
    /// The plugin file can't be used; the text says what is wrong and what to do.
    #[error("{0}")]
    PluginRefused(String),
    /// The body is larger than allowed.
    #[error("The request body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit_bytes: usize,
    },

    /// The body has another media type than the operation accepts.
    #[error("The content type must be {0}")]
    WrongContentType(&'static str),

    /// Too many requests.
    #[error("Too many requests. Try again in {retry_after_secs} s")]
    RateLimited {
        /// Seconds until the next request is admitted.
        retry_after_secs: u64,
        /// The quota's name and numbers for `RateLimit-Policy`.
        quota: Quota,
    },
    /// The writer's queue is full; nothing was done.
    #[error("The server is busy. Try again in {retry_after_secs} s")]
    Busy {
        /// Seconds after which a retry makes sense.
        retry_after_secs: u64,
    },
    /// Nothing can be written to disk, which is full, read-only or broken; nothing was done.
    #[error("Changes can't be put on disk now; nothing has been changed. Try again in {retry_after_secs} s")]
    Unwritable {
        /// Seconds after which a retry makes sense.
        retry_after_secs: u64,
    },
    /// The data on which the request was judged changed meanwhile, twice in a row; nothing was done.
    #[error("The user was changed at the same time. Try again")]
    Stale,
    /// A plugin failed and its binding says to fail closed; nothing was done.
    #[error("A policy could not be evaluated")]
    PolicyFailed {
        /// Name, version, digest and cause, for the log and the audit entry; never for the caller.
        cause: String,
    },
    /// Anything unexpected; nothing was done. The text is for the log only.
    #[error("Internal error")]
    Internal(String),
}

/// A quota as `RateLimit-Policy` names it (draft-ietf-httpapi-ratelimit-headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Name of the bucket.
    pub name: &'static str,
    /// Requests per window.
    pub limit: u32,
    /// Length of the window, in seconds.
    pub window_secs: u64,
}

/// A denial and the plugin that gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyDenial {
    /// Plugin name.
    pub plugin: String,
    /// The plugin's denial.
    pub denial: Denial,
}

impl std::ops::Deref for PolicyDenial {
    type Target = Denial;

    fn deref(&self) -> &Denial {
        &self.denial
    }
}

impl Error {
    /// Returns true if a rule or the caller is the cause; false if the appliance is, in which case a retry may
    /// succeed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let ours = matches!(
            self,
            Self::Internal(_)
                | Self::Busy { .. }
                | Self::Unwritable { .. }
                | Self::Stale
                | Self::PolicyFailed { .. }
        );
        !ours
    }

    /// Returns the text for the operator, at the command line and in the log: with causes that otherwise only the
    /// log contains. It names an organisation by its slug.
    #[must_use]
    pub fn for_operator(&self) -> String {
        match self {
            Self::Internal(cause) => cause.clone(),
            Self::PolicyFailed { cause } => format!(
                "{self}, so nothing was done: {cause}\n  To continue without it: latchkey plugin disable BINDING"
            ),
            Self::NotFound {
                what: "Organization",
                id: slug,
            } => format!("There is no organisation {slug}; latchkey org list shows their slugs"),
            other => other.to_string(),
        }
    }

    /// Returns a validation error for a single field.
    pub fn field(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Validation(BTreeMap::from([(name.into(), problem.into())]))
    }
}

fn token_fault_text(fault: TokenFault) -> &'static str {
    match fault {
        TokenFault::Missing => "Authentication is required",
        TokenFault::Invalid => "The access token is invalid",
        TokenFault::Expired => "The access token has expired",
        TokenFault::NotYetValid => "The access token is not valid yet",
        TokenFault::Revoked => "The access token has been revoked",
        TokenFault::SubjectGone => "The access token's subject is gone or inactive",
        TokenFault::IsApiKey => "This is an API key, no access token: send it in the X-API-Key header",
    }
}
