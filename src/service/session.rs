//! Authentication of callers, and sessions: how they begin, continue and end.

mod external;
mod listing;
mod principals;
mod reuse;

use jiff::{SignedDuration, Timestamp};

use super::login::attempts::remember_device;
use super::operator::operator_may;
use super::{RequestContext, Services, deliveries, own_event};
use crate::domain::account::{
    Principal, Role, Session, SessionId, SessionOrigin, SessionScope, User, UserId, Verb,
};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::credential::{AUDIENCE, Amr, Claims, ENROLMENT_AUDIENCE, RefreshToken};
use crate::domain::error::{Error, Result, TokenFault};
use crate::domain::policy::FactorKind;
use crate::limiter::Bucket;
use crate::store::sessions;
pub use crate::store::sessions::SessionRow;
use crate::store::{Connection, Transaction, accounts, audit, challenges};

use external::by_external_token;
pub use principals::Principals;

pub use listing::{end_other_sessions, end_session, list_sessions};

/// Authenticates a bearer token against the current state of the database (ASVS 8.3.2): a token outlives
/// neither its session, nor its user's standing, nor a change of role.
///
/// # Errors
/// [`Error::Token`] with the kind of fault.
pub fn authenticate(services: &Services, bearer: Option<&str>, at: Timestamp) -> Result<Principal> {
    let token = bearer.ok_or(Error::Token(TokenFault::Missing))?;
    match (
        services.keys.access().verify(token, at),
        &services.external_issuer,
    ) {
        (Ok(claims), _) => by_own_token(services, &claims, at),
        (Err(TokenFault::Invalid), Some(issuer)) => {
            let claims = issuer.verify(token, at).map_err(Error::Token)?;
            by_external_token(services, &claims, at)
        }
        (Err(fault), _) => Err(Error::Token(fault)),
    }
}

const GONE: Error = Error::Token(TokenFault::SubjectGone);

fn by_own_token(services: &Services, claims: &Claims, at: Timestamp) -> Result<Principal> {
    let (generation, known) = services.principals.find(&services.store, claims, at);
    if let Some(principal) = known {
        return Ok(principal);
    }
    let principal = read_principal(services, claims, at)?;
    services.principals.keep(generation, &principal);
    Ok(principal)
}

fn read_principal(services: &Services, claims: &Claims, at: Timestamp) -> Result<Principal> {
    services.store.read(|db| {
        let user = accounts::find_user_anywhere(db, claims.sub)?.ok_or(GONE)?;
        if !user.active || user.organization_id != claims.org {
            return Err(GONE);
        }
        let row = sessions::find_session(db, user.id, claims.sid, at)?;
        let session = row.ok_or(Error::Token(TokenFault::Revoked))?.session;
        if user.locked.is_some() {
            return Err(GONE);
        }
        let organization = accounts::find_organization(db, user.organization_id)?.ok_or(GONE)?;
        Ok(Principal {
            user,
            organization,
            session,
        })
    })
}

prints_no_secret!(Tokens, AccessToken);

/// Checks that a session was not ended since its token was read.
///
/// # Errors
/// [`Error::Token`] if it was.
pub(super) fn still_lives(tx: &Transaction<'_>, session: &Session, at: Timestamp) -> Result<()> {
    if sessions::session_lives(tx, session, at)? {
        return Ok(());
    }
    Err(Error::Token(TokenFault::Revoked))
}

/// Ends every other session of the user, and logins in progress. Returns the number of sessions ended.
pub(super) fn end_others(tx: &Transaction<'_>, kept: &Session, at: Timestamp) -> Result<u32> {
    challenges::clear_challenges(tx, kept.user_id)?;
    sessions::clear_other_sessions(tx, kept, at)
}

/// The tokens of a session.
#[derive(Clone)]
pub struct Tokens {
    /// Access token, for the `Authorization` header.
    pub access_token: String,
    /// Refresh token, for obtaining the next access token.
    pub refresh_token: String,
    /// Seconds until the access token expires.
    pub expires_in: i64,
    /// Token that identifies the device from now on, if a login was completed on it.
    pub device: Option<String>,
}

/// An access token without a refresh token.
#[derive(Clone)]
pub struct AccessToken {
    /// Access token, for the `Authorization` header.
    pub access_token: String,
    /// Seconds until it expires.
    pub expires_in: i64,
}

/// How to begin a session.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// What the session may be used for.
    pub scope: SessionScope,
    /// The second factor that was used, if one was.
    pub second_factor: Option<FactorKind>,
    /// Latest end of the session, if something bounds it.
    pub until: Option<Timestamp>,
}

