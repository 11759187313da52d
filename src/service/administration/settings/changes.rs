//! Changes of an organisation's settings: how the trail records them and how people are warned of them.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{SettingsPatch, patched};
use crate::domain::account::{OrganizationId, OrganizationSettings};
use crate::domain::{Error, Result};
use crate::service::{RequestContext, Services, notices};
use crate::store::accounts;
use crate::store::deliveries::OwedDelivery;

/// Bytes kept of a webhook address's digest: enough to tell addresses apart.
const DIGEST_BYTES: usize = 8;

/// Returns `{from, to}` for each setting that changes, by field name.
pub(super) fn differences(
    before: &OrganizationSettings,
    after: &OrganizationSettings,
) -> Result<Map<String, Value>> {
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
            let (from, to) = match field.as_str() {
                "webhookUrl" => (without_secret(from), without_secret(to)),
                _ => (from, to),
            };
            (field, json!({ "from": from, "to": to }))
        })
        .collect())
}

/// Reduces a webhook address to its host and a digest that tells addresses apart: the address often contains a
/// token, and more people can read entries than settings.
fn without_secret(url: Value) -> Value {
    let Value::String(url) = url else { return url };
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let digest = HEXLOWER.encode(&Sha256::digest(&url)[..DIGEST_BYTES]);
    format!("{scheme}://{host} (sha256 {digest}…)").into()
}

/// The notices about settings that weaken the protection of accounts: an attacker with an admin's account
/// loosens the settings first and acts afterwards.
#[derive(Clone, Debug)]
pub(super) struct Warning {
    weakened: Vec<String>,
    pub owed: Vec<OwedDelivery>,
    /// Sent if the trail will be pruned sooner.
    pub shorter: Vec<OwedDelivery>,
}

impl Warning {
    /// Prepares the warning for a patch to the current settings; `who` is the actor's name as people know it.
    pub fn of(
        services: &Services,
        id: OrganizationId,
        patch: &SettingsPatch,
        who: &str,
        context: &RequestContext,
    ) -> Result<Self> {
        let (organization, admins) = services.store.read(|db| {
            let organization = accounts::find_organization(db, id)?.ok_or_else(|| Error::NotFound {
                what: "Organization",
                id: id.to_string(),
            })?;
            let admins = accounts::find_active_admins(db, id)?;
            Ok((organization, admins))
        })?;
        let after = patched(organization.settings.clone(), patch);
        let weakened = weakened(&organization.settings, &after);
        let mut owed = Vec::new();
        if !weakened.is_empty() {
            let subject = format!("{} is protected less than before", organization.name);
            let mut body = format!(
                "{who} changed settings of {} {}:\n\n",
                organization.name,
                notices::when_and_whence(context)
            );
            for line in &weakened {
                // Writing to a String doesn't fail.
                let _ = writeln!(body, "- {line}");
            }
            body.push_str("\nIf that is not right, change them back, and find out who did it: an administrator's account may be in other hands.\n");
            // The previous contact: the new one may be the attacker's.
            let contact = organization.settings.security_contact.iter();
            let to = admins.iter().map(|admin| &admin.email).chain(contact);
            owed.extend(to.filter_map(|to| notices::mail(services, &organization, to, &subject, &body)));
            let data = json!({ "weakened": weakened, "ipAddress": context.ip_text() });
            let event = "organization.settings.weakened";
            owed.extend(notices::call(services, &organization, event, context.at, data));
        }
        Ok(Self {
            weakened,
            owed,
            shorter: Vec::new(),
        })
    }

    /// Checks that the changes are those that the warning was prepared for.
    ///
    /// # Errors
    /// [`Error::Stale`] if they are not.
    pub fn still_holds(&self, before: &OrganizationSettings, after: &OrganizationSettings) -> Result<()> {
        match weakened(before, after) == self.weakened {
            true => Ok(()),
            false => Err(Error::Stale),
        }
    }
}

