//! A link to set a password: for a new account, or to replace a password that an admin removed. Valid once, for
//! seven days. Only its holder ever chooses the password.

use jiff::{SignedDuration, Timestamp};

use crate::domain::account::{Organization, User, UserId};
use crate::domain::audit::{Event, EventType};
use crate::domain::credential::{self, OneUseToken};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::login::Password;
use crate::service::login::new_password::{NewPassword, check_rules};
use crate::service::{RequestContext, Services, notices, own_event};
use crate::store::challenges::Purpose;
use crate::store::deliveries::OwedDelivery;
use crate::store::{Transaction, accounts, challenges};

/// Validity of a link, in hours: seven days, as the API promises.
const HOURS: i64 = 7 * 24;

/// A link that could not be mailed, for the admin to hand over.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownLink {
    /// The link, with the token in its fragment, which browsers don't send to any server.
    pub link: String,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// A link to set a password, not yet stored.
#[derive(Clone)]
pub struct Invitation {
    user: UserId,
    hash: [u8; 32],
    at: Timestamp,
    expires_at: Timestamp,
    link: String,
    /// The link, if it can't be mailed.
    pub shown: Option<ShownLink>,
}

impl Invitation {
    /// Creates a link for a user.
    #[must_use]
    pub fn new(services: &Services, user: &User, at: Timestamp) -> Self {
        let token = OneUseToken::new(user.id, services.entropy.bytes());
        let expires_at = at + SignedDuration::from_hours(HOURS);
        let link = format!("{}/invitation#{}", services.settings.public_url, token.encode());
        Self {
            user: user.id,
            hash: token.hash(),
            at,
            expires_at,
            shown: (!services.settings.mail).then(|| ShownLink {
                link: link.clone(),
                expires_at,
            }),
            link,
        }
    }

    /// Stores the link, replacing earlier ones.
    ///
    /// # Errors
    /// [`Error::Internal`] if the store fails.
    pub fn keep(&self, tx: &Transaction<'_>) -> Result<()> {
        challenges::clear_invitations(tx, self.user)?;
        challenges::insert_challenge(
            tx,
            self.user,
            &self.hash,
            Purpose::Invitation,
            None,
            self.at,
            self.expires_at,
        )
    }

    /// Adds to the audit entry how the link is delivered and when it expires.
    #[must_use]
    pub fn describe(&self, event: Event) -> Event {
        let how = if self.shown.is_some() {
            "shown to the admin"
        } else {
            "mailed"
        };
        event
            .with("invitation", how)
            .with("invitationExpiresAt", self.expires_at.to_string())
    }

    /// Returns the mail to a new user.
    #[must_use]
    pub fn welcome_mail(
        &self,
        services: &Services,
        organization: &Organization,
        by: &str,
        user: &User,
    ) -> Option<OwedDelivery> {
        let subject = format!("Your account for {}", organization.name);
        let made = format!("{by} made an account for you at {}.", organization.name);
        self.mail(services, organization, user, &subject, &made)
    }

    /// Returns the mail to a user whose password was removed.
    #[must_use]
    pub fn reset_mail(
        &self,
        services: &Services,
        organization: &Organization,
        by: &User,
        user: &User,
        context: &RequestContext,
    ) -> Option<OwedDelivery> {
        let subject = format!("Set a new password for {}", organization.name);
        let why = format!(
            "{} reset the password of your account at {} {}. The old one no longer works, and your sessions \
             were ended.",
            notices::called(by),
            organization.name,
            notices::when_and_whence(context),
        );
        let body = format!("{why}\n\n{}", self.how_to(organization, user));
        let end = "If you don't know why you got this, don't use the first link.";
        notices::reportable_mail(services, organization, user, context, &subject, &body, end)
    }

    fn mail(
        &self,
        services: &Services,
        organization: &Organization,
        user: &User,
        subject: &str,
        why: &str,
    ) -> Option<OwedDelivery> {
        let body = format!(
            "{why}\n\n{}\n\nIf you don't know why you got this, tell the administrators of {} and don't use the \
             link.\n",
            self.how_to(organization, user),
            organization.name,
        );
        notices::sealed_mail(services, organization, &user.email, subject, &body)
    }

    fn how_to(&self, organization: &Organization, user: &User) -> String {
        format!(
            "Set your password here. The link works once, until {:.0}:\n\n{}\n\nYou then log in with the \
             organisation {} and the address {}.",
            self.expires_at, self.link, organization.slug, user.email,
        )
    }
}

/// Sets the password of the user a link was sent to, and ends every session. The user then logs in with it, and
/// with their second factor, if they have one.
///
/// # Errors
/// [`Error::DeadToken`] for a link that is unknown, used or expired; [`Error::Validation`] for a password
/// that breaks the organisation's rules; [`Error::RateLimited`]; [`Error::Busy`].
pub async fn accept_invitation(
    services: &Services,
    token: &str,
    new: Password,
    context: &RequestContext,
) -> Result<()> {
    services
        .limiter
        .check_address(Bucket::TokenByAddress, context.ip)?;
    let dead = || Error::DeadToken("invitation");
    let token = OneUseToken::decode(token).ok_or_else(dead)?;
    let (hash, at) = (token.hash(), context.at);
    let (user, organization) = services.store.read(|db| {
        let challenge = challenges::find_challenge(db, token.user, &hash, Purpose::Invitation, at)?;
        let user = accounts::find_user_anywhere(db, token.user)?;
        let user = user.filter(|user| challenge.is_some() && user.is_usable());
        let user = user.ok_or_else(dead)?;
        let organization = accounts::find_organization(db, user.organization_id)?.ok_or_else(dead)?;
        Ok((user, organization))
    })?;
    check_rules(&new, &organization.settings, "password")?;
    let salt = services.entropy.bytes();
    let hashed = services
        .hashing
        .run(Some(user.organization_id), move || {
            credential::hash_password(&new.0, salt)
        })
        .await?;
    let event = own_event(EventType::UserPasswordChange, &user, context).with("reason", "invitation");
    let whose = (&organization, &user);
    let new = NewPassword::of(services, whose, hashed, "set the password", event, None, context);
    services
        .store
        .write_for(organization.id, move |tx| {
            let usable = accounts::find_user_anywhere(tx, user.id)?.is_some_and(|user| user.is_usable());
            if !usable || !challenges::take_challenge(tx, user.id, &hash)? {
                return Err(dead());
            }
            new.keep(tx)
        })
        .await
}

prints_no_secret!(ShownLink, Invitation);
