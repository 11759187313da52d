//! The operator's access to a running server: a Unix socket in the data directory that only the server's own
//! user and root can open. Orders and replies are lines of JSON.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::domain::Error;
use crate::service::Services;
use crate::service::operator::Order;
use crate::service::plugins::{Progress, Watch};

/// Name of the socket in the data directory.
const SOCKET: &str = "latchkey.sock";
/// Largest order, in bytes: a plugin of 32 MiB in base64, with some room.
const ORDER_BYTES_MAX: u64 = 64 << 20;

/// Returns the path of the socket in a data directory.
#[must_use]
pub fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Replies to an order, one per line; the last one is neither a step nor a count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// A step has begun; holds its name.
    Step(String),
    /// Progress within the step: parts done, and parts in all.
    Count(u64, u64),
    /// The order was carried out; holds its result.
    Done(Value),
    /// The order was refused, because it is invalid or a rule forbids it; holds the reason.
    Refused(String),
    /// An unexpected failure; holds its cause.
    Failed(String),
}

/// The open socket; dropping it closes and removes the socket.
pub(super) struct Door {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens the socket. A socket that already exists belongs to a server that was killed: only one process can
/// hold the store of a data directory.
pub(super) fn open(services: &Arc<Services>, data_dir: &Path) -> Result<Door> {
    let path = socket(data_dir);
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let own = fs::metadata(&path)?.uid();
    let services = Arc::clone(services);
    let task = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let services = Arc::clone(&services);
                    tokio::spawn(async move { answer(&services, stream, own).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "the operator's socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(Door { task, path })
}

async fn answer(services: &Services, mut stream: UnixStream, own: u32) {
    // Checked in addition to the mode of the file, which one mistake could change.
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
        peer => {
            tracing::warn!(
                ?peer,
                "rejected a connection of another user to the operator's socket"
            );
            return;
        }
    }
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let read = BufReader::new(reader.take(ORDER_BYTES_MAX))
        .read_line(&mut line)
        .await;
    if read.is_err() {
        return;
    }
    let (replies, mut due) = mpsc::unbounded_channel();
    let carried_out = async {
        let _ = replies.send(carry_out(services, &line, &replies).await);
        drop(replies);
    };
    let written = async {
        while let Some(reply) = due.recv().await {
            let mut text = serde_json::to_string(&reply).unwrap_or_default();
            text.push('\n');
            // An interrupted command reads no more; its order is carried out nevertheless.
            let _ = writer.write_all(text.as_bytes()).await;
        }
    };
    tokio::join!(carried_out, written);
}

async fn carry_out(services: &Services, line: &str, replies: &mpsc::UnboundedSender<Reply>) -> Reply {
    let order = match Order::from_json(line) {
        Ok(order) => order,
        Err(error) => return Reply::Refused(format!("the server does not know this order: {error}")),
    };
    let weak = replies.downgrade();
    let watch: Watch = Arc::new(move |progress| {
        if let Some(replies) = weak.upgrade() {
            let _ = replies.send(progress.into());
        }
    });
    match order.carry_out(services, watch).await {
        Ok(done) => Reply::Done(done),
        Err(error) if error.is_refusal() => Reply::Refused(spelt_out(&error)),
        Err(error) => Reply::Failed(error.for_operator()),
    }
}

/// Returns the message of a refusal as the command line prints it: with the invalid fields, or with the
/// denying policy and all that it said.
#[must_use]
pub fn spelt_out(error: &Error) -> String {
    match error {
        Error::Denied(denied) => {
            let mut lines = vec![
                format!("the policy {} says no: {}", denied.plugin, denied.message),
                format!("  code: {}", denied.code),
            ];
            let facts = denied.because.iter();
            lines.extend(facts.map(|fact| format!("  because: {} {}", fact.name, fact.value)));
            lines.extend(denied.allowed_from.map(|from| format!("  allowed from: {from}")));
            lines.join("\n")
        }
        Error::Validation(fields) => {
            let fields = fields
                .iter()
                .map(|(field, problem)| format!("  {field}: {problem}"));
            let lines: Vec<_> = std::iter::once(error.to_string()).chain(fields).collect();
            lines.join("\n")
        }
        error => error.for_operator(),
    }
}

impl From<Progress> for Reply {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Step(name) => Self::Step(name.to_owned()),
            Progress::Done(done, of) => Self::Count(done, of),
        }
    }
}
