//! Importing users from a file, by the operator. Every line is checked first; if one is refused nobody is
//! imported, otherwise all are, in one transaction with an entry each.

mod read;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

pub use read::LINES_LIMIT;

use super::invitation::{Invitation, ShownLink};
use crate::domain::account::{Organization, Role, User, UserId, may_create};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::service::administration::{NewUser, check_user};
use crate::service::{Services, deliveries, operator};
use crate::store::deliveries::OwedDelivery;
use crate::store::{accounts, audit};

/// The file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CSV: a heading, and a line for each user.
    Csv,
    /// JSON: an array of objects.
    Json,
}

/// Options of an import.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    /// The file's format.
    pub format: Format,
    /// Check everything but change nothing.
    pub dry_run: bool,
    /// Skip lines of existing users instead of refusing them.
    pub skip_existing: bool,
    /// If links to set a password can't be mailed, return them to be handed over.
    pub show_links: bool,
}

/// A line that can't be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Line of the CSV file, or number of the JSON object, both from 1.
    pub at: u64,
    /// The field; empty for the line as a whole.
    pub field: &'static str,
    /// The problem.
    pub reason: String,
}

/// A line that was parsed.
#[derive(Clone, Debug)]
struct Line {
    at: u64,
    email: String,
    name: Option<String>,
    role: Role,
}

/// The result of an import.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// The users who were imported, or would be in a dry run.
    pub users: Vec<User>,
    /// Number of lines skipped because the user exists already.
    pub existing: usize,
    /// Refused lines. If there are any, nobody is imported.
    pub refused: Vec<Refused>,
    /// Links to hand over with the users' addresses, if they were requested.
    pub links: Vec<(String, ShownLink)>,
    /// Number of links mailed.
    pub mailed: usize,
}

/// Progress callback: number of lines done.
pub type Watch = Arc<dyn Fn(u64) + Send + Sync>;

/// Imports the users of a file into an organisation.
///
/// # Errors
/// [`Error::NotFound`] for the organisation, [`Error::Malformed`] for a file that can't be parsed at all. A
/// line that can't be imported is not an error: see [`Imported::refused`].
pub async fn import_users(
    services: &Services,
    slug: &str,
    bytes: &[u8],
    options: ImportOptions,
    watch: Watch,
) -> Result<Imported> {
    let organization = operator::find_organization(services, slug)?;
    let (lines, refused) = read::read(bytes, options.format)?;
    let at = services.clock.now();
    let mut imported = Imported {
        refused,
        ..Imported::default()
    };
    let new = check(services, &organization, lines, options, &mut imported, at)?;
    imported.refused.sort_by_key(|refused| refused.at);
    if !imported.refused.is_empty() {
        return Ok(imported);
    }
    imported.users = new.iter().map(|new| new.user.clone()).collect();
    if options.dry_run || new.is_empty() {
        return Ok(imported);
    }
    let invite = services.settings.mail || options.show_links;
    let planned: Vec<_> = {
        let import = services.entropy.uuid(at);
        let plan = |new| Planned::of(services, &organization, new, import, invite, at);
        new.into_iter().map(plan).collect()
    };
    imported.mailed = planned.iter().filter(|planned| planned.mail.is_some()).count();
    imported.links = planned.iter().filter_map(Planned::link).collect();
    services
        .store
        .write(move |tx| {
            for (done, planned) in (1..).zip(&planned) {
                planned.insert(tx, at)?;
                watch(done);
            }
            Ok(())
        })
        .await?;
    Ok(imported)
}

/// A user to create, and the line that names them.
struct New {
    line: u64,
    user: User,
}

fn check(
    services: &Services,
    organization: &Organization,
    lines: Vec<Line>,
    options: ImportOptions,
    imported: &mut Imported,
    at: Timestamp,
) -> Result<Vec<New>> {
    let mut new = Vec::new();
    let mut seen: HashMap<String, u64> = HashMap::new();
    for line in lines {
        let mut refuse = |field, reason: String| {
            imported.refused.push(Refused {
                at: line.at,
                field,
                reason,
            });
        };
        let wanted = NewUser {
            id: None,
            email: line.email.trim().to_owned(),
            name: line.name.filter(|name| !name.trim().is_empty()),
            role: line.role,
            password_hash: None,
        };
        let problems = match check_user(&wanted) {
            Ok(()) => BTreeMap::new(),
            Err(Error::Validation(problems)) => problems,
            Err(other) => return Err(other),
        };
        for field in ["email", "name"] {
            if let Some(problem) = problems.get(field) {
                refuse(field, problem.clone());
            }
        }
        if let Err(forbidden) = may_create(
            &User::operator(organization.id),
            &organization.settings,
            wanted.role,
        ) {
            refuse("role", forbidden.to_string());
        }
        if wanted.role == Role::HelpDesk && !organization.settings.help_desk_enabled {
            refuse("role", "help-desk is not enabled in this organisation".into());
        }
        if let Some(earlier) = seen.insert(accounts::email_key(&wanted.email), line.at) {
            refuse("email", format!("is also in line {earlier}"));
            continue;
        }
        let there = services
            .store
            .read(|db| accounts::find_user_by_email(db, organization.id, &wanted.email))?;
        match there {
            Some(_) if options.skip_existing => imported.existing += 1,
            Some(_) => refuse("email", "is taken: there is such a user already".into()),
            None => new.push(New {
                line: line.at,
                user: user(services, organization, wanted, at),
            }),
        }
    }
    Ok(new)
}

fn user(services: &Services, organization: &Organization, new: NewUser, at: Timestamp) -> User {
    let id = UserId(services.entropy.uuid(at));
    User::new(id, organization.id, new.email, new.name, new.role, at)
}

/// All rows that the transaction writes for one user.
struct Planned {
    user: User,
    invitation: Option<Invitation>,
    mail: Option<OwedDelivery>,
    event: Event,
    entry_id: Uuid,
}

impl Planned {
    fn of(
        services: &Services,
        organization: &Organization,
        New { line, user }: New,
        import: Uuid,
        invite: bool,
        at: Timestamp,
    ) -> Self {
        let invitation = invite.then(|| Invitation::new(services, &user, at));
        let mail = invitation
            .as_ref()
            .and_then(|invitation| invitation.welcome_mail(services, organization, "The operator", &user));
        let event = Event::new(EventType::UserCreate, Some(organization.id), ActorRef::operator())
            .on(Resource::user(&user))
            .with("role", json!(user.role))
            .with("import", import.to_string())
            .with("line", line);
        Self {
            event: match &invitation {
                Some(invitation) => invitation.describe(event),
                None => event,
            },
            entry_id: services.entropy.uuid(at),
            user,
            invitation,
            mail,
        }
    }

    fn link(&self) -> Option<(String, ShownLink)> {
        let shown = self.invitation.as_ref()?.shown.clone()?;
        Some((self.user.email.clone(), shown))
    }

    fn insert(&self, tx: &crate::store::Transaction<'_>, at: Timestamp) -> Result<()> {
        accounts::insert_user(tx, &self.user, None)?;
        if let Some(invitation) = &self.invitation {
            invitation.keep(tx)?;
        }
        let entry = audit::append_entry(tx, at, self.entry_id, &self.event)?;
        deliveries::owe(tx, self.mail.as_slice(), entry.sequence, at)
    }
}
