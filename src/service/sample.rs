//! Sample organisations for the demo: validated as a whole, then loaded in one transaction or not at all. Every
//! account is recorded in the trail like any other.

mod load;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Services;
use super::administration::{NewOrganization, NewUser, check_organization, check_user};
use crate::domain::account::{OrganizationId, OrganizationSettings, Role, User, may_create};
use crate::domain::credential::password_problems;
use crate::domain::second_factor::{Code, TotpSecret};
use crate::domain::{Error, Result};
use crate::store::accounts;
use load::Load;

/// A sample file, as written. `fixtures/sample.toml` is one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Organisations; at least one.
    #[serde(rename = "organization")]
    pub organizations: Vec<SampleOrganization>,
}

/// An organisation of a sample.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleOrganization {
    /// Id.
    pub id: Uuid,
    /// The short name used at login.
    pub slug: String,
    /// The display name.
    pub name: String,
    /// Settings; those left out have the defaults of a new organisation.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// Its users.
    #[serde(default, rename = "user")]
    pub users: Vec<SampleUser>,
    /// Its policies, in the order in which they are asked.
    #[serde(default, rename = "plugin")]
    pub plugins: Vec<SamplePlugin>,
}

/// A user of a sample.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SampleUser {
    /// Id.
    pub id: Uuid,
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
    /// Password, which is public.
    pub password: String,
    /// Whether the account is active.
    #[serde(default = "yes")]
    pub active: bool,
    /// TOTP secret in base 32, if MFA is enabled.
    pub totp_secret: Option<String>,
    /// Recovery codes, if any.
    #[serde(default)]
    pub recovery_codes: Vec<String>,
}

/// A policy of a sample.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplePlugin {
    /// Name of a built-in example, or a `.wasm` file.
    pub plugin: String,
    /// Its configuration.
    pub config: Map<String, Value>,
    /// Effects granted to it.
    #[serde(default)]
    pub grants: Vec<String>,
}

fn yes() -> bool {
    true
}

/// Returns how many steps [`load_sample`] reports.
#[must_use]
pub fn steps(sample: &Sample) -> usize {
    sample
        .organizations
        .iter()
        .map(|o| o.users.len() + o.plugins.len())
        .sum()
}

/// Validates a sample and loads it. `module` returns the bytes of a plugin that the sample names; `step` is
/// called with the next step.
///
/// # Errors
/// [`Error::Validation`] with everything that is wrong with the sample, [`Error::PluginRefused`],
/// [`Error::Conflict`] if part of it exists already; nothing is loaded then.
pub async fn load_sample(
    services: &Services,
    sample: &Sample,
    module: impl Fn(&str) -> Result<Vec<u8>>,
    step: impl Fn(&str),
) -> Result<()> {
    check(sample)?;
    let mut load = Load::new(services.clock.now());
    for from in &sample.organizations {
        load.organization(services, from)?;
        for user in &from.users {
            step(&user.email);
            load.user(services, from, user).await?;
        }
        for (position, plugin) in (0..).zip(&from.plugins) {
            step(&plugin.plugin);
            load.plugin(services, from, plugin, position, module(&plugin.plugin)?)
                .await?;
        }
    }
    services.store.write(move |tx| load.write(tx)).await
}

fn check(sample: &Sample) -> Result<()> {
    let mut problems = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut keep = |place: &str, result: Result<()>| match result {
        Ok(()) => {}
        Err(Error::Validation(found)) => {
            problems.extend(
                found
                    .into_iter()
                    .map(|(field, problem)| (format!("{place}.{field}"), problem)),
            );
        }
        Err(other) => {
            problems.insert(place.to_owned(), other.to_string());
        }
    };
    let mut once = |field: &str, value: String| {
        if seen.insert(value) {
            Ok(())
        } else {
            Err(Error::field(field, "appears twice"))
        }
    };
    if sample.organizations.is_empty() {
        keep("organization", Err(Error::Malformed("there is none".to_owned())));
    }
    for (o, organization) in sample.organizations.iter().enumerate() {
        let place = format!("organization[{o}]");
        keep(
            &place,
            new_organization(organization).and_then(|new| check_organization(&new)),
        );
        keep(&place, once("id", organization.id.to_string()));
        keep(&place, once("slug", organization.slug.clone()));
        // Invalid settings are reported above; the passwords are then checked against the built-in rules.
        let rules = settings(organization).unwrap_or_default();
        for (u, user) in organization.users.iter().enumerate() {
            let place = format!("{place}.user[{u}]");
            keep(&place, check_user(&new_user(user)));
            let operator = User::operator(OrganizationId(organization.id));
            keep(&place, may_create(&operator, &rules, user.role));
            keep(&place, once("id", user.id.to_string()));
            let address = format!("{} {}", organization.slug, accounts::email_key(&user.email));
            keep(&place, once("email", address));
            keep(&place, check_secrets(user, &rules));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Validation(problems))
    }
}

/// Returns the organisation's settings. Unlike those in the database they are written by hand, so an unknown
/// name is a mistake.
fn settings(of: &SampleOrganization) -> Result<OrganizationSettings> {
    let known = serde_json::to_value(OrganizationSettings::default()).unwrap_or_default();
    if let Some(unknown) = of.settings.keys().find(|key| known.get(key.as_str()).is_none()) {
        return Err(Error::field("settings", format!("{unknown} is unknown")));
    }
    serde_json::from_value(Value::Object(of.settings.clone()))
        .map_err(|e| Error::field("settings", e.to_string()))
}

fn check_secrets(user: &SampleUser, settings: &OrganizationSettings) -> Result<()> {
    let mut problems = BTreeMap::new();
    let password = password_problems(&user.password, settings);
    if !password.is_empty() {
        problems.insert("password".to_owned(), password.join(", "));
    }
    if user
        .totp_secret
        .as_deref()
        .is_some_and(|secret| totp_secret(secret).is_err())
    {
        problems.insert(
            "totp-secret".to_owned(),
            "must be 32 characters of base 32".to_owned(),
        );
    }
    if user.totp_secret.is_none() && !user.recovery_codes.is_empty() {
        problems.insert(
            "recovery-codes".to_owned(),
            "need a totp-secret beside them".to_owned(),
        );
    }
    if !user
        .recovery_codes
        .iter()
        .all(|code| matches!(Code::parse(code), Some(Code::Recovery(_))))
    {
        problems.insert(
            "recovery-codes".to_owned(),
            "must each have 8 to 32 characters of base 32".to_owned(),
        );
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Validation(problems))
    }
}

fn totp_secret(base32: &str) -> Result<TotpSecret> {
    let bytes = data_encoding::BASE32_NOPAD
        .decode(base32.as_bytes())
        .map_err(|e| Error::Malformed(format!("the TOTP secret is not base 32: {e}")))?;
    TotpSecret::from_bytes(&bytes)
}

fn new_organization(from: &SampleOrganization) -> Result<NewOrganization> {
    Ok(NewOrganization {
        id: Some(from.id),
        slug: from.slug.clone(),
        name: from.name.clone(),
        settings: settings(from)?,
    })
}

fn new_user(from: &SampleUser) -> NewUser {
    NewUser {
        id: Some(from.id),
        email: from.email.clone(),
        name: from.name.clone(),
        role: from.role,
        password_hash: None,
    }
}
