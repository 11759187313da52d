//! What the tree hashes of an entry: leaf format 1.
//!
//! A leaf is a canonical JSON object (RFC 8785), hashed as a leaf of RFC 6962 §2.1: `SHA-256(0x00 ‖ leaf)`. An
//! example, wrapped for reading:
//!
//! ```json
//! {"actor":{"id":"770e8400-e29b-41d4-a716-446655440003","type":"USER"},
//!  "at":"2026-02-18T10:30:00.000Z","eventType":"USER_MFA_RESET","format":"latchkey-audit-leaf/1",
//!  "id":"019c7063-9f40-7cc3-98c4-dc0c0c07398f",
//!  "organization":{"id":"550e8400-e29b-41d4-a716-446655440000","index":41,"previous":1203},
//!  "requestId":"…","resource":{"id":"770e8400-e29b-41d4-a716-446655440004","type":"USER"},
//!  "result":"SUCCESS","sealed":{"actor":"4c0d…","subject":"9ab1…"},"sequence":1204}
//! ```
//!
//! `organization` chains the entries of one organisation: `index` counts them from 0, and `previous` is the
//! sequence of the preceding one. So the export of one organisation proves by itself that none of its entries is
//! missing, without the entries of others. Actions on the node have `"id":null` and a chain of their own.
//!
//! `sealed` commits to the parts that may have to be erased: the actor's data (`email`, `ipAddress`) and the
//! subject's (`details`, `errorMessage`, `resourceName`; absent members are left out). A seal is
//! `SHA-256(salt ‖ canonical JSON of the part)` in hexadecimal, with 16 random bytes of salt stored beside the
//! part. Erasing a part deletes text and salt and keeps the seal: the leaf stays unchanged, and without the salt
//! nobody can find the address or name by trial.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::canonical::write_string;

/// The version of the leaf format, part of every leaf.
pub const LEAF_FORMAT: &str = "latchkey-audit-leaf/1";
/// Bytes of the random salt that hides what a seal commits to.
pub const SALT_BYTES: usize = 16;

/// 32 bytes of SHA-256.
pub type Hash32 = [u8; 32];
/// See [`SALT_BYTES`].
pub type Salt = [u8; SALT_BYTES];

/// The public part of an entry: what stays readable for ever, and the seals of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Position in the trail, from 0.
    pub sequence: u64,
    /// Position among the organisation's entries.
    pub chain: Chain,
    /// Id on the wire.
    pub id: Uuid,
    /// Time of the event.
    pub at: Timestamp,
    /// Organisation; `None` for actions on the node.
    pub organization_id: Option<Uuid>,
    /// Event type, by its name on the wire.
    pub event_type: &'a str,
    /// Result, by its name on the wire.
    pub result: &'a str,
    /// Kind of actor, by its name on the wire.
    pub actor_type: &'a str,
    /// Account or API key of the actor.
    pub actor_id: Option<Uuid>,
    /// Type and id of the resource.
    pub resource: Option<(&'a str, &'a str)>,
    /// Request id.
    pub request_id: Option<&'a str>,
    /// Seal of the actor's data.
    pub actor_seal: Hash32,
    /// Seal of the subject's data.
    pub subject_seal: Hash32,
}

/// An entry's place among those of its organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Number of earlier entries of the organisation.
    pub index: u64,
    /// Sequence of the preceding one.
    pub previous: Option<u64>,
}

impl Leaf<'_> {
    /// Returns the canonical text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(704);
        text.push_str("{\"actor\":{\"id\":");
        write_uuid(&mut text, self.actor_id);
        text.push_str(",\"type\":");
        write_string(&mut text, self.actor_type);
        text.push_str("},\"at\":\"");
        write_time(&mut text, self.at);
        text.push_str("\",\"eventType\":");
        write_string(&mut text, self.event_type);
        text.push_str(",\"format\":\"");
        text.push_str(LEAF_FORMAT);
        text.push_str("\",\"id\":");
        write_uuid(&mut text, Some(self.id));
        text.push_str(",\"organization\":{\"id\":");
        write_uuid(&mut text, self.organization_id);
        text.push_str(",\"index\":");
        write_integer(&mut text, Some(self.chain.index));
        text.push_str(",\"previous\":");
        write_integer(&mut text, self.chain.previous);
        text.push_str("},\"requestId\":");
        match self.request_id {
            Some(id) => write_string(&mut text, id),
            None => text.push_str("null"),
        }
        text.push_str(",\"resource\":");
        match self.resource {
            Some((r#type, id)) => {
                text.push_str("{\"id\":");
                write_string(&mut text, id);
                text.push_str(",\"type\":");
                write_string(&mut text, r#type);
                text.push('}');
            }
            None => text.push_str("null"),
        }
        text.push_str(",\"result\":");
        write_string(&mut text, self.result);
        text.push_str(",\"sealed\":{\"actor\":\"");
        write_hex(&mut text, &self.actor_seal);
        text.push_str("\",\"subject\":\"");
        write_hex(&mut text, &self.subject_seal);
        text.push_str("\"},\"sequence\":");
        write_integer(&mut text, Some(self.sequence));
        text.push('}');
        text
    }

    /// Returns the leaf hash (RFC 6962 §2.1).
    #[must_use]
    pub fn hash(&self) -> Hash32 {
        tlog_tiles::record_hash(self.text().as_bytes()).0
    }
}

/// Returns the seal of a part: it commits to the text and hides it behind the salt.
#[must_use]
pub fn seal(salt: &Salt, part: &str) -> Hash32 {
    Sha256::new()
        .chain_update(salt)
        .chain_update(part.as_bytes())
        .finalize()
        .into()
}

/// Returns the canonical text of the actor's data.
#[must_use]
pub fn actor_part(email: Option<&str>, ip_address: Option<&str>) -> String {
    let mut part = Part::new();
    part.string("email", email);
    part.string("ipAddress", ip_address);
    part.end()
}

/// Returns the canonical text of the subject's data; `details` is canonical already, and `None` if empty.
#[must_use]
pub fn subject_part(
    details: Option<&str>,
    error_message: Option<&str>,
    resource_name: Option<&str>,
) -> String {
    let mut part = Part::new();
    part.raw("details", details);
    part.string("errorMessage", error_message);
    part.string("resourceName", resource_name);
    part.end()
}

/// Appends a time in the form used in leaves: RFC 3339, UTC, always with milliseconds.
pub fn write_time(text: &mut String, at: Timestamp) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    PRINTER
        .print_timestamp(&at, text)
        .expect("a String takes any text");
}

struct Part(String);

impl Part {
    fn new() -> Self {
        Self(String::from("{"))
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        write_string(&mut self.0, name);
        self.0.push(':');
    }

    fn string(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.name(name);
            write_string(&mut self.0, value);
        }
    }

    fn raw(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.name(name);
            self.0.push_str(value);
        }
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn write_uuid(text: &mut String, id: Option<Uuid>) {
    match id {
        Some(id) => {
            text.push('"');
            text.push_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
            text.push('"');
        }
        None => text.push_str("null"),
    }
}

fn write_integer(text: &mut String, value: Option<u64>) {
    use std::fmt::Write as _;
    match value {
        Some(value) => write!(text, "{value}").expect("a String takes any text"),
        None => text.push_str("null"),
    }
}

fn write_hex(text: &mut String, hash: &Hash32) {
    let mut hex = [0; 64];
    hex::encode_to_slice(hash, &mut hex).expect("64 digits hold 32 bytes");
    text.push_str(std::str::from_utf8(&hex).expect("hexadecimal digits are ASCII"));
}
