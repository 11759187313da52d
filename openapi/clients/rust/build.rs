//! Generates the client from the checked-in document.

use std::{env, fs, path::Path};

use serde_json::{Map, Value};

fn main() {
    let document = "../../openapi.json";
    println!("cargo:rerun-if-changed={document}");
    let text = fs::read_to_string(document).expect("openapi/openapi.json");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    keep_one_success_type(&mut document);
    let document = serde_json::from_value(document).expect("an OpenAPI 3.0 document");
    let tokens = progenitor::Generator::default()
        .generate_tokens(&document)
        .expect("a document that progenitor understands");
    let code = prettyplease::unparse(&syn::parse2(tokens).expect("Rust"));
    let out = Path::new(&env::var_os("OUT_DIR").expect("Cargo sets it")).join("latchkey.rs");
    fs::write(out, code).expect("Cargo's folder can be written to");
}

/// progenitor knows one type of success for an operation. Where there is another (a deletion that awaits
/// a second admin: 202 with a body beside 204 without), it comes as `Error::UnexpectedResponse`.
fn keep_one_success_type(document: &mut Value) {
    let paths = document["paths"].as_object_mut().expect("paths").values_mut();
    let operations = paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations {
        let responses = operation["responses"].as_object_mut().expect("responses");
        let with_body = |response: &Value| response.get("content").is_some();
        let successes: Vec<(String, bool)> = responses
            .iter()
            .filter(|(status, _)| status.starts_with('2'))
            .map(|(status, response)| (status.clone(), with_body(response)))
            .collect();
        if successes.iter().any(|(_, body)| *body) && successes.iter().any(|(_, body)| !*body) {
            for (status, _) in successes.iter().filter(|(_, body)| *body) {
                responses.remove(status);
            }
        }
    }
}
