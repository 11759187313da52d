//! Periodic maintenance, independent of requests.

use std::sync::{Mutex, PoisonError};

use jiff::SignedDuration;

use super::login::record_strangers;
use super::refusals::record_floods;
use super::{Services, approvals, deliveries, plugins, token_keys, trail, users};
use crate::clock::EvenClock;
use crate::domain::Result;
use crate::domain::account::UserId;
use crate::plugin_host::HISTORY_DAYS_MAX;
use crate::store::{Transaction, approvals as kept, expiry, factors, requests, sessions};

/// Users examined per round: all of a small node, a million within the hour. Expired rows are already
/// ineffective; they are only still present.
const SWEPT_AT_ONCE: u32 = 20_000;
/// Users cleaned up per transaction: bounds how long a reset waits behind it.
const CLEARED_AT_ONCE: usize = 64;

/// A timestamp further ahead than this was set by a clock that was wrong: corrections of a clock's rate are
/// smaller.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);
/// How long ended approvals are kept, in hours.
const APPROVAL_HOURS: i64 = 90 * 24;

/// How far the tables were searched for expired rows, how evenly the clock has run in the meantime, and how many
/// configurations of policies were left.
#[derive(Debug, Default)]
pub struct Sweep {
    reached: Mutex<Option<UserId>>,
    clock: EvenClock,
    unbound: plugins::LeftUnbound,
}

/// Drops the limiter's stale counts and the machine code of removed plugins; records refusals of past windows;
/// erases personal data that is due, and rotates token keys. Data expires or is destroyed for its age only while
/// the clock runs evenly. Meant to be called once a minute; a failure is logged and retried the next time.
pub async fn tidy(services: &Services) {
    services.limiter.retain();
    note("refusals by rate limit", record_floods(services, false).await);
    note("stranger logins", record_strangers(services, false).await);
    note("admins after a reset", users::watch_reset_admins(services).await);
    note("token keys", token_keys::rotate_keys_when_due(services).await);
    note(
        "personal data to be erased",
        trail::carry_on_erasures(services).await,
    );
    note("plugin artefacts", plugins::prune_artefacts(services).await);
    if services.sweep.clock.is_even(services.clock.now()) {
        destroy_lapsed(services).await;
    }
}

/// Ends expired approvals and deletes expired data: the rows found by [`sweep()`], trail entries past their
/// organisation's retention, signed checkpoints, ended approvals, earlier reset calls, remembered outcomes,
/// decisions past their retention, ended deliveries. A clock that is ahead for a minute would end or delete all
/// of it.
async fn destroy_lapsed(services: &Services) {
    note("lapsed sessions, suspended factors", sweep(services).await);
    note(
        "entries past their retention",
        trail::prune_expired(services).await,
    );
    note("checkpoints", trail::thin_checkpoints(services).await);
    note("lapsed approvals", approvals::expire_approvals(services).await);
    note("ended approvals", forget_approvals(services).await);
    note("reset calls of the future", date_back_calls(services).await);
    note("earlier reset calls", forget_calls(services).await);
    let at = services.clock.now();
    let forgotten = services
        .store
        .write(move |tx| requests::clear_lapsed_outcomes(tx, at))
        .await;
    note("remembered outcomes", forgotten);
    note(
        "decisions past their retention",
        plugins::forget_lapsed_decisions(services).await,
    );
    note(
        "configurations that decided nothing",
        plugins::forget_unused_configurations(services, &services.sweep.unbound).await,
    );
    note("deliveries", deliveries::forget_ended(services).await);
}

/// Records everything that only waits for its window to pass, before the process ends.
pub async fn wind_up(services: &Services) {
    note("refusals by rate limit", record_floods(services, true).await);
    note("stranger logins", record_strangers(services, true).await);
}

/// Among the next `SWEPT_AT_ONCE` users, destroys the factors whose suspension by a reset is over, deletes
/// expired sessions, one-use tokens and enrolments, and moves ends of sessions that a clock running ahead dated
/// into the future back to the present. Returns how many users were affected, a user once for each of the three.
///
/// # Errors
/// [`Error::Busy`](crate::domain::Error::Busy) or [`Error::Internal`](crate::domain::Error::Internal); the same
/// users are examined again the next time.
pub async fn sweep(services: &Services) -> Result<usize> {
    let (at, before) = (services.clock.now(), users::destroyed_before(services));
    let reached = || {
        services
            .sweep
            .reached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let from = *reached();
    let (range, suspended, lapsed, ahead) = services
        .store
        .read_long(None, move |db| {
            let range = expiry::find_range(db, from, SWEPT_AT_ONCE)?;
            let suspended = expiry::find_suspended(db, &range, before)?;
            let lapsed = expiry::find_lapsed(db, &range, at)?;
            let ahead = expiry::find_ended_after(db, &range, at + AHEAD)?;
            Ok((range, suspended, lapsed, ahead))
        })
        .await?;
    clear(services, &suspended, move |tx, user| {
        factors::delete_suspended(tx, user, before).map(drop)
    })
    .await?;
    clear(services, &lapsed, move |tx, user| {
        sessions::clear_lapsed(tx, user, at)
    })
    .await?;
    clear(services, &ahead, move |tx, user| {
        sessions::update_future_end(tx, user, at)
    })
    .await?;
    *reached() = range.up_to;
    Ok(suspended.len() + lapsed.len() + ahead.len())
}

/// Moves reset calls that a clock running ahead dated into the future back to the present; otherwise they would
/// count against every budget until that time.
async fn date_back_calls(services: &Services) -> Result<usize> {
    let now = services.clock.now();
    let newest = services.store.read(requests::find_newest_call)?;
    if newest.is_none_or(|newest| newest <= now + AHEAD) {
        return Ok(0);
    }
    services
        .store
        .write(move |tx| requests::update_future_calls(tx, now))
        .await
}

/// Deletes reset calls older than any policy may ask about, in batches.
async fn forget_calls(services: &Services) -> Result<usize> {
    // One day more than the longest window.
    let days = i64::from(HISTORY_DAYS_MAX) + 1;
    let before = services.clock.now() - SignedDuration::from_hours(24 * days);
    services
        .store
        .write(move |tx| requests::clear_old_calls(tx, before))
        .await
}

/// Deletes approvals that ended long ago, in batches; the trail still records them.
async fn forget_approvals(services: &Services) -> Result<usize> {
    let before = services.clock.now() - SignedDuration::from_hours(APPROVAL_HOURS);
    let ended = services
        .store
        .read_long(None, move |db| kept::find_ended(db, before))
        .await?;
    if ended.is_empty() {
        return Ok(0);
    }
    services.store.write(move |tx| kept::forget(tx, &ended)).await
}

/// Cleans up a few users per transaction, so that nothing waits for all of them.
async fn clear(
    services: &Services,
    users: &[UserId],
    of: impl Fn(&Transaction<'_>, UserId) -> Result<()> + Clone + Send + 'static,
) -> Result<()> {
    for some in users.chunks(CLEARED_AT_ONCE) {
        let (some, of) = (some.to_vec(), of.clone());
        let cleared = services
            .store
            .write(move |tx| some.iter().try_for_each(|&user| of(tx, user)));
        cleared.await?;
    }
    Ok(())
}

fn note(what: &'static str, done: Result<usize>) {
    match done {
        Ok(0) => {}
        Ok(count) => tracing::debug!(what, count, "tidied"),
        Err(error) => tracing::error!(what, ?error, "maintenance step failed; it will be retried"),
    }
}
