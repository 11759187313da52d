//! What must be done now and then, whether anybody asks or not.

use std::sync::{Mutex, PoisonError};

use jiff::SignedDuration;

use super::login::record_strangers;
use super::reset::record_floods;
use super::{Services, approvals, deliveries, plugins, token_keys, trail, users};
use crate::clock::EvenClock;
use crate::domain::Result;
use crate::domain::account::UserId;
use crate::plugin_host::HISTORY_DAYS_MAX;
use crate::store::{Transaction, approvals as kept, factors, requests, sessions, sweep};

/// Users who are looked at in one round: all of a small node, a million within the hour. What has lapsed is of
/// no use meanwhile, it is only still there.
const SWEPT_AT_ONCE: u32 = 20_000;
/// Users tidied up in one change: bounds how long a reset waits behind it.
const CLEARED_AT_ONCE: usize = 64;

/// What is further ahead than this is there by a clock that was wrong: corrections of its rate are smaller.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);
/// Ended approvals are kept for this long, in hours.
const APPROVAL_HOURS: i64 = 90 * 24;

/// Up to which user the tables were looked through for what has lapsed, and how the clock ran meanwhile.
#[derive(Debug, Default)]
pub struct Sweep {
    reached: Mutex<Option<UserId>>,
    clock: EvenClock,
}

/// Forgets counts of the limiter and machine code of plugins that are gone; puts on the record refusals of windows
/// that have passed; erases what is to be erased, rotates token keys. What ends or is destroyed because it is old goes
/// only by a clock that runs evenly. Meant for once a minute; what fails is logged and done the next
/// time.
pub async fn tidy(services: &Services) {
    services.limiter.retain();
    note("refusals by rate limit", record_floods(services, false).await);
    note("logins of nobody", record_strangers(services, false).await);
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

/// Ends approvals that have lapsed, and forgets what has: what [`sweep()`] finds, entries of the trail older than
/// their organisation keeps them, signed checkpoints, ended approvals, earlier reset calls, remembered outcomes,
/// decisions past their retention, deliveries that ended. By a clock that is ahead for a minute, all of it would
/// be gone.
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
    note("deliveries", deliveries::forget_ended(services).await);
}

/// Puts on the record what only waits for its window to pass, before the process ends.
pub async fn wind_up(services: &Services) {
    note("refusals by rate limit", record_floods(services, true).await);
    note("logins of nobody", record_strangers(services, true).await);
}

/// Destroys the factors whose suspension by a reset is over, forgets the sessions, one-use tokens and enrolments
/// that have lapsed, and mends when sessions were ended by a clock that was ahead, of the next `SWEPT_AT_ONCE` users; says of how many.
///
/// # Errors
/// [`Error::Busy`](crate::domain::Error::Busy) or [`Error::Internal`](crate::domain::Error::Internal); the same
/// users are looked at the next time.
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
            let range = sweep::find_range(db, from, SWEPT_AT_ONCE)?;
            let suspended = sweep::find_suspended(db, &range, before)?;
            let lapsed = sweep::find_lapsed(db, &range, at)?;
            let ahead = sweep::find_ended_after(db, &range, at + AHEAD)?;
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

/// Lets reset calls count as of now that a clock which was ahead has put into the future, where they would count
/// against every budget until that time has come.
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

/// Forgets the reset calls that no policy may ask for any more, some at a time.
async fn forget_calls(services: &Services) -> Result<usize> {
    // A day more than the longest window reaches.
    let days = i64::from(HISTORY_DAYS_MAX) + 1;
    let before = services.clock.now() - SignedDuration::from_hours(24 * days);
    services
        .store
        .write(move |tx| requests::clear_old_calls(tx, before))
        .await
}

/// Forgets approvals that ended long ago, some at a time; the trail has them.
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

/// Some users to a transaction, so that nobody waits for all of them.
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
        Err(error) => tracing::error!(what, ?error, "could not be tidied, trying again later"),
    }
}
