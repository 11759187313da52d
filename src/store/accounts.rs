//! Organisations and users.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use unicode_normalization::UnicodeNormalization as _;

use super::row::{column, millis, optional, role_text};
use crate::domain::account::{
    EnrolmentDue, Lock, Organization, OrganizationId, OrganizationSettings, Role, User, UserId,
};
use crate::domain::{Error, Result};

const ORGANIZATION: &str = "SELECT id, slug, name, settings, revision FROM organization";
/// Columns of [`user_from_row`], in its order; `user` must be the table's name or alias.
const USER: &str = "SELECT id, organization_id, email, name, role, active, locked_at, locked_reason, \
     enrolment_due_until, enrolment_code_expires_at, last_login_at, password_changed_at, created_at, \
     updated_at, revision, \
     EXISTS (SELECT 1 FROM factor f WHERE f.user_id = user.id AND f.suspended_at IS NULL \
             AND f.kind IN ('totp', 'passkey')) \
     FROM user";

/// Finds an organisation by id.
pub fn find_organization(db: &Connection, id: OrganizationId) -> Result<Option<Organization>> {
    let mut statement = db.prepare_cached(&format!("{ORGANIZATION} WHERE id = ?1"))?;
    Ok(statement
        .query_row([id.0.as_bytes()], organization_from_row)
        .optional()?)
}

/// Finds an organisation by slug.
pub fn find_organization_by_slug(db: &Connection, slug: &str) -> Result<Option<Organization>> {
    let mut statement = db.prepare_cached(&format!("{ORGANIZATION} WHERE slug = ?1"))?;
    Ok(statement.query_row([slug], organization_from_row).optional()?)
}

