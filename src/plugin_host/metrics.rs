//! Counters of what each binding and each version of a plugin did, to be exported.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::record::{Asked, CallEnd, Digest, FailureCause, Usage};
use super::scheduling::STRETCH_MAX;
use crate::domain::policy::{Answer, Hook};

/// Counters of one binding, or of one version of a plugin across all bindings, since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginCounters {
    /// Calls of hooks.
    pub calls: u64,
    /// Calls that denied.
    pub denials: u64,
    /// Calls that gave no usable answer, by cause.
    pub failures: BTreeMap<FailureCause, u64>,
    /// Consecutive failures of the version that was asked last, at the hook where it has more of them; always 0 in
    /// the counters of a version.
    pub failures_in_a_row: u32,
    /// Calls of the previous version because the bound one had failed.
    pub fallbacks: u64,
    /// Total wall-clock time of all calls, µs.
    pub micros: u64,
    /// Calls by duration: each bucket up to the bound in [`PluginCounters::BUCKETS`], the last one beyond them.
    pub buckets: [u64; PluginCounters::BUCKETS.len() + 1],
    /// The largest linear memory of any call, bytes.
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

/// Counters of one version of a plugin across all bindings, since the start of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionCounters {
    /// Name of the plugin; [`VersionCounters::OTHERS`] for the versions after the first thousand.
    pub plugin: String,
    /// Version of the plugin.
    pub version: String,
    /// SHA-256 of the plugin file.
    pub digest: Digest,
    /// Its counters.
    pub counters: PluginCounters,
}

impl VersionCounters {
    /// Name under which the versions beyond the bound are counted together.
    pub const OTHERS: &'static str = "(others)";
}

/// The binding and version that a call belongs to.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) binding_id: Uuid,
    pub(super) plugin: &'a str,
    pub(super) version: &'a str,
    pub(super) digest: Digest,
    pub(super) config_digest: Digest,
    pub(super) hook: Hook,
    pub(super) asked: Asked,
}

impl Caller<'_> {
    fn version_of_binding(&self) -> VersionOfBinding {
        (self.binding_id, self.digest, self.config_digest)
    }
}

/// A binding with the digests of a file and of a configuration: another configuration is another version.
pub(super) type VersionOfBinding = (Uuid, Digest, Digest);

/// Counters by binding, and by version. The latter never decrease, even when a binding is removed.
#[derive(Default)]
pub(super) struct Metrics {
    counted: Mutex<Counted>,
    busy: AtomicU64,
}

#[derive(Default)]
struct Counted {
    bindings: HashMap<Uuid, PluginCounters>,
    versions: HashMap<Digest, VersionCounters>,
    /// Consecutive failures by version and hook: the answers of the previous version must not hide a canary that
    /// always fails, nor those at one hook that it always fails at the other.
    in_a_row: HashMap<(VersionOfBinding, Hook), u32>,
    /// Versions that overran their time, or kept a thread too long without yielding, with the number of quick
    /// calls since.
    slow: HashMap<VersionOfBinding, u8>,
}

impl Metrics {
    /// Counts a call, and notes whether it was slow: it overran its time, or `longest`, its longest stretch
    /// without yielding, was too long. Returns the consecutive failures of this version of the binding at this
    /// hook.
    pub(super) fn note(&self, caller: Caller<'_>, end: &CallEnd, usage: Usage, longest: Duration) -> u32 {
        let version = caller.version_of_binding();
        let mut counted = self.lock();
        let in_a_row = match end {
            CallEnd::Answer(_) => {
                counted.in_a_row.remove(&(version, caller.hook));
                0
            }
            CallEnd::Failure(_) => {
                let times = counted.in_a_row.entry((version, caller.hook)).or_default();
                *times = times.saturating_add(1);
                *times
            }
        };
        if matches!(end, CallEnd::Failure(failure) if failure.cause == FailureCause::Busy) {
            self.note_busy();
        }
        let overran = matches!(end, CallEnd::Failure(failure) if failure.cause == FailureCause::Deadline);
        if overran || longest > STRETCH_MAX {
            counted.slow.insert(version, 0);
        } else if let Some(quick) = counted.slow.get_mut(&version) {
            *quick += 1;
            if *quick == QUICK_AGAIN {
                counted.slow.remove(&version);
            }
        }
        let at = |hook| {
            counted
                .in_a_row
                .get(&(version, hook))
                .copied()
                .unwrap_or_default()
        };
        let most = at(Hook::BeforeReset).max(at(Hook::AfterReset));
        let counters = counted.bindings.entry(caller.binding_id).or_default();
        counters.note(caller.asked, end, usage);
        counters.failures_in_a_row = most;
        counted.version(caller).note(caller.asked, end, usage);
        in_a_row
    }

    /// Returns whether this version of a binding was too slow lately for its next call to run in place.
    pub(super) fn slow(&self, version: VersionOfBinding) -> bool {
        self.lock().slow.contains_key(&version)
    }

