//! Adds an example to every parameter, body and response: from `examples.yaml`, or else built from the schema
//! with the values that `examples.yaml` has for fields of the same name.

use poem::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{operations_by_path, referenced, responses};

/// The contents of `examples.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Examples {
    /// Parameter → value; `operationId.parameter` takes precedence.
    parameters: Map<String, Value>,
    /// Field → value; `Schema.field` takes precedence.
    fields: Map<String, Value>,
    /// Status → message of its error where an operation has no example of its own.
    errors: Map<String, Value>,
    /// `operationId` → `request` or status → name → example.
    operations: Map<String, Value>,
}

pub(super) fn add(document: &mut Value) {
    let examples: Examples =
        serde_yaml::from_str(include_str!("examples.yaml")).expect("a test reads the examples");
    let schemas = document["components"]["schemas"].clone();
    let maker = Maker {
        schemas: &schemas,
        fields: &examples.fields,
    };
    for (path, operation) in operations_by_path(document) {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        let own = examples.operations.get(&id).unwrap_or(&Value::Null);
        let mut called = path.to_owned();
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        for parameter in parameters.into_iter().flatten() {
            add_to_parameter(parameter, &id, &examples.parameters, &maker);
            if let (Some(name), Some(example)) = (parameter["name"].as_str(), parameter["example"].as_str()) {
                called = called.replace(&format!("{{{name}}}"), example);
            }
        }
        if let Some(body) = operation.get_mut("requestBody") {
            add_to_content(body, &own["request"], &maker);
        }
        for (status, response) in responses(operation) {
            if status.starts_with('2') {
                add_to_content(response, &own[status], &maker);
            } else {
                let usual = usual_error(status, &examples.errors);
                add_errors(response, &own[status], &usual, &called);
            }
        }
    }
}

fn add_to_parameter(parameter: &mut Value, operation: &str, known: &Map<String, Value>, maker: &Maker) {
    let name = parameter["name"].as_str().unwrap_or_default();
    let known = known
        .get(&format!("{operation}.{name}"))
        .or_else(|| known.get(name));
    let example = match known {
        Some(value) => value.clone(),
        None => maker.example(&parameter["schema"], ("", name)),
    };
    parameter["example"] = example;
}

fn add_to_content(message: &mut Value, own: &Value, maker: &Maker) {
    let Some(body) = json_body(message) else { return };
    if own.is_object() {
        body["examples"] = own.clone();
    } else {
        body["example"] = maker.example(&body["schema"], ("", ""));
    }
}

/// Adds the examples of an error. `own` holds only the fields that differ from `usual`.
fn add_errors(response: &mut Value, own: &Value, usual: &Map<String, Value>, path: &str) {
    let Some(body) = json_body(response) else { return };
    let Some(own) = own.as_object() else {
        body["example"] = usual.clone().into();
        return;
    };
    for (name, particular) in own {
        let mut error = usual.clone();
        error.insert("path".into(), json!(path));
        let mut particular = particular.as_object().cloned().unwrap_or_default();
        let summary = particular.shift_remove("summary").unwrap_or_default();
        error.extend(particular);
        body["examples"][name] = json!({ "summary": summary, "value": error });
    }
}

fn usual_error(status: &str, errors: &Map<String, Value>) -> Map<String, Value> {
    let phrase = StatusCode::from_bytes(status.as_bytes())
        .ok()
        .and_then(|code| code.canonical_reason());
    let mut error = Map::new();
    error.insert("timestamp".into(), json!("2026-02-18T10:30:00Z"));
    error.insert("status".into(), json!(status.parse::<u16>().unwrap_or_default()));
    error.insert("error".into(), json!(phrase.unwrap_or("Error")));
    error.insert(
        "message".into(),
        errors.get(status).cloned().unwrap_or_else(|| json!(phrase)),
    );
    let path = "/api/v1/users/770e8400-e29b-41d4-a716-446655440004/reset-mfa";
    error.insert("path".into(), json!(path));
    error
}

fn json_body(message: &mut Value) -> Option<&mut Value> {
    message.get_mut("content")?.get_mut("application/json")
}

