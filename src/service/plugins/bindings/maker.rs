//! Makes bindings ready to be called, from the rows that describe them.

use std::collections::HashMap;
use std::sync::Arc;

use super::Reader;
use crate::domain::policy::{Grants, Manifest, Mode};
use crate::domain::{Error, Result};
use crate::plugin_host::{
    BoundPlugin, Digest, FailureAction, FailureCause, OnFailure, PluginVersion, Prepared,
};
use crate::service::plugins::from_json;
use crate::store::bindings::{self, BindingRow, Of, VersionRow};
use crate::store::plugins::{self, ModuleRow};
use crate::store::{Connection, configurations};

/// The rows of the store that describe bindings.
pub(super) struct Rows {
    pub(super) bindings: Vec<BindingRow>,
    pub(super) modules: HashMap<[u8; 32], ModuleRow>,
    configurations: HashMap<[u8; 32], Arc<str>>,
}

impl Rows {
    pub(super) fn read(db: &Connection, of: Of) -> Result<Self> {
        Ok(Self {
            bindings: bindings::find_bindings(db, of)?,
            modules: plugins::find_bound_modules(db, of)?
                .into_iter()
                .map(|module| (module.digest, module))
                .collect(),
            configurations: configurations::find_bound_configurations(db, of)?
                .into_iter()
                .map(|(digest, config)| (digest, config.into()))
                .collect(),
        })
    }
}

/// Makes bindings ready, loading each module once.
pub(super) struct Maker<'a> {
    reader: &'a Reader,
    modules: HashMap<[u8; 32], ModuleRow>,
    configurations: HashMap<[u8; 32], Arc<str>>,
    ready: HashMap<[u8; 32], Arc<Prepared>>,
}

impl<'a> Maker<'a> {
    /// Returns the bindings of these rows, and what makes them ready.
    pub(super) fn of(reader: &'a Reader, rows: Rows) -> (Vec<BindingRow>, Self) {
        let maker = Self {
            reader,
            modules: rows.modules,
            configurations: rows.configurations,
            ready: HashMap::new(),
        };
        (rows.bindings, maker)
    }

    /// Returns the binding and how many days back its questions reach; `None` if it is switched off.
    pub(super) fn make(&mut self, binding: &BindingRow) -> Result<Option<(BoundPlugin, u16)>> {
        if binding.disabled_at.is_some() {
            return Ok(None);
        }
        let Some((manifest, current)) = self.version(&binding.version, &binding.grants)? else {
            return Ok(None);
        };
        let on_failure: OnFailure = from_json(&binding.on_failure)?;
        let mut history_days = manifest.history_days;
        let needed = |previous: &&VersionRow| needs_version_before(binding.mode, &on_failure, previous);
        let previous = binding.previous.as_ref().filter(needed);
        let before = match previous {
            Some(previous) => self.version(previous, &binding.grants)?,
            None => None,
        };
        // Whoever was judged by a version that is switched off now must still be judged: by the one in use.
        let mode = match binding.mode {
            Mode::Canary(_) if previous.is_some() && before.is_none() => Mode::Enforce,
            mode => mode,
        };
        let before = before.map(|(manifest, version)| {
            history_days = history_days.max(manifest.history_days);
            version
        });
        let bound = BoundPlugin {
            binding_id: binding.id,
            name: manifest.name,
            current,
            mode,
            on_failure,
            limits: from_json(&binding.limits)?,
            before,
        };
        Ok(Some((bound, history_days)))
    }

    /// Returns a version of a plugin; `None` if the operator has switched the plugin off for everybody.
    fn version(&mut self, row: &VersionRow, granted: &Grants) -> Result<Option<(Manifest, PluginVersion)>> {
        let module = self.modules.get(&row.plugin_digest);
        let module = module.ok_or_else(|| missing("module", &row.plugin_digest))?;
        if module.disabled_at.is_some() {
            return Ok(None);
        }
        let config = self.configurations.get(&row.config_digest);
        let config = config.ok_or_else(|| missing("configuration", &row.config_digest))?;
        let manifest = module.manifest.clone();
        let version = PluginVersion {
            version: manifest.version.clone(),
            prepared: Arc::clone(
                self.ready
                    .entry(row.plugin_digest)
                    .or_insert_with(|| self.reader.ready(module)),
            ),
            config: Arc::clone(config),
            config_digest: Digest(row.config_digest),
            hooks: row.hooks.clone(),
            history_days: manifest.history_days,
            grants: granted.wanted(&manifest.wants),
        };
        Ok(Some((manifest, version)))
    }
}

/// Returns whether a binding may have to ask its previous version; otherwise that module need not be in memory. One
/// that was only watched, or never asked, is no good version to fall back on.
fn needs_version_before(mode: Mode, on_failure: &OnFailure, previous: &VersionRow) -> bool {
    let falls_back = |cause: &FailureCause| on_failure.action(*cause) == FailureAction::LastGoodVersion;
    matches!(mode, Mode::Canary(_)) || previous.answered && FailureCause::ALL.iter().any(falls_back)
}

fn missing(what: &str, digest: &[u8; 32]) -> Error {
    Error::Internal(format!(
        "the {what} {} of a binding is missing",
        hex::encode(digest)
    ))
}
