//! Records of earlier resets: the history for policies, and the outcomes remembered for idempotency keys.
//! Questions, decisions and deliveries have files of their own.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::row::{column, millis};
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::audit::mentions;
use crate::domain::policy::{History, PastReset, ResultKind};
use crate::domain::{Error, Result};

/// Maximum number of earlier resets of the target in a question; policies with a budget count them.
const OF_TARGET_CAP: u32 = 100;
/// Maximum number of earlier resets by the actor in a question; each makes every policy call of a busy admin more
/// expensive.
const BY_ACTOR_CAP: u32 = 20;

/// A reset call in the history.
#[derive(Clone, Debug)]
pub struct ResetCall {
    /// The organisation of actor and target.
    pub organization_id: OrganizationId,
    /// The admin who made the call.
    pub actor_id: UserId,
    /// The user to be reset.
    pub target_id: UserId,
    /// When the call was made.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: ResultKind,
    /// Ticket reference given by the admin.
    pub ticket: Option<String>,
}

/// A completed reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetDone {
    /// The user who was reset.
    pub target: UserId,
    /// When it was done.
    pub at: Timestamp,
}

/// Lists the resets done since `since`, latest first. Times never decrease from row to row, so that reading stops
/// at the first row that is too old.
pub fn find_resets_since(db: &Connection, since: Timestamp) -> Result<Vec<ResetDone>> {
    let mut statement =
        db.prepare_cached("SELECT target_id, at, outcome = 'done' FROM reset_call ORDER BY id DESC")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let at: Timestamp = column(row, 1)?;
        if at < since {
            break;
        }
        if row.get(2)? {
            let target = column(row, 0).map(UserId)?;
            found.push(ResetDone { target, at });
        }
    }
    Ok(found)
}

/// Inserts a reset call. A clock that was set back must not hide earlier resets: `at` is at least that of the
/// previous row, so that windows may reach further back, but never less far. Whether the clock was set back or had
/// been ahead is not known yet; see [`update_future_calls`].
pub fn insert_reset_call(tx: &Connection, call: &ResetCall) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO reset_call (organization_id, actor_id, target_id, at, outcome, organization_done, \
         actor_done, target_done, ticket) VALUES (?1, ?2, ?3, \
         max(?4, coalesce((SELECT at FROM reset_call ORDER BY id DESC LIMIT 1), ?4)), ?5, \
         ?6 + coalesce((SELECT organization_done FROM reset_call WHERE organization_id = ?1 \
                        ORDER BY at DESC, organization_done DESC LIMIT 1), 0), \
         ?6 + coalesce((SELECT actor_done FROM reset_call WHERE actor_id = ?2 \
                        ORDER BY at DESC, actor_done DESC LIMIT 1), 0), \
         ?6 + coalesce((SELECT target_done FROM reset_call WHERE target_id = ?3 \
                        ORDER BY at DESC, target_done DESC LIMIT 1), 0), ?7)",
    )?
    .execute(params![
        call.organization_id.0.as_bytes(),
        call.actor_id.0.as_bytes(),
        call.target_id.0.as_bytes(),
        millis(call.at),
        outcome_text(call.outcome),
        i64::from(call.outcome == ResultKind::Done),
        call.ticket,
    ])?;
    Ok(())
}

/// Finds the time of the newest call, which is the latest time of all.
pub fn find_newest_call(db: &Connection) -> Result<Option<Timestamp>> {
    Ok(db
        .prepare_cached("SELECT at FROM reset_call ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| column(row, 0))
        .optional()?)
}

/// Sets the time of up to 1,000 calls later than `now` to `now`, oldest first, so that their order is kept.
/// Returns how many.
pub fn update_future_calls(tx: &Connection, now: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "UPDATE reset_call SET at = ?1 WHERE id IN \
             (SELECT id FROM reset_call WHERE at > ?1 ORDER BY id LIMIT 1000)",
        )?
        .execute([millis(now)])?)
}

