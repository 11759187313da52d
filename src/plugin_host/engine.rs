//! The only wasmtime configuration, engine and ticker, and the limits of one call.
//!
//! A call runs on the executor's own thread inside a fiber. At every tick the ticker raises the engine's epoch:
//! a guest that has run for a tick yields to the executor, and one whose wall-clock budget is used up is
//! trapped. So a runaway never keeps a thread from other work for longer than two ticks, or than one
//! instruction that fills or copies memory, which nothing interrupts.

mod call;
mod memory;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, UpdateDeadline,
};

pub(super) use call::{CallState, CpuClock, metered};
pub(super) use memory::{MemoryBudget, Party};

/// Limits of one call of a plugin. Every field has a safe default and is clamped to its bounds by
/// [`Limits::bounded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Wall-clock budget of a call in milliseconds, start-up of the instance included: 5 to 1,000.
    pub deadline_ms: u32,
    /// Linear memory of all memories of a call together, in bytes: 1 MiB to 256 MiB.
    pub memory_bytes: u64,
    /// Elements of all tables together: at most 200,000. One table may have at most 40,000.
    pub table_elements: u32,
    /// Fuel, roughly instructions; counted only if [`super::HostOptions::meter_fuel`] is set. 0: unlimited.
    pub fuel: u64,
    /// Bytes of strings and lists that one call may hand to the host: 4 KiB to 4 MiB.
    pub answer_bytes: u32,
    /// Log lines kept: at most 1,000. Further lines are counted and dropped.
    pub log_lines: u32,
    /// Bytes of all kept log lines together: at most 256 KiB.
    pub log_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline_ms: 50,
            memory_bytes: 64 << 20,
            table_elements: 100_000,
            fuel: 0,
            answer_bytes: 256 << 10,
            log_lines: 50,
            log_bytes: 8 << 10,
        }
    }
}

impl Limits {
    /// Returns the limits of calls at installation (`describe`, golden cases), where no reset waits.
    #[must_use]
    pub fn at_installation() -> Self {
        Self {
            deadline_ms: 1_000,
            memory_bytes: MEMORY_BYTES_MAX,
            ..Self::default()
        }
    }

    /// Returns the same limits with every field clamped to its bounds.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            deadline_ms: self.deadline_ms.clamp(5, 1_000),
            memory_bytes: self.memory_bytes.clamp(1 << 20, MEMORY_BYTES_MAX),
            table_elements: self.table_elements.min(200_000),
            fuel: self.fuel,
            answer_bytes: self.answer_bytes.clamp(4 << 10, 4 << 20),
            log_lines: self.log_lines.min(1_000),
            log_bytes: self.log_bytes.min(256 << 10),
        }
    }
}

/// The engine with its ticker. Dropping the last handle stops the ticker.
pub(super) struct TickedEngine {
    pub(super) engine: Engine,
    pub(super) meter_fuel: bool,
    tick: Duration,
    memory: Arc<MemoryBudget>,
    ticker: Ticker,
}

impl TickedEngine {
    /// # Errors
    /// The settings are contradictory, the pool's address space can't be reserved, or no thread can be started.
    pub(super) fn new(
        concurrent_calls: u32,
        tick: Duration,
        meter_fuel: bool,
        memory: MemoryBudget,
    ) -> anyhow::Result<Self> {
        let engine = Engine::new(&config(concurrent_calls, meter_fuel))
            .map_err(|e| anyhow::anyhow!("{e:#}"))
            .context("cannot set up the WebAssembly engine")?;
        let ticker = Ticker::start(engine.clone(), tick).context("cannot start the plugin ticker")?;
        Ok(Self {
            engine,
            meter_fuel,
            tick,
            memory: Arc::new(memory),
            ticker,
        })
    }

