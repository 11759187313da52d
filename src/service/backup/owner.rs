//! Which appliance a backup is of.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{BackupError, MANIFEST_FILE};
use crate::domain::Result;
use crate::domain::audit::LogKey;
use crate::domain::audit::checkpoint::{origin_of, public_half};
use crate::keys::KeyRing;
use crate::service::Services;
use crate::store::Connection;
use crate::store::audit::checkpoints::{KnownLog, known_logs};

/// An appliance: its root key, and the name of its trail's log. A change of any other key affects neither. A
/// restored copy has the same root key, but continues the trail under a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    fingerprint: String,
    origin: String,
}

impl Owner {
    /// Returns the appliance that these services belong to.
    ///
    /// # Errors
    /// [`BackupError::Database`] if the database can't be read.
    pub fn of(services: &Services) -> Result<Self, BackupError> {
        let url = &services.settings.public_url;
        let read = |db: &Connection| Self::in_database(db, &services.keys, url);
        let read = services.store.read(read);
        read.map_err(|error| BackupError::Database(error.for_operator()))
    }

    /// Returns the appliance that a database with these keys belongs to. `public_url` determines the log's name if
    /// no log has begun yet.
    pub(super) fn in_database(db: &Connection, keys: &KeyRing, public_url: &str) -> Result<Self> {
        Ok(Self {
            fingerprint: keys.fingerprint().to_owned(),
            origin: origin(known_logs(db)?.last(), keys, public_url),
        })
    }

    /// Returns the appliance that a backup is of, whatever the backup's format; `None` for anything else.
    pub(super) fn of_backup(backup: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Told {
            key_fingerprint: String,
            trail: Trail,
        }
        #[derive(Deserialize)]
        struct Trail {
            key: String,
        }
        let text = fs::read(backup.join(MANIFEST_FILE)).ok()?;
        let told: Told = serde_json::from_slice(&text).ok()?;
        Some(Self {
            fingerprint: told.key_fingerprint,
            origin: LogKey::parse(&told.trail.key).ok()?.origin().to_owned(),
        })
    }

    /// Returns what the names of the appliance's unfinished backups begin with, after the backup's own name.
    #[must_use]
    pub fn mark(&self) -> String {
        let origin = Sha256::digest(&self.origin);
        format!("{}-{}", self.fingerprint, hex::encode(&origin[..4]))
    }
}

/// Returns the name of the trail's log: that of the newest, or the one that the first will have.
pub(super) fn origin(newest: Option<&KnownLog>, keys: &KeyRing, public_url: &str) -> String {
    newest.map_or_else(
        || origin_of(public_url, &public_half(&keys.audit_signing_key())),
        |log| log.key.origin().to_owned(),
    )
}
