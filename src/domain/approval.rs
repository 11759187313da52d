//! Requests that wait for a further admin's agreement.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::account::{Asked, OrganizationId, Role, UserId};

/// The operation to carry out once it is agreed to. Stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Wanted {
    /// Reset the second factors.
    ResetMfa,
    /// Send a link to set a new password.
    ResetPassword,
    /// Change the user's properties that an admin may change.
    UpdateUser(UserPatch),
    /// Delete the user.
    DeleteUser,
    /// Delete the user, and erase the user's personal data from the trail.
    EraseUser,
    /// Change a bound policy. It has no target user, so the requester stands in for the target.
    ChangePolicy(Box<PolicyChange>),
    /// Restore removed factors.
    #[serde(rename_all = "kebab-case")]
    RestoreFactors {
        /// When the factors were removed, as determined at the request.
        taken_at: Timestamp,
    },
}

impl Wanted {
    /// Returns when the factors to restore were removed; `None` for every other operation.
    #[must_use]
    pub fn taken_at(&self) -> Option<Timestamp> {
        match self {
            Self::RestoreFactors { taken_at } => Some(*taken_at),
            _ => None,
        }
    }
}

/// A change of a policy binding that waits for agreement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyChange {
    /// Id of the binding.
    pub binding: Uuid,
    /// Revision of the binding when the change was requested; at another revision the agreement does not apply.
    pub revision: i64,
    /// Name of the plugin.
    pub plugin: String,
    /// The kind of change.
    #[serde(rename = "to")]
    pub verb: PolicyVerb,
    /// The requested changes, for an update.
    pub patch: Value,
    /// Old and new value of each field, for people; configurations by their digest.
    pub changes: Value,
}

/// The kind of change to a policy binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyVerb {
    /// Change its terms.
    Update,
    /// Roll back to the previous version.
    RollBack,
    /// Remove it.
    Unbind,
}

/// Changes to a user; absent fields stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserPatch {
    /// Name shown to people; empty removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// New role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether to take away the role of an admin, if the user has it; other roles stay.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_admin: bool,
    /// Whether the account may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Whether to unlock the account.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unlock: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_false(value: &bool) -> bool {
    !value
}

impl UserPatch {
    /// Returns the role that a user with `role` has afterwards.
    #[must_use]
    pub fn role_after(&self, role: Role) -> Role {
        match self.role {
            Some(new) => new,
            None if self.no_admin && role >= Role::OrgAdmin => Role::Member,
            None => role,
        }
    }
}

/// The state of an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalState {
    /// Waiting for agreement.
    Open,
    /// Carried out.
    Done,
    /// Rejected by a further admin, or withdrawn by the requester.
    Rejected,
    /// Not decided in time.
    Expired,
    /// Agreed to, but refused by a rule or policy when it was to be carried out.
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

    /// Returns its name, in the store and on the wire.
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

/// A request that waits, or waited, for further admins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Id on the wire.
    pub id: Uuid,
    /// Organisation of the request.
    pub organization_id: OrganizationId,
    /// The admin who asked.
    pub requester_id: UserId,
    /// The highest role that the requester could use at the time: another issuer's token may grant less than the
    /// database.
    pub requester_role: Role,
    /// The user that it is about.
    pub target_id: UserId,
    /// The requested operation.
    pub wanted: Wanted,
    /// The requester's reason.
    pub reason: Option<String>,
    /// The requester's ticket.
    pub ticket: Option<String>,
    /// Why a further admin is needed.
    pub asked_because: String,
    /// When the requester had last authenticated.
    pub authenticated_at: Timestamp,
    /// Whether the requester had used a second factor.
    pub second_factor_used: bool,
    /// Number of further admins that must agree.
    pub needed: u8,
    /// Admins who agreed, in order.
    pub approved_by: Vec<UserId>,
    /// State as stored.
    pub state: ApprovalState,
    /// When it was requested.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it ended; absent while it is open.
    pub ended_at: Option<Timestamp>,
}

impl Approval {
    /// Returns the state at that time: an expired approval is not open, even if the store does not yet say so.
    #[must_use]
    pub fn state_at(&self, at: Timestamp) -> ApprovalState {
        match self.state {
            ApprovalState::Open if at >= self.expires_at => ApprovalState::Expired,
            state => state,
        }
    }

    /// Returns who asked, about whom and when.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked {
            by: self.requester_id,
            on: self.target_id,
            at: self.created_at,
        }
    }
}
