//! The only clock. Tests set it; the appliance reads the system's.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// Tells the time, truncated to milliseconds, so that a stored time equals the one that was judged.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System {
        started: Instant,
    },
    /// Milliseconds since the epoch.
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// Returns a clock that reads the system's time.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System {
            started: Instant::now(),
        })
    }

    /// Returns a clock that stands still until it is advanced, for tests.
    #[must_use]
    pub fn set_to(at: Timestamp) -> Self {
        Self(Source::Set(Arc::new(AtomicI64::new(at.as_millisecond()))))
    }

    /// Returns the current time, truncated to milliseconds.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the system's time"
    )]
    pub fn now(&self) -> Timestamp {
        let ms = match &self.0 {
            Source::System { .. } => Timestamp::now().as_millisecond(),
            Source::Set(ms) => ms.load(Ordering::SeqCst),
        };
        Timestamp::from_millisecond(ms).expect("a clock reads between the years -9999 and 9999")
    }

    /// Returns the time since a fixed point in the past. Unlike [`Clock::now`] it never goes back, so a
    /// correction of the host's time neither lifts nor prolongs a rate limit.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { started } => started.elapsed(),
            Source::Set(ms) => Duration::from_millis(ms.load(Ordering::SeqCst).try_into().unwrap_or(0)),
        }
    }

    /// Advances a set clock; has no effect on the system's clock.
    pub fn advance(&self, by: SignedDuration) {
        if let Source::Set(ms) = &self.0 {
            let by =
                i64::try_from(by.as_millis()).expect("tests move the clock by less than 292 million years");
            ms.fetch_add(by, Ordering::SeqCst);
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// Longest step between two readings, a minute apart, that is not taken for a jump of the clock.
const LONGEST_STEP: SignedDuration = SignedDuration::from_hours(24);
/// How long a clock is not trusted after a start or a jump: an operator who set it wrongly can correct it.
const EVEN_FOR: SignedDuration = SignedDuration::from_hours(6);

/// Tracks whether the clock has run without a jump for a while; until then nothing is deleted because of its
/// age.
#[derive(Debug, Default)]
pub struct EvenClock(Mutex<Option<Even>>);

#[derive(Clone, Copy, Debug)]
struct Even {
    seen: Timestamp,
    since: Timestamp,
}

impl EvenClock {
    /// Records `now` and returns whether the clock has run evenly for long enough. Call it at every reading.
    /// A machine that was off cannot be told from a clock that was set: both wait.
    pub fn is_even(&self, now: Timestamp) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *noted {
            Some(Even { seen, since }) if now >= seen && now.duration_since(seen) <= LONGEST_STEP => since,
            Some(Even { seen, .. }) => {
                tracing::warn!(from = %seen, to = %now, "the clock jumped: nothing is destroyed by its age for some hours");
                now
            }
            None => now,
        };
        *noted = Some(Even { seen: now, since });
        now.duration_since(since) >= EVEN_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_trusted_once_it_has_run_evenly_for_hours_and_anew_after_each_jump() {
        let clock = EvenClock::default();
        let at = |hours: i64| Timestamp::from_second(hours * 3600).expect("a time");
        assert!(!clock.is_even(at(1000)), "the first look");
        assert!(!clock.is_even(at(1005)));
        assert!(clock.is_even(at(1006)));
        assert!(clock.is_even(at(1030)), "a day without a look");
        assert!(!clock.is_even(at(1055)), "ahead");
        assert!(!clock.is_even(at(1030)), "and back");
        assert!(clock.is_even(at(1036)));
        assert!(!clock.is_even(at(1035)), "back by little is a jump, too");
    }
}
