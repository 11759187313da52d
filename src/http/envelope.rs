//! The outermost layer: request id, body limit, panic guard, access log, and the common error body.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use futures_util::FutureExt as _;
use poem::error::{MethodNotAllowedError, NotFoundError, ReadBodyError, SizedLimitError};
use poem::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{Body, Endpoint, IntoResponse, Request, Response};
use poem_openapi::error::{
    AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
};
use poem_openapi::types::ToJSON as _;
use tracing::Instrument as _;

use super::allow::Allowed;
use super::error::{DenialBody, ErrorBody, Problem, headers, status};
use crate::domain::Error;
use crate::domain::error::TokenFault;
use crate::domain::policy::Channel;
use crate::service::{RequestContext, Services, login};

/// Resolves the client's address from the peer's and `X-Forwarded-For`.
pub type ClientAddress = Arc<dyn Fn(Option<IpAddr>, &[&str]) -> Option<IpAddr> + Send + Sync>;

/// Marks a request for which the server has no capacity: only health checks are answered.
#[derive(Clone, Copy, Debug)]
pub struct NoPlace;

/// Wraps the routes so that every error has the common body and no panic escapes.
pub struct Envelope<E> {
    pub(super) inner: E,
    pub(super) services: Arc<Services>,
    pub(super) allowed: Allowed,
    pub(super) body_limit_bytes: usize,
    pub(super) client_address: ClientAddress,
    /// The second, in Unix time, in which a refusal for overload was last logged.
    pub(super) busy_told: AtomicI64,
}

impl<E: Endpoint> Endpoint for Envelope<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let context = self.context(&request);
        let path = request.uri().path().to_owned(); // outermost: nothing has stripped it yet
        let method = request.method().clone();
        let request_id = context.request_id.clone();
        let span = tracing::info_span!("request", id = %request_id);
        request.extensions_mut().insert(context);
        let mut response = self
            .guarded(request, &path, &method)
            .instrument(span.clone())
            .await;
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert("X-Request-Id", id);
        }
        secure(&mut response);
        self.services.counts.answered(response.status().as_u16());
        span.in_scope(|| {
            tracing::info!(%method, path, status = response.status().as_u16(),
                micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX), "answered");
        });
        Ok(response)
    }
}

