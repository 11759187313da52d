//! The appliance: builds every part once, hands them out, and stops them in order.

mod background;
mod client_address;
pub mod control;
pub mod descriptors;
mod leftovers;
mod listener;
mod metrics;
mod supervisor;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::time::timeout;

use self::background::Background;
use crate::clock::Clock;
use crate::config::Config;
use crate::courier::Courier;
use crate::durable;
use crate::entropy::Entropy;
use crate::http::{self, HttpOptions};
use crate::keys::{KEY_DIRECTORY, KeyRing, read_key_texts};
use crate::limiter::Limiter;
use crate::plugin_host::{HostOptions, PluginHost};
use crate::service::hashing::Hashing;
use crate::service::health::Probing;
use crate::service::housekeeping::Sweep;
use crate::service::login::Strangers;
use crate::service::metrics::Counts;
use crate::service::plugins::{self, Bindings};
use crate::service::refusals::Floods;
use crate::service::reset::InFlight;
use crate::service::session::Principals;
use crate::service::{ExternalIssuer, Services, backup, health, housekeeping, key_match, trail};
use crate::store::Store;

/// How long the last signature of the trail may take when the server stops.
const SIGNING_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long a start waits for policies that must be compiled because they are not in the cache.
const COMPILED_WITHIN: Duration = Duration::from_secs(5);

/// The appliance over one data directory.
pub struct App {
    /// The checked configuration.
    pub config: Config,
    /// All parts.
    pub services: Arc<Services>,
}

impl App {
    /// Opens the data directory, creating it if it is missing, and builds every part over it.
    ///
    /// # Errors
    /// [`crate::store::OpenError`] if the database can't be used; [`key_match::KeysOfAnother`] if the keys
    /// belong to another database; [`trail::RolledBack`] if the database is older than the last signed state;
    /// otherwise what failed and where.
    pub fn open(config: Config) -> Result<Self> {
        let app = Self::open_unchecked(config)?;
        trail::check_rollback(&app.services)?;
        Ok(app)
    }

    /// Opens the data directory without checking whether the database was rolled back, so that the rollback
    /// can be accepted.
    ///
    /// # Errors
    /// As [`App::open`], except for [`trail::RolledBack`].
    pub fn open_unchecked(config: Config) -> Result<Self> {
        backup::refuse_backup(&config.data_dir)?;
        make_data_dir(&config.data_dir)?;
        let store = Store::open_with(&config.data_dir, config.database)?;
        leftovers::remove(&config.data_dir);
        let app = Self::over(config, store)?;
        key_match::check_keys(&app.services)??;
        trail::finish_key_change(&app.services).context("the trail's new key")?;
        Ok(app)
    }

    /// Opens an existing data directory and leaves it as it is: makes no keys, does not migrate the database, and
    /// neither removes nor completes what a killed process left unfinished.
    ///
    /// # Errors
    /// As [`App::open`], and [`crate::store::OpenError::Older`] for a database that would be migrated.
    pub fn open_to_examine(config: Config) -> Result<Self> {
        backup::refuse_backup(&config.data_dir)?;
        let store = Store::open_unmigrated(&config.data_dir, config.database)?;
        read_key_texts(&config.data_dir.join(KEY_DIRECTORY))?; // missing ones would be made
        let app = Self::over(config, store)?;
        key_match::compare_keys(&app.services)??;
        trail::check_rollback(&app.services)?;
        Ok(app)
    }

