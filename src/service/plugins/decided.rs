//! What policies were asked at one reset and what they answered, for whoever may read the trail: authors find the log
//! of a call that failed, admins the configuration that decided.

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
use crate::store::{Connection, audit, bindings};

/// All that is kept with the entry of a reset.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decisions {
    /// The entry.
    pub entry_id: Uuid,
    /// When it was made.
    pub at: Timestamp,
    /// What every policy was asked.
    pub question: Value,
    /// How the reset was to end, as `after-reset` was shown it first, where that hook was asked.
    pub outcome: Option<Value>,
    /// Each call, in order.
    pub calls: Vec<DecidedCall>,
}

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct DecidedCall {
    /// What is kept of it.
    #[serde(flatten)]
    pub record: DecisionRecord,
    /// The configuration that it was made with, as it was bound.
    pub config: Value,
}

/// What is kept with an entry of the organisation's trail.
///
/// # Errors
/// [`Error::NotFound`], also where the entry tells of no reset or what was kept has lapsed.
pub async fn find_decisions(services: &Services, reading: Reading<'_>, entry: Uuid) -> Result<Decisions> {
    let entry = trail::find_entry(services, reading, entry)?;
    decisions_at(services, &entry).await
}

/// The same, whosever entry it is: for the operator.
///
/// # Errors
/// As [`find_decisions`].
pub(super) async fn find_decisions_anywhere(services: &Services, id: Uuid) -> Result<Decisions> {
    let entry = services.store.read(|db| audit::find_entry_anywhere(db, id))?;
    decisions_at(services, &entry.ok_or_else(|| not_found("Audit entry", id))?).await
}

/// Apart from other reads: what policies said may be long.
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
    let config = bindings::find_configuration(db, &row.config_digest)?;
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
