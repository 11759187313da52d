//! One-use tokens, stored by hash: pending logins, invitations, links in notices, passkey ceremonies.

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails only when SQLite does, with Error::Internal"
)]

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::row::{column, exists, millis};
use super::sessions::clear_lapsed_logins;
use crate::domain::Result;
use crate::domain::account::UserId;

/// What a one-use token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A login that waits for its second factor.
    Mfa,
    /// Replacing an expired password.
    PasswordChange,
    /// Setting the first password, or a new one after an admin's reset.
    Invitation,
    /// Reporting that a change of the user's credentials was not their own.
    NotMe,
    /// A session's pending registration of a passkey.
    PasskeyRegistration,
    /// A session's pending step-up with a passkey.
    PasskeyStepUp,
}

/// A stored one-use token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeRow {
    /// Number of attempts with a wrong code.
    pub attempts: u32,
    /// Opaque state of the flow that created it.
    pub state: Option<Vec<u8>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Inserts a one-use token by its hash, and deletes the user's expired sessions, logins in progress and
/// enrolments.
pub fn insert_challenge(
    tx: &Connection,
    user: UserId,
    hash: &[u8; 32],
    purpose: Purpose,
    state: Option<&[u8]>,
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    clear_lapsed_logins(tx, user, at)?;
    tx.prepare_cached(
        "INSERT INTO challenge (user_id, hash, purpose, state, created_at, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        user.0.as_bytes(),
        hash,
        purpose_text(purpose),
        state,
        millis(at),
        millis(expires_at)
    ])?;
    Ok(())
}

/// Finds a one-use token that is valid for `purpose` at `at`.
pub fn find_challenge(
    db: &Connection,
    user: UserId,
    hash: &[u8; 32],
    purpose: Purpose,
    at: Timestamp,
) -> Result<Option<ChallengeRow>> {
    let mut statement = db.prepare_cached(
        "SELECT attempts, state, created_at, expires_at FROM challenge \
         WHERE user_id = ?1 AND hash = ?2 AND purpose = ?3 AND expires_at > ?4",
    )?;
    let row = statement.query_row(
        params![user.0.as_bytes(), hash, purpose_text(purpose), millis(at)],
        |row| {
            Ok(ChallengeRow {
                attempts: row.get(0)?,
                state: row.get(1)?,
                created_at: column(row, 2)?,
                expires_at: column(row, 3)?,
            })
        },
    );
    Ok(row.optional()?)
}

/// Replaces the state of a one-use token. Returns false if the token is no longer valid for `purpose`.
pub fn update_challenge_state(
    tx: &Connection,
    user: UserId,
    hash: &[u8; 32],
    purpose: Purpose,
    state: Option<&[u8]>,
    at: Timestamp,
) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE challenge SET state = ?4 \
             WHERE user_id = ?1 AND hash = ?2 AND purpose = ?3 AND expires_at > ?5",
        )?
        .execute(params![
            user.0.as_bytes(),
            hash,
            purpose_text(purpose),
            state,
            millis(at)
        ])?;
    Ok(changed == 1)
}

/// Changes the purpose and the expiry time of a one-use token, and clears its state and its count of attempts.
pub fn update_purpose(
    tx: &Connection,
    user: UserId,
    hash: &[u8; 32],
    purpose: Purpose,
    expires_at: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "UPDATE challenge SET purpose = ?3, state = NULL, attempts = 0, expires_at = ?4 \
         WHERE user_id = ?1 AND hash = ?2",
    )?
    .execute(params![
        user.0.as_bytes(),
        hash,
        purpose_text(purpose),
        millis(expires_at)
    ])?;
    Ok(())
}

/// Counts a wrong code against a one-use token and deletes the token at the last allowed attempt. Returns the
/// number of attempts so far.
pub fn update_attempts(tx: &Connection, user: UserId, hash: &[u8; 32], allowed: u32) -> Result<u32> {
    let attempts: Option<u32> = tx
        .prepare_cached(
            "UPDATE challenge SET attempts = attempts + 1 WHERE user_id = ?1 AND hash = ?2 RETURNING attempts",
        )?
        .query_row(params![user.0.as_bytes(), hash], |row| row.get(0))
        .optional()?;
    let attempts = attempts.unwrap_or(allowed);
    if attempts >= allowed {
        take_challenge(tx, user, hash)?;
    }
    Ok(attempts)
}

/// Consumes a one-use token. Returns false if it was already consumed.
pub fn take_challenge(tx: &Connection, user: UserId, hash: &[u8; 32]) -> Result<bool> {
    let removed = tx
        .prepare_cached("DELETE FROM challenge WHERE user_id = ?1 AND hash = ?2")?
        .execute(params![user.0.as_bytes(), hash])?;
    Ok(removed == 1)
}

