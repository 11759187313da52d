use super::*;
use crate::domain::audit::{ActorRef, EventType, Resource};

const SCHEMA: &str = include_str!("../schema/0001_initial.sql");

fn trail() -> Connection {
    let connection = Connection::open_in_memory().expect("in-memory database");
    connection.execute_batch(SCHEMA).expect("the schema is SQL");
    connection
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_771_410_600 + second).expect("a time of this century")
}

fn organization(n: u128) -> Option<OrganizationId> {
    Some(OrganizationId(Uuid::from_u128(n)))
}

fn event(n: i64) -> Event {
    let event_type = if n % 3 == 0 {
        EventType::UserLogin
    } else {
        EventType::UserMfaReset
    };
    let mut event = Event::new(
        event_type,
        organization(u128::from(n.unsigned_abs() % 2)),
        ActorRef::operator(),
    )
    .on(Resource::other("USER", Uuid::from_u128(7), Some("Zoë".into())))
    .from_request("not a uuid", Some("192.0.2.1"))
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
        let elsewhere = find_entry(&trail, organization(99), entry.id).expect("find");
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
    let page = page_entries(&trail, organization(1), &filter, 0, 20).expect("page");
    let numbers: Vec<_> = page
        .content
        .iter()
        .map(|e| e.event.details["n"].clone())
        .collect();
    assert_eq!(numbers, [45, 15]);
    assert_eq!(page.total, 2);
    let page = page_entries(&trail, organization(0), &Filter::default(), 2, 12).expect("page");
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
                let span = (index << level) as usize..((index + 1) << level) as usize;
                assert_eq!(
                    find_node(&trail, node).expect("find"),
                    Some(rfc_6962(&leaves[span])),
                    "{node:?}"
                );
            }
        }
    }
}

/// MTH of RFC 6962 §2.1, word for word, over leaf hashes.
fn rfc_6962(leaves: &[Hash32]) -> Hash32 {
    if let [leaf] = leaves {
        return *leaf;
    }
    let k = leaves.len().next_power_of_two() / 2;
    parent_hash(rfc_6962(&leaves[..k]), rfc_6962(&leaves[k..]))
}
