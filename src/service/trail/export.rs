//! Exports of the trail to a file (format: `domain/audit/export.rs`): announced to the process that has the
//! signing key, written from one snapshot, ended with a signature. The writing process need not have the key:
//! beside a running server, the command line asks it through the operator's socket (`orders.rs`).

mod left_out;
mod lines;

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Services, checkpoints};
use crate::domain::account::OrganizationId;
use crate::domain::audit::export::{EXPORT_FORMAT, GapLine, Header, Line};
use crate::domain::audit::{ActorRef, Event, EventType, Record, Resource};
use crate::domain::{Error, Result};
use crate::store::audit::{self, Beside, Range, VerifyError, checkpoints as kept};
use crate::store::{DATABASE_FILE, accounts};
use left_out::LeftOut;
use lines::Lines;
pub use lines::{Claim, Written};

/// The entries to export.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this organisation's entries.
    pub organization_id: Option<OrganizationId>,
    /// Only from this time on.
    pub from: Option<Timestamp>,
    /// Only up to this time.
    pub to: Option<Timestamp>,
}

/// File format of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Ndjson,
    /// A readable table, with the JSON object in its last column.
    Csv,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The trail could not be read, or the export could not be recorded.
    #[error(transparent)]
    Trail(#[from] Error),
    /// The database could not be opened.
    #[error(transparent)]
    Database(#[from] VerifyError),
    /// The file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Entries were changed, so it is uncertain which of them belong in an export of a part.
    #[error(
        "the trail was changed, so this export may leave out entries that belong in it: {0}. Run latchkey audit \
         verify DATA-DIR; the whole trail can be exported as it is"
    )]
    Changed(String),
}

/// A snapshot of the trail, to export from.
#[derive(Debug)]
pub struct Snapshot(Beside);

/// An export that is about to begin, as its audit entry describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Announcement {
    /// Only this organisation's entries.
    pub organization_id: Option<OrganizationId>,
    /// Only from this time on.
    pub from: Option<Timestamp>,
    /// Only up to this time.
    pub to: Option<Timestamp>,
    /// File format.
    pub format: Format,
    /// Number of entries it will hold, including pruned ones.
    pub entries: u64,
    /// Number of entries in the snapshot of the trail; the export holds none after these.
    pub tree_size: u64,
}

/// The data for the header of an announced export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    /// The checkpoint over the snapshot, a signed note.
    pub checkpoint: String,
    /// Keys under which this log has signed, the current one last.
    pub keys: Vec<String>,
    /// When the export was announced.
    pub at: Timestamp,
}

/// An export before its first line.
#[derive(Debug)]
pub struct Export {
    snapshot: Snapshot,
    range: Range,
    announcement: Announcement,
}

/// Writes the selected entries with their proofs, and returns how many. Calls `progress` with the number of
/// entries of the trail passed and the trail's size.
///
/// # Errors
/// [`ExportError`].
pub async fn export(
    services: &Services,
    actor: ActorRef,
    selection: &Selection,
    format: Format,
    file: impl Write,
    progress: impl FnMut(u64, u64),
) -> Result<u64, ExportError> {
    // Records a key that was changed by hand before the snapshot is taken.
    checkpoints::signer(services).await?;
    let export = Snapshot::of(services.store.path())?.prepare(selection, format)?;
    let begun = announce_export(services, actor, export.announcement()).await?;
    let written = export.write(&begun, file, progress)?;
    let signed = sign_export(services, written.claim()).await?;
    written.finish(signed)
}

/// Records that the trail is about to be exported, and signs a checkpoint over the export's snapshot.
///
/// The entry is on disk before the first line is written: an export that is cut off, by its reader, a full disk or
/// a signal, has disclosed entries, and recorded only at its end it would not be on record. So a failed export is
/// recorded too; one entry too many is better than one too few. The entry follows the exported ones, so that its
/// count and tree size are those of the file.
///
/// # Errors
/// [`Error::Conflict`] when the key was changed after the snapshot was taken; [`Error::Internal`] when it could
/// not be recorded: then nothing may be written.
pub async fn announce_export(
    services: &Services,
    actor: ActorRef,
    announced: &Announcement,
) -> Result<Begun> {
    checkpoints::refuse_if_begun_after(services, announced.tree_size).await?;
    let at = services.clock.now();
    let entry_id = services.entropy.uuid(at);
    let event = announced.event(actor);
    services
        .store
        .write(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))
        .await?;
    let signed = checkpoints::checkpoint_at(services, announced.tree_size).await?;
    let keys = services.store.read(kept::known_keys)?;
    Ok(Begun {
        checkpoint: signed.note,
        keys: keys.iter().map(ToString::to_string).collect(),
        at,
    })
}

/// Signs the end of an export: the number of its lines and their hash.
///
/// # Errors
/// [`Error::Conflict`] when the key has changed since the export began; [`Error::Internal`] when SQLite fails.
pub async fn sign_export(services: &Services, claim: &Claim) -> Result<String> {
    let signer = checkpoints::signer(services).await?;
    if claim.log != signer.log_key().to_string() {
        return Err(checkpoints::key_changed());
    }
    let mut sha256 = [0; 32];
    hex::decode_to_slice(&claim.sha256, &mut sha256)
        .map_err(|_| Error::Malformed("The hash must be 64 hexadecimal digits".to_owned()))?;
    Ok(signer.export_end(claim.lines, sha256))
}

