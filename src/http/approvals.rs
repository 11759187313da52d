//! What a further admin has to agree to (contract B6).

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::Tag;
use super::account::MessageBody;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::payload::{Deferred, J, Listed};
use super::principal::Caller;
use super::schema::{Context, Time, WrittenId};
use super::users::{RoleBody, link};
use crate::domain::account::{Role, User};
use crate::domain::approval::{ApprovalState, PolicyChange, PolicyVerb, UserPatch, Wanted};
use crate::service::Services;
use crate::service::approvals::{self, Agreed, ApprovalFilter, Described};

/// What a further admin has to agree to.
pub struct ApprovalApi;

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ApprovalState", rename_all = "kebab-case")]
pub enum StateBody {
    /// It waits.
    Open,
    /// Carried out.
    Done,
    /// Another admin said no, or who asked took it back.
    Rejected,
    /// Nobody said anything in time.
    Expired,
    /// Agreed to, but a rule or policy said no when it was to be carried out.
    Denied,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ApprovalVerb", rename_all = "kebab-case")]
pub enum VerbBody {
    /// Reset the MFA.
    ResetMfa,
    /// Reset the password.
    ResetPassword,
    /// Change the user.
    UpdateUser,
    /// Delete the user.
    DeleteUser,
    /// Delete the user, and erase what the trail knows of them personally.
    EraseUser,
    /// Change a policy that is bound.
    ChangePolicy,
    /// Restore factors that were taken away.
    RestoreFactors,
}

/// What is to be done to a policy that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "PolicyVerb", rename_all = "kebab-case")]
pub enum PolicyVerbBody {
    /// Change it.
    Update,
    /// Go back to the version before.
    RollBack,
    /// Remove it.
    Unbind,
}

/// The change of a policy that waits.
#[derive(Clone, Debug, Object)]
#[oai(rename = "ApprovalPolicy", rename_all = "camelCase")]
pub struct PolicyBody {
    /// The binding.
    pub binding_id: Uuid,
    /// The plugin's name.
    pub plugin: String,
    /// What is to be done.
    pub verb: PolicyVerbBody,
    /// With `update`: what was asked for, a `PolicyBindingPatch`. Null otherwise.
    pub patch: Value,
    /// Field by field, from what to what; configurations by their digest. Null with `unbind`.
    pub changes: Value,
}

/// Somebody.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Person", rename_all = "camelCase")]
pub struct PersonBody {
    /// Id.
    pub id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    #[oai(nullable)]
    pub name: Option<String>,
}

/// The change of a user that waits.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "ApprovalChange",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ChangeBody {
    /// The new name; empty where it is removed.
    pub name: Option<String>,
    /// The new role.
    pub role: Option<RoleBody>,
    /// Whether the account may be used.
    pub is_active: Option<bool>,
    /// `false` where it is unlocked.
    pub locked: Option<bool>,
}

/// Something that waits, or waited, for further admins.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Approval", rename_all = "camelCase")]
pub struct ApprovalBody {
    /// Id.
    pub id: Uuid,
    /// What is to be done.
    pub verb: VerbBody,
    /// The change; only with `update-user`.
    #[oai(skip_serializing_if_is_none)]
    pub change: Option<ChangeBody>,
    /// The policy; only with `change-policy`.
    #[oai(skip_serializing_if_is_none)]
    pub policy: Option<PolicyBody>,
    /// When the factors were taken away that are to be restored; only with `restore-factors`.
    #[oai(skip_serializing_if_is_none)]
    pub taken_at: Option<Time>,
    /// Where it stands.
    pub state: StateBody,
    /// Who asked.
    pub requester: PersonBody,
    /// On whom; with `change-policy`, who asked.
    pub target: PersonBody,
    /// The requester's reason.
    #[oai(nullable)]
    pub reason: Option<String>,
    /// The requester's ticket.
    #[oai(nullable)]
    pub ticket: Option<String>,
    /// Why a further admin has to agree.
    pub asked_because: String,
    /// How many further admins.
    pub needed: u8,
    /// Who agreed so far.
    pub approved_by: Vec<PersonBody>,
    /// When it was asked for.
    pub created_at: Time,
    /// When it lapses.
    pub expires_at: Time,
    /// When it ended.
    #[oai(nullable)]
    pub ended_at: Option<Time>,
}

