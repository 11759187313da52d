//! The `latchkey` command; everything is in the library.

use std::process::ExitCode;

/// A reset allocates some hundred times on two threads and frees on a third, which costs glibc's allocator
/// twice what it costs this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    latchkey::cli::main()
}
