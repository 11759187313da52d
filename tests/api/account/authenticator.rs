//! An authenticator with its browser, in software (Web Authentication Level 3 §6; attestation `none`): it
//! does as it is told, and lies where a test wants it to.

use data_encoding::BASE64URL_NOPAD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where the app under test is, as its browser sees it.
pub const ORIGIN: &str = "http://localhost:8080";
pub const RELYING_PARTY: &str = "localhost";

const PRESENT: u8 = 0x01;
const VERIFIED: u8 = 0x04;
const ATTESTED: u8 = 0x40;

/// One credential on one device.
#[derive(Clone)]
pub struct Authenticator {
    key: SigningKey,
    id: Vec<u8>,
    /// What it showed last; devices that don't count show 0.
    pub counter: u32,
    pub counts: bool,
    pub present: bool,
    pub verified: bool,
    pub origin: String,
    pub relying_party: String,
}

impl Authenticator {
    pub fn new(seed: u8) -> Self {
        Self {
            key: SigningKey::from_slice(&[seed; 32]).expect("a scalar"),
            id: vec![seed; 32],
            counter: 0,
            counts: true,
            present: true,
            verified: true,
            origin: ORIGIN.into(),
            relying_party: RELYING_PARTY.into(),
        }
    }

    /// The credential's id, as it stands in JSON.
    pub fn id(&self) -> String {
        encode(&self.id)
    }

    /// `navigator.credentials.create()`, then `toJSON()`.
    pub fn create(&mut self, options: &Value) -> Value {
        let client_data = self.client_data("webauthn.create", options);
        let data = self.authenticator_data(Some(self.attested()));
        let mut attestation = vec![0xa3];
        attestation.extend(text("fmt"));
        attestation.extend(text("none"));
        attestation.extend(text("attStmt"));
        attestation.push(0xa0);
        attestation.extend(text("authData"));
        attestation.extend(bytes(&data));
        json!({
            "id": self.id(),
            "rawId": self.id(),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": { "credProps": { "rk": false } },
            "response": {
                "clientDataJSON": encode(client_data.as_bytes()),
                "attestationObject": encode(&attestation),
                "authenticatorData": encode(&data),
                "transports": ["internal", "hybrid"],
                "publicKeyAlgorithm": -7,
            },
        })
    }

    /// `navigator.credentials.get()`, then `toJSON()`.
    pub fn get(&mut self, options: &Value) -> Value {
        let client_data = self.client_data("webauthn.get", options);
        if self.counts {
            self.counter += 1;
        }
        let data = self.authenticator_data(None);
        let signed = [&data[..], &Sha256::digest(&client_data)[..]].concat();
        let signature: Signature = self.key.sign(&signed);
        json!({
            "id": self.id(),
            "rawId": self.id(),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": encode(client_data.as_bytes()),
                "authenticatorData": encode(&data),
                "signature": encode(signature.to_der().as_bytes()),
            },
        })
    }

    fn client_data(&self, kind: &str, options: &Value) -> String {
        let challenge = options["challenge"].as_str().expect("a challenge");
        json!({ "type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": false })
            .to_string()
    }

    /// §6.1.
    fn authenticator_data(&self, attested: Option<Vec<u8>>) -> Vec<u8> {
        let mut flags = 0;
        for (set, flag) in [
            (self.present, PRESENT),
            (self.verified, VERIFIED),
            (attested.is_some(), ATTESTED),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let mut data = Sha256::digest(self.relying_party.as_bytes()).to_vec();
        data.push(flags);
        data.extend(self.counter.to_be_bytes());
        data.extend(attested.unwrap_or_default());
        data
    }

    /// §6.5.1, with the key as RFC 9052 §7 has it.
    fn attested(&self) -> Vec<u8> {
        let point = self.key.verifying_key().to_sec1_point(false);
        let (x, y) = (point.x().expect("a point"), point.y().expect("a point"));
        let mut data = vec![0; 16];
        data.extend(u16::try_from(self.id.len()).expect("short").to_be_bytes());
        data.extend(&self.id);
        // {1: 2 (EC2), 3: -7 (ES256), -1: 1 (P-256), -2: x, -3: y}
        data.extend([0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21]);
        data.extend(bytes(x));
        data.push(0x22);
        data.extend(bytes(y));
        data
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// A CBOR text of less than 24 bytes (RFC 8949 §3).
fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("short");
    assert!(length < 24);
    [&[0x60 | length], text.as_bytes()].concat()
}

/// A CBOR byte string.
fn bytes(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short");
    [&[0x59], &length.to_be_bytes()[..], bytes].concat()
}
