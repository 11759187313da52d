use std::path::Path;
use std::time::Instant;

use super::*;
use crate::plugin_host::package;

const KEY: [u8; 32] = [7; 32];

fn wasm() -> Vec<u8> {
    let text = r#"(component
        (core module (func (export "f") (result i32) i32.const 42))
        (instance $h) (export "latchkey:policy/hooks@1.0.0" (instance $h)))"#;
    wat::parse_str(text).expect("the test's text is a component")
}

fn artefacts(folder: &Path, key: [u8; 32]) -> Artefacts {
    let engine = Engine::default();
    Artefacts::new(engine, Some(folder.to_owned()), key, Duration::from_mins(1), None)
        .expect("a cache in a temporary folder")
}

fn origin(artefacts: &Artefacts) -> Origin {
    let bytes = wasm();
    let package = package::read(&bytes).expect("a plugin");
    let (component, origin) = artefacts.component(&package).expect("it compiles");
    artefacts.keep(package.digest, &component);
    origin
}

fn kept(folder: &Path) -> PathBuf {
    let entry = fs::read_dir(folder)
        .expect("the folder")
        .next()
        .expect("one artefact");
    entry.expect("an entry").path()
}

fn prune(artefacts: &Artefacts, installed: &[Digest]) -> usize {
    let installed = || Ok::<_, std::convert::Infallible>(installed.to_vec());
    let Ok(removed) = artefacts.prune(installed);
    removed.expect("the folder is there")
}

#[test]
fn what_is_not_installed_or_not_of_this_engine_or_unfinished_is_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artefacts = artefacts(folder.path(), KEY);
    assert_eq!(prune(&artefacts, &[]), 0);
    origin(&artefacts);
    let good = kept(folder.path());
    let name = good.to_string_lossy().into_owned();
    let of_another_engine = name.replace(".artefact", "0.artefact");
    let left_behind = name.replace(".artefact", ".artefact.new-1");
    let under_way = PathBuf::from(name.replace(".artefact", ".artefact.new-2"));
    let foreign = folder.path().join("README");
    for path in [
        Path::new(&of_another_engine),
        Path::new(&left_behind),
        &under_way,
        &foreign,
    ] {
        fs::write(path, "").expect("a file");
    }
    let file = fs::File::options().write(true).open(&left_behind);
    file.and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .expect("an older file");
    assert_eq!(prune(&artefacts, &[Digest::of(&wasm())]), 2);
    for (path, there) in [
        (Path::new(&of_another_engine), false),
        (Path::new(&left_behind), false),
        (&good, true),
        (&under_way, true),
        (&foreign, true),
    ] {
        assert_eq!(path.exists(), there, "{}", path.display());
    }
    assert_eq!(prune(&artefacts, &[]), 1);
    assert!(!good.exists());
}

#[test]
fn compiled_once_then_taken_from_the_cache() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path().join("cache");
    assert_eq!(origin(&artefacts(&folder, KEY)), Origin::Compiled);
    assert_eq!(origin(&artefacts(&folder, KEY)), Origin::Cache);
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&kept(&folder)), 0o600);
}

#[test]
fn every_single_changed_byte_of_an_artefact_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artefacts = artefacts(folder.path(), KEY);
    origin(&artefacts);
    let cache = artefacts.cache.as_ref().expect("there is a cache");
    let digest = Digest::of(&wasm());
    let path = kept(folder.path());
    let good = fs::read(&path).expect("the artefact");
    assert!(cache.load(digest).is_some());
    for at in (0..HEADER_BYTES).chain((HEADER_BYTES..good.len()).step_by(97)) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).expect("tampering");
        assert!(cache.load(digest).is_none(), "byte {at}");
    }
    for length in [0, 10, HEADER_BYTES - 1, HEADER_BYTES, good.len() - 1] {
        fs::write(&path, &good[..length]).expect("cutting");
        assert!(cache.load(digest).is_none(), "cut to {length}");
    }
    // The whole path: refused, compiled, replaced.
    assert_eq!(origin(&artefacts), Origin::Compiled);
    assert_eq!(origin(&artefacts), Origin::Cache);
}

#[test]
fn an_authentic_artefact_of_another_module_or_another_key_is_not_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artefacts_one = artefacts(folder.path(), KEY);
    origin(&artefacts_one);
    let cache = artefacts_one.cache.as_ref().expect("there is a cache");
    let other = Digest::of(b"another module");
    fs::copy(kept(folder.path()), cache.path(other)).expect("a swap");
    assert!(cache.load(other).is_none());
    assert_eq!(prune(&artefacts_one, &[Digest::of(&wasm())]), 1);

    assert_eq!(origin(&artefacts(folder.path(), [8; 32])), Origin::Compiled);
}

#[test]
fn an_artefact_of_other_engine_settings_is_not_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    origin(&artefacts(folder.path(), KEY));
    let mut config = wasmtime::Config::new();
    config.consume_fuel(true);
    let engine = Engine::new(&config).expect("an engine");
    let metered = Artefacts::new(
        engine,
        Some(folder.path().to_owned()),
        KEY,
        Duration::from_mins(1),
        None,
    );
    assert_eq!(origin(&metered.expect("a cache")), Origin::Compiled);
    assert_eq!(origin(&artefacts(folder.path(), KEY)), Origin::Cache);
}

#[test]
fn compilation_has_a_time_limit() {
    let artefacts =
        Artefacts::new(Engine::default(), None, KEY, Duration::ZERO, None).expect("no cache needed");
    let bytes = wasm();
    let package = package::read(&bytes).expect("a plugin");
    // With a limit of zero every module takes too long.
    let error = artefacts.component(&package).map(|_| ()).expect_err("too slow");
    assert_eq!(error.code(), "compile-time-exceeded");
}

/// Checks the bound on compile effort: compiles the hardest module that passes it and prints the cost.
/// `cargo test --lib -- --ignored --nocapture hardest`
#[test]
#[ignore = "takes a while; run by hand"]
fn the_hardest_module_that_is_let_through_compiles_within_the_limits() {
    let core = package::tests::tangled(500, 390);
    judge_effort(&core).expect("just below the bound");
    let started = Instant::now();
    let code = Engine::default().precompile_module(&core).expect("it compiles");
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .expect("it is there");
    println!(
        "{} bytes, {} of code, {:?}, {peak}",
        core.len(),
        code.len(),
        started.elapsed()
    );
    assert!(started.elapsed() < Duration::from_mins(2));
}

#[test]
fn what_took_too_long_is_not_compiled_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artefacts = artefacts(folder.path(), KEY);
    let bytes = wasm();
    let package = package::read(&bytes).expect("a plugin");
    artefacts.remember_exceeded(package.digest);
    let refused = artefacts.component(&package).err();
    assert!(
        matches!(refused, Some(PackageError::CompileTime { .. })),
        "{refused:?}"
    );
    // Only the most recent EXCEEDED_MAX are remembered.
    for n in 0..EXCEEDED_MAX {
        artefacts.remember_exceeded(Digest::of(&n.to_be_bytes()));
    }
    assert_eq!(artefacts.exceeded().len(), EXCEEDED_MAX);
    assert_eq!(origin(&artefacts), Origin::Compiled);
}
