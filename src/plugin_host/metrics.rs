//! Plain counters of what each binding and each version of a plugin did, for whoever exports them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::record::{Asked, CallEnd, Digest, FailureCause, Usage};
use crate::domain::policy::Answer;

/// What one binding, or one version of a plugin wherever it is bound, did since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginCounters {
    /// Calls of hooks.
    pub calls: u64,
    /// Calls that denied.
    pub denials: u64,
    /// Calls that gave no answer, by cause.
    pub failures: BTreeMap<FailureCause, u64>,
    /// Failures since the last answer, of the version that was asked last; of a version by itself not counted.
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

/// What one version of a plugin did since the start of the process, wherever it is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionCounters {
    /// Name of the plugin; [`VersionCounters::OTHERS`] for all that came after the first thousand.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: Digest,
    /// What it did.
    pub counters: PluginCounters,
}

impl VersionCounters {
    /// Stands for the versions that are counted together.
    pub const OTHERS: &'static str = "(others)";
}

/// Whose call it was.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) binding_id: Uuid,
    pub(super) plugin: &'a str,
    pub(super) version: &'a str,
    pub(super) digest: Digest,
    pub(super) asked: Asked,
}

/// Counters by binding, and by version: these never go down, whatever is unbound.
#[derive(Default)]
pub(super) struct Metrics {
    counted: Mutex<Counted>,
    busy: AtomicU64,
}

#[derive(Default)]
struct Counted {
    bindings: HashMap<Uuid, PluginCounters>,
    versions: HashMap<Digest, VersionCounters>,
    /// Failures in a row, by version: a canary that always fails must not be excused by the version
    /// before it, which answers.
    in_a_row: HashMap<(Uuid, Digest), u32>,
    /// Whose last call overran its time, or kept a thread for long at a stretch.
    slow: HashSet<(Uuid, Digest)>,
}

impl Metrics {
    /// Counts a call, and for how long it kept a thread at a stretch. Returns the failures of this version of the
    /// binding in a row.
    pub(super) fn note(&self, caller: Caller<'_>, end: &CallEnd, usage: Usage, longest: Duration) -> u32 {
        let Caller {
            binding_id,
            digest,
            asked,
            ..
        } = caller;
        let mut counted = self.lock();
        let in_a_row = match end {
            CallEnd::Answer(_) => {
                counted.in_a_row.remove(&(binding_id, digest));
                0
            }
            CallEnd::Failure(_) => {
                let times = counted.in_a_row.entry((binding_id, digest)).or_default();
                *times = times.saturating_add(1);
                *times
            }
        };
        let overran = matches!(end, CallEnd::Failure(failure) if failure.cause == FailureCause::Deadline);
        if overran || longest > STRETCH_MAX {
            counted.slow.insert((binding_id, digest));
        } else {
            counted.slow.remove(&(binding_id, digest));
        }
        let counters = counted.bindings.entry(binding_id).or_default();
        counters.note(asked, end, usage);
        counters.failures_in_a_row = in_a_row;
        counted.version(caller).note(asked, end, usage);
        in_a_row
    }

    /// Whether the last call of this version of a binding was too slow for the next to run in place.
    pub(super) fn slow(&self, binding_id: Uuid, digest: Digest) -> bool {
        self.lock().slow.contains(&(binding_id, digest))
    }

    /// Counts an evaluation that got no turn: no plugin was called.
    pub(super) fn note_busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn busy(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }

    pub(super) fn versions(&self) -> Vec<VersionCounters> {
        let mut versions: Vec<_> = self.lock().versions.values().cloned().collect();
        versions.sort_by(|a, b| (&a.plugin, a.digest.0).cmp(&(&b.plugin, b.digest.0)));
        versions
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
        counted.slow.retain(|(id, _)| *id != binding_id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// A collector keeps each label that it ever saw: so many versions have their own, the rest share one.
    fn version(&mut self, caller: Caller<'_>) -> &mut PluginCounters {
        let full = self.versions.len() >= VERSIONS_MAX && !self.versions.contains_key(&caller.digest);
        let (digest, plugin, version) = if full {
            (Digest([0; 32]), VersionCounters::OTHERS, "")
        } else {
            (caller.digest, caller.plugin, caller.version)
        };
        let version = self.versions.entry(digest).or_insert_with(|| VersionCounters {
            plugin: plugin.to_owned(),
            version: version.to_owned(),
            digest,
            counters: PluginCounters::default(),
        });
        &mut version.counters
    }
}

/// A guest lets go of its thread at every tick, unless the host copies or fills memory for it: a stretch of some
/// ticks of processor time is a bulk operation of megabytes, which nothing interrupts.
const STRETCH_MAX: Duration = Duration::from_millis(8);
/// Versions of plugins that are counted apart.
const VERSIONS_MAX: usize = 1_000;

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
        let note = |digest, end, usage| metrics.note(caller(id, digest), end, usage, Duration::ZERO);
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

        let late = CallEnd::Failure(Failure {
            cause: FailureCause::Deadline,
            detail: String::new(),
        });
        let (short, long) = (STRETCH_MAX, STRETCH_MAX + Duration::from_millis(1));
        for (end, longest, slow) in [
            (&late, short, true),
            (&failed, short, false),
            (&late, short, true),
            (&answered, short, false),
            (&answered, long, true),
            (&answered, short, false),
            (&failed, long, true),
        ] {
            metrics.note(caller(id, one), end, usage, longest);
            assert_eq!((metrics.slow(id, one), metrics.slow(id, two)), (slow, false));
        }
        metrics.forget(id);
        assert!(!metrics.slow(id, one));
    }

    #[test]
    fn versions_are_counted_wherever_they_are_bound_and_never_forgotten() {
        let metrics = Metrics::default();
        let answered = CallEnd::Answer(Answer::Allow(vec![]));
        let note = |binding, version: u32| {
            let digest = Digest::of(&version.to_be_bytes());
            metrics.note(
                caller(Uuid::from_u128(binding), digest),
                &answered,
                Usage::default(),
                Duration::ZERO,
            );
        };
        note(1, 0);
        note(2, 0);
        metrics.forget(Uuid::from_u128(1));
        let versions = metrics.versions();
        assert_eq!(versions.len(), 1);
        assert_eq!(
            (versions[0].plugin.as_str(), versions[0].counters.calls),
            ("p", 2)
        );

        for version in 0..2_000 {
            note(3, version);
        }
        let versions = metrics.versions();
        assert_eq!(versions.len(), VERSIONS_MAX + 1);
        let others = versions.iter().find(|v| v.plugin == VersionCounters::OTHERS);
        assert_eq!(others.expect("beyond the bound").counters.calls, 1_000);
    }

    fn caller(binding_id: Uuid, digest: Digest) -> Caller<'static> {
        Caller {
            binding_id,
            plugin: "p",
            version: "1.0.0",
            digest,
            asked: Asked::Current,
        }
    }
}
