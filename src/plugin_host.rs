//! Runs the organisation's own policies: which plugins, in which order, what if one fails.
//!
//! [`PluginHost::before`] and [`PluginHost::after`] are the whole story of a reset. Every call gets a
//! fresh instance, a wall-clock budget, a memory limit and an empty world: no clock, no disk, no
//! network, no WASI. What a plugin answers counts only as far as [`crate::domain::policy::vet`] lets it.
//!
//! This module knows wasmtime and the domain's rules. It must not know the store, HTTP or the
//! services: it is given components and questions, and hands back decisions and records.

mod artefact;
mod aside;
mod cases;
mod engine;
mod evaluation;
mod lanes;
mod manifest;
mod metrics;
mod package;
mod record;
mod signature;
mod slots;
mod v1;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

pub use artefact::Origin;
pub use cases::{
    BASE_QUESTION, Case, CaseError, CaseHook, CaseReport, base_question, embed as embed_cases,
    embedded as embedded_cases, merge_patch,
};
pub use engine::Limits;
pub use manifest::{ConfigError, HISTORY_DAYS_MAX, check as check_manifest, check_config};
pub use metrics::{PluginCounters, VersionCounters};
pub use package::{
    CONTRACT_WIT, Contracts, FILE_BYTES_MAX, Package, PackageError, contract_version, read as read_package,
};
pub use printable::printable;
pub use record::{
    Asked, BoundPlugin, CallEnd, DecisionRecord, Digest, Evaluation, Failure, FailureAction, FailureCause,
    LogLevel, LogLine, OnFailure, PluginFailure, PluginVersion, Usage,
};
pub use signature::{SignatureError, Signed, SignerKey, verify as verify_signature};

use crate::domain::policy::{Hook, Outcome, Question};
use crate::domain::printable;
use artefact::Artefacts;
use aside::ASIDE;
use engine::{MemoryBudget, TickedEngine};
use lanes::Lanes;
use metrics::Metrics;
use slots::Slots;

/// Runs policy plugins. Cheap to clone; all clones are the same host.
#[derive(Clone)]
pub struct PluginHost(Arc<Inner>);

struct Inner {
    ticked: TickedEngine,
    linker: v1::Linker,
    artefacts: Artefacts,
    /// Modules in use, by digest: a thousand bindings of one plugin share one.
    prepared: Mutex<HashMap<Digest, Weak<Prepared>>>,
    slots: Slots,
    lanes: Lanes,
    /// Turns of the calls that no reset waits for.
    aside: Semaphore,
    cases_limit: Duration,
    metrics: Metrics,
}

/// How a host is set up.
#[derive(Clone)]
pub struct HostOptions {
    /// Where compiled artefacts are kept (made private, mode 0700). `None`: compile at each start.
    pub cache_dir: Option<PathBuf>,
    /// Key of the appliance that authenticates kept artefacts.
    pub cache_key: [u8; 32],
    /// How often a running guest yields and is checked, 1 to 5 ms.
    pub tick: Duration,
    /// Evaluations that one organisation may have under way; further ones wait.
    pub per_organization_concurrency: u32,
    /// Evaluations under way in the whole node; also the size of the instance pool.
    pub total_concurrency: u32,
    /// How long an evaluation waits for a slot before it fails as [`FailureCause::Busy`].
    pub slot_wait: Duration,
    /// Linear memory of all calls under way together, in bytes.
    pub memory_total_bytes: u64,
    /// Count fuel: figures that repeat exactly, at the price of slower guests.
    pub meter_fuel: bool,
    /// Longest compilation of one module, in CPU time.
    pub compile_limit: Duration,
    /// How long the golden cases of one file may run when it is installed, in CPU time.
    pub cases_limit: Duration,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_key: [0; 32],
            tick: Duration::from_millis(1),
            per_organization_concurrency: 2,
            total_concurrency: 32,
            slot_wait: Duration::from_secs(2),
            memory_total_bytes: 1 << 30,
            meter_fuel: false,
            compile_limit: Duration::from_mins(2),
            cases_limit: Duration::from_secs(10),
        }
    }
}

