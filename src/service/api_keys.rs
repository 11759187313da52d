//! API keys: creation, listing, revocation, and what they give access to.
//!
//! A key is for a machine that reads. It belongs to the admin who created it, stops working once they are no
//! longer an active admin, and is revoked when that admin is reset. It cannot change anything: such operations
//! accept no key, whatever its scopes. Its text is shown once.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use uuid::Uuid;

use super::refusals::{admit_admin, admit_reader, record_refusal, written_resource};
use super::{RequestContext, Services, deliveries, notices, session};
use crate::domain::account::{KeyHolder, Principal, Reading, Scope, User, UserId, Verb, may_act};
use crate::domain::audit::{Event, EventType, Resource};
use crate::domain::credential::ApiKeyToken;
use crate::domain::error::TokenFault;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::api_keys::{self, ApiKeyRow};
use crate::store::deliveries::OwedDelivery;
use crate::store::{Transaction, accounts, audit, sessions};

/// Longest name, in characters.
const NAME_LIMIT: usize = 100;
/// Default lifetime of a key, in days.
const LIFETIME_DAYS: u16 = 90;
/// Maximum lifetime of a key, in days.
const LIFETIME_LIMIT_DAYS: u16 = 365;
/// Maximum number of active keys of an organisation.
const KEYS_LIMIT: u32 = 100;
/// Precision of the time of last use: a busy reader causes at most one write a minute.
const LAST_USE_PRECISION: SignedDuration = SignedDuration::from_secs(60);
const RESOURCE: &str = "API_KEY";

/// An admin's request for a new key.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its name, which should say what it is for.
    pub name: String,
    /// Its scopes, as the caller wrote them.
    pub scopes: Vec<String>,
    /// Lifetime in days, 1–365; 90 by default.
    pub expires_in_days: Option<u16>,
}

/// A key and its creator.
#[derive(Clone, Debug)]
pub struct ListedKey {
    /// The key.
    pub key: ApiKeyRow,
    /// The user who created it.
    pub creator: User,
}

/// Creates a key in the caller's name and returns it in clear; it can't be retrieved again.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::Validation`], [`Error::Conflict`] if there are
/// too many, [`Error::RateLimited`]. Each is recorded in the trail.
pub async fn create_api_key(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    new: NewKey,
) -> Result<(ListedKey, String)> {
    let attempt = async {
        let admin = admit_admin(services, principal, context)?;
        may_act(
            &admin.user,
            &admin.organization.settings,
            Verb::MakeApiKey,
            &admin.user,
        )?;
        insert(services, &admin, context, new).await
    };
    match attempt.await {
        Ok(made) => Ok(made),
        Err(error) => {
            let none_yet = Resource::other(RESOURCE, "", None);
            Err(record_refusal(
                services,
                principal,
                context,
                EventType::ApiKeyCreate,
                none_yet,
                error,
            )
            .await)
        }
    }
}

