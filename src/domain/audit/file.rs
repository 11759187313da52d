//! Verifies an exported file, line by line and in constant memory.

use sha2::{Digest as _, Sha256};

use super::checkpoint::{LogKey, LogKeys, unchecked};
use super::export::{EXPORT_FORMAT, EndLine, Header, Line};
use super::leaf::write_time;
use super::record::{Content, Record};
use super::report::{Anchor, Report, Scope, Tampering};
use super::verify::Verifier;

/// The columns of an export as CSV. The last one holds the line of the JSON format and is what is verified; the
/// others are there to be read, and are compared with it.
pub const CSV_COLUMNS: [&str; 17] = [
    "sequence",
    "id",
    "createdAt",
    "eventType",
    "result",
    "actorType",
    "actorId",
    "actorEmail",
    "ipAddress",
    "resourceType",
    "resourceId",
    "resourceName",
    "errorMessage",
    "details",
    "requestId",
    "organizationId",
    "record",
];

/// Maximum keys read from a header: each is tried at each checkpoint, and a log has few.
const HEADER_KEYS: usize = 1000;

/// A verification in progress.
#[derive(Debug)]
pub struct FileVerifier {
    keys: LogKeys,
    trust_header: bool,
    anchors: Vec<Anchor>,
    state: Option<Verifier>,
    size: u64,
    lines: u64,
    digest: Sha256,
    ended: bool,
    titles_changed: bool,
}

/// Why a file can't be verified at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Its first line is not the header of an export.
    #[error("it is not an export of the trail: {0}")]
    NotAnExport(String),
    /// A line can't be read.
    #[error("line {line} can't be read: {problem}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
}

impl FileVerifier {
    /// Creates a verification that trusts `keys`, and compares with `anchors` besides the file's own checkpoints.
    /// Without keys, those in the file's header are trusted: that detects damage, but not forgery.
    #[must_use]
    pub fn new(keys: LogKeys, anchors: Vec<Anchor>) -> Self {
        Self {
            trust_header: keys.is_empty(),
            keys,
            anchors,
            state: None,
            size: 0,
            lines: 0,
            digest: Sha256::new(),
            ended: false,
            titles_changed: false,
        }
    }

