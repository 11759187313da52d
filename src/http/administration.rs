//! `/organization/…`: settings of the caller's organisation.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{Enum, Object, OpenApi};
use serde::Deserialize;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S409, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::Context;
use crate::domain::account::{AdminOnAdmin, OrganizationSettings, PolicyChanges};
use crate::service::Services;
use crate::service::administration::{self, SettingsPatch};

/// Handlers of `/organization/…`.
pub struct AdministrationApi;

/// Whether administrators may reset and change other administrators.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "AdminOnAdmin", rename_all = "kebab-case")]
pub enum AdminOnAdminBody {
    /// Allowed.
    Allowed,
    /// Allowed only with the approval of a second administrator.
    SecondAdmin,
    /// Not allowed.
    Refused,
}

/// Whether administrators may change bound policies.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyChanges", rename_all = "kebab-case")]
pub enum PolicyChangesBody {
    /// Allowed; once a policy has demanded a second administrator for a reset, changing it needs one, too.
    Allowed,
    /// Allowed only with the approval of a second administrator.
    SecondAdmin,
    /// Not allowed: only the operator can, at the command line.
    OperatorOnly,
}

/// Settings of an organisation.
#[derive(Clone, Debug, Object)]
#[oai(rename = "OrganizationSettings", rename_all = "camelCase")]
pub struct SettingsBody {
    /// Whether every member must have MFA.
    pub mfa_required: bool,
    /// Minimum length of a password, in characters.
    #[oai(validator(minimum(value = "8"), maximum(value = "128")))]
    pub password_min_length: u16,
    /// Whether a password must contain an upper-case letter.
    pub password_require_uppercase: bool,
    /// Whether a password must contain a lower-case letter.
    pub password_require_lowercase: bool,
    /// Whether a password must contain a digit.
    pub password_require_digit: bool,
    /// Whether a password must contain a character that is neither a letter nor a digit.
    pub password_require_special_char: bool,
    /// Days after which a password expires; null: never.
    #[oai(nullable)]
    pub password_expiration_days: Option<u16>,
    /// IANA time zone of the organisation, used by policies.
    pub time_zone: String,
    /// Enrolment window: hours after a reset during which the password alone is enough to set MFA up again.
    #[oai(validator(minimum(value = "1"), maximum(value = "720")))]
    pub enrolment_window_hours: u16,
    /// Whether enrolment after a reset requires a one-time code, which is shown to the administrator.
    pub enrolment_code_required: bool,
    /// Minutes for which that code is valid, within the enrolment window. A change applies to codes issued
    /// afterwards.
    #[oai(validator(minimum(value = "10"), maximum(value = "1440")))]
    pub enrolment_code_minutes: u16,
    /// Whether the organisation uses the role `HELP_DESK`.
    pub help_desk_enabled: bool,
    /// Whether administrators may reset and change other administrators.
    pub admin_on_admin: AdminOnAdminBody,
    /// Minutes within which the caller of a reset must have used their own second factor; null: not required.
    #[oai(nullable)]
    pub step_up_minutes: Option<u16>,
    /// E-mail address that gets security notices besides the administrators; null: none.
    #[oai(nullable)]
    pub security_contact: Option<String>,
    /// URL that is called when a user's credentials change, with a signature (Standard Webhooks); null: none.
    #[oai(nullable)]
    pub webhook_url: Option<String>,
    /// Days after which audit entries are pruned to their hashes; null: never. A shorter period takes effect
    /// seven days after it is set.
    #[oai(nullable)]
    pub audit_retention_days: Option<u16>,
    /// Whether a new version or configuration of a policy may take effect only after a clean replay of past
    /// decisions.
    pub clean_replay_required: bool,
    /// Whether administrators may change bound policies.
    pub policy_changes: PolicyChangesBody,
}

