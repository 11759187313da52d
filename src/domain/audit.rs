//! What the trail keeps of every action, and how anyone can check it.
//!
//! An [`Event`] is what happened; an [`Entry`] is an event at its place in the trail. The trail is a Merkle tree
//! (RFC 6962): `audit/leaf.rs` defines a leaf, `audit/tree.rs` where nodes are stored.

mod asked;
mod canonical;
pub mod checkpoint;
pub mod export;
mod file;
mod frontier;
mod given_up;
mod key_change;
mod leaf;
mod mention;
mod receipt;
mod record;
mod removals;
mod report;
pub mod tree;
mod verify;

pub use asked::asked_digest;
pub use canonical::object_text;
pub use checkpoint::{Checkpoint, CheckpointError, LogKey, LogKeys, LogSigner};
pub use file::{CSV_COLUMNS, FileError, FileVerifier, csv_cells};
pub use given_up::LogsGivenUp;
pub use key_change::KeyChange;
pub use leaf::{
    Chain, Hash32, LEAF_FORMAT, Leaf, SALT_BYTES, Salt, actor_part, seal, subject_part, write_time,
};
pub use mention::mentions;
pub use receipt::{CheckedReceipt, ReceiptError, check_receipt, write_receipt};
pub use record::{ActorData, Body, Content, Part, Record, SubjectData};
pub use removals::{Removal, RemovedPart};
pub use report::{
    Anchor, FINDINGS_LISTED, Finding, NotCompared, OWN_KEYS, Report, Scope, Tampering, UNSIGNED_ENTRIES,
    UNSIGNED_SPAN, Verdict, Voided,
};
pub use verify::{Head, Verifier};

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::account::{OrganizationId, Principal, User};

