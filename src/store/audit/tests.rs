mod hostile;

use super::*;
use crate::domain::audit::{ActorRef, EventType, Filter, LogSigner, Resource, Tampering};

fn trail() -> Connection {
    crate::store::testing::database()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_771_410_600 + second).expect("a time of this century")
}

fn organization(n: u128) -> OrganizationId {
    OrganizationId(Uuid::from_u128(n))
}

fn event(n: i64) -> Event {
    let event_type = if n % 3 == 0 {
        EventType::UserLogin
    } else {
        EventType::UserMfaReset
    };
    let mut event = Event::new(
        event_type,
        Some(organization(u128::from(n.unsigned_abs() % 2))),
        ActorRef::operator(),
    )
    .on(Resource::other("USER", Uuid::from_u128(7), Some("Zoë".into())))
    .from_request("not a uuid", Some([192, 0, 2, 1].into()))
    .with("n", n);
    if n % 5 == 0 {
        event.actor.email = Some("admin@example.org".into());
    }
    event
}

fn append(connection: &Connection, n: i64) -> Entry {
    let id = Uuid::from_u128(u128::from(n.unsigned_abs()) << 20 | 0x5eed);
    append_entry(connection, at(n), id, &event(n)).expect("append")
}

#[test]
fn an_entry_is_found_as_it_was_appended() {
    let trail = trail();
    let entries: Vec<_> = (0..20).map(|n| append(&trail, n)).collect();
    for entry in entries {
        let found = find_entry(&trail, entry.event.organization_id, entry.id).expect("find");
        assert_eq!(found.as_ref(), Some(&entry));
        let elsewhere = find_entry(&trail, Some(organization(99)), entry.id).expect("find");
        assert_eq!(elsewhere, None);
    }
}

#[test]
fn pages_are_newest_first_and_filters_meet() {
    let trail = trail();
    for n in 0..60 {
        append(&trail, n);
    }
    let filter = Filter {
        event_type: Some(EventType::UserLogin),
        actor_email: Some("admin@example.org".into()),
        from: Some(at(1)),
        to: Some(at(45)),
    };
    let page = page_entries(&trail, Some(organization(1)), &filter, &Counts::default(), 0, 20).expect("page");
    let numbers: Vec<_> = page
        .content
        .iter()
        .map(|e| e.event.details["n"].clone())
        .collect();
    assert_eq!(numbers, [45, 15]);
    assert_eq!(page.total, 2);
    let page = page_entries(
        &trail,
        Some(organization(0)),
        &Filter::default(),
        &Counts::default(),
        2,
        12,
    )
    .expect("page");
    assert_eq!(page.content.len(), 6);
    assert_eq!(page.total, 30);
}

#[test]
fn the_kept_nodes_are_the_tree_of_rfc_6962() {
    let trail = trail();
    let mut leaves = Vec::new();
    for n in 0..70 {
        leaves.push(append(&trail, n).leaf_hash);
        for level in 0..7_u8 {
            for index in 0..(leaves.len() as u64 >> level) {
                let node = Node { level, index };
                let first = usize::try_from(index << level).expect("a small tree");
                let span = first..first + (1 << level);
                assert_eq!(
                    find_node(&trail, node).expect("find"),
                    Some(rfc_6962(&leaves[span])),
                    "{node:?}"
                );
            }
        }
    }
}

/// MTH of RFC 6962 §2.1, implemented literally, over leaf hashes.
fn rfc_6962(leaves: &[Hash32]) -> Hash32 {
    if let [leaf] = leaves {
        return *leaf;
    }
    let k = leaves.len().next_power_of_two() / 2;
    parent_hash(rfc_6962(&leaves[..k]), rfc_6962(&leaves[k..]))
}

fn findings(trail: &Connection) -> Vec<(Tampering, u64, u64)> {
    let report = verify(trail).expect("verify");
    report
        .findings
        .iter()
        .map(|f| (f.kind, f.first, f.last))
        .collect()
}

const SEED: [u8; 32] = [7; 32];

fn sign(trail: &Connection) {
    let signer = LogSigner::new("log.example/audit-log", &SEED);
    if checkpoints::known_logs(trail).expect("logs").is_empty() {
        checkpoints::begin_log(trail, &signer.log_key(), 0, at(0)).expect("begin");
    }
    let size = size(trail).expect("size");
    let note = signer.checkpoint(size, root(trail, size).expect("root"));
    checkpoints::insert_checkpoint(trail, &signer.log_key(), size, &note, at(0)).expect("insert");
}

