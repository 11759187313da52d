//! The one clock. Tests set it; the appliance reads the system's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
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
