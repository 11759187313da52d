//! What the trail keeps of every act, and how anyone can check it.
//!
//! An [`Event`] is what happened; an [`Entry`] is an event in its place in the trail. The trail is a
//! Merkle tree (RFC 6962): `audit/leaf.rs` says what a leaf is, `audit/tree.rs` where nodes are kept.

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

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::account::{OrganizationId, Principal, User};

/// Names what happened, and gives its name on the wire.
macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $wire:literal,)*) => {
        /// What happened; upper snake case on the wire (contract B5).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $wire)] $variant,)*
        }

        impl EventType {
            /// Every event type.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $wire),* }
            }

            /// The event type of that name.
            #[must_use]
            pub fn from_wire(name: &str) -> Option<Self> {
                match name { $($wire => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

event_types! {
    /// An organisation was made.
    OrganizationCreate = "ORGANIZATION_CREATE",
    /// Settings were changed.
    OrganizationSettingsUpdate = "ORGANIZATION_SETTINGS_UPDATE",
    /// A user was made.
    UserCreate = "USER_CREATE",
    /// A user was changed.
    UserUpdate = "USER_UPDATE",
    /// A user was deleted.
    UserDelete = "USER_DELETE",
    /// A login, or an attempt at one.
    UserLogin = "USER_LOGIN",
    /// A session was ended by its user.
    UserLogout = "USER_LOGOUT",
    /// A refresh token was used twice; its family was ended.
    RefreshTokenReuse = "REFRESH_TOKEN_REUSE",
    /// Sessions were ended before their time.
    UserSessionsEnd = "USER_SESSIONS_END",
    /// A second factor was used once more within a session.
    UserStepUp = "USER_STEP_UP",
    /// A password was changed.
    UserPasswordChange = "USER_PASSWORD_CHANGE",
    /// An admin sent a user a link to set a new password, in place of the old one.
    UserPasswordReset = "USER_PASSWORD_RESET",
    /// Something was asked for that waits for a further admin, a reset for example.
    ApprovalRequest = "APPROVAL_REQUEST",
    /// A further admin agreed, or tried to.
    ApprovalAgree = "APPROVAL_AGREE",
    /// A further admin said no, or tried to.
    ApprovalReject = "APPROVAL_REJECT",
    /// Nobody agreed in time.
    ApprovalExpire = "APPROVAL_EXPIRE",
    /// An API key was made.
    ApiKeyCreate = "API_KEY_CREATE",
    /// An API key was revoked.
    ApiKeyRevoke = "API_KEY_REVOKE",
    /// A second factor was enrolled.
    UserMfaEnabled = "USER_MFA_ENABLED",
    /// A user registered a passkey, or tried to.
    UserPasskeyRegistered = "USER_PASSKEY_REGISTERED",
    /// A user removed one of their passkeys.
    UserPasskeyRemoved = "USER_PASSKEY_REMOVED",
    /// The counter of a passkey went back: there is a copy of it. It opens nothing from then on.
    UserPasskeyAlarm = "USER_PASSKEY_ALARM",
    /// A user switched their own MFA off.
    UserMfaDisabled = "USER_MFA_DISABLED",
    /// A reset call, however it ended.
    UserMfaReset = "USER_MFA_RESET",
    /// Somebody whose MFA had been reset a short time before used the power of an admin or of the help desk.
    UserResetAlarm = "USER_RESET_ALARM",
    /// A user's link said that a change of their credentials was not theirs; the account was locked.
    UserReport = "USER_REPORT",
    /// An admin restored factors that had been taken away.
    UserFactorsRestore = "USER_FACTORS_RESTORE",
    /// Recovery codes were made anew.
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
    /// Something owed to the outside world was given up.
    DeliveryDead = "DELIVERY_DEAD",
    /// Deliveries that were given up are to be tried again.
    DeliveryRetry = "DELIVERY_RETRY",
    /// An older database was accepted in place of a newer one.
    AuditRollbackAccept = "AUDIT_ROLLBACK_ACCEPT",
    /// A backup was restored: what was ended or removed after it was made is back, sessions apart.
    BackupRestore = "BACKUP_RESTORE",
    /// Checkpoints are signed with another key from here on.
    AuditKeyChange = "AUDIT_KEY_CHANGE",
}

/// Who did it, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActorType {
    /// A person with an account.
    User,
    /// An API key.
    ApiKey,
    /// Somebody with access to the node's command line.
    Operator,
    /// The appliance itself.
    System,
    /// Nobody known: a failed login.
    Anonymous,
}

impl ActorType {
    /// The name on the wire.
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

    /// The kind of that name.
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

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorRef {
    /// Kind.
    pub r#type: ActorType,
    /// Account or key id.
    pub id: Option<Uuid>,
    /// E-mail address as it was then.
    pub email: Option<String>,
}

/// On what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Kind: `USER`, `ORGANIZATION`, `PLUGIN`, …
    pub r#type: String,
    /// Its id, which may not exist; empty where the caller wrote none.
    pub id: String,
    /// Its name as it was then.
    pub name: Option<String>,
}

/// How it ended.
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
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Denied => "DENIED",
            Self::Failure => "FAILURE",
        }
    }

    /// The result of that name.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        [Self::Success, Self::Denied, Self::Failure]
            .into_iter()
            .find(|result| result.as_str() == name)
    }
}

