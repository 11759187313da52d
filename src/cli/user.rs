//! `latchkey user`: creates, imports and lists users, and recovers their accounts.

mod credentials;
mod import;

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::exit::Refusal;
use super::{Global, output};
use crate::domain::account::{Role, User};
use crate::service::operator::{self, NewAccount};

/// `latchkey user …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a user, for example an organisation's first admin.
    ///
    /// Without a password option a password is generated and printed once.
    #[command(
        after_help = "Examples:\n  latchkey user create --org acme --email ada@acme.example --admin\n  \
                            latchkey user create --org acme --email bo@acme.example --password-file - < secret\n  \
                            latchkey user create --org acme --email cy@acme.example --prompt"
    )]
    Create(Create),
    /// Create users from a CSV or JSON file.
    ///
    /// The first line of a CSV file names its columns: email, and optionally name and role (member, help-desk
    /// or org-admin). A JSON file is an array of objects with these fields. Every line is checked first. If
    /// one is refused, nobody is imported, and the report names line, field and reason; otherwise all users
    /// are created in one transaction, with an audit entry each.
    #[command(
        after_help = "Examples:\n  latchkey user import people.csv --org acme --dry-run\n  \
                            latchkey user import people.csv --org acme --links links.csv"
    )]
    Import(import::Import),
    /// Remove a user's second factors, when they were lost and no administrator can do it.
    ///
    /// Does what an administrator's reset does: the organisation's policies are asked and may deny it, all
    /// sessions end, the user is notified, and the reset is recorded. A policy that requires a further
    /// administrator denies it here: let an administrator request the reset, or disable the policy. Works
    /// while a server runs or is stopped; notices are sent once it runs.
    #[command(
        after_help = "Examples:\n  latchkey user reset-mfa ada@acme.example --org acme --reason 'Lost phone, identity checked in person'\n  \
                            latchkey user reset-mfa ada@acme.example --org acme --ticket HD-4711 --json"
    )]
    ResetMfa(credentials::ResetMfa),
    /// Unlock a user's account, and reopen the time window for setting up MFA if it has closed.
    ///
    /// If setting up MFA requires a code, a new one is printed once. Works while a server runs or is stopped.
    #[command(
        after_help = "Examples:\n  latchkey user unlock ada@acme.example --org acme\n  \
                            latchkey user unlock ada@acme.example --org acme --json"
    )]
    Unlock(credentials::Whose),
    /// Restore the second factors that a reset removed.
    ///
    /// For a reset that the user did not ask for: factors enrolled since are deleted, all sessions end, and
    /// the account is unlocked if the user's own report or a missed enrolment window had locked it. If factors
    /// were removed more than once, the error lists when, and --taken-before says which are meant. Works while a
    /// server runs or is stopped.
    #[command(
        after_help = "Examples:\n  latchkey user restore-factors ada@acme.example --org acme\n  \
                            latchkey user restore-factors ada@acme.example --org acme --taken-before 2026-02-18T10:30:00Z"
    )]
    RestoreFactors(credentials::RestoreFactors),
    /// List an organisation's users.
    #[command(
        after_help = "Examples:\n  latchkey user list --org acme\n  latchkey user list --org acme --json"
    )]
    List {
        /// Slug of the organisation.
        #[arg(long, value_name = "SLUG")]
        org: String,
        /// Print the users as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Slug of the organisation.
    #[arg(long, value_name = "SLUG")]
    org: String,
    /// E-mail address, which is also the login name.
    #[arg(long, value_name = "ADDRESS")]
    email: String,
    /// Name shown to people.
    #[arg(long)]
    name: Option<String>,
    /// Same as --role org-admin.
    #[arg(long, conflicts_with = "role")]
    admin: bool,
    /// Role of the user.
    #[arg(long, value_enum, default_value = "member")]
    role: RoleName,
    /// Read the password from the first line of a file; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    password_file: Option<PathBuf>,
    /// Ask for the password on the terminal.
    #[arg(long)]
    prompt: bool,
    /// Print the user as JSON, including a generated password.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    Member,
    HelpDesk,
    OrgAdmin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Member => Self::Member,
            RoleName::HelpDesk => Self::HelpDesk,
            RoleName::OrgAdmin => Self::OrgAdmin,
        }
    }
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Create(create) => create.run(global),
            Self::Import(import) => import.run(global),
            Self::ResetMfa(reset) => reset.run(global),
            Self::Unlock(whose) => whose.unlock(global),
            Self::RestoreFactors(restore) => restore.run(global),
            Self::List { org, json } => {
                let users = operator::list_users(&global.open()?.services, &org)?;
                if json {
                    return output::json(&users.iter().map(in_json).collect::<Vec<_>>());
                }
                let rows: Vec<_> = users.into_iter().map(row).collect();
                output::table(["EMAIL", "ID", "ROLE", "MFA", "STATE", "NAME"], &rows)
            }
        }
    }
}

