//! The audit trail in SQLite: each entry is appended in the transaction of the change it records.

mod beside;
pub mod checkpoints;
mod counts;
mod forwarding;
mod pages;
mod personal;
mod proofs;
mod records;
mod removal;
mod rollback;
mod row;
mod verify;
mod watched;

pub use beside::Beside;
pub use counts::Counts;
pub use forwarding::{
    Forwarding, Standing, Unreadable, every_entry_after, find_forwarding, update_forwarding,
};
pub use pages::{
    Cursor, EntryPage, entries_after, find_entry, find_entry_anywhere, page_activity, page_entries,
    page_entries_after,
};
pub use personal::{
    Erasure, Personal, PersonalPart, clear_erasure, find_addresses, find_erasure, find_personal,
    insert_erasure, update_erasure,
};
pub use proofs::{consistency_proof, cover, find_record, inclusion_proof, root, size};
pub use records::{Range, count_records, find_newest_time, find_range, for_each_record};
pub use removal::{erase_parts, find_retention_changes, prune_entries};
pub use rollback::{
    Revived, clear_every_session, find_abandonments, find_key_changes, find_revived, try_replaced,
};
pub use verify::{VerifyError, verify, verify_against, verify_database, verify_watched};
pub use watched::{entry_exists, find_event_type, find_first_by};

use jiff::Timestamp;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::row::millis;
use crate::domain::account::OrganizationId;
use crate::domain::audit::tree::{Node, completed_by, parent_hash};
use crate::domain::audit::{
    Chain, Entry, Event, Hash32, Leaf, Salt, actor_part, object_text, seal, subject_part,
};
use crate::domain::{Error, Result};

/// Appends an entry and its leaf to the tree. Call it in the transaction of the change that it records, so that a
/// rollback undoes both. The entry's id is `id` with its time set to `at`, so that ids sort by time.
///
/// Costs about two look-ups, two rows, and two hashes on average (O(log n) at worst).
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn append_entry(tx: &Connection, at: Timestamp, id: Uuid, event: &Event) -> Result<Entry> {
    let Appended {
        sequence,
        id,
        leaf_hash,
    } = append(tx, at, id, event)?;
    Ok(Entry {
        sequence,
        id,
        at,
        event: event.clone(),
        leaf_hash,
    })
}

/// Sequence, id and hash of an appended entry.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Its place in the trail, counted from 0.
    pub sequence: u64,
    /// The entry's id.
    pub id: Uuid,
    /// Hash of its leaf in the tree.
    pub leaf_hash: Hash32,
}

