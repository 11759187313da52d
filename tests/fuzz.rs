//! Fuzzing: what others may give us, changed at random from something valid. No input may panic, hang or be taken
//! for what it is not.
//!
//! A second each in the ordinary suite; `LATCHKEY_FUZZ_SECS=300 cargo test --test fuzz -- --nocapture` for minutes.
//! Inputs are made by mutation, without coverage guidance. Each target prints how often it ran; one that fails
//! prints the seed that makes the same inputs again (`LATCHKEY_FUZZ_SEED`).

#![expect(
    clippy::disallowed_methods,
    reason = "a test may fail, reads a variable and the clock, and takes randomness as it comes"
)]

#[path = "api/account/authenticator.rs"]
mod authenticator;
mod load_support;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use authenticator::Authenticator;
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use latchkey::app::App;
use latchkey::config::{Config, Sources};
use latchkey::domain::account::{OrganizationId, Role, SessionId, User, UserId};
use latchkey::domain::audit::{FileVerifier, LogKey, LogKeys, check_receipt};
use latchkey::domain::credential::{
    AUDIENCE, AccessKeys, Amr, Claims, OneUseToken, RefreshToken, SigningKeyRecord, TokenAlgorithm,
};
use latchkey::http::HttpOptions;
use latchkey::passkeys::{Asserted, Created, RelyingParty, Written};
use load_support::{latchkey, seed};
use poem::test::TestClient;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use uuid::Uuid;

