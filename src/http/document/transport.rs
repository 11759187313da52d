//! Documents what every response carries, and how a request can fail before it reaches its operation.

use serde_json::{Map, Value, json};

use super::{operations, responses};

pub(super) fn describe(document: &mut Value) {
    // A string in the code, because it has whole seconds, unlike all other times, which have milliseconds.
    document["components"]["schemas"]["ApiError"]["properties"]["timestamp"]["format"] = json!("date-time");
    for operation in operations(document) {
        add_statuses(operation);
        drop_content_type_error(operation);
        for (_, response) in responses(operation) {
            describe_events(response);
            // poem-openapi's own payloads have no description.
            if response["description"] == "" {
                response["description"] = json!("Success");
            }
            response["headers"]["X-Request-Id"] = json!({
                "description": "Id of the request, which also appears in the log and in the audit entry",
                "required": true,
                "schema": { "type": "string", "format": "uuid" },
            });
        }
        sort_statuses(operation);
    }
}

/// Documents one event of a stream: OpenAPI 3.0 cannot express the stream itself.
fn describe_events(response: &mut Value) {
    if let Some(stream) = response.pointer_mut("/content/text~1event-stream") {
        stream["schema"] = json!({
            "type": "object",
            "description": "One event (Server-sent events, WHATWG HTML §9.2)",
            "required": ["id"],
            "properties": {
                "id": { "type": "string", "description": "Id of the event, for `Last-Event-ID`" },
                "event": { "type": "string", "description": "`entry`; absent if there is no data" },
                "data": {
                    "type": "string",
                    "description": "The entry as JSON, as in the list; absent if the event has only an id",
                },
            },
        });
    }
}

/// Adds 400 and 413 to every operation: a body that is too large or incomplete is detected before it is known
/// whether the operation takes one.
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

/// Drops 415 from operations without a body.
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
