//! `plugin test`: golden cases.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use super::run::host_notes;
use super::{Loaded, base_question, line, micros, refused};
use crate::cli::exit::Refusal;
use crate::cli::output;
use crate::domain::policy::Manifest;
use crate::plugin_host::{Case, CaseReport, Limits};

/// `latchkey plugin test`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  latchkey plugin test policy.wasm cases
  latchkey plugin test policy.wasm cases --junit report.xml

A case is a JSON file:
  {\"description\": \"…\", \"hook\": \"before-reset|after-reset|check-config\", \"config\": {},
   \"question\": {…}, \"outcome\": {…},
   \"expect\": {\"allow\": []} | {\"deny\": {…}} | {\"require-approval\": {…}} | {\"effects\": []}
            | {\"ok\": true} | {\"error\": \"text\"} | {\"failure\": \"deadline\"}}
Its question is merged over the nearest base-question.json, in its folder or above.
Every case is run twice: an answer that differs is a failure, too.")]
pub struct Test {
    /// The plugin.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Folder of cases (its sub-folders, too), or one case.
    #[arg(value_name = "CASES")]
    cases: PathBuf,
    /// Run only cases whose file name or description contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write a `JUnit` report.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A case with its file and what came of it.
struct Ran {
    file: PathBuf,
    report: CaseReport,
    notes: Vec<String>,
}

impl Test {
    pub(super) fn run(self) -> Result<()> {
        let files = case_files(&self.cases)?;
        let loaded = Loaded::open(&self.plugin, true)?;
        let manifest = loaded.runtime.block_on(loaded.host.describe(&loaded.prepared));
        let manifest = manifest.map_err(|error| refused(&self.plugin, &error))?;

        let started = Instant::now();
        let mut all = Vec::new();
        for file in files {
            let case = read_case(&file)?;
            if self
                .only
                .as_ref()
                .is_none_or(|text| file.to_string_lossy().contains(text) || case.description.contains(text))
            {
                let (report, notes) = judge(&loaded, &manifest, &case)?;
                all.push(Ran { file, report, notes });
            }
        }
        let took = started.elapsed();

        if let Some(path) = &self.junit {
            let suite = format!("{} {}", manifest.name, manifest.version);
            fs::write(path, junit(&suite, &all))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let failed = all.iter().filter(|ran| !ran.report.passed).count();
        if self.json {
            let cases: Vec<_> = all
                .iter()
                .map(|r| json!({ "file": r.file, "notes": r.notes, "report": r.report }))
                .collect();
            output::json(
                &json!({ "plugin": manifest.name, "version": manifest.version, "failed": failed, "cases": cases }),
            )?;
        } else {
            print(&all)?;
            line(format_args!(
                "{} {}: {} passed, {failed} failed, {}",
                manifest.name,
                manifest.version,
                all.len() - failed,
                micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
            ))?;
        }
        match failed {
            _ if all.is_empty() => bail!("there is no such case"),
            0 => Ok(()),
            _ => bail!("{failed} of {} cases failed", all.len()),
        }
    }
}

/// Runs a case twice. What the schema says belongs to it, too: a configuration that the plugin takes
/// and its schema refuses could never be saved.
fn judge(loaded: &Loaded, manifest: &Manifest, case: &Case) -> Result<(CaseReport, Vec<String>)> {
    let run = || {
        loaded.runtime.block_on(
            loaded
                .host
                .run_case(&loaded.prepared, Limits::at_installation(), case),
        )
    };
    let (mut report, again) = (run()?, run()?);
    if report.answer != again.answer || report.usage.fuel != again.usage.fuel {
        report
            .differences
            .push("the same question was answered in two ways: a policy is a pure function".to_owned());
    }
    if report.answer.get("ok").is_some() {
        let config = case.config.to_string();
        let checked = loaded.host.check_config(&loaded.prepared, manifest, &config);
        if let Err(error) = loaded.runtime.block_on(checked) {
            report.differences.push(format!(
                "the plugin takes it, but its own config-schema does not: {error}"
            ));
        }
    }
    report.passed = report.differences.is_empty();
    let notes = host_notes(&report.answer, manifest);
    Ok((report, notes))
}

/// Every case in the folder and below, in order of path.
pub(super) fn case_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut files, mut folders) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "json") && !path.ends_with("base-question.json") {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        return Err(Refusal(format!("no case (*.json) in {}", path.display())).into());
    }
    files.sort();
    Ok(files)
}

/// The case in this file, resolved.
pub(super) fn read_case(file: &Path) -> Result<Case> {
    let named =
        |error: &dyn std::fmt::Display| anyhow::Error::new(Refusal(format!("{}: {error}", file.display())));
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let base = base_question(
        file.parent()
            .filter(|f| !f.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )?;
    Case::parse(&text)
        .and_then(|case| case.resolved(&base))
        .map_err(|error| named(&error))
}

fn print(all: &[Ran]) -> Result<()> {
    for Ran { file, report, notes } in all {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let mark = if report.passed { "ok  " } else { "FAIL" };
        line(format_args!("{mark}  {name}: {}", report.description))?;
        for difference in &report.differences {
            line(format_args!("        {difference}"))?;
        }
        if !report.passed {
            for logged in &report.log {
                line(format_args!("        log: {}", logged.message))?;
            }
        }
        for note in notes {
            line(format_args!("        note: {note}"))?;
        }
    }
    Ok(())
}

/// The report that CI systems read.
fn junit(suite: &str, all: &[Ran]) -> String {
    let failed = all.iter().filter(|ran| !ran.report.passed).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites><testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\">",
        escape(suite),
        all.len()
    );
    for Ran { file, report, .. } in all {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let secs = format!(
            "{}.{:06}",
            report.usage.elapsed_micros / 1_000_000,
            report.usage.elapsed_micros % 1_000_000
        );
        let _ = write!(
            xml,
            "<testcase classname=\"{}\" name=\"{}: {}\" file=\"{}\" time=\"{secs}\">",
            escape(suite),
            escape(&name),
            escape(&report.description),
            escape(&file.to_string_lossy())
        );
        if !report.passed {
            let first = report.differences.first().map_or("", String::as_str);
            let _ = write!(
                xml,
                "<failure message=\"{}\">{}</failure>",
                escape(first),
                escape(&report.differences.join("\n"))
            );
        }
        xml += "</testcase>\n";
    }
    xml += "</testsuite></testsuites>\n";
    xml
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' => out += "&#10;",
            // XML 1.0 has no other control characters, not even escaped.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_junit_report_is_well_formed_whatever_a_plugin_says() {
        let report = CaseReport {
            description: "a < b & \"c\"\u{1}".into(),
            passed: false,
            differences: vec!["x: expected 1, got ]]>".into(), "second".into()],
            answer: json!({}),
            log: vec![],
            usage: crate::plugin_host::Usage {
                elapsed_micros: 1_500,
                ..Default::default()
            },
        };
        let xml = junit(
            "p 1.0.0",
            &[Ran {
                file: "cases/one.json".into(),
                report,
                notes: vec![],
            }],
        );
        assert!(xml.contains("tests=\"1\" failures=\"1\""), "{xml}");
        assert!(
            xml.contains(
                "name=\"one: a &lt; b &amp; &quot;c&quot;\u{fffd}\" file=\"cases/one.json\" time=\"0.001500\""
            ),
            "{xml}"
        );
        assert!(xml.contains("<failure message=\"x: expected 1, got ]]&gt;\">x: expected 1, got ]]&gt;&#10;second</failure>"), "{xml}");
    }
}
