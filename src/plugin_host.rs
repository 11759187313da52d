//! Runs the organisation's own policies: which plugins, in which order, what if one fails.
//!
//! [`PluginHost::before`] and [`PluginHost::after`] are all that a reset calls. Every call of a plugin gets a
//! fresh instance, a wall-clock budget and a memory limit, and no access to a clock, disk, network or WASI. A
//! plugin's answer counts only as far as [`crate::domain::policy::vet`] allows.
//!
//! This module knows wasmtime and the domain's rules. It must not know the store, HTTP or the services: its
//! callers pass in components and questions, and it returns decisions and records.

mod artefact;
mod background_calls;
mod cases;
mod engine;
mod evaluation;
mod manifest;
mod metrics;
mod package;
mod record;
mod scheduling;
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

pub use artefact::{CompilerProgram, Origin, compile_stdin};
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
use background_calls::ASIDE;
use engine::{MemoryBudget, TickedEngine};
use metrics::Metrics;
use scheduling::Lanes;
use slots::Slots;

/// Runs policy plugins. Cheap to clone; all clones share one host.
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
    /// Permits for calls that no reset waits for.
    aside: Semaphore,
    cases_limit: Duration,
    metrics: Metrics,
}

/// Settings of a [`PluginHost`].
#[derive(Clone)]
pub struct HostOptions {
    /// Directory of compiled artefacts (set to mode 0700). `None`: compile at every start.
    pub cache_dir: Option<PathBuf>,
    /// Secret key of the appliance that authenticates cached artefacts.
    pub cache_key: [u8; 32],
    /// Interval at which a running guest yields and its budget is checked, 1 to 5 ms.
    pub tick: Duration,
    /// Maximum evaluations of one organisation at a time; further ones wait.
    pub per_organization_concurrency: u32,
    /// Maximum evaluations of the whole node at a time; also the size of the instance pool.
    pub total_concurrency: u32,
    /// How long an evaluation waits for a slot before it fails as [`FailureCause::Busy`].
    pub slot_wait: Duration,
    /// Maximum linear memory of all running calls together, in bytes: a quarter divided evenly among them, a quarter
    /// for those that no reset waits for, half for those of resets, of which an organisation may hold as much as it
    /// leaves free.
    pub memory_total_bytes: u64,
    /// Whether to count fuel: the count is reproducible, but guests run slower.
    pub meter_fuel: bool,
    /// Maximum CPU time for compiling one module.
    pub compile_limit: Duration,
    /// The program that compiles. `None`: a thread of this process, where nothing ends a compilation.
    pub compiler: Option<CompilerProgram>,
    /// Maximum CPU time for the golden cases of one file at installation.
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
            compiler: None,
            cases_limit: Duration::from_secs(10),
        }
    }
}

/// A module ready to be instantiated.
pub struct Prepared {
    digest: Digest,
    origin: Origin,
    /// The error is the reason why the module can't be used.
    policy: Result<v1::Pre, String>,
}

