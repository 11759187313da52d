//! Conversion between domain types and columns.

use jiff::Timestamp;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, Row};
use uuid::Uuid;

use crate::domain::account::{OrganizationId, Role, SessionId, SessionOrigin, SessionScope, UserId};
use crate::domain::policy::FactorKind;

/// A domain type that can be read from a column. For an `Option` use [`optional`].
pub(super) trait Column: Sized {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self>;
}

/// Reads a column of `row`.
pub(super) fn column<T: Column>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    T::from_column(row, index)
}

/// Reads a column that may be NULL.
pub(super) fn optional<T: Column>(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(index)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => T::from_column(row, index).map(Some),
    }
}

/// Returns whether a query by user id finds a row.
pub(super) fn exists(db: &Connection, sql: &str, user: UserId) -> rusqlite::Result<bool> {
    db.prepare_cached(sql)?.exists([user.0.as_bytes()])
}

/// A time's column value: milliseconds since 1970.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// A role's column value.
pub(super) fn role_text(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::HelpDesk => "help-desk",
        Role::OrgAdmin => "org-admin",
        Role::Operator => "operator",
    }
}

/// A factor kind's column value.
pub(super) fn factor_kind_text(kind: FactorKind) -> &'static str {
    match kind {
        FactorKind::Totp => "totp",
        FactorKind::Passkey => "passkey",
        FactorKind::RecoveryCodes => "recovery-codes",
    }
}

/// A session scope's column value.
pub(super) fn scope_text(scope: SessionScope) -> &'static str {
    match scope {
        SessionScope::Full => "full",
        SessionScope::Enrolment => "enrolment",
    }
}

/// A session origin's column value.
pub(super) fn origin_text(origin: SessionOrigin) -> &'static str {
    match origin {
        SessionOrigin::Login => "login",
        SessionOrigin::Minted => "minted",
        SessionOrigin::External => "external",
    }
}

impl Column for Timestamp {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        let ms: i64 = row.get(index)?;
        Self::from_millisecond(ms).map_err(|e| unreadable(index, Type::Integer, e))
    }
}

impl Column for Uuid {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        Ok(Self::from_bytes(row.get(index)?))
    }
}

impl Column for OrganizationId {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        column(row, index).map(Self)
    }
}

impl Column for UserId {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        column(row, index).map(Self)
    }
}

impl Column for SessionId {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        column(row, index).map(Self)
    }
}

impl Column for Role {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        match row.get_ref(index)?.as_str()? {
            "member" => Ok(Self::Member),
            "help-desk" => Ok(Self::HelpDesk),
            "org-admin" => Ok(Self::OrgAdmin),
            other => Err(unreadable(
                index,
                Type::Text,
                FromSqlError::Other(format!("role {other}").into()),
            )),
        }
    }
}

impl Column for FactorKind {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        let text = row.get_ref(index)?.as_str()?;
        let known = Self::ALL.into_iter().find(|kind| factor_kind_text(*kind) == text);
        known.ok_or_else(|| unknown(index, "kind of factor", text))
    }
}

impl Column for SessionScope {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        match row.get_ref(index)?.as_str()? {
            "full" => Ok(Self::Full),
            "enrolment" => Ok(Self::Enrolment),
            other => Err(unknown(index, "scope", other)),
        }
    }
}

impl Column for SessionOrigin {
    fn from_column(row: &Row<'_>, index: usize) -> rusqlite::Result<Self> {
        match row.get_ref(index)?.as_str()? {
            "login" => Ok(Self::Login),
            "minted" => Ok(Self::Minted),
            other => Err(unknown(index, "origin", other)),
        }
    }
}

fn unknown(index: usize, what: &str, text: &str) -> rusqlite::Error {
    unreadable(
        index,
        Type::Text,
        FromSqlError::Other(format!("{what} {text}").into()),
    )
}

/// The error for a stored value that this version can't read.
pub(super) fn unreadable(
    index: usize,
    r#type: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, r#type, Box::new(error))
}
