//! What the operator orders: carried out here, or by the server that has the data directory. Either way
//! whoever waits is shown how far it has come.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::exit::Refusal;
use super::{Global, Progress, wait_for};
use crate::app::control::{Reply, socket, spelt_out};
use crate::domain::Error;
use crate::service::operator::Order;
use crate::service::plugins::{Watch, unwatched};
use crate::store::OpenError;

/// How long a server may take to start or to end: it has the data directory already, or still, and takes no orders.
const STARTING: Duration = Duration::from_secs(5);

/// Carries an order out, while no server runs or by the one that does. What it says comes back.
pub(super) fn carry_out(global: &Global, order: impl Into<Order>) -> Result<Value> {
    route(global, order.into(), None)
}

/// The same for work that takes a while: how far it has come is shown under the name `what`.
pub(super) fn carry_out_shown(global: &Global, order: impl Into<Order>, what: &'static str) -> Result<Value> {
    let progress = Progress::of_steps(what);
    let done = route(global, order.into(), Some(&progress));
    progress.finish(); // before an error is printed, too
    done
}

fn route(global: &Global, order: Order, progress: Option<&Progress>) -> Result<Value> {
    let patient = Instant::now() + STARTING;
    let app = loop {
        let in_use = match global.open() {
            Ok(app) => break app,
            Err(error) if matches!(error.downcast_ref(), Some(OpenError::InUse(_))) => error,
            Err(error) => return Err(error),
        };
        match UnixStream::connect(socket(&global.load(None)?.data_dir)) {
            Ok(server) => return ask_server(server, &order, progress),
            Err(_) if Instant::now() < patient => std::thread::sleep(STARTING / 50),
            Err(_) => return Err(in_use), // whoever has it is no server, or not to be spoken to
        }
    };
    let watch: Watch = match progress.cloned() {
        Some(progress) => Arc::new(move |come| show(&progress, &come.into())),
        None => unwatched(),
    };
    match wait_for(order.carry_out(&app.services, watch)) {
        // As a server would say it.
        Err(denied @ Error::Denied(_)) => Err(Refusal(spelt_out(&denied)).into()),
        ended => Ok(ended?),
    }
}

fn ask_server(mut stream: UnixStream, order: &Order, progress: Option<&Progress>) -> Result<Value> {
    let mut line = order.to_json()?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).context("the server's reply")? {
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
    bail!("the server ended before the order was carried out")
}

/// Draws how far it has come, whoever does it.
fn show(progress: &Progress, come: &Reply) {
    match come {
        Reply::Step(name) => progress.step(name),
        Reply::Count(done, of) => progress.reach_of(*done, *of),
        Reply::Done(_) | Reply::Refused(_) | Reply::Failed(_) => {}
    }
}
