//! Ends live tails of the trail when the appliance stops.

use tokio::sync::watch;

/// A signal for tails to end. Otherwise they would continue for up to 15 minutes, and each would delay the stop
/// for the whole grace period. Their readers reconnect with `Last-Event-ID`.
#[derive(Debug)]
pub struct Tails(watch::Sender<bool>);

impl Default for Tails {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Tails {
    /// Ends all current tails, and every later one as soon as it begins.
    pub fn end(&self) {
        self.0.send_replace(true);
    }

    /// Waits until tails have to end.
    pub async fn ended(&self) {
        let mut end = self.0.subscribe();
        // The sender lives as long as this borrows it.
        let _ = end.wait_for(|ended| *ended).await;
    }
}
