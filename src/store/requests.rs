//! What resets leave behind besides the change itself: history, remembered outcomes.
//! Questions, decisions and deliveries have files of their own.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::row::{column, millis};
use crate::domain::account::{OrganizationId, UserId};
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

/// Keeps a reset call.
pub fn insert_reset_call(tx: &Connection, call: &ResetCall) -> Result<()> {
    let last_at: Option<i64> = tx
        .prepare_cached("SELECT at FROM reset_call ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    // A clock that was set back must not hide what was done: windows then reach further, never less far.
    let at = last_at.map_or(millis(call.at), |last| last.max(millis(call.at)));
    let done = i64::from(call.outcome == ResultKind::Done);
    let before = |of: Of, id: Uuid| done_until(tx, of, id, None);
    tx.prepare_cached(
        "INSERT INTO reset_call (organization_id, actor_id, target_id, at, outcome, organization_done, \
         actor_done, target_done, ticket) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        call.organization_id.0.as_bytes(),
        call.actor_id.0.as_bytes(),
        call.target_id.0.as_bytes(),
        at,
        outcome_text(call.outcome),
        before(Of::Organization, call.organization_id.0)? + done,
        before(Of::Actor, call.actor_id.0)? + done,
        before(Of::Target, call.target_id.0)? + done,
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
    const HOUR: i64 = 1;
    const DAY: i64 = 24;
    const MONTH: i64 = 30 * 24;
    let since = at - SignedDuration::from_hours(DAY * i64::from(days));
    let lists = days > 0;
    let [target_day, target_month] = done_within(db, Of::Target, target.0, at, [DAY, MONTH])?;
    let [actor_hour, actor_day] = done_within(db, Of::Actor, actor.0, at, [HOUR, DAY])?;
    let [organization_hour, organization_day] =
        done_within(db, Of::Organization, organization.0, at, [HOUR, DAY])?;
    Ok(History {
        of_target: if lists {
            past_resets(db, Of::Target, target.0, since, OF_TARGET_CAP)?
        } else {
            vec![]
        },
        by_actor: if lists {
            past_resets(db, Of::Actor, actor.0, since, BY_ACTOR_CAP)?
        } else {
            vec![]
        },
        target_resets_last_day: target_day,
        target_resets_last_30_days: target_month,
        actor_resets_last_hour: actor_hour,
        actor_resets_last_day: actor_day,
        organization_resets_last_hour: organization_hour,
        organization_resets_last_day: organization_day,
    })
}

/// Whose resets are counted.
#[derive(Clone, Copy)]
enum Of {
    Organization,
    Actor,
    Target,
}

impl Of {
    fn columns(self) -> (&'static str, &'static str) {
        match self {
            Self::Organization => ("organization_id", "organization_done"),
            Self::Actor => ("actor_id", "actor_done"),
            Self::Target => ("target_id", "target_done"),
        }
    }
}

/// Resets done in each of the last so many hours.
fn done_within<const N: usize>(
    db: &Connection,
    of: Of,
    id: Uuid,
    at: Timestamp,
    hours: [i64; N],
) -> Result<[u32; N]> {
    let all = done_until(db, of, id, None)?;
    let mut counts = [0; N];
    if all == 0 {
        return Ok(counts);
    }
    for (count, hours) in counts.iter_mut().zip(hours) {
        let before = done_until(db, of, id, Some(at - SignedDuration::from_hours(hours)))?;
        *count = u32::try_from(all - before).unwrap_or(u32::MAX);
    }
    Ok(counts)
}

/// Resets done until then, or ever: one seek in an index.
fn done_until(db: &Connection, of: Of, id: Uuid, until: Option<Timestamp>) -> Result<i64> {
    let (column, done) = of.columns();
    let mut statement = db.prepare_cached(&format!(
        "SELECT {done} FROM reset_call WHERE {column} = ?1 AND at <= ?2 ORDER BY at DESC, id DESC LIMIT 1"
    ))?;
    let until = until.map_or(i64::MAX, millis);
    Ok(statement
        .query_row(params![id.as_bytes(), until], |row| row.get(0))
        .optional()?
        .unwrap_or(0))
}

fn past_resets(db: &Connection, of: Of, id: Uuid, since: Timestamp, most: u32) -> Result<Vec<PastReset>> {
    let (of, _) = of.columns();
    let mut statement = db.prepare_cached(&format!(
        "SELECT at, actor_id, target_id, outcome, ticket FROM reset_call \
         WHERE {of} = ?1 AND at > ?2 ORDER BY at DESC, id DESC LIMIT ?3"
    ))?;
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
