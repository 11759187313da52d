//! `latchkey org`: creates, lists and configures organisations.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{Global, output};
use crate::app::App;
use crate::domain::account::{AdminOnAdmin, OrganizationSettings, PolicyChanges};
use crate::service::administration::{NewOrganization, SettingsPatch, create_organization, set_settings};
use crate::service::operator;

/// `latchkey org …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an organisation.
    #[command(
        after_help = "Examples:\n  latchkey org create acme --name \"Acme Works\"\n  \
                            latchkey org create acme --name \"Acme Works\" --mfa-required --time-zone Europe/Berlin --json"
    )]
    Create {
        /// Short name used at login: lower-case letters, digits and hyphens.
        slug: String,
        /// Name shown to people [default: the slug].
        #[arg(long)]
        name: Option<String>,
        /// Require MFA of every member.
        #[arg(long)]
        mfa_required: bool,
        /// IANA time zone, for policies and for times shown to people.
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        time_zone: String,
        /// Print the organisation as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set the rules that an organisation's own admins can only make stricter.
    #[command(
        after_help = "Examples:\n  latchkey org set acme --policy-changes allowed\n  \
                            latchkey org set acme --admin-on-admin second-admin --clean-replay-required true --json"
    )]
    Set(Rules),
    /// List the organisations.
    #[command(after_help = "Examples:\n  latchkey org list\n  latchkey org list --json")]
    List {
        /// Print them as JSON, with their settings.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("rules").required(true).multiple(true)
    .args(["admin_on_admin", "policy_changes", "clean_replay_required"])))]
pub(super) struct Rules {
    /// Slug of the organisation.
    slug: String,
    /// Whether admins may reset or change the accounts of other admins.
    #[arg(long, value_enum)]
    admin_on_admin: Option<AdminOnAdminName>,
    /// Whether admins may change policies that are bound.
    #[arg(long, value_enum)]
    policy_changes: Option<PolicyChangesName>,
    /// Whether a new version of a policy is enforced only after a clean replay of past decisions.
    #[arg(long, value_name = "BOOL")]
    clean_replay_required: Option<bool>,
    /// Print all settings as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AdminOnAdminName {
    /// They may.
    Allowed,
    /// Only when a second admin agrees.
    SecondAdmin,
    /// They may not.
    Refused,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyChangesName {
    /// They may; once a policy has demanded a second admin, changing it needs one too.
    Allowed,
    /// Only when a second admin agrees.
    SecondAdmin,
    /// They may not: only the operator does, with this command line.
    OperatorOnly,
}

impl Rules {
    fn run(self, app: &App) -> Result<()> {
        let patch = SettingsPatch {
            admin_on_admin: self.admin_on_admin.map(|rule| match rule {
                AdminOnAdminName::Allowed => AdminOnAdmin::Allowed,
                AdminOnAdminName::SecondAdmin => AdminOnAdmin::SecondAdmin,
                AdminOnAdminName::Refused => AdminOnAdmin::Refused,
            }),
            policy_changes: self.policy_changes.map(|rule| match rule {
                PolicyChangesName::Allowed => PolicyChanges::Allowed,
                PolicyChangesName::SecondAdmin => PolicyChanges::SecondAdmin,
                PolicyChangesName::OperatorOnly => PolicyChanges::OperatorOnly,
            }),
            clean_replay_required: self.clean_replay_required,
            ..SettingsPatch::default()
        };
        let now = super::wait_for(set_settings(&app.services, &self.slug, patch))?;
        if self.json {
            return output::json(&now);
        }
        output::line(format_args!(
            "{}: admin-on-admin {}, policy-changes {}, clean-replay-required {}",
            self.slug,
            word(&now.admin_on_admin),
            word(&now.policy_changes),
            now.clean_replay_required
        ))
    }
}

fn word(rule: &impl serde::Serialize) -> String {
    json!(rule).as_str().unwrap_or_default().to_owned()
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let app = match self {
            Self::Create { .. } => global.open_or_make()?,
            Self::List { .. } | Self::Set(_) => global.open()?,
        };
        match self {
            Self::Create {
                slug,
                name,
                mfa_required,
                time_zone,
                json,
            } => {
                let settings = OrganizationSettings {
                    mfa_required,
                    time_zone,
                    ..OrganizationSettings::default()
                };
                let new = NewOrganization {
                    id: None,
                    name: name.unwrap_or_else(|| slug.clone()),
                    slug,
                    settings,
                };
                let made = super::wait_for(create_organization(&app.services, new))?;
                if json {
                    return output::json(&json!({ "id": made.id, "slug": made.slug, "name": made.name }));
                }
                output::line(format_args!("Organisation {} made, id {}", made.slug, made.id))?;
                output::line(format_args!(
                    "Next: latchkey user create --org {} --email ADDRESS --admin",
                    made.slug
                ))
            }
            Self::Set(rules) => rules.run(&app),
            Self::List { json: true } => {
                let all = operator::list_organizations(&app.services)?;
                let all: Vec<_> = all
                    .iter()
                    .map(|o| {
                        json!({
                            "id": o.organization.id,
                            "slug": o.organization.slug,
                            "name": o.organization.name,
                            "users": o.users,
                            "settings": o.organization.settings,
                        })
                    })
                    .collect();
                output::json(&all)
            }
            Self::List { json: false } => {
                let all = operator::list_organizations(&app.services)?;
                let rows: Vec<_> = all
                    .into_iter()
                    .map(|o| {
                        let mfa = if o.organization.settings.mfa_required {
                            "required"
                        } else {
                            "optional"
                        };
                        [
                            o.organization.slug,
                            o.organization.id.to_string(),
                            o.users.to_string(),
                            mfa.to_owned(),
                            o.organization.name,
                        ]
                    })
                    .collect();
                output::table(["SLUG", "ID", "USERS", "MFA", "NAME"], &rows)
            }
        }
    }
}
