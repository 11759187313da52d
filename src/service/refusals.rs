//! The record of refusals, written in one place: every refused reset, and every other refused change of users,
//! approvals, settings, API keys and policies, is one entry. Refusals by the limiter or a full queue are one entry
//! per caller, operation and window, and so are repeated refusals of one caller.
//!
//! Not recorded: refused reads, since reads are not recorded either; a body that can't be read; and, except for the
//! reset, what an enrolment session asks for, which authentication refuses before any operation is reached.

mod counted;
mod floods;

pub(super) use counted::Counts;
pub use floods::{Floods, record_floods};

use uuid::Uuid;

use super::{RequestContext, Services};
use crate::domain::account::{OrgAdmin, Principal};
use crate::domain::audit::{AuditResult, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::{Touched, WriteTerms, audit};

/// Admits an admin's operation: checks the limiter first, then the role, then how recently they authenticated.
///
/// # Errors
/// [`Error::RateLimited`], [`Error::EnrolmentOnly`], [`Error::NotOrgAdmin`], [`Error::StepUpRequired`].
pub fn admit_admin<'a>(
    services: &Services,
    principal: &'a Principal,
    context: &RequestContext,
) -> Result<OrgAdmin<'a>> {
    let admin = admit_reader(services, principal)?;
    admin.stepped_up(context.at)?;
    Ok(admin)
}

/// Admits an admin's read: checks the limiter first, then the role.
///
/// # Errors
/// [`Error::RateLimited`], [`Error::EnrolmentOnly`], [`Error::NotOrgAdmin`].
pub fn admit_reader<'a>(services: &Services, principal: &'a Principal) -> Result<OrgAdmin<'a>> {
    services
        .limiter
        .check(Bucket::AdminByCaller, principal.user.id.0.as_bytes())?;
    principal.org_admin()
}

/// Records a refusal and returns it; if it can't be recorded, returns the cause instead, so that no answer
/// implies an entry that does not exist (ASVS 16.5.3).
pub async fn record_refusal(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    event_type: EventType,
    resource: Resource,
    error: Error,
) -> Error {
    if let Error::RateLimited { quota, .. } = &error {
        services.floods.count(principal, context, event_type, quota.name);
        return error;
    }
    if let Error::Busy { .. } | Error::Unwritable { .. } = &error {
        services.floods.count_busy(principal, context, event_type);
        return error;
    }
    if result_of(&error) == AuditResult::Denied && is_one_of_many(services, principal, context, event_type) {
        return error;
    }
    match append(
        services,
        context,
        Event::by(principal, event_type).on(resource),
        &error,
    )
    .await
    {
        Ok(()) => error,
        // The caller is told that the server is busy, and the trail records the same.
        Err(busy @ (Error::Busy { .. } | Error::Unwritable { .. })) => {
            services.floods.count_busy(principal, context, event_type);
            busy
        }
        Err(failed) => failed,
    }
}

/// As [`record_refusal`], for the operator's orders, without counting: nobody else can flood that channel.
pub async fn record_operators_refusal(
    services: &Services,
    context: &RequestContext,
    event: Event,
    error: Error,
) -> Error {
    append(services, context, event, &error)
        .await
        .err()
        .unwrap_or(error)
}

async fn append(services: &Services, context: &RequestContext, event: Event, error: &Error) -> Result<()> {
    // The message as shown to the caller: an internal error's text is for the log only.
    let event = event
        .from_request(&context.request_id, context.ip)
        .ended(result_of(error), error.to_string());
    let (at, entry_id) = (context.at, services.entropy.uuid(context.at));
    let terms = WriteTerms {
        party: event.organization_id,
        touched: Touched::NOBODY,
    };
    let recorded = services
        .store
        .write_by(terms, move |tx| {
            audit::append_entry(tx, at, entry_id, &event).map(|_| ())
        })
        .await;
    recorded.inspect_err(|failed| {
        if !matches!(failed, Error::Busy { .. } | Error::Unwritable { .. }) {
            tracing::error!(%failed, refused = %error, "could not record a refusal");
        }
    })
}

fn result_of(error: &Error) -> AuditResult {
    match error {
        Error::Internal(_) | Error::Stale => AuditResult::Failure,
        _ => AuditResult::Denied,
    }
}

/// True if the refusal is only counted, because the caller has had many: the limit on admins' operations is too
/// high for an entry each. Every attempt at a reset is an entry, as the API promises; its limit is low enough.
fn is_one_of_many(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    event_type: EventType,
) -> bool {
    event_type != EventType::UserMfaReset && services.floods.count_repeated(principal, context, event_type)
}

/// Returns the resource for a user as named by the caller, who may not exist. Only an id is written in clear,
/// since it stays for ever; any other text, such as an e-mail address, is sealed like a name and can be erased.
pub fn written_user(written: &str) -> Resource {
    match Uuid::try_parse(written) {
        Ok(id) => Resource::other("USER", id, None),
        Err(_) => Resource::other("USER", "", Some(clipped(written)).filter(|text| !text.is_empty())),
    }
}

/// As [`written_user`], for resources without a name: a text that is not an id, possibly a key, is not kept at
/// all.
pub fn written_resource(kind: &str, written: &str) -> Resource {
    let id = Uuid::try_parse(written).map(|id| id.to_string());
    Resource::other(kind, id.unwrap_or_default(), None)
}

/// Shortens a text from a caller so that it can be kept.
fn clipped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}