impl Create {
    fn run(self, global: &Global) -> Result<()> {
        let password = match &self.password_file {
            Some(file) => Some(password_from(file)?),
            None if self.prompt => Some(prompt_for_password()?),
            None => None,
        };
        let role = if self.admin {
            Role::OrgAdmin
        } else {
            self.role.into()
        };
        let new = NewAccount {
            slug: self.org,
            email: self.email,
            name: self.name,
            role,
        };
        let app = global.open()?;
        let (user, generated) = super::wait_for(operator::create_account(&app.services, new, password))?;
        if self.json {
            let mut value = in_json(&user);
            if let Some(password) = generated {
                value["password"] = password.into();
            }
            return output::json(&value);
        }
        output::line(format_args!("User {} made, id {}", user.email, user.id))?;
        match generated {
            Some(password) => output::line(format_args!("Password, shown this once: {password}")),
            None => Ok(()),
        }
    }
}

pub(super) fn password_from(file: &Path) -> Result<String> {
    let text = if file == Path::new("-") {
        io::read_to_string(io::stdin()).context("the password can't be read from standard input")?
    } else {
        fs::read_to_string(file)
            .with_context(|| format!("the password can't be read from {}", file.display()))?
    };
    let first = text.lines().next().unwrap_or_default();
    if first.is_empty() {
        return Err(Refusal("the password file's first line is empty".to_owned()).into());
    }
    Ok(first.to_owned())
}

fn prompt_for_password() -> Result<String> {
    if !io::stdin().is_terminal() {
        let instead = "no terminal is available to ask for a password; use --password-file -";
        return Err(Refusal(instead.to_owned()).into());
    }
    let password = rpassword::prompt_password("Password: ").context("the password could not be read")?;
    let again = rpassword::prompt_password("Once more: ").context("the password could not be read")?;
    if password != again {
        return Err(Refusal("the two passwords differ; nothing was done".to_owned()).into());
    }
    Ok(password)
}

fn state(user: &User) -> &'static str {
    match (user.active, &user.locked, &user.enrolment_due) {
        (false, ..) => "inactive",
        (true, Some(_), _) => "locked",
        (true, None, Some(_)) => "must set MFA up",
        (true, None, None) => "active",
    }
}

fn row(user: User) -> [String; 6] {
    let state = state(&user).to_owned();
    let mfa = if user.mfa_enabled { "MFA on" } else { "MFA off" };
    [
        user.email,
        user.id.to_string(),
        role_name(user.role).to_owned(),
        mfa.to_owned(),
        state,
        user.name.unwrap_or_default(),
    ]
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::HelpDesk => "help-desk",
        Role::OrgAdmin => "org-admin",
        Role::Operator => "operator",
    }
}

fn in_json(user: &User) -> Value {
    json!({
        "id": user.id,
        "organizationId": user.organization_id,
        "email": user.email,
        "name": user.name,
        "role": role_name(user.role),
        "state": state(user),
        "mfaEnabled": user.mfa_enabled,
        "lastLoginAt": user.last_login_at,
        "createdAt": user.created_at,
    })
}
