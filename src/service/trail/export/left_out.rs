//! Checks the entries that an export of a part leaves out, before the export's end is signed.
//!
//! The file holds only hashes for them, and these are correct whatever the rows say by now. Somebody who can write
//! the database could assign an organisation's newest entry to another one, or move its time out of the requested
//! period, and the log would sign a file that lacks the entry: no entry in the file follows it, so no chain shows
//! the gap. So every row that could be such an entry is read, and must match its hash.

use super::{ExportError, Selection};
use crate::domain::audit::checkpoint::unchecked;
use crate::domain::audit::{Anchor, Content, Record, Tampering, Verifier};
use crate::store::Connection;
use crate::store::audit::{self, Range};

/// A check of the entries that an export of a part leaves out.
///
/// It costs as much per entry as [`verify`](crate::store::audit::verify): 5 to 10 µs. For an organisation, only
/// the entries after its newest one are read, which takes a moment if the organisation is in use. For a period, or
/// if an entry after the newest one was pruned, the whole trail is read: a minute or two for ten million entries.
pub(super) struct LeftOut<'a> {
    pub db: &'a Connection,
    pub selection: Selection,
    /// Range in which the selected entries were found.
    pub range: Range,
    /// Number of entries in the snapshot.
    pub size: u64,
    /// Checkpoint that the file leads to, a signed note.
    pub checkpoint: &'a str,
}

impl LeftOut<'_> {
    /// Checks that no entry that belongs in the file was left out. `next` is the sequence after the newest entry
    /// in the file.
    ///
    /// # Errors
    /// [`ExportError::Changed`] when entries were changed, so that it is uncertain what belongs in the file.
    pub(super) fn check(&self, next: u64) -> Result<(), ExportError> {
        let Selection {
            organization_id,
            from,
            to,
        } = self.selection;
        let is_by_time = from.is_some() || to.is_some();
        if organization_id.is_none() && !is_by_time {
            // The file holds all entries, and they are checked with it.
            return Ok(());
        }
        // An organisation's chain begins with its first entry, so the file itself shows if an entry that another
        // one follows is missing.
        if !is_by_time && next > 0 && self.check_from(next)? {
            return Ok(());
        }
        self.check_from(0).map(drop)
    }

    /// Checks the entries from `first` on. Returns whether that sufficed: only the hash of a pruned entry is left,
    /// and only the whole trail shows which entry records the pruning.
    fn check_from(&self, first: u64) -> Result<bool, ExportError> {
        let signed = unchecked(self.checkpoint).map(|checkpoint| Anchor {
            checkpoint,
            source: "the export".to_owned(),
        });
        let mut verifier = Verifier::new(signed.into_iter().collect(), first == 0);
        let before = audit::cover(self.db, 0, first)?;
        verifier.gap(0, first, &before).map_err(ExportError::Changed)?;
        let read = Range {
            organization_id: None,
            first,
            end: self.size,
        };
        let mut was_pruned = false;
        audit::for_each_record(self.db, read, |record: Record| -> Result<(), ExportError> {
            if !self.range.holds(&record) && self.selection.asks_for(&record) {
                let text = format!("entry {} belongs in it but was not found", record.sequence);
                return Err(ExportError::Changed(text));
            }
            was_pruned |= matches!(record.content, Content::Pruned { .. });
            verifier.record(record);
            Ok(())
        })?;
        if first > 0 && was_pruned {
            return Ok(false);
        }
        let report = verifier.finish();
        // False claims about keys do not affect which entries belong in the file.
        let mut found = report
            .findings
            .into_iter()
            .filter(|finding| finding.kind != Tampering::ForgedCheckpoint);
        match found.next() {
            Some(first) => Err(ExportError::Changed(first.text)),
            None if report.further_findings > 0 => {
                let text = format!("{} things are wrong with it", report.further_findings);
                Err(ExportError::Changed(text))
            }
            None => Ok(true),
        }
    }
}

impl Selection {
    /// Returns whether the entry is of this organisation and period, according to the entry itself.
    fn asks_for(&self, record: &Record) -> bool {
        let Content::Whole(body) = &record.content else {
            return false;
        };
        let at = body.at.as_millisecond();
        let organization = self.organization_id.map(|id| id.0);
        (organization.is_none() || organization == record.organization_id)
            && self.from.is_none_or(|from| from.as_millisecond() <= at)
            && self.to.is_none_or(|to| at <= to.as_millisecond())
    }
}
