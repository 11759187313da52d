//! What must be done now and then, whether anybody asks or not.

use super::reset::record_floods;
use super::{Services, approvals, deliveries, plugins, session, token_keys, trail, users};
use crate::domain::Result;
use crate::store::requests;

/// Forgets what has lapsed: counts of the limiter, refusals of windows that have passed (which go on
/// the record), sessions, factors whose suspension is over, lapsed approvals, remembered outcomes, decisions
/// past their retention. Prunes the trail where it is older than its organisation keeps it, erases what is
/// to be erased, rotates token keys. Meant for once a minute; what
/// fails is logged and done the next time.
pub async fn tidy(services: &Services) {
    services.limiter.retain();
    note("refusals by rate limit", record_floods(services, false).await);
    note(
        "suspended factors",
        users::destroy_suspended_factors(services).await,
    );
    note("lapsed sessions", session::clear_lapsed(services).await);
    note("token keys", token_keys::rotate_keys_when_due(services).await);
    note(
        "entries past their retention",
        trail::prune_expired(services).await,
    );
    note(
        "personal data to be erased",
        trail::carry_on_erasures(services).await,
    );
    note("lapsed approvals", approvals::expire_approvals(services).await);
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
}

fn note(what: &'static str, done: Result<usize>) {
    match done {
        Ok(0) => {}
        Ok(count) => tracing::debug!(what, count, "tidied"),
        Err(error) => tracing::error!(what, ?error, "could not be tidied, trying again later"),
    }
}
