//! Signals that ask a command to stop: the first is reported, so that the command can finish in order, and
//! the second ends the process at once.

use std::io;
use std::ops::ControlFlow;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::process;

/// Completes the returned channel at the first signal and then calls `told`. Runs on a thread of its own: the
/// second signal has to end the process even while a runtime shuts down or hangs.
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
        tracing::warn!("exiting at once");
        end_now();
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(watch))?;
    Ok(asked_to_stop)
}

/// Tells a long-running command that does nothing else whether to stop.
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
        // Listening for SIGHUP would undo what `nohup` set up.
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

/// Ends the process. Every answered change is on disk; what was not answered is rolled back at the next
/// start.
#[expect(clippy::disallowed_methods, reason = "the operator asked twice")]
fn end_now() {
    std::process::exit(1);
}
