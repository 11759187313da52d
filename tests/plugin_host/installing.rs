//! What becomes of a file at its installation: what is refused and why, and who compiles it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use latchkey::plugin_host::{Case, CompilerProgram, HostOptions, PackageError, PluginHost};

use super::guests::{Guest, Manifest};
use super::{ask, host, load};

#[tokio::test]
async fn a_bad_manifest_and_a_bad_configuration_are_refused_precisely() {
    let host = host();
    let bad = Guest {
        manifest: Manifest {
            name: "Bad Name",
            ..Guest::default().manifest
        },
        ..Guest::default()
    };
    let prepared = host.prepare(&bad.wasm()).expect("it compiles");
    let error = host.describe(&prepared).await.expect_err("refused");
    assert!(
        matches!(error, PackageError::Manifest { field: "name", .. }),
        "{error}"
    );

    let looping = Guest {
        describe: "(loop $l (br $l)) (unreachable)".into(),
        ..Guest::default()
    };
    let prepared = host.prepare(&looping.wasm()).expect("it compiles");
    let error = host.describe(&prepared).await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        "its `describe` failed, deadline: not done after 1000 ms"
    );

    let strict = Guest {
        manifest: Manifest {
            schema: r#"{"type":"object","properties":{"max":{"type":"integer"}}}"#,
            ..Guest::default().manifest
        },
        // result err(string): "guest"
        check_config:
            "(i32.store8 (i32.const 8192) (i32.const 1)) (i32.store (i32.const 8196) (i32.const 2048))
                       (i32.store (i32.const 8200) (i32.const 5)) (i32.const 8192)"
                .into(),
        ..Guest::default()
    };
    let prepared = host.prepare(&strict.wasm()).expect("it compiles");
    let manifest = host.describe(&prepared).await.expect("a manifest");
    let refused = async |config: &str| {
        host.check_config(&prepared, &manifest, config)
            .await
            .expect_err("refused")
            .to_string()
    };
    assert_eq!(
        refused(r#"{"max":"3"}"#).await,
        "configuration at /max: \"3\" is not of type \"integer\""
    );
    assert_eq!(
        refused(r#"{"max":3}"#).await,
        "the plugin refuses this configuration: guest"
    );
}

/// A case may expect that a call overruns its time, and passes then. So all of a file's together have a budget.
#[tokio::test]
async fn the_golden_cases_of_a_file_have_a_time_together() {
    let options = HostOptions {
        cases_limit: Duration::from_millis(1_500),
        ..HostOptions::default()
    };
    let host = PluginHost::new(options).expect("a host");
    let case = |description: &str, expect: &str| {
        let text = format!(r#"{{"description":"{description}","hook":"check-config","expect":{expect}}}"#);
        Case::parse(&text).expect("a case")
    };
    let run = async |guest: &Guest, cases: &[Case]| {
        let prepared = host.prepare(&guest.wasm()).expect("it compiles");
        let mut done = 0;
        let ran = host.run_cases(&prepared, cases, |nth| done = nth).await;
        (ran, done)
    };

    let looping = Guest {
        check_config: "(loop $l (br $l)) (unreachable)".into(),
        ..Guest::default()
    };
    let cases = vec![case("runs away", r#"{"failure":"deadline"}"#); 20];
    let started = Instant::now();
    let (ran, done) = run(&looping, &cases).await;
    let error = ran.expect_err("refused").to_string();
    assert!(error.contains("together they take more than 1 s"), "{error}");
    // On a busy machine a call gets less of a processor than all of its second, but no less than a fifth.
    assert!((2..=9).contains(&done), "{done} were run");
    println!("{done} cases in {:?}", started.elapsed());

    let good = vec![case("passes", r#"{"ok":true}"#); 100];
    let (ran, done) = run(&Guest::default(), &good).await;
    assert!(ran.expect("within the time").is_none());
    assert_eq!(done, 100);
    let mixed = [&good[..2], &[case("fails", r#"{"error":"no"}"#)], &good[..2]].concat();
    let (ran, done) = run(&Guest::default(), &mixed).await;
    let failed = ran.expect("within the time").expect("one fails");
    assert_eq!((failed.description.as_str(), done), ("fails", 2));
}

#[tokio::test]
async fn a_function_of_the_wrong_type_is_refused_at_installation() {
    let host = host();
    let wasm = wat::parse_str(
        r#"(component
            (core module $m (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $h (export "describe" (func $f)) (export "check-config" (func $f))
                         (export "before-reset" (func $f)) (export "after-reset" (func $f)))
            (export "latchkey:policy/hooks@1.0.0" (instance $h)))"#,
    )
    .expect("a component");
    let prepared = host.prepare(&wasm).expect("it compiles");
    let error = host.describe(&prepared).await.expect_err("refused");
    assert_eq!(error.code(), "describe-failed");
    println!("{error}");
    assert!(
        error
            .to_string()
            .contains("the types of its exports are not those of the contract"),
        "{error}"
    );
}

/// A host whose compilations have a process of their own, as an appliance's have.
fn compiling_apart(compile_limit: Duration, meter_fuel: bool) -> PluginHost {
    let mut arguments = vec!["plugin".to_owned(), "compile-stdin".to_owned()];
    arguments.extend(meter_fuel.then(|| "--count-fuel".to_owned()));
    let options = HostOptions {
        compiler: Some(CompilerProgram {
            path: env!("CARGO_BIN_EXE_latchkey").into(),
            arguments,
        }),
        compile_limit,
        meter_fuel,
        ..HostOptions::default()
    };
    PluginHost::new(options).expect("a host")
}

#[tokio::test]
async fn what_a_process_of_its_own_compiled_runs_here() {
    for meter_fuel in [false, true] {
        let host = compiling_apart(Duration::from_mins(2), meter_fuel);
        let plain = load(&host, &Guest::default().wasm());
        assert!(ask(&host, plain).await.failure.is_none());
        let broken = wat::parse_str(
            r#"(component (core module (func (result i32)))
                (instance $h) (export "latchkey:policy/hooks@1.0.0" (instance $h)))"#,
        );
        let refused = host
            .prepare(&broken.expect("a text"))
            .expect_err("it has no result");
        assert_eq!(refused.code(), "invalid-component", "{refused}");
        assert!(refused.to_string().contains("type mismatch"), "{refused}");
    }
}

/// It is within every bound that is judged beforehand, and takes minutes.
#[tokio::test]
async fn a_compilation_that_takes_too_long_is_ended_and_the_next_one_begins() {
    let (locals, loops) = (300, 250);
    let step = |n| format!("local.get {n} i32.const 1 i32.add local.set {n}");
    let steps = (0..locals).map(step).collect::<Vec<_>>().join(" ");
    let tangled = format!(
        "(func (local{}) {} {steps} {})",
        " i32".repeat(locals),
        "loop ".repeat(loops),
        "i32.const 1 br_if 0 end ".repeat(loops)
    );
    let slow = Guest {
        items: tangled.repeat(20),
        ..Guest::default()
    };
    let host = compiling_apart(Duration::from_secs(1), false);
    let slow = slow.wasm();
    let refused = host.prepare(&slow).expect_err("a second is not enough");
    assert_eq!(refused.code(), "compile-time-exceeded", "{refused}");
    // The only compiler is free again.
    let plain = load(&host, &Guest::default().wasm());
    assert!(ask(&host, plain).await.failure.is_none());
    let again = Instant::now();
    let refused = host.prepare(&slow).expect_err("it is remembered");
    assert_eq!(refused.code(), "compile-time-exceeded", "{refused}");
    assert!(again.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_same_module_is_prepared_once() {
    let host = host();
    let wasm = Guest::default().wasm();
    let one = host.prepare(&wasm).expect("accepted");
    let two = host.prepare(&wasm).expect("accepted");
    assert!(Arc::ptr_eq(&one, &two));
}
