//! The cookie that identifies a device on which a login was completed. It grants no access: it keeps attempts
//! by strangers from using up the user's own. Clients without cookies work without it.

use poem::http::{HeaderMap, HeaderValue, header};
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaHeader, MetaResponses, Registry};
use poem_openapi::types::{ToJSON, Type};

use super::payload::{J, ok};
use crate::domain::credential::DEVICE_TOKEN_SECS;
use crate::service::Services;

/// Name of the cookie over plain HTTP, on the local machine.
const NAME: &str = "latchkey-device";
/// Name of the cookie over HTTPS; browsers accept it only there (RFC 6265bis §4.1.3.1; ASVS 3.3.1).
const SECURE_NAME: &str = "__Secure-latchkey-device";

/// Returns the device token from a request's cookies.
#[must_use]
pub fn shown(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(name, _)| [NAME, SECURE_NAME].contains(name))
        .map(|(_, value)| value)
}

/// A response that sets the device cookie if a login was just completed.
#[derive(Debug)]
pub struct Remembered<T> {
    body: T,
    cookie: Option<String>,
}

impl<T> Remembered<T> {
    /// Creates the response. `token` is the device's new token if a login was just completed.
    pub fn new(services: &Services, body: T, token: Option<String>) -> Self {
        let secure = services.settings.public_url.starts_with("https://");
        let (name, only) = if secure {
            (SECURE_NAME, "; Secure")
        } else {
            (NAME, "")
        };
        let cookie = token.map(|token| {
            format!(
                "{name}={token}; Path=/api/v1/auth; Max-Age={DEVICE_TOKEN_SECS}; HttpOnly; SameSite=Strict{only}"
            )
        });
        Self { body, cookie }
    }
}

impl<T: ToJSON> IntoResponse for Remembered<T> {
    fn into_response(self) -> Response {
        let mut response = J(self.body).into_response();
        if let Some(cookie) = self.cookie {
            let value = HeaderValue::from_str(&cookie).expect("a token and fixed text are ASCII");
            response.headers_mut().insert(header::SET_COOKIE, value);
        }
        response
    }
}

impl<T: ToJSON> ApiResponse for Remembered<T> {
    fn meta() -> MetaResponses {
        let mut done = ok::<T>("Success");
        done.headers = vec![MetaHeader {
            name: "Set-Cookie".into(),
            description: Some(
                "Set when the login is complete: a cookie that identifies the device. It grants no access; \
                 attempts by strangers do not use up those of the device."
                    .into(),
            ),
            required: false,
            deprecated: false,
            schema: String::schema_ref(),
        }];
        MetaResponses {
            responses: vec![done],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        assert_eq!(shown(&headers), None);
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; =; x"));
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("c=d;latchkey-device=lkd_x ; e=f"),
        );
        assert_eq!(shown(&headers), Some("lkd_x"));
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("__Secure-latchkey-device=lkd_y"),
        );
        assert_eq!(shown(&headers), Some("lkd_y"));
    }
}
