//! What every answer carries, and how a request can end before its operation is reached.

use serde_json::{Map, Value, json};

use super::{operations, responses};

pub(super) fn describe(document: &mut Value) {
    // A text in the code, since it has whole seconds and every other time milliseconds.
    document["components"]["schemas"]["ApiError"]["properties"]["timestamp"]["format"] = json!("date-time");
    for operation in operations(document) {
        add_statuses(operation);
        drop_content_type_error(operation);
        for (_, response) in responses(operation) {
            describe_events(response);
            // poem-openapi's own payloads say nothing of their answer.
            if response["description"] == "" {
                response["description"] = json!("Success");
            }
            response["headers"]["X-Request-Id"] = json!({
                "description": "Id of the request, also in the log and in the audit entry",
                "required": true,
                "schema": { "type": "string", "format": "uuid" },
            });
        }
        sort_statuses(operation);
    }
}

/// OpenAPI 3.0 has no word for a stream of events; this is what tools take for one event.
fn describe_events(response: &mut Value) {
    if let Some(stream) = response.pointer_mut("/content/text~1event-stream") {
        stream["schema"] = json!({
            "type": "object",
            "description": "One event (Server-sent events, WHATWG HTML §9.2)",
            "required": ["id", "event", "data"],
            "properties": {
                "id": { "type": "string", "description": "For `Last-Event-ID`" },
                "event": { "type": "string", "description": "Kind of event" },
                "data": { "type": "string", "description": "JSON, as in the list" },
            },
        });
    }
}

/// A body that is too large or breaks off is noticed before anybody asks whether the operation has one.
fn add_statuses(operation: &mut Map<String, Value>) {
    for (status, description) in [
        ("400", "The request is malformed or breaks a rule"),
        ("413", "The body is too large"),
    ] {
        let content =
            json!({ "application/json": { "schema": { "$ref": "#/components/schemas/ApiError" } } });
        if operation["responses"].get(status).is_none() {
            operation["responses"][status] = json!({ "description": description, "content": content });
        }
    }
}

/// Nothing can be of the wrong type where nothing is read.
fn drop_content_type_error(operation: &mut Map<String, Value>) {
    if !operation.contains_key("requestBody")
        && let Some(by_status) = operation["responses"].as_object_mut()
    {
        by_status.shift_remove("415");
    }
}

fn sort_statuses(operation: &mut Map<String, Value>) {
    if let Some(by_status) = operation["responses"].as_object_mut() {
        by_status.sort_keys();
    }
}
