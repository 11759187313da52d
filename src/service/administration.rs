//! Organisations, users and settings, as their admins and the command line change them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{RequestContext, Services};
use crate::domain::account::{
    OrgAdmin, Organization, OrganizationId, OrganizationSettings, Role, User, UserId,
};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::store::{accounts, audit};

/// Longest name, e-mail address or slug, in characters.
const TEXT_LIMIT: usize = 320;
/// Users in a page when none is asked for but a page is: contract B3.
const PAGE_SIZE: u64 = 50;
/// Users in a page at most.
const PAGE_LIMIT: u64 = 1_000;

/// What a new organisation starts with.
#[derive(Clone, Debug)]
pub struct NewOrganization {
    /// Chosen id; random when absent.
    pub id: Option<Uuid>,
    /// The name used at login.
    pub slug: String,
    /// The name shown to people.
    pub name: String,
    /// What it decides for itself.
    pub settings: OrganizationSettings,
}

/// What a new user starts with.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Chosen id; random when absent.
    pub id: Option<Uuid>,
    /// E-mail address.
    pub email: String,
    /// Name shown to people.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
    /// Argon2id hash of the password, if there is one already.
    pub password_hash: Option<String>,
}

/// Makes an organisation. Only the command line does this.
///
/// # Errors
/// [`Error::Validation`], or [`Error::Conflict`] when the slug is taken.
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

/// Makes a user: by the command line, or by an admin for their own organisation.
///
/// # Errors
/// [`Error::Validation`], or [`Error::Conflict`] when the e-mail address is taken.
pub async fn create_user(
    services: &Services,
    organization: OrganizationId,
    new: NewUser,
    actor: ActorRef,
    context: Option<&RequestContext>,
) -> Result<User> {
    let at = context.map_or_else(|| services.clock.now(), |c| c.at);
    check_user(&new)?;
    let user = User {
        id: UserId(new.id.unwrap_or_else(|| services.entropy.uuid(at))),
        organization_id: organization,
        email: new.email.trim().to_owned(),
        name: new.name,
        role: new.role,
        active: true,
        mfa_enabled: false,
        locked: None,
        enrolment_due: None,
        last_login_at: None,
        password_changed_at: new.password_hash.as_ref().map(|_| at),
        created_at: at,
        updated_at: at,
        revision: 0,
    };
    let mut event = Event::new(EventType::UserCreate, Some(organization), actor)
        .on(Resource::user(&user))
        .with("role", json!(user.role));
    if let Some(context) = context {
        event = event.from_request(&context.request_id, context.ip_text().as_deref());
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
    /// Part of an e-mail address or name.
    pub query: Option<String>,
    /// Page, from 0.
    pub page: Option<u64>,
    /// Users in a page, 1–1,000.
    pub size: Option<u64>,
}

/// The users of the admin's organisation, by e-mail address, and how many match in all. Without page
/// and size: all of them.
///
/// # Errors
/// [`Error::Validation`] for a page or size out of range.
pub async fn list_users(
    services: &Services,
    admin: OrgAdmin<'_>,
    filter: UserFilter,
) -> Result<(Vec<User>, u64)> {
    let paged = filter.page.is_some() || filter.size.is_some();
    let size = filter
        .size
        .unwrap_or(if paged { PAGE_SIZE } else { u64::from(u32::MAX) });
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
    let organization = admin.organization.id;
    services
        .store
        .read_long(move |db| accounts::page_users(db, organization, filter.query.as_deref(), offset, size))
        .await
}

/// One user of the admin's organisation.
///
/// # Errors
/// [`Error::UserNotFound`], the same for a user of another organisation.
pub fn find_user(services: &Services, admin: OrgAdmin<'_>, id: UserId) -> Result<User> {
    services
        .store
        .read(|db| accounts::find_user(db, admin.organization.id, id))?
        .ok_or_else(|| Error::UserNotFound(id.to_string()))
}

/// Changes to settings: only what is `Some` changes.
#[derive(Clone, Debug, Default)]
pub struct SettingsPatch {
    /// As in [`OrganizationSettings`].
    pub mfa_required: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub password_min_length: Option<u16>,
    /// As in [`OrganizationSettings`].
    pub password_require_uppercase: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub password_require_lowercase: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub password_require_digit: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub password_require_special_char: Option<bool>,
    /// As in [`OrganizationSettings`]; `Some(None)` switches expiry off.
    pub password_expiration_days: Option<Option<u16>>,
    /// As in [`OrganizationSettings`].
    pub time_zone: Option<String>,
    /// As in [`OrganizationSettings`].
    pub enrolment_window_hours: Option<u16>,
    /// As in [`OrganizationSettings`].
    pub enrolment_code_required: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub help_desk_enabled: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub admin_on_admin: Option<crate::domain::account::AdminOnAdmin>,
    /// As in [`OrganizationSettings`]; `Some(None)` switches step-up off.
    pub step_up_minutes: Option<Option<u16>>,
    /// As in [`OrganizationSettings`]; `Some(None)` removes it.
    pub security_contact: Option<Option<String>>,
}

/// Changes the organisation's settings and records what changed.
///
/// # Errors
/// [`Error::Validation`], with nothing changed.
pub async fn update_settings(
    services: &Services,
    admin: OrgAdmin<'_>,
    context: &RequestContext,
    patch: SettingsPatch,
) -> Result<OrganizationSettings> {
    let (id, at) = (admin.organization.id, context.at);
    let event = Event::by(&admin, EventType::OrganizationSettingsUpdate)
        .on(Resource::other(
            "ORGANIZATION",
            id,
            Some(admin.organization.slug.clone()),
        ))
        .from_request(&context.request_id, context.ip_text().as_deref());
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write(move |tx| {
            // Read in the transaction: two admins who change different fields both get their way.
            let organization = accounts::find_organization(tx, id)?.ok_or_else(|| Error::NotFound {
                what: "Organization",
                id: id.to_string(),
            })?;
            let settings = patched(organization.settings.clone(), &patch);
            check_settings(&settings)?;
            let changes = differences(&organization.settings, &settings)?;
            if !changes.is_empty() {
                accounts::update_settings(tx, id, &settings, at)?;
                let event = event.clone().with("changes", Value::Object(changes));
                audit::append_entry(tx, at, entry_id, &event)?;
            }
            Ok(settings)
        })
        .await
}

fn patched(mut settings: OrganizationSettings, patch: &SettingsPatch) -> OrganizationSettings {
    fn set<T: Clone>(field: &mut T, value: Option<&T>) {
        if let Some(value) = value {
            field.clone_from(value);
        }
    }
    set(&mut settings.mfa_required, patch.mfa_required.as_ref());
    set(
        &mut settings.password_min_length,
        patch.password_min_length.as_ref(),
    );
    set(
        &mut settings.password_require_uppercase,
        patch.password_require_uppercase.as_ref(),
    );
    set(
        &mut settings.password_require_lowercase,
        patch.password_require_lowercase.as_ref(),
    );
    set(
        &mut settings.password_require_digit,
        patch.password_require_digit.as_ref(),
    );
    set(
        &mut settings.password_require_special_char,
        patch.password_require_special_char.as_ref(),
    );
    set(
        &mut settings.password_expiration_days,
        patch.password_expiration_days.as_ref(),
    );
    set(&mut settings.time_zone, patch.time_zone.as_ref());
    set(
        &mut settings.enrolment_window_hours,
        patch.enrolment_window_hours.as_ref(),
    );
    set(
        &mut settings.enrolment_code_required,
        patch.enrolment_code_required.as_ref(),
    );
    set(&mut settings.help_desk_enabled, patch.help_desk_enabled.as_ref());
    set(&mut settings.admin_on_admin, patch.admin_on_admin.as_ref());
    set(&mut settings.step_up_minutes, patch.step_up_minutes.as_ref());
    set(&mut settings.security_contact, patch.security_contact.as_ref());
    settings
}

/// Field → `{from, to}` for each setting that changes.
fn differences(before: &OrganizationSettings, after: &OrganizationSettings) -> Result<Map<String, Value>> {
    let object = |settings: &OrganizationSettings| match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => Ok(fields),
        other => Err(Error::Internal(format!("settings are no object: {other:?}"))),
    };
    let (before, after) = (object(before)?, object(after)?);
    Ok(after
        .into_iter()
        .filter(|(field, to)| before.get(field) != Some(to))
        .map(|(field, to)| {
            let from = before.get(&field).cloned().unwrap_or_default();
            (field, json!({ "from": from, "to": to }))
        })
        .collect())
}

