//! `latchkey audit export`: reads the entries here, beside the server if one runs; whoever holds the key
//! records and signs the export.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;

use super::super::exit::Refusal;
use super::super::orders::{self, Reached};
use super::super::{Global, Progress};
use super::FormatArg;
use crate::service::trail::{Begun, Export, ExportError, Format, Selection, Snapshot, TrailOrder};

/// Arguments of `latchkey audit export`.
pub(super) struct Order<'a> {
    pub out: Option<&'a Path>,
    pub format: FormatArg,
    pub org: Option<&'a str>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}

impl Order<'_> {
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let reached = orders::reach(global)?;
        // The log must exist before the snapshot is taken, even if nothing was signed yet.
        ask::<String>(&reached, TrailOrder::AuditKeys)?;
        let snapshot = Snapshot::take(reached.data_dir())?;
        let selection = Selection {
            organization_id: self
                .org
                .map(|slug| snapshot.find_organization(slug))
                .transpose()?,
            from: self.from,
            to: self.to,
        };
        let format = match self.format {
            FormatArg::Ndjson => Format::Ndjson,
            FormatArg::Csv => Format::Csv,
        };
        let export = snapshot.prepare(&selection, format)?;
        // Create the file before the export is announced: without a file there is no export to record.
        let Some(path) = self.out else {
            return conclude(&reached, export, Box::new(BufWriter::new(io::stdout().lock())));
        };
        let file = new_file(path)?;
        conclude(&reached, export, Box::new(BufWriter::new(file))).map_err(|error| {
            // A partial export proves nothing, and would block the next attempt.
            let left = match fs::remove_file(path) {
                Ok(()) => "the file was removed",
                Err(_) => "it is incomplete, remove it",
            };
            error.context(format!("{} could not be written ({left})", path.display()))
        })
    }
}

/// Parses an RFC 3339 time, or a date as the start of that day in UTC.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(day) = text.parse::<Date>()
        && text.len() == "2026-01-31".len()
    {
        let start = day.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
        return Ok(start.timestamp());
    }
    text.parse().map_err(|error: jiff::Error| error.to_string())
}

/// Creates a file readable by its owner only, because entries name people.
fn new_file(path: &Path) -> Result<File> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    made.map_err(|error| {
        let place = path.display();
        if error.kind() == io::ErrorKind::AlreadyExists {
            Refusal(format!("{place} exists; name a new file, nothing is overwritten")).into()
        } else {
            anyhow::Error::from(error).context(place.to_string())
        }
    })
}

/// Announces the export, writes it, and has its end signed.
fn conclude(reached: &Reached, export: Export, file: Box<dyn Write>) -> Result<()> {
    let announced = TrailOrder::AuditExport(export.announcement().clone());
    let begun: Begun = ask(reached, announced)?;
    write(reached, export, &begun, file)
}

fn write(reached: &Reached, export: Export, begun: &Begun, file: Box<dyn Write>) -> Result<()> {
    let progress = Progress::new("export", export.announcement().tree_size);
    let written = export
        .write(begun, file, |done, _| progress.reach(done))
        .map_err(plain)?;
    let signed: String = ask(reached, TrailOrder::AuditExportEnd(written.claim().clone()))?;
    let entries = written.finish(signed).map_err(plain)?;
    progress.finish();
    eprintln!("{entries} entries written");
    Ok(())
}

/// Unwraps the cause, which determines the exit code: a closed pipe is not a failure.
fn plain(error: ExportError) -> anyhow::Error {
    match error {
        ExportError::Trail(error) => error.into(),
        ExportError::Database(error) => error.into(),
        ExportError::Io(error) => error.into(),
        changed @ ExportError::Changed(_) => changed.into(),
    }
}

fn ask<T: DeserializeOwned>(reached: &Reached, order: TrailOrder) -> Result<T> {
    let told = reached.carry_out(order.into(), None)?;
    serde_json::from_value(told).context("the server's reply is invalid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_its_start_in_utc_and_a_time_is_itself() {
        let read = |text| time(text).map(|at| at.to_string());
        assert_eq!(read("2026-01-31").as_deref(), Ok("2026-01-31T00:00:00Z"));
        assert_eq!(
            read("2026-01-31T10:00:00+01:00").as_deref(),
            Ok("2026-01-31T09:00:00Z")
        );
        for neither in ["2026-02-30", "2026-01-31T10:00:00", "yesterday", ""] {
            assert!(time(neither).is_err(), "{neither}");
        }
    }
}
