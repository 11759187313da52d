//! The exported trail: intact as it is, and whatever is done to it is found and named.

use jiff::SignedDuration;
use latchkey::domain::audit::{
    ActorRef, Event, EventType, FileVerifier, Finding, LogKeys, LogSigner, Report, Resource, Tampering,
};
use latchkey::service::trail::{self, Format, Selection};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{TestApp, append};

/// An app whose trail has a few dozen entries of two organisations, signed on the way.
async fn app() -> TestApp {
    let app = TestApp::new().await;
    for n in 0..24_i64 {
        let organization = if n % 3 == 0 { app.globex } else { app.acme };
        let event = Event::new(EventType::UserLogin, Some(organization), ActorRef::operator())
            .on(Resource::other(
                "USER",
                format!("user {n}"),
                Some("=SUM(A1)".into()),
            ))
            .from_request("request", Some([192, 0, 2, 1].into()))
            .with("n", n)
            .with("share", 0.1 + 0.2)
            // Kept as digits, and a double nevertheless.
            .with("limit", 1e17);
        append(&app.services, event).await.unwrap();
        app.advance(SignedDuration::from_secs(1));
        if n % 7 == 0 {
            trail::checkpoint(&app.services).await.unwrap();
        }
    }
    app
}

pub async fn export(app: &TestApp, selection: Selection, format: Format) -> String {
    let mut file = Vec::new();
    let actor = ActorRef::operator();
    trail::export(&app.services, actor, &selection, format, &mut file, |_, _| {})
        .await
        .unwrap();
    String::from_utf8(file).unwrap()
}

pub fn check(file: &str, keys: &LogKeys) -> Report {
    let mut verifier = FileVerifier::new(keys.clone(), Vec::new());
    for line in file.lines() {
        verifier.line(line, None).unwrap();
    }
    verifier.finish().unwrap()
}

fn check_csv(file: &str, keys: &LogKeys) -> Report {
    let mut verifier = FileVerifier::new(keys.clone(), Vec::new());
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(file.as_bytes());
    for row in reader.records() {
        let row = row.unwrap();
        let cells: Vec<_> = row.iter().collect();
        verifier.line(cells.last().unwrap(), Some(&cells)).unwrap();
    }
    verifier.finish().unwrap()
}

#[tokio::test]
async fn every_kind_of_export_is_intact() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let time = |text: &str| Some(text.parse().unwrap());
    for selection in [
        Selection::default(),
        Selection {
            organization_id: Some(app.acme),
            ..Selection::default()
        },
        Selection {
            organization_id: Some(app.globex),
            from: time("2026-02-18T10:30:05Z"),
            to: time("2026-02-18T10:30:15Z"),
        },
        Selection {
            from: time("2026-02-18T10:30:05Z"),
            ..Selection::default()
        },
        Selection {
            to: time("2020-01-01T00:00:00Z"),
            ..Selection::default()
        },
    ] {
        let report = check(&export(&app, selection.clone(), Format::Ndjson).await, &keys);
        assert_eq!(report.findings, [], "{selection:?}");
        assert_eq!(report.vouched_size, report.size, "{selection:?}");
        let report = check_csv(&export(&app, selection.clone(), Format::Csv).await, &keys);
        assert_eq!(report.findings, [], "{selection:?}");
    }
}

