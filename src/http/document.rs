//! The OpenAPI document and its explorer page.
//!
//! poem-openapi's document is served after a few repairs: its version is 3.0.3 (some generators refuse
//! 3.0.0's stricter readers, others 3.1), unsigned integers have a minimum, objects that refuse unknown
//! fields say so, and every answer names `X-Request-Id`.

use poem::endpoint::{EndpointExt as _, make_sync};
use poem::http::header;
use poem::{Response, RouteMethod};
use poem_openapi::LicenseObject;
use serde_json::{Map, Value, json};

/// What the document says of the API as a whole.
pub const DESCRIPTION: &str = "An organisation's admin resets the MFA of a user who lost their device: decided by \
the organisation's own policies, wholly or not at all, on a record that anyone can check.\n\n\
Every error has one body, `Error`. Times are RFC 3339 in UTC. Ids are UUIDs. Every answer carries \
`X-Request-Id`, which is also in the log and in the audit entry.";

/// MIT OR Apache-2.0.
pub(super) fn license() -> LicenseObject {
    LicenseObject::new("MIT OR Apache-2.0").url("https://spdx.org/licenses/MIT.html")
}

/// The OpenAPI document.
///
/// # Panics
/// Never: poem-openapi writes valid JSON.
#[must_use]
pub fn document() -> Value {
    let mut document: Value =
        serde_json::from_str(&super::operations().spec()).expect("poem-openapi writes valid JSON");
    document["openapi"] = json!("3.0.3");
    document["servers"] = json!([{ "url": "/", "description": "This appliance" }]);
    repair(&mut document);
    refuse_unknown_fields(&mut document);
    name_request_id(&mut document);
    document
}

/// The same as YAML.
///
/// # Panics
/// Never: every JSON value is a YAML value.
#[must_use]
pub fn document_yaml() -> String {
    serde_yaml::to_string(&document()).expect("every JSON value is a YAML value")
}

/// Unsigned integers start at zero, and integers are written as such (`20`, not `20.0`).
fn repair(value: &mut Value) {
    match value {
        Value::Object(object) => {
            let unsigned = object
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|f| f.starts_with("uint"));
            if unsigned && !object.contains_key("minimum") {
                object.insert("minimum".into(), json!(0));
            }
            object.values_mut().for_each(repair);
        }
        Value::Array(items) => items.iter_mut().for_each(repair),
        Value::Number(number) => {
            if let Some(float) = number.as_f64()
                && number.is_f64()
                && float.fract() == 0.0
                && float.abs() < 9e15
            {
                #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
                let whole = float as i64;
                *value = json!(whole);
            }
        }
        _ => {}
    }
}

/// Request bodies are parsed with `deny_unknown_fields`.
fn refuse_unknown_fields(document: &mut Value) {
    let Some(schemas) = document
        .pointer_mut("/components/schemas")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    for (name, schema) in schemas {
        if (name.ends_with("Request") || name.ends_with("Patch")) && schema["type"] == "object" {
            schema["additionalProperties"] = json!(false);
        }
    }
}

fn name_request_id(document: &mut Value) {
    let header = json!({
        "description": "Id of the request, also in the log and in the audit entry",
        "schema": { "type": "string", "format": "uuid" }
    });
    let paths = document["paths"]
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut);
    let operations = paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations {
        let responses = operation["responses"]
            .as_object_mut()
            .into_iter()
            .flat_map(Map::values_mut);
        for response in responses {
            response["headers"]["X-Request-Id"] = header.clone();
        }
    }
}

fn served(content_type: &'static str, body: String) -> impl poem::Endpoint<Output = Response> + use<> {
    make_sync(move |_| Response::builder().content_type(content_type).body(body.clone()))
}

pub(super) fn json_endpoint(document: &Value) -> RouteMethod {
    let body = serde_json::to_string_pretty(document).expect("a JSON value can be written");
    poem::get(served("application/json", body))
}

pub(super) fn yaml_endpoint(document: &Value) -> RouteMethod {
    let body = serde_yaml::to_string(document).expect("every JSON value is a YAML value");
    poem::get(served("application/yaml", body))
}

/// Swagger UI, whole in the page: it works without internet.
pub(super) fn explorer_endpoint(document: &Value) -> RouteMethod {
    let service = super::operations();
    let repaired = serde_json::to_string(document).expect("a JSON value can be written");
    let page = service.swagger_ui_html().replace(&service.spec(), &repaired);
    page_endpoint(page)
}

/// A page that is whole in itself: it loads nothing and calls nobody but us.
pub(super) fn page_endpoint(page: String) -> RouteMethod {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                  img-src data:; connect-src 'self'; frame-ancestors 'none'";
    poem::get(
        served("text/html; charset=utf-8", page).after(move |answer| async move {
            answer.map(|mut response: Response| {
                let policy = header::HeaderValue::from_static(policy);
                response
                    .headers_mut()
                    .insert(header::CONTENT_SECURITY_POLICY, policy);
                response
            })
        }),
    )
}
