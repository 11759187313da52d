//! An organisation's settings, as its admins and the operator change them.

mod changes;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::is_email;
use crate::courier::webhook::check_url;
use crate::domain::account::{
    AdminOnAdmin, OrgAdmin, Organization, OrganizationId, OrganizationSettings, PolicyChanges, Principal,
    may_loosen, may_loosen_policy_rules,
};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::error::TokenFault;
use crate::domain::{Error, Result};
use crate::service::login::ENROLMENT_SESSION_SECS;
use crate::service::refusals::{admit_admin, admit_reader, record_refusal};
use crate::service::trail::RETENTION_GRACE_DAYS;
use crate::service::{RequestContext, Services, deliveries, notices};
use crate::store::{Transaction, accounts, audit, factors, sessions};
use changes::{Warning, differences};

/// How often a change is re-evaluated if the settings changed in the meantime.
const ATTEMPTS: usize = 3;

/// Changes to settings: only fields that are `Some` change.
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
    pub enrolment_code_minutes: Option<u16>,
    /// As in [`OrganizationSettings`].
    pub help_desk_enabled: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub admin_on_admin: Option<AdminOnAdmin>,
    /// As in [`OrganizationSettings`]; `Some(None)` switches step-up off.
    pub step_up_minutes: Option<Option<u16>>,
    /// As in [`OrganizationSettings`]; `Some(None)` removes it.
    pub security_contact: Option<Option<String>>,
    /// As in [`OrganizationSettings`]; `Some(None)` removes it.
    pub webhook_url: Option<Option<String>>,
    /// As in [`OrganizationSettings`]; `Some(None)` keeps everything.
    pub audit_retention_days: Option<Option<u16>>,
    /// As in [`OrganizationSettings`].
    pub clean_replay_required: Option<bool>,
    /// As in [`OrganizationSettings`].
    pub policy_changes: Option<PolicyChanges>,
}

/// Returns the settings of the admin's organisation.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::RateLimited`].
pub fn find_settings(services: &Services, principal: &Principal) -> Result<OrganizationSettings> {
    Ok(admit_reader(services, principal)?.organization.settings.clone())
}

/// Returns the secret that signs the organisation's webhook calls, in the form that receivers expect
/// (`whsec_…`).
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::RateLimited`].
pub fn find_webhook_secret(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Zeroizing<String>> {
    let admin = admit_reader(services, principal)?;
    principal.stepped_up(context.at)?;
    let secret = services.keys.webhook_secret(Some(admin.organization.id));
    Ok(Zeroizing::new(format!("whsec_{}", STANDARD.encode(*secret))))
}

/// Changes the organisation's settings and records what changed.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::Validation`], [`Error::MayNotAct`] for what only
/// the operator may loosen, [`Error::Conflict`] if others change them at the same time, again and again,
/// [`Error::RateLimited`]; nothing is changed then, and each is recorded in the trail.
pub async fn update_settings(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    patch: SettingsPatch,
) -> Result<OrganizationSettings> {
    let attempt = async {
        let admin = admit_admin(services, principal, context)?;
        change_settings(services, admin, context, patch).await
    };
    match attempt.await {
        Ok(settings) => Ok(settings),
        Err(error) => {
            let (event_type, resource) = (
                EventType::OrganizationSettingsUpdate,
                Resource::other("ORGANIZATION", principal.organization.id, None),
            );
            Err(record_refusal(services, principal, context, event_type, resource, error).await)
        }
    }
}

