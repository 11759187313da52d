//! Settings of the caller's organisation (contract B4).

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{Enum, Object, OpenApi};
use serde::Deserialize;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{BODY, S400, S404, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::Context;
use crate::domain::account::{AdminOnAdmin, OrganizationSettings, PolicyChanges};
use crate::service::Services;
use crate::service::administration::{self, SettingsPatch};

/// Settings of the organisation.
pub struct AdministrationApi;

/// Whether admins may reset admins.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "AdminOnAdmin", rename_all = "kebab-case")]
pub enum AdminOnAdminBody {
    /// Yes.
    Allowed,
    /// Only when a second admin agrees.
    SecondAdmin,
    /// No.
    Refused,
}

/// Whether admins may change policies that are bound.
#[derive(Clone, Copy, Debug, Enum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[oai(rename = "PolicyChanges", rename_all = "kebab-case")]
pub enum PolicyChangesBody {
    /// Yes; once a policy has demanded a second admin for a reset, changing it takes one, too.
    Allowed,
    /// Only when a second admin agrees.
    SecondAdmin,
    /// No: the operator does, at the command line.
    OperatorOnly,
}

/// What the organisation decides for itself.
#[derive(Clone, Debug, Object)]
#[oai(rename = "OrganizationSettings", rename_all = "camelCase")]
pub struct SettingsBody {
    /// Every member must have MFA.
    pub mfa_required: bool,
    /// Shortest password, in characters.
    #[oai(validator(minimum(value = "8"), maximum(value = "128")))]
    pub password_min_length: u16,
    /// At least one upper-case letter.
    pub password_require_uppercase: bool,
    /// At least one lower-case letter.
    pub password_require_lowercase: bool,
    /// At least one digit.
    pub password_require_digit: bool,
    /// At least one character that is neither letter nor digit.
    pub password_require_special_char: bool,
    /// Days after which passwords expire; null: never.
    #[oai(nullable)]
    pub password_expiration_days: Option<u16>,
    /// IANA time zone, for policies.
    pub time_zone: String,
    /// Hours after a reset in which the password alone opens enrolment.
    #[oai(validator(minimum(value = "1"), maximum(value = "720")))]
    pub enrolment_window_hours: u16,
    /// Whether enrolment after a reset asks for a one-time code that the admin was shown.
    pub enrolment_code_required: bool,
    /// Minutes for which that code is good, within these hours. A change is for codes that are given from then on.
    #[oai(validator(minimum(value = "10"), maximum(value = "1440")))]
    pub enrolment_code_minutes: u16,
    /// Whether the role `HELP_DESK` exists here.
    pub help_desk_enabled: bool,
    /// Whether admins may reset admins.
    pub admin_on_admin: AdminOnAdminBody,
    /// Minutes within which the caller of a reset must have used their own second factor; null: not asked.
    #[oai(nullable)]
    pub step_up_minutes: Option<u16>,
    /// Where security notices go besides the admins.
    #[oai(nullable)]
    pub security_contact: Option<String>,
    /// What is called when somebody's credentials change, signed (Standard Webhooks).
    #[oai(nullable)]
    pub webhook_url: Option<String>,
    /// Days after which audit entries are pruned to their hashes; null: never. A shorter time takes effect
    /// seven days after it was set.
    #[oai(nullable)]
    pub audit_retention_days: Option<u16>,
    /// Whether another version or configuration of a policy may count only after a clean replay of past decisions.
    pub clean_replay_required: bool,
    /// Whether admins may change policies that are bound.
    pub policy_changes: PolicyChangesBody,
}

/// Changes to the settings: what is absent stays as it is.
#[derive(Clone, Debug, Object, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(
    rename = "OrganizationSettingsPatch",
    rename_all = "camelCase",
    deny_unknown_fields
)]
pub struct SettingsPatchBody {
    /// Every member must have MFA.
    pub mfa_required: Option<bool>,
    /// Shortest password, in characters.
    #[oai(validator(minimum(value = "8"), maximum(value = "128")))]
    pub password_min_length: Option<u16>,
    /// At least one upper-case letter.
    pub password_require_uppercase: Option<bool>,
    /// At least one lower-case letter.
    pub password_require_lowercase: Option<bool>,
    /// At least one digit.
    pub password_require_digit: Option<bool>,
    /// At least one character that is neither letter nor digit.
    pub password_require_special_char: Option<bool>,
    /// Days after which passwords expire, 1 to 365; null: never.
    #[serde(default)]
    #[oai(nullable)]
    pub password_expiration_days: MaybeUndefined<u16>,
    /// IANA time zone, for policies.
    #[oai(validator(max_length = 64))]
    pub time_zone: Option<String>,
    /// Hours after a reset in which the password alone opens enrolment.
    #[oai(validator(minimum(value = "1"), maximum(value = "720")))]
    pub enrolment_window_hours: Option<u16>,
    /// Whether enrolment after a reset asks for a one-time code that the admin was shown.
    pub enrolment_code_required: Option<bool>,
    /// Minutes for which that code is good, within these hours. A change is for codes that are given from then on.
    #[oai(validator(minimum(value = "10"), maximum(value = "1440")))]
    pub enrolment_code_minutes: Option<u16>,
    /// Whether the role `HELP_DESK` exists here.
    pub help_desk_enabled: Option<bool>,
    /// Whether admins may reset admins.
    pub admin_on_admin: Option<AdminOnAdminBody>,
    /// Minutes within which the caller of a reset must have used their own second factor; null: not asked.
    #[serde(default)]
    #[oai(nullable)]
    pub step_up_minutes: MaybeUndefined<u16>,
    /// Where security notices go besides the admins; null: nowhere else.
    #[serde(default)]
    #[oai(nullable)]
    pub security_contact: MaybeUndefined<String>,
    /// What is called when somebody's credentials change, at a host that the operator listed; null: nothing.
    #[serde(default)]
    #[oai(nullable, validator(max_length = 1000))]
    pub webhook_url: MaybeUndefined<String>,
    /// Days after which audit entries are pruned to their hashes, 30 to 36500; null: never. A shorter time takes
    /// effect seven days after it was set, and the admins are told by mail.
    #[serde(default)]
    #[oai(nullable)]
    pub audit_retention_days: MaybeUndefined<u16>,
    /// Whether another version or configuration of a policy may count only after a clean replay of past decisions.
    pub clean_replay_required: Option<bool>,
    /// Whether admins may change policies that are bound.
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
    /// What is absent stays as it is. `adminOnAdmin`, `policyChanges` and `cleanReplayRequired` can only be
    /// made stricter: loosening them is the
    /// operator's, at the command line. Requires the role `ORG_ADMIN`.
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
    ) -> Result<J<SettingsBody>, ApiErr<{ SECURED | S400 | S404 | S429 | BODY }>> {
        let settings =
            administration::update_settings(&services, &caller.0, &context.0, patch.0.into()).await?;
        Ok(J(settings.into()))
    }

    /// Get the secret of the organisation's webhook.
    ///
    /// What calls of `webhookUrl` are signed with (Standard Webhooks), for the receiver to check them. Requires
    /// the role `ORG_ADMIN`, and a recent second factor where the organisation demands that.
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

/// What the organisation's webhook calls are signed with.
#[derive(Clone, Object)]
#[oai(rename = "WebhookSecret", rename_all = "camelCase")]
pub struct WebhookSecretBody {
    /// `whsec_` and 32 bytes in base 64.
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

/// Absent: `None`; null: `Some(None)`.
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
