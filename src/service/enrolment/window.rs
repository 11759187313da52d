//! Enrolment after a reset: within its time limit, with the code from the admin, and with wrong codes recorded.

use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use super::WRONG_CODE;
use crate::domain::account::User;
use crate::domain::audit::{AuditResult, Event};
use crate::domain::{Error, Result};
use crate::service::Services;
use crate::store::{Transaction, audit, factors};

/// Name of the field with the admin's code.
const CODE: &str = "enrolmentCode";

/// Checks that enrolment after a reset is in time, and that the admin's code is given if required.
pub(in crate::service) fn check_enrolment_window(
    tx: &Transaction<'_>,
    user: &User,
    shown: Option<&[u8; 32]>,
    at: Timestamp,
) -> Result<()> {
    let Some(due) = &user.enrolment_due else {
        return Ok(());
    };
    if at >= due.until {
        return Err(Error::Refused(
            "The time for setting up MFA is over. Ask an administrator",
        ));
    }
    if !due.code_required {
        return Ok(());
    }
    let shown = shown.ok_or_else(|| Error::field(CODE, "is required: ask the administrator for it"))?;
    let wrong = || Error::field(CODE, "is wrong or has expired: ask the administrator for another");
    let (hash, expires_at) = factors::find_enrolment_code(tx, user.id)?.ok_or_else(wrong)?;
    let same: bool = hash.ct_eq(shown).into();
    if same && at < expires_at {
        Ok(())
    } else {
        Err(wrong())
    }
}

/// Records a wrong code, whether the authenticator's or the admin's, and returns the error; returns the cause
/// instead if recording fails. Other errors are returned without an entry.
pub(in crate::service) async fn record_wrong_code(
    services: &Services,
    event: Event,
    error: Error,
    at: Timestamp,
) -> Error {
    let reason = match &error {
        Error::Validation(fields) if fields.contains_key(CODE) => "enrolment-code",
        error if *error == WRONG_CODE => "wrong-code",
        _ => return error,
    };
    let event = event.ended(AuditResult::Denied, &error).with("reason", reason);
    let entry_id = services.entropy.uuid(at);
    let recorded = services
        .store
        .write(move |tx| audit::append_entry(tx, at, entry_id, &event).map(drop))
        .await;
    recorded.err().unwrap_or(error)
}
