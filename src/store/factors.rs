//! Second factors, and pending enrolments.
//!
//! A caller that changes a user's factors must call [`touch_user`] in the same transaction, to invalidate policy
//! decisions based on the old ones (invariant 3). A reset does so by itself.

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails only when SQLite does, with Error::Internal"
)]

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::row::{column, exists, millis, optional};
use crate::domain::Result;
use crate::domain::account::{OrganizationId, SessionId, UserId};
use crate::domain::policy::FactorFacts;

/// A stored TOTP factor.
#[derive(Clone, Debug)]
pub struct TotpRow {
    /// Id of the factor.
    pub id: Uuid,
    /// The secret, encrypted.
    pub sealed: Vec<u8>,
    /// Newest time step that was accepted (RFC 6238 §5.2).
    pub last_step: Option<u64>,
}

/// A stored set of recovery codes.
#[derive(Clone, Debug)]
pub struct RecoverySetRow {
    /// Id of the factor.
    pub id: Uuid,
    /// Salt of the codes' hashes.
    pub salt: [u8; 16],
}

/// A pending TOTP enrolment.
#[derive(Clone, Debug)]
pub struct EnrolmentRow {
    /// The secret that was shown, encrypted.
    pub sealed: Vec<u8>,
    /// When it can no longer be confirmed.
    pub expires_at: Timestamp,
}

/// Lists the user's active factors, oldest first.
pub fn find_factors(db: &Connection, user: UserId) -> Result<Vec<FactorFacts>> {
    let mut statement = db.prepare_cached(
        "SELECT kind, enrolled_at, last_used_at FROM factor \
         WHERE user_id = ?1 AND suspended_at IS NULL ORDER BY enrolled_at, id",
    )?;
    Ok(statement
        .query_map([user.0.as_bytes()], facts_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Finds the user's active TOTP factor.
pub fn find_totp(db: &Connection, user: UserId) -> Result<Option<TotpRow>> {
    let mut statement = db.prepare_cached(
        "SELECT id, secret, last_step FROM factor \
         WHERE user_id = ?1 AND kind = 'totp' AND suspended_at IS NULL",
    )?;
    let row = statement.query_row([user.0.as_bytes()], |row| {
        Ok(TotpRow {
            id: column(row, 0)?,
            sealed: row.get(1)?,
            last_step: row.get(2)?,
        })
    });
    Ok(row.optional()?)
}

/// Finds the user's active set of recovery codes.
pub fn find_recovery_set(db: &Connection, user: UserId) -> Result<Option<RecoverySetRow>> {
    let mut statement = db.prepare_cached(
        "SELECT id, secret FROM factor \
         WHERE user_id = ?1 AND kind = 'recovery-codes' AND suspended_at IS NULL",
    )?;
    let row = statement.query_row([user.0.as_bytes()], |row| {
        Ok(RecoverySetRow {
            id: column(row, 0)?,
            salt: row.get(1)?,
        })
    });
    Ok(row.optional()?)
}

/// Finds a session's pending enrolment that can still be confirmed at `at`.
pub fn find_enrolment(
    db: &Connection,
    user: UserId,
    session: SessionId,
    at: Timestamp,
) -> Result<Option<EnrolmentRow>> {
    let mut statement = db.prepare_cached(
        "SELECT secret, expires_at FROM enrolment WHERE user_id = ?1 AND session_id = ?2 AND expires_at > ?3",
    )?;
    let key = params![user.0.as_bytes(), session.0.as_bytes(), millis(at)];
    let row = statement.query_row(key, |row| {
        Ok(EnrolmentRow {
            sealed: row.get(0)?,
            expires_at: column(row, 1)?,
        })
    });
    Ok(row.optional()?)
}

/// Inserts a confirmed TOTP factor. `step` is the time step of the confirming code, which is thereby used up.
pub fn insert_totp(
    tx: &Connection,
    user: UserId,
    id: Uuid,
    sealed: &[u8],
    step: u64,
    at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO factor (user_id, id, kind, secret, last_step, enrolled_at) \
         VALUES (?1, ?2, 'totp', ?3, ?4, ?5)",
    )?
    .execute(params![
        user.0.as_bytes(),
        id.as_bytes(),
        sealed,
        step,
        millis(at)
    ])?;
    Ok(())
}

/// Replaces the user's set of recovery codes.
pub fn insert_recovery_set(
    tx: &Connection,
    user: UserId,
    set: &RecoverySetRow,
    hashes: &[[u8; 32]],
    at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "DELETE FROM factor WHERE user_id = ?1 AND kind = 'recovery-codes' AND suspended_at IS NULL",
    )?
    .execute([user.0.as_bytes()])?;
    tx.prepare_cached(
        "INSERT INTO factor (user_id, id, kind, secret, enrolled_at) \
         VALUES (?1, ?2, 'recovery-codes', ?3, ?4)",
    )?
    .execute(params![
        user.0.as_bytes(),
        set.id.as_bytes(),
        set.salt,
        millis(at)
    ])?;
    let mut insert =
        tx.prepare_cached("INSERT INTO recovery_code (user_id, factor_id, hash) VALUES (?1, ?2, ?3)")?;
    for hash in hashes {
        insert.execute(params![user.0.as_bytes(), set.id.as_bytes(), hash])?;
    }
    Ok(())
}

/// Stores the secret that a session was shown, replacing an earlier one of that session.
pub fn insert_enrolment(
    tx: &Connection,
    user: UserId,
    session: SessionId,
    sealed: &[u8],
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO enrolment (user_id, session_id, secret, created_at, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        user.0.as_bytes(),
        session.0.as_bytes(),
        sealed,
        millis(at),
        millis(expires_at)
    ])?;
    Ok(())
}

