//! "This was not me": the link in the notice of every change of a user's credentials.
//!
//! Anyone who can read the user's mail can use it, once, until the factors that a reset removed are destroyed.
//! It locks the account, ends whatever was obtained since the change, and notifies the admins; it grants no
//! access and reveals nothing. The link's page only explains: the action is a POST, because mail scanners
//! follow links.

use jiff::SignedDuration;
use serde_json::json;

use super::deliveries::{self, OwedLink};
use super::{RequestContext, Services, notices, own_event};
use crate::domain::account::{Lock, Organization, User};
use crate::domain::audit::EventType;
use crate::domain::credential::OneUseToken;
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::challenges::Purpose;
use crate::store::{accounts, api_keys, audit, challenges, factors, sessions};

/// Lock reason of an account whose user reported it. An admin who restores its factors unlocks it.
pub const LOCK_REASON: &str = "The user said that a change of their credentials was not theirs";

/// Creates the link for a user's notice: 256 random bits whose hash the store keeps, rather than a signature.
/// Advantages: it is used up with its row, which holds its user, purpose, entry and expiry; it ends with the
/// account's other tokens; there is no key with which links could be forged; and since a hash is looked up,
/// timing does not reveal how close a guess was.
#[must_use]
pub fn new_link(services: &Services, user: &User, at: jiff::Timestamp) -> (String, OwedLink) {
    let token = OneUseToken::new(user.id, services.entropy.bytes());
    let link = format!("{}/not-me#{}", services.settings.public_url, token.encode());
    let kept = OwedLink {
        user: user.id,
        hash: token.hash(),
        expires_at: at + SignedDuration::from_secs(services.settings.suspended_factor_secs.max(LEAST_SECS)),
    };
    (link, kept)
}

/// Minimum lifetime of a link, in seconds, if factors are destroyed sooner.
const LEAST_SECS: i64 = 24 * 3600;

/// Locks the account whose user reported a change, ends its sessions, logins, invitations and API keys, and
/// notifies the admins.
///
/// # Errors
/// [`Error::DeadToken`], identical for a link that is unknown, used or expired; [`Error::RateLimited`];
/// [`Error::Busy`].
pub async fn report_not_me(services: &Services, token: &str, context: &RequestContext) -> Result<()> {
    services
        .limiter
        .check_address(Bucket::TokenByAddress, context.ip)?;
    let dead = || Error::DeadToken("link");
    let token = OneUseToken::decode(token).ok_or_else(dead)?;
    let (hash, at) = (token.hash(), context.at);
    let (user, organization, about, admins) = services.store.read(|db| {
        let link = challenges::find_challenge(db, token.user, &hash, Purpose::NotMe, at)?.ok_or_else(dead)?;
        let user = accounts::find_user_anywhere(db, token.user)?.ok_or_else(dead)?;
        let organization = accounts::find_organization(db, user.organization_id)?.ok_or_else(dead)?;
        let admins = accounts::find_active_admins(db, organization.id)?;
        Ok((user, organization, link.state, admins))
    })?;
    let mut event = own_event(EventType::UserReport, &user, context);
    if let Some(sequence) = about
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
    {
        event = event.with("about", sequence);
    }
    let owed = alarms(services, &organization, &user, &admins, context);
    let entry_id = services.entropy.uuid(at);
    let lock = Lock {
        at,
        reason: LOCK_REASON.to_owned(),
    };
    let id = user.id;
    services
        .store
        .write_for(organization.id, move |tx| {
            if !challenges::take_challenge(tx, id, &hash)? {
                return Err(dead());
            }
            // A lock for another reason, such as a policy's, stays: restoring the factors must not lift it.
            let locked = accounts::find_user_anywhere(tx, id)?.ok_or_else(dead)?.locked;
            match &locked {
                None => accounts::update_lock(tx, id, Some(&lock), at)?,
                Some(_) => factors::touch_user(tx, id, at)?,
            }
            challenges::clear_every_token(tx, id)?;
            factors::clear_enrolment(tx, id)?;
            let ended = sessions::clear_sessions(tx, id, at)?;
            let revoked = api_keys::revoke_made_by(tx, id, at)?;
            let event = event
                .clone()
                .with("wasLocked", locked.is_some())
                .with("sessionsEnded", ended)
                .with("apiKeysRevoked", revoked);
            let entry = audit::append_entry(tx, at, entry_id, &event)?;
            deliveries::owe(tx, &owed, entry.sequence, at)
        })
        .await
}

fn alarms(
    services: &Services,
    organization: &Organization,
    user: &User,
    admins: &[User],
    context: &RequestContext,
) -> Vec<deliveries::OwedDelivery> {
    let subject = format!("{} says: this was not me", user.email);
    let from = context
        .ip_text()
        .unwrap_or_else(|| "an unknown address".to_owned());
    let body = format!(
        "{} used the link in a notice to say that a change of their credentials was not theirs, on {:.0} from \
         {from}.\n\nThe account is locked and its sessions were ended. Talk to them, by a way that you know, \
         before anything else. If their device is at hand, restore their second factor: POST \
         {}/api/v1/users/{}/restore-factors. That unlocks the account. Let them change the password too. Look \
         in the audit trail for who made the change and what else they did.\n",
        notices::called(user),
        context.at,
        services.settings.public_url,
        user.id,
    );
    let mut owed = notices::to_admins(services, organization, admins, user, &subject, &body);
    let data = json!({ "userId": user.id, "ipAddress": context.ip_text() });
    owed.extend(notices::call(
        services,
        organization,
        "user.report",
        context.at,
        data,
    ));
    owed
}
