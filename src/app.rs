//! The appliance: every part built once, handed out, and stopped in order.

mod client_address;
pub mod control;
mod listener;
mod metrics;
mod supervisor;
mod unfinished;

use std::fs;
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
/// How long the last signature may take.
const SIGNING_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long a start waits for policies that are not in the cache.
const COMPILED_WITHIN: Duration = Duration::from_secs(5);
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether a backup is due.
const BACK_UP_EVERY: Duration = Duration::from_secs(60);
/// A backup that has not come on for so long is told of.
const BACKUP_STANDS_STILL: Duration = Duration::from_secs(600);
/// How long a backup that is told to stop may take for it, and as long again the removal of what it leaves.
const BACKUP_ENDS_WITHIN: Duration = Duration::from_secs(5);
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
        unfinished::remove(&config.data_dir);
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
            witness: trail::Witness::default(),
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
            Ok(Err(error)) => tracing::error!(%error, "the trail could not be signed at the end"),
            Err(_) => tracing::error!("the trail could not be signed in time at the end"),
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
        Ok(_) if timeout(COMPILED_WITHIN, compiled).await.is_ok() => {}
        Ok(_) => tracing::warn!(
            "serving while policies are compiled: until each is ready, resets that ask it end as its binding says of a \
             failure (instantiation)"
        ),
        Err(error) => tracing::error!(%error, "no thread to compile policies: resets that ask them fail"),
    }
}

/// Lets what is being sent be sent and noted: cut off, it would be sent again after the next start.
async fn end_sending(mut sending: JoinHandle<((), ())>) {
    if timeout(SENDING_ENDS_WITHIN, &mut sending).await.is_err() {
        tracing::warn!("stopped while something was being sent: it is sent again after the next start");
        sending.abort();
    }
}

/// Lets a backup that is being made remove its copy: the keys are in it. One that hangs, or checks its copy, which
/// nothing interrupts, ends with the process; then its copy is removed from here.
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

/// Makes backups when they are due, until it is stopped.
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
        // It asks at each step.
        let is_stopped = move || {
            done.fetch_add(1, Ordering::Relaxed);
            *asked.borrow()
        };
        let due = tokio::task::spawn_blocking(move || backup::back_up_when_due(&services, &of, &is_stopped));
        let stands_still = || {
            tracing::warn!(
                directory = %schedule.directory.display(),
                minutes = BACKUP_STANDS_STILL.as_secs() / 60,
                "the backup under way has not come on: does its directory hang? While it copies, the WAL grows"
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
                tracing::error!(%error, again_in_minutes = wait.as_secs() / 60, "no backup could be made");
                wait
            }
        };
        if timeout(wait, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
            return;
        }
    }
}

/// Waits for work to end, and tells each time that it was not a step further for so long.
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
