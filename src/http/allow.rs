//! Which methods a path allows: RFC 9110 §15.5.6 wants them with every 405, and poem does not say.

use poem::http::HeaderValue;
use serde_json::Value;

/// Path templates and the `Allow` header of each.
#[derive(Clone, Debug, Default)]
pub struct AllowedMethods(Vec<(Vec<String>, HeaderValue)>);

impl AllowedMethods {
    /// Reads them off the OpenAPI document; `pages` are the read-only paths that it does not describe.
    #[must_use]
    pub fn new(document: &Value, pages: &[&str]) -> Self {
        let paths = document["paths"].as_object();
        let operations = paths.into_iter().flatten();
        let pages = pages
            .iter()
            .map(|page| (split(page), HeaderValue::from_static("GET, HEAD")));
        Self(
            operations
                .map(|(path, item)| (split(path), allow(item)))
                .chain(pages)
                .collect(),
        )
    }

    /// The `Allow` header of the template that fits `path`, as the router sees it: a literal segment
    /// before a parameter.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<HeaderValue> {
        let asked = split(path);
        self.0
            .iter()
            .filter(|(template, _)| fits(template, &asked))
            .min_by_key(|(template, _)| template.iter().filter(|part| part.starts_with('{')).count())
            .map(|(_, allow)| allow.clone())
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
        let allowed = AllowedMethods::new(&document, &["/docs"]);
        assert_eq!(allowed.of("/users/import").unwrap(), "POST");
        assert_eq!(allowed.of("/users/4711").unwrap(), "GET, DELETE, HEAD");
        assert_eq!(allowed.of("/docs").unwrap(), "GET, HEAD");
        assert_eq!(allowed.of("/users"), None);
    }
}