async fn insert(
    services: &Services,
    admin: &Principal,
    context: &RequestContext,
    new: NewKey,
) -> Result<(ListedKey, String)> {
    let at = context.at;
    let (name, scopes, days) = checked(new)?;
    let token = ApiKeyToken::new(services.entropy.uuid(at), services.entropy.bytes());
    let key = ApiKeyRow {
        id: token.id,
        organization_id: admin.organization.id,
        created_by: admin.user.id,
        name,
        prefix: token.shown(),
        scopes,
        created_at: at,
        expires_at: at + SignedDuration::from_hours(24 * i64::from(days)),
        last_used_at: None,
        revoked_at: None,
    };
    let event = key_event(EventType::ApiKeyCreate, admin, context, &key)
        .with("scopes", json!(key.scopes))
        .with("expiresAt", key.expires_at.to_string());
    let subject = format!("An API key was made in your name for {}", admin.organization.name);
    let body = format!(
        "The API key \"{}\" was made with your account {} {}. It reads until {:.0}.",
        key.name,
        admin.user.email,
        notices::when_and_whence(context),
        key.expires_at,
    );
    let end = "If it was, there is nothing to do.";
    let mail = notices::reportable_mail(
        services,
        &admin.organization,
        &admin.user,
        context,
        &subject,
        &body,
        end,
    );
    let owed: Vec<_> = mail
        .into_iter()
        .chain(call(services, admin, "api-key.created", key.id, context))
        .collect();
    let (hash, entry_id, caller) = (token.hash(), services.entropy.uuid(at), admin.clone());
    let kept = key.clone();
    services
        .store
        .write_for(admin.organization.id, move |tx| {
            still_admin(tx, &caller, at)?;
            if api_keys::count_live(tx, caller.organization.id, at)? >= KEYS_LIMIT {
                return Err(Error::Conflict(format!(
                    "There are {KEYS_LIMIT} API keys already; revoke one first"
                )));
            }
            api_keys::insert_api_key(tx, &kept, &hash)?;
            let entry = audit::append_entry(tx, at, entry_id, &event)?;
            deliveries::owe(tx, &owed, entry.sequence, at)
        })
        .await?;
    let creator = admin.user.clone();
    Ok((ListedKey { key, creator }, token.encode()))
}

/// Returns the organisation's keys, newest first, including expired and revoked ones.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::RateLimited`].
pub async fn list_api_keys(services: &Services, principal: &Principal) -> Result<Vec<ListedKey>> {
    let organization = admit_reader(services, principal)?.organization.id;
    services
        .store
        .read_long(Some(organization), move |db| {
            let keys = api_keys::find_api_keys(db, organization)?;
            let mut creators: BTreeMap<UserId, User> = BTreeMap::new();
            for key in &keys {
                if !creators.contains_key(&key.created_by)
                    && let Some(creator) = accounts::find_user(db, organization, key.created_by)?
                {
                    creators.insert(key.created_by, creator);
                }
            }
            let listed = keys.into_iter().filter_map(|key| {
                let creator = creators.get(&key.created_by)?.clone();
                Some(ListedKey { key, creator })
            });
            Ok(listed.collect())
        })
        .await
}

