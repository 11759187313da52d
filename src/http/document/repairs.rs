//! Corrects what poem-openapi gets wrong, or writes in a way that client generators mishandle.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{operations, referenced};

pub(super) fn apply(document: &mut Value) {
    clean(document);
    flatten_references(document);
    for operation in operations(document) {
        clean_parameters(operation);
        keep_one_binary_type(operation);
        // State explicitly that no authentication is required.
        operation.entry("security").or_insert(json!([]));
    }
    bound_settings(document);
    let sent = reachable(document, "requestBody");
    let answered = reachable(document, "responses");
    for (name, schema) in schemas(document) {
        drop_false_nulls(schema);
        if sent.contains(name) {
            refuse_unknown_fields(schema);
        } else if answered.contains(name) {
            require_nullable_fields(schema);
        }
    }
}

/// Normalises numbers, integer formats, defaults and prose throughout the document.
fn clean(value: &mut Value) {
    match value {
        Value::Object(object) => {
            standard_integer(object);
            // A default without a type: Java's generator turns it into code that does not compile.
            if object.get("default") == Some(&json!({})) && !object.contains_key("type") {
                object.shift_remove("default");
            }
            if object.get("deprecated") == Some(&Value::Bool(false)) {
                object.shift_remove("deprecated");
            }
            for key in ["description", "summary"] {
                if let Some(Value::String(text)) = object.get_mut(key) {
                    *text = reflow(text);
                }
            }
            object.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
                *value = json!(whole);
            }
        }
        _ => {}
    }
}

/// Returns a float that is a whole number as an integer, so that the document says `20` and not `20.0`.
fn whole(float: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
    (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
}

/// Replaces formats such as `uint16`, which OpenAPI does not define and Java reads as signed 32 bits. The
/// bounds express what the format meant.
fn standard_integer(schema: &mut Map<String, Value>) {
    let (format, maximum) = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => ("int32", Some(u64::from(u8::MAX))),
        Some("uint16") => ("int32", Some(u64::from(u16::MAX))),
        Some("uint32") => ("int64", Some(u64::from(u32::MAX))),
        Some("uint64" | "uint") => ("int64", None),
        _ => return,
    };
    schema.insert("format".into(), json!(format));
    schema.entry("minimum").or_insert(json!(0));
    if let Some(maximum) = maximum {
        schema.entry("maximum").or_insert(json!(maximum));
    }
}

/// Joins the lines of a paragraph: doc comments break at the source's margin, and generated code has its own.
fn reflow(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let starts_anew = lines.is_empty()
            || lines.ends_with('\n')
            || line.trim().is_empty()
            || line.starts_with(['-', '*', '|', ' ', '#']);
        lines.push_str(match (starts_anew, lines.is_empty()) {
            (_, true) => "",
            (true, _) => "\n",
            (false, _) => " ",
        });
        lines.push_str(line);
    }
    lines
}

/// Simplifies `allOf: [{$ref}, {description}]`, whose second part repeats what stands beside `allOf`. A
/// nullable reference is replaced by the referenced schema: OpenAPI 3.0.3 gives `nullable` no meaning beside a
/// reference, and generators and validators differ in how they treat it.
fn flatten_references(document: &mut Value) {
    let known = document["components"]["schemas"].clone();
    flatten(document, &known);
    let mut left = Vec::new();
    collect_references(document, &mut left);
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| left.contains(name));
    }
    drop_titles(document, &left);
}

fn flatten(value: &mut Value, known: &Value) {
    match value {
        Value::Object(object) => {
            flatten_one(object, known);
            object.values_mut().for_each(|inner| flatten(inner, known));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| flatten(inner, known)),
        _ => {}
    }
}

fn flatten_one(schema: &mut Map<String, Value>, known: &Value) {
    const BESIDE: [&str; 4] = ["description", "nullable", "example", "default"];
    let parts = schema.get("allOf").and_then(Value::as_array);
    let Some([reference, beside]) = parts.map(Vec::as_slice) else {
        return;
    };
    let (Some(name), Some(beside)) = (referenced(reference), beside.as_object()) else {
        return;
    };
    if !beside.keys().all(|key| BESIDE.contains(&key.as_str())) {
        return;
    }
    let (reference, beside) = (reference.clone(), beside.clone());
    let written_out = known[name]
        .as_object()
        .filter(|_| schema.get("nullable") == Some(&json!(true)));
    if let Some(written_out) = written_out {
        let title = json!(name);
        schema.shift_remove("allOf");
        for (key, value) in written_out {
            schema.entry(key).or_insert_with(|| value.clone());
        }
        // Generators use the title as the type's name.
        schema.insert("title".into(), title);
    } else {
        schema.insert("allOf".into(), json!([reference]));
    }
    for (key, value) in beside {
        schema.entry(key).or_insert(value);
    }
}

