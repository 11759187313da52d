//! Approvals: actions that wait, or waited, for further admins.

use jiff::Timestamp;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::audit::entry_exists;
use super::row::{column, millis, optional, role_text, unreadable};
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::approval::{Approval, ApprovalState};
use crate::domain::audit::{EventType, mentions};
use crate::domain::{Error, Result};

const APPROVAL: &str = "SELECT id, organization_id, requester_id, target_id, wanted, reason, ticket, \
     asked_because, authenticated_at, second_factor_used, needed, approved_by, state, created_at, expires_at, \
     ended_at, requester_role FROM approval";

/// Maximum number of open approvals per requester: the other admins are notified of each.
pub const OPEN_PER_REQUESTER: u32 = 20;

/// Inserts an approval.
///
/// # Errors
/// [`Error::Conflict`] if its requester has [`OPEN_PER_REQUESTER`] open ones.
pub fn insert_approval(tx: &Connection, approval: &Approval) -> Result<()> {
    let open: u32 = tx.prepare_cached(OPEN)?.query_row(
        params![approval.requester_id.0.as_bytes(), millis(approval.created_at)],
        |row| row.get(0),
    )?;
    if open >= OPEN_PER_REQUESTER {
        return Err(Error::Conflict(format!(
            "You have {open} open approval requests, the most allowed; withdraw some, or have another administrator \
             decide them"
        )));
    }
    tx.prepare_cached(
        "INSERT INTO approval (id, organization_id, requester_id, target_id, wanted, reason, ticket, \
         asked_because, authenticated_at, second_factor_used, needed, created_at, expires_at, \
         requester_role) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        approval.id.as_bytes(),
        approval.organization_id.0.as_bytes(),
        approval.requester_id.0.as_bytes(),
        approval.target_id.0.as_bytes(),
        to_json(&approval.wanted)?,
        approval.reason,
        approval.ticket,
        approval.asked_because,
        millis(approval.authenticated_at),
        approval.second_factor_used,
        approval.needed,
        millis(approval.created_at),
        millis(approval.expires_at),
        role_text(approval.requester_role),
    ])?;
    Ok(())
}

/// Counts a requester's open approvals. The `+` makes SQLite use the index on the requester instead of
/// `approval_open`, which holds everybody's.
const OPEN: &str =
    "SELECT count(*) FROM approval WHERE requester_id = ?1 AND +state = 'open' AND expires_at > ?2";

/// Finds an approval of an organisation by id.
pub fn find_approval(db: &Connection, organization: OrganizationId, id: Uuid) -> Result<Option<Approval>> {
    let mut statement = db.prepare_cached(&format!("{APPROVAL} WHERE id = ?1 AND organization_id = ?2"))?;
    Ok(statement
        .query_row(params![id.as_bytes(), organization.0.as_bytes()], from_row)
        .optional()?)
}

/// Returns whether `by` created that account, unlocked it, reset its password or second factors, or restored its
/// factors, or approved one of these, after `since` and not after `until`. Read from the trail, whose entries are
/// written with the change and kept for longer.
pub fn had_in_hand(
    db: &Connection,
    account: UserId,
    by: UserId,
    since: Timestamp,
    until: Timestamp,
) -> Result<bool> {
    let mut statement = db.prepare_cached(&format!("{DONE_TO_BY} AND at <= ?5 AND {TAKES_IN_HAND}"))?;
    let (account, name) = (account.0.as_bytes(), by.to_string());
    Ok(statement.exists(params![
        account,
        by.0.as_bytes(),
        millis(since),
        name,
        millis(until)
    ])?)
}

/// Returns whether `by` changed that account's role, or approved such a change, after `since`.
pub fn gave_role(db: &Connection, account: UserId, by: UserId, since: Timestamp) -> Result<bool> {
    let mut statement = db.prepare_cached(&format!(
        "{DONE_TO_BY} AND event_type = 'USER_UPDATE' AND details -> '$.changes.role' IS NOT NULL"
    ))?;
    let (account, name) = (account.0.as_bytes(), by.to_string());
    Ok(statement.exists(params![account, by.0.as_bytes(), millis(since), name])?)
}

/// Returns whether, at `since` or later, somebody else reset that account's password or second factors, restored
/// its factors, ended its sessions or deactivated it, or its user reported "not me".
pub fn was_recovered(
    db: &Connection,
    organization: OrganizationId,
    account: UserId,
    since: Timestamp,
) -> Result<bool> {
    let mut statement = db.prepare_cached(RECOVERED)?;
    Ok(statement.exists(params![account.0.as_bytes(), millis(since)])?
        || entry_exists(db, organization, EventType::UserReport, account.0, since)?)
}

