//! The audit trail: reading, signing, receipts and exports.
//!
//! On a full disk or a failing write: an entry is part of the change that it records, so if it can't be
//! written, the change does not happen either (500, or 503 when the writer's queue is full; nothing is changed).
//! Reading continues. A checkpoint that can't be written is logged and retried, and blocks nothing.

mod activity;
mod checkpoints;
mod export;
mod forwarding;
mod keeping;
mod key_change;
mod memory;
mod orders;
mod restoration;
mod rollback;
mod tails;
mod thinning;
mod verification;
mod witness;

use uuid::Uuid;

use super::Services;
use crate::domain::account::{OrganizationId, Principal, Reading};
use crate::domain::audit::{Entry, EventType, Filter, Record, write_receipt};
use crate::domain::{Error, Result};
use crate::store::audit;
pub use crate::store::audit::Cursor;

pub use activity::{Activity, By, list_activity};
pub(in crate::service) use checkpoints::signer_of;
pub use checkpoints::{
    CHECKPOINT_CALL, CHECKPOINT_DIRECTORY, Settings, checkpoint, checkpoint_if_due, log_keys,
};
pub use export::{
    Announcement, Begun, Claim, Export, ExportError, Format, Selection, Snapshot, Written, announce_export,
    export, sign_export,
};
pub use forwarding::{ForwardTo, Way, find_unknown_slugs, forward_due, forward_while};
pub use keeping::{RETENTION_GRACE_DAYS, carry_on_erasures, erase_user, prune_expired};
pub use key_change::{KeyChanged, find_vouched_keys, finish_key_change, rotate_key};
pub use orders::{TrailOrder, carry_out_order};
pub use restoration::{begin_after_restore, give_to_witness};
pub use rollback::{Accepted, RolledBack, accept_rollback, check_rollback};
pub use tails::{TailPlace, Tails};
pub use thinning::thin_checkpoints;
pub use verification::verify_data_dir;
pub use witness::Witness;

/// Maximum number of entries in a page.
pub const PAGE_LIMIT: u32 = 1000;

/// A query for a page of the trail.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Conditions that entries must match, without the event type.
    pub filter: Filter,
    /// The event type as the caller wrote it.
    pub event_type: Option<String>,
    /// The page's number or cursor.
    pub place: Place,
    /// Number of entries per page.
    pub size: u32,
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Page number, counted from 0.
    Page(u32),
    /// Cursor: [`Page::next`] of the previous page.
    After(String),
}

impl Default for Place {
    fn default() -> Self {
        Self::Page(0)
    }
}

/// A page of entries, newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The entries.
    pub content: Vec<Entry>,
    /// Number of matching entries on all pages; only counted if the query has a page number.
    pub total: Option<u64>,
    /// Cursor of the next page, if this one is full.
    pub next: Option<String>,
}

/// Returns a page of the organisation's trail.
///
/// # Errors
/// [`Error::Validation`] for an unknown event type, a size out of range or an invalid cursor.
pub async fn list_entries(services: &Services, reading: Reading<'_>, query: Query) -> Result<Page> {
    let organization = reading.organization().id;
    let Query {
        mut filter,
        event_type,
        place,
        size,
    } = query;
    if !(1..=PAGE_LIMIT).contains(&size) {
        return Err(Error::field(
            "size",
            format!("must be between 1 and {PAGE_LIMIT}"),
        ));
    }
    if let Some(name) = event_type {
        let known = EventType::from_wire(&name);
        filter.event_type = Some(known.ok_or_else(|| Error::field("eventType", "is not an event type"))?);
    }
    let read = match place {
        Place::Page(page) => {
            let counts = services.store.counts();
            services
                .store
                .read_long(Some(organization), move |db| {
                    let page = audit::page_entries(db, Some(organization), &filter, &counts, page, size)?;
                    Ok((page.content, Some(page.total)))
                })
                .await?
        }
        Place::After(cursor) => {
            let cursor = read_cursor(&cursor)?;
            services
                .store
                .read_long(Some(organization), move |db| {
                    let content = audit::page_entries_after(db, Some(organization), &filter, cursor, size)?;
                    Ok((content, None))
                })
                .await?
        }
    };
    let (content, total) = read;
    let full = content.len() == size as usize;
    let next = content
        .last()
        .filter(|_| full)
        .map(|entry| write_cursor(Cursor::after(entry)));
    Ok(Page { content, total, next })
}

/// Fills the cache of counts in advance, so that the first page of a filter need not count.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub async fn count_ahead(services: &Services) -> Result<()> {
    let counts = services.store.counts();
    let count = move |db: &crate::store::Connection| counts.count_ahead(db);
    services.store.read_long(None, count).await
}

