//! The revisions that a reset's decision was based on, re-read in the transaction that carries it out.

use rusqlite::{Connection, params};

use super::bindings::PolicyRevision;
use crate::domain::Result;
use crate::domain::account::{OrganizationId, UserId};

/// The current revisions; `None` for a row that no longer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// Revision of the organisation.
    pub organization: Option<i64>,
    /// Revision of the acting admin.
    pub actor: Option<i64>,
    /// Revision of the user to be reset.
    pub target: Option<i64>,
    /// Revision of the policies.
    pub policies: PolicyRevision,
}

/// Reads all revisions in one statement: five would cost the writer three times as much.
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