/// Changes to the settings. Absent fields stay as they are.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "OrganizationSettingsPatch",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct SettingsPatchBody {
    /// Whether every member must have MFA.
    pub mfa_required: Option<bool>,
    /// Minimum length of a password, in characters.
    #[oai(validator(minimum(value = "8"), maximum(value = "128")))]
    pub password_min_length: Option<u16>,
    /// Whether a password must contain an upper-case letter.
    pub password_require_uppercase: Option<bool>,
    /// Whether a password must contain a lower-case letter.
    pub password_require_lowercase: Option<bool>,
    /// Whether a password must contain a digit.
    pub password_require_digit: Option<bool>,
    /// Whether a password must contain a character that is neither a letter nor a digit.
    pub password_require_special_char: Option<bool>,
    /// Days after which a password expires, 1 to 365; null: never.
    #[serde(default)]
    #[oai(nullable)]
    pub password_expiration_days: MaybeUndefined<u16>,
    /// IANA time zone of the organisation, used by policies.
    #[oai(validator(max_length = 64))]
    pub time_zone: Option<String>,
    /// Enrolment window: hours after a reset during which the password alone is enough to set MFA up again.
    #[oai(validator(minimum(value = "1"), maximum(value = "720")))]
    pub enrolment_window_hours: Option<u16>,
    /// Whether enrolment after a reset requires a one-time code, which is shown to the administrator.
    pub enrolment_code_required: Option<bool>,
    /// Minutes for which that code is valid, within the enrolment window. A change applies to codes issued
    /// afterwards.
    #[oai(validator(minimum(value = "10"), maximum(value = "1440")))]
    pub enrolment_code_minutes: Option<u16>,
    /// Whether the organisation uses the role `HELP_DESK`.
    pub help_desk_enabled: Option<bool>,
    /// Whether administrators may reset and change other administrators.
    pub admin_on_admin: Option<AdminOnAdminBody>,
    /// Minutes within which the caller of a reset must have used their own second factor; null: not required.
    #[serde(default)]
    #[oai(nullable)]
    pub step_up_minutes: MaybeUndefined<u16>,
    /// E-mail address that gets security notices besides the administrators; null: none.
    #[serde(default)]
    #[oai(nullable)]
    pub security_contact: MaybeUndefined<String>,
    /// URL that is called when a user's credentials change; its host must be one that the operator listed.
    /// Null: none.
    #[serde(default)]
    #[oai(nullable, validator(max_length = 1000))]
    pub webhook_url: MaybeUndefined<String>,
    /// Days after which audit entries are pruned to their hashes, 30 to 36500; null: never. A shorter period
    /// takes effect seven days after it is set, and the administrators are notified by mail.
    #[serde(default)]
    #[oai(nullable)]
    pub audit_retention_days: MaybeUndefined<u16>,
    /// Whether a new version or configuration of a policy may take effect only after a clean replay of past
    /// decisions.
    pub clean_replay_required: Option<bool>,
    /// Whether administrators may change bound policies.
    pub policy_changes: Option<PolicyChangesBody>,
}

#[OpenApi(prefix_path = "/api/v1")]
impl AdministrationApi {
    /// Get the organisation's settings.
    ///
    /// Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/organization/settings",
        method = "get",
        operation_id = "getOrganizationSettings",
        tag = "Tag::Organization"
    )]
    async fn find_settings(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
    ) -> Result<J<SettingsBody>, ApiErr<{ SECURED | S429 }>> {
        let settings = administration::find_settings(&services, &caller.0)?;
        Ok(J(settings.into()))
    }

    /// Change the organisation's settings.
    ///
    /// Absent fields stay as they are. `adminOnAdmin`, `policyChanges` and `cleanReplayRequired` can only be
    /// made stricter; only the operator can loosen them, at the command line. Requires the role `ORG_ADMIN`.
    #[oai(
        path = "/organization/settings",
        method = "patch",
        operation_id = "updateOrganizationSettings",
        tag = "Tag::Organization"
    )]
    async fn update_settings(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
        patch: J<SettingsPatchBody>,
    ) -> Result<J<SettingsBody>, ApiErr<{ SECURED | S400 | S404 | S409 | S429 | BODY }>> {
        let settings =
            administration::update_settings(&services, &caller.0, &context.0, patch.0.into()).await?;
        Ok(J(settings.into()))
    }

    /// Get the signing secret of the organisation's webhook.
    ///
    /// Calls to `webhookUrl` are signed with this secret (Standard Webhooks), so that the receiver can verify
    /// them. Requires the role `ORG_ADMIN`, and a recent second factor where the organisation demands one.
    #[oai(
        path = "/organization/webhook-secret",
        method = "get",
        operation_id = "getWebhookSecret",
        tag = "Tag::Organization"
    )]
    #[expect(clippy::unused_async, reason = "handlers are async")]
    async fn find_webhook_secret(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        context: Context,
    ) -> Result<J<WebhookSecretBody>, ApiErr<{ SECURED | S429 }>> {
        let secret = administration::find_webhook_secret(&services, &caller.0, &context.0)?;
        Ok(J(WebhookSecretBody {
            secret: secret.to_string(),
        }))
    }
}

