//! What is fuzzed, and what must hold of every input. libFuzzer's targets in this folder run it with coverage
//! as their guide; `tests/fuzz.rs` of the product runs it over edits of the seeds in the ordinary suite.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, Mac as _};
use jiff::{SignedDuration, Timestamp};
use latchkey::app::App;
use latchkey::config::{Config, Sources};
use latchkey::domain::account::{OrganizationId, OrganizationSettings, Role, SessionId, UserId};
use latchkey::domain::audit::{ActorRef, FileVerifier, LogKey, LogKeys, check_receipt};
use latchkey::domain::credential::{
    AUDIENCE, AccessKeys, Amr, Claims, ExternalIssuer, ExternalRules, OneUseToken, RefreshToken,
    SigningKeyRecord, TokenAlgorithm,
};
use latchkey::domain::policy::Manifest;
use latchkey::http::HttpOptions;
use latchkey::limiter::Limits;
use latchkey::plugin_host::{check_config, check_manifest, read_package};
use latchkey::service::administration::{NewOrganization, NewUser, create_organization, create_user};
use latchkey::service::users::{Format, ImportOptions, Imported, import_users};
use latchkey::service::{Services, session};
use poem::{Endpoint as _, Request};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Takes an input, and panics where something does not hold.
pub type Target = Box<dyn Fn(&[u8])>;

/// Tokens. The first letter says what the rest is: `c` claims that our key signs, `h` a header that our key
/// signs, `x` claims that another issuer's key signs, `j` another issuer's key set; else the text of a token.
pub fn tokens() -> Target {
    let ring = Ring::new();
    let good = ring.good_tokens();
    Box::new(move |bytes| {
        let (kind, rest) = bytes
            .split_first()
            .map_or((0, bytes), |(kind, rest)| (*kind, rest));
        match kind {
            b'c' => ring.claims(rest),
            b'h' => ring.header(rest),
            b'x' => ring.external_claims(rest),
            b'j' => drop(ExternalIssuer::new(rules(), &String::from_utf8_lossy(rest))),
            _ => ring.token(&String::from_utf8_lossy(bytes), &good),
        }
    })
}

/// Keys that a target knows, to sign what it likes.
pub struct Ring {
    keys: AccessKeys,
    records: [SigningKeyRecord; 2],
    external: ExternalIssuer,
}

const HS256: [u8; 32] = [1; 32];
const EDDSA: [u8; 32] = [2; 32];
const MAC: [u8; 32] = [5; 32];
const ISSUER: &str = "urn:uuid:1";

fn now() -> Timestamp {
    Timestamp::from_second(1_780_000_000).expect("a time")
}

fn rules() -> ExternalRules {
    ExternalRules {
        issuer: "https://id.example.org".to_owned(),
        audience: AUDIENCE.to_owned(),
        organization_claim: "org".to_owned(),
        user_claim: "email".to_owned(),
        role_claim: "realm_access.roles".to_owned(),
        roles: [("admin".to_owned(), Role::OrgAdmin)].into(),
    }
}

impl Ring {
    pub fn new() -> Self {
        let records = [
            SigningKeyRecord::generate(TokenAlgorithm::Hs256, HS256, now()),
            SigningKeyRecord::generate(TokenAlgorithm::EdDsa, EDDSA, now()),
        ];
        let keys = AccessKeys::new(ISSUER.to_owned(), &records);
        let external = ExternalIssuer::new(rules(), &Self::key_set()).expect("a key set");
        Self {
            keys,
            records,
            external,
        }
    }