/// [`append_entry`] without a copy of the event in the result.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn append(tx: &Connection, at: Timestamp, id: Uuid, event: &Event) -> Result<Appended> {
    let id = with_time(id, at);
    let newest = newest_hashes(tx)?;
    let sequence = newest.as_ref().map_or(0, |(sequence, _)| sequence + 1);
    let chain = advance_head(tx, event.organization_id, sequence)?;
    let details = (!event.details.is_empty()).then(|| object_text(&event.details));
    let resource_name = event.resource.as_ref().and_then(|r| r.name.as_deref());
    let (actor_salt, subject_salt) = fresh_salts();
    let leaf = Leaf {
        sequence,
        chain,
        id,
        at,
        organization_id: event.organization_id.map(|id| id.0),
        event_type: event.event_type.as_str(),
        result: event.result.as_str(),
        actor_type: event.actor.r#type.as_str(),
        actor_id: event.actor.id,
        resource: event
            .resource
            .as_ref()
            .map(|r| (r.r#type.as_str(), r.id.as_str())),
        request_id: event.request_id.as_deref(),
        actor_seal: seal(
            &actor_salt,
            &actor_part(event.actor.email.as_deref(), event.ip_address.as_deref()),
        ),
        subject_seal: seal(
            &subject_salt,
            &subject_part(details.as_deref(), event.error_message.as_deref(), resource_name),
        ),
    };
    let leaf_hash = leaf.hash();
    let hashes = completed_hashes(
        tx,
        sequence,
        leaf_hash,
        newest.as_ref().map(|(_, h)| h.as_slice()),
    )?;
    // Bound by position: looking up 21 parameter names would cost as much as the hashing.
    let written = tx.prepare_cached(
        "INSERT INTO audit_entry (sequence, hashes, organization_id, organization_index,
           organization_previous, at, id, event_type, result, actor_type, actor_id, resource_type,
           resource_id, request_id, actor_seal, actor_email, ip_address, subject_seal, resource_name,
           error_message, details)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
    )?
    .execute(params![
        to_column(sequence),
        hashes,
        event.organization_id.as_ref().map(|id| id.0.as_bytes()),
        to_column(chain.index),
        chain.previous.map(to_column),
        millis(at),
        id.as_bytes(),
        leaf.event_type,
        leaf.result,
        leaf.actor_type,
        leaf.actor_id.as_ref().map(Uuid::as_bytes),
        leaf.resource.map(|(r#type, _)| r#type),
        leaf.resource.map(|(_, id)| CompactId::of(id)),
        leaf.request_id.map(CompactId::of),
        actor_salt,
        event.actor.email,
        event.ip_address,
        subject_salt,
        resource_name,
        event.error_message,
        details,
    ])?;
    exactly_one(written)?;
    Ok(Appended {
        sequence,
        id,
        leaf_hash,
    })
}

/// Fails unless exactly one row was written: a trigger can suppress an insert without an error.
fn exactly_one(written: usize) -> Result<()> {
    if written == 1 {
        Ok(())
    } else {
        Err(Error::Internal(format!(
            "appending an audit entry wrote {written} rows instead of one"
        )))
    }
}

/// Finds the newest entry's sequence and stored hashes.
fn newest_hashes(connection: &Connection) -> Result<Option<(u64, Vec<u8>)>> {
    Ok(connection
        .prepare_cached("SELECT sequence, hashes FROM audit_entry ORDER BY sequence DESC LIMIT 1")?
        .query_row([], |row| Ok((from_column(row.get(0)?), row.get(1)?)))
        .optional()?)
}

/// Makes `sequence` the organisation's newest entry and returns its link to the previous one. Uses two statements:
/// an upsert with RETURNING takes twice as long.
fn advance_head(tx: &Connection, organization_id: Option<OrganizationId>, sequence: u64) -> Result<Chain> {
    let key: &[u8] = organization_id.as_ref().map_or(&[], |id| id.0.as_bytes());
    let head: Option<(i64, i64)> = tx
        .prepare_cached("SELECT sequence, entries FROM audit_head WHERE organization_id = ?1")?
        .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (previous, entries) = head.unzip();
    let statement = match head {
        Some(_) => {
            "UPDATE audit_head SET sequence = ?2, previous = ?3, entries = ?4 WHERE organization_id = ?1"
        }
        None => {
            "INSERT INTO audit_head (organization_id, sequence, previous, entries) VALUES (?1, ?2, ?3, ?4)"
        }
    };
    let index = entries.unwrap_or(0);
    let written =
        tx.prepare_cached(statement)?
            .execute(params![key, to_column(sequence), previous, index + 1])?;
    exactly_one(written)?;
    Ok(Chain {
        index: from_column(index),
        previous: previous.map(from_column),
    })
}

/// Computes the hashes stored with entry `sequence`: its leaf's, and that of each subtree that it completes.
fn completed_hashes(
    tx: &Connection,
    sequence: u64,
    leaf_hash: Hash32,
    newest: Option<&[u8]>,
) -> Result<Vec<u8>> {
    let count = completed_by(sequence);
    let mut hashes = Vec::with_capacity(32 * count as usize);
    hashes.extend_from_slice(&leaf_hash);
    let mut hash = leaf_hash;
    for level in 0..u8::try_from(count - 1).expect("a sequence has 64 bits") {
        let left = Node {
            level,
            index: (sequence >> level) - 1,
        };
        let kept = left.kept_by();
        let left_hash = match newest {
            Some(newest) if kept + 1 == sequence => left.among(newest),
            _ => find_node(tx, left)?,
        };
        let left_hash = left_hash
            .ok_or_else(|| Error::Internal(format!("audit entry {kept} lacks a hash of the tree")))?;
        hash = parent_hash(left_hash, hash);
        hashes.extend_from_slice(&hash);
    }
    Ok(hashes)
}

/// Finds the hash of a complete subtree.
fn find_node(connection: &Connection, node: Node) -> Result<Option<Hash32>> {
    Ok(connection
        .prepare_cached("SELECT hashes FROM audit_entry WHERE sequence = ?1")?
        .query_row([to_column(node.kept_by())], |row| {
            Ok(row
                .get_ref(0)?
                .as_blob()
                .ok()
                .and_then(|hashes| node.among(hashes)))
        })
        .optional()?
        .flatten())
}

/// Returns two random salts, for the actor's and the subject's seal.
#[expect(
    clippy::disallowed_methods,
    reason = "salts must be unpredictable, so that not even a test may set them"
)]
fn fresh_salts() -> (Salt, Salt) {
    (rand::random(), rand::random())
}

/// Returns `id` as UUID version 7 with the milliseconds of `at` (RFC 9562 §5.7), its random bits unchanged.
fn with_time(id: Uuid, at: Timestamp) -> Uuid {
    let mut random = [0; 10];
    random.copy_from_slice(&id.as_bytes()[6..]);
    let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// An id stored as 16 bytes if it is a UUID in canonical spelling, as text otherwise.
#[derive(Debug)]
enum CompactId<'a> {
    Uuid(Uuid),
    Text(&'a str),
}

impl<'a> CompactId<'a> {
    fn of(text: &'a str) -> Self {
        match Uuid::try_parse(text) {
            Ok(id) if id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text => Self::Uuid(id),
            _ => Self::Text(text),
        }
    }
}

impl ToSql for CompactId<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Uuid(id) => ValueRef::Blob(id.as_bytes()),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn to_column(value: u64) -> i64 {
    i64::try_from(value).expect("a trail has fewer than 2^63 entries")
}

fn from_column(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