/// The conditions match the partial index `audit_entry_by_subject`.
const RECOVERED: &str = "SELECT 1 FROM audit_entry WHERE resource_id = ?1 AND at >= ?2 AND resource_type = 'USER' \
     AND actor_type <> 'ANONYMOUS' AND actor_id IS NOT resource_id AND result = 'SUCCESS' AND (event_type IN \
     ('USER_PASSWORD_RESET', 'USER_MFA_RESET', 'USER_FACTORS_RESTORE', 'USER_SESSIONS_END') \
     OR event_type = 'USER_UPDATE' AND details ->> '$.changes.isActive.to' = 0)";

/// What another user did to an account or approved; the conditions match the partial index
/// `audit_entry_by_subject`. An entry's actor is the requester, but where no mail is sent, the link or code is
/// shown to the approver.
const DONE_TO_BY: &str = "SELECT 1 FROM audit_entry WHERE resource_id = ?1 AND at > ?3 AND resource_type = 'USER' \
     AND actor_type <> 'ANONYMOUS' AND actor_id IS NOT resource_id AND result = 'SUCCESS' AND (actor_id = ?2 \
     OR EXISTS (SELECT 1 FROM json_each(details, '$.approvedBy') WHERE value = ?4))";

/// Operations after which somebody may be able to act as the account's holder. Unlocking is one: it opens the
/// enrolment window and shows a new code where one is required. The names of the changes are those of
/// `service/users/change.rs`.
const TAKES_IN_HAND: &str = "(event_type IN ('USER_CREATE', 'USER_PASSWORD_RESET', 'USER_MFA_RESET', \
     'USER_FACTORS_RESTORE') OR event_type = 'USER_UPDATE' AND coalesce(details -> '$.changes.enrolmentCode', \
     details -> '$.changes.enrolmentWindow', details -> '$.changes.locked') IS NOT NULL)";

