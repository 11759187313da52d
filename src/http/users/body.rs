//! Request and response bodies for users.

use poem_openapi::types::{Example, MaybeUndefined};
use poem_openapi::{Enum, Object};
use serde::Deserialize;
use uuid::Uuid;

use crate::domain::account::{Role, User};
use crate::http::schema::Time;

/// A user, as seen by administrators.
#[derive(Clone, Debug, Object)]
#[oai(rename = "User", rename_all = "camelCase", example)]
pub struct UserBody {
    /// Id of the user.
    pub id: Uuid,
    /// E-mail address, which is the name used at login.
    pub email: String,
    /// Display name.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Whether the user has the role `ORG_ADMIN`.
    pub is_org_admin: bool,
    /// Whether the account is active.
    pub is_active: bool,
    /// Whether a second factor is enrolled.
    pub mfa_enabled: bool,
    /// When the user last completed a login; null if never.
    #[oai(nullable)]
    pub last_login_at: Option<Time>,
    /// When the account was created.
    pub created_at: Time,
    /// When the account was last changed.
    pub updated_at: Time,
    /// Role, if `isOrgAdmin` does not express it: present only for `HELP_DESK`.
    #[oai(skip_serializing_if_is_none)]
    pub role: Option<RoleBody>,
    /// Why the account is locked; absent if it is not.
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

/// Role of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[oai(rename = "Role", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RoleBody {
    /// No rights over other users.
    Member,
    /// May reset the MFA of members, if the organisation has enabled this role.
    HelpDesk,
    /// May administer the organisation.
    OrgAdmin,
}

/// A request to create a user.
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
    /// E-mail address, which is the name used at login.
    #[oai(validator(max_length = 254))]
    pub email: String,
    /// Display name.
    #[oai(validator(max_length = 320))]
    pub name: Option<String>,
    /// Whether the user gets the role `ORG_ADMIN`.
    pub is_org_admin: Option<bool>,
    /// Role, as an alternative to `isOrgAdmin`.
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

/// A new user, with the link to set a password if it could not be mailed.
#[derive(Clone, Object)]
#[oai(rename = "CreatedUser", rename_all = "camelCase")]
pub struct CreatedUserBody {
    /// The user.
    #[oai(flatten)]
    pub user: UserBody,
    /// The link with which the user sets a password; only if the appliance sends no mail. Shown only once. Hand
    /// it over in person.
    #[oai(skip_serializing_if_is_none)]
    pub invitation_link: Option<String>,
    /// When the link expires.
    #[oai(skip_serializing_if_is_none)]
    pub invitation_expires_at: Option<Time>,
}

/// Changes to a user. Absent fields stay as they are.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename = "UserPatch", rename_all = "camelCase", deny_unknown_fields)]
pub struct UserPatchBody {
    /// Display name; null removes it.
    #[serde(default)]
    #[oai(nullable, validator(max_length = 320))]
    pub name: MaybeUndefined<String>,
    /// Whether the user has the role `ORG_ADMIN`. Removing it leaves the role `MEMBER`.
    pub is_org_admin: Option<bool>,
    /// Whether the account is active. Deactivating it ends its sessions.
    pub is_active: Option<bool>,
    /// Role, as an alternative to `isOrgAdmin`.
    pub role: Option<RoleBody>,
    /// `false` unlocks the account, and reopens the enrolment window if that is over. If setting up MFA
    /// requires an enrolment code, the response has a new one and earlier codes become invalid, so this also
    /// replaces a code whose response was lost. To lock a user out, use `isActive`.
    pub locked: Option<bool>,
}

/// A user, as they are after the change.
#[derive(Clone, Object)]
#[oai(rename = "ChangedUser", rename_all = "camelCase")]
pub struct ChangedUserBody {
    /// The user.
    #[oai(flatten)]
    pub user: UserBody,
    /// Id of the approval that the change waits for; only with 202. Nothing has been changed yet.
    #[oai(skip_serializing_if_is_none)]
    pub approval_id: Option<String>,
    /// The new enrolment code, if the user was unlocked and setting up MFA requires a code. Shown only once.
    #[oai(skip_serializing_if_is_none)]
    pub enrolment_code: Option<String>,
}

/// Result of a password reset.
#[derive(Clone, Object)]
#[oai(
    rename = "ResetPasswordResponse",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ResetPasswordBody {
    /// `Password reset successfully`, or `Password reset awaits approval`.
    pub message: String,
    /// Id of the approval that the password reset waits for; only with 202.
    pub approval_id: Option<String>,
    /// The link with which the user sets a new password; only if the appliance sends no mail. Shown only once.
    /// Hand it over in person.
    pub invitation_link: Option<String>,
    /// When the link expires.
    pub invitation_expires_at: Option<Time>,
}

/// An action that waits for another administrator's approval.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AwaitsApproval", rename_all = "camelCase")]
pub struct AwaitsApprovalBody {
    /// What awaits approval, as a sentence for people.
    pub message: String,
    /// Id of the approval that the action waits for.
    pub approval_id: String,
}

prints_no_secret!(CreatedUserBody, ChangedUserBody, ResetPasswordBody);
