//! Bodies of approvals.

use poem_openapi::{Enum, Object};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::domain::account::{Role, User};
use crate::domain::approval::{ApprovalState, PolicyChange, PolicyVerb, UserPatch, Wanted};
use crate::http::schema::Time;
use crate::http::users::{RoleBody, link};
use crate::service::approvals::{Agreed, Described};

/// State of an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ApprovalState", rename_all = "kebab-case")]
pub enum StateBody {
    /// Waiting for a decision.
    Open,
    /// Approved and carried out.
    Done,
    /// Rejected by another administrator, or withdrawn by the requester.
    Rejected,
    /// Expired without a decision.
    Expired,
    /// Approved, but refused by a rule or policy when it was to be carried out.
    Denied,
}

/// The action that needs approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ApprovalVerb", rename_all = "kebab-case")]
pub enum VerbBody {
    /// Reset the user's MFA.
    ResetMfa,
    /// Reset the user's password.
    ResetPassword,
    /// Change the user.
    UpdateUser,
    /// Delete the user.
    DeleteUser,
    /// Delete the user, and erase their personal data from the audit trail.
    EraseUser,
    /// Change a bound policy.
    ChangePolicy,
    /// Restore factors that were removed.
    RestoreFactors,
}

/// The change to a bound policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "PolicyVerb", rename_all = "kebab-case")]
pub enum PolicyVerbBody {
    /// Change the binding.
    Update,
    /// Go back to the previous version.
    RollBack,
    /// Remove the binding.
    Unbind,
}

/// A change to a policy that needs approval.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ApprovalPolicy", rename_all = "camelCase")]
pub struct PolicyBody {
    /// Id of the binding.
    pub binding_id: Uuid,
    /// Name of the plugin.
    pub plugin: String,
    /// The change.
    pub verb: PolicyVerbBody,
    /// With `update`, the requested `PolicyBindingPatch`; null otherwise.
    pub patch: Value,
    /// Old and new value of each changed field, with configurations given by their digest; null with `unbind`.
    pub changes: Value,
}

/// A person.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Person", rename_all = "camelCase")]
pub struct PersonBody {
    /// Id of the user.
    pub id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Display name.
    #[oai(nullable)]
    pub name: Option<String>,
}

/// A change to a user that needs approval.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "ApprovalChange",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ChangeBody {
    /// The new name; empty if the name is to be removed.
    pub name: Option<String>,
    /// The new role.
    pub role: Option<RoleBody>,
    /// Whether the account may be used from then on.
    pub is_active: Option<bool>,
    /// `false` if the account is to be unlocked.
    pub locked: Option<bool>,
}

/// A request that needs, or needed, the approval of further administrators.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Approval", rename_all = "camelCase")]
pub struct ApprovalBody {
    /// Id of the approval.
    pub id: Uuid,
    /// The requested action.
    pub verb: VerbBody,
    /// The change to the user; only with `update-user`.
    #[oai(skip_serializing_if_is_none)]
    pub change: Option<ChangeBody>,
    /// The change to the policy; only with `change-policy`.
    #[oai(skip_serializing_if_is_none)]
    pub policy: Option<PolicyBody>,
    /// When the factors to restore were removed; only with `restore-factors`.
    #[oai(skip_serializing_if_is_none)]
    pub taken_at: Option<Time>,
    /// Current state.
    pub state: StateBody,
    /// Who made the request.
    pub requester: PersonBody,
    /// The user it is about; with `change-policy`, the requester.
    pub target: PersonBody,
    /// The requester's reason.
    #[oai(nullable)]
    pub reason: Option<String>,
    /// The requester's ticket.
    #[oai(nullable)]
    pub ticket: Option<String>,
    /// Why approval is required.
    pub asked_because: String,
    /// Number of further administrators who must approve.
    pub needed: u8,
    /// Who has approved so far.
    pub approved_by: Vec<PersonBody>,
    /// When the request was made.
    pub created_at: Time,
    /// When the request expires.
    pub expires_at: Time,
    /// When the request was closed; null if it has not been.
    #[oai(nullable)]
    pub ended_at: Option<Time>,
}

/// Result of an approval.
#[derive(Clone, Object)]
#[oai(
    rename = "ApproveResponse",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ApproveBody {
    /// What was done, such as `MFA reset successfully`; with 202, what still awaits approval.
    pub message: String,
    /// Id of the approval, which still needs further administrators; only with 202.
    pub approval_id: Option<String>,
    /// The code that the user must enter at enrolment, where one is demanded. Shown only once.
    pub enrolment_code: Option<String>,
    /// The link to set a new password, shown only once; only for a reset where the appliance sends no mail.
    pub invitation_link: Option<String>,
    /// When the link expires.
    pub invitation_expires_at: Option<Time>,
}

/// A reason for rejecting or withdrawing a request.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "RejectRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    skip_serializing_if_is_none
)]
pub struct RejectBody {
    /// The reason, in the caller's words; kept in the audit entry.
    #[oai(validator(max_length = 500))]
    pub reason: Option<String>,
}

