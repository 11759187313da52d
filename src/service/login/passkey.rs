//! The second step with a passkey, at login and for step-up.
//!
//! A challenge is requested, answered once, and invalid after the first answer, right or wrong. A login's
//! challenge is stored with the login, a step-up's with the session.

use uuid::Uuid;

use super::attempts::admit_code;
use super::code::WRONG_CODES_PER_CHALLENGE;
use super::second_step::{DEAD, complete_login, find_login, note_step_up, stepped_up_token, who_steps_up};
use super::{RequestContext, Services, login_event, refused};
use crate::domain::account::{Principal, SessionScope, User};
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::domain::credential::OneUseToken;
use crate::domain::error::TokenFault;
use crate::domain::policy::FactorKind;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::passkeys::{Asserted, Fault};
use crate::service::deliveries::{self, OwedDelivery};
use crate::service::enrolment::current_user;
use crate::service::passkeys::{self, INVALID, Options, ceremony_hash, no_ceremony};
use crate::service::session::{self, AccessToken, Opening, Tokens};
use crate::service::{notices, own_event};
use crate::store::challenges::Purpose;
use crate::store::passkeys::{PasskeyRow, Taken, take_passkey, update_cloned};
use crate::store::{Connection, Transaction, accounts, audit, challenges, factors};

/// Returns the options for using one of the user's passkeys to complete a login.
///
/// # Errors
/// [`Error::DeadToken`] for a challenge that is unknown, used, expired or tried too often; [`Error::Refused`]
/// if the user has no usable passkey; [`Error::RateLimited`]; [`Error::Busy`].
pub async fn passkey_login_options(
    services: &Services,
    challenge: &str,
    context: &RequestContext,
) -> Result<Options> {
    services
        .limiter
        .check_address(Bucket::CodeByAddress, context.ip)?;
    let token = OneUseToken::decode(challenge).ok_or(DEAD)?;
    let (hash, at) = (token.hash(), context.at);
    let (user, usable) = services.store.read(|db| {
        let (user, _) = find_login(db, &token, &hash, at)?;
        let usable = passkeys::find_usable(db, user.id)?;
        Ok((user, usable))
    })?;
    let ceremony = passkeys::ask(services, user.id, &usable)?;
    let id = user.id;
    services
        .store
        .write_for(
            user.organization_id,
            move |tx| match challenges::update_challenge_state(
                tx,
                id,
                &hash,
                Purpose::Mfa,
                Some(&ceremony.state),
                at,
            )? {
                true => Ok(Options(ceremony.options.clone())),
                false => Err(DEAD),
            },
        )
        .await
}

/// Completes a login with a passkey.
///
/// # Errors
/// [`Error::DeadToken`] for a challenge that is unknown, used, expired or tried too often, or if no options
/// were requested; [`Error::InvalidPasskey`]; [`Error::PasswordExpired`] if the passkey is correct but the
/// password has expired, in which case the challenge becomes the token that replaces it; [`Error::Validation`];
/// [`Error::RateLimited`]; [`Error::Busy`].
pub async fn verify_mfa_with_passkey(
    services: &Services,
    challenge: &str,
    asserted: &Asserted,
    context: &RequestContext,
) -> Result<Tokens> {
    services
        .limiter
        .check_address(Bucket::CodeByAddress, context.ip)?;
    asserted.check()?;
    let token = OneUseToken::decode(challenge).ok_or(DEAD)?;
    let (hash, at) = (token.hash(), context.at);
    let (user, state) = services.store.read(|db| find_login(db, &token, &hash, at))?;
    let attempt = admit_code(services, &user, context)?;
    let state = state.ok_or(Error::DeadToken("passkey challenge"))?;
    let shown = Shown::check(services, &user, asserted, &state, context)?;

    let opening = Opening {
        scope: SessionScope::Full,
        second_factor: Some(FactorKind::Passkey),
        until: None,
    };
    let (row, tokens) = session::new_session(services, &user, opening, context);
    let request = context.clone();
    let entry_ids: [Uuid; 2] = std::array::from_fn(|_| services.entropy.uuid(at));
    let ended = services
        .store
        .write_for(user.organization_id, move |tx| {
            let (user, now) = find_login(tx, &token, &hash, at)?;
            // Answered or requested again in the meantime.
            if now.as_ref() != Some(&state) {
                return Err(Error::DeadToken("passkey challenge"));
            }
            let event = login_event(&user, &request);
            match shown.take(tx, &user, at)? {
                Ok(used) => complete_login(tx, &user, &hash, &row, used.describe(event), entry_ids[0]),
                Err(refusal) => {
                    challenges::update_challenge_state(tx, user.id, &hash, Purpose::Mfa, None, at)?;
                    challenges::update_attempts(tx, user.id, &hash, WRONG_CODES_PER_CHALLENGE)?;
                    let event = refused(event, "wrong-passkey").with("fault", refusal.fault.reason());
                    audit::append_entry(tx, at, entry_ids[0], &event)?;
                    refusal.raise_alarm(tx, &user, &request, entry_ids[1])?;
                    Ok(Err(Error::InvalidPasskey))
                }
            }
        })
        .await?;
    if ended != Err(Error::InvalidPasskey) {
        attempt.forget(services);
    }
    ended.map(|()| tokens)
}