/// Creates a session and its first tokens, to be stored with [`sessions::insert_session`] in the login's
/// transaction.
#[must_use]
pub fn new_session(
    services: &Services,
    user: &User,
    opening: Opening,
    context: &RequestContext,
) -> (SessionRow, Tokens) {
    let at = context.at;
    let lifetime = SignedDuration::from_secs(services.settings.refresh_token_secs);
    let expires_at = opening
        .until
        .map_or(at + lifetime, |until| until.min(at + lifetime));
    let session = Session {
        id: SessionId(services.entropy.uuid(at)),
        user_id: user.id,
        scope: opening.scope,
        authenticated_at: at,
        second_factor_at: opening.second_factor.map(|_| at),
        second_factor_kind: opening.second_factor,
        origin: SessionOrigin::Login,
        created_at: at,
        expires_at,
    };
    let mut tokens = issue(
        services,
        user,
        &session,
        0,
        services.settings.access_token_secs,
        at,
    );
    if opening.scope == SessionScope::Full {
        tokens.device = Some(remember_device(services, user, context));
    }
    (session_row(session, context), tokens)
}

fn session_row(session: Session, context: &RequestContext) -> SessionRow {
    SessionRow {
        last_used_at: session.created_at,
        session,
        generation: 0,
        ip: context.ip_text(),
        user_agent: context.user_agent.clone(),
    }
}

/// Issues tokens for a session; the access token lives at most the given number of seconds.
fn issue(
    services: &Services,
    user: &User,
    session: &Session,
    generation: u32,
    lifetime_secs: i64,
    at: Timestamp,
) -> Tokens {
    let AccessToken {
        access_token,
        expires_in,
    } = sign(services, user, session, lifetime_secs, at);
    let refresh = RefreshToken {
        user: user.id,
        session: session.id,
        generation,
    };
    Tokens {
        access_token,
        refresh_token: refresh.encode(services.keys.token_mac_key()),
        expires_in,
        device: None,
    }
}

/// Issues another access token for an existing session.
#[must_use]
pub fn access_token(services: &Services, user: &User, session: &Session, at: Timestamp) -> AccessToken {
    sign(services, user, session, services.settings.access_token_secs, at)
}

fn sign(
    services: &Services,
    user: &User,
    session: &Session,
    lifetime_secs: i64,
    at: Timestamp,
) -> AccessToken {
    let access = services.keys.access();
    let now = at.as_second();
    let expires_in = lifetime_secs.min(session.expires_at.as_second() - now).max(0);
    // Other services trust the claims: a token for enrolment must not claim a role that it does not grant yet.
    let (audience, role) = match session.scope {
        SessionScope::Full => (AUDIENCE, user.role),
        SessionScope::Enrolment => (ENROLMENT_AUDIENCE, Role::Member),
    };
    let claims = Claims {
        iss: access.issuer().to_owned(),
        aud: audience.to_owned(),
        sub: user.id,
        org: user.organization_id,
        role,
        sid: session.id,
        auth_time: session.authenticated_at.as_second(),
        amr: methods(session),
        jti: services.entropy.uuid(at),
        iat: now,
        nbf: now,
        exp: now + expires_in,
    };
    AccessToken {
        access_token: access.sign(&claims),
        expires_in,
    }
}

fn methods(session: &Session) -> Vec<Amr> {
    if session.origin == SessionOrigin::Minted {
        return vec![Amr::Cli];
    }
    match session.second_factor_kind {
        None => vec![Amr::Pwd],
        Some(FactorKind::Totp) => vec![Amr::Pwd, Amr::Otp, Amr::Mfa],
        // Neither `hwk` nor `swk`: without attestation it is unknown where the key is stored.
        Some(FactorKind::Passkey) => vec![Amr::Pwd, Amr::Pop, Amr::User, Amr::Mfa],
        // RFC 8176 has no value for a saved code; what matters is that two factors were used.
        Some(FactorKind::RecoveryCodes) => vec![Amr::Pwd, Amr::Mfa],
    }
}

/// Exchanges a refresh token for new tokens. Each works once: an old one presented again shows that it was
/// copied, and its whole family is ended (RFC 9700 §4.14.2).
///
/// # Errors
/// [`Error::DeadToken`] for a token that is unknown, ended or used before; [`Error::RateLimited`].
pub async fn refresh(services: &Services, token: &str, context: &RequestContext) -> Result<Tokens> {
    services
        .limiter
        .check_address(Bucket::TokenByAddress, context.ip)?;
    let dead = || Error::DeadToken("refresh token");
    let token = RefreshToken::decode(token, services.keys.token_mac_key()).ok_or_else(dead)?;
    let rotated = match rotate(services, token, context).await {
        // Used in the meantime, so this is the second use.
        Err(Error::Stale) => rotate(services, token, context).await?,
        ended => ended?,
    };
    let (user, session, generation) = rotated.ok_or_else(dead)?;
    Ok(issue(
        services,
        &user,
        &session,
        generation,
        services.settings.access_token_secs,
        context.at,
    ))
}

