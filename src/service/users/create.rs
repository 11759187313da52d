//! Creating a user of the admin's organisation, who is sent a link to set a password.

use serde_json::json;

use super::invitation::{Invitation, ShownLink};
use crate::domain::account::{OrgAdmin, Principal, Role, User, UserId, may_create};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::error::TokenFault;
use crate::domain::{Error, Result};
use crate::service::administration::{NewUser, check_user};
use crate::service::refusals::{admit_admin, record_refusal};
use crate::service::{RequestContext, Services, deliveries, notices};
use crate::store::{accounts, audit, sessions};

/// A new user, as specified by an admin.
#[derive(Clone, Debug)]
pub struct NewPerson {
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
}

/// Creates a user without a password and sends them a link to set one. If mail is not configured the admin is
/// shown the link once, to hand over.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::MayNotAct`] if the rule between admins forbids
/// it, [`Error::Validation`], [`Error::Conflict`] if the address is taken, [`Error::RateLimited`]. Each is
/// recorded in the trail.
pub async fn create_user(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    new: Result<NewPerson>,
) -> Result<(User, Option<ShownLink>)> {
    let attempt = async {
        let admin = admit_admin(services, principal, context)?;
        insert(services, admin, context, new?).await
    };
    match attempt.await {
        Ok(made) => Ok(made),
        Err(error) => {
            let nobody_yet = Resource::other("USER", "", None);
            Err(record_refusal(
                services,
                principal,
                context,
                EventType::UserCreate,
                nobody_yet,
                error,
            )
            .await)
        }
    }
}

async fn insert(
    services: &Services,
    admin: OrgAdmin<'_>,
    context: &RequestContext,
    new: NewPerson,
) -> Result<(User, Option<ShownLink>)> {
    let at = context.at;
    let organization = &admin.organization;
    if new.role == Role::HelpDesk && !organization.settings.help_desk_enabled {
        return Err(Error::field(
            "role",
            "HELP_DESK is not enabled in this organisation",
        ));
    }
    let checked = NewUser {
        id: None,
        email: new.email,
        name: new.name.filter(|name| !name.trim().is_empty()),
        role: new.role,
        password_hash: None,
    };
    check_user(&checked)?;
    let email = checked.email.trim().to_owned();
    let id = UserId(services.entropy.uuid(at));
    let user = User::new(id, organization.id, email, checked.name, checked.role, at);
    let invitation = Invitation::new(services, &user, at);
    let mut owed: Vec<_> = invitation
        .welcome_mail(services, organization, &notices::called(&admin.user), &user)
        .into_iter()
        .collect();
    if user.role >= Role::OrgAdmin {
        let admins = services
            .store
            .read(|db| accounts::find_active_admins(db, organization.id))?;
        let emails: Vec<_> = admins.into_iter().map(|admin| admin.email).collect();
        owed.extend(notices::of_new_admin(
            services,
            organization,
            &admin.user,
            &user,
            &emails,
        ));
    }
    let shown = invitation.shown.clone();
    let event = Event::new(
        EventType::UserCreate,
        Some(organization.id),
        ActorRef::user(&admin.user),
    )
    .on(Resource::user(&user))
    .from_request(&context.request_id, context.ip)
    .with("role", json!(user.role));
    let event = invitation.describe(event);
    let entry_id = services.entropy.uuid(at);
    let (organization, caller, session) = (organization.id, admin.user.id, admin.session.clone());
    let made = services
        .store
        .write_for(organization, move |tx| {
            if !sessions::session_lives(tx, &session, at)? {
                return Err(Error::Token(TokenFault::Revoked));
            }
            let actor = accounts::find_user(tx, organization, caller)?.ok_or(Error::NotOrgAdmin)?;
            let now = accounts::find_organization(tx, organization)?.ok_or(Error::NotOrgAdmin)?;
            may_create(&actor, &now.settings, user.role)?;
            accounts::insert_user(tx, &user, None)?;
            invitation.keep(tx)?;
            let entry = audit::append_entry(tx, at, entry_id, &event)?;
            deliveries::owe(tx, &owed, entry.sequence, at)?;
            Ok(user.clone())
        })
        .await?;
    Ok((made, shown))
}
