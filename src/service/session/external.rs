//! Callers with a token from another issuer.

use jiff::Timestamp;

use super::{GONE, Services};
use crate::domain::account::{Organization, OrganizationId, Principal, SessionScope, User};
use crate::domain::credential::ExternalClaims;
use crate::domain::error::{Error, Result, TokenFault};
use crate::store::{accounts, sessions};

/// Authenticates an external token. The role is the lower one of the token's and the database's, and the
/// requirements for completing a login here also apply to a login elsewhere.
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
        let mut user = user.filter(User::is_usable).ok_or(GONE)?;
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

/// Returns until when an external token gives access to enrolment only, or `None` if it is not so restricted.
/// It is after a reset, whatever factors were used there, and without a second factor if the organisation
/// requires one.
fn enrolment_first(
    user: &User,
    organization: &Organization,
    claims: &ExternalClaims,
    at: Timestamp,
) -> Result<Option<Timestamp>> {
    match &user.enrolment_due {
        // A local login would lock the account now.
        Some(due) if due.is_over(at) => Err(GONE),
        Some(due) => Ok(Some(due.until)),
        None if organization.settings.mfa_required && !claims.second_factor => Ok(Some(Timestamp::MAX)),
        None => Ok(None),
    }
}