/// Lists all organisations, ordered by slug.
pub fn find_organizations(db: &Connection) -> Result<Vec<Organization>> {
    let mut statement = db.prepare_cached(&format!("{ORGANIZATION} ORDER BY slug"))?;
    Ok(statement
        .query_map([], organization_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Inserts an organisation.
///
/// # Errors
/// [`Error::Conflict`] when the slug or id is taken.
pub fn insert_organization(tx: &Connection, organization: &Organization, at: Timestamp) -> Result<()> {
    let settings = settings_text(&organization.settings)?;
    tx.prepare_cached(
        "INSERT INTO organization (id, slug, name, settings, revision, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5)",
    )?
    .execute(params![
        organization.id.0.as_bytes(),
        organization.slug,
        organization.name,
        settings,
        millis(at)
    ])
    .map_err(|e| {
        taken(
            e,
            format!("An organization with slug {} exists already", organization.slug),
        )
    })?;
    Ok(())
}

/// Replaces an organisation's settings.
pub fn update_settings(
    tx: &Connection,
    id: OrganizationId,
    settings: &OrganizationSettings,
    at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "UPDATE organization SET settings = ?2, updated_at = ?3, revision = revision + 1 WHERE id = ?1",
    )?
    .execute(params![id.0.as_bytes(), settings_text(settings)?, millis(at)])?;
    Ok(())
}

/// Finds a user by id in an organisation; a user of another organisation counts as none (invariant 8).
pub fn find_user(db: &Connection, organization: OrganizationId, id: UserId) -> Result<Option<User>> {
    let mut statement = db.prepare_cached(&format!("{USER} WHERE id = ?1 AND organization_id = ?2"))?;
    Ok(statement
        .query_row(params![id.0.as_bytes(), organization.0.as_bytes()], user_from_row)
        .optional()?)
}

/// Finds a user by id in any organisation, for tokens that name only their subject.
pub fn find_user_anywhere(db: &Connection, id: UserId) -> Result<Option<User>> {
    let mut statement = db.prepare_cached(&format!("{USER} WHERE id = ?1"))?;
    Ok(statement.query_row([id.0.as_bytes()], user_from_row).optional()?)
}

/// Finds a user by e-mail address in an organisation.
pub fn find_user_by_email(
    db: &Connection,
    organization: OrganizationId,
    email: &str,
) -> Result<Option<User>> {
    let mut statement =
        db.prepare_cached(&format!("{USER} WHERE organization_id = ?1 AND email_key = ?2"))?;
    Ok(statement
        .query_row(
            params![organization.0.as_bytes(), email_key(email)],
            user_from_row,
        )
        .optional()?)
}

/// Returns a page of an organisation's users whose e-mail address or name contains `query`, ordered by e-mail
/// address, and the total.
pub fn page_users(
    db: &Connection,
    organization: OrganizationId,
    query: Option<&str>,
    offset: u64,
    limit: u64,
) -> Result<(Vec<User>, u64)> {
    let pattern = query.map(|q| format!("%{}%", escape_like(&email_key(q))));
    // Without a pattern, SQLite counts and reads the index by e-mail address only.
    let filter = match pattern {
        None => "organization_id = ?1 AND ?2 IS NULL",
        Some(_) => "organization_id = ?1 AND (email_key LIKE ?2 ESCAPE '\\' OR name LIKE ?2 ESCAPE '\\')",
    };
    let total = db
        .prepare_cached(&format!("SELECT count(*) FROM user WHERE {filter}"))?
        .query_row(params![organization.0.as_bytes(), pattern], |row| {
            row.get::<_, u64>(0)
        })?;
    let users = db
        .prepare_cached(&format!(
            "{USER} WHERE {filter} ORDER BY email_key LIMIT ?3 OFFSET ?4"
        ))?
        .query_map(
            params![organization.0.as_bytes(), pattern, limit, offset],
            user_from_row,
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok((users, total))
}

/// Returns whether an organisation has an active, unlocked admin other than `besides`.
pub fn other_admin_exists(db: &Connection, organization: OrganizationId, besides: UserId) -> Result<bool> {
    let mut statement = db.prepare_cached(
        "SELECT 1 FROM user WHERE organization_id = ?1 AND role = 'org-admin' AND active = 1 \
         AND locked_at IS NULL AND id <> ?2",
    )?;
    Ok(statement.exists(params![organization.0.as_bytes(), besides.0.as_bytes()])?)
}

/// Lists the active admins of an organisation, ordered by e-mail address.
pub fn find_active_admins(db: &Connection, organization: OrganizationId) -> Result<Vec<User>> {
    let filter = "organization_id = ?1 AND role = 'org-admin' AND active = 1 ORDER BY email_key";
    let mut statement = db.prepare_cached(&format!("{USER} WHERE {filter}"))?;
    Ok(statement
        .query_map([organization.0.as_bytes()], user_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Inserts a user, with a password hash if there is a password.
///
/// Tokens of another issuer identify a user by address, so those issued before the user was created, perhaps to an
/// earlier holder of the address, are invalid. Their time of issue is in whole seconds, so `sessions_ended_at` is
/// the last millisecond before the second of the creation.
///
/// # Errors
/// [`Error::Conflict`] when the e-mail address is taken in the organisation.
pub fn insert_user(tx: &Connection, user: &User, password_hash: Option<&str>) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO user (id, organization_id, email, email_key, name, role, active, password_hash, \
         password_changed_at, created_at, updated_at, role_since, sessions_ended_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?10, ?10 - ?10 % 1000 - 1)",
    )?
    .execute(params![
        user.id.0.as_bytes(),
        user.organization_id.0.as_bytes(),
        user.email,
        email_key(&user.email),
        user.name,
        role_text(user.role),
        user.active,
        password_hash,
        user.password_changed_at.map(millis),
        millis(user.created_at),
        millis(user.updated_at),
    ])
    .map_err(|e| taken(e, format!("A user with e-mail {} exists already", user.email)))?;
    Ok(())
}

/// Updates the fields of a user that an admin may change.
pub fn update_user(
    tx: &Connection,
    id: UserId,
    name: Option<&str>,
    role: Role,
    active: bool,
    at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "UPDATE user SET name = ?2, role = ?3, active = ?4, updated_at = ?5, revision = revision + 1, \
         role_since = CASE WHEN role = ?3 THEN role_since ELSE ?5 END WHERE id = ?1",
    )?
    .execute(params![
        id.0.as_bytes(),
        name,
        role_text(role),
        active,
        millis(at)
    ])?;
    Ok(())
}

/// Finds when a user was given their current role.
pub fn find_role_since(db: &Connection, id: UserId) -> Result<Option<Timestamp>> {
    let mut statement = db.prepare_cached("SELECT role_since FROM user WHERE id = ?1")?;
    Ok(statement
        .query_row([id.0.as_bytes()], |row| column(row, 0))
        .optional()?)
}

/// Unlocks an account. With `due_until`, reopens an expired enrolment window until then, with a new code if one is
/// required: otherwise the next login would lock the account again.
pub fn update_unlocked(
    tx: &Connection,
    id: UserId,
    due_until: Option<Timestamp>,
    code: Option<([u8; 32], Timestamp)>,
    at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "UPDATE user SET locked_at = NULL, locked_reason = NULL, \
         enrolment_due_until = coalesce(?2, enrolment_due_until), \
         enrolment_code_hash = coalesce(?3, enrolment_code_hash), \
         enrolment_code_expires_at = coalesce(?4, enrolment_code_expires_at), \
         updated_at = ?5, revision = revision + 1 WHERE id = ?1",
    )?
    .execute(params![
        id.0.as_bytes(),
        due_until.map(millis),
        code.map(|(hash, _)| hash),
        code.map(|(_, until)| millis(until)),
        millis(at),
    ])?;
    Ok(())
}

/// Deletes a user and, by cascade, all their rows. Their audit entries stay.
pub fn delete_user(tx: &Connection, id: UserId) -> Result<()> {
    tx.prepare_cached("DELETE FROM user WHERE id = ?1")?
        .execute([id.0.as_bytes()])?;
    Ok(())
}

/// The fields that a reset sets on a user.
#[derive(Clone, Debug, Default)]
pub struct AfterReset {
    /// End of the window in which the password alone opens enrolment, if MFA is required.
    pub enrolment_due_until: Option<Timestamp>,
    /// Hash and expiry of the code required for enrolment.
    pub enrolment_code: Option<([u8; 32], Timestamp)>,
    /// Reason for locking the account, if a policy requires it.
    pub lock_reason: Option<String>,
}

/// Marks a user as reset, if still at `judged_revision`, and ends the sessions of another issuer's tokens issued
/// up to `at`. Sessions stored here are ended by [`super::sessions::delete_sessions`].
///
/// # Errors
/// [`Error::Stale`] when the user was changed since.
pub fn update_user_after_reset(
    tx: &Connection,
    id: UserId,
    judged_revision: i64,
    after: &AfterReset,
    at: Timestamp,
) -> Result<()> {
    let changed = tx
        .prepare_cached(
            "UPDATE user SET enrolment_due_until = ?3, enrolment_code_hash = ?4, \
             enrolment_code_expires_at = ?5, \
             locked_at = CASE WHEN ?6 IS NULL THEN locked_at ELSE ?7 END, \
             locked_reason = coalesce(?6, locked_reason), sessions_ended_at = ?7, updated_at = ?7, \
             revision = revision + 1 WHERE id = ?1 AND revision = ?2",
        )?
        .execute(params![
            id.0.as_bytes(),
            judged_revision,
            after.enrolment_due_until.map(millis),
            after.enrolment_code.map(|(hash, _)| hash),
            after.enrolment_code.map(|(_, until)| millis(until)),
            after.lock_reason,
            millis(at),
        ])?;
    if changed == 1 { Ok(()) } else { Err(Error::Stale) }
}

/// Locks an account, or unlocks it with `None`.
pub fn update_lock(tx: &Connection, id: UserId, lock: Option<&Lock>, at: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "UPDATE user SET locked_at = ?2, locked_reason = ?3, updated_at = ?4, revision = revision + 1 \
         WHERE id = ?1",
    )?
    .execute(params![
        id.0.as_bytes(),
        lock.map(|l| millis(l.at)),
        lock.map(|l| l.reason.as_str()),
        millis(at)
    ])?;
    Ok(())
}

/// Finds the revision of a user, to check in a transaction that an earlier decision still holds.
pub fn find_user_revision(db: &Connection, id: UserId) -> Result<Option<i64>> {
    let mut statement = db.prepare_cached("SELECT revision FROM user WHERE id = ?1")?;
    Ok(statement
        .query_row([id.0.as_bytes()], |row| row.get(0))
        .optional()?)
}

/// Finds the revision of an organisation.
pub fn find_organization_revision(db: &Connection, id: OrganizationId) -> Result<Option<i64>> {
    let mut statement = db.prepare_cached("SELECT revision FROM organization WHERE id = ?1")?;
    Ok(statement
        .query_row([id.0.as_bytes()], |row| row.get(0))
        .optional()?)
}

/// Returns whether any user of the organisation has an e-mail address in the same domain.
pub fn domain_is_known(db: &Connection, organization: OrganizationId, email: &str) -> Result<bool> {
    let key = email_key(email);
    let Some((_, domain)) = key.split_once('@') else {
        return Ok(false);
    };
    let mut statement = db.prepare_cached(
        "SELECT 1 FROM user WHERE organization_id = ?1 AND substr(email_key, instr(email_key, '@') + 1) = ?2",
    )?;
    Ok(statement.exists(params![organization.0.as_bytes(), domain])?)
}

/// Returns the normal form of an e-mail address for uniqueness and search: trimmed, NFKC, lower case.
#[must_use]
pub fn email_key(email: &str) -> String {
    email.trim().nfkc().collect::<String>().to_lowercase()
}

fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

fn settings_text(settings: &OrganizationSettings) -> Result<String> {
    serde_json::to_string(settings).map_err(|e| Error::Internal(format!("settings: {e}")))
}

/// Turns a violated constraint into [`Error::Conflict`], anything else into [`Error::Internal`].
fn taken(error: rusqlite::Error, message: String) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => Error::Conflict(message),
        _ => error.into(),
    }
}

