//! `latchkey plugin pack`: embeds golden cases in a plugin file.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use super::Loaded;
use super::test::{case_files, read_case};
use crate::cli::exit::{Refusal, told};
use crate::cli::files::refused_plugin;
use crate::cli::output;
use crate::plugin_host::{Digest, embed_cases, read_package};

/// Arguments of `latchkey plugin pack`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  latchkey plugin pack policy.wasm cases -o policy-packed.wasm\n\nSign after packing: the file changes."
)]
pub struct Pack {
    /// Plugin file.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Folder with the cases, and its sub-folders.
    #[arg(value_name = "CASES")]
    cases: PathBuf,
    /// File to write the packed plugin to.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Pack {
    pub(super) fn run(self) -> Result<()> {
        let files = case_files(&self.cases)?;
        let (mut cases, mut malformed) = (Vec::new(), Vec::new());
        for file in &files {
            match read_case(file) {
                Ok(case) => cases.push(case),
                Err(error) => malformed.push(told(&error)),
            }
        }
        if !malformed.is_empty() {
            return Err(Refusal(malformed.join("; ")).into());
        }
        let loaded = Loaded::open(&self.plugin, false)?;
        // Run the cases as every installation will, including the limit on their total time.
        let mut to_run = files.iter();
        let failed = loaded.host.run_cases(&loaded.prepared, &cases, |_| {
            to_run.next();
        });
        let failed = loaded
            .runtime
            .block_on(failed)
            .map_err(|error| Refusal(format!("{} can't be packed: {error}", self.cases.display())))?;
        if let (Some(report), Some(file)) = (failed, to_run.next()) {
            let text = format!(
                "{} fails, so it is not packed: {}",
                file.display(),
                report.differences.join("; ")
            );
            return Err(Refusal(text).into());
        }
        let packed = embed_cases(&loaded.bytes, &cases).map_err(|error| Refusal(error.to_string()))?;
        read_package(&packed).map_err(|error| refused_plugin(&self.plugin, &error))?;
        fs::write(&self.output, &packed)
            .with_context(|| format!("cannot write {}", self.output.display()))?;
        let digest = Digest::of(&packed);
        if self.json {
            return output::json(&json!({
                "file": self.output, "sha256": digest, "bytes": packed.len(), "goldenCases": cases.len(),
            }));
        }
        output::line(format_args!(
            "{}: {} cases inside, sha256 {digest}",
            self.output.display(),
            cases.len()
        ))
    }
}
