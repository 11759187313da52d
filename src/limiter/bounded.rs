//! Bounded state for governor: exact counters up to a cap, shared ones beyond it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;

/// Number of keys with a counter of their own, per bucket (about 2 MB when full).
pub const MAX_KEYS: usize = SHARDS * KEYS_PER_SHARD;

/// Number of counters that the keys beyond [`MAX_KEYS`] share, per bucket.
pub const SHARED_CELLS: usize = SHARDS * CELLS_PER_SHARD;

const SHARDS: usize = 16;
const KEYS_PER_SHARD: usize = 4096;
const CELLS_PER_SHARD: usize = 256;

/// The store of counters. Keys are already hashes made with a secret that no caller knows.
#[derive(Clone, Debug)]
pub(super) struct BoundedStore(Arc<[Mutex<Shard>; SHARDS]>);

#[derive(Debug, Default)]
struct Shard {
    own: HashMap<u64, Nanos>,
    // Created when the first key finds no room, dropped when there is room again.
    shared: HashMap<u64, Nanos>,
}

impl Default for BoundedStore {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Mutex::default())))
    }
}

impl BoundedStore {
    /// Resets the counter of a key. Use of a shared counter stays counted, because other keys share it.
    pub(super) fn forget(&self, key: u64) {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        shard.own.remove(&key);
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        let number = usize::try_from(key % SHARDS as u64).expect("a shard's number is below SHARDS");
        &self.0[number]
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.0
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StateStore for BoundedStore {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // Shard and cell are taken from key bits that the map's own hash may use as well.
        let cell = (key >> 32) % CELLS_PER_SHARD as u64;
        let mut shard = self.shard(*key).lock().unwrap_or_else(PoisonError::into_inner);
        let shard = &mut *shard;
        let (map, key) = if shard.own.contains_key(key) || shard.own.len() < KEYS_PER_SHARD {
            (&mut shard.own, *key)
        } else {
            (&mut shard.shared, cell)
        };
        let (admitted, state) = measure(map.get(&key).copied())?;
        map.insert(key, state);
        Ok(admitted)
    }
}

impl ShrinkableKeyedStateStore<u64> for BoundedStore {
    fn retain_recent(&self, drop_below: Nanos) {
        for mut shard in self.shards() {
            shard.own.retain(|_, state| *state >= drop_below);
            shard.shared.retain(|_, state| *state >= drop_below);
        }
    }

    fn shrink_to_fit(&self) {
        for mut shard in self.shards() {
            // Shrink only after a flood: freeing memory and allocating it again costs more than it saves.
            if shard.own.capacity() > 4 * shard.own.len() + 64 {
                shard.own.shrink_to_fit();
            }
            if shard.shared.is_empty() {
                shard.shared.shrink_to_fit();
            }
        }
    }

    fn len(&self) -> usize {
        self.shards().map(|shard| shard.own.len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.shards()
            .all(|shard| shard.own.is_empty() && shard.shared.is_empty())
    }
}
