//! Finds expired rows, one range of users at a time: this needs no index that every login and reset would have
//! to maintain, and no pass reads a whole table.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::row::{column, millis};
use crate::domain::Result;
use crate::domain::account::UserId;

/// A range of user ids, in primary key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRange {
    /// Exclusive lower bound; `None` starts at the first user.
    pub after: Option<UserId>,
    /// Inclusive upper bound; `None` ends at the last user.
    pub up_to: Option<UserId>,
}

impl UserRange {
    /// All users.
    pub const ALL: Self = Self {
        after: None,
        up_to: None,
    };

    /// The bounds as blobs; an absent bound becomes one below or above every 16-byte id.
    fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let bytes = |id: UserId| id.0.as_bytes().to_vec();
        (
            self.after.map_or(Vec::new(), bytes),
            self.up_to.map_or(vec![0xff; 17], bytes),
        )
    }
}

/// Returns the range of the next `count` users after `after`; it holds fewer at the end.
///
/// # Errors
/// [`Error::Internal`](crate::domain::Error::Internal) when SQLite fails, here and below.
pub fn find_range(db: &Connection, after: Option<UserId>, count: u32) -> Result<UserRange> {
    let (from, _) = UserRange { after, up_to: None }.bounds();
    let up_to = db
        .prepare_cached("SELECT id FROM user WHERE id > ?1 ORDER BY id LIMIT 1 OFFSET ?2")?
        .query_row(params![from, count.saturating_sub(1)], |row| column(row, 0))
        .optional()?;
    Ok(UserRange { after, up_to })
}

/// Finds the users with factors suspended before `before`.
pub fn find_suspended(db: &Connection, range: &UserRange, before: Timestamp) -> Result<Vec<UserId>> {
    find(db, SUSPENDED, range, before)
}

/// Finds the users with sessions, one-use tokens or enrolments that have expired at `at`.
pub fn find_lapsed(db: &Connection, range: &UserRange, at: Timestamp) -> Result<Vec<UserId>> {
    find(db, LAPSED, range, at)
}

/// Finds the users whose sessions ended after `time`, which lies in the future: a clock that was ahead dated them.
pub fn find_ended_after(db: &Connection, range: &UserRange, time: Timestamp) -> Result<Vec<UserId>> {
    find(db, ENDED_AFTER, range, time)
}

fn find(db: &Connection, sql: &str, range: &UserRange, at: Timestamp) -> Result<Vec<UserId>> {
    let (after, up_to) = range.bounds();
    Ok(db
        .prepare_cached(sql)?
        .query_map(params![after, up_to, millis(at)], |row| column(row, 0))?
        .collect::<rusqlite::Result<_>>()?)
}

const SUSPENDED: &str = "SELECT DISTINCT user_id FROM factor \
     WHERE user_id > ?1 AND user_id <= ?2 AND suspended_at < ?3";
const LAPSED: &str = "SELECT user_id FROM session WHERE user_id > ?1 AND user_id <= ?2 AND expires_at <= ?3 \
     UNION SELECT user_id FROM ended_session WHERE user_id > ?1 AND user_id <= ?2 AND expires_at <= ?3 \
     UNION SELECT user_id FROM challenge WHERE user_id > ?1 AND user_id <= ?2 AND expires_at <= ?3 \
     UNION SELECT user_id FROM enrolment WHERE user_id > ?1 AND user_id <= ?2 AND expires_at <= ?3";

const ENDED_AFTER: &str = "SELECT id FROM user WHERE id > ?1 AND id <= ?2 AND sessions_ended_at > ?3";

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::{factors, testing};
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn ranges_follow_each_other_until_everybody_was_in_one() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        let range = |after, count| find_range(&db, after, count).unwrap();
        let first = range(None, 1);
        assert_eq!((first.after, first.up_to), (None, Some(alice)));
        let second = range(first.up_to, 1);
        assert_eq!((second.after, second.up_to), (Some(alice), Some(bob)));
        assert_eq!(range(second.up_to, 1).up_to, None, "begins anew");
        assert_eq!(range(None, 3), UserRange::ALL);
    }

    #[test]
    fn only_users_of_the_range_are_found() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        for user in [alice, bob] {
            factors::insert_totp(&db, user, Uuid::from_u128(9), b"sealed", 0, at(0)).unwrap();
            factors::clear_factors(&db, user, at(5)).unwrap();
        }
        let found = |after, up_to| find_suspended(&db, &UserRange { after, up_to }, at(6)).unwrap();
        assert_eq!(found(None, None), [alice, bob]);
        assert_eq!(found(None, Some(alice)), [alice]);
        assert_eq!(found(Some(alice), None), [bob]);
        assert_eq!(found(Some(bob), None), []);
        assert_eq!(find_suspended(&db, &UserRange::ALL, at(5)).unwrap(), []);
    }

    #[test]
    fn no_table_is_read_as_a_whole() {
        let db = testing::database();
        for sql in [SUSPENDED, LAPSED, ENDED_AFTER] {
            let plan: Vec<String> = db
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap()
                .query_map(params![[0_u8; 0], [0_u8; 17], 0], |row| row.get("detail"))
                .unwrap()
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            let plan = plan.join("\n");
            let searches = plan.replace("user_id", "id");
            let searches = searches.matches("USING PRIMARY KEY (id>? AND id<?)").count();
            assert_eq!(searches, sql.matches(" FROM ").count(), "{plan}");
            assert!(!plan.contains("SCAN"), "{plan}");
        }
    }
}
