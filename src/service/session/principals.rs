//! Cache of callers as of the newest commit, so that consecutive requests look a caller up only once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::account::{Principal, SessionId, UserId};
use crate::domain::credential::Claims;
use crate::store::{Store, Touched};

/// Maximum number of users whose sessions are cached.
const CALLERS_MAX: usize = 512;
/// Maximum number of sessions cached per user.
const SESSIONS_MAX: usize = 8;

/// Callers by session, as of one generation of the store. A commit evicts the users it may have touched, or
/// everybody if it does not name them, so an ended session, a locked user and a changed role take effect at
/// once (ASVS 7.4.1, 8.3.2).
#[derive(Debug, Default)]
pub struct Principals(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    generation: u64,
    callers: HashMap<UserId, Vec<(SessionId, Principal)>>,
}

impl Principals {
    /// Returns the caller named by the claims, if cached and the session has not expired; and the current
    /// generation, to be passed to [`Self::keep`] with a caller read afterwards.
    pub fn find(&self, store: &Store, claims: &Claims, at: Timestamp) -> (u64, Option<Principal>) {
        let mut kept = self.kept();
        kept.catch_up(store);
        let sessions = kept.callers.get(&claims.sub).map_or(&[][..], Vec::as_slice);
        let named = sessions.iter().find(|(id, _)| *id == claims.sid);
        let found = named.map(|(_, principal)| principal).filter(|principal| {
            principal.user.organization_id == claims.org && principal.session.expires_at > at
        });
        (kept.generation, found.cloned())
    }

    /// Caches a caller whose reading began at this generation, unless a commit happened since: the data may
    /// then be older than the commit.
    pub fn keep(&self, generation: u64, principal: &Principal) {
        let mut kept = self.kept();
        if generation != kept.generation {
            return;
        }
        if kept.callers.len() >= CALLERS_MAX {
            kept.callers.clear();
        }
        let sessions = kept.callers.entry(principal.user.id).or_default();
        sessions.retain(|(id, _)| *id != principal.session.id);
        if sessions.len() >= SESSIONS_MAX {
            sessions.clear();
        }
        sessions.push((principal.session.id, principal.clone()));
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn catch_up(&mut self, store: &Store) {
        if store.generation() == self.generation {
            return;
        }
        let (generation, touched) = store.touched_since(self.generation);
        match touched {
            Touched::Everybody => self.callers.clear(),
            Touched::Users(users) => users.iter().for_each(|user| {
                self.callers.remove(user);
            }),
        }
        self.generation = generation;
    }
}
