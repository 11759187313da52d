//! Can the appliance do its job?

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Services;
use crate::domain::{Error, Result};

/// How long whoever asks waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held by whoever finds out: anybody may ask, and however many do, they take one place of the writer's queue.
#[derive(Debug, Default)]
pub struct Probing {
    alone: Mutex<()>,
    /// Whether something was put on disk since the start: before that, nobody has tried.
    written: AtomicBool,
}

/// Reads the database and passes through the writer's queue. Where the last change could not be put on disk, or
/// none was tried since the start, tries whether one can be now; otherwise without writing.
///
/// # Errors
/// [`Error::Unwritable`] when nothing can be put on disk; [`Error::Busy`] when the database can't be read, the
/// writer takes no work, or not within two seconds, or nobody moves the WAL into the database.
pub async fn ready(services: &Services) -> Result<()> {
    let probed = timeout(PATIENCE, async {
        let _alone = services.probing.alone.lock().await;
        probe(services).await
    });
    probed.await.unwrap_or_else(|_| {
        tracing::warn!("not ready: no answer in time");
        Err(Error::Busy { retry_after_secs: 1 })
    })
}

async fn probe(services: &Services) -> Result<()> {
    let retry_after_secs = 1;
    let unless_busy = |otherwise: Error| {
        move |error: Error| {
            tracing::warn!(?error, "not ready");
            match error {
                Error::Busy { .. } | Error::Unwritable { .. } => error,
                _ => otherwise,
            }
        }
    };
    services
        .store
        .read(crate::store::accounts::find_organizations)
        .map_err(unless_busy(Error::Busy { retry_after_secs }))?;
    if services.store.has_lost_checkpointer() {
        tracing::warn!("not ready: the checkpointer thread ended, and the WAL grows; restart latchkey");
        return Err(Error::Busy { retry_after_secs });
    }
    let written = &services.probing.written;
    if !services.store.is_failing() && written.load(Ordering::Relaxed) {
        let passed = services.store.write(|_| Ok(())).await;
        return passed.map_err(unless_busy(Error::Busy { retry_after_secs }));
    }
    let probed = services.store.probe().await;
    probed.map_err(unless_busy(Error::Unwritable { retry_after_secs }))?;
    written.store(true, Ordering::Relaxed);
    Ok(())
}
