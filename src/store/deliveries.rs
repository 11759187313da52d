//! Outgoing deliveries (an outbox): each is inserted in the transaction of the change that causes it.

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails only when SQLite does, with Error::Internal"
)]

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

use super::row::{column, millis, optional, unreadable};
use crate::domain::account::{OrganizationId, UserId};
use crate::domain::audit::mentions;
use crate::domain::{Error, Result};

/// How a delivery is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// An e-mail, by SMTP.
    Mail,
    /// A signed HTTP call.
    Webhook,
    /// A syslog message (RFC 5424).
    Syslog,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 3] = [Self::Mail, Self::Webhook, Self::Syslog];

    /// The channel's name, as stored and serialised.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Webhook => "webhook",
            Self::Syslog => "syslog",
        }
    }
}

/// State of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Not yet delivered; failed attempts are retried.
    Owed,
    /// Sent and confirmed by the receiver.
    Sent,
    /// Undeliverable: all attempts failed.
    Dead,
}

impl DeliveryState {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Sent => "sent",
            Self::Dead => "dead",
        }
    }
}

/// A new delivery, not yet stored.
#[derive(Clone, Debug)]
pub struct OwedDelivery {
    /// The organisation it concerns; `None` for the node itself.
    pub organization_id: Option<OrganizationId>,
    /// How to send it.
    pub channel: Channel,
    /// The message, as JSON.
    pub payload: String,
    /// The one-use link in the message, if it has one.
    pub link: Option<OwedLink>,
}

/// A one-use link in a delivery, stored together with it.
#[derive(Clone, Debug)]
pub struct OwedLink {
    /// The user it acts for.
    pub user: UserId,
    /// Hash of its token.
    pub hash: [u8; 32],
    /// When it expires.
    pub expires_at: Timestamp,
}

/// A stored delivery.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    /// Row number.
    pub id: i64,
    /// The organisation it concerns; `None` for the node itself.
    pub organization_id: Option<OrganizationId>,
    /// How to send it.
    pub channel: Channel,
    /// The message, as JSON; `{}` once it was sent.
    pub payload: String,
    /// Sequence of the audit entry it reports.
    pub audit_sequence: Option<u64>,
    /// Current state.
    pub state: DeliveryState,
    /// Number of attempts so far.
    pub attempts: u32,
    /// When the next attempt is due.
    pub next_attempt_at: Timestamp,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was sent or given up; `None` while it is owed.
    pub ended_at: Option<Timestamp>,
}

const DELIVERY: &str = "SELECT id, organization_id, channel, payload, audit_sequence, state, attempts, \
     next_attempt_at, last_error, created_at, ended_at FROM delivery";

/// Inserts a delivery, in the transaction of the change that causes it.
pub fn insert_delivery(
    tx: &Connection,
    delivery: &OwedDelivery,
    audit_sequence: u64,
    at: Timestamp,
) -> Result<()> {
    let sequence = i64::try_from(audit_sequence)
        .map_err(|_| Error::Internal("the trail is longer than SQLite can count".into()))?;
    tx.prepare_cached(
        "INSERT INTO delivery (organization_id, channel, payload, audit_sequence, next_attempt_at, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
    )?
    .execute(params![
        delivery.organization_id.map(|id| id.0.into_bytes()),
        delivery.channel.as_str(),
        delivery.payload,
        sequence,
        millis(at),
    ])?;
    Ok(())
}

/// Criteria for due deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Only deliveries of this channel.
    pub channel: Channel,
    /// The current time: attempts scheduled for this time or earlier are due.
    pub at: Timestamp,
    /// Longest regular postponement: an attempt scheduled later than this was put off while the clock was ahead,
    /// and is due as well.
    pub at_the_latest: Timestamp,
    /// Maximum number per organisation.
    pub share: u32,
    /// Maximum number in all.
    pub limit: u32,
}

/// Finds due deliveries: the longest due of each organisation first, then the second of each, and so on, so that
/// no organisation waits behind another's backlog.
pub fn find_due(db: &Connection, due: &Due) -> Result<Vec<DeliveryRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{DELIVERY} JOIN (SELECT id AS due, row_number() OVER \
           (PARTITION BY organization_id ORDER BY next_attempt_at, id) AS nth FROM delivery \
           WHERE state = 'owed' AND channel = ?1 AND (next_attempt_at <= ?2 OR next_attempt_at > ?3)) \
         ON id = due WHERE nth <= ?4 ORDER BY nth, next_attempt_at, id LIMIT ?5"
    ))?;
    let found = statement.query_map(
        params![
            due.channel.as_str(),
            millis(due.at),
            millis(due.at_the_latest),
            due.share,
            due.limit
        ],
        delivery_from_row,
    )?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Claims a delivery for sending by postponing its next attempt to `until`. Returns false if another sender has
