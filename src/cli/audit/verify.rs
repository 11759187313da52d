//! `latchkey audit verify`: verifies the trail, or an export of it, with nothing but the key.

use std::io::{self, BufRead as _, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::super::exit::{NoDataDirectory, Refusal};
use super::super::{Progress, output};
use super::{MAX_LINE, open, read_keys};
use crate::domain::audit::{
    Anchor, CSV_COLUMNS, FileVerifier, LogKeys, OWN_KEYS, Report, Scope, Tampering, UNSIGNED_ENTRIES,
    UNSIGNED_SPAN, Verdict,
};
use crate::service::trail;

/// Arguments of `latchkey audit verify`.
pub(super) struct Order<'a> {
    pub target: &'a Path,
    pub keys: &'a [String],
    pub checkpoints: &'a [PathBuf],
    /// Number of entries at the end of the trail that need not be signed.
    pub allow_unsigned: Option<u64>,
    pub as_json: bool,
}

pub(super) fn verify(order: &Order<'_>) -> Result<()> {
    let Order {
        target,
        keys,
        checkpoints,
        ..
    } = *order;
    let keys = read_keys(keys)?;
    let mut anchors = Vec::new();
    for path in checkpoints {
        let note = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        if keys.is_empty() {
            bail!(Refusal(
                "--checkpoint requires --key: a checkpoint proves nothing without its key".into()
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
    if target != Path::new("-") && matches!(target.try_exists(), Ok(false)) {
        let place = target.display();
        bail!(NoDataDirectory(format!(
            "{place} does not exist; is the volume mounted? Name an export or a data directory"
        )));
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
    let given: Vec<_> = checkpoints
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let verdict = report.verdict(&given, order.allow_unsigned);
    if order.as_json {
        let mut value = serde_json::to_value(&report)?;
        value["verdict"] = json!(verdict);
        value["unsigned"] = json!(report.unsigned());
        output::json(&value)?;
    } else {
        tell(&report, verdict, &given)?;
        if report.trusted_own_keys {
            output::line(format_args!("checked against {OWN_KEYS}; pass --key"))?;
        }
    }
    conclude(&report, verdict)
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
        let unreadable = |e: csv::Error| Refusal(format!("{}: {e}", path.display()));
        let mut rows = csv::ReaderBuilder::new()
            .flexible(true)
            .from_reader(Bounded { file, left: MAX_LINE });
        verifier.titles(rows.headers().map_err(unreadable)?);
        let mut row = csv::StringRecord::new();
        loop {
            rows.get_mut().left = MAX_LINE;
            if !rows.read_record(&mut row).map_err(unreadable)? {
                break;
            }
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

/// Prints the report. Its text may quote the file, so characters that a terminal would act on are replaced.
fn tell(report: &Report, verdict: Verdict, given: &[String]) -> Result<()> {
    if let Some(scope) = &report.scope {
        output::line(part(scope))?;
    }
    for note in &report.notes {
        output::quoted(format_args!("note: {note}"))?;
    }
    for finding in &report.findings {
        output::quoted(format_args!("{}: {}", name(finding.kind), finding.text))?;
    }
    let not_compared = report.not_compared.iter();
    for one in not_compared.filter(|one| given.contains(&one.source)) {
        output::quoted(format_args!(
            "not compared: your checkpoint in {} is over {} entries, and where it ends the file has only hashes",
            one.source, one.size
        ))?;
    }
    for voided in report.voided.iter().filter(|one| given.contains(&one.source)) {
        output::quoted(format_args!(
            "superseded: your checkpoint in {} over {} entries is of a history that was given up: entry {} records \
             that an older database was put in place, and what came after its first {} entries is not here",
            voided.source, voided.size, voided.given_up_by, voided.given_up_by
        ))?;
    }
    if verdict == Verdict::Tampered {
        return Ok(());
    }
    let removed = match (report.pruned, report.erased) {
        (0, 0) => String::new(),
        (pruned, erased) => format!(", {pruned} pruned, {erased} with erased data"),
    };
    let verdict = serde_json::to_value(verdict)?;
    let verdict = verdict.as_str().unwrap_or_default();
    output::line(format_args!("{verdict}: {} entries{removed}", report.entries))?;
    output::line(match (report.unsigned(), report.vouched_size) {
        (0, _) => format!("signed: all of them, by {} checkpoints", report.checkpoints),
        (_, 0) => "signed: none of them".to_owned(),
        (rest, signed) => format!(
            "signed: the first {signed}, by {} checkpoints; the newest {rest} are not signed yet",
            report.checkpoints
        ),
    })
}

/// Returns a line that says which entries an export leaves out.
fn part(scope: &Scope) -> String {
    let which = [
        scope.organization_id.map(|id| format!(" of organisation {id}")),
        scope.from.map(|from| format!(" from {from} on")),
        scope.to.map(|to| format!(" up to {to}")),
    ];
    let which: String = which.into_iter().flatten().collect();
    format!(
        "part: this is not the whole trail, but only the entries{which}; {} others were left out, in {} places",
        scope.left_out, scope.gaps
    )
}

fn conclude(report: &Report, verdict: Verdict) -> Result<()> {
    match verdict {
        Verdict::Intact => Ok(()),
        Verdict::Tampered => {
            let count = report.findings.len() as u64 + report.further_findings;
            let what = if count == 1 { "thing is" } else { "things are" };
            bail!("the trail was tampered with: {count} {what} wrong")
        }
        Verdict::Superseded => {
            bail!(
                "a checkpoint that you gave is of a history that was given up, and can't vouch for this one"
            )
        }
        Verdict::NotCompared => {
            bail!(
                "nothing wrong was found, but a checkpoint that you gave could not be compared: this is a part of \
                 the trail, and the entries where the checkpoint ends are not in it. Check the whole export or \
                 the data directory"
            )
        }
        Verdict::Unsigned if report.vouched_size == 0 => bail!(
            "nothing wrong was found, but no checkpoint by a trusted key vouches for the trail: whoever can write it \
             could have made all of it. Run latchkey audit checkpoint where it was never signed"
        ),
        Verdict::Unsigned => bail!(
            "nothing wrong was found, but the newest {} entries are not signed, and a server leaves at most \
             {UNSIGNED_ENTRIES} of {} minutes so: whoever can write the trail could have made them. Run latchkey \
             audit checkpoint, or give --allow-unsigned if the configuration asks for fewer checkpoints",
            report.unsigned(),
            UNSIGNED_SPAN.as_mins()
        ),
    }
}

/// Limits how much is read until `left` is reset, because a file of one endless row must not fill the memory.
struct Bounded<R> {
    file: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a row is longer than any that an export has",
            )
        })?;
        Ok(count)
    }
}

fn name(kind: Tampering) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}