/// Returns one line for each protection that becomes weaker.
fn weakened(before: &OrganizationSettings, after: &OrganizationSettings) -> Vec<String> {
    let mut lines = Vec::new();
    if before.mfa_required && !after.mfa_required {
        lines.push("mfaRequired: a second factor is no longer required".to_owned());
    }
    if before.enrolment_code_required && !after.enrolment_code_required {
        lines.push(
            "enrolmentCodeRequired: after a reset the password alone sets up a new second factor".to_owned(),
        );
    }
    let (was, now) = (before.enrolment_code_minutes, after.enrolment_code_minutes);
    // Relevant even if the organisation does not require a code: a policy may.
    if now > was {
        lines.push(format!("enrolmentCodeMinutes: {now} instead of {was}"));
    }
    let (was, now) = (before.enrolment_window_hours, after.enrolment_window_hours);
    if now > was {
        lines.push(format!("enrolmentWindowHours: {now} instead of {was}"));
    }
    if after.help_desk_enabled && !before.help_desk_enabled {
        lines.push("helpDeskEnabled: the help desk can reset members' second factors, too".to_owned());
    }
    if let Some(was) = before.step_up_minutes {
        match after.step_up_minutes {
            None => {
                lines.push("stepUpMinutes: administrators need not use their second factor again".to_owned());
            }
            Some(now) if now > was => lines.push(format!("stepUpMinutes: {now} instead of {was}")),
            Some(_) => {}
        }
    }
    lines.extend(weaker_passwords(before, after));
    if after.admin_on_admin < before.admin_on_admin {
        lines.push("adminOnAdmin: administrators have more power over each other".to_owned());
    }
    if after.policy_changes < before.policy_changes {
        lines.push("policyChanges: policies are changed more easily".to_owned());
    }
    if let Some(was) = &before.security_contact
        && after.security_contact.as_ref() != Some(was)
    {
        let now = after.security_contact.as_deref().unwrap_or("nobody");
        lines.push(format!("securityContact: {now} instead of {was}"));
    }
    if before.webhook_url.is_some() && before.webhook_url != after.webhook_url {
        lines.push("webhookUrl: another address is called, or none".to_owned());
    }
    lines
}

/// Returns one line for each setting of passwords that becomes weaker.
fn weaker_passwords(before: &OrganizationSettings, after: &OrganizationSettings) -> Vec<String> {
    let mut lines = Vec::new();
    let (was, now) = (before.password_min_length, after.password_min_length);
    if now < was {
        lines.push(format!("passwordMinLength: {now} instead of {was}"));
    }
    let required = |settings: &OrganizationSettings| {
        [
            ("passwordRequireUppercase", settings.password_require_uppercase),
            ("passwordRequireLowercase", settings.password_require_lowercase),
            ("passwordRequireDigit", settings.password_require_digit),
            (
                "passwordRequireSpecialChar",
                settings.password_require_special_char,
            ),
        ]
    };
    for ((field, was), (_, now)) in required(before).into_iter().zip(required(after)) {
        if was && !now {
            lines.push(format!("{field}: no longer required"));
        }
    }
    if let Some(was) = before.password_expiration_days {
        match after.password_expiration_days {
            None => lines.push("passwordExpirationDays: passwords no longer expire".to_owned()),
            Some(now) if now > was => lines.push(format!("passwordExpirationDays: {now} instead of {was}")),
            Some(_) => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhooks_address_is_told_without_what_it_may_keep_secret() {
        let told = |url: &str| without_secret(json!(url)).as_str().unwrap().to_owned();
        for url in [
            "https://hooks.example.com/services/T0/B0/s3cr3t",
            "https://hooks.example.com?token=s3cr3t",
            "https://user:s3cr3t@hooks.example.com/x",
            "https://hooks.example.com#s3cr3t",
        ] {
            let told = told(url);
            assert!(told.starts_with("https://hooks.example.com (sha256 "), "{told}");
            assert!(!told.contains("s3cr3t"), "{told}");
        }
        assert_ne!(told("https://a.example/1"), told("https://a.example/2"));
        assert_eq!(without_secret(Value::Null), Value::Null);
    }

    #[test]
    fn what_becomes_stricter_is_no_warning() {
        let before = OrganizationSettings::default();
        let after = OrganizationSettings {
            mfa_required: true,
            enrolment_code_required: true,
            step_up_minutes: Some(5),
            security_contact: Some("security@acme.example".into()),
            webhook_url: Some("https://hooks.example.com/1".into()),
            enrolment_window_hours: 12,
            password_min_length: 14,
            password_require_digit: true,
            password_expiration_days: Some(90),
            ..before.clone()
        };
        assert_eq!(weakened(&before, &after), [""; 0]);
        assert_eq!(weakened(&after, &before).len(), 9);
        assert_eq!(weakened(&after, &after), [""; 0]);
    }
}
