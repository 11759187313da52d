//! `GET /account/activity`: what others did to the caller's account.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::param::Query;
use poem_openapi::types::Example;
use poem_openapi::{Enum, Object, OpenApi};
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{S400, S429, SECURED};
use super::payload::J;
use super::principal::Caller;
use super::schema::Time;
use crate::service::Services;
use crate::service::trail::{self, Activity, By};

/// Handler of `/account/activity`.
pub struct ActivityApi;

/// Kind of actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ActivityActor", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActorBody {
    /// Another user of the organisation.
    User,
    /// The operator of the appliance.
    Operator,
    /// The appliance itself.
    System,
}

/// An action on the caller's account by somebody else.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Activity", rename_all = "camelCase", example)]
pub struct ActivityBody {
    /// Id of the audit entry, by which administrators can find it.
    pub id: Uuid,
    /// Event type, as in the audit log.
    pub event_type: String,
    /// Result: `SUCCESS`, `DENIED` or `FAILURE`.
    pub result: String,
    /// True if the action was only requested: it waits, or waited, for another administrator's approval.
    pub awaits_approval: bool,
    /// Kind of the actor.
    pub actor_type: ActorBody,
    /// E-mail address of the actor at that time; null if the actor was not a person or the address has been
    /// erased.
    #[oai(nullable)]
    pub actor_email: Option<String>,
    /// Names of the account's fields that were changed.
    pub changed: Vec<String>,
    /// Number of sessions ended; null if unknown.
    #[oai(nullable)]
    pub sessions_ended: Option<u64>,
    /// When it happened.
    pub created_at: Time,
}

/// A page of actions by others on the caller's account, newest first.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "ActivityPage",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ActivityPage {
    /// The actions on this page.
    pub content: Vec<ActivityBody>,
    /// Number of actions on a full page.
    pub size: u32,
    /// The `cursor` of the next page; absent on the last one.
    pub next_cursor: Option<Uuid>,
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Sessions")]
impl ActivityApi {
    /// List what others did to the caller's account.
    ///
    /// Lists resets, changes and ended sessions by administrators, the operator or the appliance itself,
    /// including failed attempts: when, by whom, and with what result. The caller's own actions are not listed.
    #[oai(path = "/account/activity", method = "get", operation_id = "listActivity")]
    async fn list_activity(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        /// Maximum number of actions on the page.
        #[oai(
            default = "default_size",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        size: Query<u32>,
        /// The `nextCursor` of the previous page; absent for the first page.
        cursor: Query<Option<Uuid>>,
    ) -> Result<J<ActivityPage>, ApiErr<{ SECURED | S400 | S429 }>> {
        let (acts, more) = trail::list_activity(&services, &caller.0, cursor.0, size.0).await?;
        let next_cursor = acts.last().filter(|_| more).map(|act| act.id);
        Ok(J(ActivityPage {
            content: acts.into_iter().map(ActivityBody::from).collect(),
            size: size.0,
            next_cursor,
        }))
    }
}

fn default_size() -> u32 {
    20
}

impl From<Activity> for ActivityBody {
    fn from(act: Activity) -> Self {
        let (actor_type, actor_email) = match act.by {
            By::Colleague(email) => (ActorBody::User, email),
            By::Operator => (ActorBody::Operator, None),
            By::System => (ActorBody::System, None),
        };
        Self {
            id: act.id,
            event_type: act.event_type.as_str().to_owned(),
            result: act.result.as_str().to_owned(),
            awaits_approval: act.awaits_approval,
            actor_type,
            actor_email,
            changed: act.changed,
            sessions_ended: act.sessions_ended,
            created_at: Time(act.at),
        }
    }
}

impl Example for ActivityBody {
    fn example() -> Self {
        Self {
            id: Uuid::from_u128(0x019c_7063_9f40_7cc3_98c4_dc0c_0c07_398f),
            event_type: "USER_MFA_RESET".into(),
            result: "SUCCESS".into(),
            awaits_approval: false,
            actor_type: ActorBody::User,
            actor_email: Some("admin@acme.example".into()),
            changed: Vec::new(),
            sessions_ended: Some(2),
            created_at: Time(jiff::Timestamp::constant(1_771_410_600, 0)),
        }
    }
}