/// One act, before it has its place in the trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Where; absent for acts on the node.
    pub organization_id: Option<OrganizationId>,
    /// What.
    pub event_type: EventType,
    /// Who.
    pub actor: ActorRef,
    /// On what.
    pub resource: Option<Resource>,
    /// How it ended.
    pub result: AuditResult,
    /// The client's address.
    pub ip_address: Option<String>,
    /// Request id, also in `X-Request-Id` and the log.
    pub request_id: Option<String>,
    /// The message that the caller was given, where it ended badly.
    pub error_message: Option<String>,
    /// What else is worth knowing; never a secret (invariant 7).
    pub details: Map<String, Value>,
}

/// An act in its place in the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Place in the trail, from 0 without gaps: the leaf index.
    pub sequence: u64,
    /// Id on the wire.
    pub id: Uuid,
    /// When; the same instant as the change it records.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// What the tree hashes of it (RFC 6962 §2.1).
    pub leaf_hash: Hash32,
}

/// Which entries of an organisation's trail are asked for; every given field must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// What happened.
    pub event_type: Option<EventType>,
    /// Who did it: the e-mail address as it was then.
    pub actor_email: Option<String>,
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Up to and with this time.
    pub to: Option<Timestamp>,
}

impl ActorRef {
    /// A person with an account, or [`User::operator`].
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

    /// Somebody at the node's command line.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            r#type: ActorType::Operator,
            id: None,
            email: None,
        }
    }

    /// The appliance itself.
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
    /// A user.
    #[must_use]
    pub fn user(user: &User) -> Self {
        Self {
            r#type: "USER".to_owned(),
            id: user.id.to_string(),
            name: Some(user.email.clone()),
        }
    }

    /// Something else.
    pub fn other(r#type: &str, id: impl ToString, name: Option<String>) -> Self {
        Self {
            r#type: r#type.to_owned(),
            id: id.to_string(),
            name,
        }
    }
}

impl Event {
    /// An act that succeeded; the builders below refine it.
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

    /// An act by the caller in their organisation.
    #[must_use]
    pub fn by(principal: &Principal, event_type: EventType) -> Self {
        Self::new(
            event_type,
            Some(principal.organization.id),
            ActorRef::user(&principal.user),
        )
    }

    /// On what.
    #[must_use]
    pub fn on(mut self, resource: Resource) -> Self {
        self.resource = Some(resource);
        self
    }

    /// How the request came in.
    #[must_use]
    #[expect(
        clippy::wrong_self_convention,
        reason = "a builder: the event is from that request"
    )]
    pub fn from_request(mut self, request_id: &str, ip_address: Option<&str>) -> Self {
        self.request_id = Some(request_id.to_owned());
        self.ip_address = ip_address.map(str::to_owned);
        self
    }

    /// It ended badly.
    #[must_use]
    pub fn ended(mut self, result: AuditResult, message: impl ToString) -> Self {
        self.result = result;
        self.error_message = Some(message.to_string());
        self
    }

    /// A further fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}
