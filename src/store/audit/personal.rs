//! Finds a user's personal data in the trail, for erasure, and stores pending erasures.
//!
//! An erasure is kept like a delivery: it is inserted with the change that causes it, and after a crash it
//! continues where it stopped.

use jiff::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::decisions::calls_of;
use super::super::row::{column, millis};
use super::removal::KEPT;
use super::{from_column, to_column};
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::audit::{ActorRef, RemovedPart, mentions};
use crate::domain::{Error, Result};

/// A part of an entry that holds a user's personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersonalPart {
    /// Sequence of the entry.
    pub sequence: u64,
    /// The part of the entry.
    pub part: RemovedPart,
}

/// A user's personal data in a range of the trail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Personal {
    /// Parts of entries, in the order of the trail.
    pub parts: Vec<PersonalPart>,
    /// Entries whose policy questions or answers mention one of the user's addresses.
    pub decided: Vec<u64>,
    /// Sequence from which to continue.
    pub next: u64,
}

/// A pending erasure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// The organisation whose entries are searched.
    pub organization: OrganizationId,
    /// The user to erase.
    pub user: UserId,
    /// The actor that requested it.
    pub actor: ActorRef,
    /// All e-mail addresses that the user is known to have had.
    pub addresses: Vec<String>,
    /// Sequence from which to continue; `None` until the addresses are collected.
    pub next: Option<u64>,
}

/// Inserts an erasure, in the transaction that causes it. A pending one of the same user starts over.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn insert_erasure(tx: &Connection, erasure: &Erasure, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO erasure (organization_id, user_id, actor, addresses, next, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        erasure.organization.0.as_bytes(),
        erasure.user.0.as_bytes(),
        json(&erasure.actor)?,
        json(&erasure.addresses)?,
        erasure.next.map(to_column),
        millis(at),
    ])?;
    Ok(())
}

/// Stores the progress of an erasure.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn update_erasure(tx: &Connection, erasure: &Erasure) -> Result<()> {
    tx.prepare_cached(
        "UPDATE erasure SET addresses = ?3, next = ?4 WHERE organization_id = ?1 AND user_id = ?2",
    )?
    .execute(params![
        erasure.organization.0.as_bytes(),
        erasure.user.0.as_bytes(),
        json(&erasure.addresses)?,
        erasure.next.map(to_column),
    ])?;
    Ok(())
}

/// Deletes a completed erasure.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn clear_erasure(tx: &Connection, erasure: &Erasure) -> Result<()> {
    tx.prepare_cached("DELETE FROM erasure WHERE organization_id = ?1 AND user_id = ?2")?
        .execute(params![
            erasure.organization.0.as_bytes(),
            erasure.user.0.as_bytes()
        ])?;
    Ok(())
}

/// Finds the oldest pending erasure.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn find_erasure(connection: &Connection) -> Result<Option<Erasure>> {
    let found = connection
        .prepare_cached(
            "SELECT organization_id, user_id, actor, addresses, next FROM erasure ORDER BY created_at LIMIT 1",
        )?
        .query_row([], |row| {
            Ok((
                column(row, 0)?,
                column(row, 1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, Option<i64>>(4)?,
            ))
        })
        .optional()?;
    let damaged = |e: serde_json::Error| Error::Internal(format!("erasure: {e}"));
    found
        .map(|(organization, user, actor, addresses, next)| {
            Ok(Erasure {
                organization,
                user,
                actor: serde_json::from_str(&actor).map_err(damaged)?,
                addresses: serde_json::from_str(&addresses).map_err(damaged)?,
                next: next.map(from_column),
            })
        })
        .transpose()
}

/// Finds the e-mail addresses of a user in an organisation's trail and accounts; `None` if neither knows the user.
/// Reads the whole trail once.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn find_addresses(
    connection: &Connection,
    organization: OrganizationId,
    user: UserId,
) -> Result<Option<Vec<String>>> {
    let mut statement = connection.prepare_cached(
        "SELECT email FROM user WHERE organization_id = ?1 AND id = ?2
         UNION SELECT actor_email FROM audit_entry WHERE +organization_id = ?1 AND actor_id = ?2 AND at IS NOT NULL
         UNION SELECT resource_name FROM audit_entry
           WHERE +organization_id = ?1 AND resource_id = ?2 AND resource_type = 'USER' AND at IS NOT NULL",
    )?;
    let found = statement
        .query_map(params![organization.0.as_bytes(), user.0.as_bytes()], |row| {
            row.get::<_, Option<String>>(0)
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    if found.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        found
            .into_iter()
            .flatten()
            .filter(|text| text.contains('@'))
            .collect(),
    ))
}

