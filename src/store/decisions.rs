//! The questions to policies and their answers, stored with each reset for replay.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::plugins::json;
use super::row::{column, millis};
use crate::domain::account::OrganizationId;
use crate::domain::audit::asked_digest;
use crate::domain::policy::Hook;
use crate::domain::{Error, Result};

/// What the policies were asked about one reset, as JSON.
#[derive(Clone, Debug)]
pub struct AskedRow {
    /// The question.
    pub question: String,
    /// The outcome first shown to `after-reset`; `None` if that hook was not called.
    pub outcome: Option<String>,
}

impl AskedRow {
    /// Returns the digest of question, outcome and calls to which the audit entry commits.
    #[must_use]
    pub fn digest(&self, decisions: &[DecisionRow]) -> [u8; 32] {
        let calls = decisions.iter().map(|call| {
            [
                call.binding_id.as_bytes().as_slice(),
                &call.plugin_digest,
                &call.config_digest,
                call.record.as_bytes(),
            ]
        });
        asked_digest(&self.question, self.outcome.as_deref(), calls)
    }
}

/// A hook call, stored for replay.
#[derive(Clone, Debug)]
pub struct DecisionRow {
    /// Id of the binding.
    pub binding_id: Uuid,
    /// SHA-256 of the module.
    pub plugin_digest: [u8; 32],
    /// SHA-256 of the configuration.
    pub config_digest: [u8; 32],
    /// The decision record as JSON.
    pub record: String,
}

/// A reset with its questions and answers, stored for replay.
#[derive(Clone, Debug)]
pub struct DecidedRow {
    /// Sequence of the audit entry that records it.
    pub sequence: u64,
    /// Id of that entry.
    pub entry_id: Uuid,
    /// Time of that entry.
    pub at: Timestamp,
    /// What the policies were asked.
    pub asked: AskedRow,
    /// The hook calls, in order.
    pub decisions: Vec<DecisionRow>,
}

/// Maximum number of calls stored per reset.
const CALLS_MAX: i64 = 1024;

/// Returns an SQL condition on `decision d` that selects the calls of the reset with that sequence.
pub(super) fn calls_of(sequence: &str) -> String {
    format!("d.id >= {sequence} * {CALLS_MAX} AND d.id < ({sequence} + 1) * {CALLS_MAX}")
}

/// Inserts the questions to policies and their answers, under the entry that records the outcome.
pub fn insert_decisions(
    tx: &Connection,
    audit_sequence: u64,
    asked: &AskedRow,
    decisions: &[DecisionRow],
) -> Result<()> {
    let sequence = signed(audit_sequence)?;
    tx.prepare_cached("INSERT INTO question (audit_sequence, question, outcome) VALUES (?1, ?2, ?3)")?
        .execute(params![sequence, asked.question, asked.outcome])?;
    let mut statement = tx.prepare_cached(
        "INSERT INTO decision (id, binding_id, plugin_digest, config_digest, record) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (position, decision) in (0..CALLS_MAX).zip(decisions) {
        statement.execute(params![
            sequence * CALLS_MAX + position,
            decision.binding_id.as_bytes(),
            decision.plugin_digest,
            decision.config_digest,
            decision.record,
        ])?;
    }
    Ok(())
}