/// Defines the event types and their names on the wire.
macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $wire:literal,)*) => {
        /// The kind of event; upper snake case on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $wire)] $variant,)*
        }

        impl EventType {
            /// Every event type.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $wire),* }
            }

            /// Returns the event type with that name.
            #[must_use]
            pub fn from_wire(name: &str) -> Option<Self> {
                match name { $($wire => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

event_types! {
    /// An organisation was created.
    OrganizationCreate = "ORGANIZATION_CREATE",
    /// Settings were changed.
    OrganizationSettingsUpdate = "ORGANIZATION_SETTINGS_UPDATE",
    /// A user was created.
    UserCreate = "USER_CREATE",
    /// A user was changed.
    UserUpdate = "USER_UPDATE",
    /// A user was deleted.
    UserDelete = "USER_DELETE",
    /// A login, or an attempt at one.
    UserLogin = "USER_LOGIN",
    /// A user ended their own session.
    UserLogout = "USER_LOGOUT",
    /// A refresh token was used twice; its family was ended.
    RefreshTokenReuse = "REFRESH_TOKEN_REUSE",
    /// Sessions were ended before their expiry.
    UserSessionsEnd = "USER_SESSIONS_END",
    /// A second factor was used again within a session.
    UserStepUp = "USER_STEP_UP",
    /// A password was changed.
    UserPasswordChange = "USER_PASSWORD_CHANGE",
    /// An admin sent a user a link to set a new password, which replaces the old one.
    UserPasswordReset = "USER_PASSWORD_RESET",
    /// A request that needs a further admin's agreement was made, a reset for example.
    ApprovalRequest = "APPROVAL_REQUEST",
    /// A further admin agreed, or tried to.
    ApprovalAgree = "APPROVAL_AGREE",
    /// A further admin rejected a request, or tried to.
    ApprovalReject = "APPROVAL_REJECT",
    /// A request expired without agreement.
    ApprovalExpire = "APPROVAL_EXPIRE",
    /// An API key was created.
    ApiKeyCreate = "API_KEY_CREATE",
    /// An API key was revoked.
    ApiKeyRevoke = "API_KEY_REVOKE",
    /// A second factor was enrolled.
    UserMfaEnabled = "USER_MFA_ENABLED",
    /// A user registered a passkey, or tried to.
    UserPasskeyRegistered = "USER_PASSKEY_REGISTERED",
    /// A user removed one of their passkeys.
    UserPasskeyRemoved = "USER_PASSKEY_REMOVED",
    /// The counter of a passkey went back, so a copy of it exists. The passkey is disabled from then on.
    UserPasskeyAlarm = "USER_PASSKEY_ALARM",
    /// A user disabled their own MFA.
    UserMfaDisabled = "USER_MFA_DISABLED",
    /// A reset call, whatever its result.
    UserMfaReset = "USER_MFA_RESET",
    /// A user whose MFA had been reset a short time before used the powers of an admin or of the help desk.
    UserResetAlarm = "USER_RESET_ALARM",
    /// A user reported, through the link in a notice, that a change of their credentials was not theirs; the
    /// account was locked.
    UserReport = "USER_REPORT",
    /// An admin restored removed factors.
    UserFactorsRestore = "USER_FACTORS_RESTORE",
    /// Recovery codes were regenerated.
    UserRecoveryCodesRegenerated = "USER_RECOVERY_CODES_REGENERATED",
    /// A recovery code was used.
    UserRecoveryCodeUsed = "USER_RECOVERY_CODE_USED",
    /// A token was minted from the command line.
    TokenMint = "TOKEN_MINT",
    /// A new key signs access tokens.
    TokenKeyRotate = "TOKEN_KEY_ROTATE",
    /// A plugin was installed.
    PolicyPluginInstall = "POLICY_PLUGIN_INSTALL",
    /// A plugin was removed.
    PolicyPluginRemove = "POLICY_PLUGIN_REMOVE",
    /// A plugin was bound.
    PolicyPluginBind = "POLICY_PLUGIN_BIND",
    /// A binding was removed.
    PolicyPluginUnbind = "POLICY_PLUGIN_UNBIND",
    /// A binding or plugin was changed, switched off or rolled back.
    PolicyPluginUpdate = "POLICY_PLUGIN_UPDATE",
    /// A plugin failed repeatedly.
    PolicyPluginAlarm = "POLICY_PLUGIN_ALARM",
    /// Entries past their retention were pruned to their leaf hashes.
    AuditPrune = "AUDIT_PRUNE",
    /// Personal data in entries was erased.
    AuditErase = "AUDIT_ERASE",
    /// The trail was exported.
    AuditExport = "AUDIT_EXPORT",
    /// A delivery to the outside world was given up.
    DeliveryDead = "DELIVERY_DEAD",
    /// Deliveries that were given up are to be retried.
    DeliveryRetry = "DELIVERY_RETRY",
    /// An older database was accepted in place of a newer one.
    AuditRollbackAccept = "AUDIT_ROLLBACK_ACCEPT",
    /// A backup was restored: whatever was ended or removed after the backup, except sessions, is back.
    BackupRestore = "BACKUP_RESTORE",
    /// Checkpoints are signed with another key from here on.
    AuditKeyChange = "AUDIT_KEY_CHANGE",
}

/// The kind of actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActorType {
    /// A person with an account.
    User,
    /// An API key.
    ApiKey,
    /// Someone with access to the node's command line.
    Operator,
    /// The appliance itself.
    System,
    /// An unknown caller: a failed login.
    Anonymous,
}

impl ActorType {
    /// Returns the name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::ApiKey => "API_KEY",
            Self::Operator => "OPERATOR",
            Self::System => "SYSTEM",
            Self::Anonymous => "ANONYMOUS",
        }
    }

    /// Returns the kind with that name.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        [
            Self::User,
            Self::ApiKey,
            Self::Operator,
            Self::System,
            Self::Anonymous,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == name)
    }
}

/// The actor of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorRef {
    /// Kind of actor.
    pub r#type: ActorType,
    /// Id of the account or API key.
    pub id: Option<Uuid>,
    /// E-mail address at the time.
    pub email: Option<String>,
}

/// What an event acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Kind: `USER`, `ORGANIZATION`, `PLUGIN`, …
    pub r#type: String,
    /// Its id, which need not exist; empty if the caller gave none.
    pub id: String,
    /// Its name at the time.
    pub name: Option<String>,
}

/// The result of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuditResult {
    /// Carried out.
    Success,
    /// Refused.
    Denied,
    /// Ended in an error.
    Failure,
}