impl From<Described> for ApprovalBody {
    fn from(described: Described) -> Self {
        let approval = described.approval;
        let taken_at = approval.wanted.taken_at().map(Time);
        let (verb, change, policy) = match approval.wanted {
            Wanted::ResetMfa => (VerbBody::ResetMfa, None, None),
            Wanted::ResetPassword => (VerbBody::ResetPassword, None, None),
            Wanted::UpdateUser(patch) => {
                let change = change(patch, described.target.role);
                (VerbBody::UpdateUser, Some(change), None)
            }
            Wanted::DeleteUser => (VerbBody::DeleteUser, None, None),
            Wanted::EraseUser => (VerbBody::EraseUser, None, None),
            Wanted::ChangePolicy(change) => (VerbBody::ChangePolicy, None, Some((*change).into())),
            Wanted::RestoreFactors { .. } => (VerbBody::RestoreFactors, None, None),
        };
        Self {
            id: approval.id,
            verb,
            change,
            policy,
            taken_at,
            state: described.state.into(),
            requester: described.requester.into(),
            target: described.target.into(),
            reason: approval.reason,
            ticket: approval.ticket,
            asked_because: approval.asked_because,
            needed: approval.needed,
            approved_by: described.approved_by.into_iter().map(PersonBody::from).collect(),
            created_at: Time(approval.created_at),
            expires_at: Time(approval.expires_at),
            ended_at: approval.ended_at.map(Time),
        }
    }
}

impl From<PolicyChange> for PolicyBody {
    fn from(change: PolicyChange) -> Self {
        Self {
            binding_id: change.binding,
            plugin: change.plugin,
            verb: match change.verb {
                PolicyVerb::Update => PolicyVerbBody::Update,
                PolicyVerb::RollBack => PolicyVerbBody::RollBack,
                PolicyVerb::Unbind => PolicyVerbBody::Unbind,
            },
            patch: without_nulls(change.patch),
            changes: change.changes,
        }
    }
}

/// Removes null fields: they were not part of the requested patch.
fn without_nulls(mut patch: Value) -> Value {
    if let Value::Object(fields) = &mut patch {
        fields.retain(|_, value| !value.is_null());
    }
    patch
}

fn change(patch: UserPatch, role: Role) -> ChangeBody {
    let after = patch.role_after(role);
    let role = match after {
        Role::Member => RoleBody::Member,
        Role::HelpDesk => RoleBody::HelpDesk,
        Role::OrgAdmin | Role::Operator => RoleBody::OrgAdmin,
    };
    ChangeBody {
        role: (patch.role.is_some() || patch.no_admin).then_some(role),
        name: patch.name,
        is_active: patch.active,
        locked: patch.unlock.then_some(false),
    }
}

impl From<Agreed> for ApproveBody {
    fn from(agreed: Agreed) -> Self {
        let (done, awaits) = match agreed.wanted {
            Wanted::ResetMfa => ("MFA reset successfully", "MFA reset awaits approval"),
            Wanted::ResetPassword => ("Password reset successfully", "Password reset awaits approval"),
            Wanted::UpdateUser(_) => ("User changed successfully", "Change awaits approval"),
            Wanted::DeleteUser | Wanted::EraseUser => {
                ("User deleted successfully", "Deletion awaits approval")
            }
            Wanted::ChangePolicy(_) => (
                "Policy changed successfully",
                "Change of the policy awaits approval",
            ),
            Wanted::RestoreFactors { .. } => (
                "Factors restored successfully",
                "Restoring factors awaits approval",
            ),
        };
        let (invitation_link, invitation_expires_at) = link(agreed.invitation);
        Self {
            message: if agreed.awaits.is_some() { awaits } else { done }.into(),
            approval_id: agreed.awaits.map(|id| id.to_string()),
            enrolment_code: agreed.enrolment_code,
            invitation_link,
            invitation_expires_at,
        }
    }
}

impl From<User> for PersonBody {
    fn from(user: User) -> Self {
        Self {
            id: user.id.0,
            email: user.email,
            name: user.name,
        }
    }
}

impl From<ApprovalState> for StateBody {
    fn from(state: ApprovalState) -> Self {
        match state {
            ApprovalState::Open => Self::Open,
            ApprovalState::Done => Self::Done,
            ApprovalState::Rejected => Self::Rejected,
            ApprovalState::Expired => Self::Expired,
            ApprovalState::Denied => Self::Denied,
        }
    }
}

impl From<StateBody> for ApprovalState {
    fn from(state: StateBody) -> Self {
        match state {
            StateBody::Open => Self::Open,
            StateBody::Done => Self::Done,
            StateBody::Rejected => Self::Rejected,
            StateBody::Expired => Self::Expired,
            StateBody::Denied => Self::Denied,
        }
    }
}

prints_no_secret!(ApproveBody);
