//! Plain counters of what each binding did, for whoever exports them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::record::{CallEnd, FailureCause, Usage};
use crate::domain::policy::Answer;

/// What one binding did since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginCounters {
    /// Calls of hooks.
    pub calls: u64,
    /// Calls that denied.
    pub denials: u64,
    /// Calls that gave no answer, by cause.
    pub failures: BTreeMap<FailureCause, u64>,
    /// Failures since the last answer.
    pub failures_in_a_row: u32,
    /// All calls together, µs of wall clock.
    pub micros: u64,
    /// Calls that took at most as many µs as [`PluginCounters::BUCKETS`] says; the last: longer.
    pub buckets: [u64; PluginCounters::BUCKETS.len() + 1],
    /// The largest linear memory of a call, bytes.
    pub peak_memory_bytes: u64,
}

impl PluginCounters {
    /// Upper bounds of the duration buckets, µs.
    pub const BUCKETS: [u64; 10] = [25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000];

    fn note(&mut self, end: &CallEnd, usage: Usage) -> u32 {
        self.calls += 1;
        self.micros += usage.elapsed_micros;
        let bucket = Self::BUCKETS.partition_point(|bound| *bound < usage.elapsed_micros);
        self.buckets[bucket] += 1;
        self.peak_memory_bytes = self.peak_memory_bytes.max(usage.peak_memory_bytes);
        match end {
            CallEnd::Answer(answer) => {
                self.denials += u64::from(matches!(answer, Answer::Deny(_)));
                self.failures_in_a_row = 0;
            }
            CallEnd::Failure(failure) => {
                *self.failures.entry(failure.cause).or_default() += 1;
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
            }
        }
        self.failures_in_a_row
    }
}

/// Counters by binding.
#[derive(Default)]
pub(super) struct Metrics(Mutex<HashMap<Uuid, PluginCounters>>);

impl Metrics {
    /// Counts a call. Returns the failures of this binding in a row.
    pub(super) fn note(&self, binding_id: Uuid, end: &CallEnd, usage: Usage) -> u32 {
        self.lock().entry(binding_id).or_default().note(end, usage)
    }

    pub(super) fn of(&self, binding_id: Uuid) -> Option<PluginCounters> {
        self.lock().get(&binding_id).cloned()
    }

    pub(super) fn all(&self) -> Vec<(Uuid, PluginCounters)> {
        self.lock()
            .iter()
            .map(|(id, counters)| (*id, counters.clone()))
            .collect()
    }

    pub(super) fn forget(&self, binding_id: Uuid) {
        self.lock().remove(&binding_id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, PluginCounters>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Failure;
    use super::*;

    #[test]
    fn failures_in_a_row_end_with_an_answer() {
        let metrics = Metrics::default();
        let id = Uuid::from_u128(1);
        let usage = Usage {
            elapsed_micros: 51,
            peak_memory_bytes: 65_536,
            fuel: None,
        };
        let failed = CallEnd::Failure(Failure {
            cause: FailureCause::Trap,
            detail: String::new(),
        });
        assert_eq!(metrics.note(id, &failed, usage), 1);
        assert_eq!(metrics.note(id, &failed, usage), 2);
        assert_eq!(
            metrics.note(id, &CallEnd::Answer(Answer::Allow(vec![])), usage),
            0
        );
        assert_eq!(
            metrics.note(
                id,
                &failed,
                Usage {
                    elapsed_micros: 1_000_000,
                    ..usage
                }
            ),
            1
        );
        let counters = metrics.of(id).expect("it was called");
        assert_eq!((counters.calls, counters.failures[&FailureCause::Trap]), (4, 3));
        assert_eq!((counters.buckets[2], counters.buckets[10]), (3, 1));
        metrics.forget(id);
        assert_eq!(metrics.of(id), None);
    }
}
