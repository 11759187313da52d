//! `/users`: users of the caller's organisation.

mod body;

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{ApiResponse, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::payload::{J, Listed};
use super::principal::{Caller, Reader};
use super::schema::{Context, Time, WrittenId};
use crate::domain::account::{Role, UserId};
use crate::domain::approval::UserPatch;
use crate::domain::{Error, Result as Checked};
use crate::service::Services;
use crate::service::administration::{self, UserFilter};
use crate::service::users::{self, NewPerson, Outcome, ShownLink};

pub use body::{
    AwaitsApprovalBody, ChangedUserBody, CreateUserBody, CreatedUserBody, ResetPasswordBody, RoleBody,
    UserBody, UserPatchBody,
};

/// Handlers of `/users`.
pub struct UserApi;

#[derive(ApiResponse)]
enum Created {
    /// The user is created and recorded.
    #[oai(status = 201)]
    Done(J<CreatedUserBody>),
}

#[derive(ApiResponse)]
enum Changed {
    /// The user is changed, and the change is recorded.
    #[oai(status = 200)]
    Done(J<ChangedUserBody>),
    /// Another administrator must approve; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<ChangedUserBody>),
}

#[derive(ApiResponse)]
enum Deleted {
    /// The user is deleted.
    #[oai(status = 204)]
    Done,
    /// Another administrator must approve; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<AwaitsApprovalBody>),
}

#[derive(ApiResponse)]
enum PasswordReset {
    /// The old password no longer works, and the link is being mailed or is in this response.
    #[oai(status = 200)]
    Done(J<ResetPasswordBody>),
    /// Another administrator must approve; nothing has been changed.
    #[oai(status = 202)]
    Awaits(J<ResetPasswordBody>),
}

type Errors = ApiErr<{ SECURED | S400 | S404 | S409 | S429 }>;
type ErrorsWithBody = ApiErr<{ SECURED | S400 | S404 | S409 | S429 | BODY }>;

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Users")]
impl UserApi {
    /// List users.
    ///
    /// Lists the users of the caller's organisation, ordered by e-mail address. Without `page` and `size`,
    /// returns all matches, or 400 if there are more than 10,000. `X-Total-Count` has the total number of
    /// matches. Requires the role `ORG_ADMIN`, or an API key with scope `users:read`.
    #[oai(path = "/users", method = "get", operation_id = "listUsers")]
    async fn list_users(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// Return only users whose e-mail address or name contains this text.
        #[oai(validator(max_length = 320))]
        query: Query<Option<String>>,
        /// Page number, from 0; 0 if only `size` is given.
        page: Query<Option<u32>>,
        /// Maximum number of users on the page; 50 if only `page` is given.
        #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
        size: Query<Option<u32>>,
    ) -> Result<Listed<Vec<UserBody>>, ApiErr<{ SECURED | S400 | S429 }>> {
        let filter = UserFilter {
            query: query.0,
            page: page.0.map(u64::from),
            size: size.0.map(u64::from),
        };
        let (users, total) = administration::list_users(&services, &reader.who, filter).await?;
        Ok(Listed {
            items: users.into_iter().map(UserBody::from).collect(),
            total,
        })
    }

    /// Get a user.
    ///
    /// Requires the role `ORG_ADMIN`, or an API key with scope `users:read`.
    #[oai(path = "/users/:id", method = "get", operation_id = "getUser")]
    async fn find_user(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// Id of the user.
        id: Path<Uuid>,
    ) -> Result<J<UserBody>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let user = administration::find_user(&services, &reader.who, UserId(id.0))?;
        Ok(J(user.into()))
    }

    /// Create a user.
    ///
    /// The user gets a link to set a password, which can be used once within seven days: by mail if the
    /// appliance sends mail, otherwise in this response. Nobody else ever chooses the password. Requires the
    /// role `ORG_ADMIN`.
    #[oai(path = "/users", method = "post", operation_id = "createUser")]
    async fn create_user(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        body: J<CreateUserBody>,
    ) -> Result<Created, ErrorsWithBody> {
        let (user, shown) = users::create_user(&services, &caller.0, &context.0, new_person(body.0)).await?;
        let (invitation_link, invitation_expires_at) = link(shown);
        Ok(Created::Done(J(CreatedUserBody {
            user: user.into(),
            invitation_link,
            invitation_expires_at,
        })))
    }

    /// Change a user.
    ///
    /// Absent fields stay as they are. A new role and deactivation end the user's sessions at once. If the
    /// organisation lets administrators change other administrators only with the approval of a second one,
    /// such a change waits for it (202). Requires the role `ORG_ADMIN`.
    #[oai(path = "/users/:id", method = "patch", operation_id = "updateUser")]
    async fn update_user(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the user.
        id: Path<WrittenId>,
        body: J<UserPatchBody>,
    ) -> Result<Changed, ErrorsWithBody> {
        let outcome = users::update_user(&services, &caller.0, &context.0, &id.0.0, patch(body.0)).await?;
        let awaits = outcome.approval_id.is_some();
        let body = J(changed(outcome));
        Ok(if awaits {
            Changed::Awaits(body)
        } else {
            Changed::Done(body)
        })
    }

    /// Delete a user.
    ///
    /// Deletes the user and everything that belongs to them; the audit trail stays. With `erase`, their
    /// personal data in the trail is erased as well, within minutes: addresses, names, client addresses,
    /// details, and what policies were told. What happened to which id, and when, stays, and every proof
    /// remains valid. Erasing always waits for the approval of another administrator (202). Requires the role
    /// `ORG_ADMIN`.
    #[oai(path = "/users/:id", method = "delete", operation_id = "deleteUser")]
    async fn delete_user(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the user.
        id: Path<WrittenId>,
        /// Whether to erase the user's personal data from the audit trail, too.
        #[oai(default)]
        erase: Query<bool>,
    ) -> Result<Deleted, Errors> {
        let outcome = if erase.0 {
            users::erase_user(&services, &caller.0, &context.0, &id.0.0).await?
        } else {
            users::delete_user(&services, &caller.0, &context.0, &id.0.0).await?
        };
        Ok(match outcome.approval_id {
            None => Deleted::Done,
            Some(id) => Deleted::Awaits(J(AwaitsApprovalBody {
                message: "Deletion awaits approval".into(),
                approval_id: id.to_string(),
            })),
        })
    }

    /// Reset a user's password.
    ///
    /// The old password no longer works, sessions end, and the user gets a link to set a new one, which can be
    /// used once within seven days: by mail if the appliance sends mail, otherwise in this response. Second
    /// factors stay. Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/users/:id/reset-password",
        method = "post",
        operation_id = "resetPassword"
    )]
    async fn reset_password(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        /// Id of the user.
        id: Path<WrittenId>,
    ) -> Result<PasswordReset, Errors> {
        let outcome = users::reset_password(&services, &caller.0, &context.0, &id.0.0).await?;
        let awaits = outcome.approval_id.is_some();
        let (invitation_link, invitation_expires_at) = link(outcome.invitation);
        let body = J(ResetPasswordBody {
            message: if awaits {
                "Password reset awaits approval".into()
            } else {
                "Password reset successfully".into()
            },
            approval_id: outcome.approval_id.map(|id| id.to_string()),
            invitation_link,
            invitation_expires_at,
        });
        Ok(if awaits {
            PasswordReset::Awaits(body)
        } else {
            PasswordReset::Done(body)
        })
    }
}

