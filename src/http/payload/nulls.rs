//! Refuses null in a body where the document does not say `nullable`. serde would treat it as an absent field,
//! and a caller who means to remove something would get a success although nothing was removed.

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use serde_json::Value;

/// Returns the path of the first field that is null but not nullable.
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

/// Returns the schema of a field. A reference with a description is wrapped in `allOf`.
fn property<'a>(registry: &'a Registry, schema: &'a MetaSchema, name: &str) -> Option<&'a MetaSchemaRef> {
    let own = schema.properties.iter().find(|(called, _)| *called == name);
    own.map(|(_, field)| field).or_else(|| {
        let mut parts = schema.all_of.iter();
        parts.find_map(|part| property(registry, resolve(registry, part)?, name))
    })
}

/// Returns whether a field is nullable: marked so itself or beside its reference, or without any type.
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
