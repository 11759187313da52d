//! Logs: one line per event on standard error, text for people or JSON for collectors. Every line
//! of a request carries its id, from the span that `http` opens. Nothing secret is ever logged:
//! secrets have types that don't print (invariant 7).

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Logs by another way than ours, with paths of the machine that it was built on; what fails it returns as an error,
/// too. Before what the operator says, who may ask for it all the same: the later of two directives holds.
const QUIET: &str = "rusqlite_migration=off";

/// Begins to log, once per process.
///
/// # Errors
/// When logging has begun already, or the filter can't be read.
pub fn start(config: &LogConfig) -> Result<()> {
    // A command that opens the data directory twice in a row logs as it began to.
    if tracing::dispatcher::has_been_set() {
        return Ok(());
    }
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter))
        .with_context(|| format!("log level {:?}", config.filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("logging could not be started: {e}"))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A formatted panic message may hold any value of the program, so only literals are logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic
        .payload()
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("(message withheld)");
    let place = panic.location().map(ToString::to_string);
    tracing::error!(place, "panic: {message}");
}
