//! Replacing an expired password, with the token issued by a login that proved knowledge of it. If the user has a
//! second factor, it must have been verified first.

use super::new_password::{NewPassword, check_rules};
use super::{Password, RequestContext, Services};
use crate::domain::audit::EventType;
use crate::domain::credential::{self, OneUseToken};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::own_event;
use crate::store::challenges::Purpose;
use crate::store::{accounts, challenges, passwords};

/// Replaces an expired password and ends every session. The user then logs in with the new one.
///
/// # Errors
/// [`Error::DeadToken`] for a token that is unknown, used or expired; [`Error::Refused`] if the second factor has
/// not been verified yet; [`Error::Validation`] for a password that breaks the organisation's rules or is the old
/// one; [`Error::RateLimited`]; [`Error::Busy`].
pub async fn change_expired_password(
    services: &Services,
    token: &str,
    new: Password,
    context: &RequestContext,
) -> Result<()> {
    services
        .limiter
        .check_address(Bucket::TokenByAddress, context.ip)?;
    let dead = || Error::DeadToken("password change token");
    let token = OneUseToken::decode(token).ok_or_else(dead)?;
    let (hash, at) = (token.hash(), context.at);
    let (user, organization, old) = services.store.read(|db| {
        let find = |purpose| challenges::find_challenge(db, token.user, &hash, purpose, at);
        let challenge = find(Purpose::PasswordChange)?;
        if challenge.is_none() && find(Purpose::Mfa)?.is_some() {
            return Err(Error::Refused(
                "Verify the second factor first: POST /auth/verify-mfa",
            ));
        }
        let user = accounts::find_user_anywhere(db, token.user)?;
        let user = user.filter(|user| challenge.is_some() && user.is_usable());
        let user = user.ok_or_else(dead)?;
        let organization = accounts::find_organization(db, user.organization_id)?.ok_or_else(dead)?;
        let old = passwords::find_password_hash(db, user.id)?.ok_or_else(dead)?;
        Ok((user, organization, old))
    })?;
    check_rules(&new, &organization.settings, "newPassword")?;
    let salt = services.entropy.bytes();
    let shown = old.clone();
    let work = move || {
        (!credential::verify_password(&new.0, &shown)).then(|| credential::hash_password(&new.0, salt))
    };
    let Some(hashed) = services.hashing.run(Some(organization.id), work).await? else {
        return Err(Error::field(
            "newPassword",
            "must differ from the expired password",
        ));
    };
    let event = own_event(EventType::UserPasswordChange, &user, context).with("reason", "expired");
    let whose = (&organization, &user);
    let how = "replaced the expired password";
    let new = NewPassword::of(services, whose, hashed, how, event, None, context);
    services
        .store
        .write_for(organization.id, move |tx| {
            let unchanged = passwords::find_password_hash(tx, user.id)?.as_ref() == Some(&old);
            let usable = accounts::find_user_anywhere(tx, user.id)?.is_some_and(|user| user.is_usable());
            if !unchanged || !usable || !challenges::take_challenge(tx, user.id, &hash)? {
                return Err(Error::DeadToken("password change token"));
            }
            new.keep(tx)
        })
        .await
}
