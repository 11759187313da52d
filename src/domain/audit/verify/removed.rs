//! What was erased, pruned or given up, against the entries that record it.

use serde_json::{Map, Value};

use super::super::EventType;
use super::super::record::{Body, Content, Record};
use super::super::removals::RemovedPart;
use super::super::report::Tampering;
use super::Verifier;

impl Verifier {
    /// Counts what was removed, and compares it with what an entry says was removed.
    pub(super) fn check_removals(&mut self, record: &Record) {
        let sequence = record.sequence;
        let (body, actor, subject) = match &record.content {
            Content::Pruned {
                by,
                actor_erased_by,
                subject_erased_by,
            } => {
                self.removals.add(*by, sequence, RemovedPart::All);
                (None, *actor_erased_by, *subject_erased_by)
            }
            Content::Whole(body) => (Some(body), body.actor.erased_by(), body.subject.erased_by()),
        };
        if let Some(by) = actor {
            self.removals.add(by, sequence, RemovedPart::Actor);
        }
        if let Some(by) = subject {
            self.removals.add(by, sequence, RemovedPart::Subject);
        }
        let Some(body) = body else { return };
        self.report.erased += u64::from(actor.is_some() || subject.is_some());
        match EventType::from_wire(&body.event_type) {
            Some(EventType::AuditPrune | EventType::AuditErase) => self.compare_removal(sequence, body),
            Some(EventType::AuditRollbackAccept | EventType::BackupRestore) => {
                self.accepted_rollback(sequence, body);
            }
            _ => {}
        }
    }

    fn compare_removal(&mut self, sequence: u64, body: &Body) {
        let removal = self.removals.take(sequence);
        let details = details(body).unwrap_or_default();
        let recorded = details.get("removed").and_then(Value::as_u64);
        let digest = details.get("digest").and_then(Value::as_str);
        let count = removal.count();
        if recorded == Some(count) && digest == Some(hex::encode(removal.digest()).as_str()) {
            return;
        }
        if self.complete {
            let text = format!(
                "{count} parts say that they were removed by entry {sequence}, which records {} and others",
                recorded.unwrap_or_default()
            );
            let first = if count == 0 { sequence } else { removal.first() };
            self.findings
                .add(Tampering::RemovalNotRecorded, first, sequence, text);
        } else {
            // A file that begins later does not have all that was removed.
            self.note(format!(
                "entry {sequence} records a removal of which {count} parts are in this file"
            ));
        }
    }

    fn accepted_rollback(&mut self, sequence: u64, body: &Body) {
        let details = details(body).unwrap_or_default();
        let Some(origin) = details.get("abandonedOrigin").and_then(Value::as_str) else {
            return;
        };
        // A restore does not know how many there were.
        let lost = details.get("checkpointSize").and_then(Value::as_u64).map_or_else(
            || "any newer".to_owned(),
            |size| format!("{} newer", size.saturating_sub(sequence)),
        );
        self.note(format!(
            "entry {sequence} of {} records that an older database was put in place on purpose: {lost} \
             entries were given up, and checkpoints of {origin} over more than {sequence} entries no longer count",
            body.at
        ));
        self.abandoned.insert(origin.to_owned(), sequence);
        // Logs that the database did not know, found beside it or at the witness.
        let also = details.get("alsoAbandoned").and_then(Value::as_array);
        for origin in also.into_iter().flatten().filter_map(Value::as_str) {
            self.abandoned.insert(origin.to_owned(), sequence);
        }
    }

    pub(super) fn unrecorded_removals(&mut self) {
        for (by, removal) in self.removals.drain() {
            let (first, count) = (removal.first(), removal.count());
            if by <= first || (self.complete && by < self.frontier.size()) {
                let text = format!(
                    "from entry {first} on, {count} parts were removed, and entry {by}, which should record it, does not"
                );
                self.findings
                    .add(Tampering::RemovalNotRecorded, first, first, text);
            } else if self.complete {
                let text = format!(
                    "from entry {first} on, {count} parts were removed, and there is no entry {by} to record it"
                );
                self.findings
                    .add(Tampering::RemovalNotRecorded, first, first, text);
            } else {
                self.note(format!(
                    "{count} parts were removed, as entry {by} records, which is not in this file"
                ));
            }
        }
    }
}

fn details(body: &Body) -> Option<Map<String, Value>> {
    serde_json::from_str(body.subject.data()?.details.as_deref()?).ok()
}
