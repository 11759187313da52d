//! The common part of the second steps with a code and with a passkey: finding the login that waits, and
//! completing it.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{PASSWORD_CHANGE_SECS, Services, password_expired};
use crate::domain::account::{Principal, Session, SessionId, SessionOrigin, SessionScope, User};
use crate::domain::audit::Event;
use crate::domain::credential::OneUseToken;
use crate::domain::error::TokenFault;
use crate::domain::policy::FactorKind;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::session::{self, AccessToken};
use crate::store::challenges::Purpose;
use crate::store::sessions::SessionRow;
use crate::store::{Connection, Transaction, accounts, audit, challenges, passwords, sessions};

pub(super) const DEAD: Error = Error::DeadToken("MFA challenge");

/// Finds the user of a login that waits for its second step, and the state stored with it.
///
/// # Errors
/// [`Error::DeadToken`] for a challenge that is unknown, used, expired or tried too often, and for a user who
/// may no longer log in.
pub(super) fn find_login(
    db: &Connection,
    token: &OneUseToken,
    hash: &[u8; 32],
    at: Timestamp,
) -> Result<(User, Option<Vec<u8>>)> {
    let challenge = challenges::find_challenge(db, token.user, hash, Purpose::Mfa, at)?.ok_or(DEAD)?;
    let user = accounts::find_user_anywhere(db, token.user)?;
    let user = user.filter(User::is_usable).ok_or(DEAD)?;
    Ok((user, challenge.state))
}

/// Completes a login: uses up its challenge and inserts its session. If the password has expired, it turns the
/// challenge into the token that replaces the password instead, and returns [`Error::PasswordExpired`] in the
/// inner result so that the transaction commits. No login is recorded then; the password change will be.
pub(super) fn complete_login(
    tx: &Transaction<'_>,
    user: &User,
    hash: &[u8; 32],
    row: &SessionRow,
    event: Event,
    entry_id: Uuid,
) -> Result<Result<()>> {
    let at = row.session.created_at;
    let organization = accounts::find_organization(tx, user.organization_id)?.ok_or(DEAD)?;
    if password_expired(user, &organization, at) {
        let until = at + SignedDuration::from_secs(PASSWORD_CHANGE_SECS);
        challenges::update_purpose(tx, user.id, hash, Purpose::PasswordChange, until)?;
        return Ok(Err(Error::PasswordExpired));
    }
    challenges::take_challenge(tx, user.id, hash)?;
    sessions::insert_session(tx, row)?;
    passwords::update_last_login(tx, user.id, at)?;
    let event = event.with("sessionId", row.session.id.to_string());
    audit::append_entry(tx, at, entry_id, &event)?;
    Ok(Ok(()))
}

/// Returns the user of a session that can be stepped up here.
///
/// # Errors
/// [`Error::Refused`] for a session of another issuer.
pub(super) fn who_steps_up(principal: &Principal) -> Result<&User> {
    let user = &principal.full()?.user;
    if principal.session.origin == SessionOrigin::External {
        return Err(Error::Refused("Step up with the issuer of your access token"));
    }
    Ok(user)
}

/// Returns the access token of a session that was stepped up. Earlier wrong attempts no longer count.
pub(super) fn stepped_up_token(
    services: &Services,
    user: &User,
    session: &Session,
    at: Timestamp,
) -> AccessToken {
    services
        .limiter
        .forget(Bucket::CodeByAccount, session.id.0.as_bytes());
    session::access_token(services, user, session, at)
}

/// Records that a session's user used a second factor now, and returns the updated session.
///
/// # Errors
/// [`Error::Token`] if the session has ended.
pub(super) fn note_step_up(
    tx: &Transaction<'_>,
    user: &User,
    session: SessionId,
    kind: FactorKind,
    at: Timestamp,
) -> Result<Session> {
    let find = || sessions::find_session(tx, user.id, session, at);
    let revoked = || Error::Token(TokenFault::Revoked);
    let expires_at = find()?.ok_or_else(revoked)?.session.expires_at;
    sessions::update_second_factor(tx, user.id, session, kind, at, expires_at)?;
    let session = find()?.map(|row| row.session);
    session
        .filter(|session| session.scope == SessionScope::Full)
        .ok_or_else(revoked)
}
