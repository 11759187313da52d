//! Starts the bindings: modules in the cache are used at once, all others as soon as they are compiled.
//!
//! After an upgrade or a restore the cache is empty, and compiling what one organisation has bound can take
//! minutes. Other organisations do not wait for that.

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

/// Bound modules that are still to be compiled. Until then each call of them fails, so that resets end as their
/// bindings specify.
#[must_use = "resets that ask these policies fail until they are compiled"]
pub struct Missing {
    reader: Reader,
    modules: Vec<ModuleRow>,
}

/// Loads all bindings without compiling. Blocks for as long as it takes to read the cache.
///
/// # Errors
/// The store can't be read.
pub fn start(services: &Services) -> Result<Missing> {
    let mut reader = Reader::of(services);
    reader.take_up_without_compiling()?;
    let mut modules = services
        .store
        .read(|db| plugins::find_bound_modules(db, Of::All))?;
    let lacking = services.bindings.lacking().all();
    modules.retain(|module| lacking.contains_key(&Digest(module.digest)));
    drop(lacking);
    // Small ones first: many of them are ready before the largest would be.
    modules.sort_by_key(|module| module.size_bytes);
    Ok(Missing { reader, modules })
}

impl Missing {
    /// Returns whether everything is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Compiles the modules one after the other and puts each into use at once. Blocks, for minutes if they are
    /// large.
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
            // The compiled module is held until the bindings have it.
            if let Err(error) = self.reader.no_longer_lacks(digest, compiled.as_ref().err()) {
                tracing::error!(%plugin, %digest, ?error, "a compiled policy can't be used before the next change");
            }
        }
    }
}

/// Placeholders for modules that were not in the cache at the start, until they are compiled. A placeholder stays
/// for good if compilation failed: otherwise each further change would compile the module in vain.
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
    /// Returns a module of a binding, ready to be called, or its placeholder.
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

    /// Puts a module into use that is ready now, or that turned out to be unusable.
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