/// Revokes a key of the organisation, whoever created it; it stops working immediately.
///
/// # Errors
/// [`Error::NotOrgAdmin`], [`Error::StepUpRequired`], [`Error::MayNotAct`], [`Error::NotFound`] for one that
/// does not exist or was already revoked, [`Error::RateLimited`]. Each is recorded in the trail.
pub async fn revoke_api_key(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<()> {
    let attempt = async {
        let admin = admit_admin(services, principal, context)?;
        revoke(services, &admin, context, written_id).await
    };
    match attempt.await {
        Ok(()) => Ok(()),
        Err(error) => {
            let key = written_resource(RESOURCE, written_id);
            Err(record_refusal(services, principal, context, EventType::ApiKeyRevoke, key, error).await)
        }
    }
}

async fn revoke(
    services: &Services,
    admin: &Principal,
    context: &RequestContext,
    written_id: &str,
) -> Result<()> {
    let written = written_id.parse::<Uuid>();
    let not_found = Error::NotFound {
        what: "API key",
        // The message is recorded: if a caller passes the key itself as the id, it must not end up there.
        id: written.as_ref().map_or("(no id)", |_| written_id).to_owned(),
    };
    let id = written.map_err(|_| not_found.clone())?;
    let (at, entry_id) = (context.at, services.entropy.uuid(context.at));
    let (caller, request) = (admin.clone(), context.clone());
    let owed = call(services, admin, "api-key.revoked", id, context);
    services
        .store
        .write_for(admin.organization.id, move |tx| {
            let actor = still_admin(tx, &caller, at)?;
            let organization = &caller.organization;
            let key =
                api_keys::revoke_api_key(tx, organization.id, id, at)?.ok_or_else(|| not_found.clone())?;
            let creator =
                accounts::find_user(tx, organization.id, key.created_by)?.ok_or_else(|| not_found.clone())?;
            may_act(&actor, &organization.settings, Verb::RevokeApiKey, &creator)?;
            let event = key_event(EventType::ApiKeyRevoke, &caller, &request, &key)
                .with("createdBy", creator.id.to_string());
            let entry = audit::append_entry(tx, at, entry_id, &event)?;
            deliveries::owe(tx, owed.as_slice(), entry.sequence, at)
        })
        .await
}

/// Returns the webhook call that announces the creation or revocation of a key, if the organisation has a
/// webhook.
fn call(
    services: &Services,
    by: &Principal,
    event: &str,
    key: Uuid,
    context: &RequestContext,
) -> Option<OwedDelivery> {
    let data = json!({ "apiKeyId": key, "actorId": by.user.id, "ipAddress": context.ip_text() });
    notices::call(services, &by.organization, event, context.at, data)
}

/// Revokes every key that a user created, in the transaction of the change that makes the keys untrustworthy: a
/// reset, a new password, the loss of the admin role. The entry records how many there were.
pub(super) fn end_keys_of(
    tx: &Transaction<'_>,
    user: UserId,
    at: Timestamp,
    event: &mut Event,
) -> Result<()> {
    let revoked = api_keys::revoke_made_by(tx, user, at)?;
    if revoked > 0 {
        event.details.insert("apiKeysRevoked".to_owned(), json!(revoked));
    }
    Ok(())
}

/// An authenticated reader: a person or a machine.
#[derive(Clone, Debug)]
pub enum Reader {
    /// A caller with a valid access token, of any role.
    Person(Box<Principal>),
    /// The holder of an active key.
    Key(Box<KeyHolder>),
}

impl Reader {
    /// Grants the right to read what `scope` gives access to; counts against the rate limit.
    ///
    /// # Errors
    /// [`Error::RateLimited`], [`Error::EnrolmentOnly`], [`Error::NotOrgAdmin`], [`Error::MissingScope`].
    pub fn admit(&self, services: &Services, scope: Scope) -> Result<Reading<'_>> {
        match self {
            Self::Person(principal) => admit_reader(services, principal).map(Reading::from),
            Self::Key(key) => {
                services.limiter.check(Bucket::AdminByCaller, key.id.as_bytes())?;
                key.reading(scope)
            }
        }
    }

    /// As [`Reader::admit`], for a reader who continues reading; not counted again.
    ///
    /// # Errors
    /// [`Error::EnrolmentOnly`], [`Error::NotOrgAdmin`], [`Error::MissingScope`].
    pub fn reading(&self, scope: Scope) -> Result<Reading<'_>> {
        match self {
            Self::Person(principal) => principal.org_admin().map(Reading::from),
            Self::Key(key) => key.reading(scope),
        }
    }
}

/// The credential that a reader presents.
#[derive(Clone)]
pub enum Credential {
    /// An access token.
    Bearer(String),
    /// An API key.
    Key(String),
}

prints_no_secret!(Credential);

/// Authenticates a credential against the current state of the database.
///
/// # Errors
/// [`Error::Token`], [`Error::EnrolmentOnly`], [`Error::ApiKey`].
pub fn authenticate(services: &Services, credential: &Credential, at: Timestamp) -> Result<Reader> {
    match credential {
        Credential::Bearer(token) => {
            let principal = session::authenticate(services, Some(token), at)?;
            principal.full()?;
            Ok(Reader::Person(Box::new(principal)))
        }
        Credential::Key(text) => {
            find_live(services, text, at).map(|(_, holder)| Reader::Key(Box::new(holder)))
        }
    }
}

