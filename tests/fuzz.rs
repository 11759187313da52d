//! Fuzzing: what others may give us, changed at random from something valid. No input may panic, hang or be taken
//! for what it is not (`fuzz/src/lib.rs` has the targets, which libFuzzer runs with coverage as its guide).
//!
//! A second each in the ordinary suite, of the same inputs each time: a change is judged by what it changes.
//! `LATCHKEY_FUZZ_SECS=300 cargo test --test fuzz -- --nocapture` looks for minutes, at other inputs each time.
//! Inputs are made by mutation, without coverage guidance. Each target prints how often it ran; one that fails
//! prints the seed that makes the same inputs again (`LATCHKEY_FUZZ_SEED`).

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may fail, reads a variable and the clock, and takes randomness as it comes"
)]

#[path = "api/account/authenticator.rs"]
mod authenticator;
mod load_support;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use authenticator::Authenticator;
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use latchkey::domain::account::{OrganizationId, Role, User, UserId};
use latchkey::passkeys::{Asserted, Created, RelyingParty, Written};
use load_support::latchkey;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use targets::{Ring, Target};
use uuid::Uuid;
use wasmparser::{Parser, Payload};

/// Runs a target over its seeds and edits of them.
fn fuzz(name: &str, target: &Target) {
    let mut paths: Vec<_> = std::fs::read_dir(folder(name))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for seed in &seeds {
        target(seed);
    }
    edit(name, &seeds, target);
}

/// Runs a target over edits of these seeds, for a second or as long as asked for.
fn edit(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    assert!(!seeds.is_empty(), "{name} has seeds");
    let number = |variable: &str| {
        std::env::var(variable)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let asked = number("LATCHKEY_FUZZ_SECS").map(Duration::from_secs);
    let time = asked.unwrap_or(Duration::from_secs(1));
    let seed = number("LATCHKEY_FUZZ_SEED").unwrap_or_else(|| asked.map_or(1, |_| rand::rng().random()));
    let mut random = StdRng::seed_from_u64(seed);
    let (began, mut inputs, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    while began.elapsed() < time {
        let input = edited(&seeds[random.random_range(0..seeds.len())], &mut random);
        let one = cpu_time::ThreadTime::now();
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| target(&input)));
        slowest = slowest.max(one.elapsed());
        inputs += 1;
        if let Err(panic) = ended {
            println!(
                "{name}: LATCHKEY_FUZZ_SEED={seed}, input {inputs}: {:?}",
                String::from_utf8_lossy(&input)
            );
            std::panic::resume_unwind(panic);
        }
    }
    println!("{name}: {inputs} inputs, the slowest took {slowest:.1?}");
    assert!(
        slowest < Duration::from_secs(10),
        "{name}: an input takes too long"
    );
}

/// One to eight edits: bytes and bits changed, put in, cut out, doubled; numbers and brackets that parsers fear.
fn edited(seed: &[u8], random: &mut StdRng) -> Vec<u8> {
    const FEARED: [&str; 12] = [
        "[[[[[[[[",
        "{\"\":",
        "-1",
        "18446744073709551616",
        "1e999",
        "\\ud800",
        "\0",
        "\u{202e}",
        "=\"",
        "\n",
        "..",
        "%00",
    ];
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(1..=64)).min(bytes.len());
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] = random.random(),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.insert(at, random.random()),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 => drop(bytes.drain(at..end)),
            5 => {
                let feared = FEARED[random.random_range(0..FEARED.len())];
                bytes.splice(at..at, feared.bytes());
            }
            6 if random.random_range(0..8) == 0 => bytes.truncate(at),
            _ => {
                // A digit becomes another one: the text stays well-formed.
                if let Some(digit) = bytes[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + random.random_range(0..10);
                }
            }
        }
    }
    bytes
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name), &targets::$name());
        })*
    };
}

targets! { tokens reset_body plugin_file plugin_manifest configuration user_import audit_verify }

