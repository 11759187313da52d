//! The second step with a code: from an authenticator app, or a recovery code.

use uuid::Uuid;

use super::attempts::admit_code;
use super::second_step::{DEAD, complete_login, find_login};
use super::{RequestContext, Services, login_event, refused};
use crate::domain::account::{SessionScope, User};
use crate::domain::audit::{Event, EventType};
use crate::domain::credential::OneUseToken;
use crate::domain::policy::FactorKind;
use crate::domain::second_factor::{self, Code, TotpSecret};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::deliveries::{self, OwedDelivery};
use crate::service::session::{self, Opening, Tokens};
use crate::service::{notices, own_event};
use crate::store::{Transaction, accounts, audit, challenges, factors};

/// Wrong codes allowed per challenge (ASVS 6.5.1: together with the limit per account, guessing is infeasible).
pub(super) const WRONG_CODES_PER_CHALLENGE: u32 = 5;

/// Completes a login with a code.
///
/// # Errors
/// [`Error::DeadToken`] for a challenge that is unknown, used, expired or tried too often;
/// [`Error::InvalidCode`] for a wrong or used code; [`Error::PasswordExpired`] if the code is correct but the
/// password has expired, in which case the challenge becomes the token that replaces it; [`Error::RateLimited`];
/// [`Error::Busy`].
pub async fn verify_mfa(
    services: &Services,
    challenge: &str,
    code: &str,
    context: &RequestContext,
) -> Result<Tokens> {
    services
        .limiter
        .check_address(Bucket::CodeByAddress, context.ip)?;
    let token = OneUseToken::decode(challenge).ok_or(DEAD)?;
    let hash = token.hash();
    let at = context.at;
    // Only a caller who knows the password has a challenge, so nobody else can use up the account's attempts.
    let (user, _) = services.store.read(|db| find_login(db, &token, &hash, at))?;
    let attempt = admit_code(services, &user, context)?;

    let shown = read_code(services, &user, code, context).await?;
    let kind = shown.as_ref().map(Shown::kind);
    let opening = Opening {
        scope: SessionScope::Full,
        second_factor: kind,
        until: None,
    };
    let (row, tokens) = session::new_session(services, &user, opening, context);
    let owed = match kind {
        Some(FactorKind::RecoveryCodes) => told_of_recovery_code(services, &user, "logged in with", context)?,
        _ => Vec::new(),
    };
    let request = context.clone();
    let entry_ids: [Uuid; 2] = std::array::from_fn(|_| services.entropy.uuid(at));
    let ended = services
        .store
        .write_for(user.organization_id, move |tx| {
            let (user, _) = find_login(tx, &token, &hash, at)?;
            let event = login_event(&user, &request);
            let spent = match &shown {
                Some(shown) => shown.take(tx, &user, &request)?,
                None => None,
            };
            let Some(spent) = spent else {
                challenges::update_attempts(tx, user.id, &hash, WRONG_CODES_PER_CHALLENGE)?;
                audit::append_entry(tx, at, entry_ids[0], &refused(event, "wrong-code"))?;
                return Ok(Err(Error::InvalidCode));
            };
            let event = event.with("method", spent.method());
            let completed = complete_login(tx, &user, &hash, &row, event, entry_ids[0])?;
            if let Some(event) = spent.event(&user, &request) {
                let entry = audit::append_entry(tx, at, entry_ids[1], &event)?;
                deliveries::owe(tx, &owed, entry.sequence, at)?;
            }
            Ok(completed)
        })
        .await?;
    if ended != Err(Error::InvalidCode) {
        attempt.forget(services);
    }
    ended.map(|()| tokens)
}

/// Returns the notice to the user that a recovery code was used: it may be someone who found the list
/// (SP 800-63B-4 §4.6). `did` says for what, as in "logged in with".
pub(super) fn told_of_recovery_code(
    services: &Services,
    user: &User,
    did: &str,
    context: &RequestContext,
) -> Result<Vec<OwedDelivery>> {
    let organization = services
        .store
        .read(|db| accounts::find_organization(db, user.organization_id))?
        .ok_or(DEAD)?;
    let changed = notices::Changed {
        organization: &organization,
        target: user,
        by: user,
        subject: "A recovery code was used",
        what: &format!("{did} a recovery code of your account {}", user.email),
        then: "Each works once. You can make new ones, which end the old ones.",
        event: "user.recovery-code.used",
    };
    Ok(notices::of_change(services, &changed, context))
}

/// A code matched to a factor, as far as possible outside the transaction.
#[derive(Clone, Debug)]
pub(in crate::service) enum Shown {
    /// A TOTP code, with its time step.
    Totp { factor: Uuid, step: u64 },
    /// Possibly a code of this recovery set.
    Recovery { set: Uuid, hash: [u8; 32] },
}

/// A code that was accepted and used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::service) enum Used {
    /// A TOTP code.
    Totp,
    /// A recovery code.
    Recovery {
        /// Number of codes left.
        left: u32,
    },
}

/// Matches a typed code to one of the user's factors. `None` if it matches none.
///
/// # Errors
/// [`Error::Busy`] if too many hashes wait; [`Error::Internal`].
pub(in crate::service) async fn read_code(
    services: &Services,
    user: &User,
    code: &str,
    context: &RequestContext,
) -> Result<Option<Shown>> {
    match Code::parse(code) {
        None => Ok(None),
        Some(Code::Totp(code)) => {
            let Some(row) = services.store.read(|db| factors::find_totp(db, user.id))? else {
                return Ok(None);
            };
            let secret = services.keys.unseal(user.id, FactorKind::Totp, &row.sealed)?;
            let step = TotpSecret::from_bytes(&secret)?.matching_step(&code, context.at, row.last_step);
            Ok(step.map(|step| Shown::Totp { factor: row.id, step }))
        }
        Some(Code::Recovery(code)) => {
            let Some(set) = services
                .store
                .read(|db| factors::find_recovery_set(db, user.id))?
            else {
                return Ok(None);
            };
            let pepper = *services.keys.pepper();
            let work = move || second_factor::hash_recovery_code(&code, &set.salt, &pepper);
            let hash = services.hashing.run(Some(user.organization_id), work).await?;
            Ok(Some(Shown::Recovery { set: set.id, hash }))
        }
    }
}

impl Shown {
    pub(super) fn kind(&self) -> FactorKind {
        match self {
            Self::Totp { .. } => FactorKind::Totp,
            Self::Recovery { .. } => FactorKind::RecoveryCodes,
        }
    }

    /// Uses the code up. `None` if it is not a code of the user's, or was used before.
    pub(in crate::service) fn take(
        &self,
        tx: &Transaction<'_>,
        user: &User,
        context: &RequestContext,
    ) -> Result<Option<Used>> {
        match self {
            Self::Totp { factor, step } => {
                let taken = factors::take_totp_step(tx, user.id, *factor, *step, context.at)?;
                Ok(taken.then_some(Used::Totp))
            }
            Self::Recovery { set, hash } => {
                let left = factors::take_recovery_code(tx, user.id, *set, hash, context.at)?;
                Ok(left.map(|left| Used::Recovery { left }))
            }
        }
    }
}

impl Used {
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::Recovery { .. } => "recovery-code",
        }
    }

    /// Returns the additional entry that each use of a recovery code leaves.
    pub(in crate::service) fn event(self, user: &User, context: &RequestContext) -> Option<Event> {
        let Self::Recovery { left } = self else {
            return None;
        };
        Some(own_event(EventType::UserRecoveryCodeUsed, user, context).with("codesLeft", left))
    }
}
