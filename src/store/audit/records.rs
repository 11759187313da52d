//! Complete records, in the order of the trail.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::super::row::{column, millis};
use super::{from_column, row, to_column};
use crate::domain::Result;
use crate::domain::audit::Record;

/// A range of the trail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Restricts the range to this organisation's entries; `None` includes all.
    pub organization_id: Option<Uuid>,
    /// First sequence, inclusive.
    pub first: u64,
    /// Last sequence, exclusive.
    pub end: u64,
}

impl Range {
    /// Returns whether the range includes the record.
    #[must_use]
    pub fn holds(&self, record: &Record) -> bool {
        let of_organization =
            self.organization_id.is_none() || self.organization_id == record.organization_id;
        of_organization && (self.first..self.end).contains(&record.sequence)
    }
}

/// Finds the smallest range that holds all entries between two times (inclusive), of one organisation or of all,
/// among the first `size` entries.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_range(
    connection: &Connection,
    organization_id: Option<Uuid>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    size: u64,
) -> Result<Range> {
    if from.is_none() && to.is_none() {
        return Ok(Range {
            organization_id,
            first: 0,
            end: size,
        });
    }
    // Without an organisation no index helps: this reads the whole trail.
    let of_organization = if organization_id.is_some() {
        "organization_id = ?4"
    } else {
        "?4 IS NULL"
    };
    let (first, last) = connection
        .prepare_cached(&format!(
            "SELECT min(sequence), max(sequence) FROM audit_entry
             WHERE {of_organization} AND at BETWEEN ?1 AND ?2 AND sequence < ?3"
        ))?
        .query_row(
            params![
                from.map_or(i64::MIN, millis),
                to.map_or(i64::MAX, millis),
                to_column(size),
                organization_id.as_ref().map(Uuid::as_bytes)
            ],
            |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?)),
        )?;
    let (first, end) = match (first, last) {
        (Some(first), Some(last)) => (from_column(first), from_column(last) + 1),
        _ => (size, size),
    };
    Ok(Range {
        organization_id,
        first,
        end,
    })
}

/// Finds the time of the newest entry that was not pruned.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_newest_time(connection: &Connection) -> Result<Option<Timestamp>> {
    let found = connection
        .prepare_cached("SELECT at FROM audit_entry WHERE at IS NOT NULL ORDER BY sequence DESC LIMIT 1")?
        .query_row([], |row| column::<Timestamp>(row, 0))
        .optional()?;
    Ok(found)
}

/// Counts the records in a range, including pruned ones.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn count_records(connection: &Connection, range: Range) -> Result<u64> {
    let Some(organization) = range.organization_id else {
        // The trail has no gaps.
        return Ok(range.end.saturating_sub(range.first));
    };
    Ok(connection
        .prepare_cached(
            "SELECT count(*) FROM audit_entry WHERE sequence >= ?1 AND sequence < ?2 AND +organization_id = ?3",
        )?
        .query_row(
            params![
                to_column(range.first),
                to_column(range.end),
                organization.as_bytes()
            ],
            |row| row.get(0).map(from_column),
        )?)
}

/// Calls `with` with each record of a range, in order.
///
/// # Errors
/// The error of `with`; [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails or a record can't be
/// read.
pub fn for_each_record<E: From<crate::domain::Error>>(
    connection: &Connection,
    range: Range,
    mut with: impl FnMut(Record) -> Result<(), E>,
) -> Result<(), E> {
    let internal = |error: rusqlite::Error| E::from(error.into());
    let of_organization = if range.organization_id.is_some() {
        "+organization_id = ?3"
    } else {
        "?3 IS NULL"
    };
    let mut statement = connection
        .prepare_cached(&format!(
            "SELECT {} FROM audit_entry WHERE sequence >= ?1 AND sequence < ?2 AND {of_organization}
             ORDER BY sequence",
            row::RECORD_COLUMNS
        ))
        .map_err(internal)?;
    let mut rows = statement
        .query(params![
            to_column(range.first),
            to_column(range.end),
            range.organization_id.as_ref().map(Uuid::as_bytes)
        ])
        .map_err(internal)?;
    while let Some(row) = rows.next().map_err(internal)? {
        let record = row::record(row).map_err(|error| {
            let place: i64 = row.get(0).unwrap_or(-1);
            crate::domain::Error::Internal(format!("audit entry {place} can't be read: {error}"))
        })?;
        with(record)?;
    }
    Ok(())
}
