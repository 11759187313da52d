//! `latchkey audit export --out`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{confined, ended, people};
use crate::cli_support::Desk;

#[test]
fn an_export_is_a_new_file_for_its_owner_alone() {
    let desk = Desk::with_acme();
    desk.ok(&["audit", "export", "--out", "trail"]);
    let mode = fs::metadata(desk.path("trail")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = fs::read(desk.path("trail")).unwrap();
    let (code, said) = ended(&desk.run(&["audit", "export", "--out", "trail"]));
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("trail exists; name a new file"), "{said}");
    assert_eq!(
        fs::read(desk.path("trail")).unwrap(),
        before,
        "nothing is overwritten"
    );
    let (code, said) = ended(&desk.run(&["audit", "export", "--out", "nowhere/trail"]));
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(
        said,
        "latchkey: nowhere/trail: No such file or directory (os error 2)\n"
    );
}

#[test]
fn an_export_that_fails_leaves_no_file_and_names_it() {
    let desk = Desk::with_acme();
    people(&desk, "many.csv", 2000);
    desk.ok(&["user", "import", "many.csv", "--org", "acme"]);
    let export = ["audit", "export", "--out", "trail"];
    let (code, said) = ended(&confined(&desk, 400, &export));
    assert_eq!(code, Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("latchkey: trail could not be written"), "{said}");
    assert!(last.contains("File too large"), "{said}");
    assert!(!desk.path("trail").exists());
    desk.ok(&export);
}

#[test]
fn a_day_begins_at_midnight_utc() {
    let desk = Desk::with_acme();
    let entries = |args: &[&str]| {
        let export = desk.ok(&[&["audit", "export"], args].concat());
        export
            .lines()
            .filter(|line| line.starts_with(r#"{"kind":"entry""#))
            .count()
    };
    let all = entries(&[]);
    assert!(all > 0);
    assert!(
        entries(&["--from", "2020-01-01"]) >= all,
        "each export is an entry of the next one"
    );
    assert_eq!(entries(&["--to", "2020-01-01"]), 0);
    assert_eq!(entries(&["--from", "2999-01-01"]), 0);
    let (code, said) = ended(&desk.run(&["audit", "export", "--from", "2026-02-30"]));
    assert_eq!(code, Some(2), "{said}");
    let help = desk.ok(&["help", "audit", "export"]);
    assert!(help.contains("start of this day, UTC (2026-01-31)"), "{help}");
}
