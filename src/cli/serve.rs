//! `latchkey serve`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::net::TcpListener;

use super::exit::BadConfig;
use super::{Global, process, signals};
use crate::app::{App, descriptors};
use crate::config::Config;
use crate::logging;
use crate::service::Services;
use crate::service::start::look_around;
use crate::store::DATABASE_FILE;

/// How long threads may take to end after serving has stopped and everything that matters is done.
const THREADS_END_WITHIN: Duration = Duration::from_secs(5);

/// Arguments of `latchkey serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  latchkey serve --data-dir /var/lib/latchkey\n  \
                        latchkey serve --listen 127.0.0.1:0    takes a free port and prints it")]
pub(super) struct Serve {
    /// Address and port to listen on; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

impl Serve {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let config = global.load(self.listen)?;
        process::refuse_strangers(&config.data_dir)?;
        logging::start(&config.log)?;
        // This is also true if the volume that holds the database is not mounted.
        let is_new = !config.data_dir.join(DATABASE_FILE).exists();
        let app = open(config)?;
        warn(&app.config, &app.services, is_new)?;
        run(app, |_| Ok(()))
    }
}

/// Opens the appliance to serve it, with no more connections than the limit of open files is enough for.
pub(super) fn open(mut config: Config) -> Result<App> {
    descriptors::fit(&mut config.http).map_err(|few| BadConfig(few.to_string()))?;
    App::open(config)
}

/// Warns about what an operator should know before the server is used.
fn warn(config: &Config, services: &Services, is_new: bool) -> Result<()> {
    let place = config.data_dir.display();
    let start = look_around(services)?;
    if is_new {
        tracing::warn!("there was no database in the data directory {place}: a new one has just been made");
    }
    if !start.has_organization {
        tracing::warn!(
            "there is no organisation yet, so that nobody can log in; stop, run latchkey --data-dir {place} org create \
             SLUG, then latchkey --data-dir {place} user create --org SLUG --email ADDRESS --admin, and start again"
        );
    }
    if let Some(newest) = start.clock_behind {
        tracing::warn!(
            "the clock is behind: the newest entry of the trail is dated {newest}; set the host's clock, or tokens and \
             codes are judged wrongly"
        );
    }
    for slug in start.unknown_slugs {
        tracing::warn!(
            "audit.forward_organizations names {slug}, but no organisation has that slug: nothing is forwarded for it"
        );
    }
    // TLS ends at a proxy, which is not visible from here: an https `public_url` is taken as the sign of one.
    if !config.listen.ip().is_loopback() && !config.settings.public_url.starts_with("https://") {
        tracing::warn!(
            "{} speaks plain HTTP to anyone who can reach it, passwords and tokens included; put a proxy that speaks TLS in \
             front, and its https address in public_url",
            config.listen
        );
    }
    Ok(())
}

/// Listens, prints the address, calls `ready` with the URL, and serves until a signal arrives.
pub(super) fn run(app: App, ready: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    // Watch for signals before the first line is printed: its reader may send one at once.
    let asked_to_stop = signals::watch(|| {
        tracing::info!("stopping: requests in progress may finish, a second signal ends at once");
    });
    let asked_to_stop = asked_to_stop.context("could not watch for signals")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the async runtime")?;
    let served = runtime.block_on(async {
        let listen = app.config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("could not listen on {listen}"))?;
        let address = listener.local_addr()?;
        let file = app.config.file.as_ref().map(|file| file.display().to_string());
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            configuration = file.as_deref().unwrap_or("none"),
            data_dir = %app.config.data_dir.display(),
            %address,
            "latchkey starts"
        );
        super::output::line(format_args!("Listening on http://{address}"))?;
        ready(&format!("http://{address}"))?;
        let stop = async {
            let _ = asked_to_stop.await;
        };
        app.serve(listener, stop).await
    });
    // Dropping the runtime would wait indefinitely for a thread that hangs on a disk.
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    served
}
