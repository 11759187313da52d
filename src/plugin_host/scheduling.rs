//! Where calls run: in place on the executor, as nearly all do, or apart, on low-priority threads.
//!
//! A call that is still running after a few ticks, or that kept its thread for several without yielding, is
//! moved to those threads. A version of a binding that kept its thread that long, or overran its time, starts
//! there until a hundred calls have been quick. So a runaway uses only CPU time that nothing else wants, and a
//! short policy never waits behind it.

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::engine::CpuClock;
use super::v1::Ran;

/// Ticks that a call may run in place; a policy in Python takes two or three.
const TICKS_IN_PLACE: u32 = 4;
/// Longest CPU time that a call may keep its thread without yielding. A guest yields at every tick unless the
/// host copies or fills memory for it, so a longer stretch is a bulk operation of megabytes, which nothing
/// interrupts.
pub(super) const STRETCH_MAX: Duration = Duration::from_millis(8);
/// Niceness of the threads apart: they still get a tenth of a processor that others keep busy.
const NICE: i32 = 10;

/// The threads apart; none is started until a call needs one.
#[derive(Default)]
pub(super) struct Lanes {
    apart: OnceLock<Option<Runtime>>,
}

impl Lanes {
    /// Runs a call, which `clock` measures, to its end. The future must yield only at ticks.
    pub(super) async fn run(
        &self,
        starts_apart: bool,
        clock: &CpuClock,
        call: impl Future<Output = Ran> + Send + 'static,
    ) -> Ran {
        let mut call = Box::pin(call);
        if !starts_apart && let Some(ran) = in_place(call.as_mut(), clock).await {
            return ran;
        }
        let Some(apart) = self.apart.get_or_init(start) else {
            return call.await;
        };
        let mut apart = Apart(apart.spawn(call));
        match (&mut apart.0).await {
            Ok(ran) => ran,
            // A panic propagates to the caller, whichever thread the call ran on.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // Blocking on the threads is not allowed where the last handle may be dropped.
        if let Some(Some(apart)) = self.apart.take() {
            apart.shutdown_background();
        }
    }
}

/// Polls the call in place. Returns `None` once it has run for too many ticks, or too long without yielding.
async fn in_place(mut call: Pin<&mut impl Future<Output = Ran>>, clock: &CpuClock) -> Option<Ran> {
    let mut ticks = 0;
    std::future::poll_fn(move |context| match call.as_mut().poll(context) {
        Poll::Ready(ran) => Poll::Ready(Some(ran)),
        Poll::Pending if ticks == TICKS_IN_PLACE || clock.longest() > STRETCH_MAX => Poll::Ready(None),
        Poll::Pending => {
            ticks += 1;
            Poll::Pending
        }
    })
    .await
}

/// A call running apart; aborted when its caller no longer waits for it.
struct Apart(JoinHandle<Ran>);

impl Drop for Apart {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn start() -> Option<Runtime> {
    Builder::new_multi_thread()
        .thread_name("latchkey-apart")
        .worker_threads(std::thread::available_parallelism().map_or(1, usize::from))
        .on_thread_start(|| step_back(NICE))
        .build()
        .inspect_err(|error| tracing::warn!(%error, "no threads for long calls; they run in place"))
        .ok()
}

/// Lowers the priority of the calling thread only, for good: it can't be raised again.
#[expect(unsafe_code, reason = "the standard library can't set a priority")]
pub(super) fn step_back(by: i32) {
    // SAFETY: `nice` takes a number and touches no memory of ours. On Linux it affects the calling thread only.
    // A failure can't be told from some return values; keeping the old priority does no harm.
    let _ = unsafe { libc::nice(by) };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use cpu_time::ThreadTime;

    use super::super::engine::metered;
    use super::super::record::Usage;
    use super::*;

    /// Yields `yields` times and records the threads that it ran on.
    async fn call(yields: u32, ran_on: Arc<std::sync::Mutex<Vec<String>>>) -> Ran {
        let note = || {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            ran_on.lock().expect("no panic").push(name);
        };
        for _ in 0..yields {
            note();
            tokio::task::yield_now().await;
        }
        note();
        Ran {
            reply: Ok(super::super::v1::Reply::Config(Ok(()))),
            usage: Usage::default(),
            log: Vec::new(),
            log_dropped: 0,
            cpu: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    async fn threads(lanes: &Lanes, starts_apart: bool, yields: u32) -> Vec<bool> {
        let (ran_on, clock) = (Arc::default(), CpuClock::default());
        lanes
            .run(starts_apart, &clock, call(yields, Arc::clone(&ran_on)))
            .await;
        apart(&ran_on)
    }

    fn apart(ran_on: &std::sync::Mutex<Vec<String>>) -> Vec<bool> {
        let names = ran_on.lock().expect("no panic");
        names.iter().map(|name| name == "latchkey-apart").collect()
    }

    fn keep_the_thread() {
        let began = ThreadTime::now();
        while began.elapsed() <= STRETCH_MAX {}
    }

    #[tokio::test]
    async fn one_long_stretch_is_enough_to_be_moved() {
        let (ran_on, clock) = (Arc::default(), Arc::new(CpuClock::default()));
        let (own, rest) = (Arc::clone(&clock), call(1, Arc::clone(&ran_on)));
        let greedy = async move {
            let fills = async {
                keep_the_thread();
                tokio::task::yield_now().await;
                rest.await
            };
            metered(&own, fills).await
        };
        Lanes::default().run(false, &clock, greedy).await;
        assert_eq!(
            apart(&ran_on),
            [true, true],
            "nothing of what follows the first stretch"
        );
    }

    #[tokio::test]
    async fn short_calls_stay_long_ones_move_and_known_ones_begin_apart() {
        let lanes = Lanes::default();
        assert_eq!(threads(&lanes, false, 0).await, [false]);
        assert_eq!(threads(&lanes, false, TICKS_IN_PLACE).await, [false; 5]);
        assert!(lanes.apart.get().is_none(), "no thread before one is needed");
        assert_eq!(
            threads(&lanes, false, 7).await,
            [false, false, false, false, false, true, true, true]
        );
        assert_eq!(threads(&lanes, true, 1).await, [true, true]);
    }

    #[tokio::test]
    async fn nobody_waits_so_the_call_ends() {
        let lanes = Lanes::default();
        let turns = Arc::new(AtomicU32::new(0));
        let endless = {
            let turns = Arc::clone(&turns);
            async move {
                loop {
                    turns.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        let apart = Builder::new_multi_thread()
            .enable_time()
            .worker_threads(1)
            .build();
        let apart = apart.expect("a runtime");
        let held = Apart(apart.spawn(endless));
        while turns.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(held);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let after = turns.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(turns.load(Ordering::SeqCst), after);
        apart.shutdown_background();
        drop(lanes);
    }

    #[test]
    fn threads_apart_step_back_and_others_do_not() {
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
            let after_name = stat.rsplit_once(") ").expect("a name").1.to_owned();
            after_name
                .split(' ')
                .nth(16)
                .and_then(|n| n.parse::<i32>().ok())
                .expect("a number")
        };
        let before = nice();
        let apart = start().expect("a runtime");
        let there = apart
            .block_on(apart.spawn(async move { nice() }))
            .expect("no panic");
        assert_eq!(there, (before + NICE).min(19));
        assert_eq!(nice(), before, "this thread is as it was");
        apart.shutdown_background();
    }
}
