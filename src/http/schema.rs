//! Types that many request and response bodies share.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use poem::{FromRequest, Request, RequestBody};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromParameter, ParseResult, ToJSON, Type};

use super::error::Problem;
use crate::domain::Error;
use crate::service::{RequestContext, Services};

/// Formats a time as RFC 3339 in UTC with milliseconds and `Z`.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Formats a time as RFC 3339 in UTC with whole seconds and `Z`.
#[must_use]
pub fn rfc3339_secs(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Implements [`Type`] for what goes over the wire as a string of this format.
macro_rules! string_type {
    ($name:ident, $format:literal) => {
        impl Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                concat!("string_", $format).into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", $format)))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(self.as_raw_value().into_iter())
            }
        }
    };
}

/// A UUID in a path, as the caller wrote it. The service parses it, because operations such as `resetMfa` judge
/// the caller before the id.
#[derive(Clone, Debug)]
pub struct WrittenId(pub String);

string_type!(WrittenId, "uuid");

impl ParseFromParameter for WrittenId {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        Ok(Self(value.to_owned()))
    }
}

/// A time in a body or query (RFC 3339).
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Timestamp);

string_type!(Time, "date-time");

impl ToJSON for Time {
    fn to_json(&self) -> Option<serde_json::Value> {
        Some(rfc3339(self.0).into())
    }
}

impl poem_openapi::types::ParseFromJSON for Time {
    fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
        match value {
            Some(serde_json::Value::String(text)) => {
                Self::parse_from_parameter(&text).map_err(ParseError::propagate)
            }
            other => Err(ParseError::expected_type(other.unwrap_or_default())),
        }
    }
}

impl ParseFromParameter for Time {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        value
            .parse()
            .map(Self)
            .map_err(|_| ParseError::custom("not an RFC 3339 time"))
    }
}

/// The context of a request, as recorded by the envelope.
#[derive(Clone, Debug)]
pub struct Context(pub RequestContext);

impl<'a> FromRequest<'a> for Context {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        context(request).cloned().map(Self)
    }
}

/// Returns the context of a request.
///
/// # Errors
/// A 500 if the app was assembled without the envelope.
pub fn context(request: &Request) -> poem::Result<&RequestContext> {
    request
        .extensions()
        .get::<RequestContext>()
        .ok_or_else(|| Problem(Error::Internal("the envelope set no context".into())).into())
}

/// Returns the services, for security checkers.
///
/// # Errors
/// A 500 if the app was assembled without them.
pub fn services(request: &Request) -> poem::Result<&Arc<Services>> {
    request
        .data::<Arc<Services>>()
        .ok_or_else(|| Problem(Error::Internal("the app was assembled without services".into())).into())
}
