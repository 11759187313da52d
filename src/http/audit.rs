//! `/audit-logs`: the audit trail, and the proofs, checkpoints and keys with which a reader can check it.

mod tail;

use std::sync::Arc;

use futures_util::stream::BoxStream;
use poem::web::Data;
use poem_openapi::param::{Header, Path, Query};
use poem_openapi::payload::{EventStream, PlainText};
use poem_openapi::types::{Any, Example};
use poem_openapi::{Object, OpenApi};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Tag;
use super::error::ApiErr;
use super::error::answers::{S400, S404, S409, S429, SECURED};
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

/// Handlers of `/audit-logs`.
pub struct AuditApi;

/// An entry of the audit trail.
#[derive(Clone, Debug, Object)]
#[oai(rename = "AuditLog", rename_all = "camelCase", example)]
pub struct AuditLogBody {
    /// Id of the entry.
    pub id: Uuid,
    /// Event type in upper snake case, such as `USER_MFA_RESET`. New versions may add types.
    pub event_type: String,
    /// E-mail address of the actor at that time.
    #[oai(nullable)]
    pub actor_email: Option<String>,
    /// Kind of actor: `USER`, `API_KEY`, `OPERATOR`, `SYSTEM` or `ANONYMOUS`.
    pub actor_type: String,
    /// Kind of resource acted on: `USER`, `ORGANIZATION`, `PLUGIN`, …
    #[oai(nullable)]
    pub resource_type: Option<String>,
    /// Id of the resource, which may not exist; null if the caller sent no valid id.
    #[oai(nullable)]
    pub resource_id: Option<String>,
    /// Name of the resource at that time; if the caller sent no valid id, the text they sent.
    #[oai(nullable)]
    pub resource_name: Option<String>,
    /// Result: `SUCCESS`, `DENIED` or `FAILURE`.
    pub result: String,
    /// IP address of the client.
    #[oai(nullable)]
    pub ip_address: Option<String>,
    /// The error message that the caller received; null if there was none.
    #[oai(nullable)]
    pub error_message: Option<String>,
    /// Further facts about the event. `erased` names the parts whose personal data was erased.
    pub details: Any<Map<String, Value>>,
    /// Name of the organisation.
    pub organization_name: String,
    /// When it happened: the same instant as the change that it records.
    pub created_at: Time,
    /// Position in the node's trail, which is the id of its event in a tail.
    #[oai(skip)]
    sequence: u64,
}

/// A page of the audit trail, newest first.
#[derive(Clone, Debug, Object)]
#[oai(
    rename = "AuditLogPage",
    rename_all = "camelCase",
    skip_serializing_if_is_none
)]
pub struct AuditLogPage {
    /// The entries on this page.
    pub content: Vec<AuditLogBody>,
    /// Total number of matching entries. Absent with `cursor`: counting would cost more than the page.
    pub total_elements: Option<u64>,
    /// Total number of pages. Absent with `cursor`.
    pub total_pages: Option<u64>,
    /// Number of this page, from 0. Absent with `cursor`.
    pub number: Option<u32>,
    /// Number of entries on a full page.
    pub size: u32,
    /// The `cursor` of the next page; absent if this page is not full.
    pub next_cursor: Option<String>,
}