/// claimed it or it is no longer owed.
pub fn update_claimed(tx: &Connection, row: &DeliveryRow, until: Timestamp) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE delivery SET next_attempt_at = ?3 WHERE id = ?1 AND next_attempt_at = ?2 AND state = 'owed'",
        )?
        .execute(params![row.id, millis(row.next_attempt_at), millis(until)])?;
    Ok(changed == 1)
}

/// Lists deliveries in any of `states`, newest first.
pub fn page_deliveries(db: &Connection, states: &[DeliveryState], limit: u32) -> Result<Vec<DeliveryRow>> {
    let wanted = |state| states.contains(&state);
    let mut statement = db.prepare_cached(&format!(
        "{DELIVERY} WHERE (?1 AND state = 'owed') OR (?2 AND state = 'sent') OR (?3 AND state = 'dead') \
         ORDER BY id DESC LIMIT ?4"
    ))?;
    let [owed, sent, dead] = [DeliveryState::Owed, DeliveryState::Sent, DeliveryState::Dead].map(wanted);
    Ok(statement
        .query_map(params![owed, sent, dead, limit], delivery_from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Counts the deliveries that are owed and those that were given up, in this order.
pub fn count_deliveries(db: &Connection) -> Result<(u64, u64)> {
    let mut statement = db.prepare_cached(
        "SELECT count(*) FILTER (WHERE state = 'owed'), count(*) FILTER (WHERE state = 'dead') FROM delivery",
    )?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Counts the owed deliveries per channel, from the partial index on owed rows, so that old deliveries cost
/// nothing.
pub fn count_owed(db: &Connection) -> Result<Vec<(Channel, u64)>> {
    let mut statement =
        db.prepare_cached("SELECT count(*) FROM delivery WHERE state = 'owed' AND channel = ?1")?;
    Channel::ALL
        .into_iter()
        .map(|channel| {
            Ok((
                channel,
                statement.query_row([channel.as_str()], |row| row.get(0))?,
            ))
        })
        .collect()
}

/// Marks a delivery as sent and erases its payload, which may hold names and links. One that was replaced while it
/// was being sent (its `created_at` has changed) stays owed and becomes due.
pub fn update_sent(tx: &Connection, id: i64, created_at: Timestamp, at: Timestamp) -> Result<()> {
    let noted = tx
        .prepare_cached(
            "UPDATE delivery SET state = 'sent', payload = '{}', attempts = attempts + 1, last_error = NULL, \
             ended_at = ?3 WHERE id = ?1 AND created_at = ?2",
        )?
        .execute(params![id, millis(created_at), millis(at)])?;
    if noted == 0 {
        tx.prepare_cached("UPDATE delivery SET next_attempt_at = ?2 WHERE id = ?1 AND state = 'owed'")?
            .execute(params![id, millis(at)])?;
    }
    Ok(())
}

/// Records a failed attempt and when to try again. Not if the delivery was deleted, replaced or ended while it was
/// being sent: the number of a deleted one may be another's by now, which its `created_at` tells.
pub fn update_failed(
    tx: &Connection,
    id: i64,
    created_at: Timestamp,
    why: &str,
    next: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "UPDATE delivery SET attempts = attempts + 1, last_error = ?3, next_attempt_at = ?4 \
         WHERE id = ?1 AND created_at = ?2 AND state = 'owed'",
    )?
    .execute(params![id, millis(created_at), why, millis(next)])?;
    Ok(())
}

/// Marks a delivery as undeliverable. Returns false, having changed nothing, in the cases of [`update_failed`].
pub fn update_dead(
    tx: &Connection,
    id: i64,
    created_at: Timestamp,
    why: &str,
    at: Timestamp,
) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE delivery SET state = 'dead', attempts = attempts + 1, last_error = ?3, ended_at = ?4 \
             WHERE id = ?1 AND created_at = ?2 AND state = 'owed'",
        )?
        .execute(params![id, millis(created_at), why, millis(at)])?;
    Ok(changed == 1)
}

/// Makes a delivery due again that was given up or waits for its next attempt. Returns false if there is no such
/// delivery or it was sent.
pub fn update_owed_again(tx: &Connection, id: i64, at: Timestamp) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE delivery SET state = 'owed', attempts = 0, next_attempt_at = ?2, ended_at = NULL \
             WHERE id = ?1 AND state <> 'sent'",
        )?
        .execute(params![id, millis(at)])?;
    Ok(changed == 1)
}

