//! Kills the real server with SIGKILL at random instants under load, restarts it, and checks every
//! acknowledged reset: nothing acknowledged is lost, nothing is half done (invariants 1, 2 and 9), and whoever
//! was reset is told by mail, at least once, however often the server was killed meanwhile.
//!
//! Three rounds in the ordinary suite; `LATCHKEY_CRASH_ROUNDS=300 cargo test --test crash -- --nocapture`
//! for the long run. All that an appliance holds is checked after each kill, so one of them takes only so many.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may fail, and takes randomness and variables as they come"
)]

mod load_support;
#[path = "api/deliveries/receivers.rs"]
#[expect(dead_code, reason = "of the receivers, mail alone is needed")]
mod receivers;

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::{Duration, Instant};

use latchkey::store::DATABASE_FILE;
use load_support::{Server, check, reset_once, reset_while, seed};
use rand::Rng as _;
use receivers::MailServer;
use rusqlite::Connection;
use uuid::Uuid;

const CLIENTS: usize = 8;
const USERS_PER_ROUND: usize = 400;
/// Kills of one data directory.
const ROUNDS_OF_ONE: usize = 30;

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_half_done_and_everybody_is_told() {
    let rounds = std::env::var("LATCHKEY_CRASH_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3);
    let mut all = Counts::default();
    while all.kills < rounds {
        kill_again_and_again((rounds - all.kills).min(ROUNDS_OF_ONE), &mut all);
        println!("{all}");
    }
}

/// What was seen and found again.
#[derive(Default)]
struct Counts {
    kills: usize,
    under_load: usize,
    acknowledged: usize,
    done: usize,
    cut_off: usize,
    cut_off_and_done: usize,
    mails_owed: usize,
    mails_before_the_end: usize,
    mails: usize,
    mails_again: usize,
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills ({} under load): {} resets acknowledged and all found, {} done; of {} requests cut off and asked \
             for once more, {} had been done; {} mails owed and none given up, {} arrived between the kills, {} in the \
             end, {} of them a second time",
            self.kills,
            self.under_load,
            self.acknowledged,
            self.done,
            self.cut_off,
            self.cut_off_and_done,
            self.mails_owed,
            self.mails_before_the_end,
            self.mails,
            self.mails_again,
        )
    }
}

/// Kills the server over one data directory so many times, checks it after each, and adds what was seen.
fn kill_again_and_again(rounds: usize, all: &mut Counts) {
    let dir = tempfile::tempdir().unwrap();
    let seeded = seed::seed(dir.path(), USERS_PER_ROUND * rounds);
    let mail = MailServer::start();
    let port = mail.address.port().to_string();
    let variables = [
        ("LATCHKEY_MAIL__HOST", "127.0.0.1"),
        ("LATCHKEY_MAIL__PORT", port.as_str()),
        ("LATCHKEY_MAIL__TLS", "none"),
    ];
    let mut acknowledged = HashSet::new();
    let (mut interrupted, mut done, mut cut_off) = (0, 0, Vec::new());
    for (round, users) in seeded.users.chunks(USERS_PER_ROUND).enumerate() {
        let mut server = Server::start(dir.path(), &variables);
        let address = server.address.clone();
        let ended = reset_while(&address, &seeded.admins, users, CLIENTS, |load| {
            // Some rounds end while the first request comes in, most of them in the middle.
            load.wait_for(rand::rng().random_range(0..40));
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..200)));
            server.kill();
        });
        acknowledged.extend(ended.acknowledged.into_keys());
        cut_off.extend(ended.unanswered);
        interrupted += usize::from(ended.interrupted);
        done = check(dir.path(), &acknowledged, &format!("round {round}"));
        all_owe_a_mail(dir.path());
    }
    // Who was cut off asks again by the same key: done before or done now, and never twice.
    let mut server = Server::start(dir.path(), &variables);
    let done_before = done;
    for (user, admin) in &cut_off {
        let again = || reset_once(&server.address, admin, *user);
        // A policy that was not done in time, on a busy machine, changes nothing.
        let repeated = (0..20).map(|_| again()).find(|status| *status != Some(500));
        assert_eq!(repeated, Some(Some(200)), "{user} is asked for once more");
        acknowledged.insert(*user);
    }
    server.kill();
    done = check(dir.path(), &acknowledged, "asked for once more");
    all_owe_a_mail(dir.path());
    let told_before = mail.received().len();
    // After the last crash it serves again, without hands, and sends what is owed.
    let mut server = Server::start(dir.path(), &variables);
    until_nothing_is_owed(dir.path());
    server.kill();
    let owed = number(dir.path(), "SELECT count(*) FROM delivery WHERE channel = 'mail'");
    let received = mail.received();
    let names: HashSet<_> = received.iter().map(|mail| mail.header("Message-ID")).collect();
    assert!(
        !acknowledged.is_empty(),
        "the server answered before it was killed"
    );
    assert_eq!(
        i64::try_from(names.len()),
        Ok(owed),
        "each that is owed, and no other"
    );
    let told: HashSet<Uuid> = received
        .iter()
        .flat_map(|mail| &mail.to)
        .filter_map(|to| Uuid::parse_str(to.split('@').next()?).ok())
        .collect();
    for user in &acknowledged {
        assert!(told.contains(user), "{user} was reset and never told");
    }
    assert_eq!(
        i64::try_from(told.len()),
        Ok(done),
        "nobody else is told of a reset"
    );
    let count = |number: i64| usize::try_from(number).unwrap();
    all.kills += rounds;
    all.under_load += interrupted;
    all.acknowledged += acknowledged.len();
    all.done += count(done);
    all.cut_off += cut_off.len();
    all.cut_off_and_done += cut_off.len() - count(done - done_before);
    all.mails_owed += count(owed);
    all.mails_before_the_end += told_before;
    all.mails += received.len();
    all.mails_again += received.len() - names.len();
}

/// No reset without the mails that it owes, sent already or not.
fn all_owe_a_mail(dir: &Path) {
    let untold = "SELECT count(*) FROM audit_entry e WHERE event_type = 'USER_MFA_RESET' AND result = 'SUCCESS' \
         AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.audit_sequence = e.sequence AND d.channel = 'mail')";
    assert_eq!(number(dir, untold), 0, "resets that owe no mail");
}

/// Waits as long as it goes on.
fn until_nothing_is_owed(dir: &Path) {
    let owed = || number(dir, "SELECT count(*) FROM delivery WHERE state = 'owed'");
    let (mut left, mut since) = (owed(), Instant::now());
    while left > 0 {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "{left} deliveries are owed and not sent"
        );
        std::thread::sleep(Duration::from_millis(100));
        let now = owed();
        if now < left {
            (left, since) = (now, Instant::now());
        }
    }
    let dead = number(dir, "SELECT count(*) FROM delivery WHERE state = 'dead'");
    assert_eq!(dead, 0, "given up");
}

fn number(dir: &Path, sql: &str) -> i64 {
    let db = Connection::open(dir.join(DATABASE_FILE)).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}
