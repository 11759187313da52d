use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn pair(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn jwk(seed: u8, kid: &str) -> Value {
    let x = URL_SAFE_NO_PAD.encode(pair(seed).verifying_key().to_bytes());
    json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x})
}

fn rules() -> ExternalRules {
    ExternalRules {
        issuer: "https://login.example.org".into(),
        audience: "latchkey".into(),
        organization_claim: "tenant".into(),
        user_claim: "email".into(),
        role_claim: "realm_access.roles".into(),
        roles: BTreeMap::from([
            ("it-admin".into(), Role::OrgAdmin),
            ("desk".into(), Role::HelpDesk),
        ]),
    }
}

fn issuer() -> ExternalIssuer {
    ExternalIssuer::new(rules(), &json!({"keys": [jwk(1, "a"), jwk(2, "b")]}).to_string()).expect("usable")
}

fn claims() -> Value {
    json!({
        "iss": "https://login.example.org", "aud": ["other", "latchkey"], "sub": "4711",
        "exp": 1900, "iat": 1000, "auth_time": 900, "amr": ["pwd", "otp"], "sid": "s1",
        "tenant": "acme", "email": "ada@acme.example", "realm_access": {"roles": ["desk", "it-admin", "x"]},
    })
}

fn sign(seed: u8, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = kid.map(str::to_owned);
    let der = pair(seed).to_pkcs8_der().expect("a key");
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(der.as_bytes())).expect("signed")
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn a_token_is_read_as_the_operator_mapped_it() {
    let read = issuer()
        .verify(&sign(1, Some("a"), &claims()), at(1000))
        .expect("good");
    assert_eq!(
        (read.organization.as_str(), read.email.as_str()),
        ("acme", "ada@acme.example")
    );
    assert_eq!(read.role, Role::OrgAdmin);
    let session = read.session(UserId(Uuid::nil()));
    assert_eq!(session.origin, SessionOrigin::External);
    assert_eq!(
        (session.second_factor_at, session.created_at),
        (Some(at(900)), at(1000))
    );
    assert_eq!(session.expires_at, at(1900));
}

#[test]
fn only_two_factors_are_a_second_one_and_only_auth_time_says_when() {
    let read = |claims: &Value| {
        let read = issuer()
            .verify(&sign(2, Some("b"), claims), at(1000))
            .expect("good");
        (
            read.second_factor,
            read.session(UserId(Uuid::nil())).second_factor_at,
        )
    };
    for one in [
        json!(["pwd"]),
        json!(["otp"]),
        json!(["pop"]),
        json!(["swk"]),
        json!(["hwk", "fpt"]),
        json!(["pwd", "pin"]),
        json!([]),
    ] {
        assert_eq!(read(&with("amr", one.clone())), (false, None), "{one}");
    }
    for two in [
        json!(["mfa"]),
        json!(["pwd", "otp"]),
        json!(["hwk", "pin"]),
        json!(["pwd", "sms"]),
    ] {
        assert_eq!(read(&with("amr", two.clone())), (true, Some(at(900))), "{two}");
    }
    // A refresh renews `iat` without an authentication.
    let mut undated = claims();
    undated.as_object_mut().expect("an object").remove("auth_time");
    assert_eq!(read(&undated), (true, None));
}

#[test]
fn a_token_is_good_for_twelve_hours_at_most() {
    let day = with("exp", json!(1000 + 24 * 3600));
    let token = sign(1, Some("a"), &day);
    let end = 1000 + 12 * 3600;
    let read = issuer().verify(&token, at(end - 1)).expect("good");
    assert_eq!(read.session(UserId(Uuid::nil())).expires_at, at(end));
    assert_eq!(issuer().verify(&token, at(end)), Err(TokenFault::Expired));
    let for_ever = json!({"exp": i64::MAX, "iat": i64::MAX - 1});
    let mut odd = claims();
    for name in ["exp", "iat"] {
        odd[name] = for_ever[name].clone();
    }
    let token = sign(1, Some("a"), &odd);
    assert_eq!(issuer().verify(&token, at(1000)), Err(TokenFault::NotYetValid));
}

