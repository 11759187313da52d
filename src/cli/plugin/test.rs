//! `latchkey plugin test`: runs golden cases.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::run::host_notes;
use super::{Loaded, base_question, line, micros};
use crate::cli::exit::{Refusal, told};
use crate::cli::{files, output};
use crate::domain::policy::Manifest;
use crate::plugin_host::{Case, CaseReport, Limits, printable};

/// Arguments of `latchkey plugin test`.
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
Its question is merged over the nearest base-question.json, in its folder or above, or the built-in one.
Every case is run twice; two different answers are a failure.")]
pub struct Test {
    /// Plugin file.
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// Folder of cases (including its sub-folders), or one case.
    #[arg(value_name = "CASES")]
    cases: PathBuf,
    /// Run only cases whose file name or description contains this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write a `JUnit` XML report to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Ask even if an appliance would refuse the configuration.
    #[arg(long)]
    unchecked_config: bool,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

/// A case with its file and its report; an error text if the file holds no valid case.
struct Ran {
    file: PathBuf,
    report: Result<CaseReport, String>,
    notes: Vec<String>,
}

impl Ran {
    fn name(&self) -> String {
        self.file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    fn failed(&self) -> bool {
        self.report.as_ref().is_ok_and(|report| !report.passed)
    }

    fn to_json(&self) -> Value {
        let Self { file, report, notes } = self;
        match report {
            Ok(report) => json!({ "file": file, "notes": notes, "report": report }),
            Err(reason) => json!({ "file": file, "error": reason }),
        }
    }
}

impl Test {
    pub(super) fn run(self) -> Result<()> {
        let files = case_files(&self.cases)?;
        let loaded = Loaded::open(&self.plugin, true)?;
        let manifest = loaded.manifest(&self.plugin)?;

        let started = Instant::now();
        let mut all = Vec::new();
        for file in files {
            let case = read_case(&file);
            let description = case.as_ref().map_or("", |case| &case.description);
            let chosen = self
                .only
                .as_ref()
                .is_none_or(|text| file.to_string_lossy().contains(text) || description.contains(text));
            if !chosen {
                continue;
            }
            // A case that can't be read must not hide the results of the others.
            let (report, notes) = match case {
                Ok(case) => {
                    let (report, notes) = self.judge(&loaded, &manifest, &case)?;
                    (Ok(report), notes)
                }
                Err(error) => (Err(told(&error)), vec![]),
            };
            all.push(Ran { file, report, notes });
        }
        let took = started.elapsed();

        if let Some(path) = &self.junit {
            let suite = format!("{} {}", manifest.name, manifest.version);
            fs::write(path, junit(&suite, &all))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let failed = all.iter().filter(|ran| ran.failed()).count();
        let malformed: Vec<_> = all.iter().filter_map(|ran| ran.report.as_ref().err()).collect();
        if self.json {
            let cases: Vec<_> = all.iter().map(Ran::to_json).collect();
            output::json(&json!({
                "plugin": manifest.name, "version": manifest.version, "failed": failed, "malformed": malformed.len(),
                "cases": cases,
            }))?;
        } else {
            print(&all)?;
            line(format_args!(
                "{} {}: {} passed, {failed} failed, {}",
                manifest.name,
                manifest.version,
                all.len() - failed - malformed.len(),
                micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
            ))?;
        }
        match (failed, malformed.as_slice()) {
            _ if all.is_empty() => bail!("no case matches"),
            (_, [reason]) => Err(Refusal((*reason).clone()).into()),
            (_, [reason, others @ ..]) => {
                let others = others.len();
                Err(Refusal(format!("{reason}; {others} further files hold no case either")).into())
            }
            (0, []) => Ok(()),
            (_, []) => bail!("{failed} of {} cases failed", all.len()),
        }
    }

    /// Runs a case twice and checks its configuration against the schema: a configuration that the plugin
    /// accepts but its schema refuses could never be saved, so the plugin would never be asked with it.
    fn judge(&self, loaded: &Loaded, manifest: &Manifest, case: &Case) -> Result<(CaseReport, Vec<String>)> {
        let run = || {
            loaded.runtime.block_on(
                loaded
                    .host
                    .run_case(&loaded.prepared, Limits::at_installation(), case),
            )
        };
        let (mut report, again) = (run()?, run()?);
        if report.answer != again.answer || report.usage.fuel != again.usage.fuel {
            report.differences.push(
                "the same question got two different answers: a policy must be a pure function".to_owned(),
            );
        }
        if !self.unchecked_config {
            report.differences.extend(loaded.config_refused(manifest, case));
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
        // The engine's message about a trap; without log lines there is no other clue.
        if let Some(detail) = report.answer["detail"]
            .as_str()
            .filter(|_| !report.differences.is_empty())
        {
            report.differences.push(format!("detail: {}", printable(detail)));
        }
        report.passed = report.differences.is_empty();
        let notes = host_notes(&report.answer, manifest);
        Ok((report, notes))
    }
}

/// Returns every case file in the folder and below, in order of path.
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

/// Reads the case in this file, resolved.
pub(super) fn read_case(file: &Path) -> Result<Case> {
    let named =
        |error: &dyn std::fmt::Display| anyhow::Error::new(Refusal(format!("{}: {error}", file.display())));
    let text = files::text(file)?;
    let base = base_question(
        file.parent()
            .filter(|f| !f.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )?;
    let case = Case::parse(&text)
        .and_then(|case| case.resolved(&base))
        .map_err(|error| named(&error))?;
    files::json_of(&text).map(|_| case).map_err(|error| named(&error))
}

fn print(all: &[Ran]) -> Result<()> {
    for ran in all {
        let name = ran.name();
        let report = match &ran.report {
            Ok(report) => report,
            Err(reason) => {
                line(format_args!("BAD   {name}: {reason}"))?;
                continue;
            }
        };
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
        for note in &ran.notes {
            line(format_args!("        note: {note}"))?;
        }
    }
    Ok(())
}

/// Returns the `JUnit` XML report for CI systems.
fn junit(suite: &str, all: &[Ran]) -> String {
    let failed = all.iter().filter(|ran| ran.failed()).count();
    let errors = all.iter().filter(|ran| ran.report.is_err()).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites><testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" errors=\"{errors}\">",
        escape(suite),
        all.len()
    );
    for ran in all {
        let (name, file) = (ran.name(), escape(&ran.file.to_string_lossy()));
        let report = match &ran.report {
            Ok(report) => report,
            Err(reason) => {
                let _ = writeln!(
                    xml,
                    "<testcase classname=\"{}\" name=\"{}\" file=\"{file}\"><error message=\"{}\"/></testcase>",
                    escape(suite),
                    escape(&name),
                    escape(reason)
                );
                continue;
            }
        };
        let secs = format!(
            "{}.{:06}",
            report.usage.elapsed_micros / 1_000_000,
            report.usage.elapsed_micros % 1_000_000
        );
        let _ = write!(
            xml,
            "<testcase classname=\"{}\" name=\"{}: {}\" file=\"{file}\" time=\"{secs}\">",
            escape(suite),
            escape(&name),
            escape(&report.description)
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
            // XML 1.0 allows no other control characters, not even escaped.
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
                report: Ok(report),
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
