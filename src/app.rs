//! The appliance: every part built once, handed out, and stopped in order.

mod client_address;
pub mod control;
mod listener;
mod metrics;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;

use crate::clock::Clock;
use crate::config::Config;
use crate::courier::Courier;
use crate::entropy::Entropy;
use crate::http::{self, HttpOptions};
use crate::keys::KeyRing;
use crate::limiter::Limiter;
use crate::plugin_host::{HostOptions, PluginHost};
use crate::service::hashing::Hashing;
use crate::service::health::Probing;
use crate::service::housekeeping::Sweep;
use crate::service::login::Strangers;
use crate::service::metrics::Counts;
use crate::service::plugins::{self, Bindings};
use crate::service::reset::{Floods, InFlight};
use crate::service::session::Principals;
use crate::service::{ExternalIssuer, Services, backup, belonging, deliveries, health, housekeeping, trail};
use crate::store::Store;

/// How long what is being sent may take at the end.
const SENDING_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How long a start waits for policies that are not in the cache.
const COMPILED_WITHIN: Duration = Duration::from_secs(5);
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether a backup is due.
const BACK_UP_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether the trail is to be signed.
const SIGN_EVERY: Duration = Duration::from_secs(1);

/// The appliance over one data directory.
pub struct App {
    /// What the operator configured.
    pub config: Config,
    /// Every part.
    pub services: Arc<Services>,
}

impl App {
    /// Opens the data directory, made if it is missing, and builds every part over it.
    ///
    /// # Errors
    /// [`crate::store::OpenError`] when the database can't be used; [`belonging::KeysOfAnother`] when the keys are
    /// not its own; [`trail::RolledBack`] when it is older
    /// than it was; otherwise what failed and where.
    pub fn open(config: Config) -> Result<Self> {
        let app = Self::open_unchecked(config)?;
        trail::check_rollback(&app.services)?;
        Ok(app)
    }

    /// The same over a database that may be older than it was: for accepting it.
    ///
    /// # Errors
    /// As [`App::open`], but for [`trail::RolledBack`].
    pub fn open_unchecked(config: Config) -> Result<Self> {
        backup::refuse_backup(&config.data_dir)?;
        make_data_dir(&config.data_dir)?;
        let clock = Clock::system();
        let entropy = Entropy::system();
        let store = Store::open_with(&config.data_dir, config.database)?;
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
        };
        belonging::check_keys(&services)??;
        trail::finish_key_change(&services).context("the trail's new key")?;
        Ok(Self {
            config,
            services: Arc::new(services),
        })
    }

    /// Serves until `shutdown`, then lets requests under way end.
    ///
    /// # Errors
    /// When the bound plugins can't be read, or metrics can't be served where they are to be. Once it
    /// serves, whatever a request meets ends in its answer.
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
        // One that can't write serves what it has; whoever watches is told at once, not by the first change.
        if health::ready(&self.services).await.is_err() {
            tracing::error!("started without being ready: see the warning before this");
        }
        let endpoint = Arc::new(http::endpoint(self.services.clone(), options));
        // Without it the server serves all the same; its operator has to stop it to change policies.
        let door = control::open(&self.services, &self.config.data_dir)
            .inspect_err(|error| tracing::warn!(error = %format!("{error:#}"), "no socket for the operator"));
        let tidying = tokio::spawn(tidy_now_and_then(self.services.clone()));
        let backing_up = tokio::spawn(back_up_when_due(
            self.services.clone(),
            self.config.backup.clone(),
        ));
        let signing = tokio::spawn(sign_when_due(self.services.clone()));
        let rechecking = tokio::spawn({
            let services = self.services.clone();
            async move { plugins::recheck_forever(&services).await }
        });
        let (stop_sending, stopped) = tokio::sync::watch::channel(false);
        let forwarding = trail::forward_while(self.services.clone(), stopped.clone());
        let sending = deliveries::send_while(self.services.clone(), stopped);
        let sending = tokio::spawn(async { tokio::join!(sending, forwarding) });
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
        tidying.abort();
        backing_up.abort();
        signing.abort();
        rechecking.abort();
        stop(stop_sending, sending).await;
        housekeeping::wind_up(&self.services).await;
        if let Err(error) = trail::checkpoint(&self.services).await {
            tracing::error!(%error, "the trail could not be signed at the end");
        }
        if drained {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped with requests under way: the grace period is over");
        }
        Ok(())
    }
}

/// Waits a little for policies that are to be compiled, so that after most upgrades nobody notices; what takes longer
/// goes on while others are served.
async fn compile_ahead(missing: plugins::Missing) {
    if missing.is_empty() {
        return;
    }
    let (done, compiled) = tokio::sync::oneshot::channel();
    // A thread that no stop waits for.
    let thread = std::thread::Builder::new().name("latchkey-ready".into());
    let started = thread.spawn(move || {
        missing.compile();
        let _ = done.send(());
    });
    match started {
        Ok(_) if tokio::time::timeout(COMPILED_WITHIN, compiled).await.is_ok() => {}
        Ok(_) => tracing::warn!(
            "serving while policies are compiled: until each is ready, resets that ask it end as its binding says of a \
             failure (instantiation)"
        ),
        Err(error) => tracing::error!(%error, "no thread to compile policies: resets that ask them fail"),
    }
}

/// Lets what is being sent be sent and noted: cut off, it would be sent again after the next start.
async fn stop(
    stop_sending: tokio::sync::watch::Sender<bool>,
    mut sending: tokio::task::JoinHandle<((), ())>,
) {
    let _ = stop_sending.send(true);
    if tokio::time::timeout(SENDING_ENDS_WITHIN, &mut sending)
        .await
        .is_err()
    {
        tracing::warn!("stopped while something was being sent: it is sent again after the next start");
        sending.abort();
    }
}

async fn tidy_now_and_then(services: Arc<Services>) {
    if let Err(error) = trail::count_ahead(&services).await {
        tracing::warn!(
            ?error,
            "the trail could not be counted: the first page of a type takes longer"
        );
    }
    let mut tick = tokio::time::interval(TIDY_EVERY);
    // Where the host slept, once is enough to catch up.
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        housekeeping::tidy(&services).await;
    }
}

async fn sign_when_due(services: Arc<Services>) {
    let mut tick = tokio::time::interval(SIGN_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = trail::checkpoint_if_due(&services).await {
            tracing::error!(%error, "the trail could not be signed, trying again");
        }
    }
}

async fn back_up_when_due(services: Arc<Services>, schedule: Option<backup::Schedule>) {
    let Some(schedule) = schedule else { return };
    let mut tick = tokio::time::interval(BACK_UP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (services, schedule) = (services.clone(), schedule.clone());
        let done = tokio::task::spawn_blocking(move || backup::back_up_when_due(&services, &schedule)).await;
        match done {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(path))) => tracing::info!(path = %path.display(), "backed up"),
            Ok(Err(error)) => tracing::error!(%error, "no backup could be made, trying again in a minute"),
            Err(error) => tracing::error!(%error, "a backup ended early, trying again in a minute"),
        }
    }
}

/// Nobody but the service may look in: keys and password hashes live there.
fn make_data_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if !path.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("the data directory {} can't be made", path.display()))?;
    }
    Ok(())
}
