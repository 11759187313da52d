//! An entry as it is stored and exported: everything that its leaf is made of, as far as it still exists.

use jiff::Timestamp;
use uuid::Uuid;

use super::leaf::{Chain, Hash32, Leaf, Salt, actor_part, seal, subject_part};

/// A position in the trail and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position, from 0.
    pub sequence: u64,
    /// Organisation whose chain it belongs to; `None` for actions on the node.
    pub organization_id: Option<Uuid>,
    /// Position in that chain.
    pub chain: Chain,
    /// The stored leaf hash, then each node that the leaf completes.
    pub hashes: Vec<u8>,
    /// What is left of the entry.
    pub content: Content,
}

/// What is left of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Everything, or everything but erased parts.
    Whole(Box<Body>),
    /// Only the hashes; the entry with sequence `by` says why.
    Pruned {
        /// Sequence of the `AUDIT_PRUNE` entry.
        by: u64,
        /// Sequence of the `AUDIT_ERASE` entry of the actor's data, if that was erased before.
        actor_erased_by: Option<u64>,
        /// Sequence of the `AUDIT_ERASE` entry of the subject's data, if that was erased before.
        subject_erased_by: Option<u64>,
    },
}

/// An entry that was not pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Time of the event.
    pub at: Timestamp,
    /// Id on the wire.
    pub id: Uuid,
    /// Event type, by its name on the wire.
    pub event_type: String,
    /// Result, by its name on the wire.
    pub result: String,
    /// Kind of actor, by its name on the wire.
    pub actor_type: String,
    /// Id of the actor's account or API key.
    pub actor_id: Option<Uuid>,
    /// Type and id of the resource.
    pub resource: Option<(String, String)>,
    /// Request id.
    pub request_id: Option<String>,
    /// The actor's data.
    pub actor: Part<ActorData>,
    /// The subject's data.
    pub subject: Part<SubjectData>,
}

/// A sealed part of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<T> {
    /// Still present.
    Kept {
        /// Salt of the seal.
        salt: Salt,
        /// The data.
        data: T,
    },
    /// Erased; the entry with sequence `by` says why.
    Erased {
        /// The seal of the erased data.
        seal: Hash32,
        /// Sequence of the `AUDIT_ERASE` entry.
        by: u64,
    },
}

/// Data about the actor that may have to be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActorData {
    /// E-mail address at the time.
    pub email: Option<String>,
    /// The client's IP address.
    pub ip_address: Option<String>,
}

/// Data about the subject that may have to be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectData {
    /// Canonical JSON; `None` if empty.
    pub details: Option<String>,
    /// The message that the caller received.
    pub error_message: Option<String>,
    /// Name of the resource at the time.
    pub resource_name: Option<String>,
}

/// Data with a canonical text.
pub trait Sealable {
    /// Returns the text that the seal commits to.
    fn canonical(&self) -> String;
}

impl Sealable for ActorData {
    fn canonical(&self) -> String {
        actor_part(self.email.as_deref(), self.ip_address.as_deref())
    }
}

impl Sealable for SubjectData {
    fn canonical(&self) -> String {
        subject_part(
            self.details.as_deref(),
            self.error_message.as_deref(),
            self.resource_name.as_deref(),
        )
    }
}

impl<T: Sealable> Part<T> {
    /// Returns the seal: computed from the data, or as stored if the data was erased.
    #[must_use]
    pub fn seal(&self) -> Hash32 {
        match self {
            Self::Kept { salt, data } => seal(salt, &data.canonical()),
            Self::Erased { seal, .. } => *seal,
        }
    }

    /// Returns the data, if it still exists.
    #[must_use]
    pub fn data(&self) -> Option<&T> {
        match self {
            Self::Kept { data, .. } => Some(data),
            Self::Erased { .. } => None,
        }
    }

    /// Returns the sequence of the entry that records the erasure.
    #[must_use]
    pub fn erased_by(&self) -> Option<u64> {
        match self {
            Self::Kept { .. } => None,
            Self::Erased { by, .. } => Some(*by),
        }
    }
}

impl Record {
    /// Returns the record without its sealed parts, for a reader whom they do not concern: its seals still prove
    /// it. In a file of the trail a withheld part counts as removed without a record.
    #[must_use]
    pub fn withheld(mut self) -> Self {
        if let Content::Whole(body) = &mut self.content {
            let by = body.actor.erased_by().unwrap_or(self.sequence);
            body.actor = Part::Erased {
                seal: body.actor.seal(),
                by,
            };
            let by = body.subject.erased_by().unwrap_or(self.sequence);
            body.subject = Part::Erased {
                seal: body.subject.seal(),
                by,
            };
        }
        self
    }

    /// Returns the stored leaf hash.
    #[must_use]
    pub fn kept_leaf_hash(&self) -> Option<Hash32> {
        self.hashes.first_chunk().copied()
    }

    /// Computes the leaf hash as if the record stood at `sequence`; `None` if pruned.
    #[must_use]
    pub fn leaf_hash_at(&self, sequence: u64) -> Option<Hash32> {
        self.leaf_at(sequence).map(|leaf| leaf.hash())
    }

    /// Returns the leaf; `None` if pruned.
    #[must_use]
    pub fn leaf(&self) -> Option<Leaf<'_>> {
        self.leaf_at(self.sequence)
    }

    fn leaf_at(&self, sequence: u64) -> Option<Leaf<'_>> {
        let Content::Whole(body) = &self.content else {
            return None;
        };
        Some(Leaf {
            sequence,
            chain: self.chain,
            id: body.id,
            at: body.at,
            organization_id: self.organization_id,
            event_type: &body.event_type,
            result: &body.result,
            actor_type: &body.actor_type,
            actor_id: body.actor_id,
            resource: body
                .resource
                .as_ref()
                .map(|(r#type, id)| (r#type.as_str(), id.as_str())),
            request_id: body.request_id.as_deref(),
            actor_seal: body.actor.seal(),
            subject_seal: body.subject.seal(),
        })
    }
}
