//! Refusals on the record: every refused verb is one entry, in one place; what the limiter refuses, or a full
//! queue, is one entry per caller, verb and window. So is what is refused to one caller again and again.

use uuid::Uuid;

use super::{RequestContext, Services};
use crate::domain::account::{OrgAdmin, Principal};
use crate::domain::audit::{AuditResult, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::{Terms, Touched, audit};

/// Admits a verb of an admin: the limiter first, then the role, then how lately they proved who they are.
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

/// Admits a read of an admin: the limiter first, then the role.
///
/// # Errors
/// [`Error::RateLimited`], [`Error::EnrolmentOnly`], [`Error::NotOrgAdmin`].
pub fn admit_reader<'a>(services: &Services, principal: &'a Principal) -> Result<OrgAdmin<'a>> {
    services
        .limiter
        .check(Bucket::AdminByCaller, principal.user.id.0.as_bytes())?;
    principal.org_admin()
}

/// Records how a verb was refused and gives the refusal back; or why it could not be recorded: no entry,
/// no answer that pretends there is one (ASVS 16.5.3).
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
        // The caller is told that the server is busy, and so is the trail.
        Err(busy @ (Error::Busy { .. } | Error::Unwritable { .. })) => {
            services.floods.count_busy(principal, context, event_type);
            busy
        }
        Err(failed) => failed,
    }
}

/// The same of what the operator ordered, as often as they do: nobody else can flood that door.
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
    // The message as the caller sees it: an internal error's text is for the log alone.
    let event = event
        .from_request(&context.request_id, context.ip_text().as_deref())
        .ended(result_of(error), error.to_string());
    let (at, entry_id) = (context.at, services.entropy.uuid(context.at));
    let terms = Terms {
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
            tracing::error!(%failed, refused = %error, "a refusal could not be recorded");
        }
    })
}

fn result_of(error: &Error) -> AuditResult {
    match error {
        Error::Internal(_) | Error::Stale => AuditResult::Failure,
        _ => AuditResult::Denied,
    }
}

/// Whether it is refused so often that it is only counted: the limit of admins' verbs is too high for an entry
/// each. Of the reset every attempt is an entry (contract A); its limit is low enough.
fn is_one_of_many(
    services: &Services,
    principal: &Principal,
    context: &RequestContext,
    event_type: EventType,
) -> bool {
    event_type != EventType::UserMfaReset && services.floods.count_repeated(principal, context, event_type)
}

/// A user as a caller named them, who may not exist. Only an id is written where it stays for ever; whatever
/// else stood in its place, an e-mail address perhaps, is sealed like a name, and can be erased.
pub fn written_user(written: &str) -> Resource {
    match Uuid::try_parse(written) {
        Ok(id) => Resource::other("USER", id, None),
        Err(_) => Resource::other("USER", "", Some(clipped(written)).filter(|text| !text.is_empty())),
    }
}

/// The same of what has no name: what is no id, a key perhaps, is not kept at all.
pub fn written_resource(kind: &str, written: &str) -> Resource {
    let id = Uuid::try_parse(written).map(|id| id.to_string());
    Resource::other(kind, id.unwrap_or_default(), None)
}

/// A text as a caller may have written it, short enough to keep.
fn clipped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}
