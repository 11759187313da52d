//! What the operator orders about the trail at the command line: carried out by whoever has the data directory,
//! the command itself or the server that runs.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::export::{Announcement, Claim, announce_export, sign_export};
use super::{checkpoint, find_receipt_anywhere, log_keys, rotate_key};
use crate::domain::audit::ActorRef;
use crate::domain::{Error, Result};
use crate::service::Services;

/// An order about the trail. What only reads is none: the command reads beside the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", rename_all_fields = "camelCase")]
#[expect(
    clippy::enum_variant_names,
    reason = "on the wire the names stand beside those of other orders"
)]
pub enum TrailOrder {
    /// Tell the public keys under which the trail was signed.
    AuditKeys,
    /// Sign the trail as it is now.
    AuditCheckpoint,
    /// Make the receipt of an entry.
    AuditProve {
        /// The entry's id.
        id: Uuid,
    },
    /// Record that an export begins, and sign what it holds.
    AuditExport(Announcement),
    /// Sign the end of an export.
    AuditExportEnd(Claim),
    /// Let a new key sign.
    AuditRotateKey,
}

impl TrailOrder {
    /// What the names of these orders begin with, and no other's.
    pub const PREFIX: &'static str = "audit-";
}

/// Carries an order out, on the record with the operator as its actor where it is one to be recorded.
///
/// # Errors
/// As what is ordered.
pub async fn carry_out_order(services: &Services, order: TrailOrder) -> Result<Value> {
    Ok(match order {
        TrailOrder::AuditKeys => Value::String(log_keys(services).await?.to_string()),
        TrailOrder::AuditCheckpoint => Value::String(checkpoint(services).await?.note),
        TrailOrder::AuditProve { id } => Value::String(find_receipt_anywhere(services, id).await?),
        TrailOrder::AuditExport(announced) => {
            let begun = announce_export(services, ActorRef::operator(), &announced).await?;
            to_value(&begun)?
        }
        TrailOrder::AuditExportEnd(claim) => Value::String(sign_export(services, &claim).await?),
        TrailOrder::AuditRotateKey => to_value(&rotate_key(services, ActorRef::operator()).await?)?,
    })
}

fn to_value(told: &impl Serialize) -> Result<Value> {
    serde_json::to_value(told).map_err(|e| Error::Internal(format!("JSON: {e}")))
}