/// Drops titles that repeat a schema's name: redundant on the schema itself, and elsewhere they create a second
/// type of that name.
fn drop_titles(value: &mut Value, names: &[String]) {
    match value {
        Value::Object(object) => {
            let repeats = |title: &Value| title.as_str().is_some_and(|t| names.iter().any(|n| n == t));
            if object.get("title").is_some_and(repeats) {
                object.shift_remove("title");
            }
            object.values_mut().for_each(|inner| drop_titles(inner, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| drop_titles(inner, names)),
        _ => {}
    }
}

/// Ranges of settings that may be null. They are not validators of the fields, because
/// [`check_settings`](crate::service::administration::check_settings) refuses other values with a better text.
const SETTINGS: [(&str, u16, u16); 3] = [
    ("passwordExpirationDays", 1, 365),
    ("stepUpMinutes", 1, 1_440),
    ("auditRetentionDays", 30, 36_500),
];

fn bound_settings(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    for schema in ["OrganizationSettings", "OrganizationSettingsPatch"] {
        for (field, minimum, maximum) in SETTINGS {
            if let Some(field) = schemas[schema]["properties"][field].as_object_mut() {
                field.insert("minimum".into(), json!(minimum));
                field.insert("maximum".into(), json!(maximum));
            }
        }
    }
}

/// Drops `explode` where it has no meaning: it applies only to lists in a query.
fn clean_parameters(operation: &mut Map<String, Value>) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter_map(Value::as_object_mut) {
        if parameter["schema"]["type"] != "array" {
            parameter.shift_remove("explode");
        }
    }
}

/// Keeps one media type for a binary body. The server accepts several, but most generators support one per
/// body, and treat only this one as bytes.
fn keep_one_binary_type(operation: &mut Map<String, Value>) {
    const BINARY: &str = "application/octet-stream";
    let body = operation.get_mut("requestBody").map(|body| &mut body["content"]);
    if let Some(content) = body.and_then(Value::as_object_mut)
        && content.contains_key(BINARY)
    {
        content.retain(|media_type, _| media_type == BINARY);
    }
}

/// Drops nulls from examples where the field would be absent: examples built in code write every `None` as
/// null.
fn drop_false_nulls(schema: &mut Map<String, Value>) {
    let properties = schema.get("properties").cloned().unwrap_or_default();
    if let Some(example) = schema.get_mut("example").and_then(Value::as_object_mut) {
        example.retain(|field, value| !value.is_null() || properties[field]["nullable"] == true);
    }
}

/// Documents that unknown fields are refused: request bodies are parsed with `deny_unknown_fields`
/// (`payload::J`).
fn refuse_unknown_fields(schema: &mut Map<String, Value>) {
    if schema.contains_key("properties") {
        schema.entry("additionalProperties").or_insert(json!(false));
    }
}

/// Marks nullable fields of responses as required: they are always present, so that generated types have one
/// kind of absence and not two.
fn require_nullable_fields(schema: &mut Map<String, Value>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let mut required: BTreeSet<String> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let nullable = properties
        .iter()
        .filter(|(_, property)| property["nullable"] == true)
        .map(|(name, _)| name.clone());
    required.extend(nullable);
    // Keep the order of the fields.
    let required: Vec<_> = properties
        .keys()
        .filter(|name| required.contains(*name))
        .collect();
    if !required.is_empty() {
        let required = json!(required);
        schema.insert("required".into(), required);
    }
}

/// Returns the schemas that are reachable from this part of any operation.
fn reachable(document: &mut Value, part: &str) -> BTreeSet<String> {
    let mut open: Vec<String> = Vec::new();
    for operation in operations(document) {
        collect_references(operation.get(part).unwrap_or(&Value::Null), &mut open);
    }
    let mut reached = BTreeSet::new();
    while let Some(name) = open.pop() {
        if reached.insert(name.clone()) {
            collect_references(&document["components"]["schemas"][&name], &mut open);
        }
    }
    reached
}

fn collect_references(value: &Value, into: &mut Vec<String>) {
    into.extend(referenced(value).map(str::to_owned));
    match value {
        Value::Object(object) => object.values().for_each(|inner| collect_references(inner, into)),
        Value::Array(items) => items.iter().for_each(|inner| collect_references(inner, into)),
        _ => {}
    }
}

fn schemas(document: &mut Value) -> impl Iterator<Item = (&str, &mut Map<String, Value>)> {
    document["components"]["schemas"]
        .as_object_mut()
        .into_iter()
        .flatten()
        .filter_map(|(name, schema)| Some((name.as_str(), schema.as_object_mut()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_flows_and_paragraphs_and_lists_stay() {
        assert_eq!(
            reflow("one\ntwo\n\nthree\n- four\n- five"),
            "one two\n\nthree\n- four\n- five"
        );
    }

    #[test]
    fn integers_get_formats_that_openapi_knows() {
        let mut document = json!({ "schema": { "type": "integer", "format": "uint32", "maximum": 20.0 } });
        clean(&mut document);
        let schema = &document["schema"];
        assert_eq!(
            schema,
            &json!({ "type": "integer", "format": "int64", "maximum": 20, "minimum": 0 })
        );
    }

    #[test]
    fn a_nullable_reference_is_written_out_and_another_one_stays() {
        let user =
            json!({ "title": "User", "type": "object", "properties": { "name": { "type": "string" } } });
        let reference = json!({ "$ref": "#/components/schemas/User" });
        let field = |nullable: bool| {
            let beside = if nullable {
                json!({ "nullable": true })
            } else {
                json!({ "description": "who" })
            };
            json!({ "description": "who", "nullable": nullable, "allOf": [reference, beside] })
        };
        let mut document = json!({ "components": { "schemas": { "User": user } }, "maybe": field(true) });
        let mut both = document.clone();
        both["always"] = field(false);
        flatten_references(&mut document);
        assert_eq!(document["maybe"]["title"], "User");
        assert_eq!(document["maybe"]["properties"]["name"]["type"], "string");
        assert_eq!(document["components"]["schemas"], json!({}));
        flatten_references(&mut both);
        assert_eq!(both["always"]["allOf"], json!([reference]));
        assert_eq!(both["maybe"].get("title"), None);
    }

    #[test]
    fn what_may_be_null_in_an_answer_is_always_there() {
        let mut schema = json!({
            "required": ["b"],
            "properties": { "a": { "nullable": true }, "b": {}, "c": {} },
        });
        let schema = schema.as_object_mut().unwrap();
        require_nullable_fields(schema);
        assert_eq!(schema["required"], json!(["a", "b"]));
    }
}
