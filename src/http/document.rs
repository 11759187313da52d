//! The OpenAPI document: what poem-openapi writes, made true, complete and pleasant to generate from.
//!
//! [`document`] tells the steps. The same value is served as JSON and YAML, shown by the explorer page,
//! printed by `latchkey openapi` and checked in under `openapi/`.

mod examples;
mod explorer;
mod repairs;
mod served;
mod shared;
mod transport;

use poem_openapi::{ContactObject, LicenseObject};
use serde_json::{Map, Value, json};

pub(super) use explorer::{PATHS, add_pages};

/// What the document says of the API as a whole.
pub const DESCRIPTION: &str = "An organisation's admin resets the MFA of a user who lost their device: decided by \
the organisation's own policies, wholly or not at all, on a record that anyone can check.\n\n\
Every error has one body, `ApiError`. Times are RFC 3339 in UTC. Ids are UUIDs. Every answer carries \
`X-Request-Id`, which is also in the log and in the audit entry.";

/// MIT OR Apache-2.0.
pub(super) fn license() -> LicenseObject {
    LicenseObject::new("MIT OR Apache-2.0").url("https://spdx.org/licenses/MIT.html")
}

/// Who answers for the document.
pub(super) fn contact() -> ContactObject {
    ContactObject::new().name("The Latchkey authors")
}

/// The OpenAPI document.
///
/// # Panics
/// Never: poem-openapi writes valid JSON, and a test reads the examples.
#[must_use]
pub fn document() -> Value {
    let mut document: Value =
        serde_json::from_str(&super::operations().spec()).expect("poem-openapi writes valid JSON");
    // Every generator and linter reads 3.0.3; some refuse 3.1.
    document["openapi"] = json!("3.0.3");
    document["servers"] = json!([{ "url": "/", "description": "This appliance" }]);
    repairs::apply(&mut document);
    transport::describe(&mut document);
    examples::add(&mut document);
    shared::hoist(&mut document);
    document
}

/// The same as YAML.
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

/// Every operation of the document.
fn operations(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    operations_by_path(document).map(|(_, operation)| operation)
}

/// The same, with the path that each is at.
fn operations_by_path(document: &mut Value) -> impl Iterator<Item = (&str, &mut Map<String, Value>)> {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let operations = item.as_object_mut().into_iter().flat_map(Map::values_mut);
        operations.filter_map(move |operation| Some((path.as_str(), operation.as_object_mut()?)))
    })
}

/// Every response of an operation, with its status.
fn responses(operation: &mut Map<String, Value>) -> impl Iterator<Item = (&str, &mut Value)> {
    operation["responses"]
        .as_object_mut()
        .into_iter()
        .flatten()
        .map(|(status, response)| (status.as_str(), response))
}

/// A page that is whole in itself: it loads nothing and calls nobody but us.
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
/// The name in `#/components/schemas/NAME`.
fn referenced(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/components/schemas/")
}
