//! A user's own passkeys: registration, listing, removal.
//!
//! The first passkey enables MFA, just as confirming TOTP does: an enrolment session becomes a full one, and
//! recovery codes are created. Registering a further one, or removing one, requires the second factor in this
//! session.

mod removal;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::enrolment::{self, RecoveryCodes};
use super::session::{end_others, still_lives};
use super::{RequestContext, Services, deliveries, own_event};
use crate::domain::account::{Principal, SessionId, UserId};
use crate::domain::audit::{AuditResult, EventType};
use crate::domain::policy::FactorKind;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::passkeys::{Ceremony, Credential, Fault};
use crate::store::challenges::Purpose;
use crate::store::passkeys::{self, PasskeyRow};
use crate::store::{Connection, audit, challenges, factors, sessions};

pub use crate::passkeys::{Asserted, Created};
pub use removal::remove_passkey;

/// Maximum number of passkeys per user.
pub const PASSKEYS_PER_USER: usize = 10;
/// Maximum length of a passkey's name, in characters.
pub const NAME_MAX_CHARACTERS: usize = 64;

/// The error for a passkey that doesn't match the challenge.
pub(super) const INVALID: Error = Error::Refused("Invalid passkey");

/// Options for the browser's `navigator.credentials`, as JSON.
#[derive(Clone, Debug)]
pub struct Options(pub serde_json::Value);

/// A passkey to register.
pub struct NewPasskey {
    /// The name given by its user.
    pub name: String,
    /// The authenticator's answer.
    pub created: Created,
    /// The code given by an admin, if required after a reset.
    pub enrolment_code: Option<String>,
}

/// A passkey as shown to its user.
#[derive(Clone, Debug)]
pub struct Passkey {
    /// Id.
    pub id: Uuid,
    /// The name given by its user.
    pub name: String,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
    /// When a copy of it was detected; it has been disabled since.
    pub cloned_at: Option<Timestamp>,
}

/// The result of a registration.
#[derive(Debug)]
pub struct Registered {
    /// The registered passkey.
    pub passkey: Passkey,
    /// New recovery codes, if it is the first second factor.
    pub recovery_codes: Option<RecoveryCodes>,
}