/// Found by fuzzing: a row with fewer cells made the check fall over; text beside a checkpoint went unnoticed.
#[tokio::test]
async fn a_row_with_cells_missing_or_added_was_edited() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let file = export(&app, Selection::default(), Format::Csv).await;
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(file.as_bytes());
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    let edited = rows
        .iter()
        .position(|row| row.get(3) == Some("USER_LOGIN"))
        .unwrap_or(rows.len() / 2);
    let check_at = |edited: usize, change: &dyn Fn(&mut Vec<&str>)| {
        let mut verifier = FileVerifier::new(keys.clone(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            let mut cells: Vec<_> = row.iter().collect();
            if at == edited {
                change(&mut cells);
            }
            let record = row.get(row.len() - 1).unwrap();
            verifier.line(record, Some(&cells)).unwrap();
        }
        let findings = verifier.finish().unwrap().findings;
        findings.iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    let check = |change: &dyn Fn(&mut Vec<&str>)| check_at(edited, change);
    assert_eq!(check(&|_| ()), []);
    // What is no entry has nothing beside it that somebody could be made to believe.
    let no_entry = |at: &usize| rows[*at].get(0) == Some("");
    let others: Vec<_> = (0..rows.len()).filter(no_entry).collect();
    assert!(others.len() >= 3, "header, checkpoint, end");
    for at in others {
        assert_eq!(
            check_at(at, &|cells| cells[7] = "mallory@acme.example"),
            [Tampering::Edited]
        );
    }
    for missing in 1..=17 {
        assert_eq!(check(&|cells| drop(cells.drain(..missing))), [Tampering::Edited]);
    }
    assert_eq!(check(&|cells| cells.insert(0, "")), [Tampering::Edited]);
}

#[tokio::test]
async fn an_organisations_export_holds_nothing_of_others_and_misses_nothing() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let selection = Selection {
        organization_id: Some(app.acme),
        ..Selection::default()
    };
    let file = export(&app, selection, Format::Ndjson).await;
    assert!(!file.contains(&app.globex.to_string()));
    // Even the log itself can't leave out an entry that others follow: the organisation's chain would not close.
    let lines: Vec<&str> = file.lines().collect();
    let left_out = lines
        .iter()
        .position(|line| line.contains("\"n\":10,"))
        .or_else(|| lines.iter().position(|line| line.contains("\"n\":10}")))
        .unwrap_or_else(|| {
            lines
                .iter()
                .rposition(|line| line.starts_with("{\"kind\":\"entry\""))
                .unwrap()
                - 3
        });
    let without: Vec<_> = lines
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != left_out)
        .map(|(_, line)| *line)
        .collect();
    let report = check(&without.join("\n"), &keys);
    assert!(
        report.findings.iter().any(|f| f.kind == Tampering::Missing),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_formula_in_a_cell_is_harmless_and_a_changed_cell_is_found() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let file = export(&app, Selection::default(), Format::Csv).await;
    assert!(file.contains(",'=SUM(A1),"), "{file}");
    let changed = file.replacen(",'=SUM(A1),", ",somebody else,", 1);
    let report = check_csv(&changed, &keys);
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].kind, Tampering::Edited);
}

/// An honest part whose header was made to claim the whole.
#[tokio::test]
async fn a_part_can_not_be_passed_off_as_the_whole() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let selection = Selection {
        organization_id: Some(app.globex),
        ..Selection::default()
    };
    let file = export(&app, selection, Format::Ndjson).await;
    let report = check(&file, &keys);
    let scope = report.scope.as_ref().unwrap();
    assert_eq!(scope.organization_id, Some(app.globex.0));
    assert!(
        scope.left_out > 0 && scope.left_out + report.entries == report.size,
        "{report:?}"
    );
    let mut lines: Vec<String> = file.lines().map(str::to_owned).collect();
    let mut header: Value = serde_json::from_str(&lines[0]).unwrap();
    header.as_object_mut().unwrap().remove("organizationId").unwrap();
    lines[0] = header.to_string();
    let report = check(&lines.join("\n"), &keys);
    assert_eq!(report.scope, None);
    let left_out = report
        .findings
        .iter()
        .filter(|found| found.text.contains("claims to be whole"));
    assert!(left_out.count() >= 8, "{report:?}");
}

/// What a file may say again and again takes no more memory each time, nor more time.
#[tokio::test]
async fn what_a_hostile_file_repeats_is_told_once_or_up_to_a_bound() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let file = export(&app, Selection::default(), Format::Ndjson).await;
    let lines: Vec<&str> = file.lines().collect();
    let is_checkpoint = |line: &&&str| line.starts_with("{\"kind\":\"checkpoint\"");
    let at = lines.iter().position(|line| is_checkpoint(&line)).unwrap();
    // In its place, then where it comes too late.
    for place in [at, lines.len() - 1] {
        let mut repeated = lines.clone();
        repeated.splice(place..place, std::iter::repeat_n(lines[at], 1500));
        let report = check(&repeated.join("\n"), &keys);
        assert!(
            report.notes.len() <= 1000 && !report.is_intact(),
            "{}",
            report.notes.len()
        );
        assert_eq!(report.checkpoints, check(&file, &keys).checkpoints);
    }
    // Every second entry is late; each is out of its place, and none is missing.
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for line in &lines[1..lines.len() - 1] {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["kind"] == "entry" {
            let odd = line["leaf"]["sequence"].as_u64().unwrap() % 2 == 1;
            if odd { &mut early } else { &mut late }.push(line.to_string());
        }
    }
    let count = late.len();
    let all = [vec![lines[0].to_owned()], early, late].concat();
    let report = check(&all.join("\n"), &keys);
    let of = |kind| report.findings.iter().filter(|found| found.kind == kind).count();
    assert_eq!(
        (of(Tampering::Missing), of(Tampering::Duplicated)),
        (0, 0),
        "{report:?}"
    );
    assert!(of(Tampering::Reordered) >= count - 1, "{report:?}");
}