/// Finds an organisation's unsent mail to one of `addresses`, and its undeliverable deliveries that mention one.
pub fn find_to(db: &Connection, organization: OrganizationId, addresses: &[String]) -> Result<Vec<i64>> {
    let mut statement = db.prepare_cached(
        "SELECT id, state, CASE channel WHEN 'mail' THEN payload ->> '$.to' END, \
           concat_ws(' ', payload ->> '$.body', payload, last_error) \
         FROM delivery WHERE organization_id = ?1 AND state <> 'sent'",
    )?;
    let mut rows = statement.query([organization.0.as_bytes()])?;
    let mut found = Vec::new();
    let text = |row: &Row<'_>, at| row.get_ref(at).ok()?.as_str().map(str::to_owned).ok();
    while let Some(row) = rows.next()? {
        let is_to = text(row, 2).is_some_and(|to| mentions(&to, addresses));
        let is_dead = row.get::<_, String>(1)? == DeliveryState::Dead.as_str();
        if is_to || (is_dead && text(row, 3).is_some_and(|said| mentions(&said, addresses))) {
            found.push(row.get(0)?);
        }
    }
    Ok(found)
}

/// Deletes deliveries, whatever their state.
pub fn delete_deliveries(tx: &Connection, ids: &[i64]) -> Result<()> {
    let mut delete = tx.prepare_cached("DELETE FROM delivery WHERE id = ?1")?;
    ids.iter().try_for_each(|id| delete.execute([id]).map(drop))?;
    Ok(())
}

