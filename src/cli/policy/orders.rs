//! Orders about policies: carried out here, or by the server that has the data directory.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::app::control::{Reply, socket};
use crate::cli::exit::Refusal;
use crate::cli::{Global, wait_for};
use crate::service::plugins::{PolicyOrder, Progress, Watch, carry_out_order};
use crate::store::OpenError;

/// Carries an order out, while no server runs or by the one that does. What it says comes back.
pub(super) fn carry_out(global: &Global, order: PolicyOrder, watch: Watch) -> Result<Value> {
    let app = match global.open() {
        Ok(app) => app,
        Err(error) => {
            let in_use = matches!(error.downcast_ref(), Some(OpenError::InUse(_)));
            return match in_use.then(|| global.load(None)).transpose()? {
                Some(config) => ask_server(&config.data_dir, &order, &watch, error),
                None => Err(error),
            };
        }
    };
    Ok(wait_for(carry_out_order(&app.services, order, watch))?)
}

fn ask_server(data_dir: &Path, order: &PolicyOrder, watch: &Watch, in_use: anyhow::Error) -> Result<Value> {
    let Ok(mut stream) = UnixStream::connect(socket(data_dir)) else {
        return Err(in_use); // whoever has it is no server, or not to be spoken to
    };
    let mut line = serde_json::to_string(order)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).context("the server's reply")? {
            Reply::Step(_) => {}
            Reply::Count(done, of) => watch(Progress::Done(done, of)),
            Reply::Done(value) => return Ok(value),
            Reply::Refused(why) => return Err(Refusal(why).into()),
            Reply::Failed(why) => bail!("the server: {why}"),
        }
    }
    bail!("the server ended before the order was carried out")
}

/// Nobody watches.
pub(super) fn unwatched() -> Watch {
    Arc::new(|_| ())
}