    /// Returns the size of the file's checkpoint; known after its first line.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the sequence expected next.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.state.as_ref().map_or(0, Verifier::next_sequence)
    }

    /// Takes the column titles of a CSV file, before its first line: a reader relies on them to know which column
    /// is which.
    pub fn titles<'a>(&mut self, titles: impl IntoIterator<Item = &'a str>) {
        self.titles_changed = !titles.into_iter().eq(CSV_COLUMNS);
    }

    /// Takes the next line, without its line end; for a CSV file with `cells`, the row whose last cell it is.
    ///
    /// # Errors
    /// [`FileError::NotAnExport`] for a first line that is not a header.
    pub fn line(&mut self, line: &str, cells: Option<&[&str]>) -> Result<(), FileError> {
        let parsed: Result<Line, _> = serde_json::from_str(line);
        let Some(verifier) = &mut self.state else {
            let header = match parsed {
                Ok(Line::Header(header)) if header.format == EXPORT_FORMAT => header,
                Ok(Line::Header(header)) => {
                    return Err(FileError::NotAnExport(format!(
                        "format {:?} is not known to this version",
                        header.format
                    )));
                }
                Ok(_) => return Err(FileError::NotAnExport("the header is missing".into())),
                Err(error) => return Err(FileError::NotAnExport(error.to_string())),
            };
            self.count(line);
            self.state = Some(self.begin(&header));
            self.nothing_beside(cells);
            return Ok(());
        };
        let next = verifier.next_sequence();
        if self.ended {
            let text = "there are lines after the end of the export".to_owned();
            verifier.finding(Tampering::Duplicated, next, next, text);
            return Ok(());
        }
        match parsed {
            Ok(Line::End(end)) => {
                self.nothing_beside(cells);
                self.end(&end);
            }
            Ok(line_read) => {
                self.entry(line_read, cells);
                self.count(line);
            }
            Err(error) => {
                let problem = format!("line {}: {error}", self.lines + 1);
                verifier.unreadable(next, &problem);
                self.count(line);
            }
        }
        Ok(())
    }

    /// Ends the file and returns the report.
    ///
    /// # Errors
    /// [`FileError::NotAnExport`] for an empty file.
    pub fn finish(self) -> Result<Report, FileError> {
        let mut verifier = self
            .state
            .ok_or_else(|| FileError::NotAnExport("it is empty".into()))?;
        if !self.ended {
            let next = verifier.next_sequence();
            let text = "the file is cut off: its last line is not the end of an export".to_owned();
            verifier.finding(Tampering::CutOff, next, next, text);
        }
        Ok(verifier.finish())
    }

    fn begin(&mut self, header: &Header) -> Verifier {
        if self.trust_header {
            let keys = header.keys.iter().take(HEADER_KEYS);
            for key in keys.filter_map(|key| LogKey::parse(key).ok()) {
                self.keys.add(key);
            }
        }
        let complete = header.from.is_none() && header.to.is_none();
        let mut verifier = Verifier::new(std::mem::take(&mut self.anchors), complete);
        if header.organization_id.is_some() || !complete {
            verifier.scope(Scope {
                organization_id: header.organization_id,
                from: header.from,
                to: header.to,
                ..Scope::default()
            });
        }
        if self.titles_changed {
            let text = "the titles of the columns are not those of an export".to_owned();
            verifier.finding(Tampering::Edited, 0, 0, text);
        }
        if self.trust_header {
            verifier.trust_own(&self.keys);
        } else {
            verifier.trust(&self.keys);
        }
        // Used only to show progress.
        self.size = unchecked(&header.checkpoint).map_or(0, |told| told.size);
        if let Err(error) = verifier.offer(&header.checkpoint, "the header", true) {
            verifier.finding(
                Tampering::ForgedCheckpoint,
                0,
                0,
                format!("the checkpoint in the header does not count: {error}"),
            );
        }
        verifier
    }

    /// Checks that in a CSV file the columns beside a line that is not an entry are empty: nothing vouches for
    /// their content.
    fn nothing_beside(&mut self, cells: Option<&[&str]>) {
        let empty = vec![String::new(); CSV_COLUMNS.len() - 1];
        if let Some(verifier) = &mut self.state
            && !fits(cells, &empty)
        {
            let next = verifier.next_sequence();
            let text = format!("something stands beside a line before entry {next} that is no entry");
            verifier.finding(Tampering::Edited, next, next, text);
        }
    }

    fn entry(&mut self, line: Line, cells: Option<&[&str]>) {
        if !matches!(line, Line::Entry(_) | Line::Pruned(_)) {
            self.nothing_beside(cells);
        }
        let Some(verifier) = &mut self.state else { return };
        let next = verifier.next_sequence();
        let read = match line {
            Line::Entry(entry) => entry.into_record().map(|(record, seals_fit)| {
                let sequence = record.sequence;
                let shown = cells.is_none() || fits(cells, &csv_cells(&record));
                let intact = record.leaf_hash_at(sequence) == record.kept_leaf_hash();
                verifier.record(record);
                if intact && !(seals_fit && shown) {
                    let what = if shown {
                        "its seals"
                    } else {
                        "the columns beside its record"
                    };
                    let text = format!("entry {sequence} was edited: {what} do not fit what it says");
                    verifier.finding(Tampering::Edited, sequence, sequence, text);
                }
            }),
            Line::Pruned(pruned) => Record::try_from(pruned).map(|record| {
                let sequence = record.sequence;
                let shown = cells.is_none() || fits(cells, &csv_cells(&record));
                verifier.record(record);
                if !shown {
                    let text = format!("entry {sequence} was pruned, and something stands beside it");
                    verifier.finding(Tampering::Edited, sequence, sequence, text);
                }
            }),
            Line::Gap(gap) => gap
                .subtrees()
                .and_then(|hashes| verifier.gap(gap.first, gap.end, &hashes)),
            Line::Checkpoint { note } => {
                if let Err(error) = verifier.offer(&note, "the file", true) {
                    let text = format!("a checkpoint before entry {next} does not count: {error}");
                    verifier.finding(Tampering::ForgedCheckpoint, next, next, text);
                }
                Ok(())
            }
            Line::Header(_) => Err("a second header".to_owned()),
            Line::End(_) => Ok(()),
        };
        if let Err(problem) = read {
            verifier.unreadable(next, &format!("line {}: {problem}", self.lines + 1));
        }
    }

    fn end(&mut self, end: &EndLine) {
        self.ended = true;
        let digest = self.digest.clone().finalize().into();
        let lines = self.lines;
        let Some(verifier) = &mut self.state else { return };
        let next = verifier.next_sequence();
        if end.lines != lines || end.sha256 != hex::encode(digest) {
            let text = format!(
                "the file was changed after it was written: its end is about {} lines, {lines} are here{}",
                end.lines,
                if end.lines == lines {
                    ", with another content"
                } else {
                    ""
                }
            );
            if verifier.is_clean() {
                let kind = if lines < end.lines {
                    Tampering::Missing
                } else {
                    Tampering::Edited
                };
                verifier.finding(kind, 0, next.saturating_sub(1), text);
            } else {
                // Earlier findings already say where.
                verifier.note(text);
            }
            return;
        }
        let problem = match verifier.keys().check_export_end(&end.signed, lines, digest) {
            // The key does not change while an export is written, so an honest export never holds both a change
            // of keys and an end by the old key.
            Ok(key) => verifier
                .retired_before(key, next)
                .map(|by| format!("entry {by} retired the key that signed it")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            let text = format!("the end of the file does not count: {problem}");
            verifier.finding(Tampering::ForgedCheckpoint, next, next, text);
        }
    }

    fn count(&mut self, line: &str) {
        self.lines += 1;
        self.digest.update(line.as_bytes());
        self.digest.update(b"\n");
    }
}