impl Prepared {
    /// SHA-256 of the plugin file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns why every call fails, if the module can't be used.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.policy.as_ref().err().map(String::as_str)
    }

    /// Returns whether the module was compiled just now or found in the cache.
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
    /// Starts the engine, its ticker and the compiler thread. They end when the last clone is dropped.
    ///
    /// # Errors
    /// The cache directory can't be made private, address space can't be reserved or a thread can't be started.
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
            options.compiler,
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

    /// Checks a plugin file and loads its module, from the cache or by compiling it in the background. The
    /// compiled code is written to the cache only by [`Self::keep_artefact`], so that a refused file leaves
    /// nothing behind. Blocks (seconds for a JavaScript or Python plugin): call it from a blocking thread.
    ///
    /// # Errors
    /// Every refusal except those of the manifest, which [`Self::describe`] reports.
    pub fn prepare(&self, bytes: &[u8]) -> Result<Arc<Prepared>, PackageError> {
        let digest = Digest::of(bytes);
        if let Some(prepared) = self.prepared().get(&digest).and_then(Weak::upgrade) {
            return Ok(prepared);
        }
        let package = package::read(bytes)?;
        let (component, origin) = self.0.artefacts.component(&package)?;
        self.ready(digest, origin, &component)
    }

    /// Writes an accepted plugin's machine code to the cache, so that the next start need not compile it.
    /// Blocks.
    pub fn keep_artefact(&self, prepared: &Prepared) {
        if prepared.origin == Origin::Compiled
            && let Ok(policy) = &prepared.policy
        {
            self.0.artefacts.keep(prepared.digest, policy.component());
        }
    }

    /// Returns the module with that digest if it is in use or in the cache. Does not need the plugin file, so a
    /// start does not read megabytes. Blocks for a few ms.
    #[must_use]
    pub fn find(&self, digest: Digest) -> Option<Arc<Prepared>> {
        if let Some(prepared) = self.prepared().get(&digest).and_then(Weak::upgrade) {
            return Some(prepared);
        }
        let component = self.0.artefacts.find(digest)?;
        self.ready(digest, Origin::Cache, &component).ok()
    }

    /// Returns a placeholder for a module that can't be used any more: each call fails as
    /// [`FailureCause::Instantiation`], so that its bindings apply their failure action while all other
    /// bindings keep working.
    #[must_use]
    pub fn unusable(&self, digest: Digest, why: &PackageError) -> Arc<Prepared> {
        Arc::new(Prepared {
            digest,
            origin: Origin::Cache,
            policy: Err(why.to_string()),
        })
    }

    /// Returns a placeholder, as [`Self::unusable`] does, for a module that is still to be compiled.
    #[must_use]
    pub fn not_ready(&self, digest: Digest) -> Arc<Prepared> {
        Arc::new(Prepared {
            digest,
            origin: Origin::Cache,
            policy: Err("it has been compiling since the server started and will be ready soon".to_owned()),
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

    /// Asks the plugins, in order, whether the reset may happen. The first denial ends the evaluation;
    /// approvals and effects accumulate.
    pub async fn before<P: Borrow<BoundPlugin>>(
        &self,
        plugins: &[P],
        question: &Arc<Question>,
    ) -> Evaluation {
        self.evaluate(plugins, Hook::BeforeReset, question, None, &[])
            .await
    }

    /// Shows the plugins, in order, how the reset will end, each with the effects collected so far, and
    /// collects the effects that they add. [`Evaluation::effects`] holds only the added ones.
    pub async fn after<P: Borrow<BoundPlugin>>(
        &self,
        plugins: &[P],
        question: &Arc<Question>,
        outcome: Outcome,
    ) -> Evaluation {
        self.after_fallback(plugins, question, outcome, &[]).await
    }

    /// Like [`Self::after`], for a [`Self::before`] in which the bindings `fell_back` used their previous
    /// version: that version answers for them here too, so that its effects after the reset are not lost.
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

    /// Returns the calls, failures and durations of one binding since the start.
    #[must_use]
    pub fn counters(&self, binding_id: Uuid) -> Option<PluginCounters> {
        self.0.metrics.of(binding_id)
    }

    /// Returns the counters of each version of each plugin, across all present and past bindings: at most 1,001
    /// rows.
    #[must_use]
    pub fn version_counters(&self) -> Vec<VersionCounters> {
        self.0.metrics.versions()
    }

    /// Returns the number of evaluations since the start that got no slot, and of calls that got too little memory.
    #[must_use]
    pub fn busy_count(&self) -> u64 {
        self.0.metrics.busy()
    }

    /// Returns whether fuel is counted, so that a fuel limit takes effect.
    #[must_use]
    pub fn counts_fuel(&self) -> bool {
        self.0.ticked.meter_fuel
    }

    /// Returns whether all of these limits take effect: one of fuel does only where it is counted.
    #[must_use]
    pub fn applies(&self, limits: Limits) -> bool {
        limits.fuel == 0 || self.counts_fuel()
    }

    /// Forgets the counters of a removed binding.
    pub fn forget(&self, binding_id: Uuid) {
        self.0.metrics.forget(binding_id);
    }

    /// Forgets consecutive failures and slowness of all versions of a binding except those for which `keeps`
    /// returns true, given the digests of file and configuration.
    pub fn forget_versions(&self, binding_id: Uuid, keeps: impl Fn(Digest, Digest) -> bool) {
        self.0.metrics.forget_versions(binding_id, keeps);
    }

    /// Removes cached artefacts of modules that are not installed, or that another version of this program
    /// made. Returns the number removed. Blocks.
    ///
    /// # Errors
    /// The outer error is that of `installed`; the inner one means that the directory can't be read or a file
    /// can't be removed.
    pub fn prune_cache<E>(
        &self,
        installed: impl FnOnce() -> Result<Vec<Digest>, E>,
    ) -> Result<std::io::Result<usize>, E> {
        self.0.artefacts.prune(installed)
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Weak<Prepared>>> {
        // A panic elsewhere can't leave the map half-changed, so poisoning is harmless.
        self.0.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