/// Finds the history of a target, an actor and their organisation; the lists go back `days` days.
pub fn find_history(
    db: &Connection,
    organization: OrganizationId,
    actor: UserId,
    target: UserId,
    at: Timestamp,
    days: u16,
) -> Result<History> {
    let mut history = find_counts(db, organization, actor, target, at)?;
    if days > 0 {
        let since = at - SignedDuration::from_hours(24 * i64::from(days));
        history.of_target = past_resets(db, Of::Target, target.0, since, OF_TARGET_CAP)?;
        history.by_actor = past_resets(db, Of::Actor, actor.0, since, BY_ACTOR_CAP)?;
    }
    Ok(history)
}

/// Counts the resets done in the time windows of a question. Each count is the difference of two running totals,
/// each found with one index seek, all in one statement.
fn find_counts(
    db: &Connection,
    organization: OrganizationId,
    actor: UserId,
    target: UserId,
    at: Timestamp,
) -> Result<History> {
    let ago = |hours| millis(at - SignedDuration::from_hours(hours));
    let mut statement = db.prepare_cached(COUNTS)?;
    Ok(statement.query_row(
        params![
            organization.0.as_bytes(),
            actor.0.as_bytes(),
            target.0.as_bytes(),
            ago(1),
            ago(24),
            ago(30 * 24),
        ],
        |row| {
            let done = |all: usize, before: usize| -> rusqlite::Result<u32> {
                let total = |index| row.get::<_, Option<i64>>(index).map(|n| n.unwrap_or(0));
                Ok(u32::try_from(total(all)? - total(before)?).unwrap_or(u32::MAX))
            };
            Ok(History {
                of_target: vec![],
                by_actor: vec![],
                target_resets_last_day: done(0, 1)?,
                target_resets_last_30_days: done(0, 2)?,
                actor_resets_last_hour: done(3, 4)?,
                actor_resets_last_day: done(3, 5)?,
                organization_resets_last_hour: done(6, 7)?,
                organization_resets_last_day: done(6, 8)?,
            })
        },
    )?)
}

/// Running totals of target, actor and organisation, each up to now and up to the starts of two windows. `…_done`
/// in ORDER BY follows the index; among rows of the same time the newest has the highest. If the last row before a
/// window was deleted ([`clear_old_calls`]), the total before the window's first row is the same.
const COUNTS: &str = "SELECT \
    (SELECT target_done FROM reset_call WHERE target_id = ?3 ORDER BY at DESC, target_done DESC LIMIT 1), \
    coalesce( \
    (SELECT target_done FROM reset_call WHERE target_id = ?3 AND at <= ?5 ORDER BY at DESC, target_done DESC LIMIT 1), \
    (SELECT target_done - (outcome = 'done') FROM reset_call WHERE target_id = ?3 AND at > ?5 \
     ORDER BY at, target_done LIMIT 1)), \
    coalesce( \
    (SELECT target_done FROM reset_call WHERE target_id = ?3 AND at <= ?6 ORDER BY at DESC, target_done DESC LIMIT 1), \
    (SELECT target_done - (outcome = 'done') FROM reset_call WHERE target_id = ?3 AND at > ?6 \
     ORDER BY at, target_done LIMIT 1)), \
    (SELECT actor_done FROM reset_call WHERE actor_id = ?2 ORDER BY at DESC, actor_done DESC LIMIT 1), \
    coalesce( \
    (SELECT actor_done FROM reset_call WHERE actor_id = ?2 AND at <= ?4 ORDER BY at DESC, actor_done DESC LIMIT 1), \
    (SELECT actor_done - (outcome = 'done') FROM reset_call WHERE actor_id = ?2 AND at > ?4 \
     ORDER BY at, actor_done LIMIT 1)), \
    coalesce( \
    (SELECT actor_done FROM reset_call WHERE actor_id = ?2 AND at <= ?5 ORDER BY at DESC, actor_done DESC LIMIT 1), \
    (SELECT actor_done - (outcome = 'done') FROM reset_call WHERE actor_id = ?2 AND at > ?5 \
     ORDER BY at, actor_done LIMIT 1)), \
    (SELECT organization_done FROM reset_call WHERE organization_id = ?1 \
     ORDER BY at DESC, organization_done DESC LIMIT 1), \
    coalesce( \
    (SELECT organization_done FROM reset_call WHERE organization_id = ?1 AND at <= ?4 \
     ORDER BY at DESC, organization_done DESC LIMIT 1), \
    (SELECT organization_done - (outcome = 'done') FROM reset_call WHERE organization_id = ?1 AND at > ?4 \
     ORDER BY at, organization_done LIMIT 1)), \
    coalesce( \
    (SELECT organization_done FROM reset_call WHERE organization_id = ?1 AND at <= ?5 \
     ORDER BY at DESC, organization_done DESC LIMIT 1), \
    (SELECT organization_done - (outcome = 'done') FROM reset_call WHERE organization_id = ?1 AND at > ?5 \
     ORDER BY at, organization_done LIMIT 1))";

