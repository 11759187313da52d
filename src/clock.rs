//! The one clock. Tests set it; the appliance reads the system's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

/// Tells the time, truncated to milliseconds: what is stored is what was judged.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until it is moved.
    #[must_use]
    pub fn set_to(at: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(at.as_millisecond()))))
    }

    /// Now, to the millisecond.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let ms = match &self.0 {
            None => Timestamp::now().as_millisecond(),
            Some(ms) => ms.load(Ordering::SeqCst),
        };
        Timestamp::from_millisecond(ms).expect("a clock reads between the years -9999 and 9999")
    }

    /// Moves a set clock; the system's clock stays as it is.
    pub fn advance(&self, by: SignedDuration) {
        if let Some(ms) = &self.0 {
            let by =
                i64::try_from(by.as_millis()).expect("tests move the clock by less than 292 million years");
            ms.fetch_add(by, Ordering::SeqCst);
        }
    }
}