/// A trail of 40 entries with checkpoints at 20 and 40.
fn signed_trail() -> Connection {
    let trail = trail();
    for n in 0..40 {
        if n == 20 {
            sign(&trail);
        }
        append(&trail, n);
    }
    sign(&trail);
    trail
}

/// Returns the findings after running `sql` on a signed trail.
fn after(sql: &str) -> Vec<(Tampering, u64, u64)> {
    let trail = signed_trail();
    trail.execute_batch(sql).expect("the tampering is SQL");
    findings(&trail)
}

#[test]
fn an_untouched_trail_is_intact_and_vouched_for() {
    let trail = signed_trail();
    append(&trail, 40);
    let report = verify(&trail).expect("verify");
    assert_eq!(report.findings, []);
    assert_eq!((report.entries, report.size, report.vouched_size), (41, 41, 40));
    assert_eq!(report.checkpoints, 2);
    let root = root(&trail, 41).expect("root");
    assert_eq!(report.root, Some(hex::encode(root)));
}

#[test]
fn every_column_of_an_entry_is_covered() {
    for column in [
        "organization_id = x'00'",
        "organization_index = organization_index + 1",
        "organization_previous = 3",
        "at = at + 1",
        "id = x'00112233445566778899aabbccddeeff'",
        "event_type = 'USER_UPDATE'",
        "result = 'DENIED'",
        "actor_type = 'USER'",
        "actor_id = x'00112233445566778899aabbccddeeff'",
        "resource_type = 'ORGANIZATION'",
        "resource_id = 'x'",
        "request_id = 'x'",
        "actor_seal = zeroblob(16)",
        "actor_email = 'mallory@example.org'",
        "ip_address = '192.0.2.2'",
        "subject_seal = zeroblob(16)",
        "resource_name = 'Zoe'",
        "error_message = 'x'",
        "details = '{\"n\":10}'",
        "details = NULL",
        "hashes = x''",
    ] {
        let found = after(&format!("UPDATE audit_entry SET {column} WHERE sequence = 9"));
        assert!(
            matches!(
                found[..],
                [(
                    Tampering::Edited | Tampering::Unreadable | Tampering::HashChanged,
                    9,
                    9
                )]
            ),
            "{column}: {found:?}"
        );
    }
    for (column, removed) in [
        ("actor_erased_by = 3", 9),
        (
            "actor_seal = zeroblob(32), actor_email = NULL, ip_address = NULL, actor_erased_by = 30",
            9,
        ),
        ("pruned_by = 30, id = NULL, at = NULL", 9),
    ] {
        let found = after(&format!("UPDATE audit_entry SET {column} WHERE sequence = 9"));
        // Derived counts may be reported as well, but the entry must be named.
        let (derived, named): (Vec<_>, Vec<_>) = found
            .iter()
            .partition(|(kind, ..)| *kind == Tampering::DerivedDataChanged);
        assert!(derived.len() < 2 && !named.is_empty(), "{column}: {found:?}");
        assert!(
            named
                .iter()
                .all(|(_, first, last)| (*first, *last) == (removed, removed)),
            "{column}: {found:?}"
        );
    }
}

#[test]
fn what_is_gone_is_named() {
    assert_eq!(
        after("DELETE FROM audit_entry WHERE sequence = 9"),
        [(Tampering::Missing, 9, 9)]
    );
    assert_eq!(
        after("DELETE FROM audit_entry WHERE sequence BETWEEN 10 AND 13 OR sequence = 30"),
        [(Tampering::Missing, 10, 13), (Tampering::Missing, 30, 30)]
    );
    assert_eq!(
        after("DELETE FROM audit_entry WHERE sequence < 3"),
        [(Tampering::Missing, 0, 2)]
    );
    let found = after("DELETE FROM audit_entry WHERE sequence > 36");
    assert!(found.contains(&(Tampering::CutOff, 37, 39)), "{found:?}");
}

#[test]
fn what_changed_places_is_named() {
    let swapped = after(
        "UPDATE audit_entry SET sequence = -1 WHERE sequence = 9;
         UPDATE audit_entry SET sequence = 9 WHERE sequence = 14;
         UPDATE audit_entry SET sequence = 14 WHERE sequence = -1;",
    );
    let reordered: Vec<_> = swapped.iter().filter(|f| f.0 == Tampering::Reordered).collect();
    assert_eq!(
        reordered,
        [&(Tampering::Reordered, 9, 9), &(Tampering::Reordered, 14, 14)]
    );
}

