//! The trail on the wire (contract B5), and what lets a reader check it.

mod tail;

use std::sync::Arc;

use futures_util::stream::BoxStream;
use poem::web::Data;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::{EventStream, PlainText};
use poem_openapi::types::{Any, Example};
use poem_openapi::{Object, OpenApi};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{S400, S404, S429, SECURED};
use super::payload::J;
use super::plugins::DecisionsBody;
use super::principal::Reader;
use super::schema::Time;
use crate::domain::Error;
use crate::domain::account::Scope;
use crate::domain::audit::{Entry, Filter};
use crate::service::Services;
use crate::service::plugins;
use crate::service::trail::{self, Place, Query as TrailQuery};
use tail::{Tail, Told};

/// The trail.
pub struct AuditApi {
    tails: Arc<Semaphore>,
}

/// Tails open at a time, in the whole node.
const TAILS: usize = 64;
impl Default for AuditApi {
    fn default() -> Self {
        Self {
            tails: Arc::new(Semaphore::new(TAILS)),
        }
    }
}

/// An entry of the trail.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AuditLog", rename_all = "camelCase", example)]
pub struct AuditLogBody {
    /// Id.
    pub id: Uuid,
    /// What happened, upper snake case. New ones come with new versions.
    pub event_type: String,
    /// E-mail address of who did it, as it was then.
    #[oai(nullable)]
    pub actor_email: Option<String>,
    /// Kind of who did it: `USER`, `API_KEY`, `OPERATOR`, `SYSTEM` or `ANONYMOUS`.
    pub actor_type: String,
    /// Kind of what it was done to: `USER`, `ORGANIZATION`, `PLUGIN`, …
    #[oai(nullable)]
    pub resource_type: Option<String>,
    /// Id of what it was done to, which may not exist; null where the caller wrote no id.
    #[oai(nullable)]
    pub resource_id: Option<String>,
    /// Name of what it was done to, as it was then; where the caller wrote no id, what they wrote.
    #[oai(nullable)]
    pub resource_name: Option<String>,
    /// `SUCCESS`, `DENIED` or `FAILURE`.
    pub result: String,
    /// The client's address.
    #[oai(nullable)]
    pub ip_address: Option<String>,
    /// What the caller was told, where it ended badly.
    #[oai(nullable)]
    pub error_message: Option<String>,
    /// What else is known. `erased` names parts whose personal data was erased.
    pub details: Any<Map<String, Value>>,
    /// The organisation.
    pub organization_name: String,
    /// When: the same instant as the change it records.
    pub created_at: Time,
    /// Place in the trail of the node: the id of its event in a tail.
    #[oai(skip)]
    sequence: u64,
}