/// Signing secret of the organisation's webhook.
#[derive(Clone, Object)]
#[oai(rename = "WebhookSecret", rename_all = "camelCase")]
pub struct WebhookSecretBody {
    /// `whsec_` followed by 32 bytes in base64.
    pub secret: String,
}

prints_no_secret!(WebhookSecretBody);

impl From<OrganizationSettings> for SettingsBody {
    fn from(settings: OrganizationSettings) -> Self {
        Self {
            mfa_required: settings.mfa_required,
            password_min_length: settings.password_min_length,
            password_require_uppercase: settings.password_require_uppercase,
            password_require_lowercase: settings.password_require_lowercase,
            password_require_digit: settings.password_require_digit,
            password_require_special_char: settings.password_require_special_char,
            password_expiration_days: settings.password_expiration_days,
            time_zone: settings.time_zone,
            enrolment_window_hours: settings.enrolment_window_hours,
            enrolment_code_required: settings.enrolment_code_required,
            enrolment_code_minutes: settings.enrolment_code_minutes,
            help_desk_enabled: settings.help_desk_enabled,
            admin_on_admin: settings.admin_on_admin.into(),
            step_up_minutes: settings.step_up_minutes,
            security_contact: settings.security_contact,
            webhook_url: settings.webhook_url,
            audit_retention_days: settings.audit_retention_days,
            clean_replay_required: settings.clean_replay_required,
            policy_changes: settings.policy_changes.into(),
        }
    }
}

impl From<SettingsPatchBody> for SettingsPatch {
    fn from(patch: SettingsPatchBody) -> Self {
        Self {
            mfa_required: patch.mfa_required,
            password_min_length: patch.password_min_length,
            password_require_uppercase: patch.password_require_uppercase,
            password_require_lowercase: patch.password_require_lowercase,
            password_require_digit: patch.password_require_digit,
            password_require_special_char: patch.password_require_special_char,
            password_expiration_days: nullable(patch.password_expiration_days),
            time_zone: patch.time_zone,
            enrolment_window_hours: patch.enrolment_window_hours,
            enrolment_code_required: patch.enrolment_code_required,
            enrolment_code_minutes: patch.enrolment_code_minutes,
            help_desk_enabled: patch.help_desk_enabled,
            admin_on_admin: patch.admin_on_admin.map(AdminOnAdmin::from),
            step_up_minutes: nullable(patch.step_up_minutes),
            security_contact: nullable(patch.security_contact),
            webhook_url: nullable(patch.webhook_url),
            audit_retention_days: nullable(patch.audit_retention_days),
            clean_replay_required: patch.clean_replay_required,
            policy_changes: patch.policy_changes.map(PolicyChanges::from),
        }
    }
}

/// Converts a patch field: absent is `None`, null is `Some(None)`.
fn nullable<T>(value: MaybeUndefined<T>) -> Option<Option<T>> {
    match value {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(None),
        MaybeUndefined::Value(value) => Some(Some(value)),
    }
}

impl From<AdminOnAdmin> for AdminOnAdminBody {
    fn from(rule: AdminOnAdmin) -> Self {
        match rule {
            AdminOnAdmin::Allowed => Self::Allowed,
            AdminOnAdmin::SecondAdmin => Self::SecondAdmin,
            AdminOnAdmin::Refused => Self::Refused,
        }
    }
}

impl From<AdminOnAdminBody> for AdminOnAdmin {
    fn from(rule: AdminOnAdminBody) -> Self {
        match rule {
            AdminOnAdminBody::Allowed => Self::Allowed,
            AdminOnAdminBody::SecondAdmin => Self::SecondAdmin,
            AdminOnAdminBody::Refused => Self::Refused,
        }
    }
}

impl From<PolicyChanges> for PolicyChangesBody {
    fn from(rule: PolicyChanges) -> Self {
        match rule {
            PolicyChanges::Allowed => Self::Allowed,
            PolicyChanges::SecondAdmin => Self::SecondAdmin,
            PolicyChanges::OperatorOnly => Self::OperatorOnly,
        }
    }
}

impl From<PolicyChangesBody> for PolicyChanges {
    fn from(rule: PolicyChangesBody) -> Self {
        match rule {
            PolicyChangesBody::Allowed => Self::Allowed,
            PolicyChangesBody::SecondAdmin => Self::SecondAdmin,
            PolicyChangesBody::OperatorOnly => Self::OperatorOnly,
        }
    }
}
