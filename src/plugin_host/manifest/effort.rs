//! How much work a plugin's schema can make of a configuration. A schema whose references fan out, each to two
//! others, takes twice as long for each step and ties up the host for years; so references are followed here, and
//! what they amount to has a bound.

use std::collections::HashMap;

use serde_json::Value;

/// Parts of the schema, counted as often as references lead to them.
const PARTS_MAX: u64 = 10_000;
/// Parts of the schema times parts of the configuration: half a second at most.
const WORK_MAX: u64 = 5_000_000;
/// References behind each other.
const CHAIN_MAX: usize = 64;

/// How many parts a schema has, each counted as often as a reference leads to it.
///
/// # Errors
/// In words: references that lead back to themselves or out of the schema, or too many parts.
pub(super) fn judge_schema(schema: &Value) -> Result<u64, String> {
    let mut walk = Walk {
        root: schema,
        known: HashMap::new(),
        chain: Vec::new(),
    };
    let parts = walk.parts(schema, true)?;
    if parts > PARTS_MAX {
        return Err(format!(
            "it has more than {PARTS_MAX} parts, each counted as often as a $ref leads to it"
        ));
    }
    Ok(parts)
}

/// Whether a configuration can be held against such a schema in bounded time.
///
/// # Errors
/// In words.
pub(super) fn judge_config(schema: &Value, config: &Value) -> Result<(), String> {
    let work = judge_schema(schema)?.saturating_mul(values(config));
    if work > WORK_MAX {
        return Err("it is too large for so large a schema".to_owned());
    }
    Ok(())
}

struct Walk<'a> {
    root: &'a Value,
    known: HashMap<&'a str, u64>,
    /// References that are being followed.
    chain: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn parts(&mut self, schema: &'a Value, is_root: bool) -> Result<u64, String> {
        let Value::Object(keywords) = schema else {
            let Value::Array(schemas) = schema else {
                return Ok(1);
            };
            // Saturating, here and below: what overflows is not to pass for little.
            return schemas.iter().try_fold(1_u64, |sum, schema| {
                self.parts(schema, false).map(|more| sum.saturating_add(more))
            });
        };
        let mut sum = 1_u64;
        for (keyword, value) in keywords {
            let more = match (keyword.as_str(), value) {
                // Counted where a reference leads there.
                ("$defs" | "definitions", _) => 0,
                // Data, whatever it looks like.
                ("const" | "enum" | "default" | "examples", data) => values(data),
                ("$ref", Value::String(target)) => self.follow(target)?,
                ("$dynamicRef" | "$recursiveRef", _) => return Err(format!("{keyword} is not supported")),
                ("$id", Value::String(_)) if !is_root => {
                    return Err("$id is supported for the schema as a whole only".to_owned());
                }
                (_, value) => self.parts(value, false)?,
            };
            sum = sum.saturating_add(more);
        }
        Ok(sum)
    }

    fn follow(&mut self, target: &'a str) -> Result<u64, String> {
        if self.chain.contains(&target) || target == "#" {
            return Err(format!("$ref {target:?} leads back to itself"));
        }
        if self.chain.len() == CHAIN_MAX {
            return Err(format!("more than {CHAIN_MAX} $ref lead from one to the other"));
        }
        if let Some(parts) = self.known.get(target) {
            return Ok(*parts);
        }
        let found = target
            .strip_prefix('#')
            .filter(|pointer| pointer.starts_with('/') && !pointer.contains('%'))
            .and_then(|pointer| self.root.pointer(pointer));
        let Some(schema) = found else {
            return Err(format!(
                "$ref {target:?} leads nowhere: \"#/$defs/name\" is the form"
            ));
        };
        self.chain.push(target);
        let parts = self.parts(schema, false)?;
        self.chain.pop();
        self.known.insert(target, parts);
        Ok(parts)
    }
}

/// How many values a value holds, itself included.
fn values(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(values).sum::<u64>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_count_as_often_as_they_are_followed() {
        let schema = json!({
            "properties": { "from": { "$ref": "#/$defs/day" }, "to": { "$ref": "#/$defs/day" } },
            "$defs": { "day": { "enum": ["mon", "tue"] } },
        });
        // The whole, "properties", two schemas, and twice the definition with its enum of three.
        assert_eq!(judge_schema(&schema), Ok(4 + 2 * 4));
    }

    #[test]
    fn a_schema_that_fans_out_is_refused_at_once() {
        let mut definitions = serde_json::Map::new();
        for n in 0..60 {
            let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
            definitions.insert(format!("d{n}"), json!({ "allOf": [next, next] }));
        }
        definitions.insert("d60".to_owned(), json!({ "type": "object" }));
        let schema = json!({ "$ref": "#/$defs/d0", "$defs": definitions });
        let refusal = judge_schema(&schema).unwrap_err();
        assert!(refusal.contains("more than 10000 parts"), "{refusal}");
    }

    #[test]
    fn what_is_too_much_to_count_is_not_taken_for_little() {
        // 16 references at each of 16 steps are 2^64 parts.
        let mut definitions = serde_json::Map::new();
        for n in 0..20 {
            let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
            definitions.insert(format!("d{n}"), json!({ "allOf": vec![next; 16] }));
        }
        definitions.insert("d20".to_owned(), json!({ "type": "object" }));
        let schema = json!({ "$ref": "#/$defs/d0", "$defs": definitions });
        let refusal = judge_schema(&schema).unwrap_err();
        assert!(refusal.contains("more than 10000 parts"), "{refusal}");
    }

    #[test]
    fn what_cannot_be_followed_is_refused_in_words() {
        for (schema, says) in [
            (json!({ "$ref": "#" }), "leads back to itself"),
            (json!({ "items": { "$ref": "#/items" } }), "leads back to itself"),
            (
                json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } }),
                "leads back to itself",
            ),
            (json!({ "$ref": "#name" }), "leads nowhere"),
            (json!({ "$ref": "https://example.org/s.json" }), "leads nowhere"),
            (
                json!({ "$ref": "#/%24defs/a", "$defs": { "a": {} } }),
                "leads nowhere",
            ),
            (json!({ "$dynamicRef": "#a" }), "$dynamicRef is not supported"),
            (
                json!({ "properties": { "a": { "$id": "x" } } }),
                "$id is supported",
            ),
        ] {
            let refusal = judge_schema(&schema).unwrap_err();
            assert!(refusal.contains(says), "{schema}: {refusal}");
        }
        assert!(judge_schema(&json!({ "$id": "https://example.org/s", "const": { "$ref": "x" } })).is_ok());
        assert!(judge_schema(&json!(true)).is_ok());
    }

    #[test]
    fn a_large_configuration_needs_a_small_schema() {
        let config = json!(vec![0; 20_000]);
        assert!(judge_config(&json!({ "items": { "type": "integer" } }), &config).is_ok());
        let large = json!({ "items": { "anyOf": vec![json!({ "type": "integer" }); 1_000] } });
        assert!(judge_config(&large, &json!([1, 2])).is_ok());
        assert!(judge_config(&large, &config).unwrap_err().contains("too large"));
    }
}
