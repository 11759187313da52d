//! Bounds the work that a plugin's schema can cause. A schema whose references fan out, each to two others,
//! doubles the work at each step and could occupy the host for years; so references are followed here and the
//! total is bounded. Patterns are bounded too: each takes memory, and time for each byte that it is matched
//! against.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Maximum parts of a schema, each counted as often as references lead to it.
const PARTS_MAX: u64 = 10_000;
/// Maximum of (parts of the schema × parts of the configuration), at most half a second, plus (weight of the
/// patterns × bytes that they are matched against), at most some seconds.
const WORK_MAX: u64 = 5_000_000;
/// Maximum number of different patterns, each of which is compiled.
const PATTERNS_MAX: usize = 64;
/// Minimum weight of a pattern, which otherwise weighs its bytes: a few bytes can express a long repetition.
const PATTERN_WEIGHT_MIN: u64 = 32;
/// Keywords that evaluate everything beside them again, including what is beside such keywords further inside.
const UNEVALUATED: [&str; 2] = ["unevaluatedProperties", "unevaluatedItems"];
const UNEVALUATED_AGAIN: u64 = 3;
/// Maximum nesting depth, along references too: every traversal uses stack for each level.
const DEPTH_MAX: usize = 128;
/// Maximum length of a chain of references.
const CHAIN_MAX: usize = 64;

/// The work that a schema or a part of it causes, each part counted as often as a reference leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effort {
    parts: u64,
    /// Total weight of the patterns.
    weight: u64,
    /// Nesting depth of its parts.
    depth: usize,
}

impl Effort {
    const fn of(parts: u64) -> Self {
        Self {
            parts,
            weight: 0,
            depth: 0,
        }
    }

    /// Saturates, here and below: an overflow must not pass for a small number.
    fn and(self, more: Self) -> Self {
        Self {
            parts: self.parts.saturating_add(more.parts),
            weight: self.weight.saturating_add(more.weight),
            depth: self.depth.max(more.depth),
        }
    }

    fn again(self, times: u64) -> Self {
        Self {
            parts: self.parts.saturating_mul(times),
            weight: self.weight.saturating_mul(times),
            depth: self.depth,
        }
    }
}

/// Returns the work that a schema causes.
///
/// # Errors
/// A message: references are circular or lead out of the schema, or there are too many parts or patterns.
pub(super) fn judge_schema(schema: &Value) -> Result<Effort, String> {
    let mut walk = Walk {
        root: schema,
        known: HashMap::new(),
        chain: Vec::new(),
        patterns: HashSet::new(),
        depth: 0,
    };
    let effort = walk.schema(schema, true)?;
    if effort.parts > PARTS_MAX {
        return Err(format!(
            "it has more than {PARTS_MAX} parts, each counted as often as a $ref leads to it"
        ));
    }
    if walk.patterns.len() > PATTERNS_MAX {
        return Err(format!("it has more than {PATTERNS_MAX} different patterns"));
    }
    Ok(effort)
}

/// Checks that a configuration can be validated against a schema in bounded time.
///
/// # Errors
/// A message with the reason.
pub(super) fn judge_config(schema: &Value, config: &Value) -> Result<(), String> {
    let effort = judge_schema(schema)?;
    let parts = effort.parts.saturating_mul(values(config));
    let matching = effort.weight.saturating_mul(text_bytes(config));
    if parts.saturating_add(matching) > WORK_MAX {
        return Err("it is too large for a schema of this size".to_owned());
    }
    Ok(())
}