/// Uses up a time step of a TOTP factor. Returns false if this or a newer step was used before, or the factor is
/// no longer active.
pub fn take_totp_step(tx: &Connection, user: UserId, id: Uuid, step: u64, at: Timestamp) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE factor SET last_step = ?3, last_used_at = ?4 \
             WHERE user_id = ?1 AND id = ?2 AND suspended_at IS NULL \
             AND (last_step IS NULL OR last_step < ?3)",
        )?
        .execute(params![user.0.as_bytes(), id.as_bytes(), step, millis(at)])?;
    Ok(changed == 1)
}

/// Uses up a recovery code and returns how many are left; `None` if there is no such code or it was used before.
pub fn take_recovery_code(
    tx: &Connection,
    user: UserId,
    set: Uuid,
    hash: &[u8; 32],
    at: Timestamp,
) -> Result<Option<u32>> {
    let key = params![user.0.as_bytes(), set.as_bytes(), hash, millis(at)];
    let changed = tx
        .prepare_cached(
            "UPDATE recovery_code SET used_at = ?4 \
             WHERE user_id = ?1 AND factor_id = ?2 AND hash = ?3 AND used_at IS NULL \
             AND EXISTS (SELECT 1 FROM factor WHERE user_id = ?1 AND id = ?2 AND suspended_at IS NULL)",
        )?
        .execute(key)?;
    if changed == 0 {
        return Ok(None);
    }
    tx.prepare_cached("UPDATE factor SET last_used_at = ?3 WHERE user_id = ?1 AND id = ?2")?
        .execute(params![user.0.as_bytes(), set.as_bytes(), millis(at)])?;
    let left = tx
        .prepare_cached(
            "SELECT count(*) FROM recovery_code WHERE user_id = ?1 AND factor_id = ?2 AND used_at IS NULL",
        )?
        .query_row(params![user.0.as_bytes(), set.as_bytes()], |row| row.get(0))?;
    Ok(Some(left))
}

