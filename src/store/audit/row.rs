//! How an entry stands in its row.

use rusqlite::Row;
use rusqlite::types::{FromSqlError, Type, ValueRef};
use serde_json::Map;
use uuid::Uuid;

use super::super::row::{column, optional, unreadable};
use super::from_column;
use crate::domain::audit::{ActorRef, ActorType, AuditResult, Entry, Event, EventType, Filter, Resource};

/// What [`entry`] reads, in order.
pub(super) const COLUMNS: &str = "sequence, hashes, organization_id, at, id, event_type, result, actor_type, \
     actor_id, resource_type, resource_id, request_id, actor_email, ip_address, resource_name, error_message, \
     details, actor_erased_by, subject_erased_by";

/// The condition that a filter is, over named parameters. The bounds on `at` are always there: they are
/// what the indexes, which leave pruned entries out, ask for.
pub(super) fn conditions(filter: &Filter) -> String {
    let mut conditions = String::from("organization_id IS :organization_id AND at BETWEEN :from AND :to");
    if filter.event_type.is_some() {
        conditions.push_str(" AND event_type = :event_type");
    }
    if filter.actor_email.is_some() {
        conditions.push_str(" AND actor_email = :actor_email");
    }
    conditions
}

/// An entry that was not pruned.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let details = match row.get_ref(16)? {
        ValueRef::Null => Map::new(),
        text => serde_json::from_str(text.as_str()?).map_err(|e| unreadable(16, Type::Text, e))?,
    };
    let resource_type: Option<String> = row.get(9)?;
    let resource = match (resource_type, compact_id(row, 10)?) {
        (Some(r#type), Some(id)) => Some(Resource {
            r#type,
            id,
            name: row.get(14)?,
        }),
        _ => None,
    };
    Ok(Entry {
        sequence: from_column(row.get(0)?),
        leaf_hash: leaf_hash(row, 1)?,
        at: column(row, 3)?,
        id: column(row, 4)?,
        event: Event {
            organization_id: optional(row, 2)?,
            event_type: named(row, 5, EventType::from_wire)?,
            actor: ActorRef {
                r#type: named(row, 7, ActorType::from_wire)?,
                id: optional(row, 8)?,
                email: row.get(12)?,
            },
            resource,
            result: named(row, 6, AuditResult::from_wire)?,
            ip_address: row.get(13)?,
            request_id: compact_id(row, 11)?,
            error_message: row.get(15)?,
            details,
        },
    })
}

/// An id that is a UUID or text.
pub(super) fn compact_id(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<String>> {
    match row.get_ref(index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Uuid::from_slice(bytes)
            .map(|id| Some(id.to_string()))
            .map_err(|e| unreadable(index, Type::Blob, e)),
        text => Ok(Some(text.as_str()?.to_owned())),
    }
}

fn leaf_hash(row: &Row<'_>, index: usize) -> rusqlite::Result<[u8; 32]> {
    row.get_ref(index)?
        .as_blob()?
        .first_chunk()
        .copied()
        .ok_or_else(|| unreadable(index, Type::Blob, FromSqlError::InvalidType))
}

fn named<T>(row: &Row<'_>, index: usize, from_wire: impl Fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let name = row.get_ref(index)?.as_str()?;
    from_wire(name).ok_or_else(|| {
        unreadable(
            index,
            Type::Text,
            FromSqlError::Other(format!("unknown name {name}").into()),
        )
    })
}
