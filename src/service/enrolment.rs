//! A user's own second factors: set-up, confirmation, disabling, new recovery codes.
//!
//! Set-up takes a session of either scope. Confirming turns an enrolment session into a full one: the same
//! access and refresh tokens continue to work, and every other session of the user ends.

mod recovery_codes;
mod window;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::login::code::read_code;
use super::operator::operator_may;
use super::session::{end_others, still_lives};
use super::{RequestContext, Services, deliveries, notices, own_event};
use crate::domain::account::{Principal, User, UserId, Verb};
use crate::domain::audit::{ActorRef, AuditResult, Event, EventType, Resource};
use crate::domain::error::TokenFault;
use crate::domain::policy::FactorKind;
use crate::domain::second_factor::{Code, TotpSecret};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::{Transaction, accounts, audit, factors, sessions};

pub(super) use recovery_codes::new_recovery_codes;
pub use recovery_codes::{RecoveryCodes, regenerate_recovery_codes};
pub(super) use window::{check_enrolment_window, record_wrong_code};

const WRONG_CODE: Error = Error::Refused("Invalid MFA code");

/// A TOTP secret to be read into an authenticator app.
pub struct SetUp {
    /// PNG of a QR code with the `otpauth` URI, base 64.
    pub qr_code_base64: Zeroizing<String>,
    /// The secret, base 32.
    pub secret: Zeroizing<String>,
}

/// Confirmation that the secret was read.
pub struct Confirmation {
    /// The secret that was shown, base 32.
    pub secret: Zeroizing<String>,
    /// A TOTP code generated from it.
    pub code: String,
    /// The code given by an admin, if required after a reset.
    pub enrolment_code: Option<String>,
}

/// Generates a new TOTP secret and returns it. An earlier one shown to this session is discarded; those shown
/// to other sessions of the user stay, because one of them may belong to somebody else.
///
/// # Errors
/// [`Error::Conflict`] if MFA is enabled already; [`Error::RateLimited`].
pub async fn set_up_mfa(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<SetUp> {
    let user = &principal.user;
    services
        .limiter
        .check(Bucket::EnrolmentByAccount, principal.session.id.0.as_bytes())?;
    services.store.read(|db| refuse_second_set_up(db, user))?;
    principal.may_change_factors(context.at)?;
    let secret = TotpSecret::new(services.entropy.bytes());
    let sealed = services.keys.seal(
        user.id,
        FactorKind::Totp,
        secret.as_bytes(),
        services.entropy.bytes(),
    );
    let png = Zeroizing::new(secret.qr_code_png(&services.settings.issuer, &user.email)?);
    let (id, at) = (user.id, context.at);
    let session = principal.session.clone();
    let expires_at = at + SignedDuration::from_secs(services.settings.enrolment_secs);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &session, at)?;
            refuse_second_set_up(tx, &current_user(tx, id)?)?;
            factors::insert_enrolment(tx, id, session.id, &sealed, at, expires_at)
        })
        .await?;
    Ok(SetUp {
        qr_code_base64: Zeroizing::new(STANDARD.encode(&*png)),
        secret: secret.base32(),
    })
}

/// Enrols the secret that was shown, given its first code, and returns the recovery codes.
///
/// # Errors
/// [`Error::Conflict`] if MFA is enabled already; [`Error::Refused`] for another secret, a wrong code or an
/// expired set-up; [`Error::Validation`] if the admin's code is required and missing or wrong;
/// [`Error::RateLimited`]; [`Error::Busy`]. A wrong code of either kind is recorded in the trail.
pub async fn confirm_mfa(
    services: &Services,
    principal: &Principal,
    confirmation: Confirmation,
    context: &RequestContext,
) -> Result<RecoveryCodes> {
    services
        .limiter
        .check(Bucket::EnrolmentByAccount, principal.session.id.0.as_bytes())?;
    match enrol(services, principal, confirmation, context).await {
        Ok(codes) => Ok(codes),
        Err(error) => {
            let denied = own_event(EventType::UserMfaEnabled, &principal.user, context);
            Err(record_wrong_code(services, denied, error, context.at).await)
        }
    }
}