/// Authenticates a call with a key and records the time as its last use.
///
/// # Errors
/// [`Error::ApiKey`].
pub async fn authenticate_key(services: &Services, text: &str, at: Timestamp) -> Result<Reader> {
    let (row, holder) = find_live(services, text, at)?;
    let recent = |last: Timestamp| at.duration_since(last) < LAST_USE_PRECISION;
    if !row.last_used_at.is_some_and(recent) {
        let noted = services.store.write_for(row.organization_id, move |tx| {
            api_keys::update_last_used(tx, row.id, at)
        });
        // Reading must continue to work while nothing can be written.
        if let Err(failed) = noted.await {
            tracing::warn!(%failed, key = %row.id, "could not record the use of an API key");
        }
    }
    Ok(Reader::Key(Box::new(holder)))
}

/// Finds the active key with this text. Unknown, expired and revoked keys, and those of a user who is not an
/// active admin, all give the same error.
fn find_live(services: &Services, text: &str, at: Timestamp) -> Result<(ApiKeyRow, KeyHolder)> {
    let token = ApiKeyToken::decode(text).ok_or(Error::ApiKey)?;
    services.store.read(|db| {
        let found = api_keys::find_live_api_key(db, token.id, at)?;
        let (row, _) = found
            .filter(|(_, hash)| token.matches(hash))
            .ok_or(Error::ApiKey)?;
        let organization = accounts::find_organization(db, row.organization_id)?.ok_or(Error::ApiKey)?;
        let holder = KeyHolder {
            id: row.id,
            created_by: row.created_by,
            organization,
            scopes: row
                .scopes
                .iter()
                .filter_map(|name| Scope::from_wire(name))
                .collect(),
        };
        Ok((row, holder))
    })
}

/// Returns the validated name, scopes and days, or every field that breaks a rule.
fn checked(new: NewKey) -> Result<(String, Vec<String>, u16)> {
    let mut problems = BTreeMap::new();
    let name = new.name.trim().to_owned();
    let length = name.chars().count();
    if !(1..=NAME_LIMIT).contains(&length) || name.chars().any(char::is_control) {
        problems.insert(
            "name".to_owned(),
            format!("must have 1 to {NAME_LIMIT} characters, none of them a control character"),
        );
    }
    let known: Option<Vec<Scope>> = new.scopes.iter().map(|name| Scope::from_wire(name)).collect();
    let mut scopes = known.unwrap_or_default();
    scopes.sort();
    scopes.dedup();
    if scopes.is_empty() {
        let names = Scope::ALL.map(Scope::as_str).join(", ");
        problems.insert("scopes".to_owned(), format!("must name one or more of: {names}"));
    }
    let days = new.expires_in_days.unwrap_or(LIFETIME_DAYS);
    if !(1..=LIFETIME_LIMIT_DAYS).contains(&days) {
        problems.insert(
            "expiresInDays".to_owned(),
            format!("must be between 1 and {LIFETIME_LIMIT_DAYS}"),
        );
    }
    if !problems.is_empty() {
        return Err(Error::Validation(problems));
    }
    let scopes = scopes.into_iter().map(|scope| scope.as_str().to_owned());
    Ok((name, scopes.collect(), days))
}

/// Reads the caller inside the transaction; fails unless they are still an admin in an active session.
fn still_admin(tx: &Transaction<'_>, caller: &Principal, at: Timestamp) -> Result<User> {
    if !sessions::session_lives(tx, &caller.session, at)? {
        return Err(Error::Token(TokenFault::Revoked));
    }
    let mut now = caller.clone();
    now.user = accounts::find_user(tx, caller.organization.id, caller.user.id)?.ok_or(Error::NotOrgAdmin)?;
    now.org_admin()?;
    Ok(now.user)
}

fn key_event(event_type: EventType, by: &Principal, context: &RequestContext, key: &ApiKeyRow) -> Event {
    Event::by(by, event_type)
        .on(Resource::other(RESOURCE, key.id, Some(key.name.clone())))
        .from_request(&context.request_id, context.ip)
        .with("prefix", key.prefix.clone())
}
