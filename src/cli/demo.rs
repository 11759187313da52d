//! `latchkey demo`: serves sample organisations, and prints commands to paste.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use jiff::SignedDuration;

use super::exit::Refusal;
use super::{Global, Progress, output, process, serve, user};
use crate::domain::account::{Role, User};
use crate::domain::{self, Error};
use crate::logging;
use crate::service::sample::{self, Sample, SampleOrganization, load_sample};
use crate::service::{Services, operator, session};

const SAMPLE: &str = include_str!("../../fixtures/sample.toml");
const EXAMPLES: [(&str, &[u8]); 3] = [
    (
        "change-window",
        include_bytes!("../../fixtures/plugins/change-window.wasm"),
    ),
    (
        "force-reenrollment",
        include_bytes!("../../fixtures/plugins/force-reenrollment.wasm"),
    ),
    (
        "reset-budget",
        include_bytes!("../../fixtures/plugins/reset-budget.wasm"),
    ),
];
const TOKEN_HOURS: i64 = 12;

/// Arguments of `latchkey demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  latchkey demo\n  latchkey demo --data-dir /tmp/try --listen 127.0.0.1:0\n  \
                        latchkey demo --sample my-organisation.toml"
)]
pub(super) struct Demo {
    /// Address and port to listen on; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Load this file instead of the built-in sample (fixtures/sample.toml).
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
    /// Allow an address that other machines can reach, although the passwords of the sample are public.
    #[arg(long)]
    allow_remote: bool,
}

impl Demo {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let sample = read_sample(self.sample.as_deref())?;
        let mut global = global.clone();
        // Never the data directory of a configuration file: it may hold real accounts.
        global
            .data_dir
            .get_or_insert_with(|| PathBuf::from("latchkey-demo"));
        let config = global.load(self.listen)?;
        if !config.listen.ip().is_loopback() && !self.allow_remote {
            return Err(Refusal(format!(
                "the demo listens on this machine only, not on {}: its passwords are public; \
                 --allow-remote overrides this",
                config.listen
            ))
            .into());
        }
        process::refuse_strangers(&config.data_dir)?;
        logging::start(&config.log)?;
        let app = serve::open(config)?;
        let folder = self.sample.as_deref().and_then(Path::parent).map(Path::to_owned);
        load_once(&app.services, &sample, folder.as_deref())?;
        let story = Story::of(&app.services, &sample)?;
        let place = app.config.data_dir.display().to_string();
        serve::run(app, |url| story.print(url, &place))
    }
}

fn read_sample(file: Option<&Path>) -> Result<Sample> {
    let (name, text) = match file {
        None => ("the built-in sample".to_owned(), SAMPLE.to_owned()),
        Some(file) => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("the sample file {} can't be read", file.display()))?;
            (file.display().to_string(), text)
        }
    };
    toml::from_str(&text).map_err(|e| Refusal(format!("{name} is not a sample of organisations: {e}")).into())
}

/// Loads the sample into an empty database; does nothing if it is already loaded.
fn load_once(services: &Services, sample: &Sample, folder: Option<&Path>) -> Result<()> {
    let there = operator::list_organizations(services)?;
    let wanted = sample.organizations.first().map(|o| o.id);
    if there.iter().any(|o| Some(o.organization.id.0) == wanted) {
        return Ok(());
    }
    if !there.is_empty() {
        let other =
            "the data directory holds other organisations; give the demo one of its own with --data-dir";
        return Err(Refusal(other.to_owned()).into());
    }
    let progress = Progress::new("Loading sample", sample::steps(sample) as u64);
    let loaded = super::wait_for(load_sample(
        services,
        sample,
        |name| module(name, folder),
        |name| progress.step(name),
    ));
    progress.finish();
    match loaded {
        Err(Error::Validation(problems)) => {
            let lines: Vec<_> = problems
                .iter()
                .map(|(place, problem)| format!("{place}: {problem}"))
                .collect();
            Err(Refusal(format!(
                "could not load the sample; nothing was loaded:\n  {}",
                lines.join("\n  ")
            ))
            .into())
        }
        other => other.context("could not load the sample; nothing was loaded"),
    }
}

