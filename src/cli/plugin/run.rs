//! `latchkey plugin run`: asks a plugin one question.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Loaded, base_question, bytes, line, micros};
use crate::cli::exit::Refusal;
use crate::cli::policy::config;
use crate::cli::{files, output};
use crate::domain::policy::{Answer, Denial, Grants, Manifest, Mode, vet};
use crate::plugin_host::{Case, CaseError, CaseHook, Limits, merge_patch, printable};

/// Arguments of `latchkey plugin run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  latchkey plugin run policy.wasm
  latchkey plugin run policy.wasm --config '{\"maxPer30Days\":2}' --question cases/too-many.json
  latchkey plugin run policy.wasm --hook after-reset --json

The file of --question holds a question, a part of one (merged over the nearest base-question.json, or
the built-in question), or a golden case, whose hook, configuration and outcome are then used as well.")]
pub struct Run {
    /// Plugin file.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Question, part of a question, or golden case (JSON).
    #[arg(long, value_name = "FILE")]
    question: Option<PathBuf>,
    /// Outcome, or part of one, for after-reset (JSON).
    #[arg(long, value_name = "FILE")]
    outcome: Option<PathBuf>,
    /// Configuration: JSON, or a file that holds it.
    #[arg(long, value_name = "JSON|@FILE|FILE")]
    config: Option<String>,
    /// Function of the plugin to call [default: that of the golden case, or before-reset].
    #[arg(long, value_enum)]
    hook: Option<HookName>,
    /// Deadline of the call in milliseconds (5–1000), as a binding may set it.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(5..=1_000))]
    deadline: u32,
    /// Ask even if an appliance would refuse the configuration.
    #[arg(long)]
    unchecked_config: bool,
    /// Print the answer, log and usage as JSON.
    #[arg(long)]
    json: bool,
}

/// Functions of a plugin that take a question or a configuration.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum HookName {
    BeforeReset,
    AfterReset,
    CheckConfig,
}

impl From<HookName> for CaseHook {
    fn from(name: HookName) -> Self {
        match name {
            HookName::BeforeReset => Self::BeforeReset,
            HookName::AfterReset => Self::AfterReset,
            HookName::CheckConfig => Self::CheckConfig,
        }
    }
}

impl Run {
    pub(super) fn run(self) -> Result<()> {
        let loaded = Loaded::open(&self.plugin, true)?;
        let case = self.case()?;
        let manifest = loaded.manifest(&self.plugin)?;
        if !self.unchecked_config {
            loaded.must_take_config(&manifest, &case)?;
        }
        let limits = Limits {
            deadline_ms: self.deadline,
            ..Limits::at_installation()
        };
        let report = loaded
            .runtime
            .block_on(loaded.host.run_case(&loaded.prepared, limits, &case))?;
        let notes = host_notes(&report.answer, &manifest);

        if self.json {
            output::json(&json!({
                "hook": case.hook, "answer": report.answer, "notes": notes,
                "log": report.log, "usage": report.usage,
            }))?;
        } else {
            match serde_json::from_value::<Answer>(report.answer.clone()) {
                Ok(Answer::Deny(denial)) => print_denial(&denial)?,
                _ => print_json(&report.answer)?,
            }
            for logged in &report.log {
                line(format_args!(
                    "log {:5}  {}",
                    json!(logged.level).as_str().unwrap_or_default(),
                    logged.message
                ))?;
            }
            for note in &notes {
                line(format_args!("note       {note}"))?;
            }
            let usage = report.usage;
            line(format_args!(
                "used       {}, fuel {}, memory {}",
                micros(usage.elapsed_micros),
                usage.fuel.unwrap_or_default(),
                bytes(usage.peak_memory_bytes)
            ))?;
        }
        match failure(&case, &report.answer) {
            Some(failure) => bail!("the plugin failed: {failure}"),
            None => Ok(()),
        }
    }

    /// Builds the case that the arguments describe.
    fn case(&self) -> Result<Case> {
        let given = self
            .question
            .as_deref()
            .map(files::json)
            .transpose()?
            .unwrap_or_else(|| json!({}));
        let folder = self
            .question
            .as_deref()
            .and_then(Path::parent)
            .filter(|f| !f.as_os_str().is_empty());
        let base = base_question(folder.unwrap_or(Path::new(".")))?;

        let mut case = if given.get("hook").is_some() {
            Case::parse(&given.to_string()).map_err(|error| self.malformed(&error))?
        } else {
            let hook = CaseHook::BeforeReset;
            Case {
                description: String::new(),
                hook,
                config: json!({}),
                question: given,
                outcome: None,
                expect: Value::Null,
            }
        };
        if let Some(hook) = self.hook {
            case.hook = hook.into();
        } else if self.outcome.is_some() {
            case.hook = CaseHook::AfterReset;
        }
        if let Some(given) = &self.config {
            case.config = config(given)?;
        }
        if let Some(path) = &self.outcome {
            let mut outcome = case.outcome.take().unwrap_or_else(|| json!({}));
            merge_patch(&mut outcome, &files::json(path)?);
            case.outcome = Some(outcome);
        }
        case.resolved(&base)
            .map_err(|error| self.malformed(&error).into())
    }

    /// Names the file whose content is malformed, and the problem.
    fn malformed(&self, error: &CaseError) -> Refusal {
        let file = self.outcome.as_deref().filter(|_| error.is_about_outcome());
        Refusal(match file.or(self.question.as_deref()) {
            Some(file) => format!("{}: {error}", file.display()),
            None => error.to_string(),
        })
    }
}

/// Returns the cause and text of a call that failed. An error is a valid answer to `check-config`, but a
/// failure of a hook.
pub(super) fn failure(case: &Case, answer: &Value) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(cause) = answer.get("failure") {
        return Some(printable(&format!(
            "{}: {}",
            text(cause),
            text(&answer["detail"])
        )));
    }
    let error = answer
        .get("error")
        .filter(|_| case.hook != CaseHook::CheckConfig)?;
    Some(printable(&format!("hook-error: {}", text(error))))
}

/// Prints JSON for people, line by line through `line`: JSON itself escapes only some control characters.
fn print_json(value: &Value) -> Result<()> {
    serde_json::to_string_pretty(value)?.lines().try_for_each(line)
}

/// Prints a denial as the admin will see it: code, reason, and from when on the reset would be allowed.
fn print_denial(denial: &Denial) -> Result<()> {
    line(format_args!("deny       {}: {}", denial.code, denial.message))?;
    if let Some(from) = denial.allowed_from {
        line(format_args!("from       {from}"))?;
    }
    for fact in &denial.because {
        line(format_args!("because    {} = {}", fact.name, fact.value))?;
    }
    Ok(())
}

/// Returns what a host would refuse or repair in the answer if the operator granted everything in the
/// manifest's `wants`.
pub(super) fn host_notes(answer: &Value, manifest: &Manifest) -> Vec<String> {
    let Ok(answer) = serde_json::from_value::<Answer>(answer.clone()) else {
        return vec![];
    };
    let vetted = vet(answer, &Grants::of(manifest.wants.iter().cloned()), Mode::Enforce);
    let refused = vetted.refused.iter().map(|refused| {
        let name = refused.effect.name();
        if manifest.wants.iter().any(|want| want == name) {
            format!("the host would refuse {name}: {}", refused.why)
        } else {
            format!("the host would refuse {name}: the manifest's wants does not name it")
        }
    });
    refused
        .chain(
            vetted
                .repaired
                .iter()
                .map(|what| format!("the host would repair: {what}")),
        )
        .collect()
}
