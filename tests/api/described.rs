//! Invariant 10, checked by every test: whatever the app answers, the OpenAPI document describes it, its
//! status, its media type, its headers and every field of its body.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Validator};
use latchkey::http;
use poem::http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value, json};

/// On every answer, and said once for all of them; the last is for proxies that stand between.
const EVERYWHERE: [&str; 9] = [
    "cache-control",
    "content-length",
    "content-security-policy",
    "content-type",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-request-id",
    "x-accel-buffering",
];

/// A page of ours is no operation, and neither is a path that nobody has.
const PAGES: [&str; 4] = ["/docs", "/openapi.", "/invitation", "/not-me"];

static DOCUMENT: LazyLock<Value> = LazyLock::new(http::document);
static STRICT: LazyLock<Value> = LazyLock::new(|| strict(&DOCUMENT["components"]["schemas"]));

/// Panics where the document describes no such answer. `text` is `None` for a stream.
pub fn check(method: &Method, path: &str, status: StatusCode, headers: &HeaderMap, text: Option<&str>) {
    let call = format!("{method} {path} answered {status}");
    let Some(operation) = operation(method, path) else {
        let page = PAGES.iter().any(|page| path.starts_with(page));
        let refused = matches!(status.as_u16(), 404 | 405);
        assert!(page || refused, "{call}, and the document has no such operation");
        return;
    };
    let Some(response) = operation["responses"].get(status.as_str()) else {
        panic!("{call}, which the document does not describe: {text:?}");
    };
    let response = resolve(response);
    check_headers(&call, response, headers);
    let sent = headers
        .get("content-type")
        .map_or("", |value| value.to_str().unwrap());
    let Some(content) = response.get("content").and_then(Value::as_object) else {
        assert_eq!(text.unwrap_or_default(), "", "{call} with a body");
        return;
    };
    let Some(described) = content.get(sent) else {
        panic!("{call} as '{sent}'; the document says {:?}", content.keys());
    };
    if let (Some(text), "application/json", false) = (text, sent, *method == Method::HEAD) {
        let body: Value = serde_json::from_str(text).unwrap();
        let validator = validator(&described["schema"]);
        let wrong: Vec<_> = validator
            .iter_errors(&body)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert!(wrong.is_empty(), "{call}: {wrong:?} in {text}");
    }
}

fn check_headers(call: &str, response: &'static Value, headers: &HeaderMap) {
    let described = response["headers"].as_object().expect("X-Request-Id at least");
    for (name, header) in described {
        if resolve(header)["required"] == true {
            assert!(headers.contains_key(name), "{call} without {name}");
        }
    }
    for name in headers.keys() {
        let known = described
            .keys()
            .any(|described| described.eq_ignore_ascii_case(name.as_str()));
        assert!(
            known || EVERYWHERE.contains(&name.as_str()),
            "{call} with {name}, which the document does not describe"
        );
    }
}

/// The operation whose template fits best: a literal segment before a parameter.
fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or_default();
    let asked: Vec<_> = path.split('/').collect();
    let method = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let (_, item) = paths
        .iter()
        .filter(|(template, _)| fits(template, &asked))
        .min_by_key(|(template, _)| template.matches('{').count())?;
    item.get(method.as_str().to_lowercase())
}

fn fits(template: &str, asked: &[&str]) -> bool {
    let template: Vec<_> = template.split('/').collect();
    template.len() == asked.len()
        && template
            .iter()
            .zip(asked)
            .all(|(part, asked)| part.starts_with('{') || part == asked)
}

fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn validator(schema: &Value) -> Arc<Validator> {
    static MADE: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap();
    let make = || {
        let schema = json!({ "components": { "schemas": *STRICT }, "allOf": [strict(schema)] });
        let validator = jsonschema::options().with_draft(Draft::Draft4).build(&schema);
        Arc::new(validator.unwrap())
    };
    Arc::clone(made.entry(schema.to_string()).or_insert_with(make))
}

/// As JSON Schema: null where it is allowed, and no field that the document does not name.
fn strict(schema: &Value) -> Value {
    match schema {
        Value::Object(object) => {
            let mut strict: Map<_, _> = object.iter().map(|(k, v)| (k.clone(), strict(v))).collect();
            if object.get("properties").is_some_and(Value::is_object) {
                strict.entry("additionalProperties").or_insert(json!(false));
            }
            if strict.shift_remove("nullable") == Some(json!(true)) {
                return json!({ "anyOf": [{ "type": "null" }, strict] });
            }
            strict.into()
        }
        Value::Array(items) => items.iter().map(strict).collect(),
        other => other.clone(),
    }
}

#[test]
#[should_panic(expected = "which the document does not describe")]
fn an_undescribed_status_is_found() {
    check(
        &Method::GET,
        "/health/live",
        StatusCode::IM_A_TEAPOT,
        &HeaderMap::new(),
        Some("{}"),
    );
}

#[test]
#[should_panic(expected = "without X-Request-Id")]
fn a_missing_header_is_found() {
    check(
        &Method::GET,
        "/health/live",
        StatusCode::OK,
        &HeaderMap::new(),
        Some("{}"),
    );
}

#[test]
#[should_panic(expected = "Additional properties are not allowed ('secret' was unexpected)")]
fn an_undescribed_field_is_found() {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-request-id",
        "0199e0b4-5c1a-7c3e-9d2f-4b8a6e1f0c57".parse().unwrap(),
    );
    headers.insert("content-type", "application/json".parse().unwrap());
    let body = r#"{"status":"ok","secret":"1"}"#;
    check(&Method::GET, "/health/live", StatusCode::OK, &headers, Some(body));
}
