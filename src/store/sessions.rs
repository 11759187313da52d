//! Sessions (refresh families).

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails only when SQLite does, with Error::Internal"
)]

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::row::{column, factor_kind_text, millis, optional, origin_text, scope_text};
use crate::domain::Result;
use crate::domain::account::{Session, SessionId, SessionOrigin, UserId};
use crate::domain::credential::EXTERNAL_LIFETIME;
use crate::domain::policy::FactorKind;

/// A stored session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The session.
    pub session: Session,
    /// Number of rotations of its refresh token; only the token of this generation is valid.
    pub generation: u32,
    /// Client IP address at login.
    pub ip: Option<String>,
    /// Client `User-Agent` at login.
    pub user_agent: Option<String>,
    /// When its refresh token was last used.
    pub last_used_at: Timestamp,
}

/// Maximum number of sessions per user; a further one ends the least recently used of those from the network that
/// has most of them.
pub const SESSIONS_PER_USER: u32 = 100;

const SESSION: &str = "SELECT user_id, id, scope, generation, authenticated_at, second_factor_at, \
     second_factor_kind, origin, ip, user_agent, created_at, last_used_at, expires_at FROM session";

/// Finds a session that has not expired at `at`.
pub fn find_session(
    db: &Connection,
    user: UserId,
    id: SessionId,
    at: Timestamp,
) -> Result<Option<SessionRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SESSION} WHERE user_id = ?1 AND id = ?2 AND expires_at > ?3"
    ))?;
    let row = statement.query_row(
        params![user.0.as_bytes(), id.0.as_bytes(), millis(at)],
        session_from_row,
    );
    Ok(row.optional()?)
}

/// Returns whether the session is alive at `at`. A session of another issuer lives until its token expires, unless
/// it or all of the user's sessions were ended since.
pub fn session_lives(db: &Connection, session: &Session, at: Timestamp) -> Result<bool> {
    let user = session.user_id.0.as_bytes();
    if session.origin == SessionOrigin::External {
        let mut statement = db.prepare_cached(
            "SELECT 1 FROM user WHERE id = ?1 AND coalesce(sessions_ended_at, -1) < ?2 \
                 AND NOT EXISTS (SELECT 1 FROM ended_session e \
                                 WHERE e.user_id = ?1 AND e.id = ?3 AND e.expires_at > ?4)",
        )?;
        let id = session.id.0.as_bytes();
        let not_ended = statement.exists(params![user, millis(session.created_at), id, millis(at)])?;
        return Ok(not_ended && at < session.expires_at);
    }
    let mut statement =
        db.prepare_cached("SELECT 1 FROM session WHERE user_id = ?1 AND id = ?2 AND expires_at > ?3")?;
    Ok(statement.exists(params![user, session.id.0.as_bytes(), millis(at)])?)
}

