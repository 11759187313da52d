//! The operator's orders about the trail from the command line, carried out by the process that owns the data
//! directory: the command itself or a running server.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::export::{Announcement, Claim, announce_export, sign_export};
use super::{checkpoint, find_receipt_anywhere, log_keys, rotate_key};
use crate::domain::audit::ActorRef;
use crate::domain::{Error, Result};
use crate::service::Services;

/// An order about the trail. Commands that only read need none: they read beside the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", rename_all_fields = "camelCase")]
#[expect(
    clippy::enum_variant_names,
    reason = "on the wire these names are mixed with those of other orders"
)]
pub enum TrailOrder {
    /// Return the public keys under which the trail was signed.
    AuditKeys,
    /// Sign a checkpoint over the trail as it is now.
    AuditCheckpoint,
    /// Return the receipt of an entry.
    AuditProve {
        /// The entry's id.
        id: Uuid,
    },
    /// Record that an export begins, and sign a checkpoint over its entries.
    AuditExport(Announcement),
    /// Sign the end of an export.
    AuditExportEnd(Claim),
    /// Replace the signing key by a new one.
    AuditRotateKey,
}

impl TrailOrder {
    /// The prefix of the names of these orders, and of no others.
    pub const PREFIX: &'static str = "audit-";
}

/// Carries out an order. Orders that are recorded have the operator as their actor.
///
/// # Errors
/// The error of the ordered operation.
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
