//! The bound plugins of every organisation, ready to be called.
//!
//! A change is first committed and then loaded here, one organisation at a time. A reset that was judged by the
//! old set in between fails its re-check in the transaction, waits for [`catch_up`] and is judged again: no reset
//! is ever committed on outdated policies, and none is refused because of a change.

mod maker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use super::blocking;
use super::last_good::Answered;
use super::replay_turns::Turns;
use super::warm_up::Lacking;
use super::watching::{Alarms, Rechecks};
use crate::domain::Result;
use crate::domain::account::OrganizationId;
use crate::plugin_host::{BoundPlugin, PluginHost};
use crate::service::Services;
use crate::store::Store;
use crate::store::bindings::{self, Of, PolicyRevision};
use maker::{Maker, Rows};

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
        let (bindings, mut maker) = Maker::of(self, rows);
        let mut sets: HashMap<_, Set> = HashMap::new();
        for binding in &bindings {
            let set = sets.entry(binding.organization_id).or_default();
            if let Some((bound, history_days)) = maker.make(binding)? {
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
