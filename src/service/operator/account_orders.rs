//! The operator's orders about a user's account. They take the same path as an admin's call, and each is
//! recorded, refused ones too.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{find_organization, find_user};
use crate::domain::account::{OrganizationId, User};
use crate::domain::approval::UserPatch;
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::service::mandate::Mandate;
use crate::service::refusals::{record_operators_refusal, written_user};
use crate::service::reset::{self, Refusal, ResetBody};
use crate::service::users::{self, Act, Change};
use crate::service::{RequestContext, Services};
use crate::store::accounts;

/// An order about a user's account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order")]
pub enum AccountOrder {
    /// Remove all second factors.
    #[serde(rename = "user-reset-mfa")]
    ResetMfa {
        /// The user.
        user: Named,
        /// Reason, for the policies and the trail.
        reason: Option<String>,
        /// Ticket reference, for the policies and the trail.
        ticket: Option<String>,
    },
    /// Unlock the account, and reopen the enrolment window if it is over.
    #[serde(rename = "user-unlock")]
    Unlock {
        /// The user.
        user: Named,
    },
    /// Restore the factors that a reset removed.
    #[serde(rename = "user-restore-factors")]
    RestoreFactors {
        /// The user.
        user: Named,
        /// Restore those removed at this time or most recently before it; `None`: the only ones.
        #[serde(default)]
        taken_before: Option<Timestamp>,
    },
}

/// A user, as named by the operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Slug of the organisation.
    pub organization: String,
    /// E-mail address.
    pub email: String,
}

impl AccountOrder {
    /// Prefix of these orders' names; no other order has it.
    pub const PREFIX: &'static str = "user-";
}

/// Carries out an order and records it with the operator as its actor.
///
/// # Errors
/// As for an admin's call of the same kind.
pub(super) async fn carry_out_order(services: &Services, order: AccountOrder) -> Result<Value> {
    let context = RequestContext::cli(services);
    let (named, event_type) = match &order {
        AccountOrder::ResetMfa { user, .. } => (user.clone(), EventType::UserMfaReset),
        AccountOrder::Unlock { user } => (user.clone(), EventType::UserUpdate),
        AccountOrder::RestoreFactors { user, .. } => (user.clone(), EventType::UserFactorsRestore),
    };
    let refusal = match find_user(services, &named.organization, &named.email) {
        Err(error) => Refusal::Unrecorded(error),
        Ok(user) => match carry_out_on(services, &user, order, &context).await {
            Ok(done) => return Ok(done),
            Err(refusal) => refusal,
        },
    };
    match refusal {
        Refusal::Recorded(error) => Err(error),
        Refusal::Unrecorded(error) => {
            let event = about(services, &named, event_type);
            Err(record_operators_refusal(services, &context, event, error).await)
        }
    }
}

async fn carry_out_on(
    services: &Services,
    user: &User,
    order: AccountOrder,
    context: &RequestContext,
) -> Result<Value, Refusal> {
    match order {
        AccountOrder::ResetMfa { reason, ticket, .. } => {
            let body = ResetBody { reason, ticket };
            let answer = reset::reset_as_operator(services, user, body, context).await?;
            let now = now(services, user)?;
            let mut said = said(&now, answer.enrolment_code);
            said["auditId"] = json!(answer.audit_id);
            Ok(said)
        }
        AccountOrder::Unlock { .. } => {
            let patch = UserPatch {
                unlock: true,
                ..UserPatch::default()
            };
            change(services, user, Change::Update(patch), context).await
        }
        AccountOrder::RestoreFactors { taken_before, .. } => {
            let change_back = Change::RestoreFactors { taken_before };
            change(services, user, change_back, context).await
        }
    }
}

async fn change(
    services: &Services,
    user: &User,
    change: Change,
    context: &RequestContext,
) -> Result<Value, Refusal> {
    let act = Act {
        context: context.clone(),
        target: user.id,
        change,
        mandate: Mandate::operator(user.organization_id, context.at),
    };
    let outcome = users::carry_out(services, &act).await?;
    let mut said = said(&outcome.user, outcome.enrolment_code);
    said["changed"] = json!(outcome.user.revision != user.revision);
    Ok(said)
}

fn now(services: &Services, user: &User) -> Result<User> {
    let found = services
        .store
        .read(|db| accounts::find_user(db, user.organization_id, user.id))?;
    found.ok_or_else(|| Error::UserNotFound(user.id.to_string()))
}

/// Returns the user's resulting state, and the enrolment code, which is shown only this once.
fn said(user: &User, code: Option<String>) -> Value {
    let due = user.enrolment_due.as_ref();
    let until: Option<Timestamp> = due.map(|due| due.until);
    let code_until = due.and_then(|due| due.code_until).filter(|_| code.is_some());
    json!({
        "id": user.id,
        "email": user.email,
        "active": user.active,
        "locked": user.locked.is_some(),
        "mfaEnabled": user.mfa_enabled,
        "enrolmentDueUntil": until,
        "enrolmentCode": code,
        "enrolmentCodeUntil": code_until,
    })
}

/// Returns the entry of a refusal, with as much of the named account as exists. If the organisation does not
/// exist, it goes to the node's own trail.
fn about(services: &Services, named: &Named, event_type: EventType) -> Event {
    let organization = find_organization(services, &named.organization).ok();
    let id: Option<OrganizationId> = organization.as_ref().map(|organization| organization.id);
    let resource = match (
        &organization,
        find_user(services, &named.organization, &named.email),
    ) {
        (_, Ok(user)) => Resource::user(&user),
        (Some(_), Err(_)) => written_user(&named.email),
        (None, Err(_)) => Resource::other("ORGANIZATION", "", Some(named.organization.clone())),
    };
    Event::new(event_type, id, ActorRef::operator()).on(resource)
}
