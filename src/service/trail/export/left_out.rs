//! What a part of the trail leaves out, checked while the part is written.
//!
//! In the file only hashes stand for it, which fit whatever the rows say by now. Whoever can write the database could
//! give an organisation's newest entry to another one, or move its time out of what is asked for, and the log would
//! sign a file that lacks it: no entry in the file follows it, so no chain is open. So every row is read, and has to be
//! what its hash was made of.

use super::{ExportError, Selection};
use crate::domain::audit::checkpoint::unchecked;
use crate::domain::audit::{Anchor, Content, Record, Tampering, Verifier};

/// A check of every entry, those in the file and those that are not.
///
/// Costs a pass over the whole trail, as [`verify`](crate::store::audit::verify) does.
pub(super) struct LeftOut {
    selection: Selection,
    verifier: Verifier,
}

impl LeftOut {
    /// Of a part; `None` where everything is in the file: that is checked with it. `checkpoint` is what the file leads
    /// to.
    pub(super) fn of(selection: Selection, checkpoint: &str) -> Option<Self> {
        let Selection {
            organization_id,
            from,
            to,
        } = &selection;
        if organization_id.is_none() && from.is_none() && to.is_none() {
            return None;
        }
        let signed = unchecked(checkpoint).map(|checkpoint| Anchor {
            checkpoint,
            source: "the export".to_owned(),
        });
        Some(Self {
            selection,
            verifier: Verifier::new(signed.into_iter().collect(), true),
        })
    }

    /// An entry that is in the file.
    pub(super) fn see(&mut self, record: Record) {
        self.verifier.record(record);
    }

    /// An entry that is not.
    pub(super) fn pass(&mut self, record: Record) -> Result<(), ExportError> {
        if self.selection.asks_for(&record) {
            let text = format!("entry {} belongs in it and was not found there", record.sequence);
            return Err(ExportError::Changed(text));
        }
        self.see(record);
        Ok(())
    }

    /// Whether each of them is what it was.
    pub(super) fn conclude(self) -> Result<(), ExportError> {
        let report = self.verifier.finish();
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
            None => Ok(()),
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
