//! API keys: their scopes, and proof of the right to read. A key only reads; no scope permits changes.

use uuid::Uuid;

use super::{OrgAdmin, Organization, UserId};
use crate::domain::error::{Error, Result};

/// What an API key gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The audit trail: its entries, proofs and live tail.
    AuditRead,
    /// The list of users.
    UsersRead,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 2] = [Self::AuditRead, Self::UsersRead];

    /// Returns the name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuditRead => "audit:read",
            Self::UsersRead => "users:read",
        }
    }

    /// Returns the scope with that name.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// A caller with a valid API key.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    /// The key's id.
    pub id: Uuid,
    /// The admin who created it.
    pub created_by: UserId,
    /// The organisation that it gives access to.
    pub organization: Organization,
    /// Its scopes.
    pub scopes: Vec<Scope>,
}

impl KeyHolder {
    /// Returns the right to read what `scope` gives access to.
    ///
    /// # Errors
    /// [`Error::MissingScope`].
    pub fn reading(&self, scope: Scope) -> Result<Reading<'_>> {
        if !self.scopes.contains(&scope) {
            return Err(Error::MissingScope(scope.as_str()));
        }
        Ok(Reading(&self.organization))
    }
}

/// Proof of the right to read one organisation's data: that of its admin, or of a key with the scope.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a>(&'a Organization);

impl<'a> From<OrgAdmin<'a>> for Reading<'a> {
    fn from(OrgAdmin(principal): OrgAdmin<'a>) -> Self {
        Self(&principal.organization)
    }
}

impl Reading<'_> {
    /// Returns the organisation whose data may be read.
    #[must_use]
    pub fn organization(&self) -> &Organization {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_one_name_each_and_no_scope_writes() {
        for scope in Scope::ALL {
            assert_eq!(Scope::from_wire(scope.as_str()), Some(scope));
            assert!(scope.as_str().ends_with(":read"), "{scope:?}");
        }
        assert_eq!(Scope::from_wire("audit:write"), None);
    }
}
