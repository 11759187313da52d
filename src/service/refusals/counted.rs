//! Events of which there may be too many to record each: the first few of a kind in a window are recorded
//! individually, the rest as one entry with their number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::domain::Result;
use crate::domain::audit::Event;
use crate::service::Services;
use crate::store::audit;

/// How long events of one kind are counted into one entry.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// Events by kind that are not yet recorded.
#[derive(Debug)]
pub(in crate::service) struct Counts<K>(Mutex<HashMap<K, Count>>);

#[derive(Clone, Debug)]
struct Count {
    since: Timestamp,
    /// Events that were recorded individually.
    individually: u64,
    /// Events that were only counted.
    counted: u64,
    /// The first one that was only counted.
    event: Option<Event>,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Counts<K> {
    /// Counts an event. Returns false for the first `first` of its kind in a window, which are to be recorded
    /// individually; of the others `event` describes one for all.
    pub(in crate::service) fn count(
        &self,
        first: u64,
        key: K,
        at: Timestamp,
        event: impl FnOnce() -> Event,
    ) -> bool {
        let mut counts = self.counts();
        let count = counts.entry(key).or_insert(Count {
            since: at,
            individually: 0,
            counted: 0,
            event: None,
        });
        if count.individually < first {
            count.individually += 1;
            return false;
        }
        count.counted += 1;
        count.event.get_or_insert_with(event);
        true
    }

    /// Whether a kind is counted already, or fewer than `most` kinds are.
    pub(in crate::service) fn has_room_for(&self, key: &K, most: usize) -> bool {
        let counts = self.counts();
        counts.len() < most || counts.contains_key(key)
    }

    /// Records what was counted in windows that are over, or `all` of it at shutdown, in one transaction. Returns
    /// the number of entries.
    ///
    /// # Errors
    /// If the trail can't be written; everything then remains counted.
    pub(in crate::service) async fn record(&self, services: &Services, all: bool) -> Result<usize> {
        let at = services.clock.now();
        let due = self.take_due(at, all);
        if due.is_empty() {
            return Ok(0);
        }
        let entries: Vec<_> = due
            .iter()
            .filter_map(|(_, count)| Some((services.entropy.uuid(at), count.entry()?)))
            .collect();
        let written = services.store.write(move |tx| {
            for (id, event) in &entries {
                audit::append_entry(tx, at, *id, event)?;
            }
            Ok(entries.len())
        });
        let written = written.await;
        if written.is_err() {
            self.take_back(due);
        }
        written
    }

    /// Takes what is due. A window that begins in the future was opened by a clock that has been set back since: it
    /// is over, or the events would be counted and not recorded until the clock is there again. Less than a window
    /// ahead it ends by itself soon enough.
    fn take_due(&self, at: Timestamp, all: bool) -> Vec<(K, Count)> {
        let mut counts = self.counts();
        let due = counts.extract_if(|_, count| all || at.duration_since(count.since).abs() >= WINDOW);
        due.filter(|(_, count)| count.counted > 0).collect()
    }

    /// Takes back counts that could not be recorded; together with later ones they are due at once.
    fn take_back(&self, due: Vec<(K, Count)>) {
        let mut counts = self.counts();
        for (key, mut count) in due {
            if let Some(later) = counts.get(&key) {
                count.counted += later.counted;
                count.individually = count.individually.max(later.individually);
            }
            counts.insert(key, count);
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<K, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    /// One entry for all that were only counted.
    fn entry(&self) -> Option<Event> {
        let event = self.event.clone()?;
        Some(
            event
                .with("refused", self.counted)
                .with("since", self.since.to_string())
                .with("windowSecs", WINDOW.as_secs()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::{ActorRef, EventType};

    const FIRST: u64 = 2;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    /// Counts so many events, and says how many of them were to be recorded individually.
    fn add(counts: &Counts<&str>, events: u64, at: Timestamp) -> u64 {
        let event = || Event::new(EventType::UserLogin, None, ActorRef::system());
        (0..events)
            .filter(|_| !counts.count(FIRST, "one kind", at, event))
            .count() as u64
    }

    #[test]
    fn the_first_few_are_recorded_individually_and_the_rest_are_due_when_the_window_is_over() {
        let counts = Counts::default();
        assert_eq!(add(&counts, 5, at(0)), FIRST);
        assert!(counts.take_due(at(59), false).is_empty());
        let due = counts.take_due(at(60), false);
        assert_eq!(
            due.iter().map(|(_, count)| count.counted).collect::<Vec<_>>(),
            [3]
        );
        assert_eq!(add(&counts, 1, at(61)), 1, "a window of its own");
        assert!(
            counts.take_due(at(200), false).is_empty(),
            "nothing that is not recorded"
        );
    }

    #[test]
    fn a_window_that_was_opened_by_a_clock_that_was_ahead_is_over() {
        let counts = Counts::default();
        add(&counts, 5, at(86_400));
        let due = counts.take_due(at(0), false);
        let [(_, count)] = &due[..] else { panic!("{due:?}") };
        assert_eq!((count.counted, count.since), (3, at(86_400)));
        assert_eq!(add(&counts, 3, at(1)), FIRST, "a window of its own");
        assert!(
            counts.take_due(at(0), false).is_empty(),
            "a clock that is set back by a second ends no window"
        );
    }

    /// Events that were recorded individually while a write failed are not counted a second time.
    #[test]
    fn what_could_not_be_recorded_is_counted_once() {
        let counts = Counts::default();
        add(&counts, 5, at(0));
        let due = counts.take_due(at(60), false);
        assert_eq!(add(&counts, 4, at(61)), FIRST);
        counts.take_back(due);
        let due = counts.take_due(at(62), false);
        let [(_, count)] = &due[..] else { panic!("{due:?}") };
        assert_eq!((count.counted, count.since), (3 + 2, at(0)));
    }
}
