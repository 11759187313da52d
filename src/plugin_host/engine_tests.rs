use super::*;

const TICK: Duration = Duration::from_millis(1);

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
fn a_log_quota_counts_what_it_drops() {
    let mut state = CallState::new(
        Limits {
            log_lines: 3,
            log_bytes: 10,
            ..Limits::default()
        },
        TICK,
    );
    state.log(LogLevel::Info, "12345678".into());
    state.log(LogLevel::Info, "too long".into());
    for _ in 0..10 {
        state.log(LogLevel::Info, "x".into());
    }
    assert_eq!(state.log.len(), 3);
    assert_eq!(state.log_dropped, 9);
}

#[test]
fn the_ticker_dozes_when_idle_and_wakes_for_a_call() {
    let ticked = TickedEngine::new(1, Duration::from_micros(100), false).expect("the engine starts");
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
fn a_runaway_ends_at_its_deadline_and_a_guest_kept_waiting_gets_its_turn() {
    let at = |state: &CallState, millis| state.started + Duration::from_millis(millis);
    let mut runaway = CallState::new(Limits::default(), TICK);
    for millis in 1..50 {
        let now = at(&runaway, millis);
        assert!(!runaway.budget_spent(now), "{millis} ms");
    }
    let now = at(&runaway, 50);
    assert!(runaway.budget_spent(now));

    // The machine was busy with something else for 60 ms.
    let mut waited = CallState::new(Limits::default(), TICK);
    for millis in 60..69 {
        let now = at(&waited, millis);
        assert!(!waited.budget_spent(now), "{millis} ms");
    }
    let now = at(&waited, 69);
    assert!(waited.budget_spent(now), "a fifth of the budget was run");
    let mut late = CallState::new(Limits::default(), TICK);
    let now = at(&late, 200);
    assert!(late.budget_spent(now), "four times the budget");

    let short = Limits {
        deadline_ms: 5,
        ..Limits::default()
    };
    let mut short = CallState::new(short, TICK);
    let now = at(&short, 5);
    assert!(short.budget_spent(now));
}
