//! Can the appliance do its job?

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Services;
use crate::domain::{Error, Result};

/// How long whoever asks waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held by whoever finds out: anybody may ask, and however many do, they take one place of the writer's queue.
#[derive(Debug, Default)]
pub struct Probing(Mutex<()>);

/// Reads the database and passes through the writer's queue. Where the last change could not be put on disk,
/// tries whether one can be now; otherwise without writing.
///
/// # Errors
/// [`Error::Busy`] when either is not to be had, or not within two seconds.
pub async fn ready(services: &Services) -> Result<()> {
    let probed = timeout(PATIENCE, async {
        let _alone = services.probing.0.lock().await;
        probe(services).await
    });
    let busy = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "not ready");
        Error::Busy { retry_after_secs: 1 }
    };
    match probed.await {
        Ok(ready) => ready.map_err(|error| busy(&error)),
        Err(elapsed) => Err(busy(&elapsed)),
    }
}

async fn probe(services: &Services) -> Result<()> {
    services.store.read(crate::store::accounts::find_organizations)?;
    if services.store.is_failing() {
        return services.store.probe().await;
    }
    services.store.write(|_| Ok(())).await
}