/// Lists the sequences of an organisation's stored resets since `since`, newest first, at most `limit`.
pub fn find_decided_sequences(
    db: &Connection,
    organization: OrganizationId,
    since: Timestamp,
    limit: u32,
) -> Result<Vec<u64>> {
    let mut statement = db.prepare_cached(
        "SELECT e.sequence FROM audit_entry e JOIN question q ON q.audit_sequence = e.sequence \
         WHERE e.organization_id = ?1 AND e.at >= ?2 AND e.at IS NOT NULL \
         ORDER BY e.at DESC, e.sequence DESC LIMIT ?3",
    )?;
    let rows = statement.query_map(params![organization.0.as_bytes(), millis(since), limit], |row| {
        row.get(0)
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A version of a binding that was called at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeciderRow {
    /// Id of the binding, which may no longer exist.
    pub binding_id: Uuid,
    /// SHA-256 of the module.
    pub plugin_digest: [u8; 32],
    /// SHA-256 of the configuration.
    pub config_digest: [u8; 32],
    /// The hook at which it was called.
    pub hook: Hook,
    /// Whether any of its answers counted.
    pub counted: bool,
}

/// Lists the versions of bindings that were called for an organisation's resets since `since`.
pub fn find_deciders(
    db: &Connection,
    organization: OrganizationId,
    since: Timestamp,
) -> Result<Vec<DeciderRow>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT d.binding_id, d.plugin_digest, d.config_digest, d.record -> '$.hook' AS hook, \
         max(d.record ->> '$.mode' = 'enforce') FROM audit_entry e \
         JOIN decision d ON {} WHERE e.organization_id = ?1 AND e.at >= ?2 \
         GROUP BY d.binding_id, d.plugin_digest, d.config_digest, hook",
        calls_of("e.sequence")
    ))?;
    let rows = statement.query_map(params![organization.0.as_bytes(), millis(since)], |row| {
        Ok(DeciderRow {
            binding_id: column(row, 0)?,
            plugin_digest: row.get(1)?,
            config_digest: row.get(2)?,
            hook: json(row, 3)?,
            counted: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Finds a reset with its questions and answers, unless they are no longer kept.
pub fn find_decided(db: &Connection, sequence: u64) -> Result<Option<DecidedRow>> {
    let mut statement = db.prepare_cached(
        "SELECT e.id, e.at, q.question, q.outcome FROM question q \
         JOIN audit_entry e ON e.sequence = q.audit_sequence WHERE q.audit_sequence = ?1 AND e.at IS NOT NULL",
    )?;
    let asked = statement
        .query_row([signed(sequence)?], |row| {
            Ok(DecidedRow {
                sequence,
                entry_id: column(row, 0)?,
                at: column(row, 1)?,
                asked: AskedRow {
                    question: row.get(2)?,
                    outcome: row.get(3)?,
                },
                decisions: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut decided) = asked else {
        return Ok(None);
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT binding_id, plugin_digest, config_digest, record FROM decision d WHERE {} ORDER BY id",
        calls_of("?1")
    ))?;
    let rows = statement.query_map([signed(sequence)?], |row| {
        Ok(DecisionRow {
            binding_id: column(row, 0)?,
            plugin_digest: row.get(1)?,
            config_digest: row.get(2)?,
            record: row.get(3)?,
        })
    })?;
    decided.decisions = rows.collect::<rusqlite::Result<_>>()?;
    Ok(Some(decided))
}

/// Deletes the questions and answers from before `before` and those of pruned entries, among the oldest `limit`
/// resets. Returns the number of resets.
pub fn clear_lapsed_decisions(tx: &Connection, before: Timestamp, limit: u32) -> Result<usize> {
    // Entries are ordered by time, apart from concurrent requests, so that only the oldest need be examined.
    let mut statement = tx.prepare_cached(
        "SELECT q.audit_sequence FROM (SELECT audit_sequence FROM question ORDER BY audit_sequence LIMIT ?2) q \
         LEFT JOIN audit_entry e ON e.sequence = q.audit_sequence WHERE e.at IS NULL OR e.at < ?1",
    )?;
    let lapsed = statement
        .query_map(params![millis(before), limit], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    for sequence in &lapsed {
        forget_decisions(tx, *sequence)?;
    }
    Ok(lapsed.len())
}

/// Deletes the questions and answers of one reset.
pub(super) fn forget_decisions(tx: &Connection, sequence: i64) -> Result<()> {
    tx.prepare_cached(&format!("DELETE FROM decision AS d WHERE {}", calls_of("?1")))?
        .execute([sequence])?;
    tx.prepare_cached("DELETE FROM question WHERE audit_sequence = ?1")?
        .execute([sequence])?;
    Ok(())
}

fn signed(sequence: u64) -> Result<i64> {
    i64::try_from(sequence).map_err(|_| Error::Internal("the trail is longer than SQLite can count".into()))
}