/// What authenticators answer: nothing panics, and no use of a passkey is taken that was not signed so.
#[test]
fn passkeys() {
    let relying_party = RelyingParty::read(&Written {
        id: "",
        origins: &[],
        public_url: "http://127.0.0.1:8080",
        name: "Latchkey",
    })
    .unwrap();
    let (id, organization) = (UserId(Uuid::from_u128(1)), OrganizationId(Uuid::from_u128(2)));
    let email = "dev@acme.example".to_owned();
    let user = User::new(id, organization, email, None, Role::Member, Timestamp::UNIX_EPOCH);
    let text = |answer: &Value, field: &str| answer["response"][field].as_str().unwrap().to_owned();
    let bytes = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();

    let mut device = Authenticator::new(1);
    let asked = relying_party.start_registration(&user, &[]).unwrap();
    let made = device.create(&asked.options);
    let created = |client_data: &[u8], attestation: &[u8]| Created {
        credential_id: device.id(),
        client_data: BASE64URL_NOPAD.encode(client_data),
        attestation: BASE64URL_NOPAD.encode(attestation),
        transports: Vec::new(),
    };
    let client_data = bytes(&text(&made, "clientDataJSON"));
    let attestation = bytes(&text(&made, "attestationObject"));
    let finish = |created: &Created| relying_party.finish_registration(created, &asked.state).unwrap();
    let kept = finish(&created(&client_data, &attestation)).unwrap().kept;
    // Nobody signs this, so some edits pass: another counter, for one.
    edit("attestations", std::slice::from_ref(&attestation), |edited| {
        if let Ok(credential) = finish(&created(&client_data, edited)) {
            assert_eq!(BASE64URL_NOPAD.encode(&credential.id), device.id());
        }
    });
    edit("client data", std::slice::from_ref(&client_data), |edited| {
        let _ = finish(&created(edited, &attestation));
    });

    let asked = relying_party
        .start_authentication(std::slice::from_ref(&kept))
        .unwrap();
    let mut again = device.clone();
    let used = again.get(&asked.options);
    let original = [
        bytes(&text(&used, "clientDataJSON")),
        bytes(&text(&used, "authenticatorData")),
        bytes(&text(&used, "signature")),
    ];
    for (part, name) in ["client data of a use", "authenticator data", "signatures"]
        .into_iter()
        .enumerate()
    {
        edit(name, std::slice::from_ref(&original[part]), |edited| {
            let mut parts = original.clone();
            parts[part] = edited.to_vec();
            let [client_data, authenticator_data, signature] =
                parts.map(|bytes| BASE64URL_NOPAD.encode(&bytes));
            let asserted = Asserted {
                credential_id: device.id(),
                client_data,
                authenticator_data,
                signature,
                user_handle: None,
            };
            let checked =
                relying_party.finish_authentication(&asserted, &asked.state, std::slice::from_ref(&kept));
            assert_eq!(checked.unwrap().is_ok(), edited == original[part]);
        });
    }
}

