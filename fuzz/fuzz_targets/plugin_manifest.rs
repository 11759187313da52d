#![no_main]

use latchkey_fuzz::Target;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static TARGET: Target = latchkey_fuzz::plugin_manifest();
}

fuzz_target!(|bytes: &[u8]| TARGET.with(|target| target(bytes)));
