//! `latchkey plugin bench`: measures what a call costs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use cpu_time::ThreadTime;
use serde_json::{Value, json};

use super::run::failure;
use super::test::read_case;
use super::{Loaded, base_question, bytes, line, micros};
use crate::cli::output;
use crate::cli::policy::config;
use crate::plugin_host::{Case, CaseHook, CaseReport, Limits};

/// Arguments of `latchkey plugin bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  latchkey plugin bench policy.wasm
  latchkey plugin bench policy.wasm --case cases/too-many.json --calls 5000 --json

Time is measured without counting fuel, as an appliance runs plugins by default; fuel is measured separately.")]
pub struct Bench {
    /// Plugin file.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Golden case to ask repeatedly [default: before-reset with the base question].
    #[arg(long, value_name = "FILE")]
    case: Option<PathBuf>,
    /// Configuration, if no case is given: JSON, or a file that holds it.
    #[arg(long, value_name = "JSON|@FILE|FILE", conflicts_with = "case")]
    config: Option<String>,
    /// Number of calls (1–1000000).
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: u32,
    /// Ask even if an appliance would refuse the configuration.
    #[arg(long)]
    unchecked_config: bool,
    /// Print the measurements as JSON.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        let case = match &self.case {
            Some(file) => read_case(file)?,
            None => Case {
                description: String::new(),
                hook: CaseHook::BeforeReset,
                config: self
                    .config
                    .as_deref()
                    .map(config)
                    .transpose()?
                    .unwrap_or_else(|| json!({})),
                question: json!({}),
                outcome: None,
                expect: Value::Null,
            }
            .resolved(&base_question(Path::new("."))?)?,
        };
        let metered = Loaded::open(&self.plugin, true)?;
        if !self.unchecked_config {
            metered.must_take_config(&metered.manifest(&self.plugin)?, &case)?;
        }
        let CaseReport { answer, usage, .. } = ask(&metered, &case)?;
        let fuel = usage.fuel;

        let loaded = Loaded::open(&self.plugin, false)?;
        for _ in 0..WARM_UP.min(self.calls) {
            ask(&loaded, &case)?;
        }
        let (mut took, mut peak) = (Vec::with_capacity(self.calls as usize), 0);
        let cpu = ThreadTime::now(); // calls run on this thread
        for _ in 0..self.calls {
            let started = Instant::now();
            let report = ask(&loaded, &case)?;
            took.push(started.elapsed().as_nanos());
            peak = peak.max(report.usage.peak_memory_bytes);
        }
        let cpu = whole_micros((cpu.elapsed() / self.calls).as_nanos());
        took.sort_unstable();
        let at = |percent: usize| whole_micros(took[(took.len() - 1) * percent / 100]);
        let (p50, p99) = (at(50), at(99));

        if self.json {
            return output::json(&json!({
                "answer": answer, "calls": self.calls, "p50Micros": p50, "p99Micros": p99, "cpuMicros": cpu,
                "fuel": fuel, "peakMemoryBytes": peak,
            }));
        }
        line(format_args!("answer      {answer}"))?;
        output::line(format_args!("calls       {}, a fresh instance each", self.calls))?;
        output::line(format_args!(
            "time        p50 {}, p99 {}",
            micros(p50),
            micros(p99)
        ))?;
        output::line(format_args!("CPU         {} a call", micros(cpu)))?;
        output::line(format_args!("fuel        {}", fuel.unwrap_or_default()))?;
        output::line(format_args!("memory      {}", bytes(peak)))
    }
}

fn ask(loaded: &Loaded, case: &Case) -> Result<CaseReport> {
    let limits = Limits::at_installation();
    let report = loaded
        .runtime
        .block_on(loaded.host.run_case(&loaded.prepared, limits, case))?;
    // A failing call would measure something else.
    match failure(case, &report.answer) {
        Some(failure) => bail!("the plugin failed: {failure}"),
        None => Ok(report),
    }
}

fn whole_micros(nanos: u128) -> u64 {
    u64::try_from(nanos / 1_000).unwrap_or(u64::MAX)
}

const WARM_UP: u32 = 50;