    /// Another issuer's public keys.
    pub fn key_set() -> String {
        let x = URL_SAFE_NO_PAD.encode(SigningKey::from_bytes(&EDDSA).verifying_key().to_bytes());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "x": x }] })
            .to_string()
    }

    pub fn good_claims() -> Claims {
        let at = now().as_second();
        Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: UserId(Uuid::from_u128(7)),
            org: OrganizationId(Uuid::from_u128(9)),
            role: Role::OrgAdmin,
            sid: SessionId(Uuid::from_u128(8)),
            auth_time: at,
            amr: vec![Amr::Pwd],
            jti: Uuid::from_u128(10),
            iat: at,
            nbf: at,
            exp: at + 900,
        }
    }

    /// Access tokens of both algorithms, a refresh token and one for one use.
    pub fn good_tokens(&self) -> Vec<String> {
        let user = UserId(Uuid::from_u128(7));
        let refresh = RefreshToken {
            user,
            session: SessionId(Uuid::from_u128(8)),
            generation: 3,
        };
        let mut tokens: Vec<_> = self
            .records
            .iter()
            .map(|record| AccessKeys::new(ISSUER.to_owned(), std::slice::from_ref(record)))
            .map(|keys| keys.sign(&Self::good_claims()))
            .collect();
        assert!(
            tokens.iter().all(|token| self.keys.verify(token, now()).is_ok()),
            "they are good"
        );
        tokens.push(refresh.encode(&MAC));
        tokens.push(OneUseToken::new(user, [6; 32]).encode());
        tokens
    }

    /// Whatever opens something is letter for letter what we made.
    fn token(&self, text: &str, good: &[String]) {
        let opens = self.keys.verify(text, now()).is_ok() || RefreshToken::decode(text, &MAC).is_some();
        assert!(!opens || good.iter().any(|good| good == text), "{text}");
        if let Some(token) = OneUseToken::decode(text) {
            assert_eq!(token.encode(), text, "one writing for one token");
        }
        assert!(
            self.external.verify(text, now()).is_err(),
            "nobody signed that: {text}"
        );
    }

    /// Our own key signs anything: what passes says all that it must.
    fn claims(&self, payload: &[u8]) {
        let header = json!({ "typ": "at+jwt", "alg": "HS256", "kid": self.records[0].kid }).to_string();
        let Ok(claims) = self.keys.verify(&signed_by_us(header.as_bytes(), payload), now()) else {
            return;
        };
        let said: Value = serde_json::from_slice(payload).expect("claims are JSON");
        assert_eq!((&said["iss"], &said["aud"]), (&json!(ISSUER), &json!(AUDIENCE)));
        assert!(claims.exp > now().as_second() && claims.nbf <= now().as_second() + 5);
        assert!(claims.role < Role::Operator, "no token makes an operator");
    }

    /// Whatever the header says, only ours is taken.
    fn header(&self, header: &[u8]) {
        let claims = serde_json::to_vec(&Self::good_claims()).expect("JSON");
        if self.keys.verify(&signed_by_us(header, &claims), now()).is_ok() {
            let said: Value = serde_json::from_slice(header).expect("a header is JSON");
            assert_eq!(said["alg"], "HS256");
            assert_eq!(said["kid"], self.records[0].kid);
            assert!(
                said["typ"]
                    .as_str()
                    .is_some_and(|typ| typ.eq_ignore_ascii_case("at+jwt"))
            );
            assert_eq!(said["crit"], Value::Null);
        }
    }

    fn external_claims(&self, payload: &[u8]) {
        let body = jwt_body(br#"{"alg":"EdDSA","kid":"one"}"#, payload);
        let signature = SigningKey::from_bytes(&EDDSA).sign(body.as_bytes());
        let token = format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()));
        if let Ok(claims) = self.external.verify(&token, now()) {
            assert!(claims.role < Role::Operator);
            let session = claims.session(UserId(Uuid::from_u128(7)));
            assert!(session.authenticated_at <= session.created_at, "{session:?}");
            assert!(session.expires_at > now(), "{session:?}");
        }
    }
}

fn jwt_body(header: &[u8], payload: &[u8]) -> String {
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    )
}