/// A page of the trail, newest first.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "AuditLogPage",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct AuditLogPage {
    /// The entries.
    pub content: Vec<AuditLogBody>,
    /// How many match in all. Absent when asked by cursor: counting would cost more than the page.
    pub total_elements: Option<u64>,
    /// How many pages that makes. Absent when asked by cursor.
    pub total_pages: Option<u64>,
    /// Which page this is, from 0. Absent when asked by cursor.
    pub number: Option<u32>,
    /// Entries in a full page.
    pub size: u32,
    /// The `cursor` of the next page, if this one is full.
    pub next_cursor: Option<String>,
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Audit")]
impl AuditApi {
    /// List audit entries.
    ///
    /// The organisation's entries, newest first. By `page` and `size`, or by `cursor`, which costs the
    /// same however far back it is and does not shift when entries are added. Requires the role
    /// `ORG_ADMIN`, or an API key with scope `audit:read`.
    #[oai(path = "/audit-logs", method = "get", operation_id = "listAuditLogs")]
    async fn list_audit_logs(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// Only this event type.
        #[oai(name = "eventType", validator(max_length = 100))]
        event_type: Query<Option<String>>,
        /// Only what this e-mail address did, as it was then.
        #[oai(name = "actorEmail", validator(max_length = 320))]
        actor_email: Query<Option<String>>,
        /// Only from this time on.
        from: Query<Option<Time>>,
        /// Only up to this time.
        to: Query<Option<Time>>,
        /// Page, from 0.
        #[oai(default)]
        page: Query<u32>,
        /// Entries in a page.
        #[oai(
            default = "default_size",
            validator(minimum(value = "1"), maximum(value = "1000"))
        )]
        size: Query<u32>,
        /// Instead of `page`: the `nextCursor` of the page before, or empty for the first.
        #[oai(validator(max_length = 100))]
        cursor: Query<Option<String>>,
    ) -> Result<J<AuditLogPage>, ApiErr<{ SECURED | S400 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        let query = TrailQuery {
            filter: Filter {
                event_type: None,
                actor_email: actor_email.0,
                from: from.0.map(|time| time.0),
                to: to.0.map(|time| time.0),
            },
            event_type: event_type.0,
            place: cursor.0.map_or(Place::Page(page.0), Place::After),
            size: size.0,
        };
        let found = trail::list_entries(&services, reading, query).await?;
        let name = &reading.organization().name;
        Ok(J(AuditLogPage {
            content: found
                .content
                .into_iter()
                .map(|entry| AuditLogBody::new(entry, name))
                .collect(),
            total_elements: found.total,
            total_pages: found.total.map(|total| total.div_ceil(u64::from(size.0))),
            number: found.total.map(|_| page.0),
            size: size.0,
            next_cursor: found.next,
        }))
    }

    /// Get an audit entry.
    ///
    /// Requires the role `ORG_ADMIN`, or an API key with
    /// scope `audit:read`.
    #[oai(path = "/audit-logs/:id", method = "get", operation_id = "getAuditLog")]
    async fn find_audit_log(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// The entry's id.
        id: Path<Uuid>,
    ) -> Result<J<AuditLogBody>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        let entry = trail::find_entry(&services, reading, id.0)?;
        Ok(J(AuditLogBody::new(entry, &reading.organization().name)))
    }

    /// Get what policies were asked and answered at an audit entry.
    ///
    /// The question, how the reset was to end, and each call: its answer or failure, what it logged and used up, and
    /// the configuration that it was made with. The entry has the outline of it and commits to the whole
    /// (`askedDigest`). It is kept for as long as decisions can be replayed, which is shorter than entries are: after
    /// that, and for entries at which no policy could be asked, it is not found. Requires the role `ORG_ADMIN`, or an
    /// API key with scope `audit:read`.
    #[oai(
        path = "/audit-logs/:id/decisions",
        method = "get",
        operation_id = "getAuditLogDecisions"
    )]
    async fn find_decisions(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// The entry's id.
        id: Path<Uuid>,
    ) -> Result<J<DecisionsBody>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        Ok(J(plugins::find_decisions(&services, reading, id.0).await?.into()))
    }

    /// Get the proof of an audit entry.
    ///
    /// The entry, the proof that it is in the trail, and a signed checkpoint of the trail, in one text
    /// (C2SP tlog-proof) that `latchkey audit check-receipt` and other tools check offline, given the
    /// log's key. Requires the role `ORG_ADMIN`, or an API key with
    /// scope `audit:read`.
    #[oai(
        path = "/audit-logs/:id/proof",
        method = "get",
        operation_id = "getAuditLogProof"
    )]
    async fn find_proof(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// The entry's id.
        id: Path<Uuid>,
    ) -> Result<PlainText<String>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        Ok(PlainText(trail::find_receipt(&services, reading, id.0).await?))
    }

    /// Get a checkpoint of the trail.
    ///
    /// How many entries there are in the whole node and the hash over all of them, signed (C2SP
    /// tlog-checkpoint). Keep one, and nothing that came before can be changed unnoticed. Requires the
    /// role `ORG_ADMIN`, or an API key with scope `audit:read`.
    #[oai(
        path = "/audit-logs/checkpoint",
        method = "get",
        operation_id = "getAuditCheckpoint"
    )]
    async fn checkpoint(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
    ) -> Result<PlainText<String>, ApiErr<{ SECURED | S429 }>> {
        reader.who.admit(&services, Scope::AuditRead)?;
        Ok(PlainText(trail::checkpoint(&services).await?.note))
    }

    /// Get the keys of the trail.
    ///
    /// The public keys under which checkpoints were signed, one a line, the one in use last (C2SP
    /// signed-note verifier keys). Compare them with what you were given another way. Requires the role
    /// `ORG_ADMIN`, or an API key with scope `audit:read`.
    #[oai(path = "/audit-logs/keys", method = "get", operation_id = "getAuditKeys")]
    async fn keys(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
    ) -> Result<PlainText<String>, ApiErr<{ SECURED | S429 }>> {
        reader.who.admit(&services, Scope::AuditRead)?;
        Ok(PlainText(trail::log_keys(&services).await?.to_string()))
    }

    /// Follow the trail.
    ///
    /// Server-sent events, one for each new entry of the organisation, `data` as in the list. The id of
    /// an event is its place in the trail; with `Last-Event-ID` the stream goes on after it, so that
    /// nothing is lost between two connections. The first event, and one now and then while there is no
    /// entry, has an id and no data: clients remember it and hand nothing on. It ends with the session,
    /// and after a quarter of an hour at the latest. Requires the role `ORG_ADMIN`, or an API key with
    /// scope `audit:read`.
    #[oai(path = "/audit-logs/tail", method = "get", operation_id = "tailAuditLogs")]
    async fn tail(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// The id of the last event that was received; without it, only new entries.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<u64>>,
    ) -> Result<EventStream<BoxStream<'static, Told>>, ApiErr<{ SECURED | S400 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        let organization_name = reading.organization().name.clone();
        let permit = Arc::clone(&self.tails)
            .try_acquire_owned()
            .map_err(|_| Error::Busy { retry_after_secs: 10 })?;
        let (next, known) = match last_event_id.0 {
            Some(last) => after(last).map(|next| (next, next))?,
            None => (trail::size(&services)?, 0),
        };
        Ok(tail::events(Tail {
            services: Arc::clone(&services),
            credential: reader.credential,
            organization_name,
            next,
            known,
            _permit: permit,
        }))
    }
}