/// Lists the user's live sessions, most recently used first.
pub fn find_sessions(db: &Connection, user: UserId, at: Timestamp) -> Result<Vec<SessionRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SESSION} WHERE user_id = ?1 AND expires_at > ?2 ORDER BY last_used_at DESC, id"
    ))?;
    Ok(statement
        .query_map(params![user.0.as_bytes(), millis(at)], session_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Counts the user's live sessions.
pub fn count_sessions(db: &Connection, user: UserId, at: Timestamp) -> Result<u32> {
    let mut statement =
        db.prepare_cached("SELECT count(*) FROM session WHERE user_id = ?1 AND expires_at > ?2")?;
    Ok(statement.query_row(params![user.0.as_bytes(), millis(at)], |row| row.get(0))?)
}

/// Finds the latest expiry of the tokens minted on the command line.
pub fn find_last_minted_expiry(db: &Connection) -> Result<Option<Timestamp>> {
    let mut statement = db.prepare_cached("SELECT max(expires_at) FROM session WHERE origin = 'minted'")?;
    Ok(statement.query_row([], |row| optional(row, 0))?)
}

/// Inserts a session, deletes the user's expired sessions, logins in progress and enrolments, and makes room so that
/// no more than [`SESSIONS_PER_USER`] remain.
pub fn insert_session(tx: &Connection, row: &SessionRow) -> Result<()> {
    let session = &row.session;
    clear_lapsed_logins(tx, session.user_id, session.created_at)?;
    make_room(tx, session.user_id, row.ip.as_deref())?;
    tx.prepare_cached(
        "INSERT INTO session (user_id, id, scope, generation, authenticated_at, second_factor_at, \
         second_factor_kind, origin, ip, user_agent, created_at, last_used_at, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        session.user_id.0.as_bytes(),
        session.id.0.as_bytes(),
        scope_text(session.scope),
        row.generation,
        millis(session.authenticated_at),
        session.second_factor_at.map(millis),
        session.second_factor_kind.map(factor_kind_text),
        origin_text(session.origin),
        row.ip,
        row.user_agent,
        millis(session.created_at),
        millis(row.last_used_at),
        millis(session.expires_at),
    ])?;
    Ok(())
}

/// Rotates the refresh family from `generation` to the next. Returns false if another request was faster.
pub fn update_generation(
    tx: &Connection,
    user: UserId,
    id: SessionId,
    generation: u32,
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE session SET generation = generation + 1, last_used_at = ?4, expires_at = ?5 \
             WHERE user_id = ?1 AND id = ?2 AND generation = ?3",
        )?
        .execute(params![
            user.0.as_bytes(),
            id.0.as_bytes(),
            generation,
            millis(at),
            millis(expires_at)
        ])?;
    Ok(changed == 1)
}

/// Records the use of a second factor in a session, which gives it the full scope. Returns false if there is no
/// such session.
pub fn update_second_factor(
    tx: &Connection,
    user: UserId,
    id: SessionId,
    kind: FactorKind,
    at: Timestamp,
    expires_at: Timestamp,
) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE session SET scope = 'full', second_factor_at = ?3, second_factor_kind = ?4, \
             authenticated_at = ?3, expires_at = max(expires_at, ?5) WHERE user_id = ?1 AND id = ?2",
        )?
        .execute(params![
            user.0.as_bytes(),
            id.0.as_bytes(),
            millis(at),
            factor_kind_text(kind),
            millis(expires_at)
        ])?;
    Ok(changed == 1)
}

/// Ends a session. Returns false if there was none.
pub fn clear_session(tx: &Connection, user: UserId, id: SessionId) -> Result<bool> {
    let removed = tx
        .prepare_cached("DELETE FROM session WHERE user_id = ?1 AND id = ?2")?
        .execute(params![user.0.as_bytes(), id.0.as_bytes()])?;
    Ok(removed == 1)
}

/// Ends all sessions of the user, including those of another issuer's tokens issued up to `at`. Returns the number
/// of sessions stored here.
pub fn clear_sessions(tx: &Connection, user: UserId, at: Timestamp) -> Result<u32> {
    tx.prepare_cached("UPDATE user SET sessions_ended_at = ?2 WHERE id = ?1")?
        .execute(params![user.0.as_bytes(), millis(at)])?;
    delete_sessions(tx, user)
}

