//! The first step: verifying the password. Work, answer and timing are the same whether organisation and
//! account exist or not (ASVS 6.3.8).

use super::{Case, LoginRequest, Password, RequestContext, Services, login_event, refused};
use crate::domain::account::{Organization, User};
use crate::domain::audit::{ActorRef, ActorType, Event, EventType};
use crate::domain::credential::{self, PASSWORD_MAX_CHARACTERS};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::passkeys::login_methods;
use crate::store::{accounts, audit, passwords};

/// Longest e-mail address (RFC 5321 §4.5.3.1.3, less the angle brackets).
const EMAIL_MAX_BYTES: usize = 254;

/// The account found for a login.
#[derive(Debug)]
pub(super) enum Account {
    /// The organisation does not exist.
    Nowhere,
    /// The organisation has no such user.
    Nobody(Box<Organization>),
    /// A user, with a password hash if a password was ever set.
    Somebody { user: Box<User>, hash: Option<String> },
}

/// Proof that the user's password was presented.
#[derive(Debug)]
pub(super) struct Proof {
    user: Box<User>,
    /// The hash that it matched.
    hash: String,
    /// That hash and a new one, if its parameters are outdated.
    pub(super) rehashed: Option<(String, String)>,
}

/// Counts the attempt by its source address.
pub(super) fn admit(services: &Services, context: &RequestContext) -> Result<()> {
    services.limiter.check_address(Bucket::LoginByAddress, context.ip)
}

pub(super) fn find_account(services: &Services, request: &LoginRequest) -> Result<Account> {
    services.store.read(|db| {
        let Some(organization) = accounts::find_organization_by_slug(db, &request.organization_slug)? else {
            return Ok(Account::Nowhere);
        };
        let Some(user) = accounts::find_user_by_email(db, organization.id, &request.email)? else {
            return Ok(Account::Nobody(Box::new(organization)));
        };
        let hash = passwords::find_password_hash(db, user.id)?;
        Ok(Account::Somebody {
            user: Box::new(user),
            hash,
        })
    })
}

/// Always computes exactly one hash, so that timing does not reveal whether the account exists.
pub(super) async fn check(
    services: &Services,
    account: Account,
    request: &LoginRequest,
    context: &RequestContext,
) -> Result<Proof> {
    let Password(password) = request.password.clone();
    let hash = match &account {
        Account::Somebody { hash, .. } => hash.clone(),
        Account::Nowhere | Account::Nobody(_) => None,
    };
    let salt = services.entropy.bytes();
    let organization = match &account {
        Account::Somebody { user, .. } => Some(user.organization_id),
        Account::Nobody(organization) => Some(organization.id),
        Account::Nowhere => None,
    };
    let outcome = services
        .hashing
        .run(organization, move || {
            // Longer passwords were never accepted, and must not cost more to check.
            if password.chars().count() > PASSWORD_MAX_CHARACTERS {
                return None;
            }
            let Some(hash) = hash else {
                credential::absorb_time(&password);
                return None;
            };
            if !credential::verify_password(&password, &hash) {
                return None;
            }
            let renewed = credential::needs_rehash(&hash)
                .then(|| (hash.clone(), credential::hash_password(&password, salt)));
            Some((hash, renewed))
        })
        .await?;
    match (account, outcome) {
        (Account::Somebody { user, .. }, Some((hash, rehashed))) if user.active => {
            Ok(Proof { user, hash, rehashed })
        }
        (account, outcome) => {
            record(services, &account, outcome.is_some(), request, context).await?;
            Err(Error::InvalidCredentials)
        }
    }
}

impl Proof {
    /// Reads the user's current state, if the verified password is still theirs.
    pub(super) fn case(&self, services: &Services) -> Result<Case> {
        services.store.read(|db| {
            let user = accounts::find_user_anywhere(db, self.user.id)?;
            let user = user.filter(|user| user.active).ok_or(Error::InvalidCredentials)?;
            let hash = passwords::find_password_hash(db, user.id)?;
            let renewed = self.rehashed.as_ref().map(|(_, new)| new);
            if hash.as_ref() != Some(&self.hash) && hash.as_ref() != renewed {
                return Err(Error::InvalidCredentials);
            }
            let organization = accounts::find_organization(db, user.organization_id)?;
            let organization = organization.ok_or(Error::InvalidCredentials)?;
            let methods = match user.mfa_enabled {
                true => login_methods(services, db, user.id)?,
                false => Vec::new(),
            };
            Ok(Case {
                user,
                organization,
                methods,
            })
        })
    }
}

/// Records a failed attempt. If it needs no entry, writes something else instead so that the answer takes as
/// long: otherwise timing would reveal which organisations and accounts exist.
async fn record(
    services: &Services,
    account: &Account,
    password_right: bool,
    request: &LoginRequest,
    context: &RequestContext,
) -> Result<()> {
    let event = match account {
        // There is no organisation whose trail could record it.
        Account::Nowhere => {
            tracing::info!(
                ip = context.ip_text(),
                "a login named an organisation that does not exist"
            );
            None
        }
        Account::Nobody(organization) => {
            let event = failure_of_nobody(services, organization, request, context)?;
            services.strangers.count(organization.id, context, event)
        }
        Account::Somebody { user, hash } => {
            Some(failure_of_somebody(user, hash.is_some(), password_right, context))
        }
    };
    let Some(event) = event else {
        return services.store.probe().await;
    };
    let (at, id) = (context.at, services.entropy.uuid(context.at));
    services
        .store
        .write(move |tx| audit::append_entry(tx, at, id, &event).map(drop))
        .await
}

/// Returns the entry for an unknown account. The typed address is included only if a user of the organisation
/// has an address of that domain: people type passwords into that field, and `P@ssw0rd.1` looks like an
/// address.
fn failure_of_nobody(
    services: &Services,
    organization: &Organization,
    request: &LoginRequest,
    context: &RequestContext,
) -> Result<Event> {
    let address = written_address(&request.email);
    let known = services.store.read(|db| match address {
        Some(address) => accounts::domain_is_known(db, organization.id, address),
        None => Ok(false),
    })?;
    let actor = claimed(address.filter(|_| known));
    let event = Event::new(EventType::UserLogin, Some(organization.id), actor)
        .from_request(&context.request_id, context.ip);
    Ok(refused(event, "unknown-account"))
}

/// Returns the entry for a known account. The actor is anonymous: they failed to prove that they are the user.
fn failure_of_somebody(user: &User, has_password: bool, right: bool, context: &RequestContext) -> Event {
    let mut event = login_event(user, context);
    event.actor = claimed(Some(&user.email));
    refused(
        event,
        match (has_password, right) {
            (false, _) => "no-password",
            (true, false) => "wrong-password",
            (true, true) => "inactive",
        },
    )
}

/// Returns an anonymous actor who claims this address.
fn claimed(address: Option<&str>) -> ActorRef {
    ActorRef {
        r#type: ActorType::Anonymous,
        id: None,
        email: address.map(str::to_owned),
    }
}

/// Returns the typed text if it looks like an address.
fn written_address(text: &str) -> Option<&str> {
    let text = text.trim();
    let (local, domain) = text.split_once('@')?;
    let plausible = !local.is_empty()
        && domain.contains('.')
        && text.len() <= EMAIL_MAX_BYTES
        && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    plausible.then_some(text)
}
