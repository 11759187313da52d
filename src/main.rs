//! The `latchkey` command; everything is in the library.

use std::process::ExitCode;

/// The global allocator. A reset allocates about a hundred times on two threads and frees on a third, which
/// costs twice as much with glibc's allocator as with this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    latchkey::cli::main()
}
