//! Has components compiled, one at a time in the background, and caches the machine code on disk.
//!
//! Loading machine code means running it, so a cached artefact is loaded only if its HMAC, under a key that
//! only this appliance has, is valid. Anything else (tampered, truncated, made by another engine or for another
//! module) is compiled again and replaced.

mod compiler;

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::hash::{Hash as _, Hasher};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use compiler::{Compiler, Fault, Job, News};
pub use compiler::{CompilerProgram, compile_stdin};

use super::package::{Package, PackageError, judge_effort};
use super::printable::printable;
use super::record::Digest;
use crate::durable;

/// Loads the machine code of components from the cache, or compiles them.
pub(super) struct Artefacts {
    engine: Engine,
    cache: Option<Cache>,
    compiler: mpsc::Sender<Job>,
    compile_limit: Duration,
    /// Modules that exceeded the compile limit, oldest first, so that the only compiler thread does not try
    /// them again.
    exceeded: Mutex<VecDeque<Digest>>,
}

impl Artefacts {
    /// # Errors
    /// The directory can't be made private, or no thread can be started.
    pub(super) fn new(
        engine: Engine,
        folder: Option<PathBuf>,
        key: [u8; 32],
        compile_limit: Duration,
        program: Option<CompilerProgram>,
    ) -> anyhow::Result<Self> {
        let cache = folder
            .map(|folder| Cache::open(folder, key, &engine))
            .transpose()?;
        let compiler = Compiler {
            engine: engine.clone(),
            program,
            limit: compile_limit,
        };
        let compiler = compiler.start().context("cannot start the plugin compiler")?;
        Ok(Self {
            engine,
            cache,
            compiler,
            compile_limit,
            exceeded: Mutex::default(),
        })
    }

    /// Returns the component, from the cache or compiled; [`Self::keep`] caches it. Blocks; never call it on
    /// the executor.
    pub(super) fn component(&self, package: &Package<'_>) -> Result<(Component, Origin), PackageError> {
        if let Some(component) = self.find(package.digest) {
            return Ok((component, Origin::Cache));
        }
        judge_effort(&package.component)?;
        if self.exceeded().contains(&package.digest) {
            return Err(self.too_long());
        }
        let code = self.compile(package)?;
        let component = load(&self.engine, &code).map_err(|error| unloadable(&error))?;
        Ok((component, Origin::Compiled))
    }

    /// Returns the component if its machine code is cached.
    pub(super) fn find(&self, digest: Digest) -> Option<Component> {
        let code = self.cache.as_ref()?.load(digest)?;
        load(&self.engine, &code)
            .inspect_err(
                |error| tracing::warn!(%digest, %error, "a kept plugin artefact is stale; compiling anew"),
            )
            .ok()
    }

    /// Writes a component's machine code to the cache. Blocks.
    pub(super) fn keep(&self, digest: Digest, component: &Component) {
        let Some(cache) = &self.cache else { return };
        let kept = component
            .serialize()
            .map_err(|error| anyhow::anyhow!("{error:#}"))
            .and_then(|code| cache.keep(digest, &code));
        if let Err(error) = kept {
            // The plugin works without the cache; the next start compiles again.
            tracing::warn!(%digest, error = %format!("{error:#}"), "cannot keep a plugin artefact");
        }
    }

    /// Removes every cached artefact except those that this engine made of `installed` modules. Blocks.
    pub(super) fn prune<E>(
        &self,
        installed: impl FnOnce() -> Result<Vec<Digest>, E>,
    ) -> Result<std::io::Result<usize>, E> {
        let Some(cache) = &self.cache else {
            return Ok(Ok(0));
        };
        // The directory is listed before `installed` is called, so an artefact added in between is left alone.
        let kept = match cache.kept() {
            Ok(kept) if kept.is_empty() => return Ok(Ok(0)),
            Ok(kept) => kept,
            Err(error) => return Ok(Err(error)),
        };
        Ok(cache.remove_but(kept, &installed()?))
    }

    fn exceeded(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.exceeded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_exceeded(&self, digest: Digest) {
        let mut exceeded = self.exceeded();
        if exceeded.len() == EXCEEDED_MAX {
            exceeded.pop_front();
        }
        exceeded.push_back(digest);
    }

    fn too_long(&self) -> PackageError {
        PackageError::CompileTime {
            limit_secs: self.compile_limit.as_secs(),
        }
    }

    fn compile(&self, package: &Package<'_>) -> Result<Vec<u8>, PackageError> {
        let component = package.component.to_vec();
        let gone = |_| PackageError::Host("the compiler thread has ended".to_owned());
        let (reply, news) = mpsc::channel();
        self.compiler
            .send(Job { component, reply })
            .map_err(|e| gone(e.to_string()))?;
        // The limit is CPU time, so that a busy machine is not held against the module. The wall clock only
        // catches a compiler that hardly gets to run.
        let longest = self.compile_limit * WALL_PER_CPU + GRACE;
        // Time in the queue does not count against a module, only its own compilation does.
        match news.recv_timeout(longest * QUEUED_MAX) {
            Ok(_) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let queue = "it is compiling other plugins; try again later";
                return Err(PackageError::Host(queue.to_owned()));
            }
            Err(e @ mpsc::RecvTimeoutError::Disconnected) => return Err(gone(e.to_string())),
        }
        match news.recv_timeout(longest) {
            Ok(News::Done(Ok(code))) => Ok(code),
            Ok(News::Done(Err(Fault::Invalid(reason)))) => Err(PackageError::Invalid(printable(&reason))),
            Ok(News::Done(Err(Fault::Crashed))) => Err(PackageError::TooComplex {
                reason: "its compiler runs out of memory, or crashes".to_owned(),
            }),
            Ok(News::Done(Err(Fault::Host(reason)))) => Err(PackageError::Host(reason)),
            Ok(News::Done(Err(Fault::TooLong)) | News::Started) | Err(mpsc::RecvTimeoutError::Timeout) => {
                self.remember_exceeded(package.digest);
                Err(self.too_long())
            }
            Err(e @ mpsc::RecvTimeoutError::Disconnected) => Err(gone(e.to_string())),
        }
    }
}

