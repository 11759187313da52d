//! Who calls the API, and what came back.

use jiff::Timestamp;
use poem::http::{Method, StatusCode};
use serde_json::Value;

use super::TestApp;
use crate::described;

/// Somebody who calls the API.
pub struct Caller<'a> {
    pub(super) app: &'a TestApp,
    pub(super) token: Option<String>,
}

impl Caller<'_> {
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.app.client.request(method.clone(), path);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.content_type("application/json").body(body.to_string());
        }
        let answer = Answer::of(&method, path, request.send().await.0).await;
        self.check_reset(path, headers, &answer);
        answer
    }

    /// Sends something else than JSON: WebAssembly, unless the headers say otherwise.
    pub async fn upload(&self, path: &str, body: impl Into<poem::Body>, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.app.client.post(path);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let given = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !given {
            request = request.content_type("application/wasm");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::of(&Method::POST, path, request.body(body).send().await.0).await;
        self.check_reset(path, headers, &answer);
        answer
    }

    /// Of a reset: that it left the entry that it should.
    fn check_reset(&self, path: &str, headers: &[(&str, &str)], answer: &Answer) {
        let path = path.split('?').next().unwrap_or_default();
        if self.token.is_some() && path.ends_with("/reset-mfa") {
            let repeated = headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("idempotency-key"));
            self.app.assert_recorded(answer, repeated);
        }
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[]).await
    }

    /// An answer whose body nobody has read yet.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> poem::Response {
        let mut request = self.app.client.request(Method::GET, path);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.0
    }

    /// What a stream says within that time.
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)], within: std::time::Duration) -> String {
        use tokio::io::AsyncReadExt as _;
        let response = self.open(path, headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        described::check(&Method::GET, path, response.status(), response.headers(), None);
        let mut reader = response.into_body().into_async_read();
        let mut said = Vec::new();
        let _ = tokio::time::timeout(within, reader.read_to_end(&mut said)).await;
        String::from_utf8(said).unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body), &[]).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(body), &[]).await
    }

    /// The call that the product exists for, without a body.
    pub async fn reset(&self, user: impl ToString) -> Answer {
        self.send(Method::POST, &reset_path(user), None, &[]).await
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: poem::http::HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Answer {
    /// The answer, once it is one that the document describes.
    async fn of(method: &Method, path: &str, response: poem::Response) -> Self {
        let status = response.status();
        let headers = response.headers().clone();
        let bytes = response.into_body().into_bytes().await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        described::check(method, path, status, &headers, Some(&text));
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self {
            status,
            headers,
            text,
            body,
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The envelope with this status and message, and nothing else in it.
    #[track_caller]
    pub fn assert_error(&self, status: u16, message: &str) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.body["message"], message, "{}", self.text);
        self.assert_envelope();
        self
    }

    /// The error body that every path has.
    #[track_caller]
    pub fn assert_envelope(&self) -> &Self {
        let body = self
            .body
            .as_object()
            .unwrap_or_else(|| panic!("no envelope: {}", self.text));
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["error"], self.status.canonical_reason().unwrap());
        assert!(body["path"].as_str().unwrap().starts_with('/'), "{}", self.text);
        let timestamp = body["timestamp"].as_str().unwrap();
        assert!(
            timestamp.ends_with('Z') && timestamp.parse::<Timestamp>().is_ok(),
            "{timestamp}"
        );
        let known = [
            "timestamp",
            "status",
            "error",
            "message",
            "path",
            "validationErrors",
            "denial",
        ];
        assert!(
            body.keys().all(|key| known.contains(&key.as_str())),
            "{}",
            self.text
        );
        assert!(!self.header("x-request-id").is_empty());
        self
    }

    #[track_caller]
    pub fn assert_ok(&self) -> &Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        &self.body
    }
}

pub fn reset_path(user: impl ToString) -> String {
    format!("/api/v1/users/{}/reset-mfa", user.to_string())
}
