//! Background duties: alarms, re-checks of live decisions, retention.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use super::recheck::{Deviation, deviations};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::audit::{ActorRef, AuditResult, Event, EventType, Resource};
use crate::domain::policy::Hook;
use crate::plugin_host::{CallEnd, DecisionRecord, Digest, FailureCause};
use crate::service::Services;
use crate::store::bindings::VersionRow;
use crate::store::{audit, configurations, decisions, plugins};

/// Maximum resets that wait for their re-check; further ones are not re-checked.
const WAITING_MAX: usize = 256;
/// Resets whose decisions are deleted in one transaction.
const FORGOTTEN_AT_ONCE: u32 = 500;

/// A binding with the digests of the file and of the configuration, and the hook at which it is asked: a version
/// that answers at one hook may always fail at the other.
type Version = (Uuid, Digest, Digest, Hook);

/// Versions of bindings that have raised an alarm and have not answered since.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    raised: Mutex<HashSet<Version>>,
    count: AtomicU64,
}

/// An alarm to be recorded in the transaction of the reset that raised it.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// Id of its audit entry.
    pub entry_id: Uuid,
    /// The audit entry.
    pub event: Event,
    of: Version,
}

impl Alarms {
    fn raised(&self) -> MutexGuard<'_, HashSet<Version>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the failures of versions that a binding no longer names, because it was changed or removed.
pub(super) fn forget_versions(services: &Services, binding: Uuid, named: &[&VersionRow]) {
    let keeps = |plugin: Digest, config: Digest| {
        let mut named = named.iter();
        named.any(|version| version.plugin_digest == plugin.0 && version.config_digest == config.0)
    };
    services.plugin_host.forget_versions(binding, keeps);
    let mut raised = services.bindings.alarms().raised();
    raised.retain(|(id, plugin, config, _)| *id != binding || keeps(*plugin, *config));
}

/// Returns the alarms that these calls raise. A version whose consecutive failures at a hook reach the operator's
/// threshold raises one alarm, and no further one until it has answered there again; it continues to be asked. The
/// alarms are for the transaction that records the calls; if that fails, call [`withdraw_alarms`].
pub fn raise_alarms(
    services: &Services,
    organization: OrganizationId,
    records: &[DecisionRecord],
) -> Vec<Alarm> {
    let alarms = services.bindings.alarms();
    let mut raised = alarms.raised();
    let mut due = Vec::new();
    for record in records {
        let of = (
            record.binding_id,
            record.digest,
            record.config_digest,
            record.hook,
        );
        match &record.end {
            CallEnd::Answer(_) => {
                if raised.remove(&of) {
                    tracing::info!(plugin = %record.plugin, version = %record.version,
                        digest = %record.digest, binding = %record.binding_id, "a policy plugin answers again");
                }
            }
            CallEnd::Failure(failure) => {
                let often = record.failures_in_a_row >= services.settings.plugins.alarm_after;
                if often && raised.insert(of) {
                    tracing::error!(plugin = %record.plugin, version = %record.version,
                        digest = %record.digest, binding = %record.binding_id,
                        failures_in_a_row = record.failures_in_a_row, "a policy plugin fails repeatedly");
                    alarms.count.fetch_add(1, Ordering::Relaxed);
                    let event = alarm(organization, record, "failures-in-a-row")
                        .with("failuresInARow", record.failures_in_a_row)
                        .with("cause", failure.cause.as_str())
                        .with("detail", failure.detail.as_str());
                    due.push(Alarm {
                        entry_id: services.entropy.uuid(services.clock.now()),
                        event,
                        of,
                    });
                }
            }
        }
    }
    due
}

/// Withdraws alarms whose transaction failed, so that the next failure raises them again.
pub fn withdraw_alarms(services: &Services, alarms: &[Alarm]) {
    let mut raised = services.bindings.alarms().raised();
    for alarm in alarms {
        raised.remove(&alarm.of);
    }
}

/// Returns the number of alarms raised since the start, for metrics.
#[must_use]
pub fn alarm_count(services: &Services) -> u64 {
    services.bindings.alarms().count.load(Ordering::Relaxed)
}

fn alarm(organization: OrganizationId, record: &DecisionRecord, reason: &str) -> Event {
    Event::new(
        EventType::PolicyPluginAlarm,
        Some(organization),
        ActorRef::system(),
    )
    .on(Resource::other(
        "PLUGIN",
        record.digest,
        Some(record.plugin.clone()),
    ))
    .ended(AuditResult::Failure, "A policy plugin needs attention")
    .with("reason", reason)
    .with("binding", record.binding_id.to_string())
    .with("version", record.version.as_str())
    .with("hook", json!(record.hook))
}

/// Sampled resets whose decisions are to be re-checked.
#[derive(Debug, Default)]
pub(super) struct Rechecks {
    seen: AtomicU64,
    waiting: Mutex<VecDeque<(OrganizationId, u64)>>,
    more: Notify,
}

/// Queues one in `recheck_one_in` resets for a re-check.
pub fn sample_for_recheck(services: &Services, organization: OrganizationId, sequence: u64) {
    let one_in = u64::from(services.settings.plugins.recheck_one_in);
    let rechecks = services.bindings.rechecks();
    if one_in == 0
        || !rechecks
            .seen
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(one_in)
    {
        return;
    }
    let mut waiting = rechecks.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.len() < WAITING_MAX {
        waiting.push_back((organization, sequence));
        rechecks.more.notify_one();
    }
}

/// Re-checks sampled resets as they arrive, until the future is dropped.
pub async fn recheck_forever(services: &Services) {
    loop {
        services.bindings.rechecks().more.notified().await;
        recheck_waiting(services).await;
    }
}

/// Re-checks every reset in the queue. A version that now answers differently than recorded raises an alarm:
/// either it is not the pure function that it must be, or the record was changed. A reset that can't be
/// re-checked is logged and does not hold up the others. Returns the number of alarms.
pub async fn recheck_waiting(services: &Services) -> usize {
    let mut alarms = 0;
    loop {
        let next = services
            .bindings
            .rechecks()
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some((organization, sequence)) = next else {
            return alarms;
        };
        match recheck(services, organization, sequence).await {
            Ok(raised) => alarms += raised,
            Err(error) => tracing::error!(sequence, %error, "a reset's decisions can't be re-checked"),
        }
    }
}

/// Re-checks one reset. Returns the number of alarms raised.
async fn recheck(services: &Services, organization: OrganizationId, sequence: u64) -> Result<usize> {
    let mut alarms = 0;
    for Deviation { record, replayed } in deviations(services, sequence).await? {
        if is_of_the_moment(&replayed) {
            continue;
        }
        tracing::error!(plugin = %record.plugin, digest = %record.digest, sequence,
            "a policy plugin no longer gives the recorded answer: alarm");
        let event = alarm(organization, &record, "replay-differs")
            .with("sequence", sequence)
            .with("recorded", Value::from(&record.end))
            .with("replayed", Value::from(&replayed));
        let at = services.clock.now();
        let id = services.entropy.uuid(at);
        services
            .store
            .write(move |tx| audit::append_entry(tx, at, id, &event).map(|_| ()))
            .await?;
        services.bindings.alarms().count.fetch_add(1, Ordering::Relaxed);
        alarms += 1;
    }
    Ok(alarms)
}

/// Returns whether a call failed for a shortage of the machine, which says nothing about the module.
fn is_of_the_moment(end: &CallEnd) -> bool {
    let short = [FailureCause::Deadline, FailureCause::Memory, FailureCause::Busy];
    matches!(end, CallEnd::Failure(failure) if short.contains(&failure.cause))
}

/// Deletes questions and decisions past their retention, and the plugins and configurations that only they
/// needed. Returns the number of resets.
///
/// # Errors
/// The store can't be written.
pub async fn forget_lapsed_decisions(services: &Services) -> Result<usize> {
    let days = i64::from(services.settings.plugins.decision_days);
    let before = services.clock.now() - SignedDuration::from_hours(24 * days);
    let mut forgotten = 0;
    loop {
        let some = services
            .store
            .write(move |tx| decisions::clear_lapsed_decisions(tx, before, FORGOTTEN_AT_ONCE))
            .await?;
        forgotten += some;
        if some < FORGOTTEN_AT_ONCE as usize {
            break;
        }
    }
    services
        .store
        .write(move |tx| {
            configurations::clear_unbound_configurations(tx, before)?;
            plugins::clear_removed_plugins(tx, before)
        })
        .await?;
    Ok(forgotten)
}
