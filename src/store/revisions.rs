//! What a reset's decision rests on, read again in the transaction that carries it out.

use rusqlite::{Connection, params};

use super::bindings::PolicyRevision;
use crate::domain::Result;
use crate::domain::account::{OrganizationId, UserId};

/// The revisions now; `None` for what is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// Of the organisation.
    pub organization: Option<i64>,
    /// Of who acts.
    pub actor: Option<i64>,
    /// Of whom it is about.
    pub target: Option<i64>,
    /// Of the policies.
    pub policies: PolicyRevision,
}

/// All of them in one statement: five would cost the writer three times as much.
///
/// # Errors
/// [`crate::domain::Error::Internal`] when SQLite fails.
pub fn find_revisions(
    db: &Connection,
    organization: OrganizationId,
    actor: UserId,
    target: UserId,
) -> Result<Revisions> {
    let mut statement = db.prepare_cached(
        "SELECT (SELECT revision FROM organization WHERE id = ?1), \
         (SELECT revision FROM user WHERE id = ?2), (SELECT revision FROM user WHERE id = ?3), \
         coalesce((SELECT revision FROM policy_revision WHERE organization_id = x''), 0), \
         coalesce((SELECT revision FROM policy_revision WHERE organization_id = ?1), 0)",
    )?;
    let ids = params![organization.0.as_bytes(), actor.0.as_bytes(), target.0.as_bytes()];
    Ok(statement.query_row(ids, |row| {
        Ok(Revisions {
            organization: row.get(0)?,
            actor: row.get(1)?,
            target: row.get(2)?,
            policies: PolicyRevision {
                node: row.get(3)?,
                organization: row.get(4)?,
            },
        })
    })?)
}
