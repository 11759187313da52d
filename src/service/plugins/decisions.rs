//! The questions and answers of policies at one reset, for readers of the trail: authors find the log of a failed
//! call, admins the configuration that decided.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::from_json;
use crate::domain::account::Reading;
use crate::domain::audit::Entry;
use crate::domain::{Error, Result};
use crate::plugin_host::DecisionRecord;
use crate::service::Services;
use crate::service::trail;
use crate::store::decisions::{self, DecisionRow};
use crate::store::{Connection, audit, configurations};

/// Everything kept with the audit entry of a reset.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decisions {
    /// Id of the entry.
    pub entry_id: Uuid,
    /// When the entry was made.
    pub at: Timestamp,
    /// The question that every policy was asked.
    pub question: Value,
    /// The outcome as the first `after-reset` call was shown it; absent if that hook was not asked.
    pub outcome: Option<Value>,
    /// All calls, in order.
    pub calls: Vec<DecidedCall>,
}

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct DecidedCall {
    /// The recorded call.
    #[serde(flatten)]
    pub record: DecisionRecord,
    /// The configuration that it was made with, as it was bound.
    pub config: Value,
}

/// Returns what is kept with an entry of the organisation's trail.
///
/// # Errors
/// [`Error::NotFound`], also if the entry does not record a reset or its decisions are past their retention.
pub async fn find_decisions(services: &Services, reading: Reading<'_>, entry: Uuid) -> Result<Decisions> {
    let entry = trail::find_entry(services, reading, entry)?;
    decisions_at(services, &entry).await
}

/// Like [`find_decisions`], for an entry of any organisation: for the operator.
///
/// # Errors
/// As [`find_decisions`].
pub(super) async fn find_decisions_anywhere(services: &Services, id: Uuid) -> Result<Decisions> {
    let entry = services.store.read(|db| audit::find_entry_anywhere(db, id))?;
    decisions_at(services, &entry.ok_or_else(|| not_found("Audit entry", id))?).await
}

/// Reads separately from other reads, since policies' answers may be long.
async fn decisions_at(services: &Services, entry: &Entry) -> Result<Decisions> {
    let (sequence, id) = (entry.sequence, entry.id);
    services
        .store
        .read_long(entry.event.organization_id, move |db| {
            let decided = decisions::find_decided(db, sequence)?
                .ok_or_else(|| not_found("Decisions of audit entry", id))?;
            let calls = decided.decisions.iter().map(|row| call(db, row));
            Ok(Decisions {
                entry_id: decided.entry_id,
                at: decided.at,
                question: from_json(&decided.asked.question)?,
                outcome: decided.asked.outcome.as_deref().map(from_json).transpose()?,
                calls: calls.collect::<Result<_>>()?,
            })
        })
        .await
}

fn call(db: &Connection, row: &DecisionRow) -> Result<DecidedCall> {
    let config = configurations::find_configuration(db, &row.config_digest)?;
    Ok(DecidedCall {
        record: from_json(&row.record)?,
        config: config.as_deref().map(from_json).transpose()?.unwrap_or_default(),
    })
}

fn not_found(what: &'static str, id: Uuid) -> Error {
    Error::NotFound {
        what,
        id: id.to_string(),
    }
}
