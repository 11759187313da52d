//! Attacks by someone who can write the database but has no signing key, and how verification finds them.

mod by_sql;

use rusqlite::params;

use super::*;
use crate::domain::account::UserId;
use crate::domain::audit::{Anchor, LogKeys, LogsGivenUp, Record, Removal, RemovedPart, Report, Verdict};
use crate::store::decisions::{AskedRow, DecisionRow, find_decided, insert_decisions};

const DAY: i64 = 86_400;

fn keys() -> LogKeys {
    LogKeys::new(vec![LogSigner::new("log.example/audit-log", &SEED).log_key()])
}

fn successor() -> LogSigner {
    LogSigner::new("log.example/audit-log/2", &SEED)
}

/// The report to an auditor who has the keys.
fn told(trail: &Connection, keys: &LogKeys, anchors: Vec<Anchor>) -> Report {
    verify_against(trail, keys, anchors, |_| {}).expect("verify")
}

fn verdict(trail: &Connection) -> Verdict {
    told(trail, &keys(), Vec::new()).verdict(&[], None)
}

fn forge(trail: &Connection, n: i64, event: &Event) -> u64 {
    let id = Uuid::from_u128(u128::from(n.unsigned_abs()) << 20 | 0xbad);
    append_entry(trail, at(n), id, event).expect("append").sequence
}

/// A forged entry that looks like the appliance's own and records the pruning of these entries.
fn pruning(organization_id: OrganizationId, places: &[u64], before: i64) -> Event {
    let mut removal = Removal::default();
    for place in places {
        removal.add(*place, RemovedPart::All);
    }
    Event::new(EventType::AuditPrune, Some(organization_id), ActorRef::system())
        .with("removed", removal.count())
        .with("first", removal.first())
        .with("digest", hex::encode(removal.digest()))
        .with("before", at(before).to_string())
}

fn blank(trail: &Connection, place: u64, by: u64) {
    trail
        .execute(
            "UPDATE audit_entry SET at = NULL, id = NULL, event_type = NULL, result = NULL, actor_type = NULL,
               actor_id = NULL, resource_type = NULL, resource_id = NULL, request_id = NULL, actor_seal = NULL,
               actor_email = NULL, ip_address = NULL, subject_seal = NULL, resource_name = NULL,
               error_message = NULL, details = NULL, pruned_by = ?2 WHERE sequence = ?1",
            params![to_column(place), to_column(by)],
        )
        .expect("SQL");
    trail
        .execute(
            "UPDATE audit_head SET pruned = pruned + 1 WHERE organization_id =
               (SELECT organization_id FROM audit_entry WHERE sequence = ?1)",
            [to_column(place)],
        )
        .expect("SQL");
}

/// A signed trail with an entry a day: one organisation's oldest are pruned, a part is erased, policies were asked
/// once.
fn lived_in() -> Connection {
    let trail = trail();
    let asked = AskedRow {
        question: "{}".to_owned(),
        outcome: None,
    };
    let calls = [DecisionRow {
        binding_id: Uuid::from_u128(3),
        plugin_digest: [1; 32],
        config_digest: [2; 32],
        record: "{\"mode\":\"enforce\"}".to_owned(),
    }];
    for n in 0..24 {
        let mut event = event(n);
        if n == 13 {
            event = event.with("askedDigest", hex::encode(asked.digest(&calls)));
        }
        let id = Uuid::from_u128(u128::from(n.unsigned_abs()) << 20 | 0x5eed);
        append_entry(&trail, at(n * DAY), id, &event).expect("append");
    }
    insert_decisions(&trail, 13, &asked, &calls).expect("decisions");
    sign(&trail);
    let id = Uuid::from_u128(0xa1);
    prune_entries(&trail, organization(1), at(6 * DAY), 9, at(24 * DAY), id).expect("prune");
    let part = PersonalPart {
        sequence: 10,
        part: RemovedPart::Actor,
    };
    let erasing = Event::new(EventType::AuditErase, Some(organization(0)), ActorRef::system());
    erase_parts(
        &trail,
        &erasing,
        &[part],
        &[],
        at(25 * DAY),
        Uuid::from_u128(0xa2),
    )
    .expect("erase");
    sign(&trail);
    trail
}

