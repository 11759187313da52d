//! Looks up whether certain events occurred since a given time.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::super::row::millis;
use super::{from_column, to_column};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::EventType;

/// Finds the first entry since `since` whose actor has that address and whose type `wanted` accepts, except where
/// actors end their own sessions: that has the type of an admin's operation. Returns its sequence and type.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails.
pub fn find_first_by(
    connection: &Connection,
    organization: OrganizationId,
    actor_email: &str,
    since: Timestamp,
    wanted: impl Fn(EventType) -> bool,
) -> Result<Option<(u64, EventType)>> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, event_type FROM audit_entry WHERE organization_id = ?1 AND actor_email = ?2 \
         AND at >= ?3 AND NOT (event_type = 'USER_SESSIONS_END' AND resource_id IS actor_id) ORDER BY at, sequence",
    )?;
    let mut rows = statement.query(params![organization.0.as_bytes(), actor_email, millis(since)])?;
    while let Some(row) = rows.next()? {
        let event_type = EventType::from_wire(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?);
        if let Some(event_type) = event_type.filter(|event_type| wanted(*event_type)) {
            return Ok(Some((from_column(row.get(0)?), event_type)));
        }
    }
    Ok(None)
}

/// Returns whether there is an entry of that type about that resource since `since`.
///
/// # Errors
/// As [`find_first_by`].
pub fn entry_exists(
    connection: &Connection,
    organization: OrganizationId,
    event_type: EventType,
    resource: Uuid,
    since: Timestamp,
) -> Result<bool> {
    let mut statement = connection.prepare_cached(
        "SELECT 1 FROM audit_entry WHERE organization_id = ?1 AND event_type = ?2 AND at >= ?3 \
         AND resource_id = ?4",
    )?;
    Ok(statement.exists(params![
        organization.0.as_bytes(),
        event_type.as_str(),
        millis(since),
        resource.as_bytes()
    ])?)
}

/// Finds the type of an entry by its sequence; `None` if it was pruned.
pub fn find_event_type(connection: &Connection, sequence: u64) -> Result<Option<String>> {
    let mut statement =
        connection.prepare_cached("SELECT event_type FROM audit_entry WHERE sequence = ?1")?;
    let found = statement.query_row([to_column(sequence)], |row| row.get(0));
    Ok(found.optional()?.flatten())
}
