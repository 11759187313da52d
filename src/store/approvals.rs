//! Resets that wait for further admins.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::row::millis;
use crate::domain::Result;
use crate::domain::account::{OrganizationId, UserId};

/// A reset that waits for further admins.
#[derive(Clone, Debug)]
pub struct Approval {
    /// Id on the wire.
    pub id: Uuid,
    /// Where.
    pub organization_id: OrganizationId,
    /// Who asked.
    pub requester_id: UserId,
    /// On whom.
    pub target_id: UserId,
    /// The requester's reason.
    pub reason: Option<String>,
    /// The requester's ticket.
    pub ticket: Option<String>,
    /// Why a second admin is wanted.
    pub asked_because: String,
    /// How many further admins.
    pub needed: u8,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// Keeps an approval.
pub fn insert_approval(tx: &Connection, approval: &Approval) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO approval (id, organization_id, requester_id, target_id, reason, ticket, asked_because, \
         needed, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        approval.id.as_bytes(),
        approval.organization_id.0.as_bytes(),
        approval.requester_id.0.as_bytes(),
        approval.target_id.0.as_bytes(),
        approval.reason,
        approval.ticket,
        approval.asked_because,
        approval.needed,
        millis(approval.created_at),
        millis(approval.expires_at),
    ])?;
    Ok(())
}
