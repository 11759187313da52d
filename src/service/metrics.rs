//! Metrics for an operator's collector, in the Prometheus text format (exposition format 0.0.4).
//!
//! A dozen counters need no registry: each lives where it is counted and is written out here. Labels are few
//! and name plugins, statuses and channels, never a user, an address or an organisation.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::{Services, plugins};
use crate::domain::{Error, Result};
use crate::store::audit::checkpoints;
use crate::store::{deliveries, wal_bytes};

/// The outcomes of reset calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetEnd {
    /// The factors were removed.
    Done,
    /// A policy denied it.
    Denied,
    /// A further admin has to approve.
    AwaitsApproval,
    /// A policy failed, and its binding fails closed.
    PolicyFailed,
    /// The caller may not do it, or there is nothing to reset.
    Refused,
    /// Rate limit exceeded.
    RateLimited,
    /// The appliance failed.
    Error,
}

impl ResetEnd {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Denied,
        Self::AwaitsApproval,
        Self::PolicyFailed,
        Self::Refused,
        Self::RateLimited,
        Self::Error,
    ];

    /// Returns the outcome for a refusal on which no policy has decided.
    pub(super) fn refused(error: &Error) -> Self {
        match error {
            Error::RateLimited { .. } => Self::RateLimited,
            Error::Internal(_) | Error::Busy { .. } | Error::Unwritable { .. } | Error::Stale => Self::Error,
            _ => Self::Refused,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::AwaitsApproval => "awaits-approval",
            Self::PolicyFailed => "policy-failed",
            Self::Refused => "refused",
            Self::RateLimited => "rate-limited",
            Self::Error => "error",
        }
    }
}

/// Counters since the server's start.
#[derive(Debug)]
pub struct Counts {
    resets: [AtomicU64; ResetEnd::ALL.len()],
    /// Answers by status, from 100.
    requests: Box<[AtomicU64]>,
    /// When the newest scheduled backup was made, in Unix seconds; 0 if none is known.
    backed_up: AtomicU64,
    /// Panics of background tasks.
    panics: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            resets: Default::default(),
            requests: (100..600).map(|_| AtomicU64::new(0)).collect(),
            backed_up: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        }
    }
}

