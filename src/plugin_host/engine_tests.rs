use std::time::Instant;

use super::*;

#[test]
fn limits_are_held_to_their_bounds() {
    let wild = Limits {
        deadline_ms: 0,
        memory_bytes: u64::MAX,
        table_elements: u32::MAX,
        fuel: 7,
        answer_bytes: 0,
        log_lines: u32::MAX,
        log_bytes: u32::MAX,
    };
    let held = wild.bounded();
    assert_eq!(held.deadline_ms, 5);
    assert_eq!(held.memory_bytes, MEMORY_BYTES_MAX);
    assert_eq!(held.table_elements, 200_000);
    assert_eq!(held.answer_bytes, 4 << 10);
    assert_eq!((held.log_lines, held.log_bytes), (1_000, 256 << 10));
    assert_eq!(Limits::default(), Limits::default().bounded());
}

#[test]
fn the_ticker_dozes_when_idle_and_wakes_for_a_call() {
    let memory = MemoryBudget::new(1 << 30, 1);
    let ticked = TickedEngine::new(1, Duration::from_micros(100), false, memory).expect("the engine starts");
    let shared = Arc::clone(&ticked.ticker.shared);
    let until = |want: bool| {
        let limit = Instant::now() + Duration::from_secs(5);
        while shared.dozing.load(Ordering::SeqCst) != want {
            assert!(Instant::now() < limit, "the ticker did not reach dozing = {want}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until(true);
    let in_flight = ticked.ticker.begin();
    until(false);
    drop(in_flight);
    until(true);
}

#[test]
fn what_an_engine_only_compiled_runs_in_one_that_calls() {
    let hash = |engine: &Engine| {
        use std::hash::{Hash as _, Hasher as _};
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    };
    for meter_fuel in [false, true] {
        let memory = MemoryBudget::new(1 << 30, 1);
        let ticked = TickedEngine::new(1, Duration::from_millis(1), meter_fuel, memory);
        let calls = ticked.expect("the engine starts").engine;
        assert_eq!(hash(&calls), hash(&compiling(meter_fuel).expect("an engine")));
    }
}
