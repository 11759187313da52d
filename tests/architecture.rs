//! Who may import what (`src/lib.rs` has the map), how long a file may be, and which external crate
//! belongs to which layer. A new layer or crate gets its row here first.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines before its tests: about 400, with some room.
const LONGEST: usize = 450;

/// Layer, and the layers that it may name besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &[]),
    ("durable", &[]),
    ("entropy", &[]),
    ("keys", &["clock", "domain", "durable", "entropy"]),
    ("limiter", &["clock", "domain"]),
    ("store", &["domain"]),
    ("courier", &["domain"]),
    ("plugin_host", &["domain", "durable"]),
    ("passkeys", &["domain"]),
    (
        "service",
        &[
            "clock",
            "courier",
            "domain",
            "durable",
            "entropy",
            "keys",
            "limiter",
            "passkeys",
            "plugin_host",
            "store",
        ],
    ),
    ("http", &["domain", "limiter", "service"]),
    (
        "config",
        &["courier", "limiter", "passkeys", "plugin_host", "service"],
    ),
    ("logging", &["config"]),
    (
        "app",
        &[
            "clock",
            "config",
            "courier",
            "domain",
            "durable",
            "entropy",
            "http",
            "keys",
            "limiter",
            "plugin_host",
            "service",
            "store",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "clock",
            "config",
            "domain",
            "entropy",
            "http",
            "keys",
            "limiter",
            "logging",
            "plugin_host",
            "service",
            "store",
        ],
    ),
    ("main", &[]),
];

/// External crate, and the only layers that may name it.
const CRATES: &[(&str, &[&str])] = &[
    ("poem", &["http", "app"]),
    ("poem_openapi", &["http"]),
    ("flate2", &["http"]),
    ("hyper", &["app", "config"]),
    ("hyper_util", &["app"]),
    ("rusqlite", &["store"]),
    ("rusqlite_migration", &["store"]),
    ("wasmtime", &["plugin_host"]),
    // The service only asks whether an address is one.
    ("lettre", &["courier", "service"]),
    ("reqwest", &["courier"]),
    ("standardwebhooks", &["courier"]),
    ("syslog_fmt", &["courier"]),
    ("wit_component", &["plugin_host"]),
    ("webauthn_rs", &["passkeys"]),
    // A thread's priority; the room that is left on a disk; how many files may be open.
    ("libc", &["app", "plugin_host", "store"]),
    ("governor", &["limiter"]),
    ("figment", &["config"]),
    ("clap", &["cli", "config"]),
    ("indicatif", &["cli"]),
    // The store salts the trail's leaves within the transaction that appends them.
    ("rand", &["entropy", "store"]),
    (
        "anyhow",
        &["app", "cli", "config", "logging", "main", "plugin_host"],
    ),
    (
        "tokio",
        &["app", "cli", "courier", "http", "plugin_host", "service", "store"],
    ),
];

struct Source {
    path: PathBuf,
    layer: String,
    text: String,
}

