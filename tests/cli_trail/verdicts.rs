//! `latchkey audit verify` if a checkpoint can't be compared, if the file holds escape sequences, or if there is no
//! database.

use std::fs;

use super::{DATA, Desk, assert_intact, audit, keep, said, verdict};

#[test]
fn a_checkpoint_that_nothing_was_compared_with_does_not_end_well() {
    let desk = Desk::new();
    let create = |slugs: &[&str]| {
        for slug in slugs {
            desk.ok(&["--data-dir", DATA, "org", "create", slug]);
        }
    };
    create(&["acme", "globex", "initech"]);
    keep(&desk, "kept", &["checkpoint"]);
    create(&["umbrella", "hooli", "soylent"]);
    keep(&desk, "later", &["checkpoint"]);
    keep(&desk, "key", &["key"]);
    keep(&desk, "part", &["export", "--org", "acme"]);
    keep(&desk, "whole", &["export"]);
    let given = ["--key", "key", "--checkpoint", "kept"];
    let (report, code) = verdict(&desk, &[&["part"], &given[..]].concat());
    assert_eq!(
        (&report["verdict"], code),
        (&"not-compared".into(), Some(1)),
        "{report}"
    );
    let not_compared = report["notCompared"].as_array().unwrap();
    assert!(not_compared.iter().any(|one| one["source"] == "kept"), "{report}");
    let plainly = said(&desk.run(&[&["audit", "verify", "part"], &given[..]].concat()));
    assert!(
        plainly.contains("not compared: your checkpoint in kept")
            && plainly.contains("Check the whole export or the data directory"),
        "{plainly}"
    );
    // No checkpoint, one that can be compared, and the whole trail to compare with.
    for given in [
        &["part", "--key", "key"][..],
        &["part", "--key", "key", "--checkpoint", "later"],
        &["whole", "--key", "key", "--checkpoint", "kept"],
        &[DATA, "--key", "key", "--checkpoint", "kept"],
    ] {
        assert_intact(&desk, given);
    }
}

#[test]
fn what_a_file_makes_the_check_say_no_terminal_obeys() {
    let desk = Desk::new();
    desk.ok(&["--data-dir", DATA, "org", "create", "acme"]);
    let export = audit(&desk, &["export"]);
    let (header, rest) = export.split_once('\n').unwrap();
    let hostile = r#"{"kind":"\u001b[2J\u009b1mintact: 7 entries"}"#;
    for file in [
        format!("{header}\n{hostile}\n{rest}"),
        format!("{hostile}\n{rest}"),
        header.replacen("\"format\":\"", "\"format\":\"\\u001b[2J", 1),
    ] {
        fs::write(desk.path("hostile"), file).unwrap();
        for json in [&[][..], &["--json"]] {
            let checked = desk.run(&[&["audit", "verify", "hostile"], json].concat());
            assert_ne!(checked.status.code(), Some(0));
            let said = said(&checked);
            assert!(!said.contains('\u{1b}') && !said.contains('\u{9b}'), "{said:?}");
        }
    }
}

#[test]
fn where_there_is_no_database_nothing_was_tampered_with() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("empty")).unwrap();
    fs::create_dir_all(desk.path("damaged")).unwrap();
    fs::write(desk.path("damaged/latchkey.db"), "no database".repeat(1000)).unwrap();
    for (target, told) in [
        ("empty", "is the volume mounted?"),
        ("nowhere", "is the volume mounted?"),
        ("damaged", "can't be read"),
    ] {
        for json in [&[][..], &["--json"]] {
            let checked = desk.run(&[&["audit", "verify", target], json].concat());
            assert_eq!(checked.status.code(), Some(4), "{target}: {}", said(&checked));
            assert!(said(&checked).contains(told), "{}", said(&checked));
        }
    }
    // A file that is not an export was named by mistake: it is refused.
    fs::write(desk.path("file"), "{}\n").unwrap();
    let checked = desk.run(&["audit", "verify", "file"]);
    assert_eq!(checked.status.code(), Some(5), "{}", said(&checked));
}
