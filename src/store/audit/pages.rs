//! Finds entries by id, by page, by cursor, and in the order of the trail.

use rusqlite::{Connection, OptionalExtension as _, ToSql, params};
use uuid::Uuid;

use super::super::row::millis;
use super::counts::Counts;
use super::{from_column, row, to_column};
use crate::domain::Result;
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::audit::{Entry, EventType, Filter};

/// One page of entries, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPage {
    /// The entries.
    pub content: Vec<Entry>,
    /// Number of matching entries on all pages.
    pub total: u64,
}

/// The end of a page: time and sequence of its last entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Milliseconds since 1970.
    pub at_millis: i64,
    /// Sequence of the entry.
    pub sequence: u64,
}

impl Cursor {
    /// Returns the cursor of a page that ends with `entry`.
    #[must_use]
    pub fn after(entry: &Entry) -> Self {
        Self {
            at_millis: millis(entry.at),
            sequence: entry.sequence,
        }
    }
}

/// Finds an organisation's entry by id.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_entry(
    connection: &Connection,
    organization_id: Option<OrganizationId>,
    id: Uuid,
) -> Result<Option<Entry>> {
    // The id carries its time, so the index by time finds it.
    let Some(at) = time_of(id) else {
        return Ok(None);
    };
    Ok(connection
        .prepare_cached(&format!(
            "SELECT {} FROM audit_entry WHERE organization_id IS ?1 AND at = ?2 AND id = ?3
               AND pruned_by IS NULL",
            row::COLUMNS
        ))?
        .query_row(
            params![organization_key(organization_id.as_ref()), at, id.as_bytes()],
            row::entry,
        )
        .optional()?)
}

/// Finds an entry of any organisation by id, for the operator.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_entry_anywhere(connection: &Connection, id: Uuid) -> Result<Option<Entry>> {
    let organizations = connection
        .prepare_cached("SELECT organization_id FROM audit_head")?
        .query_map([], |row| row.get::<_, Vec<u8>>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for key in organizations {
        let organization = Uuid::from_slice(&key).ok().map(OrganizationId);
        if let Some(entry) = find_entry(connection, organization, id)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Returns a page of an organisation's entries, newest first; pages count from 0. The total needs no counting
/// without a filter; with one, each matching entry costs about 20 ns, except for those already in `counts`.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn page_entries(
    connection: &Connection,
    organization_id: Option<OrganizationId>,
    filter: &Filter,
    counts: &Counts,
    page: u32,
    size: u32,
) -> Result<EntryPage> {
    let selection = Selection::new(organization_id, filter, None);
    let total = if *filter == Filter::default() {
        count_of_organization(connection, organization_id)?
    } else {
        counts.count(connection, organization_id, filter)?
    };
    let content = selection.read(connection, size, u64::from(page).saturating_mul(u64::from(size)))?;
    Ok(EntryPage { content, total })
}

/// Returns the page after `cursor`, or the first. Costs the same however far back it is.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn page_entries_after(
    connection: &Connection,
    organization_id: Option<OrganizationId>,
    filter: &Filter,
    cursor: Option<Cursor>,
    size: u32,
) -> Result<Vec<Entry>> {
    Selection::new(organization_id, filter, cursor).read(connection, size, 0)
}

/// Lists an organisation's entries from `sequence` on, oldest first, scanning at most `scanned` entries of the
/// whole trail. Also returns the sequence from which to continue.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn entries_after(
    connection: &Connection,
    organization_id: Option<OrganizationId>,
    sequence: u64,
    scanned: u32,
) -> Result<(Vec<Entry>, u64)> {
    let end = super::size(connection)?.min(sequence.saturating_add(u64::from(scanned)));
    let entries = connection
        .prepare_cached(&format!(
            "SELECT {} FROM audit_entry
             WHERE sequence >= ?1 AND sequence < ?2 AND +organization_id IS ?3 AND pruned_by IS NULL
             ORDER BY sequence",
            row::COLUMNS
        ))?
        .query_map(
            params![
                to_column(sequence),
                to_column(end),
                organization_key(organization_id.as_ref())
            ],
            row::entry,
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok((entries, end.max(sequence)))
}

/// Lists what others did to a user of the organisation, newest first: at most `size` entries before sequence
/// `before`.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn page_activity(
    connection: &Connection,
    organization_id: OrganizationId,
    user: UserId,
    before: Option<u64>,
    size: u32,
) -> Result<Vec<Entry>> {
    Ok(connection
        .prepare_cached(&format!(
            "SELECT {} FROM audit_entry
             WHERE resource_id = ?1 AND +organization_id = ?2 AND sequence < ?3
               AND pruned_by IS NULL AND at IS NOT NULL AND resource_type = 'USER' AND actor_type <> 'ANONYMOUS'
               AND actor_id IS NOT resource_id
             ORDER BY sequence DESC LIMIT ?4",
            row::COLUMNS
        ))?
        .query_map(
            params![
                user.0.as_bytes(),
                organization_id.0.as_bytes(),
                before.map_or(i64::MAX, to_column),
                size
            ],
            row::entry,
        )?
        .collect::<rusqlite::Result<_>>()?)
}

