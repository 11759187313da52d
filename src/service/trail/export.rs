//! The trail as a file (`domain/audit/export.rs` has the format).

use std::io::{self, Write};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Services, checkpoints};
use crate::domain::Error;
use crate::domain::account::OrganizationId;
use crate::domain::audit::export::{EXPORT_FORMAT, EndLine, GapLine, Header, Line};
use crate::domain::audit::{CSV_COLUMNS, LogSigner, Record, csv_cells};
use crate::store::audit::{self, checkpoints as kept};

/// What to export.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this organisation's entries.
    pub organization_id: Option<OrganizationId>,
    /// Only from this time on.
    pub from: Option<Timestamp>,
    /// Only up to this time.
    pub to: Option<Timestamp>,
}

/// How to write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Ndjson,
    /// A table to read, with the JSON object in its last column.
    Csv,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The trail could not be read.
    #[error(transparent)]
    Trail(#[from] Error),
    /// The file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes the selected entries with what proves them, and says how many. `progress` is told the places
/// done and how many there are.
///
/// # Errors
/// [`ExportError`].
pub async fn export(
    services: &Services,
    selection: &Selection,
    format: Format,
    file: impl Write,
    mut progress: impl FnMut(u64, u64),
) -> Result<u64, ExportError> {
    let signer = checkpoints::signer(services).await?;
    let signed = checkpoints::checkpoint(services).await?;
    let organization_id = selection.organization_id.map(|id| id.0);
    let mut lines = Lines::new(file, format)?;
    services.store.read(|db| {
        let mut run = || -> Result<u64, ExportError> {
            let range = audit::find_range(db, organization_id, selection.from, selection.to, signed.size)?;
            let keys = kept::known_keys(db)?;
            lines.write(&Line::Header(Header {
                format: EXPORT_FORMAT.to_owned(),
                checkpoint: signed.note.clone(),
                keys: keys.iter().map(ToString::to_string).collect(),
                organization_id,
                from: selection.from,
                to: selection.to,
                exported_at: services.clock.now(),
            }))?;
            let mut on_the_way = kept::notes(db)?.into_iter().peekable();
            let (mut next, mut entries) = (0, 0);
            audit::for_each_record(db, range, |record: Record| -> Result<(), ExportError> {
                while let Some((_, note)) = on_the_way.next_if(|(size, _)| *size <= next) {
                    lines.write(&Line::Checkpoint { note })?;
                }
                if record.sequence > next {
                    let hashes = audit::cover(db, next, record.sequence)?;
                    lines.write(&Line::Gap(GapLine::new(next, record.sequence, &hashes)))?;
                    // What was signed within the gap can't be compared with anything in the file.
                    while on_the_way.next_if(|(size, _)| *size <= record.sequence).is_some() {}
                }
                next = record.sequence + 1;
                entries += 1;
                progress(next, signed.size);
                lines.write_record(&record)
            })?;
            if next < signed.size {
                let hashes = audit::cover(db, next, signed.size)?;
                lines.write(&Line::Gap(GapLine::new(next, signed.size, &hashes)))?;
            }
            lines.end(&signer)?;
            progress(signed.size, signed.size);
            Ok(entries)
        };
        Ok(run())
    })?
}

/// Writes lines, counts them and hashes them.
struct Lines<W: Write> {
    csv: Option<csv::Writer<W>>,
    plain: Option<W>,
    count: u64,
    digest: Sha256,
}

impl<W: Write> Lines<W> {
    fn new(file: W, format: Format) -> io::Result<Self> {
        let mut lines = Self {
            csv: None,
            plain: None,
            count: 0,
            digest: Sha256::new(),
        };
        match format {
            Format::Ndjson => lines.plain = Some(file),
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(file);
                writer.write_record(CSV_COLUMNS)?;
                lines.csv = Some(writer);
            }
        }
        Ok(lines)
    }

    fn write(&mut self, line: &Line) -> Result<(), ExportError> {
        self.put(line, vec![String::new(); CSV_COLUMNS.len() - 1])
    }

    fn write_record(&mut self, record: &Record) -> Result<(), ExportError> {
        let cells = if self.csv.is_some() {
            csv_cells(record)
        } else {
            Vec::new()
        };
        self.put(&Line::from(record), cells)
    }

    fn put(&mut self, line: &Line, mut cells: Vec<String>) -> Result<(), ExportError> {
        let text = serde_json::to_string(line).map_err(io::Error::from)?;
        self.count += 1;
        self.digest.update(text.as_bytes());
        self.digest.update(b"\n");
        if let Some(file) = &mut self.plain {
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
        }
        if let Some(csv) = &mut self.csv {
            cells.push(text);
            csv.write_record(&cells).map_err(io::Error::from)?;
        }
        Ok(())
    }

    fn end(&mut self, signer: &LogSigner) -> Result<(), ExportError> {
        let sha256 = self.digest.clone().finalize().into();
        let end = EndLine {
            lines: self.count,
            sha256: hex::encode(sha256),
            signed: signer.export_end(self.count, sha256),
        };
        self.write(&Line::End(end))?;
        if let Some(csv) = &mut self.csv {
            csv.flush()?;
        }
        if let Some(file) = &mut self.plain {
            file.flush()?;
        }
        Ok(())
    }
}