/// Returns a page of an organisation's approvals, newest first, and the total; with `state`, only those that are
/// in that state at `at`.
pub fn page_approvals(
    db: &Connection,
    organization: OrganizationId,
    state: Option<ApprovalState>,
    at: Timestamp,
    offset: u64,
    limit: u64,
) -> Result<(Vec<Approval>, u64)> {
    let filter = "organization_id = ?1 AND (?2 IS NULL OR ?2 = \
         CASE WHEN state = 'open' AND expires_at <= ?3 THEN 'expired' ELSE state END)";
    let state = state.map(ApprovalState::as_str);
    let total = db
        .prepare_cached(&format!("SELECT count(*) FROM approval WHERE {filter}"))?
        .query_row(params![organization.0.as_bytes(), state, millis(at)], |row| {
            row.get::<_, u64>(0)
        })?;
    let approvals = db
        .prepare_cached(&format!(
            "{APPROVAL} WHERE {filter} ORDER BY created_at DESC, id DESC LIMIT ?4 OFFSET ?5"
        ))?
        .query_map(
            params![organization.0.as_bytes(), state, millis(at), limit, offset],
            from_row,
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok((approvals, total))
}

/// Finds up to 100 open approvals that have expired at `at`.
pub fn find_lapsed(db: &Connection, at: Timestamp) -> Result<Vec<Approval>> {
    let mut statement = db.prepare_cached(&format!(
        "{APPROVAL} WHERE state = 'open' AND expires_at <= ?1 ORDER BY expires_at LIMIT 100"
    ))?;
    Ok(statement
        .query_map([millis(at)], from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Records who has approved and how many are needed, if the approval is unchanged since it was read.
///
/// # Errors
/// [`Error::Stale`] when it was changed since.
pub fn update_agreement(tx: &Connection, read: &Approval, approved_by: &[UserId], needed: u8) -> Result<()> {
    let changed = tx
        .prepare_cached(
            "UPDATE approval SET approved_by = ?3, needed = ?4 \
             WHERE id = ?1 AND approved_by = ?2 AND state = 'open'",
        )?
        .execute(params![
            read.id.as_bytes(),
            to_json(&read.approved_by)?,
            to_json(&approved_by)?,
            needed
        ])?;
    if changed == 1 { Ok(()) } else { Err(Error::Stale) }
}

/// Ends an approval, if it is unchanged since it was read.
///
/// # Errors
/// [`Error::Stale`] when it was changed since.
pub fn update_state(
    tx: &Connection,
    read: &Approval,
    state: ApprovalState,
    approved_by: &[UserId],
    at: Timestamp,
) -> Result<()> {
    let changed = tx
        .prepare_cached(
            "UPDATE approval SET state = ?3, approved_by = ?4, ended_at = ?5 \
             WHERE id = ?1 AND approved_by = ?2 AND state = 'open'",
        )?
        .execute(params![
            read.id.as_bytes(),
            to_json(&read.approved_by)?,
            state.as_str(),
            to_json(&approved_by)?,
            millis(at)
        ])?;
    if changed == 1 { Ok(()) } else { Err(Error::Stale) }
}

/// Finds up to 500 approvals that ended before `before`.
pub fn find_ended(db: &Connection, before: Timestamp) -> Result<Vec<Uuid>> {
    Ok(db
        .prepare_cached("SELECT id FROM approval WHERE ended_at < ?1 LIMIT 500")?
        .query_map([millis(before)], |row| column(row, 0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Deletes an organisation's approvals that ended before `before`, along with the audit entries of that time.
pub fn clear_ended_before(tx: &Connection, organization: OrganizationId, before: Timestamp) -> Result<()> {
    tx.prepare_cached("DELETE FROM approval WHERE organization_id = ?1 AND ended_at < ?2")?
        .execute(params![organization.0.as_bytes(), millis(before)])?;
    Ok(())
}

/// Finds an organisation's approvals requested by or about a user, or whose text mentions one of the user's
/// addresses.
pub fn find_about(
    db: &Connection,
    organization: OrganizationId,
    user: UserId,
    addresses: &[String],
) -> Result<Vec<Uuid>> {
    let mut statement = db.prepare_cached(
        "SELECT id, requester_id = ?2 OR target_id = ?2, \
           concat_ws(' ', reason, ticket, asked_because, wanted) FROM approval WHERE organization_id = ?1",
    )?;
    let mut rows = statement.query(params![organization.0.as_bytes(), user.0.as_bytes()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get(1)? || mentions(row.get_ref(2)?.as_str().unwrap_or_default(), addresses) {
            found.push(column(row, 0)?);
        }
    }
    Ok(found)
}

/// Deletes the ended ones of these approvals, and the requester's reason and ticket in the others. Returns the
/// number of deleted approvals.
pub fn forget(tx: &Connection, approvals: &[Uuid]) -> Result<usize> {
    let mut delete = tx.prepare_cached("DELETE FROM approval WHERE id = ?1 AND ended_at IS NOT NULL")?;
    let mut blank = tx.prepare_cached("UPDATE approval SET reason = NULL, ticket = NULL WHERE id = ?1")?;
    let mut forgotten = 0;
    for id in approvals {
        let deleted = delete.execute([id.as_bytes()])?;
        if deleted == 0 {
            blank.execute([id.as_bytes()])?;
        }
        forgotten += deleted;
    }
    Ok(forgotten)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Approval> {
    Ok(Approval {
        id: column(row, 0)?,
        organization_id: column(row, 1)?,
        requester_id: column(row, 2)?,
        target_id: column(row, 3)?,
        wanted: from_json(row, 4)?,
        reason: row.get(5)?,
        ticket: row.get(6)?,
        asked_because: row.get(7)?,
        authenticated_at: column(row, 8)?,
        second_factor_used: row.get(9)?,
        needed: row.get(10)?,
        approved_by: from_json(row, 11)?,
        state: state(row, 12)?,
        created_at: column(row, 13)?,
        expires_at: column(row, 14)?,
        ended_at: optional(row, 15)?,
        requester_role: column(row, 16)?,
    })
}

fn state(row: &Row<'_>, index: usize) -> rusqlite::Result<ApprovalState> {
    let text = row.get_ref(index)?.as_str()?;
    let known = ApprovalState::ALL
        .into_iter()
        .find(|state| state.as_str() == text);
    known.ok_or_else(|| {
        let problem = FromSqlError::Other(format!("state {text}").into());
        unreadable(index, Type::Text, problem)
    })
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(index)?.as_str()?).map_err(|e| unreadable(index, Type::Text, e))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(format!("JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_is_about_one_account_is_found_by_its_index() {
        let db = testing::database();
        let by_subject = "audit_entry USING INDEX audit_entry_by_subject (resource_id=?)";
        for (sql, index) in [
            (&*format!("{DONE_TO_BY} AND {TAKES_IN_HAND}"), by_subject),
            (RECOVERED, by_subject),
            (
                OPEN,
                "approval USING INDEX approval_by_requester (requester_id=?)",
            ),
        ] {
            let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan: Vec<String> = statement
                .raw_query()
                .mapped(|row| row.get("detail"))
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            let plan = plan.join("\n");
            assert!(plan.contains(index), "{plan}");
            assert!(!plan.contains("SCAN a"), "{plan}");
        }
    }
}