#[test]
fn layers_import_only_what_they_may() {
    let mut broken = Vec::new();
    for source in sources() {
        let allowed = LAYERS.iter().find(|(layer, _)| *layer == source.layer);
        let Some((layer, allowed)) = allowed else {
            if source.layer != "lib" {
                broken.push(format!(
                    "{}: layer {} has no row in LAYERS",
                    source.path.display(),
                    source.layer
                ));
            }
            continue;
        };
        for named in names_after(&source.text, "crate::") {
            if LAYERS.iter().any(|(other, _)| *other == named)
                && named != *layer
                && !allowed.contains(&named.as_str())
            {
                broken.push(format!(
                    "{}: {layer} may not import {named}",
                    source.path.display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn external_crates_stay_in_their_layers() {
    let mut broken = Vec::new();
    for source in sources() {
        for (name, layers) in CRATES {
            if names_crate(&source.text, name) && !layers.contains(&source.layer.as_str()) {
                broken.push(format!(
                    "{}: {name} belongs to {}",
                    source.path.display(),
                    layers.join(", ")
                ));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn sql_is_written_in_the_store_alone() {
    let statements = [
        "SELECT ",
        "INSERT INTO ",
        "DELETE FROM ",
        "UPDATE user",
        "BEGIN IMMEDIATE",
    ];
    for source in sources().iter().filter(|source| source.layer != "store") {
        for statement in statements {
            assert!(
                !source.text.contains(statement),
                "{} holds SQL: {statement}",
                source.path.display()
            );
        }
    }
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|source| {
            (
                source.path,
                source
                    .text
                    .lines()
                    .take_while(|line| *line != "mod tests {")
                    .count(),
            )
        })
        .filter(|(_, lines)| *lines > LONGEST)
        .collect();
    assert!(long.is_empty(), "files of more than {LONGEST} lines: {long:?}");
}

/// Names of fields whose text opens something.
const SECRETS: [&str; 16] = [
    "access_token",
    "challenge",
    "code",
    "device",
    "enrolment_code",
    "invitation",
    "invitation_link",
    "key",
    "link",
    "mfa_challenge_token",
    "new_password",
    "password",
    "recovery_codes",
    "refresh_token",
    "secret",
    "token",
];

/// Structures with such a field that tell no secret by it.
const OPEN: [(&str, &str); 6] = [
    ("Accepted", "key"),
    ("Denial", "code"),
    ("DenialBody", "code"),
    ("Restored", "key"),
    ("SampleUser", "password"),
    ("Trail", "key"),
];

/// ASVS 16.2.5: a structure that is printed by its name alone can be logged by mistake, and tells nothing.
#[test]
fn what_holds_a_secret_derives_no_debug() {
    let mut told = Vec::new();
    for file in sources() {
        let mut printed = false;
        let mut within: Option<String> = None;
        for line in file.text.lines() {
            let words = line.trim_start().trim_start_matches("pub ");
            if line.starts_with("#[derive(") {
                printed = line.contains("Debug");
            } else if let Some(name) = words.strip_prefix("struct ") {
                within = printed.then(|| leading_name(name));
                printed = false;
            } else if line.starts_with('}') {
                (within, printed) = (None, false);
            } else if let (Some(name), Some((field, kind))) = (&within, words.split_once(": ")) {
                let text = ["String", "Option<String>"];
                let opens = SECRETS.contains(&field) && text.iter().any(|text| kind.starts_with(text));
                if (opens || kind.contains("Zeroizing<")) && !OPEN.contains(&(name.as_str(), field)) {
                    told.push(format!("{}: {name}.{field}", file.path.display()));
                }
            }
        }
    }
    assert_eq!(told, [""; 0]);
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(&root).unwrap().with_extension("");
                let layer = inside.iter().next().unwrap().to_str().unwrap().to_owned();
                let text = without_comments(&fs::read_to_string(&path).unwrap());
                sources.push(Source { path, layer, text });
            }
        }
    }
    assert!(sources.len() > 20, "the sources were found");
    sources
}

/// Line comments become empty lines: prose may name anything.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The first names after each occurrence of `prefix`: `crate::a::b` gives a, `crate::{a::b, c}` a and c.
fn names_after(text: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(leading_name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' | ',' if depth == 0 => {
                    names.insert(leading_name(group[start..i].trim_start()));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names
}

fn leading_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Whether `name::` stands in the text as a path's beginning, or `use name`.
fn names_crate(text: &str, name: &str) -> bool {
    let path = format!("{name}::");
    text.match_indices(&path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    }) || text.contains(&format!("use {name};"))
}

#[test]
fn the_reader_of_imports_reads() {
    let text =
        without_comments("use crate::{a::{x, y}, b};\nuse crate::c::d; // crate::e\nlet f = crate::f::g();");
    let names = names_after(&text, "crate::");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b", "c", "f"]);
    assert!(names_crate("let x = ::poem::Y;", "poem") || names_crate("x(poem::Y)", "poem"));
    assert!(!names_crate("use a::poem::B; use poem_openapi::C;", "poem"));
}

/// SECURITY.md says which requirement is met by what, and which test shows it: each test that it names is
/// there, and no requirement stands without one.
#[test]
fn the_requirement_table_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        for file in rust_files(&root.join(folder)) {
            sources.push_str(&fs::read_to_string(file).unwrap());
        }
    }
    let (_, table) = text
        .split_once("<!-- requirements -->")
        .expect("the table's beginning");
    let (table, _) = table.split_once("<!-- end -->").expect("the table's end");
    let (mut rows, mut missing) = (0, Vec::new());
    for row in table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id"))
    {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [id, how, tests] = cells[..] else {
            panic!("a row has three cells: {row}");
        };
        assert!(!id.is_empty() && !how.is_empty(), "{row}");
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        // What the appliance does not do, or no test can show, says so in words.
        assert!(
            !named.is_empty() || tests.starts_with("none: "),
            "no test for {id}"
        );
        let gone = named
            .iter()
            .filter(|name| !sources.contains(&format!("fn {name}(")));
        missing.extend(gone.map(|name| format!("{id}: {name}")));
        rows += 1;
    }
    assert!(rows > 50, "{rows} rows");
    assert!(
        missing.is_empty(),
        "named in SECURITY.md and not there: {missing:#?}"
    );
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