/// Ends all pending logins and ceremonies of the user, and returns how many there were. Invitations stay, because
/// a user who lost both device and password is sent one just before the reset. Links in notices of earlier changes
/// stay too: the author of a change must not be able to void them by making another.
pub fn clear_challenges(tx: &Connection, user: UserId) -> Result<u32> {
    // There are hardly ever any, and looking costs less than an empty DELETE.
    if !exists(tx, "SELECT 1 FROM challenge WHERE user_id = ?1", user)? {
        return Ok(0);
    }
    let removed = tx
        .prepare_cached(
            "DELETE FROM challenge WHERE user_id = ?1 AND purpose NOT IN ('invitation', 'not-me')",
        )?
        .execute([user.0.as_bytes()])?;
    Ok(u32::try_from(removed).unwrap_or(u32::MAX))
}

/// Deletes all one-use tokens of the user, whatever their purpose.
pub fn clear_every_token(tx: &Connection, user: UserId) -> Result<()> {
    tx.prepare_cached("DELETE FROM challenge WHERE user_id = ?1")?
        .execute([user.0.as_bytes()])?;
    Ok(())
}

/// Deletes all invitations of the user, because a newer one replaces them or the account must not be used.
pub fn clear_invitations(tx: &Connection, user: UserId) -> Result<()> {
    tx.prepare_cached("DELETE FROM challenge WHERE user_id = ?1 AND purpose = 'invitation'")?
        .execute([user.0.as_bytes()])?;
    Ok(())
}

fn purpose_text(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Mfa => "mfa",
        Purpose::PasswordChange => "password-change",
        Purpose::Invitation => "invitation",
        Purpose::NotMe => "not-me",
        Purpose::PasskeyRegistration => "passkey-registration",
        Purpose::PasskeyStepUp => "passkey-step-up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_challenge_is_good_for_its_purpose_until_it_is_taken_or_tried_too_often() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        let insert = |hash| insert_challenge(&db, alice, hash, Purpose::Mfa, None, at(0), at(100)).unwrap();
        let found = |hash, second| {
            find_challenge(&db, alice, hash, Purpose::Mfa, at(second))
                .unwrap()
                .is_some()
        };
        insert(&[1; 32]);
        assert!(found(&[1; 32], 99) && !found(&[1; 32], 100) && !found(&[2; 32], 0));
        assert!(
            find_challenge(&db, bob, &[1; 32], Purpose::Mfa, at(0))
                .unwrap()
                .is_none()
        );
        assert!(
            find_challenge(&db, alice, &[1; 32], Purpose::PasswordChange, at(0))
                .unwrap()
                .is_none()
        );
        assert!(take_challenge(&db, alice, &[1; 32]).unwrap());
        assert!(!take_challenge(&db, alice, &[1; 32]).unwrap());
        insert(&[2; 32]);
        for attempt in 1..=2 {
            assert_eq!(update_attempts(&db, alice, &[2; 32], 3).unwrap(), attempt);
            assert!(found(&[2; 32], 0));
        }
        assert_eq!(update_attempts(&db, alice, &[2; 32], 3).unwrap(), 3);
        assert!(!found(&[2; 32], 0), "the last attempt ends it");
        assert_eq!(
            update_attempts(&db, alice, &[2; 32], 3).unwrap(),
            3,
            "gone counts as used up"
        );
    }

    #[test]
    fn a_login_by_a_clock_that_is_ahead_leaves_the_links_in_mails() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        let links = [([1; 32], Purpose::Invitation), ([2; 32], Purpose::NotMe)];
        for (hash, purpose) in links {
            insert_challenge(&db, alice, &hash, purpose, None, at(0), at(100)).unwrap();
        }
        let login = |hash| insert_challenge(&db, alice, hash, Purpose::Mfa, None, at(200), at(300)).unwrap();
        login(&[3; 32]);
        for (hash, purpose) in links {
            let found = |second| find_challenge(&db, alice, &hash, purpose, at(second)).unwrap();
            assert!(found(99).is_some() && found(100).is_none());
        }
    }

    #[test]
    fn a_reset_ends_logins_under_way_but_not_invitations() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        for (hash, purpose) in [
            ([1; 32], Purpose::Mfa),
            ([2; 32], Purpose::PasswordChange),
            ([3; 32], Purpose::Invitation),
        ] {
            insert_challenge(&db, alice, &hash, purpose, Some(b"state"), at(0), at(100)).unwrap();
        }
        assert_eq!(clear_challenges(&db, alice).unwrap(), 2);
        let kept = find_challenge(&db, alice, &[3; 32], Purpose::Invitation, at(0)).unwrap();
        assert_eq!(kept.expect("kept").state.as_deref(), Some(b"state".as_slice()));
    }
}
