//! What a part of the trail leaves out, checked before its end is signed.
//!
//! In the file only hashes stand for it, which fit whatever the rows say by now. Whoever can write the database could
//! give an organisation's newest entry to another one, or move its time out of what is asked for, and the log would
//! sign a file that lacks it: no entry in the file follows it, so no chain is open. So the rows are read that could be
//! such ones, and each has to be what its hash was made of.

use super::{ExportError, Selection};
use crate::domain::audit::checkpoint::unchecked;
use crate::domain::audit::{Anchor, Content, Record, Tampering, Verifier};
use crate::store::Connection;
use crate::store::audit::{self, Range};

/// A check of what a part leaves out.
///
/// Costs as much an entry as [`verify`](crate::store::audit::verify): 5 to 10 µs. Of an organisation, what follows its
/// newest entry is read, a moment where the organisation is in use; by times, or where something was pruned behind its
/// newest entry, the whole trail, a minute or two for ten million entries.
pub(super) struct LeftOut<'a> {
    pub db: &'a Connection,
    pub selection: Selection,
    /// Where the selected entries were found.
    pub range: Range,
    /// Entries in the snapshot.
    pub size: u64,
    /// What the file leads to, a signed note.
    pub checkpoint: &'a str,
}

impl LeftOut<'_> {
    /// `next` is the place after the newest entry in the file.
    ///
    /// # Errors
    /// [`ExportError::Changed`] when it can't be told what belongs in the file.
    pub(super) fn check(&self, next: u64) -> Result<(), ExportError> {
        let Selection {
            organization_id,
            from,
            to,
        } = self.selection;
        let is_by_time = from.is_some() || to.is_some();
        if organization_id.is_none() && !is_by_time {
            // Everything is in the file, and checked with it.
            return Ok(());
        }
        // The chain of an organisation begins with its first entry, so that each that another follows is missed.
        if !is_by_time && next > 0 && self.check_from(next)? {
            return Ok(());
        }
        self.check_from(0).map(drop)
    }

    /// Whether that was enough: of what was pruned the hash alone is left, and only those who have the whole trail see
    /// who pruned it.
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
                let text = format!("entry {} belongs in it and was not found there", record.sequence);
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
        // That an entry claims something about keys changes nothing of what belongs where.
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
    /// Whether it is an entry of this organisation and time, by what the entry says.
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
