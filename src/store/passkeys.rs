//! Passkeys. They are rows of the factor table like other kinds: a reset removes them with
//! [`super::factors::clear_factors`].

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails only when SQLite does, with Error::Internal"
)]

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::row::{column, millis, optional};
use crate::domain::Result;
use crate::domain::account::UserId;

/// A stored passkey.
#[derive(Clone, Debug)]
pub struct PasskeyRow {
    /// Id of the factor.
    pub id: Uuid,
    /// The credential, encrypted.
    pub sealed: Vec<u8>,
    /// SHA-256 of the credential id; unique among all users.
    pub credential_hash: [u8; 32],
    /// Name given by the user.
    pub name: String,
    /// The authenticator's signature counter at the last use.
    pub counter: u32,
    /// When it was registered.
    pub enrolled_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
    /// When a clone of it was detected; it has been unusable since.
    pub cloned_at: Option<Timestamp>,
}

/// Result of using a passkey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Its counter increased, or it is an authenticator that does not count.
    Used,
    /// Its counter did not increase: there is a clone of it.
    Cloned,
    /// It was removed, or is unusable.
    Gone,
}

/// Lists the user's active passkeys, oldest first.
pub fn find_passkeys(db: &Connection, user: UserId) -> Result<Vec<PasskeyRow>> {
    let mut statement = db.prepare_cached(
        "SELECT id, secret, credential_hash, label, last_step, enrolled_at, last_used_at, cloned_at \
         FROM factor WHERE user_id = ?1 AND kind = 'passkey' AND suspended_at IS NULL \
         ORDER BY enrolled_at, id",
    )?;
    Ok(statement
        .query_map([user.0.as_bytes()], passkey_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Returns whether any user has the credential, active or suspended.
pub fn credential_is_known(db: &Connection, credential_hash: &[u8; 32]) -> Result<bool> {
    let mut statement = db.prepare_cached("SELECT 1 FROM factor WHERE credential_hash = ?1")?;
    Ok(statement.exists([credential_hash])?)
}

/// Inserts a passkey.
pub fn insert_passkey(tx: &Connection, user: UserId, row: &PasskeyRow) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO factor (user_id, id, kind, secret, credential_hash, label, last_step, enrolled_at) \
         VALUES (?1, ?2, 'passkey', ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        user.0.as_bytes(),
        row.id.as_bytes(),
        row.sealed,
        row.credential_hash,
        row.name,
        row.counter,
        millis(row.enrolled_at),
    ])?;
    Ok(())
}

/// Records a use with the counter that the authenticator reported. A counter that does not increase indicates a
/// clone, except for authenticators that do not count and always report 0 (Web Authentication §7.2 step 22).
pub fn take_passkey(
    tx: &Connection,
    user: UserId,
    id: Uuid,
    counter: u32,
    sealed: &[u8],
    at: Timestamp,
) -> Result<Taken> {
    let used = tx
        .prepare_cached(
            "UPDATE factor SET last_step = ?3, secret = ?4, last_used_at = ?5 \
             WHERE user_id = ?1 AND id = ?2 AND suspended_at IS NULL AND cloned_at IS NULL \
             AND (last_step < ?3 OR (last_step = 0 AND ?3 = 0))",
        )?
        .execute(params![
            user.0.as_bytes(),
            id.as_bytes(),
            counter,
            sealed,
            millis(at)
        ])?;
    if used == 1 {
        return Ok(Taken::Used);
    }
    let mut live = tx.prepare_cached(
        "SELECT 1 FROM factor WHERE user_id = ?1 AND id = ?2 AND suspended_at IS NULL AND cloned_at IS NULL",
    )?;
    Ok(match live.exists(params![user.0.as_bytes(), id.as_bytes()])? {
        true => Taken::Cloned,
        false => Taken::Gone,
    })
}

/// Records that a passkey was cloned. Returns false if that was known, or the passkey is no longer active.
pub fn update_cloned(tx: &Connection, user: UserId, id: Uuid, at: Timestamp) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE factor SET cloned_at = ?3 \
             WHERE user_id = ?1 AND id = ?2 AND suspended_at IS NULL AND cloned_at IS NULL",
        )?
        .execute(params![user.0.as_bytes(), id.as_bytes(), millis(at)])?;
    Ok(changed == 1)
}

/// Deletes one of several passkeys; the last one is removed together with all other factors.
pub fn delete_passkey(tx: &Connection, user: UserId, id: Uuid) -> Result<()> {
    tx.prepare_cached(
        "DELETE FROM factor WHERE user_id = ?1 AND id = ?2 AND kind = 'passkey' AND suspended_at IS NULL",
    )?
    .execute(params![user.0.as_bytes(), id.as_bytes()])?;
    Ok(())
}

fn passkey_from_row(row: &Row<'_>) -> rusqlite::Result<PasskeyRow> {
    Ok(PasskeyRow {
        id: column(row, 0)?,
        sealed: row.get(1)?,
        credential_hash: row.get(2)?,
        name: row.get(3)?,
        counter: row.get(4)?,
        enrolled_at: column(row, 5)?,
        last_used_at: optional(row, 6)?,
        cloned_at: optional(row, 7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn row(id: u128, counter: u32) -> PasskeyRow {
        PasskeyRow {
            id: Uuid::from_u128(id),
            sealed: vec![1],
            credential_hash: [u8::try_from(id).unwrap(); 32],
            name: "Key".into(),
            counter,
            enrolled_at: AT,
            last_used_at: None,
            cloned_at: None,
        }
    }

    #[test]
    fn a_counter_goes_on_or_there_is_a_copy() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        insert_passkey(&db, alice, &row(1, 5)).unwrap();
        let id = Uuid::from_u128(1);
        let take = |user, counter| take_passkey(&db, user, id, counter, &[2], AT).unwrap();
        assert_eq!(take(bob, 9), Taken::Gone, "another user's");
        assert_eq!(take(alice, 6), Taken::Used);
        for counter in [6, 5, 0] {
            assert_eq!(take(alice, counter), Taken::Cloned, "{counter}");
        }
        let kept = &find_passkeys(&db, alice).unwrap()[0];
        assert_eq!(
            (kept.counter, kept.sealed.as_slice(), kept.last_used_at),
            (6, [2].as_slice(), Some(AT))
        );
        assert!(update_cloned(&db, alice, id, AT).unwrap());
        assert!(!update_cloned(&db, alice, id, AT).unwrap());
        assert_eq!(take(alice, 100), Taken::Gone, "unusable since it was cloned");
    }

    #[test]
    fn an_authenticator_that_does_not_count_shows_0_for_ever() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        insert_passkey(&db, alice, &row(1, 0)).unwrap();
        for _ in 0..2 {
            let taken = take_passkey(&db, alice, Uuid::from_u128(1), 0, &[2], AT);
            assert_eq!(taken.unwrap(), Taken::Used);
        }
    }

    #[test]
    fn a_credential_is_of_one_user_even_while_it_is_suspended() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        insert_passkey(&db, alice, &row(1, 0)).unwrap();
        super::super::factors::clear_factors(&db, alice, AT).unwrap();
        assert!(find_passkeys(&db, alice).unwrap().is_empty());
        assert!(credential_is_known(&db, &[1; 32]).unwrap());
        assert!(!credential_is_known(&db, &[2; 32]).unwrap());
        let mut same = row(2, 0);
        same.credential_hash = [1; 32];
        assert!(insert_passkey(&db, bob, &same).is_err());
    }
}