async fn change_settings(
    services: &Services,
    admin: OrgAdmin<'_>,
    context: &RequestContext,
    patch: SettingsPatch,
) -> Result<OrganizationSettings> {
    if let Some(Some(url)) = &patch.webhook_url {
        check_url(services.courier.webhook_reach(), url)
            .map_err(|problem| Error::field("webhookUrl", problem))?;
    }
    let (id, at) = (admin.organization.id, context.at);
    let (caller, session) = (admin.user.id, admin.session.clone());
    let event = Event::by(&admin, EventType::OrganizationSettingsUpdate)
        .on(Resource::other(
            "ORGANIZATION",
            id,
            Some(admin.organization.slug.clone()),
        ))
        .from_request(&context.request_id, context.ip);
    let shorter = match patch.audit_retention_days {
        Some(Some(days)) => {
            let admins = services.store.read(|db| accounts::find_active_admins(db, id))?;
            notices::of_shorter_retention(services, &admin.organization, &admin.user, &admins, days)
        }
        _ => Vec::new(),
    };
    for _ in 0..ATTEMPTS {
        let mut warning = Warning::of(services, id, &patch, &notices::called(&admin.user), context)?;
        warning.shorter.clone_from(&shorter);
        let (session, patch, event) = (session.clone(), patch.clone(), event.clone());
        let entry_id = services.entropy.uuid(at);
        let change = move |tx: &Transaction<'_>| {
            if !sessions::session_lives(tx, &session, at)? {
                return Err(Error::Token(TokenFault::Revoked));
            }
            // Read inside the transaction: if two admins change different fields, both changes take effect.
            let (organization, settings) = read_patched(tx, id, &patch)?;
            let (before, after) = (organization.settings.admin_on_admin, settings.admin_on_admin);
            may_loosen(before, after)?;
            may_loosen_policy_rules(&organization.settings, &settings)?;
            let (changes_before, changes_after) =
                (organization.settings.policy_changes, settings.policy_changes);
            for (field, begins) in [
                (
                    "adminOnAdmin",
                    after == AdminOnAdmin::SecondAdmin && before != after,
                ),
                (
                    "policyChanges",
                    changes_after == PolicyChanges::SecondAdmin && changes_before != changes_after,
                ),
            ] {
                if begins && !accounts::other_admin_exists(tx, id, caller)? {
                    return Err(Error::field(
                        field,
                        "needs two administrators, and you are the only one",
                    ));
                }
            }
            write(tx, &organization, &settings, &warning, &event, at, entry_id)?;
            Ok(settings)
        };
        match services.store.write_for(id, change).await {
            Err(Error::Stale) => {} // the settings changed since the warning was prepared
            ended => return ended,
        }
    }
    Err(Error::Conflict(
        "The settings were changed at the same time. Try again".into(),
    ))
}

/// Changes an organisation's settings as the operator, who is not bound by the organisation's own rules.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Validation`].
pub async fn set_settings(
    services: &Services,
    slug: &str,
    patch: SettingsPatch,
) -> Result<OrganizationSettings> {
    let organization = crate::service::operator::find_organization(services, slug)?;
    let context = RequestContext::cli(services);
    let (id, at) = (organization.id, context.at);
    let event = Event::new(
        EventType::OrganizationSettingsUpdate,
        Some(id),
        ActorRef::operator(),
    )
    .on(Resource::other("ORGANIZATION", id, Some(organization.slug)))
    .from_request(&context.request_id, None);
    for _ in 0..ATTEMPTS {
        let warning = Warning::of(services, id, &patch, "The operator of the appliance", &context)?;
        let (patch, event) = (patch.clone(), event.clone());
        let entry_id = services.entropy.uuid(at);
        let change = move |tx: &Transaction<'_>| {
            let (organization, settings) = read_patched(tx, id, &patch)?;
            write(tx, &organization, &settings, &warning, &event, at, entry_id)?;
            Ok(settings)
        };
        match services.store.write(change).await {
            Err(Error::Stale) => {}
            ended => return ended,
        }
    }
    Err(Error::Stale)
}

