//! `latchkey audit export`: read here, beside the server if one runs; recorded and signed by whoever has the key.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::super::orders::{self, Reached};
use super::super::{Global, Progress};
use super::FormatArg;
use crate::service::trail::{Begun, Export, ExportError, Format, Selection, Snapshot, TrailOrder};

/// What to write where.
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
        // The log begins before the snapshot is taken, where nothing was signed yet.
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
        // A file that can't be written is no export.
        let file: Box<dyn Write> = match self.out {
            Some(path) => Box::new(BufWriter::new(
                File::create_new(path).with_context(|| path.display().to_string())?,
            )),
            None => Box::new(BufWriter::new(io::stdout().lock())),
        };
        let announced = TrailOrder::AuditExport(export.announcement().clone());
        let begun: Begun = ask(&reached, announced).inspect_err(|_| {
            if let Some(path) = self.out {
                let _ = fs::remove_file(path); // empty
            }
        })?;
        write(&reached, export, &begun, file)
    }
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

/// As its cause, which the exit code hangs on: a reader that has left is no failure.
fn plain(error: ExportError) -> anyhow::Error {
    match error {
        ExportError::Trail(error) => error.into(),
        ExportError::Database(error) => error.into(),
        ExportError::Io(error) => error.into(),
    }
}

fn ask<T: DeserializeOwned>(reached: &Reached, order: TrailOrder) -> Result<T> {
    let told = reached.carry_out(order.into(), None)?;
    serde_json::from_value(told).context("the server's reply")
}
