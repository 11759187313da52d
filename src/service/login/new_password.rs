//! The common part of every password change by a user: replacing an expired one, by a link, or voluntarily.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Password, RequestContext, Services};
use crate::domain::account::{Organization, OrganizationSettings, Session, User, UserId};
use crate::domain::audit::Event;
use crate::domain::credential;
use crate::domain::{Error, Result};
use crate::service::{deliveries, notices};
use crate::store::deliveries::OwedDelivery;
use crate::store::{Transaction, audit, challenges, passwords, sessions};

/// Refuses a password that breaks the organisation's rules.
///
/// # Errors
/// [`Error::Validation`] on `field`, the password's name in the request body.
pub(in crate::service) fn check_rules(
    new: &Password,
    settings: &OrganizationSettings,
    field: &str,
) -> Result<()> {
    let problems = credential::password_problems(&new.0, settings);
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::field(field, problems.join("; ")))
}

/// A new password, hashed but not yet stored, with its entry and notices.
#[derive(Clone)]
pub(in crate::service) struct NewPassword {
    user: UserId,
    hash: String,
    at: Timestamp,
    entry_id: Uuid,
    /// The number of ended sessions is added later.
    event: Event,
    owed: Vec<OwedDelivery>,
    /// The session that continues.
    kept: Option<Session>,
}

impl NewPassword {
    /// Prepares a new password, given its hash. `how` describes the change in the notice, `event` in the trail.
    /// Every session ends except `kept`.
    pub fn of(
        services: &Services,
        (organization, user): (&Organization, &User),
        hash: String,
        how: &str,
        event: Event,
        kept: Option<Session>,
        context: &RequestContext,
    ) -> Self {
        let then = match kept {
            Some(_) => "All your other sessions were ended.",
            None => "All your sessions were ended.",
        };
        Self {
            user: user.id,
            hash,
            at: context.at,
            entry_id: services.entropy.uuid(context.at),
            event,
            owed: notices::of_own_password(services, organization, user, how, then, context),
            kept,
        }
    }

    /// Stores the password and ends whatever the old one gave access to: links to set another, logins in
    /// progress, and sessions with their refresh tokens.
    ///
    /// # Errors
    /// [`Error::Internal`] if the store fails.
    pub fn keep(&self, tx: &Transaction<'_>) -> Result<()> {
        let (user, at) = (self.user, self.at);
        passwords::update_password(tx, user, &self.hash, at)?;
        challenges::clear_invitations(tx, user)?;
        challenges::clear_challenges(tx, user)?;
        let ended = match &self.kept {
            Some(session) => sessions::clear_other_sessions(tx, session, at)?,
            None => sessions::clear_sessions(tx, user, at)?,
        };
        let event = self.event.clone().with("sessionsEnded", ended);
        let entry = audit::append_entry(tx, at, self.entry_id, &event)?;
        deliveries::owe(tx, &self.owed, entry.sequence, at)
    }
}

prints_no_secret!(NewPassword);