/// Returns whether a row of a CSV file has exactly these cells before its record, the last cell. The row may also
/// have been cut.
fn fits(cells: Option<&[&str]>, beside: &[String]) -> bool {
    cells.is_none_or(|cells| cells.split_last().is_some_and(|(_, before)| before == beside))
}

/// Returns the cells of an entry before its record, as [`CSV_COLUMNS`] names them.
#[must_use]
pub fn csv_cells(record: &Record) -> Vec<String> {
    let Content::Whole(body) = &record.content else {
        let mut cells = vec![String::new(); CSV_COLUMNS.len() - 1];
        cells[0] = record.sequence.to_string();
        return cells;
    };
    let mut at = String::new();
    write_time(&mut at, body.at);
    let (actor, subject) = (body.actor.data(), body.subject.data());
    let text = |value: Option<&String>| harmless(value.map_or("", String::as_str));
    let id = |value: Option<uuid::Uuid>| value.map_or_else(String::new, |id| id.to_string());
    vec![
        record.sequence.to_string(),
        body.id.to_string(),
        at,
        harmless(&body.event_type),
        harmless(&body.result),
        harmless(&body.actor_type),
        id(body.actor_id),
        text(actor.and_then(|actor| actor.email.as_ref())),
        text(actor.and_then(|actor| actor.ip_address.as_ref())),
        text(body.resource.as_ref().map(|(r#type, _)| r#type)),
        text(body.resource.as_ref().map(|(_, id)| id)),
        text(subject.and_then(|subject| subject.resource_name.as_ref())),
        text(subject.and_then(|subject| subject.error_message.as_ref())),
        text(subject.and_then(|subject| subject.details.as_ref())),
        text(body.request_id.as_ref()),
        id(record.organization_id),
    ]
}

/// Escapes cells whose first character spreadsheets would take for a formula (OWASP, CSV injection).
fn harmless(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{cell}")
    } else {
        cell.to_owned()
    }
}
