//! The bound plugins of every organisation, ready to be called.
//!
//! A change is first committed and then loaded here, one organisation at a time. A reset that was judged by the
//! old set in between fails its re-check in the transaction, waits for [`catch_up`] and is judged again: no reset
//! is ever committed on outdated policies, and none is refused because of a change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use super::last_good::Answered;
use super::replay_turns::Turns;
use super::warm_up::Lacking;
use super::watching::{Alarms, Rechecks};
use super::{blocking, from_json};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::domain::policy::{Grants, Manifest, Mode};
use crate::plugin_host::{
    BoundPlugin, Digest, FailureAction, FailureCause, OnFailure, PluginHost, PluginVersion, Prepared,
};
use crate::service::Services;
use crate::store::bindings::{self, BindingRow, Of, PolicyRevision, VersionRow};
use crate::store::plugins::{self, ModuleRow};
use crate::store::{Connection, Store, configurations};

/// Longest history that a manifest can ask for, in days.
const HISTORY_DAYS_CAP: u16 = 90;

/// The plugins of every organisation, ready to be called. Running calls finish on the set they started with.
/// Cheap to clone; all clones share one table.
#[derive(Clone, Debug, Default)]
pub struct Bindings(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    table: RwLock<Table>,
    /// Held while a change is loaded, so that the newest set is never overwritten by an older one.
    taking_up: Mutex<()>,
    lacking: Lacking,
    replays: Turns,
    gates: Turns,
    alarms: Alarms,
    rechecks: Rechecks,
    answered: Answered,
}

#[derive(Debug, Default)]
struct Table {
    node: Set,
    /// The node's own plugins, for organisations without policies of their own.
    node_plugins: Plugins,
    organizations: HashMap<OrganizationId, (Set, Plugins)>,
}

type Plugins = Arc<[Arc<BoundPlugin>]>;

/// The bindings of one owner.
#[derive(Debug, Default)]
struct Set {
    revision: i64,
    plugins: Vec<Arc<BoundPlugin>>,
    history_days: u16,
}

/// The policies that judge one organisation's resets, at one revision.
#[derive(Clone, Debug)]
pub struct BoundSet {
    /// Revision of plugins and bindings; a reset commits only if it is still current.
    pub revision: PolicyRevision,
    /// Plugins in the order in which they are asked: the node's first.
    pub plugins: Plugins,
    history_days: u16,
}

impl BoundSet {
    /// Returns how far back the question's history must reach, in days.
    #[must_use]
    pub fn history_days(&self) -> u16 {
        self.history_days
    }
}

impl Bindings {
    /// Returns the plugins that judge an organisation's resets.
    #[must_use]
    pub fn of(&self, organization: OrganizationId) -> BoundSet {
        let table = self.0.table.read().unwrap_or_else(PoisonError::into_inner);
        let (own, plugins) = match table.organizations.get(&organization) {
            Some((set, plugins)) => (Some(set), plugins),
            None => (None, &table.node_plugins),
        };
        let own_days = own.map_or(0, |set| set.history_days);
        BoundSet {
            revision: PolicyRevision {
                node: table.node.revision,
                organization: own.map_or(0, |set| set.revision),
            },
            plugins: Arc::clone(plugins),
            history_days: table.node.history_days.max(own_days).min(HISTORY_DAYS_CAP),
        }
    }

    /// Returns the turns for replays that a manager requested.
    pub(super) fn replays(&self) -> &Turns {
        &self.0.replays
    }

    /// Returns the turns for replays that a change waits for. They are separate, so that a requested replay never
    /// turns a change away.
    pub(super) fn gates(&self) -> &Turns {
        &self.0.gates
    }

    pub(super) fn alarms(&self) -> &Alarms {
        &self.0.alarms
    }

    pub(super) fn rechecks(&self) -> &Rechecks {
        &self.0.rechecks
    }

    pub(super) fn answered(&self) -> &Answered {
        &self.0.answered
    }

