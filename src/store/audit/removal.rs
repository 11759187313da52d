//! Pruning and erasing: columns are blanked, hashes stay, and an entry records exactly what was removed.
//!
//! The writer's connection overwrites deleted bytes (`PRAGMA secure_delete`), so that removed data disappears
//! from the database file too, at the next checkpoint of the WAL.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::super::approvals::clear_ended_before;
use super::super::decisions::forget_decisions;
use super::super::requests::clear_tickets_between;
use super::super::row::millis;
use super::personal::PersonalPart;
use super::{append_entry, from_column, to_column};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::{ActorRef, Content, Event, EventType, Part, Record, Removal, RemovedPart};

/// Entry types that are never pruned: they record changes to the trail itself, without which the rest could not be
/// verified.
pub(super) const KEPT: [EventType; 4] = [
    EventType::AuditPrune,
    EventType::AuditErase,
    EventType::AuditRollbackAccept,
    EventType::AuditKeyChange,
];

/// Prunes up to `limit` of an organisation's entries older than `before` to their hashes, oldest first, and
/// records it in an entry. Deletes the policy questions and answers of these entries, the tickets of their resets,
/// and approvals that ended before `before`. Returns the number of pruned entries.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn prune_entries(
    tx: &Connection,
    organization: OrganizationId,
    before: Timestamp,
    limit: u32,
    at: Timestamp,
    entry_id: Uuid,
) -> Result<usize> {
    let kept = KEPT.map(|kept| format!("'{}'", kept.as_str())).join(", ");
    let sequences = tx
        .prepare_cached(&format!(
            "SELECT sequence, at FROM audit_entry WHERE organization_id = ?1 AND at < ?2
               AND event_type NOT IN ({kept}) ORDER BY at LIMIT ?3"
        ))?
        .query_map(params![organization.0.as_bytes(), millis(before), limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    let (Some((_, first)), Some((_, last))) = (sequences.first(), sequences.last()) else {
        return Ok(0);
    };
    clear_tickets_between(tx, organization, *first, *last)?;
    clear_ended_before(tx, organization, before)?;
    let mut sequences: Vec<i64> = sequences.into_iter().map(|(sequence, _)| sequence).collect();
    sequences.sort_unstable();
    let mut removal = Removal::default();
    for sequence in &sequences {
        removal.add(from_column(*sequence), RemovedPart::All);
    }
    let event = recorded(EventType::AuditPrune, organization, ActorRef::system(), &removal)
        .with("before", before.to_string());
    let by = append_entry(tx, at, entry_id, &event)?.sequence;
    let mut prune = tx.prepare_cached(
        "UPDATE audit_entry SET at = NULL, id = NULL, event_type = NULL, result = NULL, actor_type = NULL,
           actor_id = NULL, resource_type = NULL, resource_id = NULL, request_id = NULL, actor_seal = NULL,
           actor_email = NULL, ip_address = NULL, subject_seal = NULL, resource_name = NULL,
           error_message = NULL, details = NULL, pruned_by = ?2
         WHERE sequence = ?1",
    )?;
    for sequence in &sequences {
        prune.execute(params![sequence, to_column(by)])?;
        forget_decisions(tx, *sequence)?;
    }
    tx.prepare_cached("UPDATE audit_head SET pruned = pruned + ?2 WHERE organization_id = ?1")?
        .execute(params![
            organization.0.as_bytes(),
            i64::try_from(sequences.len()).unwrap_or(i64::MAX)
        ])?;
    Ok(sequences.len())
}

/// Finds, for each change of an organisation's retention since `since`, the value before it in days; `None` if
/// entries were kept for ever or the value was erased.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_retention_changes(
    connection: &Connection,
    organization: OrganizationId,
    since: Timestamp,
) -> Result<Vec<Option<u16>>> {
    Ok(connection
        .prepare_cached(
            "SELECT details ->> '$.changes.auditRetentionDays.from' FROM audit_entry
             WHERE organization_id = ?1 AND event_type = ?2 AND at >= ?3 AND result = 'SUCCESS'
               AND (details IS NULL OR details -> '$.changes.auditRetentionDays' IS NOT NULL)",
        )?
        .query_map(
            params![
                organization.0.as_bytes(),
                EventType::OrganizationSettingsUpdate.as_str(),
                millis(since)
            ],
            |row| row.get(0),
        )?
        .collect::<rusqlite::Result<_>>()?)
}

/// Erases those of `parts` (in the order of the trail) that still exist, and the policy questions and answers of
/// their entries and of the entries in `decided`. Deletes deliveries about these parts that are no longer owed.
/// Records the removal in an entry with the organisation, actor and resource of `event`. Returns the number of
/// erased parts.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn erase_parts(
    tx: &Connection,
    event: &Event,
    parts: &[PersonalPart],
    decided: &[u64],
    at: Timestamp,
    entry_id: Uuid,
) -> Result<usize> {
    let Some(organization) = event.organization_id else {
        return Ok(0);
    };
    let mut removal = Removal::default();
    let mut sealed = Vec::with_capacity(parts.len());
    for PersonalPart { sequence, part } in parts {
        // It may have been pruned or erased meanwhile.
        let seal = super::find_record(tx, *sequence)?.and_then(|record| seal_of(&record, *part));
        if let Some(seal) = seal {
            removal.add(*sequence, *part);
            sealed.push((*sequence, *part, seal));
        }
    }
    if sealed.is_empty() && decided.is_empty() {
        return Ok(0);
    }
    let recorded = Event {
        resource: event.resource.clone(),
        ..recorded(EventType::AuditErase, organization, event.actor.clone(), &removal)
            .with("decisions", decided.len())
    };
    let by = append_entry(tx, at, entry_id, &recorded)?.sequence;
    for (sequence, part, seal) in &sealed {
        let statement = match part {
            RemovedPart::Actor => {
                "UPDATE audit_entry SET actor_seal = ?2, actor_email = NULL, ip_address = NULL,
                   actor_erased_by = ?3 WHERE sequence = ?1"
            }
            RemovedPart::Subject | RemovedPart::All => {
                "UPDATE audit_entry SET subject_seal = ?2, resource_name = NULL, error_message = NULL,
                   details = NULL, subject_erased_by = ?3 WHERE sequence = ?1"
            }
        };
        tx.prepare_cached(statement)?
            .execute(params![to_column(*sequence), seal, to_column(by)])?;
    }
    let about: Vec<u64> = sealed.iter().map(|(sequence, ..)| *sequence).collect();
    for sequence in about.iter().chain(decided) {
        forget_decisions(tx, to_column(*sequence))?;
    }
    tx.prepare_cached(
        "DELETE FROM delivery WHERE state <> 'owed' AND audit_sequence IN (SELECT value FROM json_each(?1))",
    )?
    .execute([serde_json::json!(about).to_string()])?;
    Ok(sealed.len())
}

/// Returns the seal that replaces a part; `None` if the part was removed before.
fn seal_of(record: &Record, part: RemovedPart) -> Option<[u8; 32]> {
    let Content::Whole(body) = &record.content else {
        return None;
    };
    match part {
        RemovedPart::Actor => matches!(body.actor, Part::Kept { .. }).then(|| body.actor.seal()),
        RemovedPart::Subject => matches!(body.subject, Part::Kept { .. }).then(|| body.subject.seal()),
        RemovedPart::All => None,
    }
}

fn recorded(
    event_type: EventType,
    organization: OrganizationId,
    actor: ActorRef,
    removal: &Removal,
) -> Event {
    Event::new(event_type, Some(organization), actor)
        .with("removed", removal.count())
        .with("first", removal.first())
        .with("digest", hex::encode(removal.digest()))
}