/// A module ready to be instantiated.
pub struct Prepared {
    digest: Digest,
    origin: Origin,
    /// Or why it can't be used.
    policy: Result<v1::Pre, String>,
}

impl Prepared {
    /// SHA-256 of the plugin file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Why every call of it fails, if it is one that can't be used.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.policy.as_ref().err().map(String::as_str)
    }

    /// Whether it was compiled now or found in the cache.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginHost").finish_non_exhaustive()
    }
}

impl PluginHost {
    /// Starts the engine, its ticker and the compiler thread. They end with the last clone.
    ///
    /// # Errors
    /// The cache folder can't be made private, address space or threads can't be had.
    pub fn new(options: HostOptions) -> anyhow::Result<Self> {
        let tick = options
            .tick
            .clamp(Duration::from_millis(1), Duration::from_millis(5));
        let total = options.total_concurrency.clamp(1, 256);
        let memory = MemoryBudget::new(options.memory_total_bytes, total + ASIDE);
        let ticked = TickedEngine::new(total + ASIDE, tick, options.meter_fuel, memory)?;
        let engine = ticked.engine.clone();
        let artefacts = Artefacts::new(
            engine.clone(),
            options.cache_dir,
            options.cache_key,
            options.compile_limit,
        )?;
        Ok(Self(Arc::new(Inner {
            linker: v1::linker(&engine).map_err(|e| anyhow::anyhow!("{e:#}"))?,
            ticked,
            artefacts,
            prepared: Mutex::new(HashMap::new()),
            slots: Slots::new(
                options.per_organization_concurrency.max(1),
                total,
                options.slot_wait,
            ),
            lanes: Lanes::default(),
            aside: Semaphore::new(ASIDE as usize),
            cases_limit: options.cases_limit,
            metrics: Metrics::default(),
        })))
    }

    /// Judges a plugin file and makes it ready: from the cache, or compiled on the compiler's thread. What was
    /// compiled is kept only once somebody calls [`Self::keep_artefact`]: a file that is refused leaves nothing.
    /// Blocks (seconds for a JavaScript or Python plugin): call it from a blocking thread.
    ///
    /// # Errors
    /// Every reason for a refusal except those of its manifest, which [`Self::describe`] finds.
    pub fn prepare(&self, bytes: &[u8]) -> Result<Arc<Prepared>, PackageError> {
        let digest = Digest::of(bytes);
        if let Some(prepared) = self.prepared().get(&digest).and_then(Weak::upgrade) {
            return Ok(prepared);
        }
        let package = package::read(bytes)?;
        let (component, origin) = self.0.artefacts.component(&package)?;
        self.ready(digest, origin, &component)
    }

    /// Keeps the machine code of a plugin that is accepted, so that the next start need not compile it. Blocks.
    pub fn keep_artefact(&self, prepared: &Prepared) {
        if prepared.origin == Origin::Compiled
            && let Ok(policy) = &prepared.policy
        {
            self.0.artefacts.keep(prepared.digest, policy.component());
        }
    }

    /// The module with that digest, if it is in use or in the cache: without its file, so that a start
    /// reads no megabytes. Blocks for a few ms.
    #[must_use]
    pub fn find(&self, digest: Digest) -> Option<Arc<Prepared>> {
        if let Some(prepared) = self.prepared().get(&digest).and_then(Weak::upgrade) {
            return Some(prepared);
        }
        let component = self.0.artefacts.find(digest)?;
        self.ready(digest, Origin::Cache, &component).ok()
    }

    /// Stands for a module that can't be used any more: each call fails as
    /// [`FailureCause::Instantiation`], so that its bindings fail as their operator said they should,
    /// and everybody else is served.
    #[must_use]
    pub fn unusable(&self, digest: Digest, why: &PackageError) -> Arc<Prepared> {
        Arc::new(Prepared {
            digest,
            origin: Origin::Cache,
            policy: Err(why.to_string()),
        })
    }

