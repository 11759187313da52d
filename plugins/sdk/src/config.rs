//! From configuration text to an author's type, with errors that say where.

use serde::{Deserialize, de::DeserializeOwned};
use serde_path_to_error::Segment;

/// The configuration of a policy that has none: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Reads a configuration; text that is empty is `{}`.
///
/// # Errors
/// `/path/to/key: reason`, the path being a JSON Pointer (RFC 6901); without a path where the
/// text is not JSON or the whole is meant.
pub fn parse<C: DeserializeOwned>(text: &str) -> Result<C, String> {
    let text = if text.is_empty() { "{}" } else { text };
    // serde would take an array for a struct.
    if !text.trim_start().starts_with('{') {
        return Err("must be a JSON object".into());
    }
    serde_json::from_str(text).map_err(|_| explain::<C>(text))
}

/// `Err("path: reason")` unless the condition holds.
///
/// # Errors
/// As said.
pub fn ensure(holds: bool, path: &str, reason: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err([path, ": ", reason].concat()) }
}

// Reads once more, keeping track of the path: only a bad configuration pays for it.
#[cold]
fn explain<C: DeserializeOwned>(text: &str) -> String {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(error) = serde_path_to_error::deserialize::<_, C>(&mut deserializer) else {
        return "more than one JSON value".into();
    };
    let mut pointer = String::new();
    for segment in error.path() {
        let part = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&part);
    }
    let mut reason = error.inner().to_string();
    // The path says it better, except where the text is not JSON.
    if error.inner().is_data() && let Some(place) = reason.rfind(" at line ") {
        reason.truncate(place);
    }
    if pointer.is_empty() { reason } else { [&pointer, ": ", &reason].concat() }
}

#[cfg(test)]
mod tests {
    use super::{NoConfig, ensure, parse};
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Config {
        per_user: Option<Budget>,
        #[serde(default)]
        days: Vec<Day>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Budget {
        max: u32,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Day {
        Mon,
        Tue,
    }

    #[test]
    fn errors_name_the_path_and_the_reason() {
        for (text, error) in [
            (r#"{"perUser":{"max":"x"}}"#, r#"/perUser/max: invalid type: string "x", expected u32"#),
            (r#"{"perUser":{"max":-1}}"#, "/perUser/max: invalid value: integer `-1`, expected u32"),
            (r#"{"perUser":{}}"#, "/perUser: missing field `max`"),
            (r#"{"perUser":{"max":1,"mx":2}}"#, "/perUser/mx: unknown field `mx`, expected `max`"),
            (r#"{"perUsr":{}}"#, "/perUsr: unknown field `perUsr`, expected `perUser` or `days`"),
            (r#"{"a/b~":{}}"#, "/a~1b~0: unknown field `a/b~`, expected `perUser` or `days`"),
            (r#"{"days":["mon","fri"]}"#, "/days/1: unknown variant `fri`, expected `mon` or `tue`"),
            ("[{\"max\":1}]", "must be a JSON object"),
            ("7", "must be a JSON object"),
            (r#"{"days":[}"#, "/days/0: expected value at line 1 column 10"),
            ("{} {}", "more than one JSON value"),
        ] {
            assert_eq!(parse::<Config>(text).expect_err(text), error, "{text}");
        }
    }

    #[test]
    fn no_text_is_an_empty_configuration() {
        assert_eq!(parse(""), Ok(NoConfig {}));
        assert_eq!(parse("{}"), Ok(Config { per_user: None, days: vec![] }));
        assert!(parse::<NoConfig>(r#"{"a":1}"#).is_err());
    }

    #[test]
    fn ensure_joins_path_and_reason() {
        assert_eq!(ensure(true, "/a", "b"), Ok(()));
        assert_eq!(ensure(false, "/a", "must be b"), Err("/a: must be b".into()));
    }
}