/// What came of an agreement.
#[derive(Clone, Object)]
#[oai(
    rename = "ApproveResponse",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ApproveBody {
    /// `MFA reset successfully`, or what else was done; with 202 what still awaits approval.
    pub message: String,
    /// Only with 202: still further admins have to agree.
    pub approval_id: Option<String>,
    /// Only where one is demanded, and only once: the code that the user is asked for at enrolment.
    pub enrolment_code: Option<String>,
    /// Only for a password, where the appliance sends no mail, and only once: the link to set a new one.
    pub invitation_link: Option<String>,
    /// Until when the link is good.
    pub invitation_expires_at: Option<Time>,
}

/// Why not.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "RejectRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    skip_serializing_if_is_none
)]
pub struct RejectBody {
    /// In the admin's words; kept in the audit entry.
    #[oai(validator(max_length = 500))]
    pub reason: Option<String>,
}

#[derive(ApiResponse)]
enum Approved {
    /// It is carried out and recorded.
    #[oai(status = 200)]
    Done(J<ApproveBody>),
    /// The agreement counts, and still further admins have to agree.
    #[oai(status = 202)]
    Awaits(J<ApproveBody>),
}

type Errors = ApiErr<{ SECURED | S400 | S404 | S409 | S429 }>;

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Approvals")]
impl ApprovalApi {
    /// List approvals.
    ///
    /// Newest first; `X-Total-Count` has how many match in all. Those that have ended are kept for 90 days.
    /// Requires the role `ORG_ADMIN`.
    #[oai(path = "/approvals", method = "get", operation_id = "listApprovals")]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn list_approvals(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Only those in that state.
        state: Query<Option<StateBody>>,
        /// Page, from 0.
        page: Query<Option<u32>>,
        /// Approvals in a page, 50 when absent.
        #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
        size: Query<Option<u32>>,
    ) -> Result<Listed<Vec<ApprovalBody>>, ApiErr<{ SECURED | S400 | S429 }>> {
        let filter = ApprovalFilter {
            state: state.0.map(ApprovalState::from),
            page: page.0.unwrap_or(0).into(),
            size: size.0.map(u64::from),
        };
        let (approvals, total) = approvals::list_approvals(&services, &caller.0, &context.0, filter)?;
        Ok(Listed {
            items: approvals.into_iter().map(ApprovalBody::from).collect(),
            total,
        })
    }

    /// Get an approval.
    ///
    /// Requires the role `ORG_ADMIN`.
    #[oai(path = "/approvals/:id", method = "get", operation_id = "getApproval")]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn get_approval(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The approval's id.
        id: Path<WrittenId>,
    ) -> Result<J<ApprovalBody>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let found = approvals::get_approval(&services, &caller.0, &context.0, &id.0.0)?;
        Ok(J(found.into()))
    }

    /// Agree.
    ///
    /// Carries out what was asked for when nobody's agreement is missing any more: rules and policies are
    /// asked again then. By an `ORG_ADMIN` who is neither who asked nor on whom, and who had the role
    /// before it was asked for; 403 also for one whose account who asked, or agreed before, made or reset within
    /// the last seven days, and the other way round: they don't count as two.
    #[oai(path = "/approvals/:id/approve", method = "post", operation_id = "approve")]
    async fn approve(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The approval's id.
        id: Path<WrittenId>,
    ) -> Result<Approved, Errors> {
        let agreed = approvals::approve(&services, &caller.0, &context.0, &id.0.0).await?;
        let awaits = agreed.awaits.is_some();
        let body = J(ApproveBody::from(agreed));
        Ok(if awaits {
            Approved::Awaits(body)
        } else {
            Approved::Done(body)
        })
    }

    /// Say no.
    ///
    /// Ends it: nothing is done. By those who could agree, and by whoever asked, who takes it back by it.
    #[oai(path = "/approvals/:id/reject", method = "post", operation_id = "reject")]
    async fn reject(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// The approval's id.
        id: Path<WrittenId>,
        body: Deferred<RejectBody>,
    ) -> Result<J<MessageBody>, ApiErr<{ SECURED | S400 | S404 | S409 | S429 | BODY }>> {
        let reason = body.0.map(|body| body.and_then(|body| body.reason));
        let withdrawn = approvals::reject(&services, &caller.0, &context.0, &id.0.0, reason).await?;
        Ok(J(MessageBody {
            message: if withdrawn { "Withdrawn" } else { "Rejected" }.into(),
        }))
    }
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

/// Fields that were not asked for are no part of a patch.
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