/// The part of [`clear_sessions`] that concerns sessions stored here.
pub fn delete_sessions(tx: &Connection, user: UserId) -> Result<u32> {
    // One by one: SQLite first gathers the rows of a multi-row DELETE in a temporary table, which costs more than
    // deleting the usual one or two.
    let ids = tx
        .prepare_cached("SELECT id FROM session WHERE user_id = ?1")?
        .query_map([user.0.as_bytes()], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<[u8; 16]>>>()?;
    let mut delete = tx.prepare_cached("DELETE FROM session WHERE user_id = ?1 AND id = ?2")?;
    for id in &ids {
        delete.execute(params![user.0.as_bytes(), id])?;
    }
    Ok(u32::try_from(ids.len()).unwrap_or(u32::MAX))
}

/// Ends all sessions of the user except `kept`, including those of another issuer's tokens issued up to `at`, or
/// if `kept` is such a session itself, issued before it. Returns the number of ended sessions stored here.
pub fn clear_other_sessions(tx: &Connection, kept: &Session, at: Timestamp) -> Result<u32> {
    let user = kept.user_id.0.as_bytes();
    let ended_at = match kept.origin {
        SessionOrigin::External => millis(kept.created_at) - 1,
        SessionOrigin::Login | SessionOrigin::Minted => millis(at),
    };
    tx.prepare_cached(
        "UPDATE user SET sessions_ended_at = max(coalesce(sessions_ended_at, ?2), ?2) WHERE id = ?1",
    )?
    .execute(params![user, ended_at])?;
    let removed = tx
        .prepare_cached("DELETE FROM session WHERE user_id = ?1 AND id <> ?2")?
        .execute(params![user, kept.id.0.as_bytes()])?;
    Ok(u32::try_from(removed).unwrap_or(u32::MAX))
}

/// Ends a session of this or another issuer. Returns false if it was ended before.
pub fn end_session(tx: &Connection, session: &Session, at: Timestamp) -> Result<bool> {
    let (user, id) = (session.user_id, session.id);
    if session.origin != SessionOrigin::External {
        return clear_session(tx, user, id);
    }
    let ended: u32 = tx
        .prepare_cached("SELECT count(*) FROM ended_session WHERE user_id = ?1 AND expires_at > ?2")?
        .query_row(params![user.0.as_bytes(), millis(at)], |row| row.get(0))?;
    if ended >= SESSIONS_PER_USER {
        // Bound the table: beyond the limit, end all sessions of other issuers instead.
        tx.prepare_cached("UPDATE user SET sessions_ended_at = ?2 WHERE id = ?1")?
            .execute(params![user.0.as_bytes(), millis(at)])?;
        return Ok(true);
    }
    // Other tokens of the session may outlive this one, but not by more than the maximum lifetime.
    let until = session.expires_at.max(at + EXTERNAL_LIFETIME);
    let added = tx
        .prepare_cached(
            "INSERT INTO ended_session (user_id, id, expires_at) VALUES (?1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at WHERE expires_at <= ?4",
        )?
        .execute(params![
            user.0.as_bytes(),
            id.0.as_bytes(),
            millis(until),
            millis(at)
        ])?;
    Ok(added == 1)
}

/// Moves the end of the user's sessions back to `now` if a clock that was ahead dated it into the future:
/// otherwise every token of another issuer would be refused until that time.
pub fn update_future_end(tx: &Connection, user: UserId, now: Timestamp) -> Result<()> {
    tx.prepare_cached("UPDATE user SET sessions_ended_at = ?2 WHERE id = ?1 AND sessions_ended_at > ?2")?
        .execute(params![user.0.as_bytes(), millis(now)])?;
    Ok(())
}

/// Deletes the user's expired sessions, logins in progress and enrolments. Other expired rows are left to
/// [`clear_lapsed`], because the clock may be ahead for a minute: deleting them would revive sessions that were
/// ended, and invalidate links in mails for good.
pub(super) fn clear_lapsed_logins(tx: &Connection, user: UserId, at: Timestamp) -> Result<()> {
    for lapsed in [
        "session WHERE user_id = ?1 AND expires_at <= ?2",
        "challenge WHERE user_id = ?1 AND expires_at <= ?2 AND purpose NOT IN ('invitation', 'not-me')",
        "enrolment WHERE user_id = ?1 AND expires_at <= ?2",
    ] {
        tx.prepare_cached(&format!("DELETE FROM {lapsed}"))?
            .execute(params![user.0.as_bytes(), millis(at)])?;
    }
    Ok(())
}

/// Deletes the user's expired sessions, records of ended sessions, one-use tokens and enrolments. Only for a
/// caller that has checked that the clock runs evenly.
pub fn clear_lapsed(tx: &Connection, user: UserId, at: Timestamp) -> Result<()> {
    for table in ["session", "ended_session", "challenge", "enrolment"] {
        tx.prepare_cached(&format!(
            "DELETE FROM {table} WHERE user_id = ?1 AND expires_at <= ?2"
        ))?
        .execute(params![user.0.as_bytes(), millis(at)])?;
    }
    Ok(())
}

/// Deletes sessions until there is room for one more, from `ip`: each time the least recently used one of the
/// network that has most, counting the new one. Otherwise somebody who knows the password could end the user's own
/// session, for example in the middle of setting up MFA.
fn make_room(tx: &Connection, user: UserId, ip: Option<&str>) -> Result<()> {
    let sessions = tx
        .prepare_cached("SELECT id, ip FROM session WHERE user_id = ?1 ORDER BY last_used_at, id")?
        .query_map([user.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<([u8; 16], Option<String>)>>>()?;
    if sessions.len() < SESSIONS_PER_USER as usize {
        return Ok(());
    }
    let places = sessions.into_iter().map(|(id, ip)| (id, network(ip.as_deref())));
    let mut places: Vec<_> = places.collect();
    while places.len() >= SESSIONS_PER_USER as usize {
        let mut counts = HashMap::from([(network(ip), 1)]);
        for (_, place) in &places {
            *counts.entry(place.clone()).or_insert(0) += 1;
        }
        let most = counts.values().max();
        let oldest = places.iter().position(|(_, place)| counts.get(place) == most);
        let (id, _) = places.remove(oldest.unwrap_or(0));
        clear_session(tx, user, SessionId(Uuid::from_bytes(id)))?;
    }
    Ok(())
}

/// Returns the network of an address: the whole IPv4 address, or the first 48 bits of an IPv6 address, since a
/// site may have 65,536 subnets (RFC 6177 §2). Empty if the address is unknown.
fn network(ip: Option<&str>) -> Vec<u8> {
    let address = ip.and_then(|ip| ip.parse::<IpAddr>().ok());
    match address.map(|address| address.to_canonical()) {
        None => Vec::new(),
        Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Some(IpAddr::V6(v6)) => v6.octets()[..6].to_vec(),
    }
}

fn session_from_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        session: Session {
            user_id: column(row, 0)?,
            id: column(row, 1)?,
            scope: column(row, 2)?,
            authenticated_at: column(row, 4)?,
            second_factor_at: optional(row, 5)?,
            second_factor_kind: optional(row, 6)?,
            origin: column(row, 7)?,
            created_at: column(row, 10)?,
            expires_at: column(row, 12)?,
        },
        generation: row.get(3)?,
        ip: row.get(8)?,
        user_agent: row.get(9)?,
        last_used_at: column(row, 11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::SessionScope;
    use crate::store::testing;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn row(user: UserId, id: u128) -> SessionRow {
        SessionRow {
            session: Session {
                id: SessionId(Uuid::from_u128(id)),
                user_id: user,
                scope: SessionScope::Enrolment,
                authenticated_at: at(0),
                second_factor_at: None,
                second_factor_kind: None,
                origin: SessionOrigin::Login,
                created_at: at(0),
                expires_at: at(100),
            },
            generation: 0,
            ip: Some("192.0.2.1".into()),
            user_agent: None,
            last_used_at: at(0),
        }
    }

    #[test]
    fn a_session_lives_until_it_lapses_and_is_then_swept_away() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        let kept = row(alice, 1);
        insert_session(&db, &kept).unwrap();
        assert_eq!(
            find_session(&db, alice, kept.session.id, at(99)).unwrap(),
            Some(kept.clone())
        );
        assert_eq!(find_session(&db, alice, kept.session.id, at(100)).unwrap(), None);
        assert_eq!(
            find_session(&db, bob, kept.session.id, at(0)).unwrap(),
            None,
            "another user's"
        );
        assert_eq!(
            (
                count_sessions(&db, alice, at(99)).unwrap(),
                count_sessions(&db, alice, at(100)).unwrap()
            ),
            (1, 0)
        );
        let mut later = row(alice, 2);
        later.session.created_at = at(100);
        insert_session(&db, &later).unwrap();
        let rows: u32 = db
            .query_row("SELECT count(*) FROM session", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn a_user_has_so_many_sessions_and_the_one_used_longest_ago_ends() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        insert_session(&db, &row(bob, 1)).unwrap();
        for id in 1..=u128::from(SESSIONS_PER_USER) + 2 {
            let mut newer = row(alice, id);
            newer.last_used_at = Timestamp::from_millisecond(i64::try_from(id).unwrap()).unwrap();
            insert_session(&db, &newer).unwrap();
        }
        assert_eq!(count_sessions(&db, alice, at(1)).unwrap(), SESSIONS_PER_USER);
        assert!(!session_lives(&db, &row(alice, 2).session, at(1)).unwrap());
        assert!(session_lives(&db, &row(alice, 3).session, at(1)).unwrap());
        assert!(session_lives(&db, &row(bob, 1).session, at(1)).unwrap());
    }

    #[test]
    fn who_has_most_of_the_sessions_gives_one_up() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        insert_session(&db, &row(alice, 1)).unwrap();
        let from = |ip: &dyn Fn(u128) -> String, ids: std::ops::Range<u128>| {
            for id in ids {
                let mut other = row(alice, id);
                other.ip = Some(ip(id));
                other.last_used_at = at(i64::try_from(id).unwrap());
                insert_session(&db, &other).unwrap();
            }
        };
        from(&|_| "198.51.100.77".into(), 2..60);
        from(&|id| format!("2001:db8:5:{id:x}::1"), 60..300);
        let lives = |id| session_lives(&db, &row(alice, id).session, at(1)).unwrap();
        assert!(lives(1), "the oldest, but the only one of its network");
        assert_eq!(count_sessions(&db, alice, at(1)).unwrap(), SESSIONS_PER_USER);
        let theirs = (2..60).filter(|id| lives(*id)).count();
        let site = (60..300).filter(|id| lives(*id)).count();
        assert!(theirs.abs_diff(site) <= 1, "{theirs} and {site}");
    }

    #[test]
    fn a_generation_is_rotated_once() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        let id = row(alice, 1).session.id;
        insert_session(&db, &row(alice, 1)).unwrap();
        assert!(update_generation(&db, alice, id, 0, at(5), at(200)).unwrap());
        assert!(!update_generation(&db, alice, id, 0, at(5), at(200)).unwrap());
        let found = find_session(&db, alice, id, at(150)).unwrap().expect("extended");
        assert_eq!((found.generation, found.last_used_at), (1, at(5)));
    }

    #[test]
    fn a_second_factor_makes_a_session_full() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        let id = row(alice, 1).session.id;
        insert_session(&db, &row(alice, 1)).unwrap();
        assert!(update_second_factor(&db, alice, id, FactorKind::Totp, at(7), at(50)).unwrap());
        let session = find_session(&db, alice, id, at(8))
            .unwrap()
            .expect("there")
            .session;
        assert_eq!(session.scope, SessionScope::Full);
        assert_eq!(
            (session.second_factor_at, session.second_factor_kind),
            (Some(at(7)), Some(FactorKind::Totp))
        );
        assert_eq!(session.expires_at, at(100), "never shortened");
    }

    #[test]
    fn sessions_end_one_all_or_all_others() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        for id in 1..=3 {
            insert_session(&db, &row(alice, id)).unwrap();
        }
        insert_session(&db, &row(bob, 9)).unwrap();
        let first = row(alice, 1).session.id;
        assert_eq!(
            clear_other_sessions(&db, &row(alice, 1).session, at(0)).unwrap(),
            2
        );
        assert!(session_lives(&db, &row(alice, 1).session, at(0)).unwrap());
        assert!(clear_session(&db, alice, first).unwrap());
        assert!(!clear_session(&db, alice, first).unwrap());
        assert!(!session_lives(&db, &row(alice, 1).session, at(0)).unwrap());
        assert_eq!(clear_sessions(&db, bob, at(0)).unwrap(), 1);
    }

    #[test]
    fn a_session_of_another_issuer_lives_by_its_token_until_the_users_sessions_are_ended() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        let external = |user| Session {
            origin: SessionOrigin::External,
            created_at: at(10),
            ..row(user, 7).session
        };
        assert!(session_lives(&db, &external(alice), at(99)).unwrap());
        assert!(!session_lives(&db, &external(alice), at(100)).unwrap());
        clear_sessions(&db, alice, at(9)).unwrap();
        assert!(
            session_lives(&db, &external(alice), at(11)).unwrap(),
            "issued afterwards"
        );
        clear_sessions(&db, alice, at(10)).unwrap();
        assert!(!session_lives(&db, &external(alice), at(11)).unwrap());
        assert!(session_lives(&db, &external(bob), at(11)).unwrap());
    }

    fn external(user: UserId, id: u128, issued: i64) -> Session {
        Session {
            origin: SessionOrigin::External,
            created_at: at(issued),
            ..row(user, id).session
        }
    }

    #[test]
    fn others_of_another_issuer_end_too_and_the_one_that_stays_stays() {
        let db = testing::database();
        let (alice, _) = testing::two_users(&db);
        let lives = |session: &Session| session_lives(&db, session, at(30)).unwrap();
        let (older, kept) = (external(alice, 7, 9), external(alice, 8, 10));
        clear_other_sessions(&db, &kept, at(30)).unwrap();
        assert!(lives(&kept) && !lives(&older));
        insert_session(&db, &row(alice, 1)).unwrap();
        clear_other_sessions(&db, &row(alice, 1).session, at(20)).unwrap();
        assert!(!lives(&kept) && lives(&row(alice, 1).session));
        clear_other_sessions(&db, &kept, at(30)).unwrap();
        assert!(!lives(&kept), "what has ended stays so");
    }

    #[test]
    fn a_session_of_another_issuer_is_ended_by_itself_and_only_so_many_are_remembered() {
        let db = testing::database();
        let (alice, bob) = testing::two_users(&db);
        let lives = |session: &Session| session_lives(&db, session, at(30)).unwrap();
        let (one, other) = (external(alice, 7, 10), external(alice, 8, 10));
        assert!(end_session(&db, &one, at(20)).unwrap());
        assert!(!end_session(&db, &one, at(20)).unwrap(), "once");
        assert!(!lives(&one) && !lives(&external(alice, 7, 25)) && lives(&other));
        assert!(lives(&external(bob, 7, 10)), "another's");
        for id in 100..100 + u128::from(SESSIONS_PER_USER) {
            assert!(end_session(&db, &external(alice, id, 10), at(20)).unwrap());
        }
        let rows = || -> u32 {
            let sql = "SELECT count(*) FROM ended_session";
            db.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(rows(), SESSIONS_PER_USER);
        assert!(!lives(&other), "beyond the limit, all end");
        // With a clock that is ahead, a login deletes none of them, and expired ones do not count for the limit.
        let ahead = at(20) + EXTERNAL_LIFETIME;
        clear_lapsed_logins(&db, alice, ahead).unwrap();
        assert_eq!(rows(), SESSIONS_PER_USER);
        assert!(end_session(&db, &one, ahead).unwrap(), "its later tokens");
        assert!(!end_session(&db, &one, ahead).unwrap(), "once");
        assert!(end_session(&db, &external(alice, 9, 10), ahead).unwrap());
        assert_eq!(rows(), SESSIONS_PER_USER + 1);
        clear_lapsed(&db, alice, ahead + EXTERNAL_LIFETIME).unwrap();
        assert_eq!(rows(), 0);
    }
}
