//! What others did to one's own account, on the wire.

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

/// What others did to one's own account.
pub struct ActivityApi;

/// Who acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "ActivityActor", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActorBody {
    /// Somebody of the organisation.
    User,
    /// Whoever operates the appliance.
    Operator,
    /// The appliance itself.
    System,
}

/// Something that was done to the caller's account.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Activity", rename_all = "camelCase", example)]
pub struct ActivityBody {
    /// Id; administrators find the entry of the trail by it.
    pub id: Uuid,
    /// What happened, as in the audit log.
    pub event_type: String,
    /// `SUCCESS`, `DENIED` or `FAILURE`.
    pub result: String,
    /// It was only asked for: another administrator has or had to agree.
    pub awaits_approval: bool,
    /// Kind of who did it.
    pub actor_type: ActorBody,
    /// E-mail address of who did it, as it was then; null where that was not a person or was erased.
    #[oai(nullable)]
    pub actor_email: Option<String>,
    /// Fields of the account that were changed.
    pub changed: Vec<String>,
    /// How many sessions were ended; null where that is not known.
    #[oai(nullable)]
    pub sessions_ended: Option<u64>,
    /// When.
    pub created_at: Time,
}

/// A page of what others did to the caller's account, newest first.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "ActivityPage",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct ActivityPage {
    /// The acts.
    pub content: Vec<ActivityBody>,
    /// Acts in a full page.
    pub size: u32,
    /// The `cursor` of the next page, if there is one.
    pub next_cursor: Option<Uuid>,
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Sessions")]
impl ActivityApi {
    /// List what others did to one's own account.
    ///
    /// Resets, changes, ended sessions, by administrators, the operator or the appliance, tried ones
    /// included: when, how it ended and who it was. What one did oneself is not in it.
    #[oai(path = "/account/activity", method = "get", operation_id = "listActivity")]
    async fn list_activity(
        &self,
        caller: Caller,
        services: Data<&Arc<Services>>,
        /// Acts in a page.
        #[oai(
            default = "default_size",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        size: Query<u32>,
        /// The `nextCursor` of the page before.
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
