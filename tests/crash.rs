//! Kills the real server with SIGKILL at random instants under load, restarts it, and checks every
//! acknowledged reset: nothing acknowledged is lost, nothing is half done (invariants 1, 2 and 9).
//!
//! Three rounds in the ordinary suite; `LATCHKEY_CRASH_ROUNDS=300 cargo test --test crash -- --nocapture`
//! for the long run.

#![expect(
    clippy::disallowed_methods,
    reason = "a test may fail, and takes randomness and variables as they come"
)]

mod load_support;

use std::collections::HashSet;
use std::time::Duration;

use load_support::{Server, check, reset_while, seed};
use rand::Rng as _;

const CLIENTS: usize = 8;
const USERS_PER_ROUND: usize = 400;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    let rounds = std::env::var("LATCHKEY_CRASH_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3);
    let dir = tempfile::tempdir().unwrap();
    let seeded = seed::seed(dir.path(), USERS_PER_ROUND * rounds);
    let mut acknowledged = HashSet::new();
    let (mut cut_off, mut interrupted, mut done) = (0, 0, 0);
    for (round, users) in seeded.users.chunks(USERS_PER_ROUND).enumerate() {
        let mut server = Server::start(dir.path(), &[]);
        let address = server.address.clone();
        let ended = reset_while(&address, &seeded.admins, users, CLIENTS, |load| {
            // Some rounds end while the first request comes in, most of them in the middle.
            load.wait_for(rand::rng().random_range(0..40));
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..200)));
            server.kill();
        });
        acknowledged.extend(ended.acknowledged.into_keys());
        cut_off += ended.unanswered;
        interrupted += usize::from(ended.interrupted);
        done = check(dir.path(), &acknowledged, &format!("round {round}"));
    }
    // After the last crash it serves again, without hands.
    Server::start(dir.path(), &[]).kill();
    println!(
        "{rounds} kills ({interrupted} under load): {} resets acknowledged and all found, {done} done, {cut_off} \
         requests cut off",
        acknowledged.len()
    );
    assert!(
        !acknowledged.is_empty(),
        "the server answered before it was killed"
    );
}
