//! `plugin bench`: what a call costs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::run::config_value;
use super::test::read_case;
use super::{Loaded, base_question, bytes, micros};
use crate::cli::output;
use crate::plugin_host::{Case, CaseHook, CaseReport, Limits};

/// `latchkey plugin bench`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  latchkey plugin bench policy.wasm
  latchkey plugin bench policy.wasm --case cases/too-many.json --calls 5000 --json

Time is measured as an appliance runs the plugin, without fuel; fuel in a second run, with it.")]
pub struct Bench {
    /// The plugin.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Golden case to ask again and again [default: before-reset with the base question].
    #[arg(long, value_name = "FILE")]
    case: Option<PathBuf>,
    /// Configuration, if there is no case: JSON, or a file with it.
    #[arg(long, value_name = "JSON|FILE", conflicts_with = "case")]
    config: Option<String>,
    /// How many calls.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: u32,
    /// Print JSON.
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
                    .map(config_value)
                    .transpose()?
                    .unwrap_or_else(|| json!({})),
                question: json!({}),
                outcome: None,
                expect: Value::Null,
            }
            .resolved(&base_question(Path::new("."))?)?,
        };
        let fuel = ask(&Loaded::open(&self.plugin, true)?, &case)?.usage.fuel;

        let loaded = Loaded::open(&self.plugin, false)?;
        for _ in 0..WARM_UP.min(self.calls) {
            ask(&loaded, &case)?;
        }
        let (mut took, mut peak) = (Vec::with_capacity(self.calls as usize), 0);
        let cpu = cpu_micros();
        for _ in 0..self.calls {
            let started = Instant::now();
            let report = ask(&loaded, &case)?;
            took.push(started.elapsed().as_nanos());
            peak = peak.max(report.usage.peak_memory_bytes);
        }
        let cpu = (cpu_micros() - cpu) / u64::from(self.calls);
        took.sort_unstable();
        let at = |percent: usize| {
            u64::try_from(took[(took.len() - 1) * percent / 100] / 1_000).unwrap_or(u64::MAX)
        };
        let (p50, p99) = (at(50), at(99));

        if self.json {
            return output::json(&json!({
                "calls": self.calls, "p50Micros": p50, "p99Micros": p99, "cpuMicros": cpu,
                "fuel": fuel, "peakMemoryBytes": peak,
            }));
        }
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
    if let Some(cause) = report.answer.get("failure") {
        bail!(
            "the plugin failed: {}: {}",
            cause.as_str().unwrap_or_default(),
            report.answer["detail"]
        );
    }
    Ok(report)
}

/// CPU time of this process so far, µs; counted in clock ticks of 10 ms.
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name, in parentheses, may hold spaces; user and system time are fields 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    ticks * 10_000
}

const WARM_UP: u32 = 50;