    /// Builds every part over an open store.
    fn over(config: Config, store: Store) -> Result<Self> {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let keys = KeyRing::open(&config.data_dir, &entropy)?;
        let external = config.external_issuer.clone();
        let external_issuer = external
            .map(|external| ExternalIssuer::new(external.rules, &external.jwks))
            .transpose()
            .map_err(|problem| anyhow::anyhow!("external_issuer.jwks_file: {problem}"))?;
        let limiter = Limiter::new(&config.limits, &clock);
        let plugin_host = PluginHost::new(HostOptions {
            cache_dir: Some(config.plugins.cache_dir.clone()),
            cache_key: keys.plugin_cache_key(),
            per_organization_concurrency: config.plugins.per_organization_concurrency,
            total_concurrency: config.plugins.total_concurrency,
            slot_wait: config.plugins.slot_wait,
            memory_total_bytes: config.plugins.memory_total_bytes,
            meter_fuel: config.plugins.count_fuel,
            compiler: config.plugins.compiler.clone(),
            ..HostOptions::default()
        })?;
        let courier =
            Courier::new(&config.courier).map_err(|problem| anyhow::anyhow!("mail, webhooks: {problem}"))?;
        let services = Services {
            store,
            plugin_host,
            courier,
            limiter,
            keys,
            passkeys: config.passkeys.clone(),
            external_issuer,
            clock,
            entropy,
            settings: config.settings.clone(),
            principals: Principals::default(),
            hashing: Hashing::default(),
            probing: Probing::default(),
            in_flight: InFlight::default(),
            floods: Floods::default(),
            strangers: Strangers::default(),
            sweep: Sweep::default(),
            bindings: Bindings::default(),
            counts: Counts::default(),
            tails: trail::Tails::default(),
            witness: trail::Witness::default(),
        };
        Ok(Self {
            config,
            services: Arc::new(services),
        })
    }

    /// Serves until `shutdown` completes, then lets requests in progress finish.
    ///
    /// # Errors
    /// If the bound plugins can't be read, or the configured metrics address can't be served. Once it serves,
    /// every failure of a request is reported in its response.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
        let services = self.services.clone();
        let missing = tokio::task::spawn_blocking(move || plugins::start(&services))
            .await
            .context("the bound plugins")?
            .context("the bound plugins can't be read")?;
        let measured = match &self.config.metrics {
            None => None,
            Some(metrics) => Some(metrics::open(metrics, &self.services).await?),
        };
        let options = HttpOptions {
            body_limit_bytes: self.config.http.body_limit_bytes,
            ..HttpOptions::default()
        };
        // An appliance that can't write still serves what it has. Report it now rather than at the first
        // change.
        if health::ready(&self.services).await.is_err() {
            tracing::error!("started, but not ready: see the warning before this");
        }
        let endpoint = Arc::new(http::endpoint(self.services.clone(), options));
        // The server runs without the socket, but must then be stopped to change policies.
        let door = control::open(&self.services, &self.config.data_dir).inspect_err(
            |error| tracing::warn!(error = %format!("{error:#}"), "could not open the operator's socket"),
        );
        let background = Background::start(&self.services, self.config.backup.clone());
        let Config {
            http: bounds,
            trusted_proxies,
            ..
        } = self.config;
        let services = self.services.clone();
        let shutdown = async move {
            shutdown.await;
            services.tails.end();
        };
        compile_ahead(missing).await;
        let drained = listener::serve(listener, endpoint, bounds, trusted_proxies, shutdown).await;
        drop((door, measured));
        background.end().await;
        housekeeping::wind_up(&self.services).await;
        match timeout(SIGNING_ENDS_WITHIN, trail::checkpoint(&self.services)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "could not sign the trail at the end"),
            Err(_) => tracing::error!("could not sign the trail in time at the end"),
        }
        if drained {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped with requests under way: the grace period is over");
        }
        Ok(())
    }
}

/// Waits briefly for policies to be compiled, so that most upgrades go unnoticed; slower compilation
/// continues while others are served.
async fn compile_ahead(missing: plugins::Missing) {
    if missing.is_empty() {
        return;
    }
    let (done, compiled) = tokio::sync::oneshot::channel();
    // A thread of its own, so that stopping does not wait for it.
    let thread = std::thread::Builder::new().name("latchkey-ready".into());
    let started = thread.spawn(move || {
        missing.compile();
        let _ = done.send(());
    });
    match started {
        Ok(_) if timeout(COMPILED_WITHIN, compiled).await.is_ok() => {}
        Ok(_) => tracing::warn!(
            "serving while policies are compiled: until each is ready, resets that ask it end as its binding says of a \
             failure (instantiation)"
        ),
        Err(error) => tracing::error!(%error, "no thread to compile policies: resets that ask them fail"),
    }
}

/// Creates the data directory, which holds keys and password hashes, for its owner alone.
fn make_data_dir(path: &Path) -> Result<()> {
    if !path.is_dir() {
        durable::create_private_directory(path)
            .with_context(|| format!("could not create the data directory {}", path.display()))?;
    }
    Ok(())
}
