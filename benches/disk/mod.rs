//! A slower disk. What a reset costs beside its fsync, and how many changes share one, depends on how long that
//! takes: a tenth of a millisecond on a disk with a protected cache, one or two on a cloud volume, ten on a hard disk.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// How many milliseconds an fsync takes beyond those of this machine's disk.
const MILLIS: &str = "BENCH_FSYNC_MS";
const PRELOAD: &str = "LD_PRELOAD";

/// Runs this bench anew on a slower disk if the variable `BENCH_FSYNC_MS` asks for one; its servers and floors
/// are on it, too. The first thing that a bench does.
#[expect(
    clippy::disallowed_methods,
    reason = "what a bench is told has no place in the configuration"
)]
pub fn slow_down_if_asked() {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slower.so");
    let is_slow = std::env::var_os(PRELOAD).is_some_and(|loaded| loaded == *library);
    let Some(millis) = std::env::var_os(MILLIS).filter(|_| !is_slow) else {
        return;
    };
    let asked = millis.to_str().and_then(|millis| millis.parse::<f64>().ok());
    let asked = asked.filter(|millis| (0.0..=1_000.0).contains(millis));
    let asked = asked.unwrap_or_else(|| panic!("{MILLIS} takes 0 to 1000 milliseconds"));
    println!("every fsync takes {asked} ms more than on this machine's disk ({MILLIS})");
    build(&library);
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let itself = std::env::current_exe().expect("the path of this bench");
    let failed = Command::new(itself).args(arguments).env(PRELOAD, &library).exec();
    panic!("the bench could not be run anew: {failed}");
}

/// By the C compiler that builds SQLite, too.
fn build(library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/disk/slower.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([library, &source])
        .status();
    assert!(
        built.expect("cc runs").success(),
        "cc builds {}",
        source.display()
    );
}