/// Reads an organisation and returns it with the settings that the patch would result in.
fn read_patched(
    tx: &Transaction<'_>,
    id: OrganizationId,
    patch: &SettingsPatch,
) -> Result<(Organization, OrganizationSettings)> {
    let organization = accounts::find_organization(tx, id)?.ok_or_else(|| Error::NotFound {
        what: "Organization",
        id: id.to_string(),
    })?;
    let settings = patched(organization.settings.clone(), patch);
    check_settings(&settings)?;
    Ok((organization, settings))
}

/// Saves the settings and appends the audit entry of the changes; does neither if nothing changes.
///
/// # Errors
/// [`Error::Stale`] if the warning was prepared for other changes.
fn write(
    tx: &Transaction<'_>,
    organization: &Organization,
    settings: &OrganizationSettings,
    warning: &Warning,
    event: &Event,
    at: Timestamp,
    entry_id: Uuid,
) -> Result<()> {
    let changes = differences(&organization.settings, settings)?;
    if changes.is_empty() {
        return Ok(());
    }
    warning.still_holds(&organization.settings, settings)?;
    accounts::update_settings(tx, organization.id, settings, at)?;
    let mut event = event.clone().with("changes", Value::Object(changes));
    if is_shortened(&organization.settings, settings) {
        let effect = at + SignedDuration::from_hours(24 * RETENTION_GRACE_DAYS);
        event = event.with("auditRetentionTakesEffect", effect.to_string());
    }
    if settings.mfa_required && !organization.settings.mfa_required {
        let until = at + SignedDuration::from_secs(ENROLMENT_SESSION_SECS);
        let confined = factors::update_sessions_without_factor(tx, organization.id, until)?;
        event = event.with("sessionsConfined", confined);
    }
    let entry = audit::append_entry(tx, at, entry_id, &event)?;
    if is_shortened(&organization.settings, settings) {
        deliveries::owe(tx, &warning.shorter, entry.sequence, at)?;
    }
    deliveries::owe(tx, &warning.owed, entry.sequence, at)
}

/// True if the trail would be pruned sooner than before.
fn is_shortened(before: &OrganizationSettings, after: &OrganizationSettings) -> bool {
    let days = |settings: &OrganizationSettings| settings.audit_retention_days.unwrap_or(u16::MAX);
    days(after) < days(before)
}

fn patched(mut settings: OrganizationSettings, patch: &SettingsPatch) -> OrganizationSettings {
    macro_rules! take {
        ($($field:ident),* $(,)?) => {$(
            if let Some(value) = &patch.$field {
                settings.$field.clone_from(value);
            }
        )*};
    }
    take!(
        mfa_required,
        password_min_length,
        password_require_uppercase,
        password_require_lowercase,
        password_require_digit,
        password_require_special_char,
        password_expiration_days,
        time_zone,
        enrolment_window_hours,
        enrolment_code_required,
        enrolment_code_minutes,
        help_desk_enabled,
        admin_on_admin,
        step_up_minutes,
        security_contact,
        webhook_url,
        audit_retention_days,
        clean_replay_required,
        policy_changes,
    );
    settings
}

/// Checks the rules that all settings must satisfy, wherever they come from.
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
        (10..=1440).contains(&settings.enrolment_code_minutes),
        "enrolmentCodeMinutes",
        "must be between 10 and 1440",
    );
    require(
        settings
            .step_up_minutes
            .is_none_or(|minutes| (1..=1440).contains(&minutes)),
        "stepUpMinutes",
        "must be between 1 and 1440, or null",
    );
    require(
        settings
            .audit_retention_days
            .is_none_or(|days| (30..=36_500).contains(&days)),
        "auditRetentionDays",
        "must be between 30 and 36500, or null",
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

/// Returns the UTC offset of the organisation's time zone, in minutes; settings were checked when they were
/// saved.
#[must_use]
pub fn utc_offset_minutes(settings: &OrganizationSettings, at: Timestamp) -> i16 {
    let zone = TimeZone::get(&settings.time_zone).unwrap_or(TimeZone::UTC);
    i16::try_from(zone.to_offset(at).seconds() / 60).unwrap_or(0)
}