async fn enrol(
    services: &Services,
    principal: &Principal,
    confirmation: Confirmation,
    context: &RequestContext,
) -> Result<RecoveryCodes> {
    let user = &principal.user;
    let at = context.at;
    let enrolment = services.store.read(|db| {
        refuse_second_set_up(db, user)?;
        factors::find_enrolment(db, user.id, principal.session.id, at)
    })?;
    principal.may_change_factors(at)?;
    let enrolment = enrolment.ok_or(Error::Refused(
        "There is no MFA set-up to confirm. Start it again",
    ))?;
    let secret = services
        .keys
        .unseal(user.id, FactorKind::Totp, &enrolment.sealed)?;
    let secret = TotpSecret::from_bytes(&secret)?;
    if !secret.is(&confirmation.secret) {
        return Err(Error::Refused(
            "The secret is not the one that was shown. Start the set-up again",
        ));
    }
    let step = match Code::parse(&confirmation.code) {
        Some(Code::Totp(code)) => secret.matching_step(&code, at, None),
        _ => None,
    };
    let step = step.ok_or(WRONG_CODE)?;
    let shown = confirmation
        .enrolment_code
        .map(|code| services.keys.enrolment_code_hash(user.id, &code));
    let (codes, set, hashes) = new_recovery_codes(services, user, context).await?;

    let factor = services.entropy.uuid(at);
    let entry_id = services.entropy.uuid(at);
    let (session, kept) = (principal.session.id, principal.session.clone());
    let full_until = at + SignedDuration::from_secs(services.settings.refresh_token_secs);
    let event = own_event(EventType::UserMfaEnabled, &principal.user, context)
        .with("factors", vec!["totp", "recovery-codes"])
        .with("sessionId", session.to_string());
    let owed = told(
        services,
        principal,
        context,
        "set up a second factor",
        "user.mfa.enabled",
    );
    let id = user.id;
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &kept, at)?;
            let user = usable_user(tx, id)?;
            refuse_second_set_up(tx, &user)?;
            check_enrolment_window(tx, &user, shown.as_ref(), at)?;
            let current = factors::find_enrolment(tx, id, session, at)?;
            if current.is_none_or(|current| current.sealed != enrolment.sealed) {
                return Err(Error::Refused("Another MFA set-up was started. Confirm that one"));
            }
            factors::clear_enrolment(tx, id)?;
            factors::insert_totp(tx, id, factor, &enrolment.sealed, step, at)?;
            factors::insert_recovery_set(tx, id, &set, &hashes, at)?;
            factors::clear_enrolment_due(tx, id)?;
            factors::touch_user(tx, id, at)?;
            // Changes no row for a session of another issuer, which is not stored here.
            sessions::update_second_factor(tx, id, session, FactorKind::Totp, at, full_until)?;
            let ended = end_others(tx, &kept, at)?;
            let entry = audit::append_entry(tx, at, entry_id, &event.clone().with("sessionsEnded", ended))?;
            deliveries::owe(tx, &owed, entry.sequence, at)
        })
        .await?;
    Ok(codes)
}

/// Disables the user's own MFA, given a valid code.
///
/// # Errors
/// [`Error::NoMfa`] if it is disabled; [`Error::Refused`] while the organisation requires it, or for a wrong
/// code; [`Error::RateLimited`]; [`Error::Busy`].
pub async fn disable_mfa(
    services: &Services,
    principal: &Principal,
    code: &str,
    context: &RequestContext,
) -> Result<()> {
    let user = &principal.full()?.user;
    if !user.mfa_enabled {
        return Err(Error::NoMfa);
    }
    if principal.organization.settings.mfa_required {
        return Err(Error::Refused("Your organization requires MFA"));
    }
    services
        .limiter
        .check(Bucket::CodeByAccount, principal.session.id.0.as_bytes())?;
    let shown = read_code(services, user, code, context).await?;
    let event = own_event(EventType::UserMfaDisabled, &principal.user, context);
    let owed = told(
        services,
        principal,
        context,
        "switched the second factor off",
        "user.mfa.disabled",
    );
    let request = context.clone();
    let (id, kept, at) = (user.id, principal.session.clone(), context.at);
    let entry_ids: [Uuid; 2] = std::array::from_fn(|_| services.entropy.uuid(at));
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &kept, at)?;
            let user = current_user(tx, id)?;
            let organization = accounts::find_organization(tx, user.organization_id)?;
            if organization.is_some_and(|organization| organization.settings.mfa_required) {
                return Err(Error::Refused("Your organization requires MFA"));
            }
            let spent = match &shown {
                Some(shown) => shown.take(tx, &user, &request)?,
                None => None,
            };
            let Some(spent) = spent else {
                let event = event
                    .clone()
                    .ended(AuditResult::Denied, WRONG_CODE)
                    .with("reason", "wrong-code");
                audit::append_entry(tx, at, entry_ids[0], &event)?;
                return Ok(Err(WRONG_CODE));
            };
            let removed = factors::clear_factors(tx, id, at)?;
            factors::touch_user(tx, id, at)?;
            let ended = end_others(tx, &kept, at)?;
            let kinds: Vec<_> = removed.iter().map(|facts| kind_name(facts.kind)).collect();
            let event = event.clone().with("factors", kinds).with("sessionsEnded", ended);
            let entry = audit::append_entry(tx, at, entry_ids[0], &event)?;
            deliveries::owe(tx, &owed, entry.sequence, at)?;
            if let Some(event) = spent.event(&user, &request) {
                audit::append_entry(tx, at, entry_ids[1], &event)?;
            }
            Ok(Ok(()))
        })
        .await?
}

