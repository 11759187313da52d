use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn record(seed: u8) -> SigningKeyRecord {
    SigningKeyRecord::generate(TokenAlgorithm::Hs256, [seed; 32], at(0))
}

fn ring(records: &[SigningKeyRecord]) -> AccessKeys {
    AccessKeys::new("urn:test".to_owned(), records)
}

fn claims() -> Claims {
    Claims {
        iss: "urn:test".to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: UserId(Uuid::from_u128(1)),
        org: OrganizationId(Uuid::from_u128(2)),
        role: Role::OrgAdmin,
        sid: SessionId(Uuid::from_u128(3)),
        auth_time: 1000,
        amr: vec![Amr::Pwd, Amr::Otp, Amr::Mfa],
        jti: Uuid::from_u128(4),
        iat: 1000,
        nbf: 1000,
        exp: 1900,
    }
}

/// Forges a token with any header and claims, signed with the ring's secret as HS256 would.
fn forge(record: &SigningKeyRecord, header: &serde_json::Value, claims: &serde_json::Value) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let key = EncodingKey::from_secret(&*record.decode().unwrap());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn header(record: &SigningKeyRecord) -> serde_json::Value {
    json!({"alg": "HS256", "typ": "at+jwt", "kid": record.kid})
}

fn invalid(token: &str) {
    let keys = ring(&[record(1)]);
    assert_eq!(keys.verify(token, at(1000)), Err(TokenFault::Invalid), "{token}");
}

#[test]
fn a_token_says_what_it_was_given() {
    let keys = ring(&[record(1)]);
    let token = keys.sign(&claims());
    assert_eq!(keys.verify(&token, at(1000)), Ok(claims()));
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["role"], "ORG_ADMIN");
    assert_eq!(payload["amr"], json!(["pwd", "otp", "mfa"]));
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert_eq!(
        (header.typ.as_deref(), header.kid),
        (Some("at+jwt"), Some(record(1).kid.clone()))
    );
}

#[test]
fn a_token_is_good_from_nbf_until_before_exp() {
    let keys = ring(&[record(1)]);
    let token = keys.sign(&claims());
    assert_eq!(keys.verify(&token, at(994)), Err(TokenFault::NotYetValid));
    assert!(keys.verify(&token, at(995)).is_ok(), "a clock set back a little");
    assert!(keys.verify(&token, at(1899)).is_ok());
    assert_eq!(keys.verify(&token, at(1900)), Err(TokenFault::Expired));
}

#[test]
fn the_forging_used_here_makes_good_tokens_otherwise() {
    let forged = forge(
        &record(1),
        &header(&record(1)),
        &serde_json::to_value(claims()).unwrap(),
    );
    assert!(ring(&[record(1)]).verify(&forged, at(1000)).is_ok());
}

#[test]
fn a_token_of_another_key_is_invalid() {
    invalid(&ring(&[record(2)]).sign(&claims()));
    // The right kid on the wrong key.
    invalid(&forge(
        &record(2),
        &header(&record(1)),
        &serde_json::to_value(claims()).unwrap(),
    ));
}

#[test]
fn a_token_without_signature_is_invalid() {
    let payload = serde_json::to_value(claims()).unwrap();
    for alg in ["none", "None", "NONE", ""] {
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": record(1).kid});
        let token = forge(&record(1), &header, &payload);
        let (message, _) = token.rsplit_once('.').unwrap();
        invalid(&token);
        invalid(&format!("{message}."));
        invalid(message);
    }
    let good = ring(&[record(1)]).sign(&claims());
    invalid(&format!("{}.", good.rsplit_once('.').unwrap().0));
}

#[test]
fn a_token_with_a_confused_algorithm_is_invalid() {
    let payload = serde_json::to_value(claims()).unwrap();
    for alg in ["HS384", "HS512", "RS256", "PS256", "ES256", "EdDSA", "hs256"] {
        let header = json!({"alg": alg, "typ": "at+jwt", "kid": record(1).kid});
        invalid(&forge(&record(1), &header, &payload));
    }
}

#[test]
fn a_header_that_means_something_else_is_invalid() {
    let payload = serde_json::to_value(claims()).unwrap();
    let kid = record(1).kid.clone();
    for header in [
        json!({"alg": "HS256", "typ": "at+jwt"}),
        json!({"alg": "HS256", "typ": "at+jwt", "kid": "other"}),
        json!({"alg": "HS256", "typ": "JWT", "kid": kid}),
        json!({"alg": "HS256", "kid": kid}),
        json!({"alg": "HS256", "typ": "at+jwt", "kid": kid, "crit": ["b64"], "b64": false}),
    ] {
        invalid(&forge(&record(1), &header, &payload));
    }
}

