//! Can the appliance do its job?

use super::Services;
use crate::domain::{Error, Result};

/// Reads the database and passes through the writer's queue. Where the last change could not be put on disk,
/// tries whether one can be now; otherwise without writing.
///
/// # Errors
/// [`Error::Busy`] when either is not to be had.
pub async fn ready(services: &Services) -> Result<()> {
    let busy = |error: Error| {
        tracing::warn!(%error, "not ready");
        Error::Busy { retry_after_secs: 1 }
    };
    services
        .store
        .read(crate::store::accounts::find_organizations)
        .map_err(busy)?;
    if services.store.is_failing() {
        return services.store.probe().await.map_err(busy);
    }
    services.store.write(|_| Ok(())).await.map_err(busy)
}