#[OpenApi(prefix_path = "/api/v1", tag = "Tag::Audit")]
impl AuditApi {
    /// List audit entries.
    ///
    /// Lists the organisation's entries, newest first, either by `page` and `size`, or by `cursor`, which costs
    /// the same at any depth and does not shift when entries are added. Requires the role `ORG_ADMIN`, or an
    /// API key with scope `audit:read`.
    #[oai(path = "/audit-logs", method = "get", operation_id = "listAuditLogs")]
    async fn list_audit_logs(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// Return only entries of this event type.
        #[oai(name = "eventType", validator(max_length = 100))]
        event_type: Query<Option<String>>,
        /// Return only entries whose actor had this e-mail address at that time.
        #[oai(name = "actorEmail", validator(max_length = 320))]
        actor_email: Query<Option<String>>,
        /// Return only entries from this time on.
        from: Query<Option<Time>>,
        /// Return only entries up to this time.
        to: Query<Option<Time>>,
        /// Page number, from 0.
        #[oai(default)]
        page: Query<u32>,
        /// Maximum number of entries on the page.
        #[oai(
            default = "default_size",
            validator(minimum(value = "1"), maximum(value = "1000"))
        )]
        size: Query<u32>,
        /// Instead of `page`: the `nextCursor` of the previous page, or empty for the first page.
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
        /// Id of the audit entry.
        id: Path<Uuid>,
    ) -> Result<J<AuditLogBody>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        let entry = trail::find_entry(&services, reading, id.0)?;
        Ok(J(AuditLogBody::new(entry, &reading.organization().name)))
    }

    /// Get the policy decisions of an audit entry.
    ///
    /// Returns the question that policies were asked, the intended outcome of the reset, and each call with its
    /// answer or failure, log, resource usage and configuration. The entry itself holds a summary and commits
    /// to the whole (`askedDigest`). Decisions are kept only as long as they can be replayed, which is shorter
    /// than entries are: after that, and for entries at which no policy could be asked, the answer is 404.
    /// Requires the role `ORG_ADMIN`, or an API key with scope `audit:read`.
    #[oai(
        path = "/audit-logs/:id/decisions",
        method = "get",
        operation_id = "getAuditLogDecisions"
    )]
    async fn find_decisions(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// Id of the audit entry.
        id: Path<Uuid>,
    ) -> Result<J<DecisionsBody>, ApiErr<{ SECURED | S400 | S404 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        Ok(J(plugins::find_decisions(&services, reading, id.0).await?.into()))
    }

    /// Get the inclusion proof of an audit entry.
    ///
    /// Returns the entry, the proof that it is in the trail, and a signed checkpoint of the trail, as one text
    /// (C2SP tlog-proof) that `latchkey audit check-receipt` and other tools can check offline, given the log's
    /// key. Requires the role `ORG_ADMIN`, or an API key with scope `audit:read`.
    #[oai(
        path = "/audit-logs/:id/proof",
        method = "get",
        operation_id = "getAuditLogProof"
    )]
    async fn find_proof(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// Id of the audit entry.
        id: Path<Uuid>,
    ) -> Result<PlainText<String>, ApiErr<{ SECURED | S400 | S404 | S409 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        Ok(PlainText(trail::find_receipt(&services, reading, id.0).await?))
    }

    /// Get a checkpoint of the audit trail.
    ///
    /// Returns the number of entries on the whole node and the hash over all of them, signed (C2SP
    /// tlog-checkpoint). Keeping one makes any later change to earlier entries detectable. Requires the role
    /// `ORG_ADMIN`, or an API key with scope `audit:read`.
    #[oai(
        path = "/audit-logs/checkpoint",
        method = "get",
        operation_id = "getAuditCheckpoint"
    )]
    async fn checkpoint(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
    ) -> Result<PlainText<String>, ApiErr<{ SECURED | S409 | S429 }>> {
        reader.who.admit(&services, Scope::AuditRead)?;
        Ok(PlainText(trail::checkpoint(&services).await?.note))
    }

    /// Get the public keys of the audit trail.
    ///
    /// Returns the public keys with which checkpoints were signed, one per line, the current one last (C2SP
    /// signed-note verifier keys). Compare them with the keys that you received another way. Requires the role
    /// `ORG_ADMIN`, or an API key with scope `audit:read`.
    #[oai(path = "/audit-logs/keys", method = "get", operation_id = "getAuditKeys")]
    async fn keys(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
    ) -> Result<PlainText<String>, ApiErr<{ SECURED | S409 | S429 }>> {
        reader.who.admit(&services, Scope::AuditRead)?;
        Ok(PlainText(trail::log_keys(&services).await?.to_string()))
    }

    /// Stream new audit entries.
    ///
    /// Sends a server-sent event for each new entry of the organisation, with `data` as in the list. The id of
    /// an event is its position in the trail; with `Last-Event-ID` the stream resumes after it, so that nothing
    /// is lost between two connections. The first event, and one from time to time while there are no entries,
    /// has an id and no data: clients remember the id and deliver nothing. The stream ends with the session,
    /// and after 15 minutes at the latest. Requires the role `ORG_ADMIN`, or an API key with scope
    /// `audit:read`.
    #[oai(path = "/audit-logs/tail", method = "get", operation_id = "tailAuditLogs")]
    async fn tail(
        &self,
        reader: Reader,
        services: Data<&Arc<Services>>,
        /// Id of the last event received. If absent, the stream starts with new entries.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<u64>>,
    ) -> Result<EventStream<BoxStream<'static, Told>>, ApiErr<{ SECURED | S400 | S429 }>> {
        let reading = reader.who.admit(&services, Scope::AuditRead)?;
        let organization_name = reading.organization().name.clone();
        let place = services.tails.take(reading.organization().id)?;
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
            _place: place,
        }))
    }
}

/// Returns the position after that of the event `last`. Positions are below 2^63, because the document says
/// `int64`.
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
