//! Organisations, users and settings, as changed by their admins and from the command line.

mod settings;

use std::collections::BTreeMap;

use serde_json::json;
use uuid::Uuid;

pub use settings::{
    SettingsPatch, check_settings, find_settings, find_webhook_secret, set_settings, update_settings,
    utc_offset_minutes,
};

use super::api_keys::Reader;
use super::{RequestContext, Services};
use crate::domain::account::{Organization, OrganizationId, OrganizationSettings, Role, Scope, User, UserId};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::store::{accounts, audit};

/// Longest name, e-mail address or slug, in characters.
const TEXT_LIMIT: usize = 320;
/// Users per page if a page but no size is requested. Without either parameter all users are listed.
const PAGE_SIZE: u64 = 50;
/// Maximum users per page.
const PAGE_LIMIT: u64 = 1_000;
/// Maximum users listed without paging: bounds the memory of one answer.
const LIST_LIMIT: u64 = 10_000;

/// Attributes of a new organisation.
#[derive(Clone, Debug)]
pub struct NewOrganization {
    /// Given id; random if absent.
    pub id: Option<Uuid>,
    /// The short name used at login.
    pub slug: String,
    /// The display name.
    pub name: String,
    /// Its initial settings.
    pub settings: OrganizationSettings,
}

/// Attributes of a new user.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Given id; random if absent.
    pub id: Option<Uuid>,
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
    /// Argon2id hash of the password, if one is set already.
    pub password_hash: Option<String>,
}

/// Creates an organisation. Only the command line does this.
///
/// # Errors
/// [`Error::Validation`], or [`Error::Conflict`] if the slug is taken.
pub async fn create_organization(services: &Services, new: NewOrganization) -> Result<Organization> {
    let at = services.clock.now();
    check_organization(&new)?;
    let organization = Organization {
        id: OrganizationId(new.id.unwrap_or_else(|| services.entropy.uuid(at))),
        slug: new.slug,
        name: new.name,
        settings: new.settings,
        revision: 0,
    };
    let event = Event::new(
        EventType::OrganizationCreate,
        Some(organization.id),
        ActorRef::operator(),
    )
    .on(Resource::other(
        "ORGANIZATION",
        organization.id,
        Some(organization.slug.clone()),
    ));
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            accounts::insert_organization(tx, &organization, at)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(organization.clone())
        })
        .await
}

/// Creates a user, from the command line or by an admin for their own organisation.
///
/// # Errors
/// [`Error::Validation`], or [`Error::Conflict`] if the e-mail address is taken.
pub async fn create_user(
    services: &Services,
    organization: OrganizationId,
    new: NewUser,
    actor: ActorRef,
    context: Option<&RequestContext>,
) -> Result<User> {
    let at = context.map_or_else(|| services.clock.now(), |c| c.at);
    check_user(&new)?;
    let id = UserId(new.id.unwrap_or_else(|| services.entropy.uuid(at)));
    let email = new.email.trim().to_owned();
    let user = User {
        password_changed_at: new.password_hash.as_ref().map(|_| at),
        ..User::new(id, organization, email, new.name, new.role, at)
    };
    let mut event = Event::new(EventType::UserCreate, Some(organization), actor)
        .on(Resource::user(&user))
        .with("role", json!(user.role));
    if let Some(context) = context {
        event = event.from_request(&context.request_id, context.ip);
    }
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            accounts::insert_user(tx, &user, new.password_hash.as_deref())?;
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(user.clone())
        })
        .await
}

/// Which users to list.
#[derive(Clone, Debug, Default)]
pub struct UserFilter {
    /// Substring of an e-mail address or name.
    pub query: Option<String>,
    /// Page number, from 0.
    pub page: Option<u64>,
    /// Users per page, 1–1,000.
    pub size: Option<u64>,
}

/// Returns the users of the admin's organisation, ordered by e-mail address, and how many match in total.
/// Without page and size, returns all of them.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::MissingScope`], [`Error::RateLimited`], [`Error::Validation`] for a page or size
/// out of range.
pub async fn list_users(
    services: &Services,
    reader: &Reader,
    filter: UserFilter,
) -> Result<(Vec<User>, u64)> {
    let organization = reader.admit(services, Scope::UsersRead)?.organization().id;
    let paged = filter.page.is_some() || filter.size.is_some();
    let size = filter.size.unwrap_or(if paged { PAGE_SIZE } else { LIST_LIMIT });
    if paged && !(1..=PAGE_LIMIT).contains(&size) {
        return Err(Error::field(
            "size",
            format!("must be between 1 and {PAGE_LIMIT}"),
        ));
    }
    let offset = filter
        .page
        .unwrap_or(0)
        .checked_mul(size)
        .filter(|offset| i64::try_from(*offset).is_ok())
        .ok_or_else(|| Error::field("page", "is too large"))?;
    let (users, total) = services
        .store
        .read_long(Some(organization), move |db| {
            accounts::page_users(db, organization, filter.query.as_deref(), offset, size)
        })
        .await?;
    if !paged && total > LIST_LIMIT {
        return Err(Error::field(
            "size",
            format!("is needed with more than {LIST_LIMIT} users ({total} match): ask for pages"),
        ));
    }
    Ok((users, total))
}

/// Returns one user of the admin's organisation.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::MissingScope`], [`Error::RateLimited`]; [`Error::UserNotFound`], also for a
/// user of another organisation.
pub fn find_user(services: &Services, reader: &Reader, id: UserId) -> Result<User> {
    let organization = reader.admit(services, Scope::UsersRead)?.organization().id;
    services
        .store
        .read(|db| accounts::find_user(db, organization, id))?
        .ok_or_else(|| Error::UserNotFound(id.to_string()))
}

pub(super) fn check_organization(new: &NewOrganization) -> Result<()> {
    let slug_ok = (1..=63).contains(&new.slug.len())
        && new
            .slug
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !slug_ok {
        return Err(Error::field(
            "slug",
            "must be 1 to 63 lower-case letters, digits and hyphens",
        ));
    }
    if new.name.trim().is_empty() || new.name.chars().count() > TEXT_LIMIT {
        return Err(Error::field(
            "name",
            format!("must have 1 to {TEXT_LIMIT} characters"),
        ));
    }
    check_settings(&new.settings)
}

pub(in crate::service) fn check_user(new: &NewUser) -> Result<()> {
    let mut problems = BTreeMap::new();
    if !is_email(new.email.trim()) {
        problems.insert("email".to_owned(), "must be an e-mail address".to_owned());
    }
    if let Some(problem) = new.name.as_deref().and_then(name_problem) {
        problems.insert("name".to_owned(), problem);
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Validation(problems))
    }
}

/// Returns what is wrong with a user's name, if anything. Names appear in mails and tables, so they may not
/// contain line breaks.
pub(in crate::service) fn name_problem(name: &str) -> Option<String> {
    if name.chars().count() > TEXT_LIMIT {
        return Some(format!("must have at most {TEXT_LIMIT} characters"));
    }
    let printable = !name.chars().any(char::is_control);
    (!printable).then(|| "must have no control characters".to_owned())
}

/// True if the text is an address that lettre, which sends the mail, can parse.
#[must_use]
pub fn is_email(text: &str) -> bool {
    text.len() <= TEXT_LIMIT && text.contains('@') && text.parse::<lettre::Address>().is_ok()
}
