//! Orders about policies: carried out here, or by the server that has the data directory. Either way
//! whoever waits is shown how far it has come.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::app::control::{Reply, socket};
use crate::cli::exit::Refusal;
use crate::cli::{Global, Progress, wait_for};
use crate::service::plugins::{PolicyOrder, Watch, carry_out_order, unwatched};
use crate::store::OpenError;

/// Carries an order out, while no server runs or by the one that does. What it says comes back.
pub(super) fn carry_out(global: &Global, order: PolicyOrder) -> Result<Value> {
    route(global, order, None)
}

/// The same for work that takes a while: how far it has come is shown under the name `what`.
pub(super) fn carry_out_shown(global: &Global, order: PolicyOrder, what: &'static str) -> Result<Value> {
    let progress = Progress::of_steps(what);
    let done = route(global, order, Some(&progress));
    progress.finish(); // before an error is printed, too
    done
}

fn route(global: &Global, order: PolicyOrder, progress: Option<&Progress>) -> Result<Value> {
    let app = match global.open() {
        Ok(app) => app,
        Err(error) => {
            let in_use = matches!(error.downcast_ref(), Some(OpenError::InUse(_)));
            return match in_use.then(|| global.load(None)).transpose()? {
                Some(config) => ask_server(&config.data_dir, &order, progress, error),
                None => Err(error),
            };
        }
    };
    let watch: Watch = match progress.cloned() {
        Some(progress) => Arc::new(move |come| show(&progress, &come.into())),
        None => unwatched(),
    };
    Ok(wait_for(carry_out_order(&app.services, order, watch))?)
}

fn ask_server(
    data_dir: &Path,
    order: &PolicyOrder,
    progress: Option<&Progress>,
    in_use: anyhow::Error,
) -> Result<Value> {
    let Ok(mut stream) = UnixStream::connect(socket(data_dir)) else {
        return Err(in_use); // whoever has it is no server, or not to be spoken to
    };
    let mut line = serde_json::to_string(order)?;
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