/// Enrols a known secret for a user, from the command line: for sample data, and for migrating users from
/// another system. Nobody else may know a user's secret (ASVS 6.4.6).
///
/// # Errors
/// [`Error::Validation`] for a secret that is not 20 bytes in base 32; [`Error::Conflict`] if MFA is enabled.
pub async fn import_totp(services: &Services, user: &User, secret_base32: &str) -> Result<RecoveryCodes> {
    let context = RequestContext::cli(services);
    let secret = data_encoding::BASE32_NOPAD
        .decode(secret_base32.trim_end_matches('=').as_bytes())
        .ok()
        .and_then(|bytes| TotpSecret::from_bytes(&Zeroizing::new(bytes)).ok())
        .ok_or_else(|| Error::field("totpSecret", "must be 20 bytes in base 32"))?;
    let sealed = services.keys.seal(
        user.id,
        FactorKind::Totp,
        secret.as_bytes(),
        services.entropy.bytes(),
    );
    let (codes, set, hashes) = new_recovery_codes(services, user, &context).await?;
    let (id, at) = (user.id, context.at);
    let factor = services.entropy.uuid(at);
    let entry_id = services.entropy.uuid(at);
    let event = Event::new(
        EventType::UserMfaEnabled,
        Some(user.organization_id),
        ActorRef::operator(),
    )
    .on(Resource::user(user))
    .with("factors", vec!["totp", "recovery-codes"])
    .with("imported", true);
    services
        .store
        .write(move |tx| {
            let user = current_user(tx, id)?;
            operator_may(tx, Verb::ImportFactor, &user)?;
            refuse_second_set_up(tx, &user)?;
            // No time step has been used yet; step 0 was in 1970.
            factors::insert_totp(tx, id, factor, &sealed, 0, at)?;
            factors::insert_recovery_set(tx, id, &set, &hashes, at)?;
            factors::clear_enrolment_due(tx, id)?;
            factors::touch_user(tx, id, at)?;
            audit::append_entry(tx, at, entry_id, &event)?;
            Ok(())
        })
        .await?;
    Ok(codes)
}

pub(super) fn current_user(tx: &Transaction<'_>, id: UserId) -> Result<User> {
    accounts::find_user_anywhere(tx, id)?.ok_or(Error::Token(TokenFault::SubjectGone))
}

/// Returns the user, unless they were deactivated or locked since their token was read.
///
/// # Errors
/// [`Error::Token`] if they were, or no longer exist.
pub(super) fn usable_user(tx: &Transaction<'_>, id: UserId) -> Result<User> {
    let user = current_user(tx, id)?;
    if user.is_usable() {
        return Ok(user);
    }
    Err(Error::Token(TokenFault::SubjectGone))
}

fn refuse_second_set_up(db: &crate::store::Connection, user: &User) -> Result<()> {
    match factors::find_totp(db, user.id)? {
        None => Ok(()), // a passkey may be there
        Some(_) => Err(Error::Conflict("MFA is already enabled".to_owned())),
    }
}

/// Returns the notices that tell a user what was done with their own account.
pub(super) fn told(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    did: &str,
    event: &str,
) -> Vec<deliveries::OwedDelivery> {
    let user = &principal.user;
    let changed = notices::Changed {
        organization: &principal.organization,
        target: user,
        by: user,
        subject: "Your second factor was changed",
        what: &format!("{did} for your account {}", user.email),
        then: "",
        event,
    };
    notices::of_change(services, &changed, context)
}

pub(super) fn kind_name(kind: FactorKind) -> &'static str {
    match kind {
        FactorKind::Totp => "totp",
        FactorKind::Passkey => "passkey",
        FactorKind::RecoveryCodes => "recovery-codes",
    }
}

prints_no_secret!(SetUp, Confirmation);
