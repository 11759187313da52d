//! `latchkey audit verify`: needs the trail or an export of it, and the key.

use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::super::exit::Refusal;
use super::super::{Progress, output};
use super::{MAX_LINE, open, read_keys};
use crate::domain::audit::{Anchor, CSV_COLUMNS, FileVerifier, LogKeys, Report, Tampering};
use crate::service::trail;

pub(super) fn verify(target: &Path, keys: &[String], checkpoints: &[PathBuf], as_json: bool) -> Result<()> {
    let keys = read_keys(keys)?;
    let mut anchors = Vec::new();
    for path in checkpoints {
        let note = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        if keys.is_empty() {
            bail!(Refusal(
                "--checkpoint needs --key: a checkpoint without its key says nothing".into()
            ));
        }
        let checkpoint = keys
            .open(&note)
            .map_err(|e| Refusal(format!("{}: {e}", path.display())))?;
        anchors.push(Anchor {
            checkpoint,
            source: path.display().to_string(),
        });
    }
    let report = if target.is_dir() {
        let mut bar = None;
        let report = trail::verify_data_dir(target, &keys, anchors, |done, all| {
            bar.get_or_insert_with(|| Progress::new("verify", all))
                .reach(done);
        })?;
        if let Some(bar) = bar {
            bar.finish();
        }
        report
    } else {
        verify_file(target, keys, anchors)?
    };
    tell(&report, as_json)
}

fn verify_file(path: &Path, keys: LogKeys, anchors: Vec<Anchor>) -> Result<Report> {
    let mut file = open(path)?;
    let mut verifier = FileVerifier::new(keys, anchors);
    let mut bar: Option<Progress> = None;
    let mut progress = |verifier: &FileVerifier| {
        bar.get_or_insert_with(|| Progress::new("verify", verifier.size()))
            .reach(verifier.position());
    };
    let is_csv = file.fill_buf()?.starts_with(CSV_COLUMNS[0].as_bytes());
    let refused = |error: crate::domain::audit::FileError| Refusal(format!("{}: {error}", path.display()));
    if is_csv {
        let mut rows = csv::ReaderBuilder::new().flexible(true).from_reader(file);
        for row in rows.records() {
            let row = row.map_err(|e| Refusal(format!("{}: {e}", path.display())))?;
            let cells: Vec<_> = row.iter().collect();
            verifier
                .line(cells.last().copied().unwrap_or_default(), Some(&cells))
                .map_err(refused)?;
            progress(&verifier);
        }
    } else {
        let mut line = Vec::new();
        while file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
            verifier.line(&text, None).map_err(refused)?;
            progress(&verifier);
            line.clear();
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(verifier.finish().map_err(refused)?)
}

fn tell(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        let verdict = if report.is_intact() { "intact" } else { "tampered" };
        let mut value = serde_json::to_value(report)?;
        value["verdict"] = json!(verdict);
        output::json(&value)?;
    } else {
        for note in &report.notes {
            output::line(format_args!("note: {note}"))?;
        }
        for finding in &report.findings {
            output::line(format_args!("{}: {}", name(finding.kind), finding.text))?;
        }
        if report.is_intact() {
            let removed = match (report.pruned, report.erased) {
                (0, 0) => String::new(),
                (pruned, erased) => format!(", {pruned} pruned, {erased} with erased data"),
            };
            output::line(format_args!("intact: {} entries{removed}", report.entries))?;
            output::line(match report.size - report.vouched_size.min(report.size) {
                0 => format!("signed: all of them, by {} checkpoints", report.checkpoints),
                rest => format!(
                    "signed: the first {}, by {} checkpoints; the newest {rest} are not signed yet",
                    report.vouched_size, report.checkpoints
                ),
            })?;
        }
    }
    if !report.is_intact() {
        let count = report.findings.len() as u64 + report.further_findings;
        let what = if count == 1 { "thing is" } else { "things are" };
        bail!("the trail was tampered with: {count} {what} wrong");
    }
    Ok(())
}

fn name(kind: Tampering) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}
