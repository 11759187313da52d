//! The trail as a file: one JSON object per line, in the order of the trail.
//!
//! | `kind` | what |
//! |---|---|
//! | `header` | the log, the filter, and the checkpoint that the file leads to |
//! | `entry` | an entry: its leaf, its sealed parts with their salts, the hashes stored beside it |
//! | `pruned` | an entry of which only the hashes are left |
//! | `gap` | entries outside the filter, as the hashes of the subtrees that cover them |
//! | `checkpoint` | an intermediate checkpoint: it narrows down where a rewritten trail diverges |
//! | `end` | the number of lines and their hash, signed by the log |
//!
//! Leaves and hashes lead to the root that the checkpoint signs, in one pass and without the entries left out. The
//! `end` line detects what that can't: a file truncated or thinned out afterwards. It is signed only once it was
//! checked that a part lacks nothing that was asked for (`service/trail/export/left_out.rs`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::canonical::object_text_again;
use super::leaf::{Chain, Hash32, LEAF_FORMAT, Salt, write_time};
use super::record::{ActorData, Body, Content, Part, Record, SubjectData};

/// The version of the file format, part of the header.
pub const EXPORT_FORMAT: &str = "latchkey-audit-export/1";

/// A line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", deny_unknown_fields)]
pub enum Line {
    /// The first line.
    Header(Header),
    /// An entry.
    Entry(Box<EntryLine>),
    /// A pruned entry.
    Pruned(PrunedLine),
    /// Entries outside the filter.
    Gap(GapLine),
    /// An intermediate checkpoint.
    Checkpoint {
        /// The signed note.
        note: String,
    },
    /// The last line.
    End(EndLine),
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// [`EXPORT_FORMAT`].
    pub format: String,
    /// The checkpoint that the whole file leads to, a signed note.
    pub checkpoint: String,
    /// Keys with which this log has signed, the current one last. Do not trust them without comparing them with
    /// keys obtained another way.
    pub keys: Vec<String>,
    /// The only organisation exported; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<Uuid>,
    /// Earliest time exported; absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Latest time exported; absent: up to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// When the file was written.
    pub exported_at: Timestamp,
}

/// An entry in an export or a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryLine {
    /// The part that is hashed.
    pub leaf: LeafJson,
    /// The actor's data, unless erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<ActorJson>,
    /// Salt of the actor's data, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_salt: Option<String>,
    /// Sequence of the entry that records the erasure of the actor's data; absent if a receipt withholds the
    /// data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_erased_by: Option<u64>,
    /// The subject's data, unless erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectJson>,
    /// Salt of the subject's data, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_salt: Option<String>,
    /// Sequence of the entry that records the erasure of the subject's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_erased_by: Option<u64>,
    /// The leaf hash and each node that the leaf completes, base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hashes: Vec<String>,
}

/// An entry of which only the hashes are left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrunedLine {
    /// Its sequence.
    pub sequence: u64,
    /// Its place in its organisation's chain.
    pub organization: ChainJson,
    /// Sequence of the entry that records the pruning.
    pub pruned_by: u64,
    /// Sequence of the entry that recorded an earlier erasure of the actor's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_erased_by: Option<u64>,
    /// Sequence of the entry that recorded an earlier erasure of the subject's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_erased_by: Option<u64>,
    /// The leaf hash and each node that the leaf completes, base64.
    pub hashes: Vec<String>,
}

/// Entries outside the filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GapLine {
    /// Sequence of the first of them.
    pub first: u64,
    /// Sequence of the first entry after them.
    pub end: u64,
    /// Hashes of the full subtrees that cover them, from left to right, base64.
    pub hashes: Vec<String>,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndLine {
    /// Number of lines before this one.
    pub lines: u64,
    /// SHA-256 of them, line ends included, in hexadecimal.
    pub sha256: String,
    /// A signed note that states both.
    pub signed: String,
}

/// A leaf as JSON; its canonical form is the leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeafJson {
    actor: ActorRefJson,
    at: String,
    event_type: String,
    format: String,
    id: Uuid,
    organization: ChainJson,
    request_id: Option<String>,
    resource: Option<ResourceJson>,
    result: String,
    sealed: SealedJson,
    sequence: u64,
}

