//! `latchkey plugin compile-stdin`: the process that an appliance starts to compile a plugin.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::plugin_host::{CompilerProgram, compile_stdin};

/// Options of `plugin compile-stdin`.
#[derive(Debug, Args)]
pub struct Compile {
    /// Compile for a host that counts fuel.
    #[arg(long)]
    count_fuel: bool,
    /// Seconds of CPU time after which the process is killed.
    cpu_secs: u64,
}

impl Compile {
    pub fn run(self) -> Result<()> {
        compile_stdin(self.count_fuel, self.cpu_secs)
    }
}

/// Returns this program as one that compiles plugins.
pub fn compiler(count_fuel: bool) -> CompilerProgram {
    let mut arguments = vec!["plugin".to_owned(), "compile-stdin".to_owned()];
    arguments.extend(count_fuel.then(|| "--count-fuel".to_owned()));
    CompilerProgram {
        // The file that this process was started from, also once another one has its name.
        path: PathBuf::from("/proc/self/exe"),
        arguments,
    }
}