struct Walk<'a> {
    root: &'a Value,
    known: HashMap<&'a str, Effort>,
    /// References that are being followed.
    chain: Vec<&'a str>,
    patterns: HashSet<&'a str>,
    /// Nesting depth of the current part.
    depth: usize,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, is_root: bool) -> Result<Effort, String> {
        let Value::Object(keywords) = schema else {
            let Value::Array(schemas) = schema else {
                return Ok(Effort::of(1));
            };
            return self.schemas(schemas);
        };
        self.fits(1)?;
        self.depth += 1;
        let mut sum = Effort::of(1);
        for (keyword, value) in keywords {
            let more = match (keyword.as_str(), value) {
                // Counted where a reference leads there.
                ("$defs" | "definitions", _) => Effort::of(0),
                // Plain data, even if it looks like a schema.
                ("const" | "enum" | "default" | "examples", data) => Effort::of(values(data)),
                // The author chooses these names: one that looks like a keyword is not a keyword.
                ("properties" | "dependentSchemas", Value::Object(named)) => self.schemas(named.values())?,
                ("patternProperties", Value::Object(matched)) => {
                    let mut sum = self.schemas(matched.values())?;
                    for pattern in matched.keys() {
                        sum = sum.and(self.pattern(pattern));
                    }
                    sum
                }
                ("pattern", Value::String(pattern)) => self.pattern(pattern),
                ("$ref", Value::String(target)) => self.follow(target)?,
                ("$dynamicRef" | "$recursiveRef", _) => return Err(format!("{keyword} is not supported")),
                ("$id", Value::String(_)) if !is_root => {
                    return Err("$id is supported for the schema as a whole only".to_owned());
                }
                (_, value) => self.schema(value, false)?,
            };
            sum = sum.and(more);
        }
        if UNEVALUATED.iter().any(|keyword| keywords.contains_key(*keyword)) {
            sum = sum.again(UNEVALUATED_AGAIN);
        }
        self.depth -= 1;
        sum.depth += 1;
        Ok(sum)
    }

    /// Checks that parts nested this deep are allowed at the current depth.
    fn fits(&self, depth: usize) -> Result<(), String> {
        if self.depth + depth > DEPTH_MAX {
            return Err(format!("its parts are nested more than {DEPTH_MAX} deep"));
        }
        Ok(())
    }

    fn schemas(&mut self, schemas: impl IntoIterator<Item = &'a Value>) -> Result<Effort, String> {
        schemas.into_iter().try_fold(Effort::of(1), |sum, schema| {
            self.schema(schema, false).map(|more| sum.and(more))
        })
    }

    fn pattern(&mut self, pattern: &'a str) -> Effort {
        self.patterns.insert(pattern);
        Effort {
            parts: 1,
            weight: (pattern.len() as u64).max(PATTERN_WEIGHT_MIN),
            depth: 0,
        }
    }

    fn follow(&mut self, target: &'a str) -> Result<Effort, String> {
        if self.chain.contains(&target) || target == "#" {
            return Err(format!("$ref {target:?} leads back to itself"));
        }
        if self.chain.len() == CHAIN_MAX {
            return Err(format!("more than {CHAIN_MAX} $ref follow each other"));
        }
        if let Some(effort) = self.known.get(target) {
            self.fits(effort.depth)?;
            return Ok(*effort);
        }
        let found = target
            .strip_prefix('#')
            .filter(|pointer| pointer.starts_with('/') && !pointer.contains('%'))
            .and_then(|pointer| self.root.pointer(pointer));
        let Some(schema) = found else {
            return Err(format!(
                "$ref {target:?} leads nowhere: it must have the form \"#/$defs/name\""
            ));
        };
        self.chain.push(target);
        let effort = self.schema(schema, false)?;
        self.chain.pop();
        self.known.insert(target, effort);
        Ok(effort)
    }
}

/// Returns the number of values in a value, itself included.
fn values(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(values).sum::<u64>(),
        _ => 1,
    }
}

