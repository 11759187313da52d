//! Carries out an operator's orders: in this process, or through the server that has the data directory open.
//! Progress is shown either way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::exit::Refusal;
use super::{Global, Progress, wait_for};
use crate::app::App;
use crate::app::control::{Reply, socket, spelt_out};
use crate::service::operator::Order;
use crate::service::plugins::{Watch, unwatched};
use crate::store::OpenError;

/// How long to retry while a server starts or stops: it holds the data directory but takes no orders.
const STARTING: Duration = Duration::from_secs(5);

/// Carries out an order in this process, or through the server if one runs, and returns its result.
pub(super) fn carry_out(global: &Global, order: impl Into<Order>) -> Result<Value> {
    reach(global)?.carry_out(order.into(), None)
}

/// Carries out an order as `carry_out` does, and shows its progress under the name `what`.
pub(super) fn carry_out_shown(global: &Global, order: impl Into<Order>, what: &'static str) -> Result<Value> {
    let progress = Progress::of_steps(what);
    let done = reach(global).and_then(|reached| reached.carry_out(order.into(), Some(&progress)));
    progress.finish(); // before an error is printed, too
    done
}

/// Who carries out orders.
pub(super) enum Reached {
    /// This process; it holds the data directory until this is dropped.
    Here(Box<App>),
    /// The server that has this data directory open.
    Server(PathBuf),
}

/// Opens the data directory, or finds the server that has it open.
pub(super) fn reach(global: &Global) -> Result<Reached> {
    let patient = Instant::now() + STARTING;
    loop {
        let in_use = match global.open() {
            Ok(app) => return Ok(Reached::Here(Box::new(app))),
            Err(error) if matches!(error.downcast_ref(), Some(OpenError::InUse(_))) => error,
            Err(error) => return Err(error),
        };
        let data_dir = global.load(None)?.data_dir;
        match UnixStream::connect(socket(&data_dir)) {
            Ok(_) => return Ok(Reached::Server(data_dir)),
            Err(_) if Instant::now() < patient => std::thread::sleep(STARTING / 50),
            Err(_) => return Err(in_use), // held by something other than a server, or out of reach
        }
    }
}

impl Reached {
    /// Returns the path of the data directory.
    pub(super) fn data_dir(&self) -> &std::path::Path {
        match self {
            Self::Here(app) => &app.config.data_dir,
            Self::Server(data_dir) => data_dir,
        }
    }

    /// Carries out an order and returns its result.
    pub(super) fn carry_out(&self, order: Order, progress: Option<&Progress>) -> Result<Value> {
        let app = match self {
            Self::Here(app) => app,
            Self::Server(data_dir) => {
                let server = UnixStream::connect(socket(data_dir))
                    .context("the server stopped meanwhile; run the command again")?;
                return ask_server(server, &order, progress);
            }
        };
        let watch: Watch = match progress.cloned() {
            Some(progress) => Arc::new(move |come| show(&progress, &come.into())),
            None => unwatched(),
        };
        match wait_for(order.carry_out(&app.services, watch)) {
            // The same text as a server would reply.
            Err(refused) if refused.is_refusal() => Err(Refusal(spelt_out(&refused)).into()),
            ended => Ok(ended?),
        }
    }
}

fn ask_server(mut stream: UnixStream, order: &Order, progress: Option<&Progress>) -> Result<Value> {
    let mut line = order.to_json()?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).context("the server's reply is invalid")? {
            Reply::Done(value) => return Ok(value),
            Reply::Refused(why) => return Err(Refusal(why).into()),
            Reply::Failed(why) => bail!("the server: {why}"),
            on_the_way => {
                if let Some(progress) = progress {
                    show(progress, &on_the_way);
                }
            }
        }
    }
    bail!("the server stopped before the order was carried out")
}

/// Draws the progress that a reply reports.
fn show(progress: &Progress, come: &Reply) {
    match come {
        Reply::Step(name) => progress.step(name),
        Reply::Count(done, of) => progress.reach_of(*done, *of),
        Reply::Done(_) | Reply::Refused(_) | Reply::Failed(_) => {}
    }
}
