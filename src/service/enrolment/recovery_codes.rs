//! Recovery codes: created with the first second factor, and replaced by their user.

use zeroize::Zeroizing;

use super::{current_user, told};
use crate::domain::account::{Principal, User};
use crate::domain::audit::EventType;
use crate::domain::second_factor::{self, RECOVERY_CODES};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::service::session::{end_others, still_lives};
use crate::service::{RequestContext, Services, deliveries, own_event};
use crate::store::audit;
use crate::store::factors::{self, RecoverySetRow};

/// Replaces the user's recovery codes and ends their other sessions. Requires a recent use of the second factor
/// (ASVS 7.5.1): each code is a factor itself, so a stolen session alone must not obtain any.
///
/// # Errors
/// [`Error::NoMfa`] if MFA is disabled; [`Error::StepUpRequired`] if the second factor was not used recently;
/// [`Error::RateLimited`]; [`Error::Busy`].
pub async fn regenerate_recovery_codes(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
) -> Result<RecoveryCodes> {
    let user = &principal.full()?.user;
    if !user.mfa_enabled {
        return Err(Error::NoMfa);
    }
    principal.may_change_factors(context.at)?;
    services
        .limiter
        .check(Bucket::EnrolmentByAccount, principal.session.id.0.as_bytes())?;
    let (codes, set, hashes) = new_recovery_codes(services, user, context).await?;
    let event = own_event(EventType::UserRecoveryCodesRegenerated, &principal.user, context);
    let owed = told(
        services,
        principal,
        context,
        "made new recovery codes",
        "user.recovery-codes.regenerated",
    );
    let (id, session, at) = (user.id, principal.session.clone(), context.at);
    let entry_id = services.entropy.uuid(at);
    services
        .store
        .write_for(principal.organization.id, move |tx| {
            still_lives(tx, &session, at)?;
            if !current_user(tx, id)?.mfa_enabled {
                return Err(Error::NoMfa);
            }
            factors::insert_recovery_set(tx, id, &set, &hashes, at)?;
            factors::touch_user(tx, id, at)?;
            let ended = end_others(tx, &session, at)?;
            let entry = audit::append_entry(tx, at, entry_id, &event.clone().with("sessionsEnded", ended))?;
            deliveries::owe(tx, &owed, entry.sequence, at)
        })
        .await?;
    Ok(codes)
}

/// A new set of recovery codes. Shown once; the store keeps hashes.
pub struct RecoveryCodes(pub Zeroizing<Vec<String>>);

/// Generates new codes, their set and their hashes: eight Argon2id computations, one after the other.
pub(in crate::service) async fn new_recovery_codes(
    services: &Services,
    user: &User,
    context: &RequestContext,
) -> Result<(RecoveryCodes, RecoverySetRow, Vec<[u8; 32]>)> {
    let length = services.settings.recovery_code_characters;
    let codes: Zeroizing<Vec<String>> = Zeroizing::new(
        (0..RECOVERY_CODES)
            .map(|_| {
                let random = services
                    .entropy
                    .bytes::<{ second_factor::RECOVERY_CODE_MAX_CHARACTERS }>();
                second_factor::recovery_code(&random[..length])
            })
            .collect(),
    );
    let set = RecoverySetRow {
        id: services.entropy.uuid(context.at),
        salt: services.entropy.bytes(),
    };
    let (salt, pepper) = (set.salt, *services.keys.pepper());
    let clear = codes.clone();
    let work = move || {
        clear
            .iter()
            .map(|code| second_factor::hash_recovery_code(code, &salt, &pepper))
            .collect::<Vec<_>>()
    };
    let hashes = services.hashing.run(Some(user.organization_id), work).await?;
    Ok((RecoveryCodes(codes), set, hashes))
}

prints_no_secret!(RecoveryCodes);