/// Returns the options for creating a passkey.
///
/// # Errors
/// [`Error::StepUpRequired`] if MFA is enabled and the second factor was not used recently; [`Error::Conflict`]
/// if there are too many passkeys; [`Error::RateLimited`]; [`Error::Busy`].
pub async fn passkey_registration_options(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Options> {
    let user = &principal.user;
    admit(services, principal, context)?;
    let known = services.store.read(|db| passkeys::find_passkeys(db, user.id))?;
    refuse_too_many(known.len())?;
    let known = open(services, user.id, &known)?;
    let ceremony = services.passkeys.start_registration(user, &known)?;
    let purpose = Purpose::PasskeyRegistration;
    remember(services, principal, purpose, &ceremony, context.at).await?;
    Ok(Options(ceremony.options))
}

/// Registers a passkey that the authenticator created.
///
/// # Errors
/// [`Error::Refused`] if no options were requested, or the passkey doesn't match them; [`Error::Conflict`] for
/// a credential that is already registered, and if there are too many; [`Error::Validation`], also if the
/// admin's code is required and missing or wrong; [`Error::StepUpRequired`]; [`Error::Stale`];
/// [`Error::RateLimited`]; [`Error::Busy`]. A passkey that doesn't match and a wrong code are recorded in the
/// trail.
pub async fn register_passkey(
    services: &Services,
    principal: &Principal,
    new: NewPasskey,
    context: &RequestContext,
) -> Result<Registered> {
    admit(services, principal, context)?;
    match register(services, principal, new, context).await {
        Ok(registered) => Ok(registered),
        Err(error) => {
            let denied = own_event(EventType::UserPasskeyRegistered, &principal.user, context);
            Err(enrolment::record_wrong_code(services, denied, error, context.at).await)
        }
    }
}

async fn register(
    services: &Services,
    principal: &Principal,
    new: NewPasskey,
    context: &RequestContext,
) -> Result<Registered> {
    let name = read_name(&new.name)?;
    let (id, at) = (principal.user.id, context.at);
    let (session, kept) = (principal.session.id, principal.session.clone());
    let hash = ceremony_hash(session, Purpose::PasskeyRegistration);
    let find = move |db: &Connection| {
        let kept = challenges::find_challenge(db, id, &hash, Purpose::PasskeyRegistration, at)?;
        kept.and_then(|kept| kept.state).ok_or_else(no_ceremony)
    };
    let state = services.store.read(find)?;
    let credential = match services.passkeys.finish_registration(&new.created, &state)? {
        Ok(credential) => credential,
        Err(fault) => return refuse(services, principal, fault, hash, context).await,
    };
    let row = new_row(services, id, name, &credential, at);
    let first = !principal.user.mfa_enabled;
    let (codes, set) = if first {
        let (codes, set, hashes) = enrolment::new_recovery_codes(services, &principal.user, context).await?;
        (Some(codes), Some((set, hashes)))
    } else {
        (None, None)
    };
    let shown = new
        .enrolment_code
        .map(|code| services.keys.enrolment_code_hash(id, &code));
    let full_until = at + SignedDuration::from_secs(services.settings.refresh_token_secs);
    let registered = own_event(EventType::UserPasskeyRegistered, &principal.user, context)
        .with("passkeyId", row.id.to_string())
        .with("passkeyName", row.name.clone())
        .with("sessionId", session.to_string());
    let enabled = own_event(EventType::UserMfaEnabled, &principal.user, context)
        .with("factors", vec!["passkey", "recovery-codes"])
        .with("sessionId", session.to_string());
    let did = format!("registered the passkey \"{}\"", row.name);
    let owed = enrolment::told(services, principal, context, &did, "user.passkey.registered");
    let passkey = shown_as(&row);
    let entry_ids: [Uuid; 2] = std::array::from_fn(|_| services.entropy.uuid(at));
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &kept, at)?;
            let user = enrolment::usable_user(tx, id)?;
            if find(tx)? != state {
                return Err(no_ceremony());
            }
            // Whether recovery codes were created depends on a state that may have changed since.
            if user.mfa_enabled == first {
                return Err(Error::Stale);
            }
            enrolment::check_enrolment_window(tx, &user, shown.as_ref(), at)?;
            refuse_too_many(passkeys::find_passkeys(tx, id)?.len())?;
            if passkeys::credential_is_known(tx, &row.credential_hash)? {
                return Err(Error::Conflict("The passkey is registered already".to_owned()));
            }
            passkeys::insert_passkey(tx, id, &row)?;
            if let Some((set, hashes)) = &set {
                factors::insert_recovery_set(tx, id, set, hashes, at)?;
                factors::clear_enrolment(tx, id)?;
                factors::clear_enrolment_due(tx, id)?;
            }
            factors::touch_user(tx, id, at)?;
            // Changes no row for a session of another issuer, which is not stored here.
            sessions::update_second_factor(tx, id, session, FactorKind::Passkey, at, full_until)?;
            let ended = end_others(tx, &kept, at)?;
            let registered = registered.clone().with("sessionsEnded", ended);
            let entry = audit::append_entry(tx, at, entry_ids[0], &registered)?;
            if first {
                audit::append_entry(tx, at, entry_ids[1], &enabled)?;
            }
            deliveries::owe(tx, &owed, entry.sequence, at)
        })
        .await?;
    Ok(Registered {
        passkey,
        recovery_codes: codes,
    })
}

/// Returns the caller's passkeys, oldest first.
///
/// # Errors
/// [`Error::RateLimited`]; [`Error::Internal`] if the store fails.
pub fn list_passkeys(services: &Services, principal: &Principal) -> Result<Vec<Passkey>> {
    services
        .limiter
        .check(Bucket::AccountByCaller, principal.user.id.0.as_bytes())?;
    let rows = services
        .store
        .read(|db| passkeys::find_passkeys(db, principal.user.id))?;
    Ok(rows.iter().map(shown_as).collect())
}

/// Requires a recent use of the second factor if MFA is enabled (ASVS 7.5.1): a stolen session alone can't add
/// or remove a passkey.
fn admit(services: &Services, principal: &Principal, context: &RequestContext) -> Result<()> {
    services
        .limiter
        .check(Bucket::EnrolmentByAccount, principal.session.id.0.as_bytes())?;
    principal.may_change_factors(context.at)
}

fn refuse_too_many(passkeys: usize) -> Result<()> {
    if passkeys < PASSKEYS_PER_USER {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "There are {PASSKEYS_PER_USER} passkeys already: remove one first"
    )))
}

fn read_name(written: &str) -> Result<String> {
    let name = written.trim();
    let problem = match name.chars().count() {
        0 => "is empty",
        n if n > NAME_MAX_CHARACTERS => "is too long",
        _ if name.chars().any(char::is_control) => "holds control characters",
        _ => return Ok(name.to_owned()),
    };
    Err(Error::field("name", problem))
}

