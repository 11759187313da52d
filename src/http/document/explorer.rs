//! Serves the document as JSON and YAML, and an explorer page: Swagger UI with our own sign-in form, without
//! any external resource.

use std::sync::Arc;

use bytes::Bytes;
use poem::{Route, get};
use serde_json::Value;

use super::super::operations;
use super::served::Served;

/// The paths of the explorer and the document. All are read-only.
pub(in super::super) const PATHS: [&str; 7] = [
    "/openapi.json",
    "/openapi.yaml",
    "/docs",
    "/docs/explorer.css",
    "/docs/explorer.js",
    "/docs/swagger-ui.css",
    "/docs/swagger-ui.js",
];

/// Scripts and calls are limited to this server. Swagger UI sets inline styles, and its icons are `data:` URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// Adds the routes of [`PATHS`].
pub(in super::super) fn add_pages(route: Route, document: &Value) -> Route {
    let document = Arc::new(document.clone());
    let for_yaml = Arc::clone(&document);
    let json = Served::new("application/json", move || {
        serde_json::to_vec_pretty(&*document)
            .expect("a JSON value can be written")
            .into()
    });
    let yaml = Served::new("application/yaml", move || super::yaml(&for_yaml).into());
    let page = Served::new("text/html; charset=utf-8", || text(include_str!("explorer.html")));
    route
        .at("/openapi.json", get(json))
        .at("/openapi.yaml", get(yaml))
        .at("/docs", get(page.with_policy(POLICY)))
        .at(
            "/docs/explorer.css",
            get(Served::new(CSS, || text(include_str!("explorer.css")))),
        )
        .at(
            "/docs/explorer.js",
            get(Served::new(JS, || text(include_str!("explorer.js")))),
        )
        .at(
            "/docs/swagger-ui.css",
            get(Served::new(CSS, || swagger_ui("style"))),
        )
        .at(
            "/docs/swagger-ui.js",
            get(Served::new(JS, || swagger_ui("script"))),
        )
}

fn text(of: &'static str) -> Bytes {
    Bytes::from_static(of.as_bytes())
}

/// Extracts the script or style sheet of Swagger UI from poem-openapi's page, which does not expose them
/// separately. Served separately, they can be cached on their own, and the policy needs no inline scripts.
fn swagger_ui(element: &str) -> Bytes {
    let page = operations().swagger_ui_html();
    let start = format!("<{element} charset=\"UTF-8\">");
    let end = format!("</{element}>");
    let part = page
        .split_once(&start)
        .and_then(|(_, rest)| rest.split_once(&end))
        .map(|(part, _)| part.to_owned());
    part.expect("a test reads the page of the pinned version").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swagger_ui_is_found_in_the_pinned_version() {
        let script = swagger_ui("script");
        assert!(
            script.len() > 1_000_000 && script.starts_with(b"/*!"),
            "{}",
            script.len()
        );
        let style = swagger_ui("style");
        assert!(
            style.len() > 100_000 && style.starts_with(b".swagger-ui"),
            "{}",
            style.len()
        );
    }
}