#[test]
fn an_address_that_the_issuer_has_not_checked_names_nobody() {
    for unchecked in [json!(false), json!("false"), json!(0), Value::Null] {
        let token = sign(1, Some("a"), &with("email_verified", unchecked.clone()));
        assert_eq!(
            issuer().verify(&token, at(1000)),
            Err(TokenFault::SubjectGone),
            "{unchecked}"
        );
    }
    for checked in [json!(true), json!("true")] {
        let token = sign(1, Some("a"), &with("email_verified", checked.clone()));
        assert!(issuer().verify(&token, at(1000)).is_ok(), "{checked}");
    }
    // Under a claim other than the address, it has no meaning.
    let by_name = ExternalRules {
        user_claim: "sub_name".into(),
        ..rules()
    };
    let issuer = ExternalIssuer::new(by_name, &json!({"keys": [jwk(1, "a")]}).to_string()).expect("usable");
    let mut named = with("email_verified", json!(false));
    named["sub_name"] = json!("ada@acme.example");
    assert!(issuer.verify(&sign(1, Some("a"), &named), at(1000)).is_ok());
}

#[test]
fn roles_that_were_not_mapped_give_no_power() {
    for roles in [json!([]), json!(["root"]), json!("root"), json!(7), Value::Null] {
        let claims = with("realm_access", json!({"roles": roles}));
        let read = issuer()
            .verify(&sign(1, Some("a"), &claims), at(1000))
            .expect("good");
        assert_eq!(read.role, Role::Member, "{roles}");
    }
    let claims = with("realm_access", json!({"roles": "desk"}));
    let read = issuer()
        .verify(&sign(1, Some("a"), &claims), at(1000))
        .expect("good");
    assert_eq!(read.role, Role::HelpDesk);
}

#[test]
fn each_fault_has_its_class() {
    let check = |token: &str, second| issuer().verify(token, at(second)).expect_err("refused");
    let good = sign(1, Some("a"), &claims());
    assert_eq!(check(&good, 1900), TokenFault::Expired);
    assert_eq!(check(&good, 994), TokenFault::NotYetValid);
    assert_eq!(
        check(&sign(1, Some("a"), &with("nbf", json!(1500))), 1000),
        TokenFault::NotYetValid
    );
    for (seed, kid) in [(3, Some("a")), (2, Some("a")), (1, Some("c")), (1, None)] {
        assert_eq!(
            check(&sign(seed, kid, &claims()), 1000),
            TokenFault::Invalid,
            "{seed} {kid:?}"
        );
    }
    for (name, value) in [
        ("iss", json!("https://evil.example.org")),
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("exp", Value::Null),
        ("iat", json!("1000")),
        ("sub", Value::Null),
    ] {
        let token = sign(1, Some("a"), &with(name, value));
        assert_eq!(check(&token, 1000), TokenFault::Invalid, "{name}");
    }
    for name in ["tenant", "email"] {
        let token = sign(1, Some("a"), &with(name, json!(7)));
        assert_eq!(check(&token, 1000), TokenFault::SubjectGone, "{name}");
    }
}

#[test]
fn the_public_key_is_no_hmac_secret() {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("a".into());
    let public = pair(1).verifying_key().to_bytes();
    let forged =
        jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&public)).expect("signed");
    assert_eq!(issuer().verify(&forged, at(1000)), Err(TokenFault::Invalid));
}

#[test]
fn key_sets_that_are_unsafe_or_unusable_are_refused() {
    let refused = |set: Value| ExternalIssuer::new(rules(), &set.to_string()).expect_err("refused");
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "s"});
    assert!(refused(json!({"keys": [secret]})).contains("only public keys"));
    assert!(refused(json!({"keys": []})).contains("no key"));
    assert!(refused(json!({})).contains("not a JSON Web Key Set"));
    let mut wrong = jwk(1, "a");
    wrong["alg"] = json!("RS256");
    assert!(refused(json!({"keys": [wrong]})).contains("algorithm"));
    let short = json!({"kty": "RSA", "n": "AQAB".repeat(43), "e": "AQAB", "kid": "r"});
    assert!(refused(json!({"keys": [short]})).contains("2048"));
    let mut nameless = jwk(1, "a");
    nameless.as_object_mut().expect("an object").remove("kid");
    assert!(refused(json!({"keys": [nameless.clone(), jwk(2, "b")]})).contains("no kid"));
    assert!(ExternalIssuer::new(rules(), &json!({"keys": [nameless]}).to_string()).is_ok());
}

#[test]
fn tokens_of_one_session_have_one_id_and_others_another() {
    let id = |claims: &Value| {
        let read = issuer()
            .verify(&sign(1, Some("a"), claims), at(1000))
            .expect("good");
        read.session(UserId(Uuid::nil())).id
    };
    assert_eq!(id(&claims()), id(&with("exp", json!(1800))));
    assert_ne!(id(&claims()), id(&with("sid", json!("s2"))));
    assert_ne!(id(&claims()), id(&with("sub", json!("4712"))));
}
