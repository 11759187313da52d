//! What the OpenAPI document says about a path: the methods it allows, which RFC 9110 §15.5.6 requires on every
//! 405 and poem does not report; and the query parameters of its GET, because poem ignores unknown ones.

use std::collections::BTreeMap;

use poem::http::HeaderValue;
use serde_json::Value;

use crate::domain::{Error, Result};

/// Limits on how much of the caller's input a refusal echoes: the number of unknown parameters, and the
/// characters of each name.
const NAMED: usize = 8;
const NAME_CHARACTERS: usize = 64;

/// The allowed methods and query parameters of each path template.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Vec<Item>);

#[derive(Clone, Debug)]
struct Item {
    template: Vec<String>,
    /// The value of the `Allow` header.
    methods: HeaderValue,
    /// Query parameters of its GET; `None` if it has no GET or is a page.
    query: Option<Vec<String>>,
}

impl Allowed {
    /// Reads the paths of the OpenAPI document; `pages` are the read-only paths that it does not describe.
    #[must_use]
    pub fn new(document: &Value, pages: &[&str]) -> Self {
        let paths = document["paths"].as_object();
        let operations = paths.into_iter().flatten();
        let operations = operations.map(|(path, item)| Item {
            template: split(path),
            methods: allow(item),
            query: item.get("get").map(query_parameters),
        });
        let pages = pages.iter().map(|page| Item {
            template: split(page),
            methods: HeaderValue::from_static("GET, HEAD"),
            query: None,
        });
        Self(operations.chain(pages).collect())
    }

    /// Returns the value of the `Allow` header for `path`; `None` if no template matches it.
    #[must_use]
    pub fn methods(&self, path: &str) -> Option<HeaderValue> {
        self.item(path).map(|item| item.methods.clone())
    }

    /// Refuses query parameters that the GET of `path` does not define.
    ///
    /// # Errors
    /// [`Error::Validation`], keyed by the unknown names; each message lists the known ones.
    pub fn check_query(&self, path: &str, asked: &[(String, String)]) -> Result<()> {
        if asked.is_empty() {
            return Ok(()); // nearly every request: spare it the search
        }
        let Some(known) = self.item(path).and_then(|item| item.query.as_ref()) else {
            return Ok(());
        };
        let unknown = asked
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !known.contains(name));
        let problems: BTreeMap<_, _> = unknown
            .take(NAMED)
            .map(|name| {
                let name: String = name.chars().take(NAME_CHARACTERS).collect();
                let problem = match known.is_empty() {
                    true => "is an unknown query parameter; there are none".to_owned(),
                    false => format!("is an unknown query parameter; known: {}", known.join(", ")),
                };
                (name, problem)
            })
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Validation(problems))
    }

    /// Finds the template that matches `path`. As in the router, a literal segment takes precedence over a
    /// parameter.
    fn item(&self, path: &str) -> Option<&Item> {
        let asked = split(path);
        self.0
            .iter()
            .filter(|item| fits(&item.template, &asked))
            .min_by_key(|item| item.template.iter().filter(|part| part.starts_with('{')).count())
    }
}

fn split(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

fn fits(template: &[String], asked: &[String]) -> bool {
    template.len() == asked.len()
        && template
            .iter()
            .zip(asked)
            .all(|(t, a)| t.starts_with('{') || t == a)
}

fn query_parameters(operation: &Value) -> Vec<String> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters
        .filter(|parameter| parameter["in"] == "query")
        .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned))
        .collect()
}

fn allow(item: &Value) -> HeaderValue {
    let mut methods: Vec<String> = item
        .as_object()
        .into_iter()
        .flatten()
        .map(|(method, _)| method.to_uppercase())
        .collect();
    if methods.iter().any(|m| m == "GET") {
        methods.push("HEAD".into());
    }
    HeaderValue::from_str(&methods.join(", ")).expect("methods are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_segment_comes_before_a_parameter() {
        let document = serde_json::json!({ "paths": {
            "/users/{id}": { "get": {}, "delete": {} },
            "/users/import": { "post": {} },
        }});
        let allowed = Allowed::new(&document, &["/docs"]);
        assert_eq!(allowed.methods("/users/import").unwrap(), "POST");
        assert_eq!(allowed.methods("/users/4711").unwrap(), "GET, DELETE, HEAD");
        assert_eq!(allowed.methods("/docs").unwrap(), "GET, HEAD");
        assert_eq!(allowed.methods("/users"), None);
    }
}