/// The place after that of an event. None lies beyond 2^63: the document says `int64`.
fn after(last: u64) -> Result<u64, Error> {
    let last = i64::try_from(last)
        .map_err(|_| Error::Malformed("The parameter 'Last-Event-ID' is malformed".into()))?;
    Ok(last.saturating_add(1).unsigned_abs())
}

fn default_size() -> u32 {
    20
}

impl AuditLogBody {
    fn new(entry: Entry, organization_name: &str) -> Self {
        let event = entry.event;
        let (resource_type, resource_id, resource_name) = match event.resource {
            Some(resource) => (
                Some(resource.r#type),
                Some(resource.id).filter(|id| !id.is_empty()),
                resource.name,
            ),
            None => (None, None, None),
        };
        Self {
            id: entry.id,
            event_type: event.event_type.as_str().to_owned(),
            actor_email: event.actor.email,
            actor_type: event.actor.r#type.as_str().to_owned(),
            resource_type,
            resource_id,
            resource_name,
            result: event.result.as_str().to_owned(),
            ip_address: event.ip_address,
            error_message: event.error_message,
            details: Any(event.details),
            organization_name: organization_name.to_owned(),
            created_at: Time(entry.at),
            sequence: entry.sequence,
        }
    }
}

impl Example for AuditLogBody {
    fn example() -> Self {
        let details = json!({ "reason": "Lost phone, identity checked by video", "ticket": "HD-4711" });
        Self {
            id: Uuid::from_u128(0x019c_7063_9f40_7cc3_98c4_dc0c_0c07_398f),
            event_type: "USER_MFA_RESET".into(),
            actor_email: Some("admin@acme.example".into()),
            actor_type: "USER".into(),
            resource_type: Some("USER".into()),
            resource_id: Some("770e8400-e29b-41d4-a716-446655440004".into()),
            resource_name: Some("dev@acme.example".into()),
            result: "SUCCESS".into(),
            ip_address: Some("192.0.2.17".into()),
            error_message: None,
            details: Any(details.as_object().cloned().unwrap_or_default()),
            organization_name: "Acme Works".into(),
            created_at: Time(jiff::Timestamp::constant(1_771_410_600, 0)),
            sequence: 0,
        }
    }
}