    pub(super) fn lacking(&self) -> &Lacking {
        &self.0.lacking
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        self.0.answered.clear();
        change(&mut self.0.table.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Table {
    fn put(&mut self, organization: OrganizationId, set: Set) {
        let plugins = self.node.plugins.iter().chain(&set.plugins).cloned().collect();
        self.organizations.insert(organization, (set, plugins));
    }
}

/// Reads all bindings and makes their modules ready. Blocks: modules that are not in the cache are compiled. A
/// module that can't be used any more affects only the organisations that bound it, whose resets fail as their
/// bindings specify.
///
/// # Errors
/// The store can't be read.
pub fn reload(services: &Services) -> Result<()> {
    Reader::of(services).take_up_and_say()
}

/// Loads the changes to the policies of an organisation (of all, if `organization` is absent: the node's) since
/// they were last read.
///
/// # Errors
/// The store can't be read.
pub async fn catch_up(services: &Services, organization: Option<OrganizationId>) -> Result<()> {
    let reader = Reader::of(services);
    blocking(move || {
        reader.alone(|reader| match organization {
            Some(organization) => reader.take_up(organization),
            None => reader.take_up_all().map(|_| ()),
        })
    })
    .await?
}

/// Reads bindings and puts them into the table.
pub(super) struct Reader {
    pub(super) host: PluginHost,
    pub(super) store: Store,
    pub(super) bindings: Bindings,
    /// Whether to wait for modules to be compiled, or to use placeholders for them.
    pub(super) compiles: bool,
}

impl Reader {
    pub(super) fn of(services: &Services) -> Self {
        Self {
            host: services.plugin_host.clone(),
            store: services.store.clone(),
            bindings: services.bindings.clone(),
            compiles: true,
        }
    }

    pub(super) fn take_up_without_compiling(&mut self) -> Result<()> {
        self.compiles = false;
        let taken_up = self.take_up_and_say();
        self.compiles = true;
        taken_up
    }

    /// Loads everything again, whether it changed or not.
    pub(super) fn take_up_again(&self) -> Result<()> {
        self.alone(Self::take_up_all).map(drop)
    }

    fn take_up_and_say(&self) -> Result<()> {
        let started = Instant::now();
        let ready = self.alone(Self::take_up_all)?;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(
            bindings = ready.bindings,
            organizations = ready.organizations,
            modules = ready.modules,
            not_compiled = self.bindings.lacking().count(),
            micros,
            "policies are ready"
        );
        if ready.uncounted > 0 {
            tracing::warn!(
                bindings = ready.uncounted,
                "limits.fuel of these bindings limits nothing: switch plugins.count_fuel on, or set it to 0 (latchkey \
                 plugin change BINDING --limit fuel=0)"
            );
        }
        Ok(())
    }

    fn alone<T>(&self, take_up: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let _turn = self
            .bindings
            .0
            .taking_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        take_up(self)
    }

    fn take_up_all(&self) -> Result<Ready> {
        let ((node_revision, revisions), rows) = self
            .store
            .read(|db| Ok((bindings::find_policy_revisions(db)?, Rows::read(db, Of::All)?)))?;
        let (bindings, modules) = (rows.bindings.len(), rows.modules.len());
        let mut own = self.sets(rows)?;
        let uncounted = |plugin: &&Arc<BoundPlugin>| !self.host.applies(plugin.limits);
        let ready = Ready {
            bindings,
            modules,
            organizations: own.keys().flatten().count(),
            uncounted: own
                .values()
                .flat_map(|set| &set.plugins)
                .filter(uncounted)
                .count(),
        };
        let mut node = own.remove(&None).unwrap_or_default();
        node.revision = node_revision;
        let mut table = Table {
            node_plugins: node.plugins.iter().cloned().collect(),
            node,
            organizations: HashMap::with_capacity(revisions.len()),
        };
        for (organization, revision) in revisions {
            let mut set = own.remove(&Some(organization)).unwrap_or_default();
            set.revision = revision;
            table.put(organization, set);
        }
        self.bindings.change(|now| *now = table);
        Ok(ready)
    }

    fn take_up(&self, organization: OrganizationId) -> Result<()> {
        let known = self.bindings.of(organization).revision;
        let changed = self.store.read(|db| {
            let revision = bindings::find_policy_revision(db, organization)?;
            Ok(if revision == known {
                None
            } else {
                Some((revision, Rows::read(db, Of::Organization(organization))?))
            })
        })?;
        let Some((revision, rows)) = changed else {
            return Ok(());
        };
        if revision.node != known.node {
            return self.take_up_all().map(|_| ());
        }
        let mut set = self.sets(rows)?.remove(&Some(organization)).unwrap_or_default();
        set.revision = revision.organization;
        self.bindings.change(|table| table.put(organization, set));
        Ok(())
    }

    /// Returns the bindings by owner, ready to be called.
    fn sets(&self, rows: Rows) -> Result<HashMap<Option<OrganizationId>, Set>> {
        let mut makers = Maker {
            reader: self,
            modules: rows.modules,
            configurations: rows.configurations,
            ready: HashMap::new(),
        };
        let mut sets: HashMap<_, Set> = HashMap::new();
        for binding in &rows.bindings {
            let set = sets.entry(binding.organization_id).or_default();
            if let Some((bound, history_days)) = makers.make(binding)? {
                set.plugins.push(Arc::new(bound));
                set.history_days = set.history_days.max(history_days);
            }
        }
        Ok(sets)
    }
}

/// The number of bindings and modules loaded.
struct Ready {
    bindings: usize,
    modules: usize,
    organizations: usize,
    /// Bindings with a limit of fuel, which this node does not count.
    uncounted: usize,
}

/// The rows of the store that describe bindings.
struct Rows {
    bindings: Vec<BindingRow>,
    modules: HashMap<[u8; 32], ModuleRow>,
    configurations: HashMap<[u8; 32], Arc<str>>,
}

impl Rows {
    fn read(db: &Connection, of: Of) -> Result<Self> {
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
struct Maker<'a> {
    reader: &'a Reader,
    modules: HashMap<[u8; 32], ModuleRow>,
    configurations: HashMap<[u8; 32], Arc<str>>,
    ready: HashMap<[u8; 32], Arc<Prepared>>,
}

impl Maker<'_> {
    /// Returns the binding and how many days back its questions reach; `None` if it is switched off.
    fn make(&mut self, binding: &BindingRow) -> Result<Option<(BoundPlugin, u16)>> {
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

fn missing(what: &str, digest: &[u8; 32]) -> crate::domain::Error {
    crate::domain::Error::Internal(format!(
        "the {what} {} of a binding is missing",
        hex::encode(digest)
    ))
}
