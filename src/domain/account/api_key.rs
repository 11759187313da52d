//! API keys: what they open, and the right to read as a type. A key reads; there is no scope with which
//! it changes anything.

use uuid::Uuid;

use super::{OrgAdmin, Organization, UserId};
use crate::domain::error::{Error, Result};

/// What an API key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The audit trail, its proofs and its tail (contract B5).
    AuditRead,
    /// The list of users.
    UsersRead,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 2] = [Self::AuditRead, Self::UsersRead];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuditRead => "audit:read",
            Self::UsersRead => "users:read",
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// Whoever shows a live API key.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    /// The key's id.
    pub id: Uuid,
    /// Who made it.
    pub created_by: UserId,
    /// Where it opens something.
    pub organization: Organization,
    /// What it opens.
    pub scopes: Vec<Scope>,
}

impl KeyHolder {
    /// The right to read what `scope` opens.
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

/// The right to read of one organisation, as a type: an admin's of it, or a key's with the scope.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a>(&'a Organization);

impl<'a> From<OrgAdmin<'a>> for Reading<'a> {
    fn from(OrgAdmin(principal): OrgAdmin<'a>) -> Self {
        Self(&principal.organization)
    }
}

impl Reading<'_> {
    /// Whose data may be read.
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