impl Counts {
    pub(super) fn reset_ended(&self, end: ResetEnd) {
        self.resets[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Records a completed scheduled backup.
    pub(super) fn backed_up(&self, at: Timestamp) {
        let at = u64::try_from(at.as_second()).unwrap_or_default();
        self.backed_up.store(at, Ordering::Relaxed);
    }

    /// Counts a background task that panicked and has to be restarted.
    pub fn task_panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer by its status.
    pub fn answered(&self, status: u16) {
        if let Some(count) = self.requests.get(usize::from(status).wrapping_sub(100)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns all metrics as text. Blocks for a read of an index.
///
/// # Errors
/// If the store can't be read.
pub fn exposition(services: &Services) -> Result<String> {
    let mut text = String::with_capacity(16 << 10);
    let mut family = |of: (&str, &str), help: &str, samples: &[(String, u64)]| {
        write_family(&mut text, of, help, samples.iter().cloned());
    };
    let one = |value: u64| [(String::new(), value)];
    let some = |value: Option<u64>| {
        value
            .map(|value| (String::new(), value))
            .into_iter()
            .collect::<Vec<_>>()
    };

    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family(
        ("latchkey_build_info", "gauge"),
        "The running version.",
        &[(version, 1)],
    );
    let resets: Vec<_> = ResetEnd::ALL
        .into_iter()
        .map(|end| {
            let count = &services.counts.resets[end as usize];
            (
                format!("{{outcome=\"{}\"}}", end.as_str()),
                count.load(Ordering::Relaxed),
            )
        })
        .collect();
    family(
        ("latchkey_resets_total", "counter"),
        "Calls of the MFA reset, by how they ended.",
        &resets,
    );
    let requests: Vec<_> = (100..)
        .zip(&services.counts.requests)
        .map(|(status, count): (u16, _)| (format!("{{status=\"{status}\"}}"), count.load(Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect();
    family(
        ("latchkey_http_requests_total", "counter"),
        "Requests answered, by status.",
        &requests,
    );

    let writer = services.store.writer_stats();
    family(
        ("latchkey_writer_queue_length", "gauge"),
        "Changes that wait for the writer.",
        &one(writer.waiting),
    );
    family(
        ("latchkey_writer_commits_total", "counter"),
        "Commits, each of one or more changes.",
        &one(writer.commits),
    );
    family(
        ("latchkey_writer_changes_total", "counter"),
        "Changes committed.",
        &one(writer.changes),
    );
    family(
        ("latchkey_store_failing", "gauge"),
        "1 while changes can't be written to disk.",
        &one(services.store.is_failing().into()),
    );
    family(
        ("latchkey_wal_bytes", "gauge"),
        "Size of the database's write-ahead log on the disk.",
        &one(wal_bytes(services.store.path())),
    );
    family(
        ("latchkey_background_panics_total", "counter"),
        "Background tasks that panicked and were restarted.",
        &one(services.counts.panics.load(Ordering::Relaxed)),
    );
    let (owed, dead, signed) = services.store.read(|db| {
        let (_, dead) = deliveries::count_deliveries(db)?;
        Ok((
            deliveries::count_owed(db)?,
            dead,
            checkpoints::find_newest_checkpoint(db)?,
        ))
    })?;
    let now = services.clock.now().as_millisecond();
    let signed_ago = signed.map(|(_, at, _)| u64::try_from((now - at) / 1_000).unwrap_or_default());
    let owed: Vec<_> = owed
        .into_iter()
        .map(|(channel, count)| (format!("{{channel=\"{}\"}}", channel.as_str()), count))
        .collect();
    family(
        ("latchkey_deliveries_owed", "gauge"),
        "Mails, webhook calls and syslog messages waiting to be sent.",
        &owed,
    );
    family(
        ("latchkey_deliveries_dead", "gauge"),
        "Mails, webhook calls and syslog messages that were given up.",
        &one(dead),
    );
    // No sample until a backup exists: alerting on its absence is the collector's job.
    family(
        ("latchkey_backup_last_success_timestamp_seconds", "gauge"),
        "When the newest scheduled backup was made.",
        &some(Some(services.counts.backed_up.load(Ordering::Relaxed)).filter(|at| *at > 0)),
    );
    family(
        ("latchkey_checkpoint_age_seconds", "gauge"),
        "Age of the newest signed checkpoint of the trail.",
        &some(signed_ago),
    );
    family(
        ("latchkey_policy_busy_total", "counter"),
        "Evaluations refused because all turns of the organisation were in use.",
        &one(services.plugin_host.busy_count()),
    );
    text += &plugins::metrics_by_version(services);
    Ok(text)
}

/// Writes a metric family: its samples by label set, which is in braces or empty.
pub(super) fn write_family(
    text: &mut String,
    (name, kind): (&str, &str),
    help: &str,
    samples: impl IntoIterator<Item = (String, u64)>,
) {
    write_head(text, (name, kind), help);
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// Writes the `HELP` and `TYPE` lines of a family.
pub(super) fn write_head(text: &mut String, (name, kind): (&str, &str), help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_ends_are_counted_each_by_itself() {
        let counts = Counts::default();
        for status in [200, 200, 404, 599, 100] {
            counts.answered(status);
        }
        counts.answered(99); // no status; counted nowhere
        counts.answered(600);
        let at = |status: usize| counts.requests[status - 100].load(Ordering::Relaxed);
        assert_eq!((at(200), at(404), at(599), at(100)), (2, 1, 1, 1));
        let all: u64 = counts
            .requests
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum();
        assert_eq!(all, 5);

        for (at, end) in ResetEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at, "{end:?} has its place");
        }
        assert_eq!(ResetEnd::refused(&Error::Stale), ResetEnd::Error);
        assert_eq!(ResetEnd::refused(&Error::NotOrgAdmin), ResetEnd::Refused);
    }
}
