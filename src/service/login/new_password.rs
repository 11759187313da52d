//! What every new password that its user chose has in common, however they came to choose it: in place of an
//! expired one, by a link, or because they wanted another.

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
/// [`Error::Validation`] on `field`, the name that the password has in the body.
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

/// A new password, hashed and still to be kept, with its entry and its notices.
#[derive(Clone)]
pub(in crate::service) struct NewPassword {
    user: UserId,
    hash: String,
    at: Timestamp,
    entry_id: Uuid,
    /// How many sessions ended is still to be added.
    event: Event,
    owed: Vec<OwedDelivery>,
    /// The session that goes on.
    kept: Option<Session>,
}

impl NewPassword {
    /// The password of that hash for a user, set in the way that `how` says in the notice and `event` in the trail.
    /// Every session ends but `kept`.
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

    /// Keeps it, and ends what the old one opened: links to set another, logins under way, and sessions with their
    /// refresh tokens.
    ///
    /// # Errors
    /// [`Error::Internal`] when the store fails.
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