    /// Counts an evaluation that got no slot: no plugin was called.
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

    pub(super) fn forget(&self, binding_id: Uuid) {
        self.lock().bindings.remove(&binding_id);
        self.forget_versions(binding_id, |_, _| false);
    }

    /// Forgets consecutive failures and slowness of all versions of a binding except those that `keeps` names.
    pub(super) fn forget_versions(&self, binding_id: Uuid, keeps: impl Fn(Digest, Digest) -> bool) {
        let stays = |(id, digest, config): &VersionOfBinding| *id != binding_id || keeps(*digest, *config);
        let mut counted = self.lock();
        counted.in_a_row.retain(|(version, _), _| stays(version));
        counted.slow.retain(|version, _| stays(version));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Returns the counters of a version. A collector keeps each label that it ever saw, so only the first
    /// [`VERSIONS_MAX`] versions have their own counters; the rest share one.
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

/// Quick calls after which a slow one is forgotten. With fewer, a guest that is slow every other time would run
/// in place each time.
const QUICK_AGAIN: u8 = 100;
/// Maximum number of plugin versions that are counted separately.
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
        let configured = |config_digest| Caller {
            config_digest,
            ..caller(id, one)
        };
        assert_eq!(note(one, &failed, usage), 1);
        assert_eq!(note(two, &answered, usage), 0, "another version's answer");
        assert_eq!(note(one, &failed, usage), 2);
        let other = metrics.note(configured(two), &answered, usage, Duration::ZERO);
        assert_eq!(other, 0, "another configuration's answer");
        assert_eq!(note(one, &failed, usage), 3);
        assert_eq!(note(one, &answered, usage), 0);
        let long = Usage {
            elapsed_micros: 1_000_000,
            ..usage
        };
        assert_eq!(note(one, &failed, long), 1);
        let counters = metrics.of(id).expect("it was called");
        assert_eq!((counters.calls, counters.failures[&FailureCause::Trap]), (7, 4));
        assert_eq!((counters.buckets[2], counters.buckets[10]), (6, 1));
        metrics.note(configured(two), &failed, usage, Duration::ZERO);
        metrics.forget_versions(id, |_, config| config == two);
        assert_eq!(note(one, &failed, usage), 1, "forgotten");
        assert_eq!(metrics.note(configured(two), &failed, usage, Duration::ZERO), 2);
        metrics.forget(id);
        assert_eq!(metrics.of(id), None);
    }

    #[test]
    fn an_answer_at_one_hook_does_not_excuse_the_other() {
        let (metrics, id) = (Metrics::default(), Uuid::from_u128(1));
        let before = caller(id, Digest([1; 32]));
        let after = Caller {
            hook: Hook::AfterReset,
            ..before
        };
        let failed = CallEnd::Failure(Failure {
            cause: FailureCause::Trap,
            detail: String::new(),
        });
        let answered = CallEnd::Answer(Answer::Allow(vec![]));
        let note = |caller, end| metrics.note(caller, end, Usage::default(), Duration::ZERO);
        for reset in 1..=3 {
            assert_eq!(note(before, &answered), 0);
            let shown = metrics.of(id).expect("it was called").failures_in_a_row;
            assert_eq!(shown, reset - 1, "those at the other hook");
            assert_eq!(note(after, &failed), reset);
        }
        assert_eq!(note(after, &answered), 0);
        assert_eq!(metrics.of(id).expect("it was called").failures_in_a_row, 0);
    }

    #[test]
    fn whoever_was_slow_once_is_so_until_a_hundred_calls_were_not() {
        let (metrics, id) = (Metrics::default(), Uuid::from_u128(1));
        let answered = CallEnd::Answer(Answer::Allow(vec![]));
        let failed = |cause| {
            CallEnd::Failure(Failure {
                cause,
                detail: String::new(),
            })
        };
        let (late, trapped) = (failed(FailureCause::Deadline), failed(FailureCause::Trap));
        let (one, two) = (caller(id, Digest([1; 32])), caller(id, Digest([2; 32])));
        let slow = |of: Caller<'_>| metrics.slow(of.version_of_binding());
        let (short, long) = (STRETCH_MAX, STRETCH_MAX + Duration::from_millis(1));
        for (end, longest) in [(&late, short), (&answered, long), (&trapped, long)] {
            assert!(!slow(one));
            metrics.note(one, end, Usage::default(), longest);
            for quick in 0..QUICK_AGAIN {
                assert!(slow(one) && !slow(two), "{end:?}, {quick}");
                let good = if quick % 2 == 0 { &answered } else { &trapped };
                metrics.note(one, good, Usage::default(), short);
            }
        }
        metrics.note(one, &late, Usage::default(), short);
        metrics.forget(id);
        assert!(!slow(one));
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
            config_digest: Digest([0; 32]),
            hook: Hook::BeforeReset,
            asked: Asked::Current,
        }
    }
}
