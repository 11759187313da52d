//! Readiness: can the appliance do its job?

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Services;
use crate::domain::{Error, Result};

/// How long a caller waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// State of the readiness probe. However many callers ask at once, they take one place in the writer's queue.
#[derive(Debug, Default)]
pub struct Probing {
    alone: Mutex<()>,
    /// Whether anything was written to disk since the start; until then it is unknown whether writing works.
    written: AtomicBool,
}

/// Reads the database and passes through the writer's queue. If the last write failed, or none was attempted
/// since the start, tests whether writing works; otherwise writes nothing.
///
/// # Errors
/// [`Error::Unwritable`] if nothing can be written to disk; [`Error::Busy`] if the database can't be read, the
/// writer accepts no work, it does not answer within two seconds, or the thread that checkpoints the WAL has
/// ended.
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
