//! The facts of a denial: an object on the wire, in the order in which the policy gave them.

use std::borrow::Cow;

use poem_openapi::registry::MetaSchemaRef;
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};

use crate::domain::policy::Attribute;

/// Facts by name, in the policy's order.
#[derive(Clone, Debug)]
pub struct Facts(serde_json::Map<String, serde_json::Value>);

impl<'a> FromIterator<&'a Attribute> for Facts {
    /// Appends a number to a name that is already present, so that no fact is lost and the first keeps its
    /// name.
    fn from_iter<T: IntoIterator<Item = &'a Attribute>>(facts: T) -> Self {
        let mut map = serde_json::Map::new();
        for Attribute { name, value } in facts {
            let numbered = (2..).map(|number| format!("{name}-{number}"));
            let free = std::iter::once(name.clone())
                .chain(numbered)
                .find(|name| !map.contains_key(name));
            map.extend(free.map(|name| (name, value.as_str().into())));
        }
        Self(map)
    }
}

/// Documented as a map of strings.
type Documented = std::collections::HashMap<String, String>;

impl Type for Facts {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        Documented::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        Documented::schema_ref()
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl ToJSON for Facts {
    fn to_json(&self) -> Option<serde_json::Value> {
        Some(serde_json::Value::Object(self.0.clone()))
    }
}

impl ParseFromJSON for Facts {
    fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
        match value {
            Some(serde_json::Value::Object(map)) => Ok(Self(map)),
            other => Err(ParseError::expected_type(other.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_keep_their_order_and_none_is_lost() {
        let fact = |(name, value): (&str, &str)| Attribute {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let named = [
            ("zone", "UTC"),
            ("at", "1"),
            ("limit", "3"),
            ("at", "2"),
            ("at", "3"),
        ]
        .map(fact);
        let json = named.iter().collect::<Facts>().to_json().expect("an object");
        assert_eq!(
            json.to_string(),
            r#"{"zone":"UTC","at":"1","limit":"3","at-2":"2","at-3":"3"}"#
        );
    }
}
