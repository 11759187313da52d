//! Property: any change by SQL is either invisible to all readers or found by verification.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// One change to the database.
#[derive(Clone, Debug)]
enum Attack {
    /// Any SQL; statements that SQLite refuses have no effect.
    Sql(String),
    /// An unsigned entry that claims that the log was given up, followed by SQL.
    GiveUp(String),
    /// An unsigned entry that claims that entry `place` was pruned as older than day `before`.
    Prune {
        place: u64,
        before: i64,
        blank_hashes: bool,
    },
}

const COLUMNS: [&str; 24] = [
    "sequence",
    "hashes",
    "organization_id",
    "organization_index",
    "organization_previous",
    "at",
    "id",
    "event_type",
    "result",
    "actor_type",
    "actor_id",
    "resource_type",
    "resource_id",
    "request_id",
    "actor_seal",
    "actor_email",
    "ip_address",
    "subject_seal",
    "resource_name",
    "error_message",
    "details",
    "actor_erased_by",
    "subject_erased_by",
    "pruned_by",
];

fn sql() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "NULL",
        "''",
        "x''",
        "0",
        "-1",
        "7",
        "24",
        "'x'",
        "'{}'",
        "'USER'",
        "'USER_LOGIN'",
        "'00000000-0000-0000-0000-000000000007'",
        "x'00000000000000000000000000000007'",
        "zeroblob(16)",
        "zeroblob(32)",
    ]);
    let entry = (prop::sample::select(COLUMNS.to_vec()), value.clone(), 0..26_u64).prop_map(
        |(column, value, place)| {
            format!("UPDATE audit_entry SET {column} = {value} WHERE sequence = {place}")
        },
    );
    let head = (
        prop::sample::select(vec![
            "organization_id",
            "sequence",
            "previous",
            "entries",
            "pruned",
        ]),
        value.clone(),
        prop::sample::select(vec![22, 23, 24, 25]),
    )
        .prop_map(|(column, value, of)| {
            format!("UPDATE audit_head SET {column} = {value} WHERE sequence = {of}")
        });
    let asked = (
        prop::sample::select(vec![
            "question SET audit_sequence",
            "question SET question",
            "question SET outcome",
            "decision SET record",
            "decision SET binding_id",
            "decision SET config_digest",
        ]),
        value,
    )
        .prop_map(|(column, value)| format!("UPDATE {column} = {value}"));
    let deletes = prop_oneof![
        (0..26_u64).prop_map(|from| format!("DELETE FROM audit_entry WHERE sequence >= {from}")),
        (0..26_u64).prop_map(|place| format!("DELETE FROM audit_entry WHERE sequence = {place}")),
        Just("DELETE FROM audit_head".to_owned()),
        prop::sample::select(vec![24, 25])
            .prop_map(|of| format!("DELETE FROM audit_head WHERE sequence = {of}")),
        Just("DELETE FROM audit_checkpoint".to_owned()),
        Just("DELETE FROM audit_checkpoint WHERE size = 24".to_owned()),
        Just("DELETE FROM audit_log".to_owned()),
    ];
    prop_oneof![6 => entry, 2 => head, 1 => asked, 2 => deletes]
}

fn attack() -> impl Strategy<Value = Attack> {
    prop_oneof![
        8 => prop::collection::vec(sql(), 1..4).prop_map(|sql| Attack::Sql(sql.join("; "))),
        2 => sql().prop_map(Attack::GiveUp),
        2 => (0..24_u64, 0..26_i64, any::<bool>())
            .prop_map(|(place, before, blank_hashes)| Attack::Prune { place, before, blank_hashes }),
    ]
}

/// Makes the change. Returns whether the appliance itself could have made it.
fn carry_out(trail: &Connection, attack: &Attack) -> bool {
    // The attacker's connection does not enforce foreign keys.
    trail
        .pragma_update(None, "foreign_keys", false)
        .expect("a pragma");
    match attack {
        Attack::Sql(sql) => {
            for one in sql.split("; ") {
                let _ = trail.execute_batch(one);
            }
            false
        }
        Attack::GiveUp(sql) => {
            let event = Event::new(EventType::BackupRestore, None, ActorRef::operator())
                .with("abandonedOrigin", json!("log.example/audit-log"));
            forge(trail, 26 * DAY, &event);
            let _ = trail.execute_batch(sql);
            false
        }
        Attack::Prune {
            place,
            before,
            blank_hashes,
        } => {
            let of = organization(u128::from(place % 2));
            let by = forge(trail, 26 * DAY, &pruning(of, &[*place], before * DAY));
            blank(trail, *place, by);
            if *blank_hashes {
                trail
                    .execute(
                        "UPDATE audit_entry SET hashes = x'' WHERE sequence = ?1",
                        [to_column(*place)],
                    )
                    .expect("SQL");
            }
            // One of the two entries before it was not pruned and is at most two days older.
            !blank_hashes && i64::try_from(*place).expect("few") - 2 < *before + 1
        }
    }
}

#[test]
fn whatever_sql_changes_for_readers_is_found() {
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&attack(), |attack| {
            let trail = lived_in();
            // Salts are random, so compare readings of the same trail.
            let before = readers(&trail, 24);
            let could_be_ours = carry_out(&trail, &attack);
            let found = verify_against(&trail, &keys(), Vec::new(), |_| {});
            let found = found.map(|report| report.verdict(&[], None));
            if !could_be_ours && !matches!(found, Err(_) | Ok(Verdict::Tampered | Verdict::Unsigned)) {
                prop_assert!(readers(&trail, 24) == before, "{attack:?} was not found");
            }
            Ok(())
        })
        .unwrap();
}