/// Runs a target over edits of the seeds, for a second or as long as asked for.
fn fuzz(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let number = |variable: &str| {
        std::env::var(variable)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let time = Duration::from_secs(number("LATCHKEY_FUZZ_SECS").unwrap_or(1));
    let seed = number("LATCHKEY_FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
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

#[test]
fn tokens() {
    let at = Timestamp::from_second(1_780_000_000).unwrap();
    let user = UserId(Uuid::from_u128(7));
    let refresh = RefreshToken {
        user,
        session: SessionId(Uuid::from_u128(8)),
        generation: 3,
    };
    let records = [
        SigningKeyRecord::generate(TokenAlgorithm::Hs256, [1; 32], at),
        SigningKeyRecord::generate(TokenAlgorithm::EdDsa, [2; 32], at),
    ];
    let claims = Claims {
        iss: "urn:uuid:1".to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: user,
        org: OrganizationId(Uuid::from_u128(9)),
        role: Role::OrgAdmin,
        sid: SessionId(Uuid::from_u128(8)),
        auth_time: at.as_second(),
        amr: vec![Amr::Pwd],
        jti: Uuid::from_u128(10),
        iat: at.as_second(),
        nbf: at.as_second(),
        exp: at.as_second() + 900,
    };
    let rings: Vec<_> = records
        .iter()
        .map(|record| AccessKeys::new(claims.iss.clone(), std::slice::from_ref(record)))
        .collect();
    let mut seeds: Vec<_> = rings.iter().map(|keys| keys.sign(&claims).into_bytes()).collect();
    for (keys, token) in rings.iter().zip(&seeds) {
        let token = std::str::from_utf8(token).unwrap();
        assert!(keys.verify(token, at).is_ok(), "the seeds are good");
    }
    seeds.push(refresh.encode(&[5; 32]).into_bytes());
    seeds.push(OneUseToken::new(user, [6; 32]).encode().into_bytes());
    let good = seeds.clone();
    let keys = AccessKeys::new(claims.iss.clone(), &records);
    fuzz("tokens", &seeds, move |bytes| {
        let text = String::from_utf8_lossy(bytes);
        // Whatever opens something is letter for letter what we made.
        let opens = keys.verify(&text, at).is_ok() || RefreshToken::decode(&text, &[5; 32]).is_some();
        assert!(!opens || good.iter().any(|good| good == bytes), "{text}");
        if let Some(token) = OneUseToken::decode(&text) {
            assert_eq!(token.encode(), text, "one writing for one token");
        }
    });
}

#[test]
fn reset_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let seeded = seed::seed(folder.path(), 1);
    let mut config = Config::for_data_dir(folder.path());
    config.limits = latchkey::limiter::Limits::off();
    let app = App::open(config).unwrap();
    let client = TestClient::new(latchkey::http::endpoint(
        app.services.clone(),
        HttpOptions::default(),
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let seeds = [
        r#"{"reason":"lost phone","ticket":"INC-1"}"#,
        r#"{"reason":null,"ticket":"\u0000\ud83d\ude00"}"#,
        "{}",
        "",
        r#"[[[[{"reason":{"a":1e999}}]]]]"#,
    ]
    .map(|text| text.as_bytes().to_vec());
    let admin = format!("Bearer {}", seeded.admins[0]);
    let target = Uuid::from_u128(42);
    fuzz("reset bodies", &seeds, move |bytes| {
        runtime.block_on(async {
            let request = client
                .post(format!("/api/v1/users/{target}/reset-mfa"))
                .header("Authorization", &admin)
                .content_type("application/json")
                .body(bytes.to_vec());
            let response = request.send().await.0;
            let status = response.status().as_u16();
            // Nobody has that id: read, it ends in 404; else the body is told to be wrong.
            assert!(
                [400, 404, 413].contains(&status),
                "{status}: {:?}",
                String::from_utf8_lossy(bytes)
            );
            let text = response.into_body().into_string().await.unwrap();
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(body["status"], status, "the envelope");
        });
    });
}

#[test]
fn plugin_files() {
    let seeds: Vec<_> = ["change-window", "reset-budget"]
        .map(|name| {
            std::fs::read(format!(
                "{}/fixtures/plugins/{name}.wasm",
                env!("CARGO_MANIFEST_DIR")
            ))
            .unwrap()
        })
        .into();
    // Edits reach the first 64 KiB: sections, types, imports.
    fuzz("plugin files", &seeds, |bytes| {
        if let Err(problem) = latchkey::plugin_host::read_package(bytes) {
            assert!(!problem.to_string().is_empty());
        }
    });
}

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
    fuzz("attestations", std::slice::from_ref(&attestation), |edited| {
        if let Ok(credential) = finish(&created(&client_data, edited)) {
            assert_eq!(BASE64URL_NOPAD.encode(&credential.id), device.id());
        }
    });
    fuzz("client data", std::slice::from_ref(&client_data), |edited| {
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
        fuzz(name, std::slice::from_ref(&original[part]), |edited| {
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

#[test]
fn configurations() {
    let seeds = [
        latchkey::config::EXAMPLE.as_bytes().to_vec(),
        b"listen = \"127.0.0.1:0\"\n[limits]\nlogin_by_account = { requests = 1, window_secs = 1 }\n"
            .to_vec(),
    ];
    fuzz("configurations", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(problem) = Config::load(&Sources::from_text(&text)) {
            assert!(!problem.to_string().is_empty());
        }
    });
}

#[test]
fn audit_files() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = latchkey();
        let output = command
            .args(args)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    run(&["org", "create", "acme", "--name", "Acme"]);
    run(&[
        "user",
        "create",
        "--org",
        "acme",
        "--email",
        "ada@acme.example",
        "--admin",
    ]);
    let keys = String::from_utf8(run(&["audit", "key"])).unwrap();
    let mut trusted = LogKeys::default();
    trusted.add(LogKey::parse(keys.trim()).unwrap());
    let good = run(&["audit", "export"]);
    let whole = String::from_utf8(good.clone()).unwrap();
    assert!(verified(&whole, trusted.clone()), "the seed is intact");
    let first = whole.lines().find(|line| line.contains("USER_CREATE")).unwrap();
    let entry: Value = serde_json::from_str(first).unwrap();
    let id = entry["leaf"]["id"].as_str().unwrap().to_owned();
    let receipt = run(&["audit", "prove", &id]);
    let receipt_text = String::from_utf8(receipt.clone()).unwrap();
    assert!(check_receipt(&receipt_text, &trusted).is_ok(), "the seed is good");
    fuzz("audit files", &[good, receipt], move |bytes| {
        let text = String::from_utf8_lossy(bytes);
        // What passes says what was said: no line differs but in white space at the end.
        if verified(&text, trusted.clone()) {
            let same = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let were = whole.lines().map(str::trim).filter(|line| !line.is_empty());
            assert!(same.eq(were), "taken for intact: {text}");
        }
        // A salt may be written in capitals; what is proven is the same.
        if let Ok(checked) = check_receipt(&text, &trusted) {
            let were = check_receipt(&receipt_text, &trusted).unwrap();
            assert_eq!(
                format!("{:?}", checked.record),
                format!("{:?}", were.record),
                "taken for proven"
            );
        }
    });
}

fn verified(text: &str, keys: LogKeys) -> bool {
    let mut verifier = FileVerifier::new(keys, Vec::new());
    for line in text.lines() {
        if verifier.line(line, None).is_err() {
            return false;
        }
    }
    verifier.finish().is_ok_and(|report| report.is_intact())
}
