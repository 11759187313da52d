//! Moves headers and error responses that many operations share to `components`.

use serde_json::{Map, Value, json};

use super::{operations, responses};

const RESPONSES: [(&str, &str); 11] = [
    ("400", "BadRequest"),
    ("401", "Unauthorized"),
    ("403", "Forbidden"),
    ("404", "NotFound"),
    ("409", "Conflict"),
    ("413", "BodyTooLarge"),
    ("415", "UnsupportedMediaType"),
    ("422", "UnprocessableEntity"),
    ("429", "TooManyRequests"),
    ("500", "InternalError"),
    ("503", "Busy"),
];

/// Examples of headers, by name.
const HEADER_EXAMPLES: [(&str, &str); 8] = [
    ("X-Request-Id", "0199e0b4-5c1a-7c3e-9d2f-4b8a6e1f0c57"),
    ("X-Total-Count", "4"),
    (
        "WWW-Authenticate",
        "Bearer realm=\"latchkey\", error=\"invalid_token\", error_description=\"expired\"",
    ),
    ("Retry-After", "42"),
    ("RateLimit", "\"reset-by-caller\";r=0;t=42"),
    ("RateLimit-Policy", "\"reset-by-caller\";q=30;w=60"),
    ("ETag", "\"4f1c2d\""),
    (
        "Set-Cookie",
        "latchkey-device=lkd_Zm9yIHRoZSBkb2N1bWVudCBhbG9uZQ; Path=/api/v1/auth; HttpOnly; SameSite=Strict",
    ),
];

pub(super) fn hoist(document: &mut Value) {
    let (mut headers, mut shared) = (Map::new(), Map::new());
    for operation in operations(document) {
        for (status, response) in responses(operation) {
            hoist_headers(response, &mut headers);
            let Some((_, name)) = RESPONSES.iter().find(|(of, _)| *of == status) else {
                continue;
            };
            // A response with its own examples stays where it is.
            if response.pointer("/content/application~1json/examples").is_none() {
                hoist_one(response, name, "responses", &mut shared);
            }
        }
    }
    headers.sort_keys();
    shared.sort_keys();
    document["components"]["headers"] = headers.into();
    document["components"]["responses"] = shared.into();
}

fn hoist_headers(response: &mut Value, into: &mut Map<String, Value>) {
    let Some(headers) = response["headers"].as_object_mut() else {
        return;
    };
    headers.sort_keys();
    for (name, header) in headers {
        if let Some((_, example)) = HEADER_EXAMPLES.iter().find(|(of, _)| of == name) {
            header["example"] = match header["schema"]["type"].as_str() {
                Some("integer") => example.parse::<u64>().map_or(Value::Null, Value::from),
                _ => json!(example),
            };
        }
        hoist_one(header, name, "headers", into);
    }
}

/// Replaces `value` by a reference if it equals the shared component of that name.
fn hoist_one(value: &mut Value, name: &str, kind: &str, into: &mut Map<String, Value>) {
    let shared = into.entry(name).or_insert_with(|| value.clone());
    if shared == value {
        *value = json!({ "$ref": format!("#/components/{kind}/{name}") });
    }
}
