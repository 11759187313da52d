//! An in-memory database with two users, for tests of the store functions.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::migrations;
use crate::domain::account::UserId;

/// Returns an empty database with the current schema.
pub fn database() -> Connection {
    let mut db = Connection::open_in_memory().expect("in-memory database");
    db.pragma_update(None, "foreign_keys", true)
        .expect("foreign keys");
    migrations::run(&mut db).expect("migrates");
    db
}

/// Inserts two members of one organisation.
pub fn two_users(db: &Connection) -> (UserId, UserId) {
    let organization = Uuid::from_u128(0xA);
    db.execute(
        "INSERT INTO organization (id, slug, name, settings, created_at, updated_at) \
         VALUES (?1, 'acme', 'Acme', '{}', 0, 0)",
        [organization.as_bytes()],
    )
    .expect("organisation");
    let user = |id: u128, email: &str| {
        db.execute(
            "INSERT INTO user (id, organization_id, email, email_key, role, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?3, 'member', 0, 0)",
            params![Uuid::from_u128(id).as_bytes(), organization.as_bytes(), email],
        )
        .expect("user");
        UserId(Uuid::from_u128(id))
    };
    (user(1, "alice@example.org"), user(2, "bob@example.org"))
}
