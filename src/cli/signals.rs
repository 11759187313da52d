//! Signals that ask a command to stop: the first one is told, so that it can leave things in order, and the second one
//! ends it at once.

use std::io;
use std::ops::ControlFlow;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::process;

/// Tells when the first signal has come, and calls `told` after that. On a thread of its own: the second one has to end
/// the process while a runtime stops, too, or something in it hangs.
pub(super) fn watch(told: impl FnOnce() + Send + 'static) -> io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut signals = {
        let _within = runtime.enter();
        Signals::new()?
    };
    let (ask, asked_to_stop) = oneshot::channel();
    let watch = async move {
        signals.next().await;
        let _ = ask.send(());
        told();
        signals.next().await;
        tracing::warn!("ended at once");
        end_now();
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(watch))?;
    Ok(asked_to_stop)
}

/// Whether work that takes long is to stop, for a command that does nothing else.
pub(super) struct Interruption(oneshot::Receiver<()>);

impl Interruption {
    pub(super) fn watch() -> io::Result<Self> {
        watch(|| eprintln!("stopping after this step; a second signal ends at once")).map(Self)
    }

    pub(super) fn go_on(&mut self) -> ControlFlow<()> {
        match self.0.try_recv() {
            Err(TryRecvError::Empty) => ControlFlow::Continue(()),
            Ok(()) | Err(TryRecvError::Closed) => ControlFlow::Break(()),
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        // To listen for what `nohup` had it ignore would undo that.
        let hangup = (!process::ignores_hangup()).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: hangup.transpose()?,
        })
    }

    async fn next(&mut self) {
        let Self {
            terminate,
            interrupt,
            hangup,
        } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, _ = hung_up => {} }
    }
}

/// Whatever was answered is on disk; what was not is rolled back at the next start.
#[expect(clippy::disallowed_methods, reason = "the operator asked twice")]
fn end_now() {
    std::process::exit(1);
}