impl AuditResult {
    /// Returns the name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Denied => "DENIED",
            Self::Failure => "FAILURE",
        }
    }

    /// Returns the result with that name.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        [Self::Success, Self::Denied, Self::Failure]
            .into_iter()
            .find(|result| result.as_str() == name)
    }
}

/// One action, before it has its place in the trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Organisation; absent for actions on the node.
    pub organization_id: Option<OrganizationId>,
    /// What happened.
    pub event_type: EventType,
    /// Who did it.
    pub actor: ActorRef,
    /// What it was done to.
    pub resource: Option<Resource>,
    /// How it ended.
    pub result: AuditResult,
    /// The client's IP address.
    pub ip_address: Option<String>,
    /// Request id, also in `X-Request-Id` and the log.
    pub request_id: Option<String>,
    /// The message that the caller received, if it did not succeed.
    pub error_message: Option<String>,
    /// Further facts; never a secret (invariant 7).
    pub details: Map<String, Value>,
}

/// An event at its place in the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the trail, from 0 without gaps: the leaf index.
    pub sequence: u64,
    /// Id on the wire.
    pub id: Uuid,
    /// Time; the same instant as the change that it records.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// The leaf hash (RFC 6962 §2.1).
    pub leaf_hash: Hash32,
}

/// A filter for entries of an organisation's trail; an entry must match every given field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Kind of event.
    pub event_type: Option<EventType>,
    /// E-mail address of the actor at the time.
    pub actor_email: Option<String>,
    /// Earliest time, inclusive.
    pub from: Option<Timestamp>,
    /// Latest time, inclusive.
    pub to: Option<Timestamp>,
}

impl ActorRef {
    /// Returns the actor for a person with an account, or for [`User::operator`].
    #[must_use]
    pub fn user(user: &User) -> Self {
        if user.is_operator() {
            return Self::operator();
        }
        Self {
            r#type: ActorType::User,
            id: Some(user.id.0),
            email: Some(user.email.clone()),
        }
    }

    /// Returns the actor for the node's command line.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            r#type: ActorType::Operator,
            id: None,
            email: None,
        }
    }

    /// Returns the actor for the appliance itself.
    #[must_use]
    pub fn system() -> Self {
        Self {
            r#type: ActorType::System,
            id: None,
            email: None,
        }
    }
}

impl Resource {
    /// Returns the resource for a user.
    #[must_use]
    pub fn user(user: &User) -> Self {
        Self {
            r#type: "USER".to_owned(),
            id: user.id.to_string(),
            name: Some(user.email.clone()),
        }
    }

    /// Returns a resource of any other type.
    pub fn other(r#type: &str, id: impl ToString, name: Option<String>) -> Self {
        Self {
            r#type: r#type.to_owned(),
            id: id.to_string(),
            name,
        }
    }
}

impl Event {
    /// Creates an event that succeeded; the builders below refine it.
    #[must_use]
    pub fn new(event_type: EventType, organization_id: Option<OrganizationId>, actor: ActorRef) -> Self {
        Self {
            organization_id,
            event_type,
            actor,
            resource: None,
            result: AuditResult::Success,
            ip_address: None,
            request_id: None,
            error_message: None,
            details: Map::new(),
        }
    }

    /// Creates an event by the caller in their organisation.
    #[must_use]
    pub fn by(principal: &Principal, event_type: EventType) -> Self {
        Self::new(
            event_type,
            Some(principal.organization.id),
            ActorRef::user(&principal.user),
        )
    }

    /// Sets what it was done to.
    #[must_use]
    pub fn on(mut self, resource: Resource) -> Self {
        self.resource = Some(resource);
        self
    }

    /// Sets the request that it came from.
    #[must_use]
    #[expect(
        clippy::wrong_self_convention,
        reason = "a builder: the event is from that request"
    )]
    pub fn from_request(mut self, request_id: &str, ip: Option<IpAddr>) -> Self {
        self.request_id = Some(request_id.to_owned());
        self.ip_address = ip.map(|ip| ip.to_string());
        self
    }

    /// Sets a result other than success, with the message that the caller received.
    #[must_use]
    pub fn ended(mut self, result: AuditResult, message: impl ToString) -> Self {
        self.result = result;
        self.error_message = Some(message.to_string());
        self
    }

    /// Adds a further fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}