/// Where machine code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the cache, and authentic.
    Cache,
    /// Compiled just now.
    Compiled,
}

#[expect(
    unsafe_code,
    reason = "machine code of our own making: authenticated by HMAC, or compiled a moment ago"
)]
fn load(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` is what `Engine::precompile_component` returned, here, in a process that this one started from
    // its own file, or in an earlier process of this appliance: `Cache::load` lets nothing else through. wasmtime
    // itself checks that it was made by the same version with the same settings.
    unsafe { Component::deserialize(engine, code) }
}

/// Classifies a load error: either the module exceeds what an instance of the pool can hold, or the host is in
/// trouble. wasmtime distinguishes the two only by the error's text, and only at this point.
fn unloadable(error: &wasmtime::Error) -> PackageError {
    let reason = error.root_cause().to_string();
    if reason.contains("exceeds the ") {
        // The text goes on with a breakdown of the size after the semicolon.
        let reason = reason.split(';').next().unwrap_or_default();
        return PackageError::Invalid(reason.to_owned());
    }
    PackageError::Host(format!("{error:#}"))
}

/// The directory of cached artefacts.
struct Cache {
    folder: PathBuf,
    key: [u8; 32],
    /// Hash of wasmtime's version and every setting that affects machine code.
    settings: u64,
}

impl Cache {
    fn open(folder: PathBuf, key: [u8; 32], engine: &Engine) -> anyhow::Result<Self> {
        let private = || -> std::io::Result<()> {
            durable::create_private_directory(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
        };
        private().with_context(|| format!("cannot make {} a private folder", folder.display()))?;
        // The default hasher has fixed keys. Another Rust release may hash differently; then everything is
        // compiled again.
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            folder,
            key,
            settings: hasher.finish(),
        })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder
            .join(format!("{digest}-{:016x}.{EXTENSION}", self.settings))
    }

    fn tag(&self, digest: Digest) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(MAGIC);
        mac.update(&self.settings.to_be_bytes());
        mac.update(&digest.0);
        mac
    }

    /// Returns the machine code of this module if this appliance made it.
    fn load(&self, digest: Digest) -> Option<Vec<u8>> {
        // Read whole, then verified, then used: a file swapped in between is never used.
        let mut file = fs::read(self.path(digest)).ok()?;
        let authentic = file.split_at_checked(HEADER_BYTES).is_some_and(|(header, code)| {
            let (magic, tag) = header.split_at(MAGIC.len());
            magic == MAGIC && self.tag(digest).chain_update(code).verify_slice(tag).is_ok()
        });
        if !authentic {
            tracing::warn!(%digest, "a kept plugin artefact is not authentic; compiling anew");
            return None;
        }
        file.drain(..HEADER_BYTES);
        Some(file)
    }

    fn keep(&self, digest: Digest, code: &[u8]) -> anyhow::Result<()> {
        let tag = self.tag(digest).chain_update(code).finalize().into_bytes();
        let path = self.path(digest);
        durable::replace(&path, &[MAGIC, &tag, code]).with_context(|| format!("writing {}", path.display()))
    }

    /// Lists all artefacts, and temporary files that an ended process left behind.
    fn kept(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            let is_artefact = path.extension().is_some_and(|extension| extension == EXTENSION);
            if is_artefact || (durable::is_unfinished(&path) && is_left_behind(&entry)) {
                kept.push(path);
            }
        }
        Ok(kept)
    }

    fn remove_but(&self, kept: Vec<PathBuf>, installed: &[Digest]) -> std::io::Result<usize> {
        let wanted: HashSet<PathBuf> = installed.iter().map(|digest| self.path(*digest)).collect();
        let mut removed = 0;
        for path in kept.into_iter().filter(|path| !wanted.contains(path)) {
            fs::remove_file(&path)?;
            removed += 1;
        }
        Ok(removed)
    }
}

/// Whether nobody writes an unfinished file any more. A younger one may be this process's own.
fn is_left_behind(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    let age = modified.map(|modified| modified.elapsed().unwrap_or_default());
    age.is_ok_and(|age| age > UNFINISHED_FOR)
}

const EXTENSION: &str = "artefact";
/// Longer than any file takes to be written.
const UNFINISHED_FOR: Duration = Duration::from_secs(3600);
const MAGIC: &[u8] = b"latchkey-artefact-1\n";
const HEADER_BYTES: usize = MAGIC.len() + 32;
const WALL_PER_CPU: u32 = 10;
const EXCEEDED_MAX: usize = 256;
/// Time beyond the limit for a process to be started, ended and read.
const GRACE: Duration = Duration::from_secs(30);
/// Compilations that one may wait for, each of which takes as long as it may.
const QUEUED_MAX: u32 = 3;

#[cfg(test)]
#[path = "artefact_tests.rs"]
mod tests;
