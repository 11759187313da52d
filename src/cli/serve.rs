//! `latchkey serve`.

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Global;
use crate::app::App;
use crate::logging;

/// `latchkey serve`
///
/// Makes the data directory and its keys when they aren't there. SIGTERM or SIGINT (Ctrl-C) stops
/// accepting, lets requests under way end, and ends; a second one ends at once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latchkey serve --data-dir /var/lib/latchkey\n  \
                        latchkey serve --listen 127.0.0.1:0    takes a free port and prints it")]
pub(super) struct Serve {
    /// Address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

impl Serve {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let config = global.load(self.listen)?;
        logging::start(&config.log)?;
        let app = App::open(config)?;
        run(app, |_| Ok(()))
    }
}

/// Listens, says where, and serves until a signal. `ready` runs between the two.
pub(super) fn run(app: App, ready: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime")?;
    runtime.block_on(async {
        // Before the first line: whoever reads it may send the signal at once.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listen = app.config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("{listen} can't be listened on"))?;
        let address = listener.local_addr()?;
        super::output::line(format_args!("Listening on http://{address}"))?;
        ready(&format!("http://{address}"))?;
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping: requests under way may end, a second signal ends at once");
            tokio::spawn(async move {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                tracing::warn!("ended at once");
                end_now();
            });
        };
        app.serve(listener, stop).await
    })
}

/// Whatever was answered is on disk; what was not is rolled back at the next start.
#[expect(clippy::disallowed_methods, reason = "the operator asked twice")]
fn end_now() {
    std::process::exit(1);
}
