//! Reuse of a refresh token: it must have been copied.

use super::{RequestContext, Services, own_event};
use crate::domain::Result;
use crate::domain::account::User;
use crate::domain::audit::{AuditResult, Event, EventType};
use crate::domain::credential::RefreshToken;
use crate::service::deliveries::OwedDelivery;
use crate::service::notices;
use crate::store::sessions::SessionRow;
use crate::store::{accounts, sessions};

/// Returns the notices to the user whose refresh token was reused. `None` for the newest token of a session,
/// and if there is no such session.
pub(super) fn told(
    services: &Services,
    token: &RefreshToken,
    context: &RequestContext,
) -> Result<Option<Vec<OwedDelivery>>> {
    let found = services.store.read(|db| {
        let Some(row) = sessions::find_session(db, token.user, token.session, context.at)? else {
            return Ok(None);
        };
        if row.generation == token.generation {
            return Ok(None);
        }
        let Some(user) = accounts::find_user_anywhere(db, token.user)? else {
            return Ok(None);
        };
        let organization = accounts::find_organization(db, user.organization_id)?;
        Ok(organization.map(|organization| (user, organization)))
    })?;
    Ok(found.map(|(user, organization)| {
        let changed = notices::Changed {
            organization: &organization,
            target: &user,
            by: &user,
            subject: "A session of yours was ended",
            what: &format!(
                "showed a token of your account {} that had been used before",
                user.email
            ),
            then: "There may be a copy of it, so the session was ended.",
            event: "user.session.reuse",
        };
        notices::of_change(services, &changed, context)
    }))
}

/// Returns the audit entry of a reused refresh token.
pub(super) fn event(user: &User, row: &SessionRow, context: &RequestContext) -> Event {
    let message = "A refresh token was used twice; the session was ended";
    own_event(EventType::RefreshTokenReuse, user, context)
        .ended(AuditResult::Denied, message)
        .with("sessionId", row.session.id.to_string())
}