/// Finds the remaining personal data of the user from `erasure.next` on, among at most `scanned` entries, up to
/// `limit` parts: the actor's data where the user acted or gave their address; the subject's data where the user
/// is the resource, acted without a resource, or is mentioned.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn find_personal(
    connection: &Connection,
    erasure: &Erasure,
    scanned: u64,
    limit: usize,
) -> Result<Personal> {
    let from = erasure.next.unwrap_or(0);
    let end = super::size(connection)?.min(from.saturating_add(scanned));
    let mut personal = Personal {
        next: end.max(from),
        ..Personal::default()
    };
    let names = |text: Option<&str>| text.is_some_and(|text| mentions(text, &erasure.addresses));
    let mut statement = connection.prepare_cached(
        "SELECT sequence, actor_id, resource_id, actor_email, resource_name, error_message, details, event_type,
           actor_erased_by IS NULL, subject_erased_by IS NULL
         FROM audit_entry
         WHERE sequence >= ?1 AND sequence < ?2 AND +organization_id = ?3 AND at IS NOT NULL ORDER BY sequence",
    )?;
    let mut rows = statement.query(params![
        to_column(from),
        to_column(end),
        erasure.organization.0.as_bytes()
    ])?;
    while let Some(row) = rows.next()? {
        let sequence = from_column(row.get(0)?);
        let acted = is_user(row.get_ref(1)?, erasure.user);
        let resource = row.get_ref(2)?;
        let event_type = row.get_ref(7)?.as_str_or_null().unwrap_or(None);
        let kept = KEPT.iter().any(|kept| Some(kept.as_str()) == event_type);
        let text = |at: usize| row.get_ref(at).ok().and_then(|value| value.as_str().ok());
        let is_actor = acted || names(text(3));
        let is_subject = !kept
            && (is_user(resource, erasure.user)
                || (acted && resource == ValueRef::Null)
                || names(text(4))
                || names(text(5))
                || names(text(6)));
        for (at, is_part, part) in [
            (8, is_actor, RemovedPart::Actor),
            (9, is_subject, RemovedPart::Subject),
        ] {
            if is_part && row.get::<_, bool>(at)? {
                personal.parts.push(PersonalPart { sequence, part });
            }
        }
        if personal.parts.len() >= limit {
            personal.next = sequence + 1;
            break;
        }
    }
    personal.decided = decided(connection, erasure, from, personal.next)?;
    Ok(personal)
}

/// Finds the organisation's entries in `from..end` whose policy questions or answers mention an address of the
/// user.
fn decided(connection: &Connection, erasure: &Erasure, from: u64, end: u64) -> Result<Vec<u64>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT q.audit_sequence, q.question FROM question q JOIN audit_entry e ON e.sequence = q.audit_sequence
         WHERE q.audit_sequence >= ?1 AND q.audit_sequence < ?2 AND e.organization_id = ?3
         UNION ALL
         SELECT e.sequence, d.record FROM audit_entry e JOIN decision d ON {}
         WHERE e.sequence >= ?1 AND e.sequence < ?2 AND e.organization_id = ?3",
        calls_of("e.sequence")
    ))?;
    let mut rows = statement.query(params![
        to_column(from),
        to_column(end),
        erasure.organization.0.as_bytes()
    ])?;
    let mut decided = Vec::new();
    while let Some(row) = rows.next()? {
        if mentions(row.get_ref(1)?.as_str().unwrap_or_default(), &erasure.addresses) {
            decided.push(from_column(row.get(0)?));
        }
    }
    decided.sort_unstable();
    decided.dedup();
    Ok(decided)
}

/// Compares an id column (16 bytes, or text as a caller wrote it) with a user's id.
fn is_user(value: ValueRef<'_>, user: UserId) -> bool {
    match value {
        ValueRef::Blob(bytes) => bytes == user.0.as_bytes(),
        ValueRef::Text(text) => {
            std::str::from_utf8(text)
                .ok()
                .and_then(|text| uuid::Uuid::try_parse(text).ok())
                == Some(user.0)
        }
        _ => false,
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(format!("erasure: {e}")))
}
