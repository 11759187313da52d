//! Supervision of background tasks. None may end unnoticed: mail, the signatures of the trail and backups
//! depend on them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::service::Services;

/// Pause between the panic of a task and its restart.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `task` until it returns. A panic is logged and counted, and the task is restarted.
pub(super) async fn supervise<F: Future<Output = ()>>(
    services: Arc<Services>,
    name: &'static str,
    task: impl Fn(Arc<Services>) -> F,
) {
    while AssertUnwindSafe(task(Arc::clone(&services)))
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!(task = name, "a background task panicked; restarting it");
        services.counts.task_panicked();
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::app::App;
    use crate::config::Config;
    use crate::service::metrics;

    #[tokio::test]
    async fn a_task_that_panics_is_begun_anew_and_one_that_ends_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::open(Config::for_data_dir(folder.path())).unwrap();
        let begun = AtomicUsize::new(0);
        let task = |_| async {
            assert!(begun.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
        };
        supervise(Arc::clone(&app.services), "test", task).await;
        assert_eq!(begun.into_inner(), 2);
        let figures = metrics::exposition(&app.services).unwrap();
        assert!(
            figures.contains("\nlatchkey_background_panics_total 1\n"),
            "{figures}"
        );
    }
}
