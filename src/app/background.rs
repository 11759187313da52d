//! What runs beside the server: tidying up, signing the trail, rechecking policies, sending and forwarding, and
//! making backups.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use super::supervisor::supervise;
use crate::service::{Services, backup, deliveries, housekeeping, plugins, trail};

/// How long deliveries in progress may take when the server stops.
const SENDING_ENDS_WITHIN: Duration = Duration::from_secs(5);
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Interval of checks whether a backup is due.
const BACK_UP_EVERY: Duration = Duration::from_secs(60);
/// Time without progress after which a warning is logged about the backup under way.
const BACKUP_STANDS_STILL: Duration = Duration::from_secs(600);
/// How long an interrupted backup may take to stop, and again how long removing its remains may take.
const BACKUP_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Interval of checks whether the trail is due for signing.
const SIGN_EVERY: Duration = Duration::from_secs(1);

/// The tasks beside the server.
pub(super) struct Background {
    services: Arc<Services>,
    schedule: Option<backup::Schedule>,
    /// Those that may be interrupted anywhere.
    interruptible: [JoinHandle<()>; 3],
    sending: JoinHandle<((), ())>,
    backing_up: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Background {
    pub(super) fn start(services: &Arc<Services>, schedule: Option<backup::Schedule>) -> Self {
        let tidying = tokio::spawn(supervise(services.clone(), "tidying", tidy_now_and_then));
        let signing = tokio::spawn(supervise(services.clone(), "signing", sign_when_due));
        let rechecking = tokio::spawn(supervise(
            services.clone(),
            "rechecking",
            |services: Arc<Services>| async move { plugins::recheck_forever(&services).await },
        ));
        let (stop, stopped) = watch::channel(false);
        let (of, also_stopped) = (schedule.clone(), stopped.clone());
        let backing_up = tokio::spawn(supervise(services.clone(), "backing up", move |services| {
            back_up_while(services, of.clone(), also_stopped.clone())
        }));
        let also_stopped = stopped.clone();
        let forwarding = supervise(services.clone(), "forwarding", move |services| {
            trail::forward_while(services, also_stopped.clone())
        });
        let sending = supervise(services.clone(), "sending", move |services| {
            deliveries::send_while(services, stopped.clone())
        });
        Self {
            services: services.clone(),
            schedule,
            interruptible: [tidying, signing, rechecking],
            sending: tokio::spawn(async { tokio::join!(sending, forwarding) }),
            backing_up,
            stop,
        }
    }

    /// Ends them all. What is being sent or backed up has a moment to come to an end.
    pub(super) async fn end(self) {
        for task in self.interruptible {
            task.abort();
        }
        let _ = self.stop.send(true);
        tokio::join!(
            end_sending(self.sending),
            end_backup(self.backing_up, &self.services, self.schedule)
        );
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