/// Removes all active factors of the user, of every kind, and returns them. This is the only function that removes
/// them all, so that no kind is forgotten (rubygems #6125). They are suspended: unusable, but an admin can restore
/// them until they are destroyed. Factors suspended earlier are left as they are, so that a second reset does not
/// affect what the first one removed.
pub fn clear_factors(tx: &Connection, user: UserId, at: Timestamp) -> Result<Vec<FactorFacts>> {
    // Read first: RETURNING gathers its rows in a temporary table, which costs twice as much.
    let mut statement = tx.prepare_cached(
        "SELECT kind, enrolled_at, last_used_at FROM factor WHERE user_id = ?1 AND suspended_at IS NULL",
    )?;
    let mut removed: Vec<FactorFacts> = statement
        .query_map([user.0.as_bytes()], facts_from_row)?
        .collect::<rusqlite::Result<_>>()?;
    tx.prepare_cached("UPDATE factor SET suspended_at = ?2 WHERE user_id = ?1 AND suspended_at IS NULL")?
        .execute(params![user.0.as_bytes(), millis(at)])?;
    removed.sort_by_key(|facts| (facts.enrolled_at, facts.kind));
    Ok(removed)
}

/// Lists the user's factors suspended at `since` or later, with the time of suspension, latest first.
pub fn find_suspended_factors(
    db: &Connection,
    user: UserId,
    since: Timestamp,
) -> Result<Vec<(FactorFacts, Timestamp)>> {
    let mut statement = db.prepare_cached(
        "SELECT kind, enrolled_at, last_used_at, suspended_at FROM factor \
         WHERE user_id = ?1 AND suspended_at >= ?2 ORDER BY suspended_at DESC, enrolled_at, id",
    )?;
    Ok(statement
        .query_map(params![user.0.as_bytes(), millis(since)], |row| {
            Ok((facts_from_row(row)?, column(row, 3)?))
        })?
        .collect::<rusqlite::Result<_>>()?)
}

/// Restores the factors that were suspended at `taken_at` and deletes all others. Returns the restored factors and
/// the active factors it deleted.
pub fn update_restored(
    tx: &Connection,
    user: UserId,
    taken_at: Timestamp,
) -> Result<(Vec<FactorFacts>, Vec<FactorFacts>)> {
    let destroyed = find_factors(tx, user)?;
    tx.prepare_cached("DELETE FROM factor WHERE user_id = ?1 AND suspended_at IS NOT ?2")?
        .execute(params![user.0.as_bytes(), millis(taken_at)])?;
    tx.prepare_cached("UPDATE factor SET suspended_at = NULL WHERE user_id = ?1")?
        .execute([user.0.as_bytes()])?;
    Ok((find_factors(tx, user)?, destroyed))
}

/// Deletes the user's factors that were suspended before `before`. Returns how many.
pub fn delete_suspended(tx: &Connection, user: UserId, before: Timestamp) -> Result<usize> {
    Ok(tx
        .prepare_cached("DELETE FROM factor WHERE user_id = ?1 AND suspended_at < ?2")?
        .execute(params![user.0.as_bytes(), millis(before)])?)
}

/// Deletes all pending enrolments of the user, in every session.
pub fn clear_enrolment(tx: &Connection, user: UserId) -> Result<()> {
    // There are hardly ever any, and looking costs less than an empty DELETE.
    if exists(tx, "SELECT 1 FROM enrolment WHERE user_id = ?1", user)? {
        tx.prepare_cached("DELETE FROM enrolment WHERE user_id = ?1")?
            .execute([user.0.as_bytes()])?;
    }
    Ok(())
}

/// Finds the hash and expiry of the code required for enrolment after a reset.
pub fn find_enrolment_code(db: &Connection, user: UserId) -> Result<Option<([u8; 32], Timestamp)>> {
    let mut statement = db.prepare_cached(
        "SELECT enrolment_code_hash, enrolment_code_expires_at FROM user \
         WHERE id = ?1 AND enrolment_code_hash IS NOT NULL",
    )?;
    Ok(statement
        .query_row([user.0.as_bytes()], |row| Ok((row.get(0)?, column(row, 1)?)))
        .optional()?)
}

