//! The manifest of a backup.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::KeyChoice;

/// The format version written. Later versions are refused.
pub(super) const FORMAT: u32 = 2;
/// The first format; its list of files omitted the two that a change of the trail's key leaves.
const FORMAT_WITHOUT_CHANGED_KEYS: u32 = 1;
const LEFT_OUT: [&str; 2] = ["keys/audit.next.key", "keys/audit.retired"];

/// Describes a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// 2, or 1 for older backups.
    pub format: u32,
    /// Version of latchkey that made it.
    pub latchkey: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Version of the database schema: an older latchkey can't read it.
    pub schema_version: u64,
    /// Number of organisations.
    pub organizations: u64,
    /// Number of users.
    pub users: u64,
    /// How the keys are included.
    pub keys: KeyChoice,
    /// Fingerprint of the keys that the database belongs to.
    pub key_fingerprint: String,
    /// The trail's length, checkpoint and key.
    pub trail: Trail,
    /// Every other file in the backup, by name.
    pub files: BTreeMap<String, FileFacts>,
}

/// State of the trail in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trail {
    /// Number of entries.
    pub entries: u64,
    /// Checkpoint signed over exactly these entries (C2SP tlog-checkpoint).
    pub checkpoint: String,
    /// The key that verifies the checkpoint.
    pub key: String,
}

/// A file in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileFacts {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a manifest is plain JSON") + "\n"
    }

    /// Parses a manifest; the error says what is wrong with the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format)
                if (u64::from(FORMAT_WITHOUT_CHANGED_KEYS)..=u64::from(FORMAT)).contains(&format) => {}
            Some(format) => {
                return Err(format!(
                    "its format is {format}, this latchkey supports up to {FORMAT}; use the latchkey that made it"
                ));
            }
            None => return Err("it has no format".to_owned()),
        }
        serde_json::from_value(value).map_err(|e| e.to_string())
    }

    /// True if a file may be present without being listed.
    pub(super) fn leaves_out(&self, name: &str) -> bool {
        self.format == FORMAT_WITHOUT_CHANGED_KEYS && LEFT_OUT.contains(&name)
    }
}
