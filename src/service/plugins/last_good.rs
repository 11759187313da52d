//! Tracks which versions of bindings have given an answer that counted: a failing version falls back on these.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::domain::Result;
use crate::domain::policy::Mode;
use crate::plugin_host::{CallEnd, DecisionRecord, Digest};
use crate::service::Services;
use crate::store::Transaction;
use crate::store::bindings::{self, PolicyRevision};

/// A version of a binding at a policy revision: binding, plugin digest, configuration digest.
type Version = (PolicyRevision, Uuid, Digest, Digest);

/// The versions already noted in the store, so that not every reset writes them again.
#[derive(Debug, Default)]
pub(super) struct Answered(Mutex<HashSet<Version>>);

impl Answered {
    fn known(&self) -> MutexGuard<'_, HashSet<Version>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything, since the policies have changed.
    pub(super) fn clear(&self) {
        self.known().clear();
    }
}

/// Versions whose first counting answers are part of a reset.
#[derive(Clone, Debug)]
pub struct FirstAnswers(Vec<Version>);

/// Returns the versions for which these calls, judged at that revision, are the first that count.
pub fn first_answers(
    services: &Services,
    revision: PolicyRevision,
    records: &[DecisionRecord],
) -> FirstAnswers {
    let version =
        |record: &DecisionRecord| (revision, record.binding_id, record.digest, record.config_digest);
    let failed = |of: &Version| {
        let mut own = records.iter().filter(|record| version(record) == *of);
        own.any(|record| matches!(record.end, CallEnd::Failure(_)))
    };
    let known = services.bindings.answered().known();
    let counted = records.iter().filter(|record| record.mode == Mode::Enforce);
    let mut first: Vec<_> = counted.map(version).filter(|of| !known.contains(of)).collect();
    // A version is not good if one of its hooks answers and the other one fails.
    first.retain(|of| !failed(of));
    FirstAnswers(first)
}

impl FirstAnswers {
    /// Records them in the transaction of the reset.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn note(&self, tx: &Transaction<'_>) -> Result<()> {
        for (_, binding, plugin, config) in &self.0 {
            bindings::note_answered(tx, *binding, &plugin.0, &config.0)?;
        }
        Ok(())
    }

    /// Marks them as stored, once that transaction is committed, so that no further reset records them.
    pub fn noted(self, services: &Services) {
        if !self.0.is_empty() {
            services.bindings.answered().known().extend(self.0);
        }
    }
}