/// Inserts the node's newest webhook call of a `type`. A call of that type that is still owed is replaced and
/// keeps its place in the order of attempts, so that an unresponsive receiver is owed one call and not thousands.
pub fn replace_owed_call(
    tx: &Connection,
    delivery: &OwedDelivery,
    r#type: &str,
    audit_sequence: u64,
    at: Timestamp,
) -> Result<()> {
    let owed = tx
        .prepare_cached(
            "SELECT id FROM delivery WHERE state = 'owed' AND channel = 'webhook' AND organization_id IS NULL \
             AND payload ->> '$.body' ->> '$.type' = ?1 ORDER BY id LIMIT 1",
        )?
        .query_row([r#type], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(id) = owed else {
        return insert_delivery(tx, delivery, audit_sequence, at);
    };
    // The call's id derives from `created_at`, so that the receiver takes it for a new call.
    tx.prepare_cached(
        "UPDATE delivery SET payload = ?2, audit_sequence = ?3, created_at = ?4 WHERE id = ?1",
    )?
    .execute(params![
        id,
        delivery.payload,
        i64::try_from(audit_sequence).unwrap_or(i64::MAX),
        millis(at)
    ])?;
    Ok(())
}

/// Deletes deliveries that ended in `state` before `before`, oldest first and at most `limit`. Returns how many.
pub fn delete_ended(tx: &Connection, state: DeliveryState, before: Timestamp, limit: usize) -> Result<usize> {
    Ok(tx
        .prepare_cached(
            "DELETE FROM delivery WHERE id IN \
             (SELECT id FROM delivery WHERE state = ?1 AND ended_at < ?2 ORDER BY ended_at LIMIT ?3)",
        )?
        .execute(params![state.as_str(), millis(before), limit])?)
}

fn delivery_from_row(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    let bad = |column| move || unreadable(column, rusqlite::types::Type::Text, UnknownName);
    let (channel, state): (String, String) = (row.get(2)?, row.get(5)?);
    let states = [DeliveryState::Owed, DeliveryState::Sent, DeliveryState::Dead];
    Ok(DeliveryRow {
        id: row.get(0)?,
        organization_id: optional(row, 1)?,
        channel: Channel::ALL
            .into_iter()
            .find(|known| known.as_str() == channel)
            .ok_or_else(bad(2))?,
        payload: row.get(3)?,
        audit_sequence: row.get(4)?,
        state: states
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(bad(5))?,
        attempts: row.get(6)?,
        next_attempt_at: column(row, 7)?,
        last_error: row.get(8)?,
        created_at: column(row, 9)?,
        ended_at: optional(row, 10)?,
    })
}

#[derive(Debug, thiserror::Error)]
#[error("not a name this version knows")]
struct UnknownName;

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::testing;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    const ONE: Option<OrganizationId> = Some(OrganizationId(Uuid::from_u128(1)));
    const OTHER: Option<OrganizationId> = Some(OrganizationId(Uuid::from_u128(2)));

    fn owe(db: &Connection, organization_id: Option<OrganizationId>, second: i64) {
        let call = OwedDelivery {
            organization_id,
            channel: Channel::Webhook,
            payload: "{}".into(),
            link: None,
        };
        insert_delivery(db, &call, 0, at(second)).unwrap();
    }

    fn due(second: i64) -> Due {
        Due {
            channel: Channel::Webhook,
            at: at(second),
            at_the_latest: at(second + 86_400),
            share: 2,
            limit: 4,
        }
    }

    #[test]
    fn the_first_of_each_organisation_comes_before_the_second_of_any() {
        let db = testing::database();
        for second in 1..=20 {
            owe(&db, ONE, second);
        }
        owe(&db, OTHER, 30);
        owe(&db, None, 40);
        let whose = |second| {
            let found = find_due(&db, &due(second)).unwrap();
            found.iter().map(|row| row.organization_id).collect::<Vec<_>>()
        };
        assert_eq!(whose(0), []);
        assert_eq!(whose(10), [ONE; 2], "no more than its share");
        assert_eq!(whose(100), [ONE, OTHER, None, ONE]);
    }

    #[test]
    fn what_was_put_off_by_a_clock_that_was_ahead_is_due() {
        let db = testing::database();
        owe(&db, None, 1_000_000);
        assert_eq!(find_due(&db, &due(1_000_000 - 86_400)).unwrap().len(), 0);
        assert_eq!(find_due(&db, &due(1_000_000 - 86_401)).unwrap().len(), 1);
    }

    #[test]
    fn one_claims_it_and_nobody_else_until_then() {
        let db = testing::database();
        owe(&db, None, 1);
        let row = find_due(&db, &due(1)).unwrap().remove(0);
        assert!(update_claimed(&db, &row, at(31)).unwrap());
        assert!(
            !update_claimed(&db, &row, at(31)).unwrap(),
            "another sender that read the same row"
        );
        assert_eq!(find_due(&db, &due(30)).unwrap().len(), 0);
        assert_eq!(find_due(&db, &due(31)).unwrap().len(), 1);
        // It was replaced while its previous content was being sent.
        update_sent(&db, row.id, at(0), at(5)).unwrap();
        assert_eq!(find_due(&db, &due(5)).unwrap().len(), 1);
        update_sent(&db, row.id, at(1), at(5)).unwrap();
        assert_eq!(find_due(&db, &due(1_000)).unwrap().len(), 0);
    }

    #[test]
    fn an_attempt_is_noted_on_no_other_delivery_that_has_its_number_now() {
        let db = testing::database();
        owe(&db, ONE, 1);
        let sent = find_due(&db, &due(1)).unwrap().remove(0);
        delete_deliveries(&db, &[sent.id]).unwrap();
        owe(&db, OTHER, 2);
        update_failed(&db, sent.id, sent.created_at, "no", at(9)).unwrap();
        assert!(!update_dead(&db, sent.id, sent.created_at, "no", at(9)).unwrap());
        let other = find_due(&db, &due(2)).unwrap().remove(0);
        assert_eq!((other.id, other.organization_id), (sent.id, OTHER));
        assert_eq!((other.attempts, other.last_error), (0, None));
        update_sent(&db, other.id, at(2), at(3)).unwrap();
        assert!(
            !update_dead(&db, other.id, at(2), "no", at(9)).unwrap(),
            "another sender has sent it"
        );
    }

    #[test]
    fn what_ended_is_forgotten_some_at_a_time() {
        let db = testing::database();
        for n in 0..25 {
            owe(&db, None, 0);
            assert!(update_dead(&db, n + 1, at(0), "no", at(n)).unwrap());
        }
        let forget = || delete_ended(&db, DeliveryState::Dead, at(24), 10).unwrap();
        assert_eq!([forget(), forget(), forget(), forget()], [10, 10, 4, 0]);
    }
}
