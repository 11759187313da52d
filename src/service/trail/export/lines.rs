//! Writes, counts and hashes the lines of an export.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{ExportError, Format};
use crate::domain::audit::export::{EndLine, Line};
use crate::domain::audit::{CSV_COLUMNS, Record, csv_cells};

/// Writes lines, counting and hashing them.
pub(super) struct Lines<W: Write> {
    csv: Option<csv::Writer<W>>,
    plain: Option<W>,
    count: u64,
    digest: Sha256,
}

/// The statement at the end of an export, to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// Number of lines before the end.
    pub lines: u64,
    /// SHA-256 of these lines, including line ends, in hexadecimal.
    pub sha256: String,
    /// Name and key of the log under which the export began.
    pub log: String,
}

/// An export that is complete except for its end line.
pub struct Written<W: Write> {
    lines: Lines<W>,
    entries: u64,
    claim: Claim,
}

impl<W: Write> Written<W> {
    /// The statement to be signed.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Writes the end line with the signed note. Returns the number of entries in the export.
    ///
    /// # Errors
    /// [`ExportError`] when the file can't be written.
    pub fn finish(mut self, signed: String) -> Result<u64, ExportError> {
        let end = EndLine {
            lines: self.claim.lines,
            sha256: self.claim.sha256,
            signed,
        };
        self.lines.write(&Line::End(end))?;
        self.lines.flush()?;
        Ok(self.entries)
    }
}

impl<W: Write> Lines<W> {
    pub(super) fn new(file: W, format: Format) -> io::Result<Self> {
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

    pub(super) fn write(&mut self, line: &Line) -> Result<(), ExportError> {
        self.put(line, vec![String::new(); CSV_COLUMNS.len() - 1])
    }

    pub(super) fn write_record(&mut self, record: &Record) -> Result<(), ExportError> {
        let cells = if self.csv.is_some() {
            csv_cells(record)
        } else {
            Vec::new()
        };
        self.put(&Line::from(record), cells)
    }

    pub(super) fn written(self, entries: u64, log: String) -> Written<W> {
        let claim = Claim {
            lines: self.count,
            sha256: hex::encode(self.digest.clone().finalize()),
            log,
        };
        Written {
            lines: self,
            entries,
            claim,
        }
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

    fn flush(&mut self) -> io::Result<()> {
        if let Some(csv) = &mut self.csv {
            csv.flush()?;
        }
        if let Some(file) = &mut self.plain {
            file.flush()?;
        }
        Ok(())
    }
}
