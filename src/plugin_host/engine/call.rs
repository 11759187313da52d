//! The state of one call: its limits, its usage and its log.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use wasmtime::ResourceLimiter;

use super::memory::{Memory, MemoryBudget, Party};
use super::{CORE_INSTANCES_MAX, Limits, MEMORIES_MAX, TABLE_ELEMENTS_EACH, TABLES_MAX};
use crate::plugin_host::record::{Failure, FailureCause, LogLevel, LogLine};

/// The state of one call: its limits, what it has used of them, and its log.
pub(in crate::plugin_host) struct CallState {
    limits: Limits,
    started: Instant,
    deadline: Instant,
    /// Time at which even a guest that hardly got to run is ended.
    last_deadline: Instant,
    /// CPU time used so far.
    clock: Arc<CpuClock>,
    memory: Memory,
    table_elements: u64,
    /// Whether the time budget ran out.
    pub(in crate::plugin_host) out_of_time: bool,
    /// Why a memory or table was refused, if one was.
    pub(in crate::plugin_host) refused_growth: Option<Failure>,
    pub(in crate::plugin_host) log: Vec<LogLine>,
    log_bytes: usize,
    pub(in crate::plugin_host) log_dropped: u32,
}

impl CallState {
    pub(in crate::plugin_host) fn new(
        limits: Limits,
        clock: Arc<CpuClock>,
        memory: Arc<MemoryBudget>,
        party: Party<'_>,
    ) -> Self {
        let started = Instant::now();
        let budget = Duration::from_millis(limits.deadline_ms.into());
        Self {
            limits,
            started,
            deadline: started + budget,
            last_deadline: started + budget * 4,
            clock,
            memory: Memory::none_of(memory, party),
            table_elements: 0,
            out_of_time: false,
            refused_growth: None,
            log: Vec::new(),
            log_bytes: 0,
            log_dropped: 0,
        }
    }

    /// Returns whether the budget is used up; called at each tick at which the guest is running. The budget is
    /// wall-clock time, but a guest that the machine kept waiting is not to blame: past the deadline it may
    /// continue until it has used a fifth of its budget in CPU time, or until four times the budget has passed.
    /// A runaway has used that fifth long before. CPU time is measured, not counted in ticks: a guest that
    /// fills megabytes at a time is checked at few of them.
    pub(in crate::plugin_host) fn is_out_of_time(&mut self) -> bool {
        let spent = self.clock.spent();
        self.budget_spent(Instant::now(), spent)
    }

    fn budget_spent(&mut self, now: Instant, cpu: Duration) -> bool {
        let fair = Duration::from_millis(self.limits.deadline_ms.into()) / 5;
        self.out_of_time = now >= self.deadline && (now >= self.last_deadline || cpu >= fair);
        self.out_of_time
    }

    pub(in crate::plugin_host) fn limits(&self) -> Limits {
        self.limits
    }

    pub(in crate::plugin_host) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Linear memories never shrink, so the current size is the peak.
    pub(in crate::plugin_host) fn peak_memory_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    fn refuse(&mut self, cause: FailureCause, detail: String) -> wasmtime::Result<bool> {
        let error = wasmtime::Error::msg(detail.clone());
        self.refused_growth = Some(Failure { cause, detail });
        // An error, not `false`: guests turn `false` into an `unreachable` that explains nothing.
        Err(error)
    }

    /// Keeps a log line if the quota allows; otherwise only counts it.
    pub(in crate::plugin_host) fn log(&mut self, level: LogLevel, message: String) {
        let left = (self.limits.log_bytes as usize).saturating_sub(self.log_bytes);
        if self.log.len() >= self.limits.log_lines as usize || message.len() > left {
            self.log_dropped = self.log_dropped.saturating_add(1);
            return;
        }
        self.log_bytes += message.len();
        self.log.push(LogLine { level, message });
    }
}

impl ResourceLimiter for CallState {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = self.memory.bytes() + (desired - current) as u64;
        if after > self.limits.memory_bytes {
            let limit = self.limits.memory_bytes;
            let text = format!("asked for {after} bytes of memory, the limit is {limit}");
            return self.refuse(FailureCause::Memory, text);
        }
        // Growth beyond the module's own maximum fails by itself, in the way that the guest expects.
        if maximum.is_none_or(|max| desired <= max) && !self.memory.grow(after) {
            let total = self.memory.budget().total();
            let text = format!(
                "asked for {after} bytes of memory, but too little is left of the {total} that this node gives to all \
                 policies together (plugins.memory_total_mib)"
            );
            // It is not the guest that took too much: a node that is short of memory is busy.
            return self.refuse(FailureCause::Busy, text);
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = self.table_elements + (desired - current) as u64;
        let (all, each) = (self.limits.table_elements, TABLE_ELEMENTS_EACH as usize);
        // Growth beyond the module's own, smaller maximum fails by itself, in the way that its author expects.
        let beyond_each = desired > each && maximum.is_none_or(|max| max >= each);
        if beyond_each || after > all.into() {
            let text = if beyond_each {
                format!("asked for a table of {desired} elements, the limit is {each}")
            } else {
                format!("asked for {after} table elements, the limit is {all}")
            };
            return self.refuse(FailureCause::Memory, text);
        }
        if maximum.is_none_or(|max| desired <= max) {
            self.table_elements = after;
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

/// CPU time of one call. A call may move to another thread, so each stretch between two yields is measured by
/// itself.
pub(in crate::plugin_host) struct CpuClock {
    /// Total of the completed stretches, ns.
    spent: AtomicU64,
    /// The thread's CPU time at the start of the current stretch, ns; [`NOT_RUNNING`] between stretches.
    began: AtomicU64,
    /// The longest stretch, ns.
    longest: AtomicU64,
}

impl Default for CpuClock {
    fn default() -> Self {
        Self {
            spent: AtomicU64::new(0),
            began: AtomicU64::new(NOT_RUNNING),
            longest: AtomicU64::new(0),
        }
    }
}

impl CpuClock {
    fn begin(&self) {
        self.began.store(thread_nanos(), Ordering::Relaxed);
    }

    fn end(&self) {
        let stretch = self.stretch();
        self.spent.fetch_add(stretch, Ordering::Relaxed);
        self.longest.fetch_max(stretch, Ordering::Relaxed);
        // A reading between two stretches must not count the last one again.
        self.began.store(NOT_RUNNING, Ordering::Relaxed);
    }

    fn stretch(&self) -> u64 {
        match self.began.load(Ordering::Relaxed) {
            NOT_RUNNING => 0,
            began => thread_nanos().saturating_sub(began),
        }
    }

    /// Returns the CPU time so far, including the current stretch: call it on the thread that runs the call.
    pub(in crate::plugin_host) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed) + self.stretch())
    }

    /// Returns the longest CPU time for which the call kept a thread without yielding.
    pub(in crate::plugin_host) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }
}

/// Marks that no stretch is running; later than any thread's CPU time.
const NOT_RUNNING: u64 = u64::MAX;

/// Runs a call and measures it with this clock.
pub(in crate::plugin_host) async fn metered<T>(clock: &CpuClock, call: impl Future<Output = T>) -> T {
    let mut call = pin!(call);
    std::future::poll_fn(move |context| {
        clock.begin();
        let polled = call.as_mut().poll(context);
        clock.end();
        polled
    })
    .await
}

fn thread_nanos() -> u64 {
    // u64 holds five centuries of nanoseconds.
    u64::try_from(ThreadTime::now().as_duration().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