#[tokio::test]
async fn a_file_without_a_trusted_key_proves_nothing() {
    let app = app().await;
    let file = export(&app, Selection::default(), Format::Ndjson).await;
    let header: Value = serde_json::from_str(file.lines().next().unwrap()).unwrap();
    let told =
        latchkey::domain::audit::checkpoint::unchecked(header["checkpoint"].as_str().unwrap()).unwrap();
    let stranger = LogSigner::new(&told.origin, &[9; 32]).log_key();
    let report = check(&file, &LogKeys::new(vec![stranger]));
    assert!(
        report
            .findings
            .iter()
            .all(|f| f.kind == Tampering::ForgedCheckpoint)
    );
    assert!(!report.is_intact());
    let believed = check(&file, &LogKeys::default());
    assert!(believed.is_intact() && believed.trusted_own_keys);
}

/// A receipt may withhold a part behind its seal; in a file of the trail that counts as an erasure that no
/// entry records.
#[tokio::test]
async fn a_part_left_out_of_a_file_is_found_and_the_entry_named() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let file = export(&app, Selection::default(), Format::Ndjson).await;
    for part in ["actor", "subject"] {
        let mut lines: Vec<String> = file.lines().map(str::to_owned).collect();
        let mut line: Value = serde_json::from_str(&lines[9]).unwrap();
        let sequence = line["leaf"]["sequence"].as_u64().unwrap();
        let members = line.as_object_mut().unwrap();
        members.remove(part).unwrap();
        members.remove(&format!("{part}Salt")).unwrap();
        lines[9] = line.to_string();
        let report = check(&lines.join("\n"), &keys);
        // Besides, the file's end says that its content was another.
        let named = |found: &Finding| (found.kind, found.first) == (Tampering::RemovalNotRecorded, sequence);
        assert!(report.findings.iter().any(named), "{report:?}");
        assert!(report.findings.len() <= 2, "{report:?}");
    }
}

/// What a forger without the key may try.
#[derive(Clone, Debug)]
enum Attack {
    Edit(prop::sample::Index, String),
    Drop(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index),
    CutOff(prop::sample::Index),
    Flip(prop::sample::Index, prop::sample::Index),
    ForgeCheckpoint,
}

fn attack() -> impl Strategy<Value = Attack> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), "[a-z]{1,8}").prop_map(|(at, text)| Attack::Edit(at, text)),
        at().prop_map(Attack::Drop),
        (at(), at()).prop_map(|(a, b)| Attack::Swap(a, b)),
        at().prop_map(Attack::Repeat),
        at().prop_map(Attack::CutOff),
        (at(), at()).prop_map(|(line, byte)| Attack::Flip(line, byte)),
        Just(Attack::ForgeCheckpoint),
    ]
}

/// The file after the attack, and the entry that must be named, if the attack is about one.
fn carry_out(attack: &Attack, file: &str) -> Option<(String, Option<u64>)> {
    let mut lines: Vec<String> = file.lines().map(str::to_owned).collect();
    let entries: Vec<usize> = (0..lines.len())
        .filter(|at| lines[*at].starts_with("{\"kind\":\"entry\""))
        .collect();
    let sequence = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["leaf"]["sequence"].as_u64()
    };
    let mut named = None;
    match attack {
        Attack::Edit(at, text) => {
            let at = *at.get(&entries);
            named = sequence(&lines[at]);
            let mut line: Value = serde_json::from_str(&lines[at]).unwrap();
            line["subject"]["resourceName"] = json!(text);
            lines[at] = line.to_string();
        }
        Attack::Drop(at) => {
            let at = *at.get(&entries);
            named = sequence(&lines[at]);
            lines.remove(at);
        }
        Attack::Swap(a, b) => {
            let (a, b) = (*a.get(&entries), *b.get(&entries));
            if a == b {
                return None;
            }
            named = sequence(&lines[a.max(b)]).map(|_| sequence(&lines[a.min(b)]).unwrap());
            lines.swap(a, b);
        }
        Attack::Repeat(at) => {
            let at = *at.get(&entries);
            named = sequence(&lines[at]);
            lines.insert(at, lines[at].clone());
        }
        Attack::CutOff(at) => {
            lines.truncate(*at.get(&entries) + 1);
        }
        Attack::Flip(line, byte) => {
            // Not the header: what it says is said by the other lines too, or by the end.
            let at = 1 + line.index(lines.len() - 1);
            let at_byte = byte.index(lines[at].len());
            let mut bytes = lines[at].clone().into_bytes();
            bytes[at_byte] ^= 1;
            lines[at] = String::from_utf8_lossy(&bytes).into_owned();
        }
        Attack::ForgeCheckpoint => {
            let mut header: Value = serde_json::from_str(&lines[0]).unwrap();
            let note = header["checkpoint"].as_str().unwrap();
            let told = latchkey::domain::audit::checkpoint::unchecked(note).unwrap();
            let forger = LogSigner::new(&told.origin, &[9; 32]);
            header["checkpoint"] = json!(forger.checkpoint(told.size, [7; 32]));
            lines[0] = header.to_string();
        }
    }
    Some((lines.join("\n"), named))
}

