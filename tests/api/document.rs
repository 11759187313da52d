//! The OpenAPI document as checked in and as served, and the page that shows it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use latchkey::http;
use latchkey::limiter::Limits;
use poem::http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestApp, per_minute};

/// Write the files anew: `UPDATE_OPENAPI=1 cargo test --test api -- checked_in`, or `just openapi`.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "whether to write the files anew is asked of the developer"
)]
fn the_document_that_is_checked_in_is_the_one_that_the_code_makes() {
    let json = serde_json::to_string_pretty(&http::document()).unwrap() + "\n";
    let yaml = http::document_yaml();
    for (name, made) in [("openapi.json", json), ("openapi.yaml", yaml)] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("openapi")
            .join(name);
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = made.lines().zip(checked_in.lines()).find(|(a, b)| a != b);
        assert!(
            made == checked_in,
            "openapi/{name} is not what the code makes (first difference: {differs:?}). \
             If the change is meant: `just openapi`, or UPDATE_OPENAPI=1 cargo test --test api -- checked_in"
        );
    }
}

#[test]
fn the_documents_version_is_the_crates() {
    assert_eq!(http::document()["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_error_has_the_one_body_and_every_answer_the_request_id() {
    let document = http::document();
    for (name, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolve(&document, response);
            assert!(response["headers"]["X-Request-Id"].is_object(), "{name} {status}");
            if !status.starts_with('2') {
                let schema = &response["content"]["application/json"]["schema"];
                assert_eq!(schema["$ref"], "#/components/schemas/ApiError", "{name} {status}");
            }
        }
    }
}

#[test]
fn every_operation_says_what_it_is_and_shows_examples() {
    let document = http::document();
    for (name, operation) in operations(&document) {
        for word in ["summary", "description", "operationId"] {
            assert!(
                operation[word].as_str().is_some_and(|t| !t.is_empty()),
                "{name} has no {word}: write it in the handler's doc comment"
            );
        }
        assert!(operation["security"].is_array(), "{name}");
        let mut bodies: Vec<_> = operation["responses"].as_object().unwrap().values().collect();
        bodies.extend(operation.get("requestBody"));
        for body in bodies {
            let body = resolve(&document, body);
            let Some(content) = body.pointer("/content/application~1json") else {
                continue;
            };
            assert!(
                content.get("example").or(content.get("examples")).is_some(),
                "{name}: {content}"
            );
        }
    }
    // What `examples.rs` puts where it knows nothing better.
    let placeholder = document.to_string().matches(r#":"text""#).count();
    assert_eq!(
        placeholder, 0,
        "a field has no value in src/http/document/examples.yaml; look for \"text\""
    );
}

/// Status, and the headers that a client may count on with it.
const HEADERS: [(&str, &[&str]); 3] = [
    ("401", &["WWW-Authenticate"]),
    ("429", &["Retry-After", "RateLimit", "RateLimit-Policy"]),
    ("503", &["Retry-After"]),
];

#[test]
fn every_operation_says_how_it_can_end_and_what_comes_with_it() {
    let document = http::document();
    for (name, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        let mut expected = vec!["400", "413", "500", "503"];
        if operation["security"] != json!([]) {
            expected.extend(["401", "403"]);
        }
        if name.contains('{') {
            expected.push("404");
        }
        if parameter(operation, "Idempotency-Key").is_some() {
            expected.extend(["409", "422"]);
        }
        for status in expected {
            assert!(responses.contains_key(status), "{name} doesn't describe {status}");
        }
        let takes_body = operation.get("requestBody").is_some();
        assert_eq!(responses.contains_key("415"), takes_body, "{name}: 415");
        for (status, response) in responses {
            let response = resolve(&document, response);
            let said = response["description"].as_str().unwrap_or_default();
            assert!(!said.is_empty(), "{name} {status}");
            let (_, with_it) = HEADERS.iter().find(|(of, _)| of == status).unwrap_or(&("", &[]));
            for header in with_it.iter().chain(&["X-Request-Id"]) {
                let header = resolve(&document, &response["headers"][header]);
                assert_eq!(header["required"], true, "{name} {status}: {header}");
            }
            for (header, described) in response["headers"].as_object().unwrap() {
                let described = resolve(&document, described);
                for word in ["description", "schema", "example"] {
                    assert!(
                        described.get(word).is_some(),
                        "{name} {status}: {header} has no {word}"
                    );
                }
            }
        }
    }
}

/// Requests may leave out what answers always have: a type for both would be wrong for one of them.
#[test]
fn no_type_of_requests_and_answers_has_required_fields() {
    let document = http::document();
    let (mut sent, mut answered) = (BTreeSet::new(), BTreeSet::new());
    for (_, operation) in operations(&document) {
        collect_types(&document, &operation["requestBody"], &mut sent);
        collect_types(&document, &operation["responses"], &mut answered);
    }
    assert!(sent.len() > 20 && answered.len() > 40, "{sent:?} {answered:?}");
    for name in sent.intersection(&answered) {
        let required = &document["components"]["schemas"][name]["required"];
        assert_eq!(required, &Value::Null, "{name}");
    }
}

/// Adds the names of the types that are used in `part` of the document, also indirectly.
fn collect_types(document: &Value, part: &Value, into: &mut BTreeSet<String>) {
    match part {
        Value::Object(fields) => {
            if let Some(reference) = part["$ref"].as_str() {
                let name = reference.strip_prefix("#/components/schemas/");
                if name.is_none_or(|name| into.insert(name.to_owned())) {
                    collect_types(document, resolve(document, part), into);
                }
            }
            fields
                .values()
                .for_each(|field| collect_types(document, field, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_types(document, item, into)),
        _ => {}
    }
}

/// Who may call, what a list has and what is remembered are not in the schemas: the texts say it.
#[test]
fn texts_say_what_the_schemas_cannot() {
    let document = http::document();
    let operations = operations(&document);
    let text_of = |called: &str| {
        let (_, operation) = operations.iter().find(|(name, _)| name == called).unwrap();
        let parameters = operation["parameters"].as_array().unwrap().iter();
        let texts = parameters.map(|parameter| parameter["description"].as_str().unwrap());
        format!(
            "{} {}",
            operation["description"].as_str().unwrap(),
            texts.collect::<Vec<_>>().join(" ")
        )
    };
    for (called, words) in [
        (
            "post /api/v1/users/{id}/reset-mfa",
            &[
                "HELP_DESK",
                "200 or 202",
                "without `enrolmentCode`",
                "judged anew",
            ][..],
        ),
        (
            "get /api/v1/users",
            &["400 if there are more than 10,000", "50 if"],
        ),
    ] {
        let text = text_of(called);
        for word in words {
            assert!(text.contains(word), "{called}: {word} is not in {text}");
        }
    }
}

/// Generators make one type of a call's result.
#[test]
fn every_operation_has_one_type_of_success() {
    let document = http::document();
    for (name, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        let mut types: Vec<_> = responses
            .iter()
            .filter(|(status, _)| status.starts_with('2'))
            .filter_map(|(_, response)| response["content"].as_object())
            .map(|content| content.values().map(|body| &body["schema"]).collect::<Vec<_>>())
            .collect();
        types.dedup();
        assert!(types.len() <= 1, "{name}: {types:?}");
    }
}

#[test]
fn every_operation_says_who_may_call_and_what_its_parameters_mean() {
    let document = http::document();
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    let mut open = Vec::new();
    for (name, operation) in operations(&document) {
        let security = operation["security"].as_array().unwrap();
        if security.is_empty() {
            open.push(name.clone());
        }
        for way in security.iter().flat_map(|way| way.as_object().unwrap().keys()) {
            assert!(schemes.contains_key(way), "{name}: {way}");
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            for word in ["description", "schema", "example"] {
                assert!(parameter.get(word).is_some(), "{name}: {parameter} has no {word}");
            }
        }
    }
    for name in open {
        assert!(
            OPEN.contains(&name.as_str()),
            "{name} is open to everybody: is that meant?"
        );
    }
}

/// Who may call these need not be known. Whoever opens one more writes it down here.
const OPEN: [&str; 11] = [
    "get /.well-known/jwks.json",
    "get /health/live",
    "get /health/ready",
    "post /api/v1/auth/accept-invitation",
    "post /api/v1/auth/change-expired-password",
    "post /api/v1/auth/login",
    "post /api/v1/auth/not-me",
    "post /api/v1/auth/refresh",
    "post /api/v1/auth/verify-mfa",
    "post /api/v1/auth/verify-mfa/passkey",
    "post /api/v1/auth/verify-mfa/passkey/options",
];

fn parameter<'a>(operation: &'a Value, name: &str) -> Option<&'a Value> {
    let parameters = operation["parameters"].as_array()?;
    parameters.iter().find(|parameter| parameter["name"] == name)
}

#[tokio::test]
async fn the_explorer_works_without_internet() {
    let app = TestApp::new().await;
    let page = app.anonymous().get("/docs").await;
    assert_eq!(page.status.as_u16(), 200);
    assert!(
        page.header("content-security-policy")
            .contains("script-src 'self';")
    );
    let elsewhere = page.text.split(['"', '\'']).find(|text| text.contains("://"));
    assert_eq!(elsewhere, None, "the page loads something from elsewhere");
    for part in [
        "/docs/swagger-ui.css",
        "/docs/explorer.css",
        "/docs/swagger-ui.js",
        "/docs/explorer.js",
    ] {
        assert!(page.text.contains(part), "{part}");
        assert_eq!(app.anonymous().get(part).await.status.as_u16(), 200, "{part}");
    }
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again_and_the_rest_is_compressed() {
    let app = TestApp::new().await;
    let path = "/docs/swagger-ui.js";
    let plain = app.anonymous().get(path).await;
    assert_eq!(plain.header("content-encoding"), "");
    let gzip = get(&app, path, &[("Accept-Encoding", "br, gzip;q=0.8")]).await;
    assert_eq!(gzip.header("content-encoding"), "gzip");
    assert_eq!(gzip.header("vary"), "Accept-Encoding");
    let refused = get(&app, path, &[("Accept-Encoding", "gzip;q=0")]).await;
    assert_eq!(refused.text.len(), plain.text.len());
    let had = get(&app, path, &[("If-None-Match", plain.header("etag"))]).await;
    assert_eq!((had.status.as_u16(), had.text.as_str()), (304, ""));
    let other = get(&app, path, &[("If-None-Match", "\"other\"")]).await;
    assert_eq!(other.status.as_u16(), 200);
}

#[tokio::test]
async fn pages_are_read_only_and_limited_by_address() {
    let limits = Limits {
        document_by_address: per_minute(2),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let answer = app.anonymous().send(Method::POST, "/docs", None, &[]).await;
    answer.assert_error(405, "The method is not allowed for this path");
    assert_eq!(answer.header("allow"), "GET, HEAD");
    for _ in 0..2 {
        assert_eq!(app.anonymous().get("/openapi.json").await.status.as_u16(), 200);
    }
    let limited = app.anonymous().get("/openapi.yaml").await;
    assert_eq!(limited.status.as_u16(), 429, "{}", limited.text);
    assert_eq!(
        limited.header("ratelimit-policy"),
        "\"document-by-address\";q=2;w=60"
    );
}

async fn get(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> Answer {
    app.anonymous().send(Method::GET, path, None, headers).await
}

fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter();
        operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    each.collect()
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// What the document shows as an example is taken by the API, as far as one call alone can be.
#[tokio::test]
async fn the_documents_examples_are_taken() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let document = http::document();
    let cursor = parameter(&document["paths"]["/api/v1/audit-logs"]["get"], "cursor").unwrap();
    let page = format!(
        "/api/v1/audit-logs?cursor={}",
        cursor["example"].as_str().unwrap()
    );
    admin.get(&page).await.assert_ok();
    let user = &document["paths"]["/api/v1/users/{id}"]["patch"];
    let settings = &document["paths"]["/api/v1/organization/settings"]["patch"];
    for (path, operation) in [
        (format!("/api/v1/users/{}", app.member.id), user),
        ("/api/v1/organization/settings".to_owned(), settings),
    ] {
        let examples = &operation["requestBody"]["content"]["application/json"]["examples"];
        for (name, example) in examples.as_object().unwrap() {
            let answer = admin.patch(&path, example["value"].clone()).await;
            assert!(answer.status.is_success(), "{name}: {}", answer.text);
        }
    }
}
