//! Callers with a token of another issuer.

use jiff::Timestamp;

use super::{GONE, Services};
use crate::domain::account::{Organization, OrganizationId, Principal, SessionScope, User};
use crate::domain::credential::ExternalClaims;
use crate::domain::error::{Error, Result, TokenFault};
use crate::store::{accounts, sessions};

/// The role is the lower one of the token's and the database's, and what is demanded before a login is
/// complete here is demanded of whoever was logged in elsewhere.
pub(super) fn by_external_token(
    services: &Services,
    claims: &ExternalClaims,
    at: Timestamp,
) -> Result<Principal> {
    services.store.read(|db| {
        let organization = match claims.organization.parse() {
            Ok(id) => accounts::find_organization(db, OrganizationId(id))?,
            Err(_) => accounts::find_organization_by_slug(db, &claims.organization)?,
        };
        let organization = organization.ok_or(GONE)?;
        let user = accounts::find_user_by_email(db, organization.id, &claims.email)?;
        let mut user = user
            .filter(|user| user.active && user.locked.is_none())
            .ok_or(GONE)?;
        let mut session = claims.session(user.id);
        if let Some(until) = enrolment_first(&user, &organization, claims, at)? {
            session.scope = SessionScope::Enrolment;
            session.expires_at = session.expires_at.min(until);
        }
        if !sessions::session_lives(db, &session, at)? {
            return Err(Error::Token(TokenFault::Revoked));
        }
        user.role = user.role.min(claims.role);
        Ok(Principal {
            user,
            organization,
            session,
        })
    })
}

/// Until when a token of another issuer opens enrolment and nothing else, where it doesn't open more: after a
/// reset, whatever was shown there, and without a second factor where the organisation demands one.
fn enrolment_first(
    user: &User,
    organization: &Organization,
    claims: &ExternalClaims,
    at: Timestamp,
) -> Result<Option<Timestamp>> {
    match &user.enrolment_due {
        // A login would lock the account now.
        Some(due) if due.is_over(at) => Err(GONE),
        Some(due) => Ok(Some(due.until)),
        None if organization.settings.mfa_required && !claims.second_factor => Ok(Some(Timestamp::MAX)),
        None => Ok(None),
    }
}