    /// Creates a store for one call and starts its deadline.
    pub(super) fn store(
        &self,
        party: Party<'_>,
        limits: Limits,
        clock: &Arc<CpuClock>,
    ) -> (Store<CallState>, InFlight<'_>) {
        let in_flight = self.ticker.begin();
        let state = CallState::new(limits, Arc::clone(clock), Arc::clone(&self.memory), party);
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits.answer_bytes as usize);
        if self.meter_fuel {
            let fuel = if limits.fuel == 0 { u64::MAX } else { limits.fuel };
            store.set_fuel(fuel).expect("the engine counts fuel");
        }
        store.set_epoch_deadline(1);
        let tick = self.tick;
        store.epoch_deadline_callback(move |mut context| {
            // A tick can fall into a call that has only just begun. Yielding then would put the call behind
            // everything that is ready to run, while it holds its slot.
            if context.data().elapsed() < tick {
                return Ok(UpdateDeadline::Continue(1));
            }
            if context.data_mut().is_out_of_time() {
                return Ok(UpdateDeadline::Interrupt);
            }
            // tokio's own yield lets the executor poll its sockets before it resumes this task; a plain wake-up
            // would put the runaway ahead of them for dozens of rounds.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        (store, in_flight)
    }
}

/// Returns an engine that only compiles, for [`TickedEngine`]s: it reserves no address space.
pub(super) fn compiling(meter_fuel: bool) -> anyhow::Result<Engine> {
    Engine::new(&code_config(meter_fuel)).map_err(|e| anyhow::anyhow!("{e:#}"))
}

fn config(concurrent_calls: u32, meter_fuel: bool) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(concurrent_calls)
        .max_component_instance_size(1 << 20)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .total_core_instances(concurrent_calls * CORE_INSTANCES_MAX)
        .max_core_instance_size(1 << 20)
        .total_memories(concurrent_calls * MEMORIES_MAX)
        .max_memory_size(usize::try_from(MEMORY_BYTES_MAX).expect("256 MiB fit"))
        .max_memories_per_module(MEMORIES_MAX)
        .total_tables(concurrent_calls * TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_EACH as usize)
        .max_tables_per_module(8)
        .total_stacks(concurrent_calls)
        // Giving pages back costs more than a small policy's call: system calls, and interrupts to every core
        // that runs one of our threads. So tables are wiped in place, as memories are below. Decommits are not
        // batched: a small policy has nothing to give back, and its slot, still warm, goes to the next call,
        // whereas a large one's megabytes would be held until others had called.
        .table_keep_resident(TABLE_BYTES_KEPT)
        .decommit_batch_size(1)
        .max_unused_warm_slots(concurrent_calls);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        // Linux 6.7 and later can report the pages that a call has written, so only those are wiped. This
        // halves the cost of a call; without it, wiping everything in place is slower than giving it back.
        pool.pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(MEMORY_BYTES_KEPT);
    }

    let mut config = code_config(meter_fuel);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Returns the settings on which machine code depends.
fn code_config(meter_fuel: bool) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(meter_fuel)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(WASM_STACK_BYTES + HOST_STACK_BYTES)
        // A decision must repeat bit for bit, also on another machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        // A server has no use for guest backtraces, and walking the stack would make traps expensive.
        .wasm_backtrace_max_frames(None)
        .native_unwind_info(false)
        .generate_address_map(false)
        // Compilation has a single thread of its own and leaves the other cores to requests.
        .parallel_compilation(false);
    config
}

/// Raises the epoch while calls are in flight and parks otherwise, so that an idle appliance does not wake up
/// hundreds of times a second.
struct Ticker {
    shared: Arc<TickerShared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

struct TickerShared {
    in_flight: AtomicUsize,
    dozing: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    fn start(engine: Engine, tick: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(TickerShared {
            in_flight: AtomicUsize::new(0),
            dozing: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let handle = std::thread::Builder::new()
            .name("latchkey-ticker".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(&engine, tick)
            })?;
        Ok(Self {
            shared,
            thread: handle.thread().clone(),
            handle: Some(handle),
        })
    }

    fn begin(&self) -> InFlight<'_> {
        // Both sides use sequential consistency: either the ticker sees this call before it parks, or this call
        // sees that the ticker is parked and wakes it.
        self.shared.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.shared.dozing.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        InFlight(&self.shared)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

impl TickerShared {
    fn run(&self, engine: &Engine, tick: Duration) {
        let mut idle_ticks = 0;
        while !self.stop.load(Ordering::SeqCst) {
            if idle_ticks < TICKS_BEFORE_DOZING {
                std::thread::sleep(tick);
                engine.increment_epoch();
                let idle = self.in_flight.load(Ordering::SeqCst) == 0;
                idle_ticks = if idle { idle_ticks + 1 } else { 0 };
                continue;
            }
            self.dozing.store(true, Ordering::SeqCst);
            while self.in_flight.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.dozing.store(false, Ordering::SeqCst);
            idle_ticks = 0;
        }
    }
}

/// A call in flight; the ticker runs as long as one exists.
pub(super) struct InFlight<'a>(&'a TickerShared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Bytes of written pages that an unused slot of the pool keeps: as much as a Python policy writes in a call.
const MEMORY_BYTES_KEPT: usize = 1 << 20;
const TABLE_BYTES_KEPT: usize = 64 << 10;
const CORE_INSTANCES_MAX: u32 = 40;
const TABLES_MAX: u32 = 40;
const TABLE_ELEMENTS_EACH: u32 = 40_000;
const MEMORIES_MAX: u32 = 8;
const WASM_STACK_BYTES: usize = 512 << 10;
/// Stack for host functions and the lowering of arguments, which run on the guest's fiber.
const HOST_STACK_BYTES: usize = 512 << 10;
const TICKS_BEFORE_DOZING: u32 = 1_000;

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