    /// Stands for a module that is still to be compiled, as [`Self::unusable`] does for one that can't be.
    #[must_use]
    pub fn not_ready(&self, digest: Digest) -> Arc<Prepared> {
        Arc::new(Prepared {
            digest,
            origin: Origin::Cache,
            policy: Err("it is being compiled since the server started, and ready soon".to_owned()),
        })
    }

    fn ready(
        &self,
        digest: Digest,
        origin: Origin,
        component: &wasmtime::component::Component,
    ) -> Result<Arc<Prepared>, PackageError> {
        let prepared = Arc::new(Prepared {
            digest,
            origin,
            policy: Ok(v1::prepare(&self.0.linker, component)?),
        });
        let mut known = self.prepared();
        known.retain(|_, weak| weak.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&prepared));
        Ok(prepared)
    }

    /// Asks the plugins, in order, whether the reset may happen. The first denial ends it; approvals and
    /// effects add up.
    pub async fn before<P: Borrow<BoundPlugin>>(
        &self,
        plugins: &[P],
        question: &Arc<Question>,
    ) -> Evaluation {
        self.evaluate(plugins, Hook::BeforeReset, question, None, &[])
            .await
    }

    /// Shows the plugins how the reset will end, in order, each with the effects so far, and gathers
    /// the effects they add. [`Evaluation::effects`] holds only what was added.
    pub async fn after<P: Borrow<BoundPlugin>>(
        &self,
        plugins: &[P],
        question: &Arc<Question>,
        outcome: Outcome,
    ) -> Evaluation {
        self.after_fallback(plugins, question, outcome, &[]).await
    }

    /// [`Self::after`] a [`Self::before`] in which these bindings fell back on their version before: it
    /// goes on answering for them, so that what it does after a reset is not lost.
    pub async fn after_fallback<P: Borrow<BoundPlugin>>(
        &self,
        plugins: &[P],
        question: &Arc<Question>,
        outcome: Outcome,
        fell_back: &[Uuid],
    ) -> Evaluation {
        self.evaluate(plugins, Hook::AfterReset, question, Some(outcome), fell_back)
            .await
    }

    /// Calls, failures and durations of one binding since the start.
    #[must_use]
    pub fn counters(&self, binding_id: Uuid) -> Option<PluginCounters> {
        self.0.metrics.of(binding_id)
    }

    /// What each version of each plugin did, wherever it is bound or was: at most a thousand and one rows.
    #[must_use]
    pub fn version_counters(&self) -> Vec<VersionCounters> {
        self.0.metrics.versions()
    }

    /// Evaluations that got no turn since the start.
    #[must_use]
    pub fn busy_count(&self) -> u64 {
        self.0.metrics.busy()
    }

    /// Whether it counts what a call executes, so that a limit of fuel holds.
    #[must_use]
    pub fn counts_fuel(&self) -> bool {
        self.0.ticked.meter_fuel
    }

    /// Forgets the counters of a binding that is gone.
    pub fn forget(&self, binding_id: Uuid) {
        self.0.metrics.forget(binding_id);
    }

    /// Forgets failures in a row, and slowness, of a binding's versions but these, named by the digests of their
    /// file and configuration.
    pub fn forget_versions(&self, binding_id: Uuid, keeps: impl Fn(Digest, Digest) -> bool) {
        self.0.metrics.forget_versions(binding_id, keeps);
    }

    /// Removes kept artefacts of modules that are not among the installed ones, or that another version of this
    /// program made. Returns how many. Blocks.
    ///
    /// # Errors
    /// The outer: what `installed` says. The inner: the folder can't be read or a file can't be removed.
    pub fn prune_cache<E>(
        &self,
        installed: impl FnOnce() -> Result<Vec<Digest>, E>,
    ) -> Result<std::io::Result<usize>, E> {
        self.0.artefacts.prune(installed)
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Weak<Prepared>>> {
        // A panic elsewhere can't leave the map half-changed.
        self.0.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
