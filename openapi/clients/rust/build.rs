//! Generates the client from the checked-in document.

use std::{env, fs, path::Path};

fn main() {
    let document = "../../openapi.json";
    println!("cargo:rerun-if-changed={document}");
    let text = fs::read_to_string(document).expect("openapi/openapi.json");
    let document = serde_json::from_str(&text).expect("an OpenAPI 3.0 document");
    let tokens = progenitor::Generator::default()
        .generate_tokens(&document)
        .expect("a document that progenitor understands");
    let code = prettyplease::unparse(&syn::parse2(tokens).expect("Rust"));
    let out = Path::new(&env::var_os("OUT_DIR").expect("Cargo sets it")).join("latchkey.rs");
    fs::write(out, code).expect("Cargo's folder can be written to");
}
