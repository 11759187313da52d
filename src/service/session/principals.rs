//! Callers as the newest commit left them, so that reads in a row look a caller up once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::account::{Principal, SessionId};
use crate::domain::credential::Claims;

/// Callers kept at most.
const CALLERS_MAX: usize = 512;

/// Callers by session, as they were at one generation of the store. Any commit forgets them all, so a
/// session that ended, a user who was locked and a role that changed count at once (ASVS 7.4.1, 8.3.2).
#[derive(Debug, Default)]
pub struct Principals(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    generation: u64,
    callers: HashMap<SessionId, Principal>,
}

impl Principals {
    /// Whom the claims name, if that was read at this generation and the session has not lapsed since.
    pub fn find(&self, generation: u64, claims: &Claims, at: Timestamp) -> Option<Principal> {
        let kept = self.kept();
        if kept.generation != generation {
            return None;
        }
        let principal = kept.callers.get(&claims.sid)?;
        let same = principal.user.id == claims.sub && principal.user.organization_id == claims.org;
        (same && principal.session.expires_at > at).then(|| principal.clone())
    }

    /// Keeps a caller whose reading began at this generation.
    pub fn keep(&self, generation: u64, principal: &Principal) {
        let mut kept = self.kept();
        if generation < kept.generation {
            return;
        }
        if generation > kept.generation || kept.callers.len() >= CALLERS_MAX {
            kept.callers.clear();
            kept.generation = generation;
        }
        kept.callers.insert(principal.session.id, principal.clone());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
