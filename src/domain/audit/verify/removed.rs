//! Compares what was erased, pruned or given up with the entries that record it.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::super::EventType;
use super::super::given_up::LogsGivenUp;
use super::super::key_change::KeyChange;
use super::super::record::{Body, Content, Record};
use super::super::removals::{Pending, RemovedPart};
use super::super::report::{FINDINGS_LISTED, Tampering};
use super::anchors::Abandonment;
use super::{REMEMBERED, Verifier};

/// How much later than a pruning's `before` an entry ahead of a pruned one may be. Entries are in the order of
/// their times, except for concurrent ones and for clocks that were wrong for a while.
const OUT_OF_ORDER: SignedDuration = SignedDuration::from_hours(24);

/// The times of whole entries, in the order of the trail.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Latest time since the clock last went back.
    latest: Option<Timestamp>,
    /// Where the clock went back, and to when: earlier entries had a wrong time.
    rewinds: Vec<(u64, Timestamp)>,
}

impl Times {
    fn add(&mut self, sequence: u64, at: Timestamp) {
        let went_back = self
            .latest
            .is_some_and(|latest| latest.duration_since(at) > OUT_OF_ORDER);
        if went_back && self.rewinds.len() < FINDINGS_LISTED {
            self.rewinds.push((sequence, at));
            self.latest = Some(at);
        } else {
            self.latest = self.latest.max(Some(at));
        }
    }

    /// Returns whether a signed entry after `place` shows that `time` was wrong. Unsigned ones do not count,
    /// since anybody can append them.
    fn were_wrong(&self, place: u64, time: Timestamp, signed: u64) -> bool {
        self.rewinds.iter().any(|(sequence, at)| {
            (place + 1..signed).contains(sequence) && time.duration_since(*at) > OUT_OF_ORDER
        })
    }
}

impl Verifier {
    /// Counts what was removed, and compares it with what an entry records as removed.
    pub(super) fn check_removals(&mut self, record: &Record) {
        let sequence = record.sequence;
        let (body, actor, subject) = match &record.content {
            Content::Pruned {
                by,
                actor_erased_by,
                subject_erased_by,
            } => {
                self.removed(record, *by, RemovedPart::All);
                (None, *actor_erased_by, *subject_erased_by)
            }
            Content::Whole(body) => (Some(body), body.actor.erased_by(), body.subject.erased_by()),
        };
        if let Some(by) = actor {
            self.removed(record, by, RemovedPart::Actor);
        }
        if let Some(by) = subject {
            self.removed(record, by, RemovedPart::Subject);
        }
        let Some(body) = body else { return };
        self.times.add(sequence, body.at);
        self.report.erased += u64::from(actor.is_some() || subject.is_some());
        match EventType::from_wire(&body.event_type) {
            Some(EventType::AuditPrune | EventType::AuditErase) => self.compare_removal(record, body),
            Some(EventType::AuditRollbackAccept | EventType::BackupRestore) => {
                self.accepted_rollback(sequence, body);
            }
            Some(EventType::AuditKeyChange) => {
                if let Some(change) = details(body).as_ref().and_then(KeyChange::read) {
                    self.key_changed(sequence, change);
                }
            }
            _ => {}
        }
    }

    fn removed(&mut self, record: &Record, by: u64, part: RemovedPart) {
        let sequence = record.sequence;
        if !self.removals.has_room(by, REMEMBERED) {
            let text = "more entries should record removals than can be checked".to_owned();
            self.findings.add(Tampering::Unreadable, sequence, sequence, text);
            return;
        }
        let pending = self.removals.of(by);
        pending.add(sequence, part, record.organization_id);
        if part == RemovedPart::All {
            pending.latest = pending.latest.max(self.times.latest);
        }
    }

    fn compare_removal(&mut self, record: &Record, body: &Body) {
        let sequence = record.sequence;
        let pending = self.removals.take(sequence);
        let details = details(body).unwrap_or_default();
        let recorded = details.get("removed").and_then(Value::as_u64);
        let digest = details.get("digest").and_then(Value::as_str);
        let count = pending.removal.count();
        let first = if count == 0 {
            sequence
        } else {
            pending.removal.first()
        };
        if recorded == Some(count) && digest == Some(hex::encode(pending.removal.digest()).as_str()) {
            let signed = self.report.vouched_size;
            let wrong = |time: &Timestamp| self.times.were_wrong(first, *time, signed);
            let latest = pending.latest.filter(|time| !wrong(time));
            if let Some(problem) = implausible(&pending, latest, record, body, &details) {
                let text = format!("entry {sequence} records a removal that is none of ours: {problem}");
                self.findings
                    .add(Tampering::RemovalNotRecorded, first, sequence, text);
            }
            return;
        }
        if self.complete {
            let text = format!(
                "{count} parts say that they were removed by entry {sequence}, which records {} and others",
                recorded.unwrap_or_default()
            );
            self.findings
                .add(Tampering::RemovalNotRecorded, first, sequence, text);
        } else {
            // A file that begins later does not have everything that was removed.
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
        // A restore does not know how many newer entries there were.
        let lost = details.get("checkpointSize").and_then(Value::as_u64).map_or_else(
            || "any newer".to_owned(),
            |size| format!("{} newer", size.saturating_sub(sequence)),
        );
        // Without a valid statement of the log that followed, anybody may have written the entry.
        let given_up = LogsGivenUp::read(&details).filter(|given_up| given_up.check(sequence).is_ok());
        let (origins, by) = match given_up {
            Some(given_up) => (given_up.origins, Some(given_up.by)),
            None => (vec![origin.to_owned()], None),
        };
        // Includes logs unknown to the database, found beside it or at the witness.
        for origin in origins {
            if self.abandoned.len() == FINDINGS_LISTED {
                let text = "more logs were given up than can be checked".to_owned();
                self.findings.add(Tampering::Unreadable, sequence, sequence, text);
                return;
            }
            self.abandoned.push(Abandonment {
                text: format!(
                    "entry {sequence} of {} records that an older database was put in place on purpose: {lost} \
                     entries were given up, and checkpoints of {origin} over more than {sequence} entries no longer count",
                    body.at
                ),
                origin,
                sequence,
                by: by.clone(),
                vouched: false,
            });
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

/// Returns why the appliance would not have removed this, if it would not. Somebody who has the database but not
/// the key can append an entry that records a removal; what is older than that entry's limit may be gone, the
/// rest not.
fn implausible(
    pending: &Pending,
    latest: Option<Timestamp>,
    record: &Record,
    body: &Body,
    details: &Map<String, Value>,
) -> Option<&'static str> {
    let of_another = pending
        .organizations
        .is_some_and(|organization| organization != record.organization_id);
    if pending.mixed || of_another {
        return Some("what is gone was another organisation's");
    }
    if EventType::from_wire(&body.event_type) != Some(EventType::AuditPrune) {
        return None;
    }
    let before: Option<Timestamp> = details
        .get("before")
        .and_then(Value::as_str)
        .and_then(|before| before.parse().ok());
    let Some(before) = before.filter(|before| *before <= body.at) else {
        return Some("it does not say from before which time");
    };
    let too_late = |latest: &Timestamp| {
        before
            .checked_add(OUT_OF_ORDER)
            .is_ok_and(|bound| *latest >= bound)
    };
    latest
        .filter(too_late)
        .map(|_| "entries are gone that were not as old as it says")
}