#[tokio::test]
async fn any_edit_drop_swap_repetition_cut_or_forgery_is_found_and_the_entry_named() {
    let app = app().await;
    let keys = trail::log_keys(&app.services).await.unwrap();
    let file = export(&app, Selection::default(), Format::Ndjson).await;
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&attack(), |attack| {
            let Some((changed, named)) = carry_out(&attack, &file) else {
                return Ok(());
            };
            let report = check(&changed, &keys);
            prop_assert!(!report.is_intact(), "{attack:?} was not found");
            if let Some(named) = named {
                prop_assert!(
                    report
                        .findings
                        .iter()
                        .any(|f| f.first <= named && named <= f.last),
                    "{attack:?}: entry {named} is not named: {report:?}"
                );
            }
            Ok(())
        })
        .unwrap();
}

/// What is pruned or erased after the snapshot was taken, is still in it, and recorded by entries that are not.
#[tokio::test]
async fn an_export_is_of_one_instant_whatever_is_removed_meanwhile() {
    let app = app().await;
    app.admin()
        .await
        .reset(crate::support::DEVELOPER)
        .await
        .assert_ok();
    let keys = trail::log_keys(&app.services).await.unwrap();
    let data_dir = app.services.store.path().parent().unwrap();
    for format in [Format::Ndjson, Format::Csv] {
        let snapshot = trail::Snapshot::take(data_dir).unwrap();
        let export = snapshot.prepare(&Selection::default(), format).unwrap();
        app.erase(&app.developer).await;
        let announced = export.announcement().clone();
        let begun = trail::announce_export(&app.services, ActorRef::operator(), &announced);
        let begun = begun.await.unwrap();
        let mut file = Vec::new();
        let written = export.write(&begun, &mut file, |_, _| {}).unwrap();
        let signed = trail::sign_export(&app.services, written.claim()).await.unwrap();
        assert_eq!(written.finish(signed).unwrap(), announced.entries);
        let file = String::from_utf8(file).unwrap();
        let report = match format {
            Format::Ndjson => check(&file, &keys),
            Format::Csv => check_csv(&file, &keys),
        };
        assert_eq!(report.findings, []);
        assert_eq!(
            (report.entries, report.size),
            (announced.entries, announced.tree_size)
        );
    }
    // A key that came into use after the snapshot was taken has not signed for it, and a file begins and ends with
    // one key.
    let prepare = || {
        let snapshot = trail::Snapshot::take(data_dir).unwrap();
        snapshot.prepare(&Selection::default(), Format::Ndjson).unwrap()
    };
    let before = prepare();
    let rotate = || trail::rotate_key(&app.services, ActorRef::operator());
    rotate().await.unwrap();
    let size = trail::size(&app.services).unwrap();
    let late = trail::announce_export(&app.services, ActorRef::operator(), before.announcement()).await;
    assert!(
        matches!(late, Err(latchkey::domain::Error::Conflict(_))),
        "{late:?}"
    );
    assert_eq!(trail::size(&app.services).unwrap(), size, "nothing was exported");
    let across = prepare();
    let begun = trail::announce_export(&app.services, ActorRef::operator(), across.announcement())
        .await
        .unwrap();
    let written = across.write(&begun, Vec::new(), |_, _| {}).unwrap();
    rotate().await.unwrap();
    let late = trail::sign_export(&app.services, written.claim()).await;
    assert!(
        matches!(late, Err(latchkey::domain::Error::Conflict(_))),
        "{late:?}"
    );
}
