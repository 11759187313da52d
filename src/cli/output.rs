//! What commands print: results, tables, and progress of long work.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Prints a line of the result.
///
/// # Errors
/// When standard output is closed.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Prints the result as JSON, indented, with a newline at the end.
///
/// # Errors
/// When standard output is closed.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints rows in columns, with a heading on a terminal only: `cut` and `awk` want none.
///
/// # Errors
/// When standard output is closed.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let mut out = io::stdout().lock();
    let heading: [String; N] = headings.map(str::to_owned);
    let mut widths = heading.each_ref().map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let terminal = out.is_terminal();
    for row in terminal.then_some(&heading).into_iter().chain(rows) {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Long work: a bar on a terminal, plain lines elsewhere, on standard error.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
}

impl Progress {
    /// Work of `steps` steps.
    #[must_use]
    pub fn new(what: &'static str, steps: u64) -> Self {
        let plain = !io::stderr().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        let style = ProgressStyle::with_template("{prefix:>16} [{bar:24}] {pos}/{len} {msg}")
            .expect("the template is well-formed")
            .progress_chars("=> ");
        bar.set_style(style);
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, plain }
    }

    /// The next step begins.
    pub fn step(&self, name: &str) {
        if self.plain {
            eprintln!("{}: {name}", self.bar.prefix());
        }
        self.bar.set_message(name.to_owned());
        self.bar.inc(1);
    }

    /// So many steps are done: for work of millions of steps without names.
    pub fn reach(&self, done: u64) {
        let all = self.bar.length().unwrap_or(0).max(1);
        let before = self.bar.position();
        // Drawing costs more than a step does.
        if done < all && done.saturating_sub(before) < all.div_ceil(1000) {
            return;
        }
        self.bar.set_position(done);
        // What takes a moment needs no lines.
        if self.plain && all >= 100_000 && done * 10 / all > before * 10 / all {
            eprintln!("{}: {} of {all}", self.bar.prefix(), done);
        }
    }

    /// All is done.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
