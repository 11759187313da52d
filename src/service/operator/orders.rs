//! What the operator orders of whoever has the data directory: the command itself, or the server that runs. What
//! is done to somebody's account goes the way that an admin's call goes, and each order is an entry, refused ones
//! too.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{find_organization, find_user};
use crate::domain::account::{OrganizationId, User};
use crate::domain::approval::UserPatch;
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::{Error, Result};
use crate::service::mandate::Mandate;
use crate::service::plugins::{PolicyOrder, Watch, carry_out_order};
use crate::service::refusals::{record_operators_refusal, written_user};
use crate::service::reset::{self, Refusal, ResetBody};
use crate::service::users::{self, Act, Change};
use crate::service::{RequestContext, Services};
use crate::store::accounts;

/// An order of the operator's.
#[derive(Clone, Debug)]
pub enum Order {
    /// About policies.
    Policy(Box<PolicyOrder>),
    /// About somebody's account.
    Account(AccountOrder),
}

/// An order about somebody's account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum AccountOrder {
    /// Take all second factors away.
    ResetMfa {
        /// Whose.
        user: Named,
        /// Why, for the policies and the trail.
        reason: Option<String>,
        /// Ticket reference, for the same.
        ticket: Option<String>,
    },
    /// Unlock the account, and open the window for enrolment again where it is over.
    Unlock {
        /// Whose.
        user: Named,
    },
    /// Give the factors back that the last reset took away.
    RestoreFactors {
        /// Whose.
        user: Named,
    },
}

/// A user as the operator names one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Slug of the organisation.
    pub organization: String,
    /// E-mail address.
    pub email: String,
}

impl Order {
    /// Reads what [`Order::to_json`] wrote.
    ///
    /// # Errors
    /// With what is wrong, where it is no order that this version knows.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        // Those about policies may hold a file: they are read once.
        match serde_json::from_str(text) {
            Ok(order) => Ok(Self::Policy(Box::new(order))),
            Err(unknown) => serde_json::from_str(text).map(Self::Account).map_err(|_| unknown),
        }
    }

    /// The order as a line of JSON.
    ///
    /// # Errors
    /// Never, but for a defect of serde.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Policy(order) => serde_json::to_string(order),
            Self::Account(order) => serde_json::to_string(order),
        }
    }

    /// Carries the order out, on the record with the operator as its actor. What it says is for people and scripts.
    ///
    /// # Errors
    /// As what is ordered.
    pub async fn carry_out(self, services: &Services, watch: Watch) -> Result<Value> {
        match self {
            Self::Policy(order) => carry_out_order(services, *order, watch).await,
            Self::Account(order) => carry_out_on_account(services, order).await,
        }
    }
}

impl From<PolicyOrder> for Order {
    fn from(order: PolicyOrder) -> Self {
        Self::Policy(Box::new(order))
    }
}

impl From<AccountOrder> for Order {
    fn from(order: AccountOrder) -> Self {
        Self::Account(order)
    }
}

async fn carry_out_on_account(services: &Services, order: AccountOrder) -> Result<Value> {
    let context = RequestContext::cli(services);
    let (named, event_type) = match &order {
        AccountOrder::ResetMfa { user, .. } => (user.clone(), EventType::UserMfaReset),
        AccountOrder::Unlock { user } => (user.clone(), EventType::UserUpdate),
        AccountOrder::RestoreFactors { user } => (user.clone(), EventType::UserFactorsRestore),
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
        AccountOrder::RestoreFactors { .. } => {
            let change_back = Change::RestoreFactors { taken_before: None };
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

/// What is said of a user afterwards, and the code for enrolment, this once.
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

/// The entry of a refusal, as far as what was named is there. Of an organisation that is not, the node's trail knows.
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
