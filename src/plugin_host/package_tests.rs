use super::*;

fn component(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).expect("the test's text is a component")
}

fn refusal(bytes: &[u8]) -> PackageError {
    read(bytes).expect_err("this file is refused")
}

#[test]
fn what_is_no_webassembly_is_named() {
    assert_eq!(
        refusal(b"").to_string(),
        "this is not WebAssembly: the file is empty. Give the .wasm file that the build made"
    );
    for (bytes, word) in [
        (&b"\x7fELF\x02"[..], "ELF"),
        (b"PK\x03\x04..", "ZIP"),
        (b" (component)", "WebAssembly text"),
        (b"export const hooks", "a text file"),
        (b"\0asm\x09\0\0\0", "unknown version"),
        (b"\xff\xfe\0", "unknown bytes"),
    ] {
        let text = refusal(bytes).to_string();
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_file_beyond_the_limit_is_refused_unread() {
    assert_eq!(refusal(&vec![0; FILE_BYTES_MAX + 1]).code(), "too-large");
}

#[test]
fn a_broken_component_is_refused() {
    let mut bytes = component(r#"(component (import "latchkey:policy/log@1.0.0" (instance)))"#);
    bytes.truncate(bytes.len() - 3);
    assert_eq!(refusal(&bytes).code(), "invalid-component");
}

#[test]
fn a_core_module_without_the_contract_is_told_so() {
    assert_eq!(refusal(&component("(module)")).code(), "not-a-component");
}

#[test]
fn wasi_is_refused_with_the_flag_that_avoids_it() {
    let text = refusal(&component(
        r#"(component (import "wasi:cli/environment@0.2.3" (instance)))"#,
    ))
    .to_string();
    assert!(text.starts_with("imports wasi:cli/environment@0.2.3"), "{text}");
    for language in ["Rust", "JavaScript", "Python", "C:", "Go"] {
        assert!(text.contains(language), "{text}");
    }
    let core = component(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#);
    assert_eq!(refusal(&core).code(), "imports-wasi");
}

#[test]
fn the_remedy_is_that_of_the_plugins_language() {
    let of = |names: &[&str]| remedy(&names.iter().map(ToString::to_string).collect());
    assert!(of(&["Rust", "rustc 1.95.0"]).starts_with("Rust:"));
    assert!(of(&["C11", "clang 20", "componentize-py 0.25"]).starts_with("Python:"));
    assert!(of(&["JavaScript", "Rust"]).starts_with("JavaScript:"));
    assert!(of(&["clang 20"]).starts_with("C:"));
}

#[test]
fn an_import_that_is_not_provided_is_named() {
    let text = refusal(&component(
        r#"(component (import "acme:http/client@1.0.0" (instance)))"#,
    ))
    .to_string();
    assert!(text.starts_with("imports acme:http/client@1.0.0"), "{text}");
}

#[test]
fn only_contract_versions_spoken_here_are_taken() {
    let with = |version: &str| {
        component(&format!(
            r#"(component (instance $h) (export "latchkey:policy/hooks@{version}" (instance $h)))"#
        ))
    };
    for good in ["1.0.0", "1.0.7"] {
        assert_eq!(read(&with(good)).expect("spoken here").contract.to_string(), good);
    }
    for bad in ["2.0.0", "1.1.0", "0.9.0", "1.0.0-draft"] {
        let text = refusal(&with(bad)).to_string();
        assert_eq!(
            text,
            format!("latchkey:policy/hooks is of contract version {bad}; this appliance speaks 1.0.0")
        );
    }
}

#[test]
fn a_missing_export_is_named_with_what_is_there() {
    let bytes = component(r#"(component (instance $i) (export "acme:other/thing@1.0.0" (instance $i)))"#);
    let text = refusal(&bytes).to_string();
    assert_eq!(
        text,
        "does not export latchkey:policy/hooks@1.0.0; it exports acme:other/thing@1.0.0"
    );
    assert!(
        refusal(&component("(component)"))
            .to_string()
            .ends_with("it exports nothing")
    );
}