impl<E: Endpoint> Envelope<E> {
    async fn guarded(&self, request: Request, path: &str, method: &Method) -> Response {
        let query = queried(&request, path, method);
        let answered = AssertUnwindSafe(self.limited(request)).catch_unwind().await;
        // A mistyped filter must not be answered as if it were absent. The operation runs first, so that 401,
        // 429, 403 and 404 take precedence over this 400; a GET changes nothing, so nothing has to be undone.
        let answered = answered.map(|answered| {
            let response = answered.map(IntoResponse::into_response)?;
            if response.status().is_success() {
                self.allowed.check_query(path, &query).map_err(Problem)?;
            }
            Ok(response)
        });
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => self.render(&error, path),
            Err(_) => self.render(
                &Problem(Error::Internal("a handler panicked".into())).into(),
                path,
            ),
        };
        if *method == Method::HEAD {
            response.set_body(());
        }
        response
    }

    /// Refuses requests beyond the server's capacity, and limits the body. A `Transfer-Encoding` is checked
    /// first: if both headers are present, hyper follows it, so a small `Content-Length` must not be trusted.
    async fn limited(&self, mut request: Request) -> poem::Result<E::Output> {
        if request.extensions().get::<NoPlace>().is_some() && !super::health::is_asked(request.uri().path()) {
            return Err(Problem(Error::Busy { retry_after_secs: 1 }).into());
        }
        if super::plugins::is_upload(request.method(), request.uri().path()) {
            return self.inner.call(request).await; // larger, and limited where it is read
        }
        let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        match content_length(&request) {
            Some(length) if length > self.body_limit_bytes => {
                return Err(SizedLimitError::PayloadTooLarge.into());
            }
            Some(_) if !chunked => {} // hyper reads no further than this
            _ => {
                let bytes = request
                    .take_body()
                    .into_bytes_limit(self.body_limit_bytes)
                    .await?;
                request.set_body(Body::from(bytes));
            }
        }
        self.inner.call(request).await
    }

    fn context(&self, request: &Request) -> RequestContext {
        let at = self.services.clock.now();
        let forwarded: Vec<&str> = request
            .headers()
            .get_all("X-Forwarded-For")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        let peer = request
            .remote_addr()
            .as_socket_addr()
            .map(std::net::SocketAddr::ip);
        RequestContext {
            request_id: self.services.entropy.uuid(at).to_string(),
            at,
            ip: (self.client_address)(peer, &forwarded),
            user_agent: request
                .header(header::USER_AGENT)
                .map(|agent| agent.chars().filter(|c| !c.is_control()).take(256).collect()),
            device: super::device::shown(request.headers())
                .and_then(|token| login::read_device(&self.services, token, at)),
            channel: Channel::Api,
        }
    }

    fn render(&self, error: &poem::Error, path: &str) -> Response {
        let cause = self.cause(error);
        let status = match error.downcast_ref::<Problem>() {
            Some(problem) => status(&problem.0),
            None => transport_status(error),
        };
        match &cause {
            // Overload is not a fault; log it at most once a second so that a flood cannot fill the disk.
            Error::Busy { .. } | Error::Unwritable { .. } => {
                let second = self.services.clock.now().as_second();
                if self.busy_told.swap(second, Ordering::Relaxed) != second {
                    tracing::warn!(error = %cause, "refused; logged at most once a second");
                }
            }
            _ if status.is_server_error() => tracing::error!(error = ?cause, "failed"),
            _ => {}
        }
        let body = self.body(&cause, status, path);
        let mut response = Response::builder()
            .status(status)
            .content_type("application/json")
            .body(serde_json::to_vec(&body.to_json()).expect("a JSON value can be written"));
        for (name, value) in headers(&cause) {
            let value = HeaderValue::from_str(&value).expect("our headers are ASCII");
            response
                .headers_mut()
                .insert(HeaderName::from_static(lower(name)), value);
        }
        if status == StatusCode::METHOD_NOT_ALLOWED
            && let Some(allow) = self.allowed.methods(path)
        {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }

    /// Translates an error into a domain error, so that no internal detail of poem or a parser reaches the
    /// caller.
    fn cause(&self, error: &poem::Error) -> Error {
        if let Some(problem) = error.downcast_ref::<Problem>() {
            problem.0.clone()
        } else if error.is::<AuthorizationError>() {
            Error::Token(TokenFault::Missing)
        } else if error.is::<ParsePathError>() {
            Error::Malformed("The path is malformed: an id must be a UUID".into())
        } else if let Some(parameter) = error.downcast_ref::<ParseParamError>() {
            Error::Malformed(format!("The parameter '{}' is malformed", parameter.name))
        } else if let Some(payload) = error.downcast_ref::<ParseRequestPayloadError>() {
            Error::Malformed(format!("The body is malformed: {}", payload.reason))
        } else if error.is::<SizedLimitError>() || error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Error::TooLarge {
                limit_bytes: self.body_limit_bytes,
            }
        } else if error.is::<ContentTypeError>() {
            Error::Malformed("The content type must be application/json".into())
        } else if error.is::<NotFoundError>() {
            Error::Malformed("No such path; see /openapi.json".into())
        } else if error.is::<MethodNotAllowedError>() {
            Error::Malformed("The method is not allowed for this path".into())
        } else if error.is::<ReadBodyError>() || error.status().is_client_error() {
            Error::Malformed("The request could not be read".into())
        } else {
            Error::Internal(error.to_string())
        }
    }

    fn body(&self, cause: &Error, status: StatusCode, path: &str) -> ErrorBody {
        ErrorBody {
            timestamp: super::schema::rfc3339_secs(self.services.clock.now()),
            status: status.as_u16(),
            error: status.canonical_reason().unwrap_or("Error").to_owned(),
            message: if status.is_server_error() {
                self.server_message(cause)
            } else {
                cause.to_string()
            },
            path: path.to_owned(),
            validation_errors: match cause {
                Error::Validation(problems) => Some(problems.clone().into_iter().collect()),
                _ => None,
            },
            denial: match cause {
                Error::Denied(denied) => Some(DenialBody::from(denied.as_ref())),
                _ => None,
            },
        }
    }

    /// Returns the message for a server error. Internals stay in the log, found by the request id. A disk that
    /// cannot be written to is no secret, though, and a caller who retries should know of it.
    fn server_message(&self, cause: &Error) -> String {
        match cause {
            Error::Busy { .. } | Error::Unwritable { .. } | Error::PolicyFailed { .. } => cause.to_string(),
            _ if self.services.store.is_failing() => {
                "Changes can't be put on disk now; nothing has been changed".to_owned()
            }
            _ => "Internal error".to_owned(),
        }
    }
}

/// Returns the query parameters of an API read; empty for other requests.
fn queried(request: &Request, path: &str, method: &Method) -> Vec<(String, String)> {
    let reads = matches!(*method, Method::GET | Method::HEAD) && path.starts_with("/api/v1/");
    match reads && request.uri().query().is_some() {
        true => request.params().unwrap_or_default(),
        false => Vec::new(),
    }
}

/// Returns the status of an error that poem raised before or instead of our handlers.
fn transport_status(error: &poem::Error) -> StatusCode {
    if error.is::<AuthorizationError>() {
        StatusCode::UNAUTHORIZED
    } else {
        error.status()
    }
}

fn content_length(request: &Request) -> Option<usize> {
    request.header(header::CONTENT_LENGTH)?.parse().ok()
}

fn lower(name: &'static str) -> &'static str {
    match name {
        "WWW-Authenticate" => "www-authenticate",
        "Retry-After" => "retry-after",
        "RateLimit" => "ratelimit",
        "RateLimit-Policy" => "ratelimit-policy",
        other => other,
    }
}

/// Sets the security headers. Responses contain secrets and decisions, so they must not be cached or sniffed
/// (ASVS 14.2.2, 3.4.4).
fn secure(response: &mut Response) {
    let headers = response.headers_mut();
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

impl From<&crate::domain::error::PolicyDenial> for DenialBody {
    fn from(denied: &crate::domain::error::PolicyDenial) -> Self {
        Self {
            plugin: denied.plugin.clone(),
            code: denied.code.clone(),
            allowed_from: denied.allowed_from.map(super::schema::Time),
            because: denied.because.iter().collect(),
        }
    }
}
