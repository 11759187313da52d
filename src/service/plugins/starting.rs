//! A start: what is in the cache is asked at once, everything else as soon as it is compiled.
//!
//! After an upgrade or a restore nothing is in the cache, and to compile what one organisation has bound can take
//! minutes. Nobody else waits for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::bindings::Reader;
use super::prepare_blocking;
use crate::domain::Result;
use crate::plugin_host::{Digest, PackageError, Prepared};
use crate::service::Services;
use crate::store::bindings::Of;
use crate::store::plugins::{self, ModuleRow};

/// Bound modules that are still to be compiled. Until they are, each call of them fails, so that resets end as
/// their bindings say.
#[must_use = "resets that ask these policies fail until they are compiled"]
pub struct Missing {
    reader: Reader,
    modules: Vec<ModuleRow>,
}

/// Takes up all bindings, without compiling. Blocks for as long as it takes to read what is in the cache.
///
/// # Errors
/// When the store can't be read.
pub fn start(services: &Services) -> Result<Missing> {
    let mut reader = Reader::of(services);
    reader.take_up_without_compiling()?;
    let mut modules = services
        .store
        .read(|db| plugins::find_bound_modules(db, Of::All))?;
    let lacking = services.bindings.lacking().all();
    modules.retain(|module| lacking.contains_key(&Digest(module.digest)));
    drop(lacking);
    // Many a small one is ready before the largest would be.
    modules.sort_by_key(|module| module.size_bytes);
    Ok(Missing { reader, modules })
}

impl Missing {
    /// Whether everything is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Compiles them one after the other, and takes each up at once. Blocks, for minutes where they are large.
    pub fn compile(self) {
        let of = self.modules.len();
        tracing::info!(
            modules = of,
            "compiling policies that are bound and not in the cache"
        );
        for (nth, module) in (1..).zip(&self.modules) {
            let (digest, started) = (Digest(module.digest), Instant::now());
            let (plugin, version) = (&module.manifest.name, &module.manifest.version);
            let compiled = prepare_blocking(&self.reader.host, &self.reader.store, digest);
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            match &compiled {
                Ok(_) => tracing::info!(%plugin, %version, %digest, millis, nth, of, "a policy is compiled"),
                Err(error) => {
                    tracing::error!(%plugin, %version, %digest, millis, nth, of, %error, "a bound plugin can't be used");
                }
            }
            // What is compiled is held until the bindings have it.
            if let Err(error) = self.reader.no_longer_lacks(digest, compiled.as_ref().err()) {
                tracing::error!(%plugin, %digest, ?error, "a compiled policy can't be taken up before the next change");
            }
        }
    }
}

/// What stands for modules that were not in the cache at the start, until they are compiled; for good, where that
/// failed: each further change would compile them in vain.
#[derive(Debug, Default)]
pub(super) struct Lacking(Mutex<HashMap<Digest, Arc<Prepared>>>);

impl Lacking {
    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Prepared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.all().len()
    }
}

impl Reader {
    /// A module of a binding, ready to be called, or what stands for it.
    pub(super) fn ready(&self, module: &ModuleRow) -> Arc<Prepared> {
        let digest = Digest(module.digest);
        if let Some(prepared) = self.host.find(digest) {
            return prepared;
        }
        let mut lacking = self.bindings.lacking().all();
        if let Some(stands_in) = lacking.get(&digest) {
            return Arc::clone(stands_in);
        }
        if !self.compiles {
            let stands_in = self.host.not_ready(digest);
            lacking.insert(digest, Arc::clone(&stands_in));
            return stands_in;
        }
        drop(lacking);
        prepare_blocking(&self.host, &self.store, digest).unwrap_or_else(|error: PackageError| {
            tracing::error!(plugin = module.manifest.name, %digest, %error, "a bound plugin can't be used");
            self.host.unusable(digest, &error)
        })
    }

    /// Takes up a module that is ready now, or that turned out to be beyond use.
    fn no_longer_lacks(&self, digest: Digest, fault: Option<&PackageError>) -> Result<()> {
        let unusable = fault.map(|fault| self.host.unusable(digest, fault));
        let mut lacking = self.bindings.lacking().all();
        match unusable {
            Some(unusable) => lacking.insert(digest, unusable),
            None => lacking.remove(&digest),
        };
        drop(lacking);
        self.take_up_again()
    }
}