fn signed_by_us(header: &[u8], payload: &[u8]) -> String {
    let body = jwt_body(header, payload);
    let mut mac = Hmac::<Sha256>::new_from_slice(&HS256).expect("a key of any length will do");
    mac.update(body.as_bytes());
    format!("{body}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// The body of a reset, over the whole app: told to be wrong, or read and then that user has no MFA.
pub fn reset_body() -> Target {
    let node = Node::new();
    let make = |name: &str, role| {
        let new = NewUser {
            id: None,
            email: format!("{name}@acme.example"),
            name: None,
            role,
            password_hash: None,
        };
        let created = create_user(&node.services, node.organization, new, ActorRef::operator(), None);
        node.runtime.block_on(created).expect("a user").id
    };
    let (admin, member) = (make("admin", Role::OrgAdmin), make("member", Role::Member));
    let token = session::mint_token(&node.services, admin, SignedDuration::from_hours(240)).expect("a token");
    let endpoint = latchkey::http::endpoint(node.services.clone(), HttpOptions::default());
    let uri = format!("/api/v1/users/{member}/reset-mfa");
    Box::new(move |bytes| {
        let request = Request::builder()
            .method(poem::http::Method::POST)
            .uri_str(&uri)
            .header("Authorization", format!("Bearer {token}"))
            .content_type("application/json")
            .body(bytes.to_vec());
        let (status, text) = node.runtime.block_on(async {
            let answer = endpoint.get_response(request).await;
            let status = answer.status().as_u16();
            (status, answer.into_body().into_string().await.expect("text"))
        });
        assert!(
            [400, 413].contains(&status),
            "{status}: {:?}",
            String::from_utf8_lossy(bytes)
        );
        let body: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(body["status"], status, "the envelope");
        if body["message"] == "MFA is not enabled for this user" && !bytes.is_empty() {
            let read: Value = serde_json::from_slice(bytes).expect("what was read is JSON");
            assert!(read.is_object(), "{read}");
        }
    })
}

/// A node with one organisation, for as long as the target lives.
struct Node {
    services: Arc<Services>,
    organization: OrganizationId,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::for_data_dir(folder.path());
        config.limits = Limits::off();
        let services = App::open(config).expect("an app").services;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let new = NewOrganization {
            id: None,
            slug: "acme".to_owned(),
            name: "Acme".to_owned(),
            settings: OrganizationSettings::default(),
        };
        let organization = runtime.block_on(create_organization(&services, new));
        Self {
            services,
            organization: organization.expect("an organisation").id,
            runtime,
            _folder: folder,
        }
    }
}

/// A plugin's file. `c` and `p` put the rest into a custom section: the contract of a core module, the
/// producers of a component.
pub fn plugin_file() -> Target {
    const CORE: &[u8] = include_bytes!("../seeds/plugin_file/allow.wasm");
    let component = read_package(CORE).expect("a seed is good").component.into_owned();
    Box::new(move |bytes| {
        let made;
        let file = match bytes.split_first() {
            Some((b'c', section)) => {
                made = with_section(CORE, "component-type:fuzz", section);
                &made
            }
            Some((b'p', section)) => {
                made = with_section(&component, "producers", section);
                &made
            }
            _ => bytes,
        };
        match read_package(file) {
            Err(problem) => assert!(!problem.to_string().is_empty()),
            Ok(package) => {
                assert_eq!(package.digest.0[..], Sha256::digest(file)[..]);
                assert_eq!(package.contract.major, 1);
                let reach = package.imports.iter().all(|import| {
                    import.starts_with("latchkey:policy/log@") || import.starts_with("latchkey:policy/types@")
                });
                assert!(reach, "imports {:?}", package.imports);
                let again = read_package(&package.component).expect("what was made of it is read alike");
                assert_eq!(
                    (again.imports, again.exports, again.from_core_module),
                    (package.imports, package.exports, false)
                );
            }
        }
    })
}

/// The file with one more custom section at its end (WebAssembly core specification, §5.5.3).
fn with_section(file: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let mut length = 1 + name.len() + content.len();
    let mut made = [file, &[0]].concat();
    while length >= 0x80 {
        made.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    made.push(u8::try_from(length).expect("seven bits"));
    made.push(u8::try_from(name.len()).expect("a short name"));
    made.extend_from_slice(name.as_bytes());
    made.extend_from_slice(content);
    made
}

/// What a plugin says of itself, as JSON in the first line, and a configuration for it in the others.
pub fn plugin_manifest() -> Target {
    Box::new(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (manifest, config) = text.split_once('\n').unwrap_or((&text, "{}"));
        let Ok(manifest) = serde_json::from_str::<Manifest>(manifest) else {
            return;
        };
        match check_manifest(manifest) {
            Err(problem) => assert!(!problem.to_string().is_empty()),
            Ok(manifest) => match check_config(&manifest, config) {
                Err(problem) => assert!(!problem.to_string().is_empty()),
                Ok(()) => drop(serde_json::from_str::<Value>(config).expect("a good configuration is JSON")),
            },
        }
    })
}

/// The configuration file.
pub fn configuration() -> Target {
    Box::new(|bytes| {
        if let Err(problem) = Config::load(&Sources::from_text(&String::from_utf8_lossy(bytes))) {
            assert!(!problem.to_string().is_empty());
        }
    })
}

/// A file of people. A dry run tells the truth, and whoever was imported is there.
pub fn user_import() -> Target {
    /// More would take long, and tell no more.
    const IMPORTED_AT_MOST: usize = 20;
    let node = Node::new();
    let import = move |bytes: &[u8], format, dry_run| -> Option<Imported> {
        let options = ImportOptions {
            format,
            dry_run,
            skip_existing: true,
            show_links: true,
        };
        let ended = import_users(&node.services, "acme", bytes, options, Arc::new(|_| {}));
        node.runtime.block_on(ended).ok()
    };
    Box::new(move |bytes| {
        for format in [Format::Csv, Format::Json] {
            let Some(would_be) = import(bytes, format, true) else {
                continue;
            };
            for refused in &would_be.refused {
                assert!(refused.at > 0 && !refused.reason.is_empty(), "{refused:?}");
            }
            let count = would_be.users.len();
            if !would_be.refused.is_empty() || count == 0 || count > IMPORTED_AT_MOST {
                continue;
            }
            let is = import(bytes, format, false).expect("as the dry run said");
            assert!(is.refused.is_empty(), "{:?}", is.refused);
            assert_eq!((is.users.len(), is.links.len()), (count, count));
            let again = import(bytes, format, true).expect("as before");
            assert_eq!(
                (again.users.len(), again.existing),
                (0, would_be.existing + count)
            );
        }
    })
}

/// An exported trail in either format, a receipt, or a checkpoint: what passes says what was said.
pub fn audit_verify() -> Target {
    const KEYS: &str = include_str!("../seeds/audit.key");
    const EXPORTS: [&str; 2] = [
        include_str!("../seeds/audit_verify/export.ndjson"),
        include_str!("../seeds/audit_verify/of-one.ndjson"),
    ];
    const TABLE: &str = include_str!("../seeds/audit_verify/export.csv");
    const RECEIPT: &str = include_str!("../seeds/audit_verify/receipt");
    const NOTE: &str = include_str!("../seeds/audit_verify/checkpoint");
    let mut keys = LogKeys::default();
    for key in KEYS.lines() {
        keys.add(LogKey::parse(key).expect("a key"));
    }
    for export in EXPORTS {
        assert!(is_intact(&keys, lines(export)), "the seed is good");
    }
    assert!(is_intact(&keys, rows(TABLE)), "the seed is good");
    let proven = check_receipt(RECEIPT, &keys).expect("the seed is good").record;
    let signed = keys.open(NOTE).expect("the seed is good");
    Box::new(move |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if is_intact(&keys, lines(&text)) {
            let same = |export: &&str| lines(export).eq(lines(&text));
            assert!(EXPORTS.iter().any(same), "taken for intact: {text}");
        }
        if is_intact(&keys, rows(&text)) {
            assert!(rows(TABLE).eq(rows(&text)), "taken for intact: {text}");
        }
        // Without keys it finds damage at least, and does not fall over.
        is_intact(&LogKeys::default(), lines(&text));
        // A salt may be written in capitals; what is proven is the same.
        if let Ok(checked) = check_receipt(&text, &keys) {
            assert_eq!(format!("{:?}", checked.record), format!("{proven:?}"));
        }
        if let Ok(checkpoint) = keys.open(&text) {
            assert_eq!(checkpoint, signed);
        }
    })
}

/// A line, and the cells that it is the last one of.
type Row = (String, Option<Vec<String>>);

/// White space at the end of a line says nothing.
fn lines(text: &str) -> impl Iterator<Item = Row> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| (line.to_owned(), None))
}

fn rows(text: &str) -> impl Iterator<Item = Row> {
    let reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    reader.into_records().map(|row| {
        let cells: Vec<_> = row.iter().flat_map(|row| row.iter().map(str::to_owned)).collect();
        (cells.last().cloned().unwrap_or_default(), Some(cells))
    })
}

fn is_intact(keys: &LogKeys, rows: impl Iterator<Item = Row>) -> bool {
    let mut verifier = FileVerifier::new(keys.clone(), Vec::new());
    for (line, cells) in rows {
        let cells: Option<Vec<_>> = cells
            .as_ref()
            .map(|cells| cells.iter().map(String::as_str).collect());
        if verifier.line(&line, cells.as_deref()).is_err() {
            return false;
        }
    }
    verifier.finish().is_ok_and(|report| report.is_intact())
}