/// All that readers see of the first `size` entries, and what the next entry follows.
fn readers(trail: &Connection, size: u64) -> String {
    let records: Vec<Result<Option<Record>>> = (0..size).map(|place| find_record(trail, place)).collect();
    let lists: Vec<_> = [0, 1]
        .into_iter()
        .map(|n| {
            let of = Some(organization(n));
            let page = page_entries(trail, of, &Filter::default(), &Counts::default(), 0, 100);
            let kept = |entries: Vec<Entry>| -> Vec<Entry> {
                entries
                    .into_iter()
                    .filter(|entry| entry.sequence < size)
                    .collect()
            };
            let acts = page_activity(trail, organization(n), UserId(Uuid::from_u128(7)), None, 100);
            (page.map(|page| kept(page.content)), acts.map(kept))
        })
        .collect();
    let decided = find_decided(trail, 13).map(|decided| format!("{decided:?}"));
    format!("{records:?} {lists:?} {decided:?}")
}

#[test]
fn a_trail_with_removals_is_intact_until_a_hash_is_gone() {
    let trail = lived_in();
    assert_eq!(verdict(&trail), Verdict::Intact);
    let edit = "UPDATE audit_entry SET details = '{\"n\":99}' WHERE sequence = 20;
        UPDATE audit_entry SET hashes = x'' WHERE sequence = 20;";
    // A missing root must not end the comparison of the other entries.
    for place in [1, 3] {
        let trail = lived_in();
        trail
            .execute_batch(&format!(
                "{edit} UPDATE audit_entry SET hashes = x'' WHERE sequence = {place}"
            ))
            .expect("SQL");
        let found = findings(&trail);
        for place in [place, 20] {
            assert!(
                found.contains(&(Tampering::HashChanged, place, place)),
                "{found:?}"
            );
        }
    }
    // The same in a trail without a genuine pruning.
    let trail = signed_trail();
    let by = forge(&trail, 41, &pruning(organization(0), &[0], 1));
    blank(&trail, 0, by);
    trail
        .execute_batch("UPDATE audit_entry SET hashes = x'' WHERE sequence = 0")
        .expect("SQL");
    assert_eq!(findings(&trail), [(Tampering::HashChanged, 0, 0)]);
}

#[test]
fn only_the_log_that_followed_can_say_that_a_log_was_given_up() {
    let given_up = |trail: &Connection, is_signed: bool| {
        trail
            .execute_batch(
                "DELETE FROM audit_entry WHERE sequence >= 25; DELETE FROM audit_head;
                 INSERT INTO audit_head (organization_id, sequence, previous, entries)
                   SELECT organization_id, max(sequence), NULL, count(*) FROM audit_entry GROUP BY 1;
                 UPDATE audit_head SET previous =
                   (SELECT organization_previous FROM audit_entry e WHERE e.sequence = audit_head.sequence);",
            )
            .expect("SQL");
        let accept = Event::new(EventType::AuditRollbackAccept, None, ActorRef::operator())
            .with("checkpointSize", 40)
            .with("abandonedOrigin", "log.example/audit-log")
            .with("newKey", successor().log_key().to_string());
        let logs = LogsGivenUp::by(&successor(), vec!["log.example/audit-log".to_owned()], 25);
        let accept = if is_signed { logs.record(accept) } else { accept };
        forge(trail, 26, &accept)
    };
    for (until, is_signed) in [(26, true), (45, true), (26, false), (45, false)] {
        let trail = signed_trail();
        assert_eq!(given_up(&trail, is_signed), 25);
        for n in 26..until {
            append(&trail, n);
        }
        let report = told(&trail, &keys(), Vec::new());
        assert!(!report.is_intact(), "{report:?}");
        let kind = report.findings[0].kind;
        assert!(
            matches!(kind, Tampering::CutOff | Tampering::Rewritten),
            "{kind:?}"
        );
        // A deliberate rollback is signed under the next log name; without its key that proves nothing.
        let note = {
            let size = size(&trail).expect("size");
            checkpoints::begin_log(&trail, &successor().log_key(), 25, at(26)).expect("begin");
            successor().checkpoint(size, root(&trail, size).expect("root"))
        };
        let key = successor().log_key();
        checkpoints::insert_checkpoint(&trail, &key, size(&trail).expect("size"), &note, at(26))
            .expect("insert");
        assert!(!told(&trail, &keys(), Vec::new()).is_intact());
        let mut both = keys();
        both.add(successor().log_key());
        let old = keys().open(&first_note(&trail)).expect("signed before");
        let anchor = Anchor {
            checkpoint: old,
            source: "mine".to_owned(),
        };
        let report = told(&trail, &both, vec![anchor]);
        if !is_signed {
            // The server signs over whatever the database holds, under whatever log name it holds.
            assert_eq!(report.verdict(&[], None), Verdict::Tampered);
            continue;
        }
        assert_eq!(report.findings, []);
        assert_eq!(report.verdict(&[], None), Verdict::Intact);
        // A history file may hold thousands of anchors.
        let many = (41..2041).map(|size| Anchor {
            checkpoint: keys()
                .open(&LogSigner::new("log.example/audit-log", &SEED).checkpoint(size, [7; 32]))
                .expect("signed"),
            source: "history".to_owned(),
        });
        let given_up = told(&trail, &both, many.collect());
        assert_eq!((given_up.findings.len(), given_up.further_findings), (0, 0));
        assert!(given_up.voided.len() < 10, "{}", given_up.voided.len());
        // The verdict says that the given checkpoint does not count.
        assert_eq!(report.verdict(&["mine".to_owned()], None), Verdict::Superseded);
    }
}