/// The actor's data as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActorJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip_address: Option<String>,
}

/// The subject's data as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_name: Option<String>,
}

/// A place in an organisation's chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainJson {
    id: Option<Uuid>,
    index: u64,
    previous: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActorRefJson {
    id: Option<Uuid>,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceJson {
    id: String,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedJson {
    actor: String,
    subject: String,
}

impl From<&Record> for Line {
    fn from(record: &Record) -> Self {
        match record.content {
            Content::Whole(_) => Self::Entry(Box::new(EntryLine::from(record))),
            Content::Pruned {
                by,
                actor_erased_by,
                subject_erased_by,
            } => Self::Pruned(PrunedLine {
                sequence: record.sequence,
                organization: ChainJson::from(record),
                pruned_by: by,
                actor_erased_by,
                subject_erased_by,
                hashes: to_base64(&record.hashes),
            }),
        }
    }
}

impl From<&Record> for EntryLine {
    /// # Panics
    /// If the record was pruned.
    fn from(record: &Record) -> Self {
        let leaf = record.leaf().expect("only whole records become entries");
        let Content::Whole(body) = &record.content else {
            unreachable!("a record with a leaf is whole")
        };
        let mut at = String::with_capacity(24);
        write_time(&mut at, body.at);
        let (actor, actor_salt) = split(&body.actor);
        let (subject, subject_salt) = split(&body.subject);
        Self {
            leaf: LeafJson {
                actor: ActorRefJson {
                    id: body.actor_id,
                    r#type: body.actor_type.clone(),
                },
                at,
                event_type: body.event_type.clone(),
                format: LEAF_FORMAT.to_owned(),
                id: body.id,
                organization: ChainJson::from(record),
                request_id: body.request_id.clone(),
                resource: body
                    .resource
                    .clone()
                    .map(|(r#type, id)| ResourceJson { id, r#type }),
                result: body.result.clone(),
                sealed: SealedJson {
                    actor: hex::encode(leaf.actor_seal),
                    subject: hex::encode(leaf.subject_seal),
                },
                sequence: record.sequence,
            },
            actor: actor.map(|data| ActorJson {
                email: data.email.clone(),
                ip_address: data.ip_address.clone(),
            }),
            actor_salt,
            actor_erased_by: body.actor.erased_by().filter(|by| *by != record.sequence),
            subject: subject.map(|data| SubjectJson {
                details: data
                    .details
                    .as_deref()
                    .and_then(|details| serde_json::from_str(details).ok()),
                error_message: data.error_message.clone(),
                resource_name: data.resource_name.clone(),
            }),
            subject_salt,
            subject_erased_by: body.subject.erased_by().filter(|by| *by != record.sequence),
            hashes: to_base64(&record.hashes),
        }
    }
}

impl From<&Record> for ChainJson {
    fn from(record: &Record) -> Self {
        Self {
            id: record.organization_id,
            index: record.chain.index,
            previous: record.chain.previous,
        }
    }
}

impl EntryLine {
    /// Returns the entry, and whether the seals in its leaf match its parts. The seals of the returned entry are
    /// computed from the parts present.
    ///
    /// # Errors
    /// The line can't be an entry.
    pub fn into_record(self) -> Result<(Record, bool), String> {
        let leaf = self.leaf;
        if leaf.format != LEAF_FORMAT {
            return Err(format!(
                "leaf format {:?} is not known to this version",
                leaf.format
            ));
        }
        let at = leaf.at.parse().map_err(|_| format!("bad time {:?}", leaf.at))?;
        let actor = self.actor.map(|actor| ActorData {
            email: actor.email,
            ip_address: actor.ip_address,
        });
        let subject = self.subject.map(|subject| SubjectData {
            details: subject.details.as_ref().map(object_text_again),
            error_message: subject.error_message,
            resource_name: subject.resource_name,
        });
        let withheld = |is_there: bool| (!is_there).then_some(leaf.sequence);
        let erased_by = self.actor_erased_by.or(withheld(actor.is_some()));
        let actor = join(actor, self.actor_salt, erased_by, &leaf.sealed.actor)?;
        let erased_by = self.subject_erased_by.or(withheld(subject.is_some()));
        let subject = join(subject, self.subject_salt, erased_by, &leaf.sealed.subject)?;
        let seals_fit = hex::encode(actor.seal()) == leaf.sealed.actor
            && hex::encode(subject.seal()) == leaf.sealed.subject;
        let record = Record {
            sequence: leaf.sequence,
            organization_id: leaf.organization.id,
            chain: leaf.organization.chain(),
            hashes: from_base64(&self.hashes)?,
            content: Content::Whole(Box::new(Body {
                at,
                id: leaf.id,
                event_type: leaf.event_type,
                result: leaf.result,
                actor_type: leaf.actor.r#type,
                actor_id: leaf.actor.id,
                resource: leaf.resource.map(|resource| (resource.r#type, resource.id)),
                request_id: leaf.request_id,
                actor,
                subject,
            })),
        };
        Ok((record, seals_fit))
    }
}

impl TryFrom<PrunedLine> for Record {
    type Error = String;

    fn try_from(line: PrunedLine) -> Result<Self, String> {
        Ok(Self {
            sequence: line.sequence,
            organization_id: line.organization.id,
            chain: line.organization.chain(),
            hashes: from_base64(&line.hashes)?,
            content: Content::Pruned {
                by: line.pruned_by,
                actor_erased_by: line.actor_erased_by,
                subject_erased_by: line.subject_erased_by,
            },
        })
    }
}

impl ChainJson {
    fn chain(&self) -> Chain {
        Chain {
            index: self.index,
            previous: self.previous,
        }
    }
}

impl GapLine {
    /// Creates the gap that these subtrees cover.
    #[must_use]
    pub fn new(first: u64, end: u64, hashes: &[Hash32]) -> Self {
        Self {
            first,
            end,
            hashes: to_base64(hashes.as_flattened()),
        }
    }

    /// Returns the hashes of the subtrees.
    ///
    /// # Errors
    /// An item is not a hash.
    pub fn subtrees(&self) -> Result<Vec<Hash32>, String> {
        let hashes = from_base64(&self.hashes)?;
        Ok(hashes.as_chunks().0.to_vec())
    }
}

fn split<T>(part: &Part<T>) -> (Option<&T>, Option<String>) {
    match part {
        Part::Kept { salt, data } => (Some(data), Some(hex::encode(salt))),
        Part::Erased { .. } => (None, None),
    }
}

/// Reads a part from its members in a line. The seal of a part that is present is computed, not taken from the
/// line.
fn join<T>(
    data: Option<T>,
    salt: Option<String>,
    erased_by: Option<u64>,
    seal: &str,
) -> Result<Part<T>, String> {
    match (data, salt, erased_by) {
        (Some(data), Some(salt), None) => {
            let mut bytes = Salt::default();
            hex::decode_to_slice(&salt, &mut bytes).map_err(|_| format!("{salt:?} is not a salt"))?;
            Ok(Part::Kept { salt: bytes, data })
        }
        (None, None, Some(by)) => {
            let mut bytes = Hash32::default();
            hex::decode_to_slice(seal, &mut bytes).map_err(|_| format!("{seal:?} is not a seal"))?;
            Ok(Part::Erased { seal: bytes, by })
        }
        _ => Err("a part must be there with its salt, or be erased by an entry".to_owned()),
    }
}

fn to_base64(hashes: &[u8]) -> Vec<String> {
    hashes.chunks(32).map(|hash| STANDARD.encode(hash)).collect()
}

fn from_base64(hashes: &[String]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(32 * hashes.len());
    for hash in hashes {
        let hash = STANDARD
            .decode(hash)
            .ok()
            .filter(|hash| hash.len() == 32)
            .ok_or_else(|| format!("{hash:?} is not a hash"))?;
        bytes.extend_from_slice(&hash);
    }
    Ok(bytes)
}