fn changed(outcome: Outcome) -> ChangedUserBody {
    ChangedUserBody {
        user: outcome.user.into(),
        approval_id: outcome.approval_id.map(|id| id.to_string()),
        enrolment_code: outcome.enrolment_code,
    }
}

/// Returns the link to set a password and its expiry, if the link has to be shown.
pub(super) fn link(shown: Option<ShownLink>) -> (Option<String>, Option<Time>) {
    shown.map(|shown| (shown.link, Time(shown.expires_at))).unzip()
}

fn new_person(body: CreateUserBody) -> Checked<NewPerson> {
    Ok(NewPerson {
        role: role(body.role, body.is_org_admin)?.unwrap_or(Role::Member),
        email: body.email,
        name: body.name,
    })
}

fn patch(body: UserPatchBody) -> Checked<UserPatch> {
    if body.locked == Some(true) {
        return Err(Error::field(
            "locked",
            "can only be false; to lock somebody out, set isActive to false",
        ));
    }
    Ok(UserPatch {
        name: match body.name {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(String::new()),
            MaybeUndefined::Value(name) => Some(name),
        },
        role: role(body.role, body.is_org_admin)?,
        no_admin: body.is_org_admin == Some(false),
        active: body.is_active,
        unlock: body.locked == Some(false),
    })
}

/// Returns the role named by `role` and `isOrgAdmin`, which must not contradict each other.
fn role(role: Option<RoleBody>, is_org_admin: Option<bool>) -> Checked<Option<Role>> {
    let named = role.map(|role| match role {
        RoleBody::Member => Role::Member,
        RoleBody::HelpDesk => Role::HelpDesk,
        RoleBody::OrgAdmin => Role::OrgAdmin,
    });
    match (named, is_org_admin) {
        (Some(role), Some(admin)) if admin != (role == Role::OrgAdmin) => {
            Err(Error::field("role", "contradicts isOrgAdmin"))
        }
        (Some(role), _) => Ok(Some(role)),
        (None, Some(true)) => Ok(Some(Role::OrgAdmin)),
        (None, _) => Ok(None),
    }
}