fn organization_from_row(row: &Row<'_>) -> rusqlite::Result<Organization> {
    let settings: String = row.get(3)?;
    Ok(Organization {
        id: column(row, 0)?,
        slug: row.get(1)?,
        name: row.get(2)?,
        settings: serde_json::from_str(&settings)
            .map_err(|e| super::row::unreadable(3, rusqlite::types::Type::Text, e))?,
        revision: row.get(4)?,
    })
}

fn user_from_row(row: &Row<'_>) -> rusqlite::Result<User> {
    let lock = match optional::<Timestamp>(row, 6)? {
        Some(at) => Some(Lock {
            at,
            reason: row.get::<_, Option<String>>(7)?.unwrap_or_default(),
        }),
        None => None,
    };
    let code_until: Option<Timestamp> = optional(row, 9)?;
    Ok(User {
        id: column(row, 0)?,
        organization_id: column(row, 1)?,
        email: row.get(2)?,
        name: row.get(3)?,
        role: column(row, 4)?,
        active: row.get(5)?,
        locked: lock,
        enrolment_due: optional(row, 8)?.map(|until| EnrolmentDue {
            until,
            code_required: code_until.is_some(),
            code_until,
        }),
        last_login_at: optional(row, 10)?,
        password_changed_at: optional(row, 11)?,
        created_at: column(row, 12)?,
        updated_at: column(row, 13)?,
        revision: row.get(14)?,
        mfa_enabled: row.get(15)?,
    })
}
