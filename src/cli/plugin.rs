//! `latchkey plugin …` for policy authors and their CI. All of these commands work offline, without a data
//! directory or server.

mod bench;
mod check;
mod compile;
mod new;
mod pack;
mod run;
mod sign;
mod test;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use indicatif::ProgressBar;
use serde_json::Value;

use super::exit::Refusal;
use super::files::{self, refused_plugin};
use super::output;
use crate::domain::policy::Manifest;
use crate::entropy::Entropy;
use crate::plugin_host::{Case, CaseHook, HostOptions, PluginHost, Prepared, printable};
pub(super) use compile::compiler;

/// The plugin commands of authors.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Create a plugin project from a template, with a test.
    New(new::New),
    /// Check whether an appliance would accept a plugin, and show what it requests.
    ///
    /// Compiles the plugin, reads its manifest and runs the golden cases inside the file, as an installation
    /// does.
    Check(check::Check),
    /// Show the contents of a plugin file, without running any of it.
    Inspect(check::Inspect),
    /// Ask a plugin one question and show its answer.
    ///
    /// Shows the verdict, the plugin's log, what a host would refuse of the requested effects, and time, fuel
    /// and memory used. Exits with 1 if the plugin fails.
    Run(run::Run),
    /// Run golden cases against a plugin.
    ///
    /// Every case is run twice, and both answers must be equal. Exits with 0 if all cases pass, with 1 if any
    /// fails, and with 5 if a file holds no valid case.
    Test(test::Test),
    /// Measure a plugin: time, CPU time, fuel and memory per call.
    Bench(bench::Bench),
    /// Embed golden cases in a plugin file, so that every installation runs them.
    Pack(pack::Pack),
    /// Generate a key pair for signing plugins (minisign format).
    Keygen(sign::Keygen),
    /// Sign a plugin (minisign format).
    ///
    /// A plugin that an appliance would refuse is not signed. The trusted comment of the signature names the
    /// plugin, its version and its digest.
    Sign(sign::Sign),
    /// Verify the signature of a plugin.
    Verify(sign::Verify),
    /// Compile the component on standard input. The server starts this; it is of no use by hand.
    #[command(hide = true)]
    CompileStdin(compile::Compile),
}

impl PluginCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, or what the command found; see [`super::exit`] for the exit codes.
    pub fn run(self) -> Result<()> {
        match self {
            Self::New(command) => command.run(),
            Self::Check(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Run(command) => command.run(),
            Self::Test(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Pack(command) => command.run(),
            Self::Keygen(command) => command.run(),
            Self::Sign(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::CompileStdin(command) => command.run(),
        }
    }
}

/// A plugin file, compiled, with a host to run it.
struct Loaded {
    host: PluginHost,
    prepared: Arc<Prepared>,
    bytes: Vec<u8>,
    runtime: tokio::runtime::Runtime,
}

impl Loaded {
    /// Reads, checks and compiles the plugin; shows a spinner on standard error meanwhile.
    fn open(path: &Path, meter_fuel: bool) -> Result<Self> {
        let bytes = files::plugin(path)?;
        let cache = AuthorCache::open();
        let host = PluginHost::new(HostOptions {
            cache_key: cache.as_ref().map_or([0; 32], |cache| cache.key),
            cache_dir: cache.map(|cache| cache.folder),
            meter_fuel,
            // No other caller waits for this compiler, and the author's machine may be a busy CI runner.
            compile_limit: Duration::from_mins(15),
            ..HostOptions::default()
        })?;
        let spinner = ProgressBar::new_spinner().with_message(format!("compiling {}", path.display()));
        spinner.enable_steady_tick(Duration::from_millis(120));
        let prepared = host.prepare(&bytes).map_err(|error| refused_plugin(path, &error));
        if let Ok(prepared) = &prepared {
            host.keep_artefact(prepared);
        }
        spinner.finish_and_clear();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        Ok(Self {
            host,
            prepared: prepared?,
            bytes,
            runtime,
        })
    }

    /// Returns the plugin's manifest, checked as an appliance would.
    fn manifest(&self, path: &Path) -> Result<Manifest> {
        let manifest = self.runtime.block_on(self.host.describe(&self.prepared));
        manifest.map_err(|error| refused_plugin(path, &error))
    }

    /// Returns why an appliance would refuse the configuration of this case; `None` if it would not, or if
    /// the case is about checking configurations.
    fn config_refused(&self, manifest: &Manifest, case: &Case) -> Option<String> {
        if case.hook == CaseHook::CheckConfig {
            return None;
        }
        let config = case.config.to_string();
        let checked = self.host.check_config(&self.prepared, manifest, &config);
        let error = self.runtime.block_on(checked).err()?;
        Some(format!(
            "no appliance would save this configuration: {error}; --unchecked-config asks with it anyway"
        ))
    }

    /// Returns the result of `config_refused` as a refusal.
    fn must_take_config(&self, manifest: &Manifest, case: &Case) -> Result<()> {
        match self.config_refused(manifest, case) {
            Some(text) => Err(Refusal(printable(&text)).into()),
            None => Ok(()),
        }
    }
}

/// Prints a line that may contain text from a plugin.
fn line(text: impl std::fmt::Display) -> Result<()> {
    output::line(printable(&text.to_string()))
}

/// Cache of compiled plugins of this user, so that a JavaScript plugin is not compiled for every test run.
struct AuthorCache {
    folder: PathBuf,
    key: [u8; 32],
}

impl AuthorCache {
    /// Opens the cache; `None` if there is no place for it, in which case every run compiles.
    #[expect(
        clippy::disallowed_methods,
        reason = "where the user keeps caches is the environment's to say"
    )]
    fn open() -> Option<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME") {
            Some(folder) if Path::new(&folder).is_absolute() => PathBuf::from(folder),
            _ => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
        };
        let folder = base.join("latchkey").join("plugins");
        let key = Self::key(&folder.join("key")).ok()?;
        Some(Self { folder, key })
    }

    /// Returns the key in this file, and creates it if there is none.
    fn key(path: &Path) -> Result<[u8; 32]> {
        use std::io::Write as _;
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

        if let Ok(bytes) = fs::read(path)
            && let Ok(key) = bytes.try_into()
        {
            return Ok(key);
        }
        let folder = path.parent().context("a file has a folder")?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let key = Entropy::system().bytes();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&key)?;
        Ok(key)
    }
}

/// Returns the nearest `base-question.json` in `folder` or above it, otherwise the built-in question.
fn base_question(folder: &Path) -> Result<Value> {
    let folder = folder
        .canonicalize()
        .with_context(|| format!("cannot find {}", folder.display()))?;
    match folder
        .ancestors()
        .map(|f| f.join("base-question.json"))
        .find(|file| file.is_file())
    {
        Some(file) => files::json(&file),
        None => Ok(crate::plugin_host::base_question()),
    }
}

/// Formats microseconds for people.
fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

/// Formats a number of bytes for people.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(
            [micros(42), micros(1_234), micros(50_400), micros(16_400_000)],
            ["42 µs", "1.23 ms", "50.40 ms", "16.40 s"]
        );
        assert_eq!(
            [bytes(5), bytes(18_432), bytes(1_153_434)],
            ["5 B", "18 KiB", "1.1 MiB"]
        );
    }
}