/// Where a format has changed: `cargo test --test fuzz -- --ignored`.
#[test]
#[ignore = "writes files that are checked in"]
fn seeds_are_written_anew() {
    let ring = Ring::new();
    for (number, token) in ring.good_tokens().iter().enumerate() {
        write("tokens", &format!("token-{number}"), token);
    }
    let claims = serde_json::to_value(Ring::good_claims()).unwrap();
    write("tokens", "claims", format!("c{claims}"));
    let header = ring.good_tokens()[0].split('.').next().unwrap().to_owned();
    let header = BASE64URL_NOPAD.decode(header.as_bytes()).unwrap();
    write("tokens", "header", [b"h", &header[..]].concat());
    let external = json!({
        "iss": "https://id.example.org", "aud": ["latchkey"], "sub": "7", "email": "ada@acme.example", "org": "acme",
        "exp": 1_780_000_900, "iat": 1_780_000_000, "nbf": 1_780_000_000, "auth_time": 1_780_000_000, "jti": "1",
        "sid": "2", "amr": ["pwd", "otp"], "realm_access": { "roles": ["admin"] },
    });
    write("tokens", "external-claims", format!("x{external}"));
    write("tokens", "key-set", format!("j{}", Ring::key_set()));

    for (name, body) in [
        ("whole", r#"{"reason":"lost phone","ticket":"INC-1"}"#),
        ("escapes", r#"{"reason":null,"ticket":"\u0000\ud83d\ude00"}"#),
        ("nothing-said", "{}"),
        ("nothing", ""),
        ("deep", r#"[[[[{"reason":{"a":1e999}}]]]]"#),
    ] {
        write("reset_body", name, body);
    }
    plugin_files();
    let schema = json!({
        "type": "object", "required": ["max"], "additionalProperties": false,
        "properties": {
            "max": { "type": "integer", "minimum": 1 },
            "days": { "type": "array", "items": { "$ref": "#/$defs/day" }, "uniqueItems": true },
            "zone": { "type": "string", "pattern": "^[A-Z][a-z]+/[A-Z]", "default": "Europe/Berlin" },
        },
        "$defs": { "day": { "enum": ["mon", "tue"] } },
    });
    let manifest = json!({
        "name": "reset-budget", "version": "1.0.0", "summary": "At most so many resets.",
        "hooks": ["before-reset", "after-reset"], "wants": ["notify"], "historyDays": 30,
        "configSchema": schema.to_string(),
    });
    write(
        "plugin_manifest",
        "budget",
        format!(
            "{manifest}\n{}",
            json!({ "max": 3, "days": ["mon"], "zone": "Europe/Berlin" })
        ),
    );
    let whole: Vec<&str> = latchkey::config::EXAMPLE
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    write("configuration", "everything", whole.join("\n"));
    let few = "listen = \"127.0.0.1:0\"\n[limits]\nlogin_by_account = { requests = 1, window_secs = 1 }\n";
    write("configuration", "few", few);
    write(
        "user_import",
        "people.csv",
        "email,name,role\nann@acme.example,\"Able, Ann\",org-admin\nBOB@acme.example,,\n",
    );
    write(
        "user_import",
        "semicolons.csv",
        "\u{feff}Role;EMAIL;name\r\n\r\nmember;dev@acme.example;\"two\nlines\"\r\n",
    );
    let people = json!([{ "email": "cid@acme.example", "name": "Cid", "role": "member" }, { "email": "eve@acme.example" }]);
    write("user_import", "people.json", people.to_string());
    trails();
}

fn write(target: &str, name: &str, content: impl AsRef<[u8]>) {
    let folder = folder(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), content).unwrap();
}

fn plugin_files() {
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    for name in ["allow", "deny", "imports-wasi", "missing-export", "wrong-version"] {
        let module = wat::parse_file(fixture(&format!("guests/{name}.wat"))).unwrap();
        if name == "allow" {
            let package = latchkey::plugin_host::read_package(&module).unwrap();
            write("plugin_file", "allow-component.wasm", &package.component);
        }
        write("plugin_file", &format!("{name}.wasm"), module);
    }
    let built = std::fs::read(fixture("plugins/force-reenrollment.wasm")).unwrap();
    write(
        "plugin_file",
        "producers",
        [b"p", section(&built, "producers")].concat(),
    );
    // As wit-bindgen leaves the contract in a core module.
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve
        .push_str("policy.wit", latchkey::plugin_host::CONTRACT_WIT)
        .unwrap();
    let world = resolve.select_world(&[package], Some("policy")).unwrap();
    let mut module = wat::parse_str("(module)").unwrap();
    let utf8 = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, utf8).unwrap();
    write(
        "plugin_file",
        "contract",
        [b"c", section(&module, "component-type")].concat(),
    );
}

fn section<'a>(file: &'a [u8], begins: &str) -> &'a [u8] {
    let mut payloads = Parser::new(0).parse_all(file).map(Result::unwrap);
    let found = payloads.find_map(|payload| match payload {
        Payload::CustomSection(section) if section.name().starts_with(begins) => Some(section.data()),
        _ => None,
    });
    found.expect("it has such a section")
}

/// A trail with something erased in it, of two organisations, and what can be had of it.
fn trails() {
    let data = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = latchkey()
            .args(args)
            .arg("--data-dir")
            .arg(data.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    };
    for slug in ["acme", "globex"] {
        run(&["org", "create", slug, "--name", slug]);
        for name in ["ada", "bob"] {
            let email = format!("{name}@{slug}.example");
            run(&["user", "create", "--org", slug, "--email", &email, "--admin"]);
        }
        run(&["audit", "checkpoint"]);
    }
    let entries = run(&["audit", "export"]);
    let first = entries.lines().find(|line| line.contains("USER_CREATE")).unwrap();
    let entry: Value = serde_json::from_str(first).unwrap();
    let user = entry["leaf"]["resource"]["id"]
        .as_str()
        .expect("the user")
        .to_owned();
    run(&["audit", "erase", "--org", "acme", &user, "--yes"]);
    let id = entry["leaf"]["id"].as_str().unwrap();
    write("audit_verify", "export.ndjson", run(&["audit", "export"]));
    write(
        "audit_verify",
        "of-one.ndjson",
        run(&["audit", "export", "--org", "globex"]),
    );
    write(
        "audit_verify",
        "export.csv",
        run(&["audit", "export", "--format", "csv"]),
    );
    write("audit_verify", "receipt", run(&["audit", "prove", id]));
    write("audit_verify", "checkpoint", run(&["audit", "checkpoint"]));
    write("", "audit.key", run(&["audit", "key"]));
}
