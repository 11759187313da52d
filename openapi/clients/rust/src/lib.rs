//! The client that progenitor generates from `openapi/openapi.json`, and a thin layer over it: sign in,
//! errors as one type, retries that are safe.

#[allow(clippy::all, clippy::pedantic, missing_docs, unused, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/latchkey.rs"));
}

use std::time::Duration;

pub use generated::{Client, ResponseValue, types};
use types::{ApiError, LoginRequest, VerifyMfaRequest};

/// How a call can end badly.
#[derive(Debug)]
pub enum Error {
    /// The API refused, and said why.
    Refused(Box<Refusal>),
    /// Nothing that the document describes: the connection, or an answer of something in between.
    Other(generated::Error<ApiError>),
    /// The password has expired: `Client::change_expired_password`.
    PasswordExpired,
}

/// What the API said of a refusal.
#[derive(Debug)]
pub struct Refusal {
    /// The error body.
    pub body: ApiError,
    /// HTTP status.
    pub status: u16,
    /// For the log line and the audit entry of this very request.
    pub request_id: Option<String>,
    /// With 429 and 503.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// What the API said, if it did.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => f.write_str(&refusal.body.message),
            Self::Other(error) => write!(f, "{error}"),
            Self::PasswordExpired => f.write_str("The password has expired"),
        }
    }
}

impl std::error::Error for Error {}

impl From<generated::Error<ApiError>> for Error {
    fn from(error: generated::Error<ApiError>) -> Self {
        let generated::Error::ErrorResponse(response) = error else {
            return Self::Other(error);
        };
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        Self::Refused(Box::new(Refusal {
            status: response.status().as_u16(),
            request_id: header("x-request-id"),
            retry_after: header("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs),
            body: response.into_inner(),
        }))
    }
}

/// A client that shows this token, or none.
pub fn connect(base_url: &str, access_token: Option<&str>) -> Client {
    let mut headers = reqwest::header::HeaderMap::new();
    if let Some(token) = access_token {
        let mut value = reqwest::header::HeaderValue::try_from(format!("Bearer {token}")).expect("tokens are ASCII");
        value.set_sensitive(true);
        headers.insert(reqwest::header::AUTHORIZATION, value);
    }
    let http = reqwest::Client::builder().default_headers(headers).timeout(Duration::from_secs(30));
    Client::new_with_client(base_url, http.build().expect("no TLS is set up here that could fail"))
}

/// Logs in, asking for a code where MFA is on. Also says whether MFA has to be set up first.
pub async fn sign_in(base_url: &str, who: LoginRequest, code: impl FnOnce() -> String) -> Result<(Client, bool), Error> {
    let open = connect(base_url, None);
    let login = open.login(&who).await?.into_inner();
    if let Some(challenge) = login.mfa_challenge_token {
        let request = VerifyMfaRequest {
            mfa_challenge_token: challenge.parse().expect("our own challenge fits"),
            code: code().parse().expect("a code is at most 64 characters"),
        };
        let tokens = open.verify_mfa(&request).await?.into_inner();
        return Ok((connect(base_url, Some(&tokens.access_token)), false));
    }
    let token = login.access_token.ok_or(Error::PasswordExpired)?;
    Ok((connect(base_url, Some(&token)), login.mfa_setup_required))
}

/// Repeats what was limited or met a busy server. Only for calls that may be made twice, or have a key.
pub async fn retrying<T>(attempts: u32, mut call: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut attempt = 1;
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        match error.refusal() {
            Some(refusal) if matches!(refusal.status, 429 | 503) && attempt < attempts => {
                let pause = refusal.retry_after.unwrap_or(Duration::from_secs(1 << attempt));
                tokio::time::sleep(pause).await;
            }
            _ => return Err(error),
        }
        attempt += 1;
    }
}