/// What settings must satisfy, for every door they come in by.
///
/// # Errors
/// [`Error::Validation`] with every field that breaks a rule.
pub fn check_settings(settings: &OrganizationSettings) -> Result<()> {
    let mut problems = BTreeMap::new();
    let mut require = |ok: bool, field: &str, rule: &str| {
        if !ok {
            problems.insert(field.to_owned(), rule.to_owned());
        }
    };
    require(
        (8..=128).contains(&settings.password_min_length),
        "passwordMinLength",
        "must be between 8 and 128",
    );
    require(
        settings
            .password_expiration_days
            .is_none_or(|days| (1..=365).contains(&days)),
        "passwordExpirationDays",
        "must be between 1 and 365, or null",
    );
    require(
        TimeZone::get(&settings.time_zone).is_ok(),
        "timeZone",
        "must be an IANA time zone such as Europe/Berlin",
    );
    require(
        (1..=720).contains(&settings.enrolment_window_hours),
        "enrolmentWindowHours",
        "must be between 1 and 720",
    );
    require(
        settings
            .step_up_minutes
            .is_none_or(|minutes| (1..=1440).contains(&minutes)),
        "stepUpMinutes",
        "must be between 1 and 1440, or null",
    );
    require(
        settings.security_contact.as_deref().is_none_or(is_email),
        "securityContact",
        "must be an e-mail address, or null",
    );
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Validation(problems))
    }
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

pub(super) fn check_user(new: &NewUser) -> Result<()> {
    let mut problems = BTreeMap::new();
    if !is_email(new.email.trim()) {
        problems.insert("email".to_owned(), "must be an e-mail address".to_owned());
    }
    if new
        .name
        .as_ref()
        .is_some_and(|name| name.chars().count() > TEXT_LIMIT)
    {
        problems.insert(
            "name".to_owned(),
            format!("must have at most {TEXT_LIMIT} characters"),
        );
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Validation(problems))
    }
}

/// An address that lettre, which will send to it, can read.
#[must_use]
pub fn is_email(text: &str) -> bool {
    text.len() <= TEXT_LIMIT && text.contains('@') && text.parse::<lettre::Address>().is_ok()
}

/// The organisation's local time zone; settings were checked when they were saved.
#[must_use]
pub fn utc_offset_minutes(settings: &OrganizationSettings, at: Timestamp) -> i16 {
    let zone = TimeZone::get(&settings.time_zone).unwrap_or(TimeZone::UTC);
    i16::try_from(zone.to_offset(at).seconds() / 60).unwrap_or(0)
}
