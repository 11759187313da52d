//! Progress of forwarding the trail to a SIEM, per channel.

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, params};

use super::super::row::{column, millis, optional};
use super::{from_column, row, to_column};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::Entry;

/// Progress of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// `syslog` or `webhook`.
    pub channel: String,
    /// Sequence of the next entry to send.
    pub next: u64,
    /// Number of failed attempts to send that entry.
    pub attempts: u32,
    /// When the next attempt is due.
    pub next_attempt_at: Timestamp,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Finds the progress of a channel; `None` if it was never used.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_forwarding(connection: &Connection, channel: &str) -> Result<Option<Forwarding>> {
    Ok(connection
        .prepare_cached(
            "SELECT channel, next, attempts, next_attempt_at, last_error FROM forwarding WHERE channel = ?1",
        )?
        .query_row([channel], |row| {
            Ok(Forwarding {
                channel: row.get(0)?,
                next: from_column(row.get(1)?),
                attempts: row.get(2)?,
                next_attempt_at: column(row, 3)?,
                last_error: row.get(4)?,
            })
        })
        .optional()?)
}

/// Stores the progress of a channel.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn update_forwarding(tx: &Connection, forwarding: &Forwarding) -> Result<()> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO forwarding (channel, next, attempts, next_attempt_at, last_error)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        forwarding.channel,
        to_column(forwarding.next),
        forwarding.attempts,
        millis(forwarding.next_attempt_at),
        forwarding.last_error,
    ])?;
    Ok(())
}

/// What is stored at a sequence of the trail.
#[derive(Clone, Debug)]
pub enum Standing {
    /// An entry.
    Entry(Box<Entry>),
    /// A former entry, whose row was changed or damaged.
    Unreadable(Unreadable),
}

/// A row that is no longer a valid entry, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub struct Unreadable {
    /// Sequence in the trail.
    pub sequence: u64,
    /// Organisation of the former entry, if it can be read.
    pub organization_id: Option<OrganizationId>,
    /// Leaf hash stored with the row, if it can be read.
    pub leaf_hash: Option<[u8; 32]>,
    /// The error in reading it.
    pub problem: String,
}

impl Standing {
    /// Returns the sequence in the trail.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Entry(entry) => entry.sequence,
            Self::Unreadable(row) => row.sequence,
        }
    }

    /// Returns the organisation of the entry.
    #[must_use]
    pub fn organization_id(&self) -> Option<OrganizationId> {
        match self {
            Self::Entry(entry) => entry.event.organization_id,
            Self::Unreadable(row) => row.organization_id,
        }
    }
}

/// Lists the entries of all organisations from `sequence` on, oldest first, without pruned ones, scanning at most
/// `scanned` of them. Also returns the sequence from which to continue. An unreadable row hides no other.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn every_entry_after(
    connection: &Connection,
    sequence: u64,
    scanned: u32,
) -> Result<(Vec<Standing>, u64)> {
    let end = super::size(connection)?.min(sequence.saturating_add(u64::from(scanned)));
    // Read one sequence at a time: a scan reads nothing beyond a damaged page.
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM audit_entry WHERE sequence = ?1 AND pruned_by IS NULL",
        row::COLUMNS
    ))?;
    let mut found = Vec::new();
    for place in sequence..end {
        let read = statement.query_row([to_column(place)], |row| {
            Ok(row::entry(row).map_or_else(
                |error| Standing::Unreadable(unreadable(row, place, &error)),
                |entry| Standing::Entry(Box::new(entry)),
            ))
        });
        match read.optional() {
            Ok(standing) => found.extend(standing),
            Err(error) if is_damage(&error) => found.push(Standing::Unreadable(Unreadable {
                sequence: place,
                problem: error.to_string(),
                ..Unreadable::default()
            })),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((found, end.max(sequence)))
}

fn unreadable(row: &Row<'_>, sequence: u64, problem: &rusqlite::Error) -> Unreadable {
    Unreadable {
        sequence,
        organization_id: optional(row, 2).ok().flatten(),
        leaf_hash: row::leaf_hash(row, 1).ok(),
        problem: problem.to_string(),
    }
}

/// Returns whether the error is damage of the database, which another attempt would find again.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt))
}
