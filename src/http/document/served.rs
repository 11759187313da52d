//! Static texts: built once, compressed once, not copied for each request, and not sent again to a client that
//! has them.

use std::io::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Endpoint, Request, Response};
use sha2::{Digest as _, Sha256};

use super::super::error::Problem;
use super::super::schema::{context, services};
use crate::limiter::Bucket;

/// An endpoint that serves one static text.
pub struct Served {
    content_type: &'static str,
    content_security_policy: Option<&'static str>,
    body: LazyLock<Body, Make>,
}

type Make = Box<dyn FnOnce() -> Body + Send>;

struct Body {
    plain: Bytes,
    gzip: Bytes,
    etag: HeaderValue,
}

impl Served {
    /// Creates the endpoint. `make` runs at the first request, so that it does not delay startup.
    pub(super) fn new(content_type: &'static str, make: impl FnOnce() -> Bytes + Send + 'static) -> Self {
        Self {
            content_type,
            content_security_policy: None,
            body: LazyLock::new(Box::new(|| Body::new(make()))),
        }
    }

    /// Sets the `Content-Security-Policy` of a page (CSP Level 3).
    pub(super) fn with_policy(self, content_security_policy: &'static str) -> Self {
        Self {
            content_security_policy: Some(content_security_policy),
            ..self
        }
    }
}

impl Endpoint for Served {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let address = context(&request)?.ip;
        services(&request)?
            .limiter
            .check_address(Bucket::DocumentByAddress, address)
            .map_err(Problem)?;
        let body = &*self.body;
        let mut response = Response::default();
        if let Some(policy) = self.content_security_policy {
            let policy = HeaderValue::from_static(policy);
            response
                .headers_mut()
                .insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        let headers = response.headers_mut();
        headers.insert(header::ETAG, body.etag.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if has_it(&request, &body.etag) {
            response.set_status(StatusCode::NOT_MODIFIED);
            return Ok(response);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if takes_gzip(&request) {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.set_body(body.gzip.clone());
        } else {
            response.set_body(body.plain.clone());
        }
        Ok(response)
    }
}

impl Body {
    fn new(plain: Bytes) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let gzip = encoder
            .write_all(&plain)
            .and_then(|()| encoder.finish())
            .expect("a Vec can be written to");
        // Weak (RFC 9110 §8.8.1): one tag for both encodings.
        let etag = format!("W/\"{}\"", &hex::encode(Sha256::digest(&plain))[..16]);
        Self {
            etag: HeaderValue::try_from(etag).expect("hexadecimal digits"),
            gzip: gzip.into(),
            plain,
        }
    }
}

/// Returns whether `If-None-Match` names the text's `ETag` (RFC 9110 §13.1.2, weak comparison).
fn has_it(request: &Request, etag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let ours = opaque(etag.to_str().unwrap_or_default());
    request.header(header::IF_NONE_MATCH).is_some_and(|tags| {
        tags.split(',')
            .any(|tag| tag.trim() == "*" || opaque(tag) == ours)
    })
}

/// Returns whether the client accepts gzip (RFC 9110 §12.5.3); `gzip;q=0` refuses it.
fn takes_gzip(request: &Request) -> bool {
    request.header(header::ACCEPT_ENCODING).is_some_and(|accepted| {
        accepted.split(',').any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = weight.replace(' ', "").replace("q=", "");
            name.trim().eq_ignore_ascii_case("gzip") && weight.parse::<f32>().unwrap_or(1.0) > 0.0
        })
    })
}
