//! Policy management for operators and admins: install, bind, switch, roll back, replay.
//!
//! No policy judges these actions: a manager of policies can always undo a change, so managers can't lock
//! themselves out.

mod bindings;
pub mod by_admin;
mod change;
mod comparison;
mod decisions;
mod exposition;
mod governance;
mod install;
mod last_good;
mod listing;
mod manager;
mod orders;
mod patching;
mod promotion;
mod recheck;
mod recorded_calls;
mod replay;
mod replay_report;
mod replay_turns;
mod signatures;
mod terms;
mod unused;
mod warm_up;
mod watching;

pub use bindings::{Bindings, BoundSet, catch_up, reload};
pub use change::{NewBinding, bind_plugin, roll_back_binding, unbind_plugin, update_binding};
pub use decisions::{DecidedCall, Decisions, find_decisions};
pub use exposition::metrics_by_version;
pub use governance::Ended;
pub(super) use governance::carry_out_agreed;
pub use install::{
    Installed, NewPlugin, Progress, Watch, install_plugin, remove_plugin, switch_plugin, unwatched,
};
pub use last_good::{FirstAnswers, first_answers};
pub use listing::{
    BindingView, VersionView, find_binding, find_plugin, list_bindings, list_plugins, parse_digest,
};
pub use manager::Manager;
pub use orders::{
    BindOrder, FailureRule, FileText, InstallOrder, Limit, PolicyOrder, ReplayOrder, TermsOrder,
    carry_out_order,
};
pub use patching::BindingPatch;
pub use recorded_calls::keep_calls;
pub use replay::replay_plugin;
pub use replay_report::{Difference, Follow, Replay, ReplayReport, ReplayVerdict, parse_since};
pub use signatures::is_unsigned;
pub use unused::{LeftUnbound, forget_unused_configurations};
pub use warm_up::{Missing, start};
pub use watching::{
    Alarm, alarm_count, forget_lapsed_decisions, raise_alarms, recheck_forever, recheck_waiting,
    sample_for_recheck, withdraw_alarms,
};

/// Types of the plugin host and the store, re-exported for layers that must not know either.
pub use crate::plugin_host::{
    Asked, CallEnd, DecisionRecord, Digest, FILE_BYTES_MAX, Failure, FailureAction, FailureCause, Limits,
    LogLevel, LogLine, OnFailure, PluginCounters, Usage,
};
pub use crate::store::plugins::PluginRow;

use std::sync::Arc;

use super::Services;
use crate::domain::printable::clip;
use crate::domain::{Error, Result};
use crate::plugin_host::{PackageError, PluginHost, Prepared, SignerKey};
use crate::store::{Store, plugins};

/// The operator's settings for plugins.
#[derive(Clone, Debug)]
pub struct PluginSettings {
    /// Trusted signing keys. If there are any, a plugin is installed only with a signature by one of them.
    pub trusted_keys: Vec<SignerKey>,
    /// Days for which questions and decisions are kept for replay.
    pub decision_days: u16,
    /// Consecutive failures after which a version of a binding raises an alarm.
    pub alarm_after: u32,
    /// One in this many resets is re-checked soon after, off the request path; 0: none.
    pub recheck_one_in: u32,
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self {
            trusted_keys: Vec::new(),
            decision_days: 400,
            alarm_after: 5,
            recheck_one_in: 100,
        }
    }
}

/// Returns the module with that digest, ready to call: in use, from the cache, or compiled now. Blocks.
///
/// # Errors
/// The reason why it can't be used, or [`PackageError::Host`] if the store can't provide its file.
fn prepare_blocking(host: &PluginHost, store: &Store, digest: Digest) -> Result<Arc<Prepared>, PackageError> {
    if let Some(prepared) = host.find(digest) {
        return Ok(prepared);
    }
    let trouble = |error: Error| PackageError::Host(format!("its file can't be read: {error:?}"));
    let bytes = store
        .read(|db| plugins::find_module(db, &digest.0))
        .map_err(trouble)?
        .ok_or_else(|| PackageError::Host("its file is gone".to_owned()))?;
    let prepared = host.prepare(&bytes)?;
    host.keep_artefact(&prepared);
    Ok(prepared)
}

/// Removes cached machine code of modules that are no longer installed or that an earlier version of this program
/// compiled. Returns the number of files removed.
///
/// # Errors
/// [`Error::Internal`] if the directory can't be read or written.
pub async fn prune_artefacts(services: &Services) -> Result<usize> {
    let (host, store) = (services.plugin_host.clone(), services.store.clone());
    let pruned = blocking(move || host.prune_cache(|| installed(&store))).await??;
    pruned.map_err(|error| Error::Internal(format!("the plugins' cache can't be pruned: {error}")))
}

fn installed(store: &Store) -> Result<Vec<Digest>> {
    let digests = store.read(plugins::find_module_digests)?;
    Ok(digests.into_iter().map(Digest).collect())
}

/// Runs [`prepare_blocking`] on a thread that may block.
async fn prepare(services: &Services, digest: Digest) -> Result<Arc<Prepared>> {
    let (host, store) = (services.plugin_host.clone(), services.store.clone());
    blocking(move || prepare_blocking(&host, &store, digest))
        .await?
        .map_err(refused)
}

/// Runs work on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Internal(format!("work on plugins ended early: {e}")))
}

/// Runs guests on a thread that may block, so that no request waits behind them.
async fn off_the_path<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Handle::current();
    blocking(move || runtime.block_on(work())).await
}

/// Converts a plugin's refusal into an error for its author; the host's own trouble becomes an internal error.
fn refused(error: PackageError) -> Error {
    match error {
        PackageError::Host(trouble) => Error::Internal(trouble),
        error => refusal(&error, error.code()),
    }
}

/// Returns a refusal that ends in its stable code. Shortened, since a file may describe itself at any length and
/// the trail keeps the refusal.
fn refusal(reason: &impl ToString, code: &str) -> Error {
    Error::PluginRefused(format!("{} [{code}]", clip(&reason.to_string(), REASON_CHARS)))
}

/// Maximum characters of a refusal.
const REASON_CHARS: usize = 2_000;

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(format!("JSON: {e}")))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Internal(format!("JSON: {e}")))
}