/// The newest checkpoint of the first log.
fn first_note(trail: &Connection) -> String {
    trail
        .query_row(
            "SELECT note FROM audit_checkpoint WHERE log = 1 ORDER BY size DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .expect("a note")
}

#[test]
fn what_nobody_vouches_for_is_not_called_intact() {
    let trail = signed_trail();
    trail.execute_batch("DELETE FROM audit_checkpoint").expect("SQL");
    let report = told(&trail, &keys(), Vec::new());
    assert_eq!(report.findings, []);
    assert_eq!(report.verdict(&[], None), Verdict::Unsigned);
    assert_eq!(report.verdict(&[], Some(39)), Verdict::Unsigned);
    assert_eq!(report.verdict(&[], Some(40)), Verdict::Intact);
    // A few unsigned entries at the end, as a stopped server leaves them, are accepted unless they are too old.
    let trail = signed_trail();
    append(&trail, 100);
    append(&trail, 399);
    assert_eq!(verdict(&trail), Verdict::Intact);
    append(&trail, 402);
    assert_eq!(verdict(&trail), Verdict::Unsigned);
    assert_eq!(verdict(&super::trail()), Verdict::Intact, "nothing to vouch for");
}

#[test]
fn what_stands_in_removed_columns_is_found_and_not_read() {
    let forged = "UPDATE audit_entry SET at = 1771410600000, id = x'019c70639f407cc398c4dc0c0c07398f',
          event_type = 'USER_MFA_RESET', result = 'SUCCESS', actor_type = 'USER', actor_email = 'm@example.org'
        WHERE pruned_by IS NOT NULL;
        UPDATE audit_entry SET actor_email = 'm@example.org' WHERE actor_erased_by IS NOT NULL;";
    let trail = lived_in();
    let (before, size) = (readers(&trail, 24), size(&trail).expect("size"));
    trail.execute_batch(forged).expect("SQL");
    let found = findings(&trail);
    for place in [1, 3, 5, 10] {
        assert!(found.contains(&(Tampering::Edited, place, place)), "{found:?}");
    }
    assert_eq!(readers(&trail, 24), before);
    let (tail, _) = entries_after(&trail, Some(organization(1)), 0, 100).expect("tail");
    let (all, _) = every_entry_after(&trail, 0, 100).expect("tail");
    let all: Vec<_> = all
        .into_iter()
        .map(|standing| match standing {
            Standing::Entry(entry) => *entry,
            Standing::Unreadable(row) => panic!("{row:?}"),
        })
        .collect();
    assert!(
        size > 24
            && tail
                .iter()
                .chain(&all)
                .all(|entry| entry.event.actor.email.as_deref() != Some("m@example.org"))
    );
}

#[test]
fn an_entry_that_a_trigger_swallows_is_an_error() {
    for on in [
        "INSERT ON audit_entry",
        "UPDATE ON audit_head",
        "INSERT ON audit_head",
    ] {
        let trail = trail();
        append(&trail, 0);
        trail
            .execute_batch(&format!(
                "CREATE TRIGGER quiet BEFORE {on} BEGIN SELECT RAISE(IGNORE); END;"
            ))
            .expect("SQL");
        let n = if on == "INSERT ON audit_head" { 1 } else { 2 };
        let appended = append_entry(&trail, at(n), Uuid::from_u128(5), &event(n));
        assert!(appended.is_err(), "{on}");
        let found = findings(&trail);
        assert!(
            found.iter().any(|found| found.0 == Tampering::SchemaChanged),
            "{on}: {found:?}"
        );
    }
}

#[test]
fn the_table_of_newest_entries_must_agree_both_ways() {
    for sql in [
        "DELETE FROM audit_head WHERE sequence = 39",
        "DELETE FROM audit_head",
        "UPDATE audit_head SET sequence = 37, previous = 35, entries = 19 WHERE sequence = 39",
        "UPDATE audit_head SET pruned = CASE sequence WHEN 39 THEN 1 ELSE -1 END",
        "INSERT INTO audit_head (organization_id, sequence, entries) VALUES (x'', 39, 1)",
    ] {
        let found = after(sql);
        assert!(
            !found.is_empty() && found.iter().all(|found| found.0 == Tampering::DerivedDataChanged),
            "{sql}: {found:?}"
        );
    }
}

#[test]
fn what_is_not_as_old_as_an_entry_says_was_not_pruned_by_us() {
    for (organization_id, place, before, plausible) in [
        (organization(1), 9, 10 * DAY, true),
        // One day older, it would be plausible.
        (organization(1), 15, 11 * DAY, false),
        // The entry belongs to another organisation.
        (organization(0), 9, 10 * DAY, false),
        // The recorded limit lies in the future.
        (organization(1), 9, 99 * DAY, false),
    ] {
        let trail = lived_in();
        let by = forge(&trail, 26 * DAY, &pruning(organization_id, &[place], before));
        blank(&trail, place, by);
        let found = findings(&trail);
        let expected: &[_] = if plausible {
            &[]
        } else {
            &[(Tampering::RemovalNotRecorded, place, by)]
        };
        assert_eq!(found, expected, "{place} before {before}");
    }
}

/// An entry written while the clock was a month ahead is not reported as a forgery if later entries are signed.
#[test]
fn a_clock_that_was_wrong_once_does_not_make_prunings_forgeries() {
    for signed in [true, false] {
        let trail = trail();
        for n in 0..12_i64 {
            let day = if n == 4 { 45 } else { n };
            let id = Uuid::from_u128(u128::from(n.unsigned_abs()) << 20 | 0x5eed);
            append_entry(&trail, at(day * DAY), id, &event(n)).expect("append");
            if n == 4 || (signed && n == 11) {
                sign(&trail);
            }
        }
        let pruned = prune_entries(
            &trail,
            organization(1),
            at(6 * DAY),
            9,
            at(50 * DAY),
            Uuid::from_u128(0xa1),
        );
        assert_eq!(pruned.expect("prune"), 3);
        let expected: &[_] = if signed {
            &[]
        } else {
            &[(Tampering::RemovalNotRecorded, 1, 12)]
        };
        assert_eq!(findings(&trail), expected);
    }
}

#[test]
fn what_policies_were_asked_is_covered_by_the_entry() {
    for sql in [
        "UPDATE question SET question = '{\"denied\":false}'",
        "UPDATE question SET outcome = ''",
        "UPDATE decision SET record = '{}'",
        "UPDATE decision SET plugin_digest = zeroblob(32)",
        "DELETE FROM decision",
        "INSERT INTO decision SELECT id + 1, binding_id, plugin_digest, config_digest, record FROM decision",
        "DELETE FROM question",
        "INSERT INTO question SELECT 12, question, outcome FROM question",
    ] {
        let trail = lived_in();
        trail.execute_batch(sql).expect("SQL");
        let found = findings(&trail);
        assert!(
            matches!(found[..], [(Tampering::DerivedDataChanged, 12 | 13, 12 | 13)]),
            "{sql}: {found:?}"
        );
    }
    // Both are deleted after their retention.
    let trail = lived_in();
    trail
        .execute_batch("DELETE FROM question; DELETE FROM decision;")
        .expect("SQL");
    assert_eq!(findings(&trail), []);
}