/// Builds examples from schemas.
struct Maker<'a> {
    schemas: &'a Value,
    fields: &'a Map<String, Value>,
}

impl Maker<'_> {
    /// Builds an example for the field `name` of the schema `of`.
    fn example(&self, schema: &Value, (of, name): (&str, &str)) -> Value {
        let known = [format!("{of}.{name}"), name.to_owned()];
        let known = known.iter().filter_map(|key| self.fields.get(key));
        if let Some(known) = known.into_iter().find(|value| fits(value, schema)) {
            return known.clone();
        }
        if let Some(example) = schema.get("example") {
            return example.clone();
        }
        if let Some(referenced) = referenced(schema) {
            let schema = &self.schemas[referenced];
            return match schema.get("properties") {
                Some(_) => self.object(schema, referenced),
                None => self.example(schema, (of, name)),
            };
        }
        for combined in ["allOf", "oneOf", "anyOf"] {
            if let Some(first) = schema[combined].get(0) {
                return self.example(first, (of, name));
            }
        }
        if let Some(first) = schema["enum"].get(0) {
            return first.clone();
        }
        match schema["type"].as_str() {
            Some("object") => self.object(schema, of),
            Some("array") => json!([self.example(&schema["items"], (of, name))]),
            Some("boolean") => json!(true),
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
            Some("string") => string(schema),
            _ => json!({}),
        }
    }

    fn object(&self, schema: &Value, name: &str) -> Value {
        if let Some(example) = schema.get("example") {
            return example.clone();
        }
        let fields = schema["properties"].as_object().into_iter().flatten();
        fields
            .map(|(field, schema)| (field.clone(), self.example(schema, (name, field))))
            .collect::<Map<_, _>>()
            .into()
    }
}

/// Returns whether `value` has the type of `schema`: fields of the same name can differ in type.
fn fits(value: &Value, schema: &Value) -> bool {
    match (value, schema["type"].as_str()) {
        (Value::Null, _) => schema["nullable"] == true,
        (_, None) => schema.get("$ref").is_none(),
        (value, Some(of_type)) => match of_type {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            _ => value.is_object(),
        },
    }
}

fn string(schema: &Value) -> Value {
    match schema["format"].as_str() {
        Some("uuid") => json!("770e8400-e29b-41d4-a716-446655440004"),
        Some("date-time") => json!("2026-02-18T10:30:00.000Z"),
        Some("date") => json!("2026-02-18"),
        _ => json!("text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_of_an_operation_that_there_is() {
        let document = super::super::document();
        let text = include_str!("examples.yaml");
        let examples: Examples = serde_yaml::from_str(text).unwrap();
        let mut there = Vec::new();
        for operation in document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|p| p.as_object().unwrap().values())
        {
            let id = operation["operationId"].as_str().unwrap();
            there.push(format!("{id}.request"));
            there.extend(
                operation["responses"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(|status| format!("{id}.{status}")),
            );
        }
        for (id, own) in &examples.operations {
            for part in own.as_object().unwrap().keys() {
                assert!(
                    there.contains(&format!("{id}.{part}")),
                    "examples.yaml: {id}.{part} is nowhere in the document"
                );
            }
        }
    }

    #[test]
    fn examples_are_made_from_schemas_and_names() {
        let schemas = json!({ "User": { "type": "object", "properties": {
            "email": { "type": "string" },
            "id": { "type": "string", "format": "uuid" },
            "size": { "type": "integer", "minimum": 3 },
            "tags": { "type": "array", "items": { "type": "string", "enum": ["a", "b"] } },
        }}});
        let fields = json!({ "email": "dev@juniper.example", "size": "not a number" });
        let maker = Maker {
            schemas: &schemas,
            fields: fields.as_object().unwrap(),
        };
        let list = json!({ "type": "array", "items": { "$ref": "#/components/schemas/User" } });
        assert_eq!(
            maker.example(&list, ("", "")),
            json!([{
                "email": "dev@juniper.example", "id": "770e8400-e29b-41d4-a716-446655440004", "size": 3, "tags": ["a"],
            }])
        );
    }
}