#[test]
fn a_changed_hash_is_told_from_a_changed_entry() {
    assert_eq!(
        after("UPDATE audit_entry SET hashes = zeroblob(32) WHERE sequence = 8"),
        [(Tampering::HashChanged, 8, 8)]
    );
    assert_eq!(
        after(
            "UPDATE audit_entry SET hashes = CAST(substr(hashes, 1, 32) || zeroblob(32) || substr(hashes, 65) AS BLOB) WHERE sequence = 11"
        ),
        [(Tampering::HashChanged, 11, 11)]
    );
}

#[test]
fn a_trail_made_anew_contradicts_its_checkpoints() {
    let trail = signed_trail();
    // Rewrite everything from entry 25 on with consistent hashes, as an attacker without the key could.
    let heads = "DELETE FROM audit_entry WHERE sequence >= 25; DELETE FROM audit_head;
        INSERT INTO audit_head (organization_id, sequence, previous, entries) SELECT organization_id, max(sequence), NULL, count(*) FROM audit_entry GROUP BY 1;
        UPDATE audit_head SET previous = (SELECT organization_previous FROM audit_entry e WHERE e.sequence = audit_head.sequence);";
    trail.execute_batch(heads).expect("SQL");
    for n in 25..40 {
        append(&trail, n + 1000);
    }
    assert_eq!(findings(&trail), [(Tampering::Rewritten, 20, 39)]);
}

#[test]
fn a_checkpoint_by_another_key_is_forged() {
    let trail = signed_trail();
    let forger = LogSigner::new("log.example/audit-log", &[8; 32]);
    let note = forger.checkpoint(40, root(&trail, 40).expect("root"));
    let key = LogSigner::new("log.example/audit-log", &SEED).log_key();
    checkpoints::insert_checkpoint(&trail, &key, 40, &note, at(0)).expect("insert");
    assert_eq!(findings(&trail), [(Tampering::ForgedCheckpoint, 39, 39)]);
}

#[test]
fn proofs_convince_the_other_side() {
    let trail = signed_trail();
    let tree_root = tlog_tiles::Hash(root(&trail, 40).expect("root"));
    for sequence in 0..40 {
        let record = find_record(&trail, sequence).expect("find").expect("is there");
        let leaf = tlog_tiles::Hash(record.leaf_hash_at(sequence).expect("not pruned"));
        let proof = inclusion_proof(&trail, sequence, 40).expect("proof");
        let proof = proof.into_iter().map(tlog_tiles::Hash).collect();
        tlog_tiles::check_record(&proof, 40, tree_root, sequence, leaf).expect("the proof holds");
    }
    for old in 1..=40 {
        let old_root = tlog_tiles::Hash(root(&trail, old).expect("root"));
        let proof = consistency_proof(&trail, old, 40).expect("proof");
        let proof = proof.into_iter().map(tlog_tiles::Hash).collect();
        tlog_tiles::check_tree(&proof, 40, tree_root, old, old_root).expect("the proof holds");
    }
}

#[test]
fn every_page_is_read_in_the_order_of_an_index_that_fits_its_filter() {
    let trail = trail();
    let (kind, who) = (Some(EventType::UserLogin), Some("admin@example.org".to_owned()));
    let by_time = "audit_entry_by_time (organization_id=? AND at>? AND at<?)";
    let by_type = "audit_entry_by_type (organization_id=? AND event_type=? AND at>? AND at<?)";
    let by_actor = "audit_entry_by_actor (organization_id=? AND actor_email=? AND at>? AND at<?)";
    for (event_type, actor_email, index) in [
        (None, None, by_time),
        (kind, None, by_type),
        (None, who.clone(), by_actor),
        (kind, who, by_actor),
    ] {
        let filter = Filter {
            event_type,
            actor_email,
            ..Filter::default()
        };
        let cursor = Cursor {
            at_millis: 7,
            sequence: 7,
        };
        for cursor in [None, Some(cursor)] {
            let plan = pages::plan(&trail, Some(organization(0)), &filter, cursor).expect("a plan");
            assert_eq!(
                plan,
                [format!("SEARCH audit_entry USING INDEX {index}")],
                "{filter:?}"
            );
        }
    }
}
