//! The one clock. Tests set it; the appliance reads the system's.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// Tells the time, truncated to milliseconds: what is stored is what was judged.
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
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System {
            started: Instant::now(),
        })
    }

    /// A clock that stands still until it is moved.
    #[must_use]
    pub fn set_to(at: Timestamp) -> Self {
        Self(Source::Set(Arc::new(AtomicI64::new(at.as_millisecond()))))
    }

    /// Now, to the millisecond.
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

    /// Time since some fixed point in the past. Unlike [`Clock::now`] it never goes back, so that a
    /// correction of the host's time neither lifts a rate limit nor prolongs it.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { started } => started.elapsed(),
            Source::Set(ms) => Duration::from_millis(ms.load(Ordering::SeqCst).try_into().unwrap_or(0)),
        }
    }

    /// Moves a set clock; the system's clock stays as it is.
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

/// A clock that goes on by more than this between two looks, a minute apart, jumped.
const LONGEST_STEP: SignedDuration = SignedDuration::from_hours(24);
/// After a start or a jump a clock is not trusted for this long: whoever set it can set it right.
const EVEN_FOR: SignedDuration = SignedDuration::from_hours(6);

/// Whether the clock has run without a jump for a while: before that nothing is destroyed because of its age.
#[derive(Debug, Default)]
pub struct EvenClock(Mutex<Option<Even>>);

#[derive(Clone, Copy, Debug)]
struct Even {
    seen: Timestamp,
    since: Timestamp,
}

impl EvenClock {
    /// Notes the time, at every look, and says whether it has run evenly for long enough. A machine that was off
    /// can't be told from a clock that was set: both wait.
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
