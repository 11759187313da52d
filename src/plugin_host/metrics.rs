//! Plain counters of what each binding did, for whoever exports them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::record::{Asked, CallEnd, Digest, FailureCause, Usage};
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
    /// Failures since the last answer, of the version that was asked last.
    pub failures_in_a_row: u32,
    /// Calls of the version before, since the one that is bound had failed.
    pub fallbacks: u64,
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

    fn note(&mut self, asked: Asked, end: &CallEnd, usage: Usage) {
        self.calls += 1;
        self.micros += usage.elapsed_micros;
        let bucket = Self::BUCKETS.partition_point(|bound| *bound < usage.elapsed_micros);
        self.buckets[bucket] += 1;
        self.peak_memory_bytes = self.peak_memory_bytes.max(usage.peak_memory_bytes);
        self.fallbacks += u64::from(asked == Asked::Fallback);
        match end {
            CallEnd::Answer(answer) => self.denials += u64::from(matches!(answer, Answer::Deny(_))),
            CallEnd::Failure(failure) => *self.failures.entry(failure.cause).or_default() += 1,
        }
    }
}

/// Counters by binding.
#[derive(Default)]
pub(super) struct Metrics(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    bindings: HashMap<Uuid, PluginCounters>,
    /// Failures in a row, by version: a canary that always fails must not be excused by the version
    /// before it, which answers.
    in_a_row: HashMap<(Uuid, Digest), u32>,
}

impl Metrics {
    /// Counts a call. Returns the failures of this version of the binding in a row.
    pub(super) fn note(
        &self,
        binding_id: Uuid,
        digest: Digest,
        asked: Asked,
        end: &CallEnd,
        usage: Usage,
    ) -> u32 {
        let mut counted = self.lock();
        let in_a_row = match end {
            CallEnd::Answer(_) => {
                counted.in_a_row.remove(&(binding_id, digest));
                0
            }
            CallEnd::Failure(_) => {
                let in_a_row = counted.in_a_row.entry((binding_id, digest)).or_default();
                *in_a_row = in_a_row.saturating_add(1);
                *in_a_row
            }
        };
        let counters = counted.bindings.entry(binding_id).or_default();
        counters.note(asked, end, usage);
        counters.failures_in_a_row = in_a_row;
        in_a_row
    }

    pub(super) fn of(&self, binding_id: Uuid) -> Option<PluginCounters> {
        self.lock().bindings.get(&binding_id).cloned()
    }

    pub(super) fn all(&self) -> Vec<(Uuid, PluginCounters)> {
        self.lock()
            .bindings
            .iter()
            .map(|(id, counters)| (*id, counters.clone()))
            .collect()
    }

    pub(super) fn forget(&self, binding_id: Uuid) {
        let mut counted = self.lock();
        counted.bindings.remove(&binding_id);
        counted.in_a_row.retain(|(id, _), _| *id != binding_id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
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
        let answered = CallEnd::Answer(Answer::Allow(vec![]));
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        let note = |digest, end, usage| metrics.note(id, digest, Asked::Current, end, usage);
        assert_eq!(note(one, &failed, usage), 1);
        assert_eq!(note(two, &answered, usage), 0, "another version's answer");
        assert_eq!(note(one, &failed, usage), 2);
        assert_eq!(note(one, &answered, usage), 0);
        let long = Usage {
            elapsed_micros: 1_000_000,
            ..usage
        };
        assert_eq!(note(one, &failed, long), 1);
        let counters = metrics.of(id).expect("it was called");
        assert_eq!((counters.calls, counters.failures[&FailureCause::Trap]), (5, 3));
        assert_eq!((counters.buckets[2], counters.buckets[10]), (4, 1));
        metrics.forget(id);
        assert_eq!(metrics.of(id), None);
    }
}
