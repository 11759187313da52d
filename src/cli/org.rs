//! `latchkey org`: organisations.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::{Global, output};
use crate::domain::account::OrganizationSettings;
use crate::service::administration::{NewOrganization, create_organization};
use crate::service::operator;

/// `latchkey org …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an organisation.
    #[command(
        after_help = "Examples:\n  latchkey org create acme --name \"Acme Works\"\n  \
                            latchkey org create acme --name \"Acme Works\" --mfa-required --time-zone Europe/Berlin --json"
    )]
    Create {
        /// The name used at login: lower-case letters, digits and hyphens.
        slug: String,
        /// The name shown to people [default: the slug].
        #[arg(long)]
        name: Option<String>,
        /// Every member must have MFA.
        #[arg(long)]
        mfa_required: bool,
        /// IANA time zone, for policies and people.
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        time_zone: String,
        /// Print the organisation as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the organisations.
    List {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let app = match self {
            Self::Create { .. } => global.open_or_make()?,
            Self::List { .. } => global.open()?,
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
