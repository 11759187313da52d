//! Readers who follow the trail, told when the appliance stops.

use tokio::sync::watch;

/// Whether tails have to end. They go on for a quarter of an hour otherwise, and each would hold up the stop for the
/// whole grace period; their readers come back with `Last-Event-ID`.
#[derive(Debug)]
pub struct Tails(watch::Sender<bool>);

impl Default for Tails {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Tails {
    /// Ends those that there are, and at once each that begins afterwards.
    pub fn end(&self) {
        self.0.send_replace(true);
    }

    /// Returns once they have to end.
    pub async fn ended(&self) {
        let mut end = self.0.subscribe();
        // The sender lives as long as this borrows it.
        let _ = end.wait_for(|ended| *ended).await;
    }
}