fn module(name: &str, folder: Option<&Path>) -> domain::Result<Vec<u8>> {
    if let Some((_, bytes)) = EXAMPLES.iter().find(|(example, _)| *example == name) {
        return Ok(bytes.to_vec());
    }
    let path = folder.unwrap_or(Path::new("")).join(name);
    fs::read(&path).map_err(|e| Error::PluginRefused(format!("{} can't be read: {e}", path.display())))
}

/// What the demo prints.
struct Story<'a> {
    sample: &'a Sample,
    users: Vec<Vec<User>>,
    reset: Option<ResetCall>,
}

struct ResetCall {
    slug: String,
    admin: User,
    token: String,
    target: User,
}

impl<'a> Story<'a> {
    fn of(services: &Services, sample: &'a Sample) -> Result<Self> {
        let mut users = Vec::new();
        for organization in &sample.organizations {
            users.push(operator::list_users(services, &organization.slug)?);
        }
        let mut reset = None;
        if let (Some(organization), Some(people)) = (sample.organizations.first(), users.first()) {
            // In the order of the file, so that the documented call comes first.
            let in_order = || {
                organization
                    .users
                    .iter()
                    .filter_map(|from| people.iter().find(|u| u.id.0 == from.id))
            };
            let admin = in_order().find(|user| user.role == Role::OrgAdmin && user.active);
            let target = in_order().find(|user| user.role == Role::Member && user.active && user.mfa_enabled);
            if let (Some(admin), Some(target)) = (admin, target) {
                let token = session::mint_token(services, admin.id, SignedDuration::from_hours(TOKEN_HOURS))?;
                let slug = organization.slug.clone();
                reset = Some(ResetCall {
                    slug,
                    admin: admin.clone(),
                    token,
                    target: target.clone(),
                });
            }
        }
        Ok(Self { sample, users, reset })
    }

    fn print(&self, url: &str, place: &str) -> Result<()> {
        output::line(format_args!(
            "API explorer: {url}/docs    Data: {place} (remove it to start over)\n"
        ))?;
        output::line(
            "Sign-in details, as loaded (TOTP secrets are for any authenticator: oathtool --totp -b SECRET)",
        )?;
        for (organization, users) in self.sample.organizations.iter().zip(&self.users) {
            print_organization(organization, users)?;
        }
        let Some(ResetCall {
            slug,
            admin,
            token,
            target,
        }) = &self.reset
        else {
            return output::line(
                "Nobody with MFA is left to be reset; remove the data directory to start over.",
            );
        };
        output::line(format_args!(
            "\nAn access token of {} (ORG_ADMIN at {slug}), valid for {TOKEN_HOURS} hours:\n\n{token}\n",
            admin.email
        ))?;
        output::line(format_args!("Reset the MFA of {}:\n", target.email))?;
        output::line(format_args!(
            "curl -sS -X POST {url}/api/v1/users/{}/reset-mfa -H 'Authorization: Bearer {token}'\n",
            target.id
        ))?;
        output::line(format_args!("See the audit entry:\n"))?;
        output::line(format_args!(
            "curl -sS '{url}/api/v1/audit-logs?size=5' -H 'Authorization: Bearer {token}'\n"
        ))
    }
}

fn print_organization(organization: &SampleOrganization, users: &[User]) -> Result<()> {
    let policies: Vec<_> = organization.plugins.iter().map(|p| p.plugin.as_str()).collect();
    output::line(format_args!(
        "\n{} (organizationSlug: {}), policies: {}",
        organization.name,
        organization.slug,
        if policies.is_empty() {
            "none".to_owned()
        } else {
            policies.join(", ")
        }
    ))?;
    for from in &organization.users {
        let Some(now) = users.iter().find(|user| user.id.0 == from.id) else {
            continue;
        };
        let mfa = match (&from.totp_secret, now.mfa_enabled) {
            (Some(secret), true) => format!("TOTP {secret}"),
            (_, true) => "MFA on".to_owned(),
            (_, false) => "MFA off".to_owned(),
        };
        let state = if now.active { "" } else { "  inactive" };
        output::line(format_args!(
            "  {}  {:32} {:10} {:20} {mfa}{state}",
            now.id,
            from.email,
            user::role_name(from.role),
            from.password
        ))?;
    }
    Ok(())
}
