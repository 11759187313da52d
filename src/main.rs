//! The `latchkey` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    latchkey::cli::main()
}