/// The role of the user in the listed resets.
#[derive(Clone, Copy)]
enum Of {
    Actor,
    Target,
}

fn past_resets(db: &Connection, of: Of, id: Uuid, since: Timestamp, most: u32) -> Result<Vec<PastReset>> {
    let mut statement = db.prepare_cached(match of {
        Of::Actor => {
            "SELECT at, actor_id, target_id, outcome, ticket FROM reset_call \
             WHERE actor_id = ?1 AND at > ?2 ORDER BY at DESC, actor_done DESC LIMIT ?3"
        }
        Of::Target => {
            "SELECT at, actor_id, target_id, outcome, ticket FROM reset_call \
             WHERE target_id = ?1 AND at > ?2 ORDER BY at DESC, target_done DESC LIMIT ?3"
        }
    })?;
    let rows = statement.query_map(params![id.as_bytes(), millis(since), most], past_reset_from_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
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

/// Finds the calls with a ticket that were made by or about a user, or whose ticket mentions one of the user's
/// addresses.
pub fn find_calls_about(
    db: &Connection,
    organization: OrganizationId,
    user: UserId,
    addresses: &[String],
) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached(
        "SELECT id, actor_id = ?2 OR target_id = ?2, ticket FROM reset_call \
         WHERE organization_id = ?1 AND ticket IS NOT NULL",
    )?;
    let mut rows = statement.query(params![organization.0.as_bytes(), user.0.as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get(1)? || mentions(row.get_ref(2)?.as_str().unwrap_or_default(), addresses) {
            found.push(row.get(0)?);
        }
    }
    Ok(found)
}

/// Deletes the tickets of these calls: they are free text and may contain personal data.
pub fn clear_tickets(tx: &Connection, calls: &[i64]) -> Result<()> {
    let mut clear = tx.prepare_cached("UPDATE reset_call SET ticket = NULL WHERE id = ?1")?;
    calls
        .iter()
        .try_for_each(|call| clear.execute([call]).map(drop))?;
    Ok(())
}

/// Deletes the tickets of an organisation's calls between two times (milliseconds since 1970, inclusive).
pub fn clear_tickets_between(
    tx: &Connection,
    organization: OrganizationId,
    first: i64,
    last: i64,
) -> Result<()> {
    tx.prepare_cached(
        "UPDATE reset_call SET ticket = NULL \
         WHERE organization_id = ?1 AND at BETWEEN ?2 AND ?3 AND ticket IS NOT NULL",
    )?
    .execute(params![organization.0.as_bytes(), first, last])?;
    Ok(())
}

/// Deletes up to 1,000 calls from before `before`, oldest first. Returns how many.
pub fn clear_old_calls(tx: &Connection, before: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "DELETE FROM reset_call WHERE id IN (SELECT id FROM \
             (SELECT id, at FROM reset_call ORDER BY id LIMIT 1000) WHERE at < ?1)",
        )?
        .execute([millis(before)])?)
}

/// Finds the outcome remembered for an idempotency key, unless it has expired.
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

/// Remembers an outcome for an idempotency key for 24 hours.
///
/// # Errors
/// [`Error::Stale`] when a concurrent request with the same key was faster: the caller then reads its outcome.
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

/// Deletes up to 1,000 expired outcomes. Returns how many.
pub fn clear_lapsed_outcomes(tx: &Connection, at: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "DELETE FROM remembered_outcome WHERE (actor_id, key_hash) IN \
             (SELECT actor_id, key_hash FROM remembered_outcome WHERE expires_at <= ?1 LIMIT 1000)",
        )?
        .execute([millis(at)])?)
}
