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

/// Found by fuzzing: when wit-parser read a package that depends on itself, the stack overflowed and the
/// process died.
#[test]
fn a_contract_that_a_module_brings_along_is_not_read() {
    let hostile = include_bytes!("../../fuzz/seeds/plugin_file/contract-with-a-cycle");
    let allow = wat::parse_file(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/guests/allow.wat"));
    let module = allow.expect("a guest");
    let plain = read(&module).expect("it is good").component.into_owned();
    let section = |name: &str, content: &[u8]| {
        let mut section = vec![0];
        let mut length = 1 + name.len() + content.len();
        while length >= 0x80 {
            section.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        section.push(u8::try_from(length).expect("seven bits"));
        section.push(u8::try_from(name.len()).expect("a short name"));
        [&section[..], name.as_bytes(), content].concat()
    };
    let hostile = section("component-type:wit-bindgen:9.9.9", &hostile[1..]);
    let (header, sections) = module.split_at(8);
    for with in [
        [header, &hostile, sections].concat(),
        [header, sections, &hostile].concat(),
        [header, &hostile, sections, &hostile].concat(),
    ] {
        let package = read(&with).expect("what is beside the contract is good");
        assert_eq!(package.component, plain, "the same comes of it");
    }
}

#[test]
fn an_import_of_a_core_module_that_is_not_provided_is_named() {
    let core = component(r#"(module (import "acme:http/client@1.0.0" "get" (func)))"#);
    let text = refusal(&core).to_string();
    assert!(text.starts_with("imports acme:http/client@1.0.0"), "{text}");
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
    let of = |names: &[&str], file: &[u8]| remedy(&names.iter().map(ToString::to_string).collect(), file);
    assert!(of(&["Rust", "rustc 1.95.0"], b"").starts_with("Rust:"));
    assert!(of(&["C11", "clang 20", "componentize-py 0.25"], b"").starts_with("Python:"));
    assert!(of(&["JavaScript", "Rust"], b"").starts_with("JavaScript:"));
    assert!(of(&["clang 20"], b"").starts_with("C:"));
    // As componentize-qjs 0.4 and componentize-py 0.25 leave them: they name Rust or nothing.
    let inside = |name: &str| {
        component(&format!(
            r#"(component (core module (import "{name}" "f" (func))))"#
        ))
    };
    let qjs = inside("componentize_qjs_runtime.wasm");
    assert!(of(&["Rust", "rustc 1.96.0"], &qjs).starts_with("JavaScript:"));
    let py = inside("libcomponentize_py_runtime.so");
    assert!(of(&["Rust", "wit-component 0.245"], &py).starts_with("Python:"));
    let stripped = of(&[], &component("(module)"));
    assert!(
        stripped.starts_with("C:") && stripped.contains("Rust:") && !stripped.contains("Python"),
        "{stripped}"
    );
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
fn the_newest_contract_is_the_one_that_plugins_are_written_for() {
    assert_eq!(
        Contracts::released().text(&contract_version()),
        Some(CONTRACT_WIT)
    );
    assert!(CONTRACT_WIT.starts_with(&format!("package latchkey:policy@{};", contract_version())));
}

#[test]
fn a_core_module_is_made_a_component_by_a_version_that_was_released() {
    let module = component(r#"(module (func (export "latchkey:policy/hooks@1.0.7#describe")))"#);
    assert_eq!(
        refusal(&module).to_string(),
        "latchkey:policy/hooks is of contract version 1.0.7; this appliance speaks 1.0.0"
    );
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    let whole =
        wat::parse_str(r#"(module (func (export "before-reset") (drop (i32.const 7))) (data "seven"))"#);
    let whole = whole.expect("the test's text is a module");
    for end in 0..whole.len() {
        // Found by fuzzing: a code section's length is reported before its end is read.
        assert!(read(&whole[..end]).is_err(), "{end} bytes of {}", whole.len());
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

#[test]
fn a_host_speaks_its_own_contract_and_every_earlier_one_of_its_major() {
    let version = |text: &str| Version::parse(text).expect("a version");
    let host = version("1.1.0");
    for (plugin, spoken) in [
        ("1.0.0", true),
        ("1.0.9", true),
        ("1.1.0", true),
        ("1.1.3", true),
        ("1.2.0", false),
        ("2.0.0", false),
        ("1.1.0-rc.1", false),
    ] {
        assert_eq!(contracts::speaks(&host, &version(plugin)), spoken, "{plugin}");
    }
}

/// Returns a core module with functions of `locals` locals and `loops` nested loops, each of which changes them all:
/// every loop needs a value for every local.
fn tangles(functions: usize, declared: &str, locals: usize, loops: usize) -> Vec<u8> {
    let steps = (0..locals).fold(String::new(), |text, n| {
        text + &format!("local.get {n} i32.const 1 i32.add local.set {n} ")
    });
    let function = format!(
        "(func ({declared}{}) {} {} {})",
        " i32".repeat(locals),
        "loop ".repeat(loops),
        steps,
        "i32.const 1 br_if 0 end ".repeat(loops)
    );
    component(&format!("(module {})", function.repeat(functions)))
}

/// Returns a core module with one such function.
pub(in crate::plugin_host) fn tangled(locals: usize, loops: usize) -> Vec<u8> {
    tangles(1, "local", locals, loops)
}

#[test]
fn a_function_that_would_tie_up_the_compiler_is_refused_unread() {
    assert!(judge_effort(&tangled(100, 500)).is_ok());
    let error = judge_effort(&tangled(40_000, 10_000)).expect_err("refused");
    assert_eq!(error.code(), "too-complex");
    assert!(
        error.to_string().starts_with(
            "this is too complex to compile here: function 0 of a module has local variables × branches = "
        ),
        "{error}"
    );
    let long = format!("(module (func) (func {}))", "nop ".repeat(3 << 20));
    let error = judge_effort(&component(&long)).expect_err("refused");
    assert!(
        error.to_string().contains("function 1 of a module has"),
        "{error}"
    );
    let wide = format!(
        "(module (func (block (br_table {} 0 (i32.const 0)))))",
        "0 ".repeat(500_000)
    );
    assert!(
        judge_effort(&component(&wide)).is_ok(),
        "many branches alone are no harm"
    );
}

#[test]
fn parameters_count_as_the_locals_that_they_are() {
    assert!(judge_effort(&tangles(1, "param", 100, 500)).is_ok());
    let error = judge_effort(&tangles(1, "param", 1_000, 10_000)).expect_err("refused");
    assert_eq!(error.code(), "too-complex");
    assert!(
        error
            .to_string()
            .contains("function 0 of a module has local variables × branches = "),
        "{error}"
    );
    let block = format!(
        "(module (type $wide (func (param {0}) (result {0}))) (func {1} {2} {3} {4}))",
        " i32".repeat(1_000),
        "i32.const 0 ".repeat(1_000),
        "(loop (type $wide) ".repeat(2_000),
        "(br_if 0 (i32.const 0))) ".repeat(2_000),
        "drop ".repeat(1_000)
    );
    let error = judge_effort(&component(&block)).expect_err("refused");
    assert_eq!(error.code(), "too-complex", "what a block takes is its locals");
}

#[test]
fn the_functions_of_a_file_are_judged_together() {
    assert!(judge_effort(&tangles(20, "local", 500, 90)).is_ok());
    let error = judge_effort(&tangles(200, "local", 500, 300)).expect_err("refused");
    assert_eq!(error.code(), "too-complex");
    assert!(
        error
            .to_string()
            .contains("local variables × branches of all functions = "),
        "{error}"
    );
    let many = format!("(module {})", "(func)".repeat(100_001));
    let error = judge_effort(&component(&many)).expect_err("refused");
    assert!(
        error.to_string().contains("functions = 100001; the limit is"),
        "{error}"
    );
}

/// Returns a component in which the innermost of `counts.len()` components instantiates a module `counts[0]` times,
/// and each of the others the one before it, by the count that it has.
fn multiplied(counts: &[usize]) -> Vec<u8> {
    let (first, others) = counts.split_first().expect("an innermost one");
    let mut text = format!(
        "(component $root (component $c0 (core module $m) {})",
        "(core instance (instantiate $m))".repeat(*first)
    );
    for (inner, count) in others.iter().enumerate() {
        text += &format!(
            "(component $c{} (alias outer $root $c{inner} (component $inner)) {})",
            inner + 1,
            "(instance (instantiate $inner))".repeat(*count)
        );
    }
    text += &format!(
        r#"(instance (instantiate $c{})) (instance $h) (export "latchkey:policy/hooks@1.0.0" (instance $h)))"#,
        others.len()
    );
    component(&text)
}

#[test]
fn a_component_that_multiplies_its_instances_is_refused_unread() {
    assert!(judge_effort(&multiplied(&[5, 3, 3])).is_ok());
    for counts in [&[1_000, 1_000, 1_000][..], &[10; 4], &[2; 40], &[1_000]] {
        let file = multiplied(counts);
        let package = read(&file).expect("nothing else is wrong with it");
        let error = judge_effort(&package.component).expect_err("refused");
        assert_eq!(error.code(), "too-complex");
        assert!(
            error
                .to_string()
                .contains("instances of all components together = "),
            "{error}"
        );
    }
}

/// What such a component makes is known only where it is given another one, which may come later in the file.
#[test]
fn a_component_that_instantiates_one_it_is_given_is_refused() {
    let given = r#"(component
        (component $c (import "x" (component $x)) (instance (instantiate $x)) (instance (instantiate $x)))
        (component $big)
        (instance (instantiate $c (with "x" (component $big)))))"#;
    let exported = r#"(component
        (component $c (component $inner) (export "inner" (component $inner)))
        (instance $i (instantiate $c))
        (alias export $i "inner" (component $inner))
        (instance (instantiate $inner)))"#;
    for text in [given, exported] {
        let error = judge_effort(&component(text)).expect_err("refused");
        assert!(
            error.to_string().contains("a component that it is given"),
            "{error}"
        );
    }
}

/// wasmtime copies an instance wherever it is named, with all that is inside it.
#[test]
fn instances_that_double_with_each_other_are_refused() {
    let doubled = |links: usize, inside: fn(usize) -> String| {
        let links: String = (0..links).map(inside).collect();
        component(&format!(
            "(component $root (component $c0) (instance $i0) {links})"
        ))
    };
    let named = |n: usize| {
        format!(
            r#"(instance $i{} (export "a" (instance $i{n})) (export "b" (instance $i{n})))"#,
            n + 1
        )
    };
    // The type that is asked of what is given is smaller than what is given.
    let given = |n: usize| {
        format!(
            r#"(component $c{0} (import "x" (instance $x)) (export "a" (instance $x)) (export "b" (instance $x)))
               (instance $i{0} (instantiate $c{0} (with "x" (instance $i{n}))))"#,
            n + 1
        )
    };
    for inside in [named as fn(usize) -> String, given] {
        assert!(judge_effort(&doubled(4, inside)).is_ok());
        let error = judge_effort(&doubled(30, inside)).expect_err("refused");
        assert!(
            error.to_string().contains("items of all instances together = "),
            "{error}"
        );
    }
}

#[test]
fn a_component_that_refers_to_ever_more_of_those_around_it_is_refused() {
    let mut text = "(component $root (component $c0)".to_owned();
    for n in 0..30 {
        let alias = format!("(alias outer $root $c{n} (component))");
        text += &format!("(component $c{} {alias} {alias})", n + 1);
    }
    let error = judge_effort(&component(&(text + ")"))).expect_err("refused");
    assert!(
        error.to_string().contains("components that one refers to = "),
        "{error}"
    );
    let many = format!("(component {})", "(component)".repeat(1_000));
    let error = judge_effort(&component(&many)).expect_err("refused");
    assert_eq!(error.code(), "too-complex");
    let types = format!("(component {})", "(type (tuple u8))".repeat(300_000));
    let error = judge_effort(&component(&types)).expect_err("refused");
    assert!(
        error.to_string().contains("bytes of what joins its modules = "),
        "{error}"
    );
}

#[test]
fn a_component_with_a_million_exports_is_refused_at_once() {
    // One section, by hand: each export has 6 bytes, the text would have 60.
    let mut file = component("(component (instance))");
    let count: u32 = 1_000_000;
    let leb = |mut n: u32| {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(u8::try_from(n & 0x7f).expect("seven bits") | 0x80);
            n >>= 7;
        }
        bytes.push(u8::try_from(n).expect("seven bits"));
        bytes
    };
    let export = [0, 1, b'a', 5, 0, 0];
    let content = [leb(count), export.repeat(count as usize)].concat();
    file.push(11);
    file.extend(leb(u32::try_from(content.len()).expect("megabytes")));
    file.extend(content);
    let started = std::time::Instant::now();
    let error = refusal(&file);
    assert_eq!(error.code(), "too-complex", "{error}");
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}