/// Returns the session and its next token generation; `None` if the session does not continue.
///
/// # Errors
/// [`Error::Stale`] if the token was used since it was checked.
async fn rotate(
    services: &Services,
    token: RefreshToken,
    context: &RequestContext,
) -> Result<Option<(User, Session, u32)>> {
    let at = context.at;
    let settings = services.settings.clone();
    let request = context.clone();
    let entry_id = services.entropy.uuid(at);
    let owed = reuse::told(services, &token, context)?;
    let holder = |db: &Connection| accounts::find_user_anywhere(db, token.user);
    let Some(holder) = services.store.read(holder)? else {
        return Ok(None);
    };
    services
        .store
        .write_for(holder.organization_id, move |tx| {
            let Some(user) = accounts::find_user_anywhere(tx, token.user)? else {
                return Ok(None);
            };
            let Some(row) = sessions::find_session(tx, user.id, token.session, at)? else {
                return Ok(None);
            };
            if !user.is_usable() {
                return Ok(None);
            }
            if row.generation != token.generation {
                let owed = owed.as_ref().ok_or(Error::Stale)?;
                sessions::clear_session(tx, user.id, token.session)?;
                let entry = audit::append_entry(tx, at, entry_id, &reuse::event(&user, &row, &request))?;
                deliveries::owe(tx, owed, entry.sequence, at)?;
                return Ok(None);
            }
            let mut session = row.session;
            session.expires_at = extended(&session, &settings, at);
            sessions::update_generation(tx, user.id, session.id, row.generation, at, session.expires_at)?;
            Ok(Some((user, session, row.generation + 1)))
        })
        .await
}

/// Returns when a session ends after its refresh token was used: after the same lifetime again, but never
/// beyond the maximum age of sessions (ASVS 7.3.2). An enrolment session is not extended.
fn extended(session: &Session, settings: &super::Settings, at: Timestamp) -> Timestamp {
    match session.scope {
        SessionScope::Enrolment => session.expires_at,
        SessionScope::Full => {
            let next = at + SignedDuration::from_secs(settings.refresh_token_secs);
            let last = session.created_at + SignedDuration::from_secs(settings.session_max_secs);
            next.min(last).max(session.expires_at.min(last))
        }
    }
}

/// Ends the caller's session.
///
/// # Errors
/// [`Error::Internal`] if the store fails.
pub async fn logout(services: &Services, principal: &Principal, context: &RequestContext) -> Result<()> {
    let (session, at) = (principal.session.clone(), context.at);
    let event =
        own_event(EventType::UserLogout, &principal.user, context).with("sessionId", session.id.to_string());
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            // Concurrent logouts of one session are recorded once.
            if sessions::end_session(tx, &session, at)? {
                audit::append_entry(tx, at, entry_id, &event)?;
            }
            Ok(())
        })
        .await
}

/// Creates a token for a user without a login, from the command line: for the first admin, or for a script. Its
/// session lives as long as the token and can't be refreshed beyond it.
///
/// # Errors
/// [`Error::UserNotFound`], or [`Error::Conflict`] for an account that is inactive or locked.
pub fn mint_token(services: &Services, user: UserId, lifetime: SignedDuration) -> Result<String> {
    let at = services.clock.now();
    let user = services.store.read(|db| {
        let found = accounts::find_user_anywhere(db, user)?;
        let user = found.ok_or_else(|| Error::UserNotFound(user.to_string()))?;
        operator_may(db, Verb::MintToken, &user)?;
        Ok(user)
    })?;
    if !user.is_usable() {
        return Err(Error::Conflict(format!("{} is inactive or locked", user.email)));
    }
    let session = Session {
        id: SessionId(services.entropy.uuid(at)),
        user_id: user.id,
        scope: SessionScope::Full,
        authenticated_at: at,
        second_factor_at: None,
        second_factor_kind: None,
        origin: SessionOrigin::Minted,
        created_at: at,
        expires_at: at + lifetime,
    };
    let tokens = issue(services, &user, &session, 0, lifetime.as_secs(), at);
    let event = Event::new(
        EventType::TokenMint,
        Some(user.organization_id),
        ActorRef::operator(),
    )
    .on(Resource::user(&user))
    .with("sessionId", session.id.to_string())
    .with("expiresAt", session.expires_at.to_string());
    let row = SessionRow {
        last_used_at: at,
        session,
        generation: 0,
        ip: None,
        user_agent: Some("latchkey token mint".to_owned()),
    };
    let entry_id = services.entropy.uuid(at);
    services.store.write_blocking(move |tx| {
        sessions::insert_session(tx, &row)?;
        audit::append_entry(tx, at, entry_id, &event)?;
        Ok(())
    })?;
    Ok(tokens.access_token)
}
