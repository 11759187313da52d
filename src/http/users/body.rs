//! Users in requests and answers.

use poem_openapi::types::{Example, MaybeUndefined};
use poem_openapi::{Enum, Object};
use serde::Deserialize;
use uuid::Uuid;

use crate::domain::account::{Role, User};
use crate::http::schema::Time;

/// A user as admins see them.
#[derive(Clone, Debug, Object)]
#[oai(rename = "User", rename_all = "camelCase", example)]
pub struct UserBody {
    /// Id.
    pub id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Whether the user has the role `ORG_ADMIN`.
    pub is_org_admin: bool,
    /// Whether the account may be used.
    pub is_active: bool,
    /// Whether a second factor is enrolled.
    pub mfa_enabled: bool,
    /// Last complete login.
    #[oai(nullable)]
    pub last_login_at: Option<Time>,
    /// When the account was made.
    pub created_at: Time,
    /// Last change.
    pub updated_at: Time,
    /// The role, where `isOrgAdmin` does not tell it: only for `HELP_DESK`.
    #[oai(skip_serializing_if_is_none)]
    pub role: Option<RoleBody>,
    /// Why the account is locked; only where it is.
    #[oai(skip_serializing_if_is_none)]
    pub locked_reason: Option<String>,
}

impl From<User> for UserBody {
    fn from(user: User) -> Self {
        Self {
            id: user.id.0,
            email: user.email,
            name: user.name,
            is_org_admin: user.role >= Role::OrgAdmin,
            is_active: user.active,
            mfa_enabled: user.mfa_enabled,
            last_login_at: user.last_login_at.map(Time),
            created_at: Time(user.created_at),
            updated_at: Time(user.updated_at),
            role: (user.role == Role::HelpDesk).then_some(RoleBody::HelpDesk),
            locked_reason: user.locked.map(|lock| lock.reason),
        }
    }
}

impl Example for UserBody {
    fn example() -> Self {
        let at = Time(jiff::Timestamp::constant(1_771_410_600, 0));
        Self {
            id: Uuid::from_u128(0x770e_8400_e29b_41d4_a716_4466_5544_0004),
            email: "dev@acme.example".into(),
            name: Some("Dana Developer".into()),
            is_org_admin: false,
            is_active: true,
            mfa_enabled: true,
            last_login_at: Some(at),
            created_at: at,
            updated_at: at,
            role: None,
            locked_reason: None,
        }
    }
}

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[oai(rename = "Role", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RoleBody {
    /// No power over others.
    Member,
    /// Resets the MFA of members, where the organisation switched this role on.
    HelpDesk,
    /// Administers the organisation.
    OrgAdmin,
}

/// A new user.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "CreateUserRequest",
    rename_all = "camelCase",
    deny_unknown_fields,
    skip_serializing_if_is_none,
    example
)]
pub struct CreateUserBody {
    /// E-mail address: the name used at login.
    #[oai(validator(max_length = 254))]
    pub email: String,
    /// Name shown to people.
    #[oai(validator(max_length = 320))]
    pub name: Option<String>,
    /// Whether the user gets the role `ORG_ADMIN`.
    pub is_org_admin: Option<bool>,
    /// The role, in place of `isOrgAdmin`.
    pub role: Option<RoleBody>,
}

impl Example for CreateUserBody {
    fn example() -> Self {
        Self {
            email: "new@acme.example".into(),
            name: Some("Nora New".into()),
            is_org_admin: Some(false),
            role: None,
        }
    }
}

/// A user who was made, and the link to set a password where it could not be mailed.
#[derive(Clone, Object)]
#[oai(rename = "CreatedUser", rename_all = "camelCase")]
pub struct CreatedUserBody {
    /// The user.
    #[oai(flatten)]
    pub user: UserBody,
    /// Only where the appliance sends no mail, and only once: the link with which the user sets a
    /// password. Hand it over in person.
    #[oai(skip_serializing_if_is_none)]
    pub invitation_link: Option<String>,
    /// Until when the link is good.
    #[oai(skip_serializing_if_is_none)]
    pub invitation_expires_at: Option<Time>,
}

/// Changes to a user: what is absent stays as it is.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "UserPatch", rename_all = "camelCase", deny_unknown_fields)]
pub struct UserPatchBody {
    /// Name shown to people; null removes it.
    #[serde(default)]
    #[oai(nullable, validator(max_length = 320))]
    pub name: MaybeUndefined<String>,
    /// Whether the user has the role `ORG_ADMIN`. Taking it makes a `MEMBER`.
    pub is_org_admin: Option<bool>,
    /// Whether the account may be used. Deactivating ends its sessions.
    pub is_active: Option<bool>,
    /// The role, in place of `isOrgAdmin`.
    pub role: Option<RoleBody>,
    /// `false` unlocks the account, and opens the window for enrolment again where that is what closed it. Where
    /// setting up MFA asks for an administrator's code, the answer has a new one and earlier ones end: so it is
    /// had again when an answer was lost. To lock somebody out, use `isActive`.
    pub locked: Option<bool>,
}

/// A user as they are after the change.
#[derive(Clone, Object)]
#[oai(rename = "ChangedUser", rename_all = "camelCase")]
pub struct ChangedUserBody {
    /// The user.
    #[oai(flatten)]
    pub user: UserBody,
    /// Only with 202: what another admin approves or rejects. Nothing has been changed yet.
    #[oai(skip_serializing_if_is_none)]
    pub approval_id: Option<String>,
    /// Only where the user was unlocked and setting up MFA asks for a code: that code. Shown once.
    #[oai(skip_serializing_if_is_none)]
    pub enrolment_code: Option<String>,
}

/// How the reset of a password went.
#[derive(Clone, Object)]
#[oai(
    rename = "ResetPasswordResponse",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ResetPasswordBody {
    /// `Password reset successfully`, or `Password reset awaits approval`.
    pub message: String,
    /// Only with 202: what another admin approves or rejects.
    pub approval_id: Option<String>,
    /// Only where the appliance sends no mail, and only once: the link with which the user sets a new
    /// password. Hand it over in person.
    pub invitation_link: Option<String>,
    /// Until when the link is good.
    pub invitation_expires_at: Option<Time>,
}

/// What waits for another admin.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AwaitsApproval", rename_all = "camelCase")]
pub struct AwaitsApprovalBody {
    /// Says so.
    pub message: String,
    /// What another admin approves or rejects.
    pub approval_id: String,
}

prints_no_secret!(CreatedUserBody, ChangedUserBody, ResetPasswordBody);
