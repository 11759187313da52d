//! What waits for a further admin.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::account::{Asked, OrganizationId, Role, UserId};

/// What is to be done to a user once it is agreed to. Kept as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Wanted {
    /// Reset the second factors.
    ResetMfa,
    /// Send a link to set a new password.
    ResetPassword,
    /// Change what an admin may change.
    UpdateUser(UserPatch),
    /// Delete the user.
    DeleteUser,
    /// Delete the user, and erase what the trail knows of them personally.
    EraseUser,
    /// Change a policy that is bound: on nobody, so the requester stands for the target.
    ChangePolicy(Box<PolicyChange>),
    /// Restore factors that were taken away.
    #[serde(rename_all = "kebab-case")]
    RestoreFactors {
        /// When they were taken: what was chosen when it was asked for.
        taken_at: Timestamp,
    },
}

impl Wanted {
    /// When what is to be restored was taken away.
    #[must_use]
    pub fn taken_at(&self) -> Option<Timestamp> {
        match self {
            Self::RestoreFactors { taken_at } => Some(*taken_at),
            _ => None,
        }
    }
}

/// A change of a policy binding that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyChange {
    /// Which binding.
    pub binding: Uuid,
    /// As it was when it was asked for: another one is another change.
    pub revision: i64,
    /// Name of the plugin.
    pub plugin: String,
    /// What is to be done.
    #[serde(rename = "to")]
    pub verb: PolicyVerb,
    /// The changes as they were asked for, where it is an update.
    pub patch: Value,
    /// Field by field from what to what, for people; configurations by their digest.
    pub changes: Value,
}

/// What is to be done to a policy binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyVerb {
    /// Change it.
    Update,
    /// Go back to the version before.
    RollBack,
    /// Remove it.
    Unbind,
}

/// Changes to a user: only what is there changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserPatch {
    /// The name shown to people; empty removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether to take the role of an admin, if it is there; another role stays.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_admin: bool,
    /// Whether the account may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Whether to unlock it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unlock: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_false(value: &bool) -> bool {
    !value
}

impl UserPatch {
    /// The role that somebody with `role` has afterwards.
    #[must_use]
    pub fn role_after(&self, role: Role) -> Role {
        match self.role {
            Some(new) => new,
            None if self.no_admin && role >= Role::OrgAdmin => Role::Member,
            None => role,
        }
    }
}

/// Where something that waits stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalState {
    /// It waits.
    Open,
    /// Carried out.
    Done,
    /// A further admin said no, or who asked took it back.
    Rejected,
    /// Nobody said anything in time.
    Expired,
    /// Agreed to, but a rule or policy said no when it was to be carried out.
    Denied,
}

impl ApprovalState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Done,
        Self::Rejected,
        Self::Expired,
        Self::Denied,
    ];

    /// Its name, in the store and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Denied => "denied",
        }
    }
}

/// Something that waits, or waited, for further admins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Id on the wire.
    pub id: Uuid,
    /// Where.
    pub organization_id: OrganizationId,
    /// Who asked.
    pub requester_id: UserId,
    /// The most that they were when they asked: a token of another issuer may say less than the database.
    pub requester_role: Role,
    /// On whom.
    pub target_id: UserId,
    /// For what.
    pub wanted: Wanted,
    /// The requester's reason.
    pub reason: Option<String>,
    /// The requester's ticket.
    pub ticket: Option<String>,
    /// Why a further admin is wanted.
    pub asked_because: String,
    /// When the requester had last proved who they are.
    pub authenticated_at: Timestamp,
    /// Whether with a second factor.
    pub second_factor_used: bool,
    /// How many further admins.
    pub needed: u8,
    /// Who agreed, in order.
    pub approved_by: Vec<UserId>,
    /// Where it stands.
    pub state: ApprovalState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl Approval {
    /// Where it stands at that time: what has lapsed is not open, even before anybody noted it.
    #[must_use]
    pub fn state_at(&self, at: Timestamp) -> ApprovalState {
        match self.state {
            ApprovalState::Open if at >= self.expires_at => ApprovalState::Expired,
            state => state,
        }
    }

    /// Who asked, on whom, when.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked {
            by: self.requester_id,
            on: self.target_id,
            at: self.created_at,
        }
    }
}
