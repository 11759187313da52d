//! What resets leave behind besides the change itself: history, remembered outcomes, owed deliveries.
//! Questions and decisions have a file of their own.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::row::{column, millis};
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::policy::{History, PastReset, ResultKind};
use crate::domain::{Error, Result};

/// Counts stop here: no policy needs to tell more apart, and no count may grow dear with use.
pub const COUNT_CAP: u32 = 1_000;
/// Longest list of earlier resets in a question.
pub const HISTORY_CAP: u32 = 100;

/// A reset call as history keeps it.
#[derive(Clone, Debug)]
pub struct ResetCall {
    /// Where.
    pub organization_id: OrganizationId,
    /// By whom.
    pub actor_id: UserId,
    /// On whom.
    pub target_id: UserId,
    /// When.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: ResultKind,
    /// Ticket reference.
    pub ticket: Option<String>,
}

/// Keeps a reset call.
pub fn insert_reset_call(tx: &Connection, call: &ResetCall) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO reset_call (organization_id, actor_id, target_id, at, outcome, ticket) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        call.organization_id.0.as_bytes(),
        call.actor_id.0.as_bytes(),
        call.target_id.0.as_bytes(),
        millis(call.at),
        outcome_text(call.outcome),
        call.ticket,
    ])?;
    Ok(())
}

/// What history says of a target, an actor and their organisation; lists reach `days` back.
pub fn find_history(
    db: &Connection,
    organization: OrganizationId,
    actor: UserId,
    target: UserId,
    at: Timestamp,
    days: u16,
) -> Result<History> {
    let hour = at - SignedDuration::from_hours(1);
    let day = at - SignedDuration::from_hours(24);
    let month = at - SignedDuration::from_hours(24 * 30);
    let since = at - SignedDuration::from_hours(24 * i64::from(days));
    let (organization, actor, target) = (organization.0, actor.0, target.0);
    Ok(History {
        of_target: past_resets(db, "target_id", target, since, days)?,
        by_actor: past_resets(db, "actor_id", actor, since, days)?,
        target_resets_last_day: count_done(db, "target_id", target, day)?,
        target_resets_last_30_days: count_done(db, "target_id", target, month)?,
        actor_resets_last_hour: count_done(db, "actor_id", actor, hour)?,
        actor_resets_last_day: count_done(db, "actor_id", actor, day)?,
        organization_resets_last_hour: count_done(db, "organization_id", organization, hour)?,
        organization_resets_last_day: count_done(db, "organization_id", organization, day)?,
    })
}

fn past_resets(db: &Connection, of: &str, id: Uuid, since: Timestamp, days: u16) -> Result<Vec<PastReset>> {
    if days == 0 {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare_cached(&format!(
        "SELECT at, actor_id, target_id, outcome, ticket FROM reset_call \
         WHERE {of} = ?1 AND at > ?2 ORDER BY at DESC LIMIT ?3"
    ))?;
    let rows = statement.query_map(
        params![id.as_bytes(), millis(since), HISTORY_CAP],
        past_reset_from_row,
    )?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn count_done(db: &Connection, of: &str, id: Uuid, since: Timestamp) -> Result<u32> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT count(*) FROM (SELECT 1 FROM reset_call \
         WHERE {of} = ?1 AND at > ?2 AND outcome = 'done' LIMIT ?3)"
    ))?;
    Ok(statement.query_row(params![id.as_bytes(), millis(since), COUNT_CAP], |row| row.get(0))?)
}

fn past_reset_from_row(row: &Row<'_>) -> rusqlite::Result<PastReset> {
    Ok(PastReset {
        at: column(row, 0)?,
        actor_id: column::<Uuid>(row, 1)?.to_string(),
        target_id: column::<Uuid>(row, 2)?.to_string(),
        outcome: match row.get_ref(3)?.as_str()? {
            "done" => ResultKind::Done,
            "denied" => ResultKind::Denied,
            _ => ResultKind::Failed,
        },
        ticket: row.get(4)?,
    })
}

fn outcome_text(outcome: ResultKind) -> &'static str {
    match outcome {
        ResultKind::Done => "done",
        ResultKind::Denied => "denied",
        ResultKind::Failed => "failed",
    }
}

/// The outcome remembered for a key, unless it has lapsed.
///
/// # Errors
/// [`Error::IdempotencyKeyReused`] when the key was used with another request.
pub fn find_remembered(
    db: &Connection,
    actor: UserId,
    key_hash: &[u8; 32],
    fingerprint: &[u8; 32],
    at: Timestamp,
) -> Result<Option<String>> {
    let mut statement = db.prepare_cached(
        "SELECT fingerprint, outcome FROM remembered_outcome \
         WHERE actor_id = ?1 AND key_hash = ?2 AND expires_at > ?3",
    )?;
    let found = statement
        .query_row(params![actor.0.as_bytes(), key_hash, millis(at)], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    match found {
        Some((kept, _)) if kept != *fingerprint => Err(Error::IdempotencyKeyReused),
        Some((_, outcome)) => Ok(Some(outcome)),
        None => Ok(None),
    }
}

/// Remembers an outcome for a key.
///
/// # Errors
/// [`Error::Stale`] when the same key was answered at the same time: the caller then reads that answer.
pub fn insert_remembered(
    tx: &Connection,
    actor: UserId,
    key_hash: &[u8; 32],
    fingerprint: &[u8; 32],
    outcome: &str,
    at: Timestamp,
) -> Result<()> {
    let expires_at = at + SignedDuration::from_hours(24);
    tx.prepare_cached(
        "DELETE FROM remembered_outcome WHERE actor_id = ?1 AND key_hash = ?2 AND expires_at <= ?3",
    )?
    .execute(params![actor.0.as_bytes(), key_hash, millis(at)])?;
    let inserted = tx
        .prepare_cached(
            "INSERT INTO remembered_outcome (actor_id, key_hash, fingerprint, outcome, expires_at) \
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            actor.0.as_bytes(),
            key_hash,
            fingerprint,
            outcome,
            millis(expires_at)
        ])?;
    if inserted == 1 { Ok(()) } else { Err(Error::Stale) }
}

/// Forgets lapsed outcomes, some at a time. Says how many.
pub fn clear_lapsed_outcomes(tx: &Connection, at: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "DELETE FROM remembered_outcome WHERE (actor_id, key_hash) IN \
             (SELECT actor_id, key_hash FROM remembered_outcome WHERE expires_at <= ?1 LIMIT 1000)",
        )?
        .execute([millis(at)])?)
}

/// Something that must reach the outside world.
#[derive(Clone, Debug)]
pub struct OwedDelivery {
    /// Where it comes from.
    pub organization_id: Option<OrganizationId>,
    /// `mail`, `webhook` or `syslog`.
    pub channel: &'static str,
    /// What to send, as JSON.
    pub payload: String,
}

/// Owes a delivery, in the transaction of the change that causes it.
pub fn insert_delivery(
    tx: &Connection,
    delivery: &OwedDelivery,
    audit_sequence: u64,
    at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO delivery (organization_id, channel, payload, audit_sequence, next_attempt_at, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
    )?
    .execute(params![
        delivery.organization_id.map(|id| id.0.into_bytes()),
        delivery.channel,
        delivery.payload,
        signed(audit_sequence)?,
        millis(at),
    ])?;
    Ok(())
}

fn signed(sequence: u64) -> Result<i64> {
    i64::try_from(sequence).map_err(|_| Error::Internal("the trail is longer than SQLite can count".into()))
}