/// Records an answer that doesn't match the options, and uses them up.
async fn refuse<T>(
    services: &Services,
    principal: &Principal,
    fault: Fault,
    hash: [u8; 32],
    context: &RequestContext,
) -> Result<T> {
    let (id, at) = (principal.user.id, context.at);
    let event = own_event(EventType::UserPasskeyRegistered, &principal.user, context)
        .ended(AuditResult::Denied, fault.message())
        .with("reason", fault.reason());
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            challenges::take_challenge(tx, id, &hash)?;
            audit::append_entry(tx, at, entry_id, &event).map(drop)
        })
        .await?;
    Err(Error::Refused(fault.message()))
}

fn new_row(
    services: &Services,
    user: UserId,
    name: String,
    credential: &Credential,
    at: Timestamp,
) -> PasskeyRow {
    PasskeyRow {
        id: services.entropy.uuid(at),
        sealed: seal(services, user, &credential.kept),
        credential_hash: credential_hash(&credential.id),
        name,
        counter: credential.counter,
        enrolled_at: at,
        last_used_at: None,
        cloned_at: None,
    }
}

fn shown_as(row: &PasskeyRow) -> Passkey {
    Passkey {
        id: row.id,
        name: row.name.clone(),
        created_at: row.enrolled_at,
        last_used_at: row.last_used_at,
        cloned_at: row.cloned_at,
    }
}

/// Returns the user's passkeys that are not disabled.
pub(super) fn find_usable(db: &Connection, user: UserId) -> Result<Vec<PasskeyRow>> {
    let mut rows = passkeys::find_passkeys(db, user)?;
    rows.retain(|row| row.cloned_at.is_none());
    Ok(rows)
}

/// Returns the kinds of second factor with which a user can complete a login, strongest first.
pub(super) fn login_methods(services: &Services, db: &Connection, user: UserId) -> Result<Vec<FactorKind>> {
    let kinds: Vec<_> = factors::find_factors(db, user)?
        .iter()
        .map(|facts| facts.kind)
        .collect();
    let passkey = services.passkeys.id().is_some() && !find_usable(db, user)?.is_empty();
    let mut methods = Vec::new();
    for kind in [FactorKind::Passkey, FactorKind::Totp, FactorKind::RecoveryCodes] {
        if kinds.contains(&kind) && (kind != FactorKind::Passkey || passkey) {
            methods.push(kind);
        }
    }
    Ok(methods)
}

/// Starts a ceremony that asks for the use of one of these passkeys.
pub(super) fn ask(services: &Services, user: UserId, usable: &[PasskeyRow]) -> Result<Ceremony> {
    if usable.is_empty() {
        return Err(Error::Refused("There is no passkey that can be used"));
    }
    services
        .passkeys
        .start_authentication(&open(services, user, usable)?)
}

/// Stores the state of a session's ceremony, replacing an earlier one.
pub(super) async fn remember(
    services: &Services,
    principal: &Principal,
    purpose: Purpose,
    ceremony: &Ceremony,
    at: Timestamp,
) -> Result<()> {
    let (user, state) = (principal.user.id, ceremony.state.clone());
    let hash = ceremony_hash(principal.session.id, purpose);
    let expires_at = at + SignedDuration::from_secs(services.settings.mfa_challenge_secs);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            challenges::take_challenge(tx, user, &hash)?;
            challenges::insert_challenge(tx, user, &hash, purpose, Some(&state), at, expires_at)
        })
        .await
}

/// Returns the key under which a session's ceremony is stored. It is not a secret: the answer has to be signed.
pub(super) fn ceremony_hash(session: SessionId, purpose: Purpose) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(match purpose {
        Purpose::PasskeyStepUp => b"passkey step-up".as_slice(),
        _ => b"passkey registration",
    });
    hash.update(session.0.as_bytes());
    hash.finalize().into()
}

pub(super) fn no_ceremony() -> Error {
    Error::Refused("No passkey was asked for, or too long ago. Ask for options again")
}

/// Returns the hash that identifies a credential: ids can have up to 1023 bytes.
pub(super) fn credential_hash(id: &[u8]) -> [u8; 32] {
    Sha256::digest(id).into()
}

/// Decrypts stored credentials.
pub(super) fn open(services: &Services, user: UserId, rows: &[PasskeyRow]) -> Result<Vec<Vec<u8>>> {
    let open = |row: &PasskeyRow| services.keys.unseal(user, FactorKind::Passkey, &row.sealed);
    rows.iter().map(|row| Ok(open(row)?.to_vec())).collect()
}

/// Encrypts a credential for storage. A public key is not secret; sealing prevents it from being replaced by
/// another.
pub(super) fn seal(services: &Services, user: UserId, kept: &[u8]) -> Vec<u8> {
    services
        .keys
        .seal(user, FactorKind::Passkey, kept, services.entropy.bytes())
}

prints_no_secret!(NewPasskey);
