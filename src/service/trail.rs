//! The trail: read by those who may, signed, receipted, exported.
//!
//! What a full disk or a failing write does: an entry is part of the change that it records, so without
//! it the change does not happen either (500, or 503 when the writer's queue is full; nothing is changed).
//! Reading goes on. A checkpoint that can't be written is tried again and logged; it holds nothing up.

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
pub use key_change::{KeyChanged, finish_key_change, rotate_key};
pub use orders::{TrailOrder, carry_out_order};
pub use restoration::{begin_after_restore, give_to_witness};
pub use rollback::{Accepted, RolledBack, accept_rollback, check_rollback};
pub use tails::Tails;
pub use thinning::thin_checkpoints;
pub use verification::verify_data_dir;
pub use witness::Witness;

/// Entries in a page at most.
pub const PAGE_LIMIT: u32 = 1000;

/// What of the trail is asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// What must match; an event type as the caller wrote it.
    pub filter: Filter,
    /// The event type as the caller wrote it.
    pub event_type: Option<String>,
    /// Which page, from 0, or from where on.
    pub place: Place,
    /// Entries in a page.
    pub size: u32,
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Counted from 0.
    Page(u32),
    /// Where the page before ended, as [`Page::next`] said.
    After(String),
}

impl Default for Place {
    fn default() -> Self {
        Self::Page(0)
    }
}

/// Entries, newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The entries.
    pub content: Vec<Entry>,
    /// How many match in all; only told with a page number.
    pub total: Option<u64>,
    /// Where the next page begins, if this one is full.
    pub next: Option<String>,
}

/// A page of the organisation's trail.
///
/// # Errors
/// [`Error::Validation`] for an unknown event type, a size out of range or a cursor that is none.
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
        filter.event_type = Some(known.ok_or_else(|| Error::field("eventType", "is no event type"))?);
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

/// Counts what pages of the trail are asked to count, before they are.
///
/// # Errors
/// [`Error::Internal`] when SQLite fails.
pub async fn count_ahead(services: &Services) -> Result<()> {
    let counts = services.store.counts();
    let count = move |db: &crate::store::Connection| counts.count_ahead(db);
    services.store.read_long(None, count).await
}

/// One entry of the organisation's trail.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find_entry(services: &Services, reading: Reading<'_>, id: Uuid) -> Result<Entry> {
    let organization = reading.organization().id;
    services
        .store
        .read(|db| audit::find_entry(db, Some(organization), id))?
        .ok_or_else(|| no_entry(id))
}

/// The receipt of an entry of the organisation's trail.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find_receipt(services: &Services, reading: Reading<'_>, id: Uuid) -> Result<String> {
    let entry = find_entry(services, reading, id)?;
    receipt(services, entry.sequence).await
}

/// The receipt of what the caller just did. None, and a line in the log, when it can't be made: what was
/// done is done, and the receipt can be had later.
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
    made.inspect_err(|error| tracing::error!(?error, "a receipt could not be made"))
        .ok()
}

/// The receipt of an entry, whosever it is: for the operator.
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

/// The receipt of the entry at `sequence`, once it is committed: the entry, the proof that it is in the
/// trail, and a checkpoint that the log signs for it. [`crate::domain::audit::check_receipt`] checks it.
///
/// # Errors
/// [`Error::NotFound`] when it is not there or was pruned.
pub async fn receipt(services: &Services, sequence: u64) -> Result<String> {
    make_receipt(services, sequence, |record| record).await
}

/// The same for somebody whom the entry's details do not concern: what happened when to which id, by which
/// id, and how it ended; not the addresses, reasons and messages behind its seals.
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

/// The organisation's entries from `sequence` on, oldest first, and where to go on: for a live tail.
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

/// How many entries the trail has.
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

/// An empty cursor is the newest entry's.
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
        .ok_or_else(|| Error::field("cursor", "is no cursor of this API"))
}
