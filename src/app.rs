//! The appliance: builds every part once, hands them out, and stops them in order.

mod client_address;
pub mod control;
pub mod descriptors;
mod leftovers;
mod listener;
mod metrics;
mod supervisor;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use self::supervisor::supervise;
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
use crate::service::{ExternalIssuer, Services, backup, deliveries, health, housekeeping, key_match, trail};
use crate::store::Store;

/// How long deliveries in progress may take when the server stops.
const SENDING_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How long the last signature of the trail may take when the server stops.
const SIGNING_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long a start waits for policies that must be compiled because they are not in the cache.
const COMPILED_WITHIN: Duration = Duration::from_secs(5);
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Interval of checks whether a backup is due.
const BACK_UP_EVERY: Duration = Duration::from_secs(60);
/// Time without progress after which a warning is logged about the backup under way.
const BACKUP_STANDS_STILL: Duration = Duration::from_secs(600);
/// How long an interrupted backup may take to stop, and again how long removing its remains may take.
const BACKUP_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Interval of checks whether the trail is due for signing.
const SIGN_EVERY: Duration = Duration::from_secs(1);

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
        let tidying = tokio::spawn(supervise(self.services.clone(), "tidying", tidy_now_and_then));
        let signing = tokio::spawn(supervise(self.services.clone(), "signing", sign_when_due));
        let rechecking = tokio::spawn(supervise(
            self.services.clone(),
            "rechecking",
            |services: Arc<Services>| async move { plugins::recheck_forever(&services).await },
        ));
        let (stop, stopped) = watch::channel(false);
        let (schedule, also_stopped) = (self.config.backup.clone(), stopped.clone());
        let backing_up = tokio::spawn(supervise(self.services.clone(), "backing up", move |services| {
            back_up_while(services, schedule.clone(), also_stopped.clone())
        }));
        let also_stopped = stopped.clone();
        let forwarding = supervise(self.services.clone(), "forwarding", move |services| {
            trail::forward_while(services, also_stopped.clone())
        });
        let sending = supervise(self.services.clone(), "sending", move |services| {
            deliveries::send_while(services, stopped.clone())
        });
        let sending = tokio::spawn(async { tokio::join!(sending, forwarding) });
        let Config {
            http: bounds,
            trusted_proxies,
            backup,
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
        signing.abort();
        rechecking.abort();
        let _ = stop.send(true);
        tokio::join!(
            end_sending(sending),
            end_backup(backing_up, &self.services, backup)
        );
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

/// Lets deliveries in progress finish and be recorded: an interrupted one would be sent again after the next
/// start.
async fn end_sending(mut sending: JoinHandle<((), ())>) {
    if timeout(SENDING_ENDS_WITHIN, &mut sending).await.is_err() {
        tracing::warn!("stopped while something was being sent: it is sent again after the next start");
        sending.abort();
    }
}

/// Lets a backup in progress remove its copy, which contains the keys. A backup that hangs, or verifies its
/// copy, which can't be interrupted, ends with the process; in that case its copy is removed from here.
async fn end_backup(
    mut backing_up: JoinHandle<()>,
    services: &Arc<Services>,
    schedule: Option<backup::Schedule>,
) {
    let ended = timeout(BACKUP_ENDS_WITHIN, &mut backing_up).await.is_ok();
    let Some(schedule) = schedule.filter(|_| !ended) else {
        return;
    };
    let (services, directory) = (services.clone(), schedule.directory.clone());
    let removing = tokio::task::spawn_blocking(move || backup::clear_unfinished(&services, &schedule));
    if timeout(BACKUP_ENDS_WITHIN, removing).await.is_err() {
        tracing::warn!(
            directory = %directory.display(),
            "stopped while a backup was made, and its copy could not be removed in time: the next one removes it"
        );
    }
}

async fn tidy_now_and_then(services: Arc<Services>) {
    if let Err(error) = trail::count_ahead(&services).await {
        tracing::warn!(
            ?error,
            "could not count the trail: the first page filtered by type takes longer"
        );
    }
    let mut tick = tokio::time::interval(TIDY_EVERY);
    // After the host slept, one round is enough to catch up.
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
            tracing::error!(%error, "could not sign the trail; retrying");
        }
    }
}

/// Makes backups when they are due, until it is told to stop.
async fn back_up_while(
    services: Arc<Services>,
    schedule: Option<backup::Schedule>,
    mut stopped: watch::Receiver<bool>,
) {
    let Some(schedule) = schedule else { return };
    let mut failures = 0;
    loop {
        let (services, of, asked) = (services.clone(), schedule.clone(), stopped.clone());
        let steps = Arc::new(AtomicU64::new(0));
        let done = Arc::clone(&steps);
        // Called at each step of the backup, so it counts the steps.
        let is_stopped = move || {
            done.fetch_add(1, Ordering::Relaxed);
            *asked.borrow()
        };
        let due = tokio::task::spawn_blocking(move || backup::back_up_when_due(&services, &of, &is_stopped));
        let stands_still = || {
            tracing::warn!(
                directory = %schedule.directory.display(),
                minutes = BACKUP_STANDS_STILL.as_secs() / 60,
                "the backup under way makes no progress: check whether its directory hangs; the WAL grows while it copies"
            );
        };
        let failure = match watched(due, &steps, BACKUP_STANDS_STILL, stands_still).await {
            Ok(Ok(None)) => None,
            Ok(Ok(Some(path))) => {
                tracing::info!(path = %path.display(), "backed up");
                None
            }
            Ok(Err(backup::BackupError::Stopped)) => {
                tracing::info!("stopped while a backup was made: the next start makes it anew");
                return;
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let wait = match failure {
            None => {
                failures = 0;
                BACK_UP_EVERY
            }
            Some(error) => {
                failures += 1;
                let wait = backup::wait_after_failures(failures);
                tracing::error!(%error, again_in_minutes = wait.as_secs() / 60, "could not make a backup");
                wait
            }
        };
        if timeout(wait, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
            return;
        }
    }
}

/// Waits for `work` to end. Calls `stands_still` after each `patience` in which `steps` did not change.
async fn watched<T>(
    mut work: JoinHandle<T>,
    steps: &AtomicU64,
    patience: Duration,
    mut stands_still: impl FnMut(),
) -> Result<T, JoinError> {
    let mut before = steps.load(Ordering::Relaxed);
    loop {
        if let Ok(ended) = timeout(patience, &mut work).await {
            return ended;
        }
        let now = steps.load(Ordering::Relaxed);
        if now == before {
            stands_still();
        }
        before = now;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_stands_still_is_told_of_and_work_that_goes_on_is_not() {
        let steps = Arc::new(AtomicU64::new(0));
        let (done, mut told) = (Arc::clone(&steps), 0);
        let goes_on = tokio::spawn(async move {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
            "done"
        });
        let ended = watched(goes_on, &steps, Duration::from_secs(1), || told += 1).await;
        assert_eq!((ended.unwrap(), told), ("done", 0));
        let (end, ends) = tokio::sync::oneshot::channel();
        let (mut end, mut told) = (Some(end), 0);
        let stands_still = tokio::spawn(async { ends.await.unwrap() });
        let ended = watched(stands_still, &steps, Duration::from_millis(50), || {
            told += 1;
            if let Some(end) = end.take_if(|_| told == 2) {
                let _ = end.send("at last");
            }
        });
        assert_eq!(ended.await.unwrap(), "at last");
        assert!(told >= 2, "{told}");
    }
}
