//! What resets leave behind besides the change itself: history, remembered outcomes.
//! Questions, decisions and deliveries have files of their own.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::row::{column, millis};
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::audit::mentions;
use crate::domain::policy::{History, PastReset, ResultKind};
use crate::domain::{Error, Result};

/// Longest list of earlier resets of the target in a question: a budget counts them.
const OF_TARGET_CAP: u32 = 100;
/// Longest list of earlier resets by the actor: each costs every policy call of a busy admin.
const BY_ACTOR_CAP: u32 = 20;

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

/// A reset that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetDone {
    /// On whom.
    pub target: UserId,
    /// When.
    pub at: Timestamp,
}

/// The resets done since then, the latest first. No row's time is less than that of the one before, so that reading
/// stops at the first that is too old.
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

/// Keeps a reset call. A clock that was set back must not hide what was done: `at` is never less than the
/// row's before, so windows then reach further, never less far. Whether it was set back or had been ahead can't be told
/// yet: see [`update_future_calls`].
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

/// The time of the newest call, which none is later than.
pub fn find_newest_call(db: &Connection) -> Result<Option<Timestamp>> {
    Ok(db
        .prepare_cached("SELECT at FROM reset_call ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| column(row, 0))
        .optional()?)
}

/// Gives the calls of the future the time `now`, the oldest first, so that their order stays, and some at once. Says
/// how many.
pub fn update_future_calls(tx: &Connection, now: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "UPDATE reset_call SET at = ?1 WHERE id IN \
             (SELECT id FROM reset_call WHERE at > ?1 ORDER BY id LIMIT 1000)",
        )?
        .execute([millis(now)])?)
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
    let mut history = find_counts(db, organization, actor, target, at)?;
    if days > 0 {
        let since = at - SignedDuration::from_hours(24 * i64::from(days));
        history.of_target = past_resets(db, Of::Target, target.0, since, OF_TARGET_CAP)?;
        history.by_actor = past_resets(db, Of::Actor, actor.0, since, BY_ACTOR_CAP)?;
    }
    Ok(history)
}

/// Resets done in the windows that a question knows: differences of running totals, each one seek in an
/// index, all in one statement.
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

/// Totals of target, actor and organisation: up to now, then up to the beginnings of their two windows.
/// The order by `…_done` is that of the index; among rows of one instant the newest has the highest. Where the
/// row before a window is gone ([`clear_old_calls`]), the total before the window's first one says the same.
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

/// Whose resets are listed.
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

/// Calls with a ticket by or on that user, or with one that names an address of theirs.
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

/// Forgets the tickets of those calls: free text, in which anything may stand.
pub fn clear_tickets(tx: &Connection, calls: &[i64]) -> Result<()> {
    let mut clear = tx.prepare_cached("UPDATE reset_call SET ticket = NULL WHERE id = ?1")?;
    calls
        .iter()
        .try_for_each(|call| clear.execute([call]).map(drop))?;
    Ok(())
}

/// Forgets the tickets of an organisation's calls between these times, both included.
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

/// Forgets the calls from before that time, the oldest first and some at once. Says how many.
pub fn clear_old_calls(tx: &Connection, before: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "DELETE FROM reset_call WHERE id IN (SELECT id FROM \
             (SELECT id, at FROM reset_call ORDER BY id LIMIT 1000) WHERE at < ?1)",
        )?
        .execute([millis(before)])?)
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