/// Returns the number of an organisation's entries, without pruned ones.
fn count_of_organization(connection: &Connection, organization_id: Option<OrganizationId>) -> Result<u64> {
    let key = organization_key(organization_id.as_ref()).unwrap_or_default();
    Ok(connection
        .prepare_cached("SELECT entries - pruned FROM audit_head WHERE organization_id = ?1")?
        .query_row([key], |row| row.get(0).map(from_column))
        .optional()?
        .unwrap_or(0))
}

/// The entries that match a filter and follow a cursor.
pub(super) struct Selection<'a> {
    organization: Option<Vec<u8>>,
    from: i64,
    to: i64,
    event_type: Option<&'static str>,
    actor_email: Option<&'a str>,
    before: Option<(i64, i64)>,
}

impl<'a> Selection<'a> {
    pub(super) fn new(
        organization_id: Option<OrganizationId>,
        filter: &'a Filter,
        cursor: Option<Cursor>,
    ) -> Self {
        let to = filter.to.map_or(i64::MAX, millis);
        Self {
            organization: organization_key(organization_id.as_ref()).map(<[u8]>::to_vec),
            from: filter.from.map_or(i64::MIN, millis),
            to: cursor.map_or(to, |cursor| to.min(cursor.at_millis)),
            event_type: filter.event_type.map(EventType::as_str),
            actor_email: filter.actor_email.as_deref(),
            before: cursor.map(|cursor| (cursor.at_millis, to_column(cursor.sequence))),
        }
    }

    /// The SQL conditions. Always bounds `at`: SQLite uses the partial indexes, which omit pruned entries, only
    /// then.
    pub(super) fn conditions(&self) -> String {
        let mut conditions = String::from("organization_id IS :organization_id AND at BETWEEN :from AND :to");
        for (given, condition) in [
            // With both given, one actor's entries are fewer; the unary + makes SQLite use that index.
            (
                self.event_type.is_some() && self.actor_email.is_some(),
                " AND +event_type = :event_type",
            ),
            (
                self.event_type.is_some() && self.actor_email.is_none(),
                " AND event_type = :event_type",
            ),
            (self.actor_email.is_some(), " AND actor_email = :actor_email"),
            (
                self.before.is_some(),
                " AND (at < :before_at OR sequence < :before_sequence)",
            ),
        ] {
            if given {
                conditions.push_str(condition);
            }
        }
        conditions
    }

    pub(super) fn parameters(&self) -> Vec<(&'static str, &dyn ToSql)> {
        let mut parameters: Vec<(&'static str, &dyn ToSql)> = vec![
            (":organization_id", &self.organization),
            (":from", &self.from),
            (":to", &self.to),
        ];
        if let Some(event_type) = &self.event_type {
            parameters.push((":event_type", event_type));
        }
        if let Some(actor_email) = &self.actor_email {
            parameters.push((":actor_email", actor_email));
        }
        if let Some((at, sequence)) = &self.before {
            parameters.push((":before_at", at));
            parameters.push((":before_sequence", sequence));
        }
        parameters
    }

    fn page(&self) -> String {
        format!(
            "SELECT {} FROM audit_entry WHERE {} AND pruned_by IS NULL ORDER BY at DESC, sequence DESC LIMIT :limit OFFSET :offset",
            row::COLUMNS,
            self.conditions()
        )
    }

    fn read(&self, connection: &Connection, size: u32, skipped: u64) -> Result<Vec<Entry>> {
        let (limit, offset) = (i64::from(size), i64::try_from(skipped).unwrap_or(i64::MAX));
        let mut parameters = self.parameters();
        parameters.push((":limit", &limit));
        parameters.push((":offset", &offset));
        Ok(connection
            .prepare_cached(&self.page())?
            .query_map(parameters.as_slice(), row::entry)?
            .collect::<rusqlite::Result<Vec<_>>>()?)
    }
}

/// Returns SQLite's query plan for a page.
#[cfg(test)]
pub(super) fn plan(
    connection: &Connection,
    organization_id: Option<OrganizationId>,
    filter: &Filter,
    cursor: Option<Cursor>,
) -> rusqlite::Result<Vec<String>> {
    let page = Selection::new(organization_id, filter, cursor).page();
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {page}"))?;
    // Unbound parameters are NULL, which does not affect the plan.
    statement.raw_query().mapped(|row| row.get("detail")).collect()
}

fn organization_key(id: Option<&OrganizationId>) -> Option<&[u8]> {
    id.map(|id| id.0.as_bytes().as_slice())
}

/// Returns the milliseconds since 1970 in a UUID of version 7; `None` for another version.
fn time_of(id: Uuid) -> Option<i64> {
    let (secs, nanos) = id
        .get_timestamp()
        .filter(|_| id.get_version_num() == 7)?
        .to_unix();
    i64::try_from(secs * 1000 + u64::from(nanos / 1_000_000)).ok()
}
