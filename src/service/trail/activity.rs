//! Acts of others on the caller's own account.
//!
//! A user sees what was done, when, how it ended and which administrator did it, so that they can object.
//! Everything else in the entry (client addresses, reasons, tickets, messages, policies) belongs to the
//! organisation and may be about others.

use jiff::Timestamp;
use uuid::Uuid;

use super::Services;
use crate::domain::account::Principal;
use crate::domain::audit::{ActorType, AuditResult, Entry, EventType};
use crate::domain::{Error, Result};
use crate::limiter::Bucket;
use crate::store::audit;

/// Maximum number of acts in a page.
pub const ACTIVITY_LIMIT: u32 = 100;

/// An act on the caller's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Id of the audit entry.
    pub id: Uuid,
    /// When it was done.
    pub at: Timestamp,
    /// What was done.
    pub event_type: EventType,
    /// How it ended.
    pub result: AuditResult,
    /// Whether it waits, or waited, for a further admin, so that nothing was done with this entry.
    pub awaits_approval: bool,
    /// Who did it.
    pub by: By,
    /// Names of the account's fields that were changed.
    pub changed: Vec<String>,
    /// Number of sessions ended, if the entry records it.
    pub sessions_ended: Option<u64>,
}

/// Who acted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// An administrator or the help desk, by e-mail address as it was then; `None` once erased.
    Colleague(Option<String>),
    /// The operator of the node.
    Operator,
    /// The appliance itself.
    System,
}

/// Lists what others did to the caller's account, newest first: at most `size` acts older than the one with id
/// `before`. Also returns whether there are more.
///
/// # Errors
/// [`Error::RateLimited`]; [`Error::Validation`] for a size out of range, or a cursor that is not an act on the
/// caller's account.
pub async fn list_activity(
    services: &Services,
    principal: &Principal,
    before: Option<Uuid>,
    size: u32,
) -> Result<(Vec<Activity>, bool)> {
    services
        .limiter
        .check(Bucket::AccountByCaller, principal.user.id.0.as_bytes())?;
    if !(1..=ACTIVITY_LIMIT).contains(&size) {
        return Err(Error::field(
            "size",
            format!("must be between 1 and {ACTIVITY_LIMIT}"),
        ));
    }
    let (organization, user) = (principal.organization.id, principal.user.id);
    let found = services
        .store
        .read_long(Some(organization), move |db| {
            let before = match before {
                None => None,
                Some(id) => {
                    let entry = audit::find_entry(db, Some(organization), id)?;
                    let own = entry.filter(|entry| {
                        let resource = entry.event.resource.as_ref();
                        resource.is_some_and(|resource| resource.id == user.to_string())
                    });
                    let own = own.ok_or_else(|| Error::field("cursor", "is not a cursor of this API"))?;
                    Some(own.sequence)
                }
            };
            audit::page_activity(db, organization, user, before, size.saturating_add(1))
        })
        .await?;
    let more = found.len() > size as usize;
    let acts = found.into_iter().take(size as usize).map(Activity::of);
    Ok((acts.collect(), more))
}

impl Activity {
    fn of(entry: Entry) -> Self {
        let event = entry.event;
        Self {
            id: entry.id,
            at: entry.at,
            event_type: event.event_type,
            result: event.result,
            awaits_approval: event.event_type == EventType::ApprovalRequest,
            by: match event.actor.r#type {
                ActorType::Operator => By::Operator,
                ActorType::System | ActorType::Anonymous => By::System,
                ActorType::User | ActorType::ApiKey => By::Colleague(event.actor.email),
            },
            changed: event
                .details
                .get("changes")
                .and_then(|changes| changes.as_object())
                .map(|changes| changes.keys().cloned().collect())
                .unwrap_or_default(),
            sessions_ended: event
                .details
                .get("sessionsEnded")
                .and_then(serde_json::Value::as_u64),
        }
    }
}