/// Clears the enrolment that a reset required at the next login.
pub fn clear_enrolment_due(tx: &Connection, user: UserId) -> Result<()> {
    tx.prepare_cached(
        "UPDATE user SET enrolment_due_until = NULL, enrolment_code_hash = NULL, \
         enrolment_code_expires_at = NULL WHERE id = ?1",
    )?
    .execute([user.0.as_bytes()])?;
    Ok(())
}

/// Restricts the sessions of an organisation's users without a second factor to enrolment, until `until` at the
/// latest, when the organisation starts to require MFA. Tokens minted by the operator stay as they are. Returns
/// the number of restricted sessions.
pub fn update_sessions_without_factor(
    tx: &Connection,
    organization: OrganizationId,
    until: Timestamp,
) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "UPDATE session SET scope = 'enrolment', expires_at = min(expires_at, ?2) \
             WHERE scope = 'full' AND origin = 'login' \
             AND user_id IN (SELECT id FROM user WHERE organization_id = ?1) \
             AND NOT EXISTS (SELECT 1 FROM factor WHERE factor.user_id = session.user_id \
                             AND suspended_at IS NULL)",
        )?
        .execute(params![organization.0.as_bytes(), millis(until)])?)
}

/// Increments the user's revision, which invalidates policy decisions based on the earlier one.
pub fn touch_user(tx: &Connection, user: UserId, at: Timestamp) -> Result<()> {
    tx.prepare_cached("UPDATE user SET updated_at = ?2, revision = revision + 1 WHERE id = ?1")?
        .execute(params![user.0.as_bytes(), millis(at)])?;
    Ok(())
}

