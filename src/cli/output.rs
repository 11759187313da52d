//! Output of commands: results, tables, and the progress of long work.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::domain::printable::{moves_cursor, printable};

/// Whether a part of the result has been printed.
static SAID: AtomicBool = AtomicBool::new(false);

/// Returns whether a line of the result has been printed. What follows is then not a JSON document of its own.
pub fn has_said() -> bool {
    SAID.load(Ordering::Relaxed)
}

/// Prints a line of the result.
///
/// # Errors
/// When standard output is closed.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    SAID.store(true, Ordering::Relaxed);
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Prints a line that may contain text from a plugin, an admin or a user.
///
/// # Errors
/// When standard output is closed.
pub fn quoted(text: impl std::fmt::Display) -> Result<()> {
    line(lines(&text.to_string()))
}

/// Returns text of several lines with the characters replaced that a terminal would act on, for output other
/// than standard output.
pub fn lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Prints the result as JSON, indented, with a newline at the end.
///
/// # Errors
/// When standard output is closed.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(escaped(&serde_json::to_string_pretty(value)?))
}

/// Escapes the characters in JSON that a terminal would act on; the value stays the same.
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if moves_cursor(c) && c != '\n' {
            text.extend(format!("\\u{:04x}", u32::from(c)).chars());
        } else {
            text.push(c);
        }
    }
    text
}

/// Prints rows in columns, with headings only on a terminal: `cut` and `awk` want none.
///
/// # Errors
/// When standard output is closed.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let mut out = io::stdout().lock();
    let heading: [String; N] = headings.map(str::to_owned);
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| in_place(cell)))
        .collect();
    let mut widths = heading.each_ref().map(|cell| cell.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let terminal = out.is_terminal();
    for row in terminal.then_some(&heading).into_iter().chain(&rows) {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Replaces the characters that would move the cursor or colour what follows: a name may be chosen by
/// anybody.
fn in_place(cell: &str) -> String {
    let shown = |c: char| {
        if moves_cursor(c) {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    cell.chars().map(shown).collect()
}

/// Progress of long work on standard error: a bar on a terminal, plain lines elsewhere. Clones share one bar.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// When the last plain line was written; `None` on a terminal.
    plain: Option<Arc<Mutex<Instant>>>,
    /// Whether the number of steps is known.
    counted: bool,
}

impl Progress {
    /// Starts work of `steps` steps.
    #[must_use]
    pub fn new(what: &'static str, steps: u64) -> Self {
        Self::drawn(what, Some(steps))
    }

    /// Starts work of an unknown number of named steps. A step may count its own parts with
    /// [`Progress::reach_of`].
    #[must_use]
    pub fn of_steps(what: &'static str) -> Self {
        Self::drawn(what, None)
    }

    fn drawn(what: &'static str, steps: Option<u64>) -> Self {
        let terminal = io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(steps, target);
        bar.set_style(style(steps.is_some()));
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            plain: (!terminal).then(|| Arc::new(Mutex::new(Instant::now()))),
            counted: steps.is_some(),
        }
    }

    /// Begins the next step.
    pub fn step(&self, name: &str) {
        self.say(|_| true, name);
        self.bar.set_message(name.to_owned());
        if self.counted {
            self.bar.inc(1);
        } else {
            self.bar.unset_length();
            self.bar.set_position(0);
            self.bar.set_style(style(false));
        }
    }

    /// Reports that `done` of `of` parts of the current step are done.
    pub fn reach_of(&self, done: u64, of: u64) {
        if self.bar.length() == Some(of) {
            return self.reach(done);
        }
        self.bar.set_length(of);
        self.bar.set_style(style(true));
        self.bar.set_position(done);
        self.say(|_| true, format_args!("{done} of {of}"));
    }

    /// Reports that `done` steps are done, for work of millions of steps without names.
    pub fn reach(&self, done: u64) {
        let all = self.bar.length().unwrap_or(0).max(1);
        let before = self.bar.position();
        // Drawing costs more than a step does.
        if done < all && done.saturating_sub(before) < all.div_ceil(1000) {
            return;
        }
        self.bar.set_position(done);
        self.say(
            |since_last| line_due(before, done, all, since_last),
            format_args!("{done} of {all}"),
        );
    }

    /// Ends the work and removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes a plain line if output is plain and `due` says so, given the time since the last line.
    fn say(&self, due: impl Fn(Duration) -> bool, what: impl std::fmt::Display) {
        if let Some(last) = &self.plain {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if due(last.elapsed()) {
                eprintln!("{}: {what}", self.bar.prefix());
                *last = Instant::now();
            }
        }
    }
}

/// Returns whether progress is due in a log: after a tenth of large work, or after a silence. Short work
/// needs no lines.
fn line_due(before: u64, done: u64, all: u64, since_last: Duration) -> bool {
    let tenth = |done: u64| u128::from(done) * 10 / u128::from(all);
    since_last >= SILENCE || (all >= 100_000 && tenth(done) > tenth(before))
}

fn style(counted: bool) -> ProgressStyle {
    let template = if counted {
        "{prefix:>16} [{bar:24}] {pos}/{len} {msg}"
    } else {
        "{prefix:>16} {spinner} {msg} {elapsed}"
    };
    ProgressStyle::with_template(template)
        .expect("the template is well-formed")
        .progress_chars("=> ")
}

/// Longest time without a line in a log while work continues.
const SILENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_holds_nothing_that_a_terminal_obeys() {
        assert_eq!(
            in_place("Ada\n\u{1b}[31m\u{9b}2J Lovelace é"),
            "Ada��[31m�2J Lovelace é"
        );
        assert_eq!(in_place("a\u{202e}b"), "a�b");
    }

    #[test]
    fn neither_does_a_line_or_json_and_json_means_the_same() {
        assert_eq!(lines("one\n\u{1b}]52;two\u{7f}"), "one\n ]52;two ");
        let value = serde_json::json!({ "a": "\u{1b}\u{7f}\u{9b}\u{202e}é" });
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(text, "{\n  \"a\": \"\\u001b\\u007f\\u009b\\u202eé\"\n}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_log_hears_of_long_work_now_and_then() {
        let moment = Duration::from_millis(1);
        assert!(!line_due(1, 2, 10, moment), "what takes a moment needs no lines");
        assert!(line_due(1, 2, 10, SILENCE));
        assert!(line_due(19_999, 20_000, 100_000, moment));
        assert!(!line_due(20_000, 20_100, 100_000, moment));
        assert!(line_due(0, u64::MAX, u64::MAX, moment), "no overflow");
    }

    #[test]
    fn named_steps_and_counts_take_turns() {
        let progress = Progress::of_steps("testing");
        progress.step("compiling");
        assert_eq!((progress.bar.length(), progress.bar.position()), (None, 0));
        progress.reach_of(3, 8);
        progress.reach_of(4, 8);
        assert_eq!((progress.bar.length(), progress.bar.position()), (Some(8), 4));
        progress.step("storing");
        assert_eq!((progress.bar.length(), progress.bar.position()), (None, 0));
        assert_eq!(progress.bar.message(), "storing");
        let counted = Progress::new("testing", 2);
        counted.step("one");
        assert_eq!((counted.bar.length(), counted.bar.position()), (Some(2), 1));
    }
}
