//! JSON bodies, parsed strictly.
//!
//! poem-openapi's own payload accepts numbers and booleans as strings, and adds a charset to its media type.
//! Ours does neither: a value of the wrong type is an error that names the field, and nothing is converted
//! silently.

mod nulls;

use std::collections::BTreeMap;

use poem::{FromRequest, IntoResponse, Request, RequestBody, Response};
use poem_openapi::error::ContentTypeError;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{
    MetaHeader, MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry,
};
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions};
use serde::de::DeserializeOwned;

use super::error::Problem;
use crate::domain::{Error, Result};

const JSON: &str = "application/json";

/// A JSON body. Request types must also derive `Deserialize` with `deny_unknown_fields`.
#[derive(Clone, Debug)]
pub struct J<T>(pub T);

impl<T: Type> Payload for J<T> {
    const CONTENT_TYPE: &'static str = JSON;

    fn check_content_type(content_type: &str) -> bool {
        is_json(content_type)
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ToJSON> IntoResponse for J<T> {
    fn into_response(self) -> Response {
        let bytes = serde_json::to_vec(&self.0.to_json()).expect("a JSON value can be written");
        Response::builder().content_type(JSON).body(bytes)
    }
}

impl<T: ToJSON> ApiResponse for J<T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![ok::<T>("Success")],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<'a, T: ParseFromJSON + DeserializeOwned> ApiExtractor<'a> for J<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta::<T>(true))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        require_json(request)?;
        let bytes = <Vec<u8> as FromRequest>::from_request(request, body).await?;
        parse(&bytes).map(Self).map_err(|error| Problem(error).into())
    }
}

/// Returns the metadata of a 200 response with a JSON body.
pub fn ok<T: Type>(description: &'static str) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(200),
        status_range: None,
        content: vec![MetaMediaType {
            content_type: JSON,
            schema: T::schema_ref(),
        }],
        headers: vec![],
    }
}

/// An optional JSON body whose errors are left to the service, because operations such as `resetMfa` judge the
/// caller before the body. That includes a wrong media type and a body that breaks off.
#[derive(Clone, Debug)]
pub struct Deferred<T>(pub Result<Option<T>>);

impl<'a, T: ParseFromJSON + DeserializeOwned> ApiExtractor<'a> for Deferred<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(request_meta::<T>(false))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let Ok(bytes) = <Vec<u8> as FromRequest>::from_request(request, body).await else {
            return Ok(Self(Err(Error::Malformed(
                "The request could not be read".into(),
            ))));
        };
        if bytes.is_empty() {
            return Ok(Self(Ok(None)));
        }
        let is_json = require_json(request).map_err(|_| Error::WrongContentType(JSON));
        Ok(Self(is_json.and_then(|()| parse(&bytes)).map(Some)))
    }
}

fn request_meta<T: Type>(required: bool) -> MetaRequest {
    let content = vec![MetaMediaType {
        content_type: JSON,
        schema: T::schema_ref(),
    }];
    MetaRequest {
        description: None,
        content,
        required,
    }
}

fn require_json(request: &Request) -> Result<(), ContentTypeError> {
    match request.content_type() {
        Some(content_type) if is_json(content_type) => Ok(()),
        Some(content_type) => Err(ContentTypeError::NotSupported {
            content_type: content_type.to_owned(),
        }),
        None => Err(ContentTypeError::ExpectContentType),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(JSON)
}

/// Parses a body. Types are checked first, exactly (serde), and null only where the schema allows it; then the
/// rules of the schema (poem-openapi's validators).
fn parse<T: ParseFromJSON + DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Malformed("The body is not UTF-8".into()))?;
    // serde also reads a struct from an array, which no client intends.
    if text.trim_start().starts_with(['[', '"']) {
        return Err(Error::Malformed("The body must be a JSON object".into()));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    if let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut reader) {
        return Err(type_problem(&error));
    }
    reader
        .end()
        .map_err(|error| Error::Malformed(format!("The body is not valid JSON: {error}")))?;
    let value = serde_json::from_str(text)
        .map_err(|error| Error::Malformed(format!("The body is not valid JSON: {error}")))?;
    if let Some(field) = nulls::find_forbidden::<T>(&value) {
        return Err(Error::field(field, "must not be null; leave it out"));
    }
    T::parse_from_json(Some(value)).map_err(|error| rule_problem(&error.into_message()))
}

fn type_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Error {
    let (path, cause) = (error.path().to_string(), error.inner());
    if !cause.is_data() {
        return Error::Malformed(format!("The body is not valid JSON: {cause}"));
    }
    // serde_json appends the position; the path of the field is more helpful.
    let text = cause.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if let Some(field) = between(text, "unknown field `", "`").or(between(text, "missing field `", "`")) {
        return Error::Validation(BTreeMap::from([(field.to_owned(), text.to_owned())]));
    }
    match path.as_str() {
        "." | "" => Error::Malformed(format!("The body is malformed: {text}")),
        field => Error::Validation(BTreeMap::from([(field.to_owned(), text.to_owned())])),
    }
}

/// Converts an error of poem-openapi, such as: failed to parse "T": field `x` verification failed.
/// maxLength(500).
fn rule_problem(message: &str) -> Error {
    match (
        between(message, "field `", "`"),
        message.split_once("verification failed. "),
    ) {
        (Some(field), Some((_, rule))) => Error::field(field, format!("must satisfy {}", rule.trim())),
        _ => Error::Malformed(format!("The body is malformed: {message}")),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?
        .1
        .split_once(after)
        .map(|(inner, _)| inner)
}

/// A page of a list, with the header `X-Total-Count`.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The items on this page.
    pub items: T,
    /// Total number of matching items.
    pub total: u64,
}

impl<T: ToJSON> IntoResponse for Listed<T> {
    fn into_response(self) -> Response {
        J(self.items)
            .with_header("X-Total-Count", self.total.to_string())
            .into_response()
    }
}

impl<T: ToJSON> ApiResponse for Listed<T> {
    fn meta() -> MetaResponses {
        let mut listed = ok::<T>("Success");
        listed.headers = vec![MetaHeader {
            name: "X-Total-Count".into(),
            description: Some("Total number of matching items".into()),
            required: true,
            deprecated: false,
            schema: u64::schema_ref(),
        }];
        MetaResponses {
            responses: vec![listed],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}