/// Returns the options for using one of the caller's passkeys for a step-up.
///
/// # Errors
/// [`Error::Refused`] if the caller has no usable passkey, or a session of another issuer;
/// [`Error::RateLimited`]; [`Error::Busy`].
pub async fn passkey_step_up_options(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<Options> {
    let user = admit_step_up(services, principal, context)?;
    let usable = services.store.read(|db| passkeys::find_usable(db, user.id))?;
    let ceremony = passkeys::ask(services, user.id, &usable)?;
    passkeys::remember(services, principal, Purpose::PasskeyStepUp, &ceremony, context.at).await?;
    Ok(Options(ceremony.options))
}

/// Records that the caller's passkey was used now, and returns an access token that says so.
///
/// # Errors
/// [`Error::Refused`] for a passkey that doesn't match the challenge, or if there is none;
/// [`Error::Validation`]; [`Error::RateLimited`]; [`Error::Busy`].
pub async fn step_up_with_passkey(
    services: &Services,
    principal: &Principal,
    asserted: &Asserted,
    context: &RequestContext,
) -> Result<AccessToken> {
    let user = admit_step_up(services, principal, context)?;
    services
        .limiter
        .check(Bucket::CodeByAccount, principal.session.id.0.as_bytes())?;
    asserted.check()?;
    let (id, session, at) = (user.id, principal.session.id, context.at);
    let hash = ceremony_hash(session, Purpose::PasskeyStepUp);
    let find = move |db: &Connection| {
        let kept = challenges::find_challenge(db, id, &hash, Purpose::PasskeyStepUp, at)?;
        kept.and_then(|kept| kept.state).ok_or_else(no_ceremony)
    };
    let state = services.store.read(find)?;
    let shown = Shown::check(services, user, asserted, &state, context)?;
    let request = context.clone();
    let entry_ids: [Uuid; 2] = std::array::from_fn(|_| services.entropy.uuid(at));
    let stepped_up = services
        .store
        .write_for(user.organization_id, move |tx| {
            let user = current_user(tx, id)?;
            if find(tx)? != state {
                return Err(no_ceremony());
            }
            challenges::take_challenge(tx, id, &hash)?;
            let event =
                own_event(EventType::UserStepUp, &user, &request).with("sessionId", session.to_string());
            let used = match shown.take(tx, &user, at)? {
                Ok(used) => used,
                Err(refusal) => {
                    let event = event
                        .ended(AuditResult::Denied, INVALID)
                        .with("reason", "wrong-passkey")
                        .with("fault", refusal.fault.reason());
                    audit::append_entry(tx, at, entry_ids[0], &event)?;
                    refusal.raise_alarm(tx, &user, &request, entry_ids[1])?;
                    return Ok(Err(INVALID));
                }
            };
            let session = note_step_up(tx, &user, session, FactorKind::Passkey, at)?;
            audit::append_entry(tx, at, entry_ids[0], &used.describe(event))?;
            Ok(Ok((user, session)))
        })
        .await?;
    let (user, session) = stepped_up?;
    Ok(stepped_up_token(services, &user, &session, at))
}

fn admit_step_up<'a>(
    services: &Services,
    principal: &'a Principal,
    context: &RequestContext,
) -> Result<&'a User> {
    let user = who_steps_up(principal)?;
    services
        .limiter
        .check_address(Bucket::CodeByAddress, context.ip)?;
    Ok(user)
}

/// An answer, checked as far as possible outside the transaction.
#[derive(Clone, Debug)]
struct Shown {
    /// The passkey it names, if it is one of the user's.
    passkey: Option<PasskeyRow>,
    /// The counter and the updated credential to store, encrypted.
    checked: Result<(u32, Vec<u8>), Fault>,
    /// Deliveries to send if it turns out to be a copy.
    alarm: Vec<OwedDelivery>,
}

/// A passkey that was used.
struct Used(PasskeyRow);

