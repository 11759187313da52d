//! Null in a body, where the document does not say `nullable`: serde would take it for a field that was left out, and
//! whoever means to remove something would be told that it is done.

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use serde_json::Value;

/// The first field that is null and may not be, as a path.
pub(super) fn find_forbidden<T: Type>(body: &Value) -> Option<String> {
    if !has_null(body) {
        return None;
    }
    let mut registry = Registry::new();
    T::register(&mut registry);
    find(&registry, &T::schema_ref(), body)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

fn find(registry: &Registry, schema: &MetaSchemaRef, object: &Value) -> Option<String> {
    let schema = resolve(registry, schema)?;
    object.as_object()?.iter().find_map(|(name, value)| {
        let field = property(registry, schema, name)?;
        if !value.is_null() {
            return Some(format!("{name}.{}", find(registry, field, value)?));
        }
        (!may_be_null(resolve(registry, field)?)).then(|| name.clone())
    })
}

/// A field's schema; beside a description, a reference stands in `allOf`.
fn property<'a>(registry: &'a Registry, schema: &'a MetaSchema, name: &str) -> Option<&'a MetaSchemaRef> {
    let own = schema.properties.iter().find(|(called, _)| *called == name);
    own.map(|(_, field)| field).or_else(|| {
        let mut parts = schema.all_of.iter();
        parts.find_map(|part| property(registry, resolve(registry, part)?, name))
    })
}

/// Said of the field, or beside the reference; or anything goes.
fn may_be_null(field: &MetaSchema) -> bool {
    let beside = |part: &MetaSchemaRef| matches!(part, MetaSchemaRef::Inline(schema) if schema.nullable);
    field.nullable || field.all_of.iter().any(beside) || (field.ty.is_empty() && field.all_of.is_empty())
}

fn resolve<'a>(registry: &'a Registry, schema: &'a MetaSchemaRef) -> Option<&'a MetaSchema> {
    match schema {
        MetaSchemaRef::Inline(schema) => Some(schema),
        MetaSchemaRef::Reference(name) => registry.schemas.get(name),
    }
}
