//! Verifies data derived from the trail: the table of newest entries, the indexes, policy questions and answers.
//! Readers and the next entry rely on it, so changing it is as effective as changing the trail.

use std::collections::HashMap;

use rusqlite::{Connection, Row};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::super::super::decisions::find_decided;
use super::super::super::integrity::find_schema_changes;
use super::super::{from_column, row};
use crate::domain::Result;
use crate::domain::audit::{Content, EventType, Head, Record, Tampering, Verifier};

/// Number of entries that each index must hold.
#[derive(Debug, Default)]
pub(super) struct Tally {
    with_time: u64,
    of_subjects: u64,
}

impl Tally {
    pub(super) fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        self.with_time += u64::from(row.get_ref(5)? != rusqlite::types::ValueRef::Null);
        self.of_subjects += u64::from(row::is_of_subject(row)?);
        Ok(())
    }
}

/// Checks the table of newest entries, which determines what the next entry follows and the totals of lists.
pub(super) fn check_heads(connection: &Connection, verifier: &mut Verifier) -> Result<()> {
    let mut expected: HashMap<Option<Uuid>, Head> = verifier
        .heads()
        .map(|(organization, head)| (organization, *head))
        .collect();
    let mut wrong = Vec::new();
    let mut beyond = None;
    let next = verifier.next_sequence();
    let mut statement = connection
        .prepare_cached("SELECT organization_id, sequence, previous, entries, pruned FROM audit_head")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: Vec<u8> = row.get(0)?;
        let organization = if key.is_empty() {
            Some(None)
        } else {
            Uuid::from_slice(&key).ok().map(Some)
        };
        let (sequence, previous): (i64, Option<i64>) = (row.get(1)?, row.get(2)?);
        let (entries, pruned): (i64, i64) = (row.get(3)?, row.get(4)?);
        let told = Head {
            index: from_column(entries.saturating_sub(1)),
            sequence: from_column(sequence),
            previous: previous.map(from_column),
            pruned: from_column(pruned),
        };
        if from_column(sequence) >= next {
            beyond = beyond.max(Some(from_column(sequence)));
        }
        let head = organization.and_then(|organization| expected.remove(&organization));
        let negative = [entries - 1, sequence, pruned, previous.unwrap_or(0)]
            .iter()
            .any(|count| *count < 0);
        match head {
            Some(head) if head == told && !negative => {}
            Some(head) => wrong.push((head.sequence.min(told.sequence), head.sequence.max(told.sequence))),
            None => wrong.push((told.sequence, told.sequence)),
        }
    }
    wrong.extend(expected.values().map(|head| (head.sequence, head.sequence)));
    wrong.sort_unstable();
    for (first, last) in wrong {
        // A finding about the same entries already explains it.
        if !verifier.is_suspect(first, last) {
            let text = format!("the table of newest entries (audit_head) is wrong about entry {last}");
            verifier.finding(Tampering::DerivedDataChanged, first, last, text);
        }
    }
    if let Some(last) = beyond {
        let text = format!(
            "the table of newest entries (audit_head) names entry {last}, but the trail ends before entry {next}"
        );
        verifier.finding(Tampering::CutOff, next, last, text);
    }
    Ok(())
}

/// Compares the stored policy questions and answers of an entry with the digest in it. Returns the finding's text.
pub(super) fn compare_asked(connection: &Connection, record: &Record) -> Result<Option<String>> {
    let Some(digest) = asked_digest(record) else {
        return Ok(None);
    };
    let Some(decided) = find_decided(connection, record.sequence)? else {
        // They are no longer kept.
        return Ok(None);
    };
    let differs = hex::encode(decided.asked.digest(&decided.decisions)) != digest;
    Ok(differs.then(|| {
        format!(
            "the stored policy questions and answers of entry {} were changed",
            record.sequence
        )
    }))
}

fn asked_digest(record: &Record) -> Option<String> {
    let Content::Whole(body) = &record.content else {
        return None;
    };
    let details = body.subject.data()?.details.as_deref()?;
    if !details.contains("\"askedDigest\"") {
        return None;
    }
    let details: Map<String, Value> = serde_json::from_str(details).ok()?;
    details.get("askedDigest")?.as_str().map(str::to_owned)
}

/// Checks that policy questions and answers are stored only for entries of types that ask policies.
pub(super) fn check_asked(connection: &Connection, verifier: &mut Verifier) -> Result<()> {
    let decided = [
        EventType::UserMfaReset.as_str(),
        EventType::ApprovalRequest.as_str(),
        EventType::ApprovalAgree.as_str(),
    ];
    let mut statement = connection.prepare_cached(
        "SELECT q.audit_sequence FROM question q LEFT JOIN audit_entry e ON e.sequence = q.audit_sequence
           WHERE e.event_type IS NULL OR e.event_type NOT IN (?1, ?2, ?3)
         UNION
         SELECT d.id / 1024 FROM decision d
           WHERE NOT EXISTS (SELECT 1 FROM question q WHERE q.audit_sequence = d.id / 1024)
         LIMIT 100",
    )?;
    let strays = statement
        .query_map(decided, |row| row.get(0).map(from_column))?
        .collect::<rusqlite::Result<Vec<u64>>>()?;
    for sequence in strays {
        let text = format!("policy questions or answers are stored for entry {sequence}, which has none");
        verifier.finding(Tampering::DerivedDataChanged, sequence, sequence, text);
    }
    Ok(())
}

/// Checks the schema, and the number of entries in each index: entries that an index omits are missing from lists.
pub(super) fn check_schema(connection: &Connection, tally: &Tally, verifier: &mut Verifier) -> Result<()> {
    let schema = find_schema_changes(connection)?;
    let last = verifier.next_sequence().saturating_sub(1);
    if schema.is_newer {
        verifier.note("the schema is newer than this latchkey knows, and was not compared".to_owned());
    }
    let is_ours = schema.changes.is_empty() && !schema.is_newer;
    for change in schema.changes {
        verifier.finding(Tampering::SchemaChanged, 0, last, change);
    }
    if !is_ours || !verifier.is_clean() {
        return Ok(());
    }
    let with_time = "at IS NOT NULL";
    let of_subjects = "at IS NOT NULL AND resource_type = 'USER' AND actor_type <> 'ANONYMOUS' \
                       AND actor_id IS NOT resource_id";
    for (index, condition, entries) in [
        ("audit_entry_by_time", with_time, tally.with_time),
        ("audit_entry_by_type", with_time, tally.with_time),
        ("audit_entry_by_actor", with_time, tally.with_time),
        ("audit_entry_by_subject", of_subjects, tally.of_subjects),
    ] {
        let sql = format!("SELECT count(*) FROM audit_entry INDEXED BY {index} WHERE {condition}");
        let held: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
        if from_column(held) != entries {
            let text = format!("the index {index} holds {held} entries instead of {entries}");
            verifier.finding(Tampering::DerivedDataChanged, 0, last, text);
        }
    }
    Ok(())
}
