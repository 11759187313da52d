//! The OpenAPI document: the output of poem-openapi, corrected, completed and adapted to client generators.
//!
//! [`document`] lists the steps. The same value is served as JSON and YAML, shown by the explorer page, printed
//! by `latchkey openapi` and checked in under `openapi/`.

mod examples;
mod explorer;
mod repairs;
mod served;
mod shared;
mod transport;

use poem_openapi::{ContactObject, LicenseObject};
use serde_json::{Map, Value, json};

pub(super) use explorer::{PATHS, add_pages};

/// Description of the API as a whole.
pub const DESCRIPTION: &str = "Lets an organisation's administrator reset the MFA of a user who lost their device. \
The organisation's own policies decide, a reset happens completely or not at all, and anyone can check \
its record.\n\n\
Every error has the same body, `ApiError`. Times are RFC 3339 in UTC. Ids are UUIDs. Every response carries \
`X-Request-Id`, which also appears in the log and in the audit entry.";

/// Returns the licence: MIT OR Apache-2.0.
pub(super) fn license() -> LicenseObject {
    LicenseObject::new("MIT OR Apache-2.0").url("https://spdx.org/licenses/MIT.html")
}

/// Returns the contact for the document.
pub(super) fn contact() -> ContactObject {
    ContactObject::new().name("The Latchkey authors")
}

/// Builds the OpenAPI document.
///
/// # Panics
/// Never: poem-openapi writes valid JSON, and a test reads the examples.
#[must_use]
pub fn document() -> Value {
    let mut document: Value =
        serde_json::from_str(&super::operations().spec()).expect("poem-openapi writes valid JSON");
    // All generators and linters support 3.0.3; some reject 3.1.
    document["openapi"] = json!("3.0.3");
    document["servers"] = json!([{ "url": "/", "description": "This appliance" }]);
    repairs::apply(&mut document);
    transport::describe(&mut document);
    examples::add(&mut document);
    shared::hoist(&mut document);
    document
}

/// Builds the OpenAPI document as YAML.
///
/// # Panics
/// Never: every JSON value is a YAML value.
#[must_use]
pub fn document_yaml() -> String {
    yaml(&document())
}

fn yaml(document: &Value) -> String {
    serde_yaml::to_string(document).expect("every JSON value is a YAML value")
}

/// Iterates over the operations of the document.
fn operations(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    operations_by_path(document).map(|(_, operation)| operation)
}

/// Iterates over the operations of the document, each with its path.
fn operations_by_path(document: &mut Value) -> impl Iterator<Item = (&str, &mut Map<String, Value>)> {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let operations = item.as_object_mut().into_iter().flat_map(Map::values_mut);
        operations.filter_map(move |operation| Some((path.as_str(), operation.as_object_mut()?)))
    })
}

/// Iterates over the responses of an operation, each with its status.
fn responses(operation: &mut Map<String, Value>) -> impl Iterator<Item = (&str, &mut Value)> {
    operation["responses"]
        .as_object_mut()
        .into_iter()
        .flatten()
        .map(|(status, response)| (status.as_str(), response))
}

/// Serves a self-contained page, which may load nothing and call only this server.
pub(super) fn page_endpoint(page: String) -> poem::RouteMethod {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                  img-src data:; connect-src 'self'; frame-ancestors 'none'";
    poem::get(poem::endpoint::make_sync(move |_| {
        poem::Response::builder()
            .content_type("text/html; charset=utf-8")
            .header("Content-Security-Policy", policy)
            .body(page.clone())
    }))
}
/// Returns the name in a reference to `#/components/schemas/NAME`.
fn referenced(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/components/schemas/")
}