/// Returns the total bytes of all strings and names in a value, which patterns are matched against.
fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| name.len() as u64 + text_bytes(value))
            .sum(),
        _ => 0,
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
        // The root, "properties", two schemas, and twice the definition with its enum of three.
        assert_eq!(judge_schema(&schema).map(|effort| effort.parts), Ok(4 + 2 * 4));
    }

    #[test]
    fn a_property_named_like_a_keyword_is_a_schema_all_the_same() {
        let endless = json!({ "$ref": "#/$defs/a" });
        for name in [
            "const",
            "enum",
            "default",
            "examples",
            "$defs",
            "definitions",
            "properties",
        ] {
            let mut schema = json!({ "$defs": { "a": { "items": endless } } });
            schema["properties"][name] = endless.clone();
            let refusal = judge_schema(&schema).unwrap_err();
            assert!(refusal.contains("leads back to itself"), "{name}: {refusal}");
        }
        assert!(judge_schema(&json!({ "properties": { "$id": { "type": "string" } } })).is_ok());
    }

    #[test]
    fn different_patterns_have_a_bound_and_so_has_what_they_are_held_against() {
        let with = |count: usize| {
            let each = (0..count).map(|n| json!({ "pattern": format!("^{n}$") }));
            json!({ "anyOf": each.collect::<Vec<_>>() })
        };
        assert!(judge_schema(&with(PATTERNS_MAX)).is_ok());
        let refusal = judge_schema(&with(PATTERNS_MAX + 1)).unwrap_err();
        assert!(refusal.contains("more than 64 different patterns"), "{refusal}");
        let keys: serde_json::Map<_, _> = (0..=PATTERNS_MAX)
            .map(|n| (format!("^{n}$"), json!({})))
            .collect();
        assert!(judge_schema(&json!({ "patternProperties": keys })).is_err());
        let same = json!({ "anyOf": vec![json!({ "pattern": "^[a-z]+$" }); 1_000] });
        assert!(judge_schema(&same).is_ok(), "one pattern is compiled once");

        let long = json!("a".repeat(60_000));
        assert!(judge_config(&with(2), &long).is_ok());
        assert!(judge_config(&with(10), &json!("a".repeat(10_000))).is_ok());
        assert!(judge_config(&with(10), &long).unwrap_err().contains("too large"));
        let names: serde_json::Map<_, _> = (0..6_000).map(|n| (format!("name-{n:05}"), json!(0))).collect();
        let named =
            json!({ "patternProperties": { "^[a-z]+-[0-9]+[0-9a-f]{1,9}x?y?z?$": {}, "^a": {}, "^b": {} } });
        assert!(
            judge_config(&named, &json!(names))
                .unwrap_err()
                .contains("too large")
        );
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
    fn what_is_left_over_counts_for_each_schema_around_it() {
        let nested = |depth: usize| {
            let inner = json!({ "properties": { "a": {} } });
            (0..depth).fold(
                inner,
                |schema, _| json!({ "allOf": [schema], "unevaluatedProperties": false }),
            )
        };
        assert!(judge_schema(&nested(3)).is_ok());
        let refusal = judge_schema(&nested(20)).unwrap_err();
        assert!(refusal.contains("more than 10000 parts"), "{refusal}");
    }

    #[test]
    fn no_schema_takes_the_stack_of_who_goes_through_it() {
        let links = |names: &mut dyn Iterator<Item = usize>| {
            let mut definitions = serde_json::Map::new();
            for n in 0..60 {
                let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
                let deep = (0..50).fold(next, |schema, _| json!({ "not": schema }));
                definitions.insert(format!("d{n}"), deep);
            }
            definitions.insert("d60".to_owned(), json!({ "type": "object" }));
            let first = names.map(|n| json!({ "$ref": format!("#/$defs/d{n}") }));
            json!({ "anyOf": first.collect::<Vec<_>>(), "$defs": definitions })
        };
        // In reverse order the depth of each link is already known when a reference leads there.
        for schema in [links(&mut (0..60)), links(&mut (0..60).rev())] {
            let refusal = judge_schema(&schema).unwrap_err();
            assert!(refusal.contains("more than 128 deep"), "{refusal}");
        }
        assert!(judge_schema(&links(&mut (58..60))).is_ok());
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
