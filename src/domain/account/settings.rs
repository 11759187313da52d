//! The settings of an organisation.

use serde::{Deserialize, Serialize};

use super::PolicyChanges;

/// Whether an admin may act on another admin's account in the same organisation in ways that could take it over.
/// Ordered from the loosest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminOnAdmin {
    /// Allowed.
    #[default]
    Allowed,
    /// Allowed only if a second admin agrees.
    SecondAdmin,
    /// Refused.
    Refused,
}

/// The settings of an organisation. Stored as JSON; a new field needs a serde default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrganizationSettings {
    /// Whether every member must have MFA.
    pub mfa_required: bool,
    /// Minimum password length, characters (8–128; ASVS 6.2.1).
    pub password_min_length: u16,
    /// Whether a password needs an upper-case letter.
    pub password_require_uppercase: bool,
    /// Whether a password needs a lower-case letter.
    pub password_require_lowercase: bool,
    /// Whether a password needs a digit.
    pub password_require_digit: bool,
    /// Whether a password needs a character that is neither letter nor digit.
    pub password_require_special_char: bool,
    /// Days until a password expires (1–365); absent: never.
    pub password_expiration_days: Option<u16>,
    /// IANA time zone of the organisation, for policies and people.
    pub time_zone: String,
    /// Hours after a reset during which the password alone opens enrolment (1–720).
    pub enrolment_window_hours: u16,
    /// Whether enrolment after a reset asks for a one-time code that the admin was shown.
    pub enrolment_code_required: bool,
    /// Minutes for which that code is valid, within the window (10–1440; SP 800-63B-4 §4.2.1.2: at most a day).
    pub enrolment_code_minutes: u16,
    /// Whether the role `HELP_DESK` exists in this organisation.
    pub help_desk_enabled: bool,
    /// Whether admins may reset admins.
    pub admin_on_admin: AdminOnAdmin,
    /// Minutes within which the caller must have used their own second factor to reset a user's; absent: not
    /// required.
    pub step_up_minutes: Option<u16>,
    /// E-mail address that receives security notices besides the admins.
    pub security_contact: Option<String>,
    /// URL that is called when a user's credentials change (Standard Webhooks).
    pub webhook_url: Option<String>,
    /// Days after which audit entries are pruned to their hashes (30–36500); absent: never.
    pub audit_retention_days: Option<u16>,
    /// Whether a policy may be switched to another version only after a clean replay of past decisions.
    pub clean_replay_required: bool,
    /// Whether admins may change bound policies.
    pub policy_changes: PolicyChanges,
}

impl Default for OrganizationSettings {
    fn default() -> Self {
        Self {
            mfa_required: false,
            password_min_length: 12,
            password_require_uppercase: false,
            password_require_lowercase: false,
            password_require_digit: false,
            password_require_special_char: false,
            password_expiration_days: None,
            time_zone: "UTC".to_owned(),
            enrolment_window_hours: 24,
            enrolment_code_required: false,
            enrolment_code_minutes: 24 * 60,
            help_desk_enabled: false,
            admin_on_admin: AdminOnAdmin::Allowed,
            step_up_minutes: None,
            security_contact: None,
            webhook_url: None,
            audit_retention_days: None,
            clean_replay_required: false,
            policy_changes: PolicyChanges::Allowed,
        }
    }
}