fn facts_from_row(row: &Row<'_>) -> rusqlite::Result<FactorFacts> {
    Ok(FactorFacts {
        kind: column(row, 0)?,
        enrolled_at: column(row, 1)?,
        last_used_at: optional(row, 2)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::FactorKind;
    use crate::store::expiry::{UserRange, find_suspended};
    use crate::store::row::factor_kind_text;
    use crate::store::testing;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn insert(tx: &Connection, user: UserId, kind: FactorKind, id: u128) {
        tx.execute(
            "INSERT INTO factor (user_id, id, kind, secret, enrolled_at) VALUES (?1, ?2, ?3, x'00', 0)",
            params![
                user.0.as_bytes(),
                Uuid::from_u128(id).as_bytes(),
                factor_kind_text(kind)
            ],
        )
        .expect("every kind can be kept");
    }

    #[test]
    fn clearing_forgets_no_kind_of_factor_and_no_other_user() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        for (i, kind) in FactorKind::ALL.into_iter().enumerate() {
            insert(&db, alice, kind, i as u128);
            insert(&db, bob, kind, i as u128);
        }
        let removed = clear_factors(&db, alice, AT).expect("cleared");
        let mut kinds: Vec<_> = removed.iter().map(|facts| facts.kind).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, FactorKind::ALL);
        assert_eq!(find_factors(&db, alice).unwrap(), []);
        assert_eq!(find_factors(&db, bob).unwrap().len(), FactorKind::ALL.len());
    }

    #[test]
    fn recovery_codes_go_with_their_set() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        let set = RecoverySetRow {
            id: Uuid::from_u128(1),
            salt: [1; 16],
        };
        insert_recovery_set(&db, alice, &set, &[[1; 32], [2; 32]], AT).unwrap();
        assert_eq!(
            take_recovery_code(&db, alice, set.id, &[1; 32], AT).unwrap(),
            Some(1)
        );
        assert_eq!(
            take_recovery_code(&db, alice, set.id, &[1; 32], AT).unwrap(),
            None,
            "once"
        );
        assert_eq!(
            take_recovery_code(&db, alice, set.id, &[3; 32], AT).unwrap(),
            None,
            "unknown"
        );
        clear_factors(&db, alice, AT).unwrap();
        assert_eq!(
            take_recovery_code(&db, alice, set.id, &[2; 32], AT).unwrap(),
            None
        );
        let codes = || {
            db.query_row("SELECT count(*) FROM recovery_code", [], |row| {
                row.get::<_, u32>(0)
            })
        };
        assert_eq!(codes().unwrap(), 2, "suspended");
        assert_eq!(find_suspended(&db, &UserRange::ALL, AT).unwrap(), []);
        let later = Timestamp::from_second(1).unwrap();
        assert_eq!(find_suspended(&db, &UserRange::ALL, later).unwrap(), [alice]);
        assert_eq!(delete_suspended(&db, alice, later).unwrap(), 1);
        assert_eq!(codes().unwrap(), 0, "destroyed");
    }

    #[test]
    fn what_was_taken_at_one_time_is_restored_and_all_else_is_destroyed() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        let at = |second| Timestamp::from_second(second).unwrap();
        insert(&db, bob, FactorKind::Totp, 9);
        for (id, second) in [(1, 10), (2, 20), (3, 30)] {
            insert(&db, alice, FactorKind::Totp, id);
            if second < 30 {
                assert_eq!(clear_factors(&db, alice, at(second)).unwrap().len(), 1);
            }
        }
        let taken: Vec<_> = find_suspended_factors(&db, alice, at(10)).unwrap();
        assert_eq!(
            taken.iter().map(|(_, at)| *at).collect::<Vec<_>>(),
            [at(20), at(10)]
        );
        assert_eq!(
            find_suspended_factors(&db, alice, at(11)).unwrap().len(),
            1,
            "the window"
        );
        let (restored, destroyed) = update_restored(&db, alice, at(10)).unwrap();
        assert_eq!((restored.len(), destroyed.len()), (1, 1));
        assert_eq!(find_totp(&db, alice).unwrap().unwrap().id, Uuid::from_u128(1));
        assert_eq!(find_suspended_factors(&db, alice, AT).unwrap(), []);
        assert_eq!(find_factors(&db, bob).unwrap().len(), 1);
    }

    #[test]
    fn a_step_is_taken_once_and_never_backwards() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        let id = Uuid::from_u128(1);
        insert_totp(&db, alice, id, &[0], 100, AT).unwrap();
        for (step, taken) in [(100, false), (101, true), (101, false), (100, false), (102, true)] {
            assert_eq!(
                take_totp_step(&db, alice, id, step, AT).unwrap(),
                taken,
                "step {step}"
            );
        }
        clear_factors(&db, alice, AT).unwrap();
        assert!(
            !take_totp_step(&db, alice, id, 103, AT).unwrap(),
            "the factor is gone"
        );
        insert_totp(&db, alice, Uuid::from_u128(2), &[0], 50, AT).unwrap();
        assert!(
            take_totp_step(&db, alice, Uuid::from_u128(2), 51, AT).unwrap(),
            "no memory of the old one"
        );
    }

    #[test]
    fn an_enrolment_lapses_and_is_replaced_by_its_session_alone() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        let later = Timestamp::from_second(60).unwrap();
        let (one, other) = (SessionId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)));
        let shown = |session| {
            find_enrolment(&db, alice, session, AT)
                .unwrap()
                .map(|row| row.sealed)
        };
        insert_enrolment(&db, alice, one, b"one", AT, later).unwrap();
        insert_enrolment(&db, alice, one, b"two", AT, later).unwrap();
        assert_eq!(shown(one).as_deref(), Some(&b"two"[..]));
        assert_eq!(shown(other), None);
        insert_enrolment(&db, alice, other, b"three", AT, later).unwrap();
        assert_eq!(shown(one).as_deref(), Some(&b"two"[..]), "each its own");
        assert!(find_enrolment(&db, alice, one, later).unwrap().is_none());
        clear_enrolment(&db, alice).unwrap();
        assert_eq!((shown(one), shown(other)), (None, None));
    }
}
