//! Operators and people: settings, imports, the way back in.

mod operator;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::cli_support::Desk;

/// A data directory with the organisation acme.
fn with_acme() -> Desk {
    let desk = Desk::new();
    desk.ok(&["--data-dir", "data", "org", "create", "acme"]);
    desk
}

fn run(desk: &Desk, args: &[&str]) -> (Option<i32>, String, String) {
    let output = desk.run(&[&["--data-dir", "data"], args].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn people_are_imported_from_the_command_line_all_or_nobody() {
    let desk = with_acme();
    let import = |args: &[&str]| {
        run(
            &desk,
            &[&["user", "import", "people.csv", "--org", "acme"], args].concat(),
        )
    };
    let users = || desk.json(&["--data-dir", "data", "user", "list", "--org", "acme", "--json"]);
    fs::write(
        desk.path("people.csv"),
        b"email;name\nann@acme.example;Ann\nbo@acme.example;J\xf6rg\nann@acme.example;Ann\n",
    )
    .unwrap();
    let (code, out, err) = import(&[]);
    assert_eq!(
        out,
        "3     name   is not UTF-8 (byte 0xf6); save the file as UTF-8\n4     email  is also in line 2\n"
    );
    assert_eq!(
        (code, err.as_str()),
        (Some(5), "latchkey: 2 lines were refused; nobody was imported\n")
    );
    assert_eq!(users(), json!([]));

    fs::write(
        desk.path("people.csv"),
        "email;name\nann@acme.example;Ann\nbo@acme.example;\n",
    )
    .unwrap();
    let (code, out, _) = import(&["--dry-run", "--links", "links.csv"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "2 users would be imported into acme\n")
    );
    assert!(!desk.path("links.csv").exists());
    assert_eq!(users(), json!([]));

    let (code, out, err) = import(&["--links", "links.csv"]);
    assert_eq!(
        (code, out.as_str()),
        (
            Some(0),
            "2 users imported into acme\nLinks to set a password, valid for 7 days: links.csv\n"
        ),
        "{err}"
    );
    let links = fs::read_to_string(desk.path("links.csv")).unwrap();
    assert_eq!(links.matches("/invitation#lko_").count(), 2, "{links}");
    let mode = fs::metadata(desk.path("links.csv")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(users().as_array().map(Vec::len), Some(2));

    // A file of links is never written over; nothing is imported then.
    let (code, _, err) = import(&["--skip-existing", "--links", "links.csv"]);
    assert_eq!(code, Some(5), "{err}");
    assert!(err.contains("links.csv can't be made"), "{err}");
    let (code, out, _) = import(&["--skip-existing"]);
    assert_eq!(
        (code, out.as_str()),
        (
            Some(0),
            "0 users imported into acme\n2 skipped: they already exist\n"
        )
    );
}

#[test]
fn a_file_that_cannot_be_imported_is_refused_as_a_whole() {
    let desk = with_acme();
    fs::write(desk.path("people.txt"), "email\na@acme.example\n").unwrap();
    fs::write(desk.path("large.csv"), vec![b'x'; 32 * 1024 * 1024 + 1]).unwrap();
    fs::write(desk.path("object.json"), "{}").unwrap();
    for (file, says) in [
        ("people.txt", "give --format csv or --format json"),
        ("large.csv", "the file is larger than 32 MiB; split it"),
        ("object.json", "must be an array of objects"),
        ("nowhere.csv", "nowhere.csv can't be read"),
    ] {
        let (code, out, err) = run(&desk, &["user", "import", file, "--org", "acme"]);
        assert_eq!((code, out.as_str()), (Some(5), ""), "{file}: {err}");
        assert!(err.contains(says), "{file}: {err}");
    }
    let report = desk.json(&[
        "--data-dir",
        "data",
        "user",
        "import",
        "people.txt",
        "--format",
        "csv",
        "--org",
        "acme",
        "--dry-run",
        "--json",
    ]);
    assert_eq!(report["imported"][0]["email"], "a@acme.example");
    assert_eq!(
        (&report["dryRun"], &report["refused"]),
        (&Value::Bool(true), &json!([]))
    );
}

#[test]
fn keys_of_another_database_are_refused_and_said_to_be() {
    let desk = with_acme();
    desk.ok(&["--data-dir", "other", "org", "create", "acme"]);
    let (code, _, err) = run(&desk, &["org", "list"]);
    assert_eq!(code, Some(0), "its own keys: {err}");
    fs::rename(desk.path("data/keys"), desk.path("aside")).unwrap();
    fs::rename(desk.path("other/keys"), desk.path("data/keys")).unwrap();
    let (code, out, err) = run(&desk, &["org", "list"]);
    assert_eq!((code, out.as_str()), (Some(4), ""), "{err}");
    assert!(
        err.starts_with("latchkey: the keys belong to another database: their fingerprint is "),
        "{err}"
    );
    assert!(err.contains("Put the keys directory back"), "{err}");
    // No keys at all are not made anew over a database that has some.
    fs::rename(desk.path("data/keys"), desk.path("other/keys")).unwrap();
    let (code, _, err) = run(&desk, &["org", "list"]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("the keys belong to another database"), "{err}");
    fs::remove_dir_all(desk.path("data/keys")).unwrap();
    fs::rename(desk.path("aside"), desk.path("data/keys")).unwrap();
    let (code, _, err) = run(&desk, &["org", "list"]);
    assert_eq!(code, Some(0), "the right ones are back: {err}");
}