/// Finds an entry of the organisation's trail by id.
///
/// # Errors
/// [`Error::NotFound`] when there is none, or it was pruned.
pub fn find_entry(services: &Services, reading: Reading<'_>, id: Uuid) -> Result<Entry> {
    let organization = reading.organization().id;
    services
        .store
        .read(|db| audit::find_entry(db, Some(organization), id))?
        .ok_or_else(|| no_entry(id))
}

/// Returns the receipt of an entry of the organisation's trail.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find_receipt(services: &Services, reading: Reading<'_>, id: Uuid) -> Result<String> {
    let entry = find_entry(services, reading, id)?;
    receipt(services, entry.sequence).await
}

/// Returns the receipt of the caller's own act. If it can't be made, logs the error and returns `None`: the act
/// stands, and the receipt can be fetched later.
pub async fn receipt_of(services: &Services, principal: &Principal, id: Uuid) -> Option<String> {
    let organization = principal.organization.id;
    let find = || {
        services
            .store
            .read(|db| audit::find_entry(db, Some(organization), id))?
            .ok_or_else(|| no_entry(id))
    };
    let made = match find() {
        Ok(entry) => receipt(services, entry.sequence).await,
        Err(error) => Err(error),
    };
    made.inspect_err(|error| tracing::error!(?error, "could not make a receipt"))
        .ok()
}

/// Returns the receipt of an entry of any organisation, for the operator.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find_receipt_anywhere(services: &Services, id: Uuid) -> Result<String> {
    let entry = services
        .store
        .read(|db| audit::find_entry_anywhere(db, id))?
        .ok_or_else(|| no_entry(id))?;
    receipt(services, entry.sequence).await
}

/// Returns the receipt of the committed entry at `sequence`: the entry, the proof that it is in the trail, and a
/// signed checkpoint that covers it. [`crate::domain::audit::check_receipt`] verifies it.
///
/// # Errors
/// [`Error::NotFound`] when there is no such entry or it was pruned.
pub async fn receipt(services: &Services, sequence: u64) -> Result<String> {
    make_receipt(services, sequence, |record| record).await
}

/// Returns the receipt without the sealed parts, for a reader who may not see them: it shows what happened when,
/// the ids of actor and resource, and the result, but no addresses, reasons or messages.
///
/// # Errors
/// As [`receipt`].
pub async fn bare_receipt(services: &Services, sequence: u64) -> Result<String> {
    make_receipt(services, sequence, Record::withheld).await
}

async fn make_receipt(
    services: &Services,
    sequence: u64,
    shown: impl FnOnce(Record) -> Record,
) -> Result<String> {
    let signed = checkpoints::checkpoint_over(services, sequence).await?;
    let size = signed.size;
    services.store.read(|db| {
        let record = audit::find_record(db, sequence)?
            .filter(|record| record.leaf().is_some())
            .ok_or_else(|| no_entry(sequence))?;
        let proof = audit::inclusion_proof(db, sequence, size)?;
        Ok(write_receipt(&shown(record), &proof, &signed.note))
    })
}

/// Lists the organisation's entries from `sequence` on, oldest first, and returns the sequence from which to
/// continue, for a live tail.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn entries_after(
    services: &Services,
    organization: OrganizationId,
    sequence: u64,
) -> Result<(Vec<Entry>, u64)> {
    const SCANNED: u32 = 2000;
    services
        .store
        .read(|db| audit::entries_after(db, Some(organization), sequence, SCANNED))
}

/// Returns the number of entries in the trail.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub fn size(services: &Services) -> Result<u64> {
    services.store.read(audit::size)
}

fn no_entry(id: impl ToString) -> Error {
    Error::NotFound {
        what: "Audit entry",
        id: id.to_string(),
    }
}

fn write_cursor(cursor: Cursor) -> String {
    let text = format!("{}.{}", cursor.at_millis, cursor.sequence);
    data_encoding::BASE64URL_NOPAD.encode(text.as_bytes())
}

/// Parses a cursor; an empty one starts at the newest entry.
fn read_cursor(text: &str) -> Result<Option<Cursor>> {
    if text.is_empty() {
        return Ok(None);
    }
    let cursor = || {
        let text = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let text = String::from_utf8(text).ok()?;
        let (at, sequence) = text.split_once('.')?;
        Some(Cursor {
            at_millis: at.parse().ok()?,
            sequence: sequence
                .parse()
                .ok()
                .filter(|sequence| i64::try_from(*sequence).is_ok())?,
        })
    };
    cursor()
        .map(Some)
        .ok_or_else(|| Error::field("cursor", "is not a cursor of this API"))
}
