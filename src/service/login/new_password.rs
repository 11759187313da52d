//! What every new password that its user chose has in common, however they came to choose it: in place of an
//! expired one, by a link, or because they wanted another.

use jiff::Timestamp;
use uuid::Uuid;

use super::Password;
use crate::domain::account::{OrganizationSettings, Session, UserId};
use crate::domain::audit::Event;
use crate::domain::credential;
use crate::domain::{Error, Result};
use crate::service::deliveries;
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
    /// Whose.
    pub user: UserId,
    /// Its hash.
    pub hash: String,
    /// When.
    pub at: Timestamp,
    /// The entry's id.
    pub entry_id: Uuid,
    /// The entry; how many sessions ended is added.
    pub event: Event,
    /// What is owed with it.
    pub owed: Vec<OwedDelivery>,
}

impl NewPassword {
    /// Keeps it, and ends what the old one opened: links to set another, logins under way, and every session but
    /// `kept`, with their refresh tokens.
    ///
    /// # Errors
    /// [`Error::Internal`] when the store fails.
    pub fn keep(&self, tx: &Transaction<'_>, kept: Option<&Session>) -> Result<()> {
        let (user, at) = (self.user, self.at);
        passwords::update_password(tx, user, &self.hash, at)?;
        challenges::clear_invitations(tx, user)?;
        challenges::clear_challenges(tx, user)?;
        let ended = match kept {
            Some(session) => sessions::clear_other_sessions(tx, session, at)?,
            None => sessions::clear_sessions(tx, user, at)?,
        };
        let event = self.event.clone().with("sessionsEnded", ended);
        let entry = audit::append_entry(tx, at, self.entry_id, &event)?;
        deliveries::owe(tx, &self.owed, entry.sequence, at)
    }
}

prints_no_secret!(NewPassword);
