use super::*;

fn state(limits: Limits) -> CallState {
    let memory = Arc::new(MemoryBudget::new(1 << 30, 1));
    CallState::new(limits, Arc::default(), memory, Party::Aside)
}

#[test]
fn a_log_quota_counts_what_it_drops() {
    let mut state = state(Limits {
        log_lines: 3,
        log_bytes: 10,
        ..Limits::default()
    });
    state.log(LogLevel::Info, "12345678".into());
    state.log(LogLevel::Info, "too long".into());
    for _ in 0..10 {
        state.log(LogLevel::Info, "x".into());
    }
    assert_eq!(state.log.len(), 3);
    assert_eq!(state.log_dropped, 9);
}

#[test]
fn a_runaway_ends_at_its_deadline_and_a_guest_kept_waiting_gets_its_turn() {
    let ms = Duration::from_millis;
    let spent = |limits: Limits, wall: u64, cpu: u64| {
        let mut state = state(limits);
        let now = state.started + ms(wall);
        state.budget_spent(now, ms(cpu))
    };
    let default = Limits::default();
    assert!(!spent(default, 49, 49), "within its time");
    assert!(spent(default, 50, 50));
    // The deadline has passed, but the machine kept the guest waiting.
    assert!(!spent(default, 69, 9));
    assert!(spent(default, 69, 10), "a fifth of the budget was run");
    assert!(!spent(default, 199, 0));
    assert!(spent(default, 200, 0), "four times the budget");

    let short = Limits {
        deadline_ms: 5,
        ..default
    };
    assert!(!spent(short, 4, 4));
    assert!(spent(short, 5, 1));
}

#[tokio::test]
async fn processor_time_is_that_of_the_call_alone_however_often_it_yields() {
    let busy = |time: Duration| {
        let began = ThreadTime::now();
        while began.elapsed() < time {}
    };
    let clock = CpuClock::default();
    busy(Duration::from_millis(5)); // not the call's
    let call = async {
        busy(Duration::from_millis(3));
        assert!(
            clock.spent() >= Duration::from_millis(3),
            "the stretch under way counts"
        );
        tokio::task::yield_now().await;
        busy(Duration::from_millis(6));
        tokio::time::sleep(Duration::from_millis(30)).await;
    };
    metered(&clock, call).await;
    let spent = clock.spent();
    busy(Duration::from_millis(5));
    assert_eq!(clock.spent(), spent, "it is over");
    assert!((9..14).contains(&spent.as_millis()), "{spent:?}");
    let longest = clock.longest();
    assert!((6..11).contains(&longest.as_millis()), "{longest:?}");
}
