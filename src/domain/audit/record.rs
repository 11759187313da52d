//! An entry as it is kept and exported: everything that its leaf is made of, as far as it is still there.

use jiff::Timestamp;
use uuid::Uuid;

use super::leaf::{Chain, Hash32, Leaf, Salt, actor_part, seal, subject_part};

/// A place in the trail and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The place, from 0.
    pub sequence: u64,
    /// Whose chain, and where in it; `None` for acts on the node.
    pub organization_id: Option<Uuid>,
    /// See [`Chain`].
    pub chain: Chain,
    /// The leaf hash, then each node that the leaf completes, as they are kept.
    pub hashes: Vec<u8>,
    /// What is left of the entry.
    pub content: Content,
}

/// What is left of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All, or all but erased parts.
    Whole(Box<Body>),
    /// Nothing but the hashes; the entry of that sequence says why.
    Pruned {
        /// The `AUDIT_PRUNE` entry.
        by: u64,
        /// The `AUDIT_ERASE` entry of the actor's data, if that had gone before.
        actor_erased_by: Option<u64>,
        /// The same of the subject's.
        subject_erased_by: Option<u64>,
    },
}

/// An entry that was not pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// When.
    pub at: Timestamp,
    /// Id on the wire.
    pub id: Uuid,
    /// What.
    pub event_type: String,
    /// How it ended.
    pub result: String,
    /// Kind of actor.
    pub actor_type: String,
    /// Account or key.
    pub actor_id: Option<Uuid>,
    /// Kind and id of what was acted on.
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
    /// Still there.
    Kept {
        /// What hides it behind its seal.
        salt: Salt,
        /// What it says.
        data: T,
    },
    /// Gone; the entry of that sequence says why.
    Erased {
        /// The seal.
        seal: Hash32,
        /// The `AUDIT_ERASE` entry.
        by: u64,
    },
}

/// What an entry keeps of the actor that may have to be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActorData {
    /// E-mail address as it was then.
    pub email: Option<String>,
    /// The client's address.
    pub ip_address: Option<String>,
}

/// What an entry keeps of its subject that may have to be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectData {
    /// Canonical JSON; `None` when empty.
    pub details: Option<String>,
    /// The message that the caller was given.
    pub error_message: Option<String>,
    /// Name as it was then.
    pub resource_name: Option<String>,
}

/// Data with a canonical text.
pub trait Sealable {
    /// The text that the seal commits to.
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
    /// The seal: computed from what is there, or as it is kept of what was erased.
    #[must_use]
    pub fn seal(&self) -> Hash32 {
        match self {
            Self::Kept { salt, data } => seal(salt, &data.canonical()),
            Self::Erased { seal, .. } => *seal,
        }
    }

    /// The data, if it is still there.
    #[must_use]
    pub fn data(&self) -> Option<&T> {
        match self {
            Self::Kept { data, .. } => Some(data),
            Self::Erased { .. } => None,
        }
    }

    /// The entry that records the erasure.
    #[must_use]
    pub fn erased_by(&self) -> Option<u64> {
        match self {
            Self::Kept { .. } => None,
            Self::Erased { by, .. } => Some(*by),
        }
    }
}

impl Record {
    /// The same without its sealed parts, for a reader whom they do not concern: its seals still prove it.
    /// In a file of the trail a part that is withheld counts as removed without a record.
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

    /// The leaf hash as it is kept.
    #[must_use]
    pub fn kept_leaf_hash(&self) -> Option<Hash32> {
        self.hashes.first_chunk().copied()
    }

    /// The leaf hash of what is there, as if it stood at `sequence`; `None` when pruned.
    #[must_use]
    pub fn leaf_hash_at(&self, sequence: u64) -> Option<Hash32> {
        self.leaf_at(sequence).map(|leaf| leaf.hash())
    }

    /// The leaf; `None` when pruned.
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
