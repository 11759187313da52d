//! Progress of forwarding the trail to a SIEM, per channel.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::row::{column, millis};
use super::{from_column, row, to_column};
use crate::domain::Result;
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

/// Lists the entries of all organisations from `sequence` on, oldest first, without pruned ones, scanning at most
/// `scanned` of them. Also returns the sequence from which to continue.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn every_entry_after(connection: &Connection, sequence: u64, scanned: u32) -> Result<(Vec<Entry>, u64)> {
    let end = super::size(connection)?.min(sequence.saturating_add(u64::from(scanned)));
    let entries = connection
        .prepare_cached(&format!(
            "SELECT {} FROM audit_entry WHERE sequence >= ?1 AND sequence < ?2 AND pruned_by IS NULL ORDER BY sequence",
            row::COLUMNS
        ))?
        .query_map(params![to_column(sequence), to_column(end)], row::entry)?
        .collect::<rusqlite::Result<_>>()?;
    Ok((entries, end.max(sequence)))
}
