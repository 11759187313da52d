//! Logging: one line per event on standard error, as text for people or JSON for collectors. Every line of a
//! request carries the request id, from the span that `http` opens. Secrets are never logged: the types that
//! hold them do not print them (invariant 7).

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Directive that silences `rusqlite_migration`: it logs outside our events and with paths of the build
/// machine, and it also returns its failures as errors. Placed before the operator's directives, which can
/// still enable it: of two directives the later one applies.
const QUIET: &str = "rusqlite_migration=off";

/// Starts logging, once per process.
///
/// # Errors
/// When logging cannot be started, or the filter is invalid.
pub fn start(config: &LogConfig) -> Result<()> {
    // A command that opens the data directory twice keeps the logging it started with.
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

/// Logs a panic. Only literal messages are logged: a formatted one may contain any value of the program.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic
        .payload()
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("(message withheld)");
    let place = panic.location().map(ToString::to_string);
    tracing::error!(place, "panic: {message}");
}