impl Announcement {
    /// The export's audit entry. It belongs to the organisation if only its entries are exported, so that its
    /// admins see it.
    fn event(&self, actor: ActorRef) -> Event {
        let mut event = Event::new(EventType::AuditExport, self.organization_id, actor)
            .with("format", self.format.name())
            .with("entries", self.entries)
            .with("treeSize", self.tree_size);
        if let Some(organization) = self.organization_id {
            event = event.on(Resource::other("ORGANIZATION", organization, None));
        }
        for (name, time) in [("from", self.from), ("to", self.to)] {
            if let Some(time) = time {
                event = event.with(name, time.to_string());
            }
        }
        event
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

impl Snapshot {
    /// Takes a snapshot of the trail in a data directory, whichever process owns it.
    ///
    /// # Errors
    /// [`VerifyError`] when there is no readable database.
    pub fn take(data_dir: &Path) -> Result<Self, VerifyError> {
        Self::of(&data_dir.join(DATABASE_FILE))
    }

    fn of(database: &Path) -> Result<Self, VerifyError> {
        Beside::open(database).map(Self)
    }

    /// Finds the id of an organisation by its slug.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn find_organization(&self, slug: &str) -> Result<OrganizationId> {
        accounts::find_organization_by_slug(self.0.db(), slug)?
            .map(|organization| organization.id)
            .ok_or_else(|| Error::NotFound {
                what: "Organization",
                id: slug.to_owned(),
            })
    }

    /// Finds the range of entries to export.
    ///
    /// # Errors
    /// [`Error::Internal`] when SQLite fails.
    pub fn prepare(self, selection: &Selection, format: Format) -> Result<Export> {
        let db = self.0.db();
        let tree_size = audit::size(db)?;
        let Selection {
            organization_id,
            from,
            to,
        } = *selection;
        let range = audit::find_range(db, organization_id.map(|id| id.0), from, to, tree_size)?;
        let announcement = Announcement {
            organization_id,
            from,
            to,
            format,
            entries: audit::count_records(db, range)?,
            tree_size,
        };
        Ok(Export {
            snapshot: self,
            range,
            announcement,
        })
    }
}

impl Export {
    /// The announcement to be recorded before the export is written.
    #[must_use]
    pub fn announcement(&self) -> &Announcement {
        &self.announcement
    }

    /// Writes the whole export except its end. For an export of a part, the entries left out are read and checked
    /// as well.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn write<W: Write>(
        self,
        begun: &Begun,
        file: W,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Written<W>, ExportError> {
        let db = self.snapshot.0.db();
        let Announcement {
            organization_id,
            from,
            to,
            format,
            tree_size: size,
            ..
        } = self.announcement;
        let mut lines = Lines::new(file, format)?;
        lines.write(&Line::Header(Header {
            format: EXPORT_FORMAT.to_owned(),
            checkpoint: begun.checkpoint.clone(),
            keys: begun.keys.clone(),
            organization_id: organization_id.map(|id| id.0),
            from,
            to,
            exported_at: begun.at,
        }))?;
        // Read checkpoints one at a time: there is one a minute, for years.
        let mut ahead = kept::find_note_after(db, None)?;
        let (mut next, mut entries) = (0, 0);
        audit::for_each_record(db, self.range, |record: Record| -> Result<(), ExportError> {
            while let Some(kept) = ahead.take_if(|kept| kept.size <= next) {
                ahead = kept::find_note_after(db, Some(&kept))?;
                lines.write(&Line::Checkpoint { note: kept.note })?;
            }
            if record.sequence > next {
                let hashes = audit::cover(db, next, record.sequence)?;
                lines.write(&Line::Gap(GapLine::new(next, record.sequence, &hashes)))?;
                // A checkpoint within the gap can't be compared with anything in the file.
                while let Some(kept) = ahead.take_if(|kept| kept.size <= record.sequence) {
                    ahead = kept::find_note_after(db, Some(&kept))?;
                }
            }
            next = record.sequence + 1;
            entries += 1;
            progress(next, size);
            lines.write_record(&record)
        })?;
        let left_out = LeftOut {
            db,
            selection: Selection {
                organization_id,
                from,
                to,
            },
            range: self.range,
            size,
            checkpoint: &begun.checkpoint,
        };
        left_out.check(next)?;
        if next < size {
            let hashes = audit::cover(db, next, size)?;
            lines.write(&Line::Gap(GapLine::new(next, size, &hashes)))?;
        }
        // The previous key's last checkpoint, if it has the same size.
        while let Some(kept) = ahead.take() {
            ahead = kept::find_note_after(db, Some(&kept))?;
            if kept.size == size && kept.note != begun.checkpoint {
                lines.write(&Line::Checkpoint { note: kept.note })?;
            }
        }
        progress(size, size);
        let log = begun.keys.last().cloned().unwrap_or_default();
        Ok(lines.written(entries, log))
    }
}
