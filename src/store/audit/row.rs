//! Conversion of rows to entries and records.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::{FromSqlError, Type, ValueRef};
use serde_json::Map;
use uuid::Uuid;

use super::super::row::{column, optional, unreadable};
use super::{CompactId, from_column};
use crate::domain::audit::{
    ActorData, ActorRef, ActorType, AuditResult, Body, Chain, Content, Entry, Event, EventType, Part, Record,
    Resource, SubjectData,
};

/// The columns that [`entry`] reads, in order.
pub(super) const COLUMNS: &str = "sequence, hashes, organization_id, at, id, event_type, result, actor_type, \
     actor_id, resource_type, resource_id, request_id, actor_email, ip_address, resource_name, error_message, \
     details, actor_erased_by, subject_erased_by";

/// Reads an entry that was not pruned. Ignores the columns of erased parts, whatever they hold.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let mut details = match row.get_ref(16)? {
        ValueRef::Null => Map::new(),
        text => serde_json::from_str(text.as_str()?).map_err(|e| unreadable(16, Type::Text, e))?,
    };
    let actor_erased = row.get_ref(17)? != ValueRef::Null;
    let subject_erased = row.get_ref(18)? != ValueRef::Null;
    if subject_erased {
        details.clear();
    }
    let erased: Vec<_> = [(actor_erased, "actor"), (subject_erased, "subject")]
        .into_iter()
        .filter_map(|(erased, part)| erased.then_some(part))
        .collect();
    if !erased.is_empty() {
        details.insert("erased".to_owned(), erased.into());
    }
    let text = |column: usize, erased: bool| -> rusqlite::Result<Option<String>> {
        if erased { Ok(None) } else { row.get(column) }
    };
    let resource_type: Option<String> = row.get(9)?;
    let resource = match (resource_type, compact_id(row, 10)?) {
        (Some(r#type), Some(id)) => Some(Resource {
            r#type,
            id,
            name: text(14, subject_erased)?,
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
                email: text(12, actor_erased)?,
            },
            resource,
            result: named(row, 6, AuditResult::from_wire)?,
            ip_address: text(13, actor_erased)?,
            request_id: compact_id(row, 11)?,
            error_message: text(15, subject_erased)?,
            details,
        },
    })
}

/// The columns that [`record`] reads, in order.
pub(super) const RECORD_COLUMNS: &str = "sequence, hashes, organization_id, organization_index, \
     organization_previous, at, id, event_type, result, actor_type, actor_id, resource_type, resource_id, \
     request_id, actor_seal, actor_email, ip_address, subject_seal, resource_name, error_message, details, \
     actor_erased_by, subject_erased_by, pruned_by";

/// Reads a complete record, pruned or not.
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let content = match row.get::<_, Option<i64>>(23)? {
        Some(by) => Content::Pruned {
            by: from_column(by),
            actor_erased_by: row.get::<_, Option<i64>>(21)?.map(from_column),
            subject_erased_by: row.get::<_, Option<i64>>(22)?.map(from_column),
        },
        None => Content::Whole(Box::new(body(row)?)),
    };
    Ok(Record {
        sequence: from_column(row.get(0)?),
        organization_id: optional(row, 2)?,
        chain: Chain {
            index: from_column(row.get(3)?),
            previous: row.get::<_, Option<i64>>(4)?.map(from_column),
        },
        hashes: row.get(1)?,
        content,
    })
}

/// Describes an irregularity in a row of [`RECORD_COLUMNS`] that its record does not show: a value in a column
/// that no hash covers, or another encoding of the same value, which an index or a query would treat as a
/// different one.
pub(super) fn irregular(row: &Row<'_>) -> rusqlite::Result<Option<&'static str>> {
    let is_there = |column: usize| Ok::<_, rusqlite::Error>(row.get_ref(column)? != ValueRef::Null);
    for (removed_by, columns) in [(23, 5..21), (21, 15..17), (22, 18..21)] {
        if is_there(removed_by)? {
            for column in columns {
                if is_there(column)? {
                    return Ok(Some("a removed column has a value"));
                }
            }
        }
    }
    for column in [0, 3, 4, 21, 22, 23] {
        if matches!(row.get_ref(column)?, ValueRef::Integer(place) if place < 0) {
            return Ok(Some("a sequence number is negative"));
        }
    }
    if is_there(11)? != is_there(12)? {
        return Ok(Some("only one of resource type and resource id is set"));
    }
    for column in [12, 13] {
        if let ValueRef::Text(text) = row.get_ref(column)?
            && matches!(
                std::str::from_utf8(text).map(CompactId::of),
                Ok(CompactId::Uuid(_))
            )
        {
            return Ok(Some("a UUID is stored as text, where look-ups do not find it"));
        }
    }
    Ok(None)
}

/// Returns whether a row of [`RECORD_COLUMNS`] records an act of others on a user, as the index
/// `audit_entry_by_subject` holds.
pub(super) fn is_of_subject(row: &Row<'_>) -> rusqlite::Result<bool> {
    let is = |column: usize, text: &str| {
        Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str_or_null()? == Some(text))
    };
    Ok(row.get_ref(5)? != ValueRef::Null
        && is(11, "USER")?
        && row.get_ref(9)? != ValueRef::Null
        && !is(9, "ANONYMOUS")?
        && row.get_ref(10)? != row.get_ref(12)?)
}

fn body(row: &Row<'_>) -> rusqlite::Result<Body> {
    let resource_type: Option<String> = row.get(11)?;
    Ok(Body {
        at: column::<Timestamp>(row, 5)?,
        id: column(row, 6)?,
        event_type: row.get(7)?,
        result: row.get(8)?,
        actor_type: row.get(9)?,
        actor_id: optional(row, 10)?,
        resource: resource_type.zip(compact_id(row, 12)?),
        request_id: compact_id(row, 13)?,
        actor: part(row, 14, 21, || {
            Ok(ActorData {
                email: row.get(15)?,
                ip_address: row.get(16)?,
            })
        })?,
        subject: part(row, 17, 22, || {
            Ok(SubjectData {
                resource_name: row.get(18)?,
                error_message: row.get(19)?,
                details: row.get(20)?,
            })
        })?,
    })
}

/// Reads a part: its data and salt, or if it was erased, its seal and the erasing entry's sequence.
fn part<T>(
    row: &Row<'_>,
    seal: usize,
    erased_by: usize,
    data: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<Part<T>> {
    match row.get::<_, Option<i64>>(erased_by)? {
        Some(by) => Ok(Part::Erased {
            seal: row.get(seal)?,
            by: from_column(by),
        }),
        None => Ok(Part::Kept {
            salt: row.get(seal)?,
            data: data()?,
        }),
    }
}

/// Reads an id that is stored as a UUID or as text.
pub(super) fn compact_id(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<String>> {
    match row.get_ref(index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Uuid::from_slice(bytes)
            .map(|id| Some(id.to_string()))
            .map_err(|e| unreadable(index, Type::Blob, e)),
        text => Ok(Some(text.as_str()?.to_owned())),
    }
}

/// Reads an entry's leaf hash from the column that also holds the hashes of the subtrees it completes.
pub(super) fn leaf_hash(row: &Row<'_>, index: usize) -> rusqlite::Result<[u8; 32]> {
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