#[test]
fn a_token_that_lacks_a_claim_or_has_another_issuer_or_audience_is_invalid() {
    let good = serde_json::to_value(claims()).unwrap();
    for name in good.as_object().unwrap().keys() {
        let mut payload = good.clone();
        payload.as_object_mut().unwrap().remove(name);
        invalid(&forge(&record(1), &header(&record(1)), &payload));
    }
    for (name, value) in [
        ("iss", json!("urn:other")),
        ("aud", json!("other")),
        ("aud", json!(["latchkey", "other"])),
        ("exp", json!(999)),
        ("exp", json!("1900")),
        ("exp", json!(1e300)),
        ("sub", json!("me")),
        ("role", json!("ROOT")),
        ("role", json!("OPERATOR")), // has a socket, and no token
    ] {
        let mut payload = good.clone();
        payload[name] = value;
        invalid(&forge(&record(1), &header(&record(1)), &payload));
    }
}

#[test]
fn a_token_that_says_more_than_ours_is_invalid() {
    let mut payload = serde_json::to_value(claims()).unwrap();
    payload["scope"] = json!("all");
    invalid(&forge(&record(1), &header(&record(1)), &payload));
}

#[test]
fn what_is_no_token_is_invalid() {
    for text in ["", ".", "..", "a.b.c", "a.b.c.d", "é.é.é", &"a".repeat(5000)] {
        invalid(text);
    }
}

#[test]
fn an_old_key_checks_until_it_lapses() {
    let old = record(1);
    let token = ring(std::slice::from_ref(&old)).sign(&claims());
    let mut kept = old.clone();
    kept.lapses_at = Some(at(1500));
    let rotated = ring(&[record(2), kept]);
    assert!(rotated.verify(&token, at(1499)).is_ok());
    assert_eq!(rotated.verify(&token, at(1500)), Err(TokenFault::Invalid));
    let new = jsonwebtoken::decode_header(rotated.sign(&claims())).unwrap();
    assert_eq!(new.kid, Some(record(2).kid.clone()), "the first key signs");
}

fn ed_record(seed: u8) -> SigningKeyRecord {
    SigningKeyRecord::generate(TokenAlgorithm::EdDsa, [seed; 32], at(0))
}

#[test]
fn eddsa_signs_and_checks_beside_hs256() {
    let keys = ring(&[ed_record(1), record(2)]);
    assert_eq!(keys.algorithm(), TokenAlgorithm::EdDsa);
    let token = keys.sign(&claims());
    assert_eq!(jsonwebtoken::decode_header(&token).unwrap().alg, Algorithm::EdDSA);
    assert_eq!(keys.verify(&token, at(1000)), Ok(claims()));
    assert!(keys.verify(&ring(&[record(2)]).sign(&claims()), at(1000)).is_ok());
    let other = ring(&[ed_record(3)]).sign(&claims());
    assert_eq!(keys.verify(&other, at(1000)), Err(TokenFault::Invalid));
}

#[test]
fn a_public_key_can_be_told_and_signs_nothing() {
    let keys = ring(&[ed_record(1), record(2)]);
    let public = keys.public_keys(at(0));
    assert_eq!(public.len(), 1, "HS256 has none");
    let x = URL_SAFE_NO_PAD.decode(&public[0].x).unwrap();
    let by_others = DecodingKey::from_ed_components(&public[0].x).unwrap();
    let checked = jsonwebtoken::decode::<Claims>(
        keys.sign(&claims()),
        &by_others,
        &signature_only(Algorithm::EdDSA),
    );
    assert_eq!(checked.unwrap().claims, claims());
    // The classic algorithm confusion: the public key as an HMAC secret under the Ed25519 key's kid.
    let header = json!({"alg": "HS256", "typ": "at+jwt", "kid": ed_record(1).kid});
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(serde_json::to_string(&claims()).unwrap())
    );
    let key = EncodingKey::from_secret(&x);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    let forged = format!("{message}.{signature}");
    assert_eq!(keys.verify(&forged, at(1000)), Err(TokenFault::Invalid));
}

#[test]
fn a_lapsed_public_key_is_no_longer_told() {
    let mut old = ed_record(1);
    old.lapses_at = Some(at(50));
    let keys = ring(&[ed_record(2), old]);
    assert_eq!(
        (keys.public_keys(at(49)).len(), keys.public_keys(at(50)).len()),
        (2, 1)
    );
}

#[test]
fn records_are_checked_before_they_are_used() {
    assert!(SigningKeyRecord::check(&[]).is_err());
    assert!(SigningKeyRecord::check(&[record(1), record(1)]).is_err());
    assert!(SigningKeyRecord::check(&[record(1), record(2)]).is_ok());
    let mut short = record(1);
    short.secret = "AAAA".into();
    assert!(SigningKeyRecord::check(&[short]).is_err());
}

#[test]
fn debug_tells_no_secret() {
    let record = record(1);
    let text = format!("{record:?} {:?}", ring(std::slice::from_ref(&record)));
    assert!(!text.contains(&record.secret), "{text}");
}