/// An answer that was refused.
struct Refusal {
    fault: Fault,
    /// The passkey that was copied, with the deliveries about it.
    cloned: Option<(PasskeyRow, Vec<OwedDelivery>)>,
}

impl Shown {
    fn check(
        services: &Services,
        user: &User,
        asserted: &Asserted,
        state: &[u8],
        context: &RequestContext,
    ) -> Result<Self> {
        let usable = services.store.read(|db| passkeys::find_usable(db, user.id))?;
        let opened = passkeys::open(services, user.id, &usable)?;
        let named = passkeys::credential_hash(&asserted.credential());
        let passkey = usable.into_iter().find(|row| row.credential_hash == named);
        let mut checked = services
            .passkeys
            .finish_authentication(asserted, state, &opened)?;
        // The ceremony knows the counter as of its start: another one may have finished since.
        if let (Ok(credential), Some(row)) = (&checked, &passkey)
            && credential.counter <= row.counter
            && row.counter > 0
        {
            checked = Err(Fault::Cloned);
        }
        let alarm = match (&checked, &passkey) {
            (Err(Fault::Cloned), Some(row)) => alarm(services, user, row, context)?,
            _ => Vec::new(),
        };
        Ok(Self {
            passkey,
            checked: checked.map(|credential| {
                let sealed = passkeys::seal(services, user.id, &credential.kept);
                (credential.counter, sealed)
            }),
            alarm,
        })
    }

    /// Records the use of the passkey, or returns why it is refused.
    fn take(
        &self,
        tx: &Transaction<'_>,
        user: &User,
        at: jiff::Timestamp,
    ) -> Result<std::result::Result<Used, Refusal>> {
        let refuse = |fault| Ok(Err(Refusal { fault, cloned: None }));
        let Some(row) = &self.passkey else {
            return refuse(Fault::UnknownCredential);
        };
        let taken = match &self.checked {
            Ok((counter, sealed)) => take_passkey(tx, user.id, row.id, *counter, sealed, at)?,
            Err(Fault::Cloned) => Taken::Cloned,
            Err(fault) => return refuse(*fault),
        };
        match taken {
            Taken::Used => Ok(Ok(Used(row.clone()))),
            Taken::Gone => refuse(Fault::UnknownCredential),
            Taken::Cloned => Ok(Err(Refusal {
                fault: Fault::Cloned,
                cloned: Some((row.clone(), self.alarm.clone())),
            })),
        }
    }
}

impl Used {
    fn describe(&self, event: Event) -> Event {
        event
            .with("method", "passkey")
            .with("passkeyId", self.0.id.to_string())
    }
}

impl Refusal {
    /// On a copied passkey, disables it, original included, and notifies everybody concerned.
    fn raise_alarm(
        &self,
        tx: &Transaction<'_>,
        user: &User,
        context: &RequestContext,
        entry_id: Uuid,
    ) -> Result<()> {
        let Some((row, owed)) = &self.cloned else {
            return Ok(());
        };
        if !update_cloned(tx, user.id, row.id, context.at)? {
            return Ok(());
        }
        factors::touch_user(tx, user.id, context.at)?;
        let event = own_event(EventType::UserPasskeyAlarm, user, context)
            .ended(AuditResult::Denied, Error::InvalidPasskey)
            .with("passkeyId", row.id.to_string())
            .with("passkeyName", row.name.clone());
        let entry = audit::append_entry(tx, context.at, entry_id, &event)?;
        deliveries::owe(tx, owed, entry.sequence, context.at)
    }
}

fn alarm(
    services: &Services,
    user: &User,
    row: &PasskeyRow,
    context: &RequestContext,
) -> Result<Vec<OwedDelivery>> {
    let (organization, admins) = services.store.read(|db| {
        let organization = accounts::find_organization(db, user.organization_id)?;
        let organization = organization.ok_or(Error::Token(TokenFault::SubjectGone))?;
        let admins = accounts::find_active_admins(db, organization.id)?;
        Ok((organization, admins))
    })?;
    let changed = notices::Changed {
        organization: &organization,
        target: user,
        by: user,
        subject: "There seems to be a copy of your passkey",
        what: &format!(
            "used what looks like a copy of the passkey \"{}\" of your account {}",
            row.name, user.email
        ),
        then: "It was refused. The passkey opens nothing from now on: remove it, and register another.",
        event: "user.passkey.alarm",
    };
    let mut owed = notices::of_change(services, &changed, context);
    owed.extend(notices::of_cloned_passkey(
        services,
        &organization,
        user,
        &admins,
        &row.name,
    ));
    Ok(owed)
}
