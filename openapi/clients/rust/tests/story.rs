//! The story of a lost device, from the first login to the new one, with typed results and typed errors.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use latchkey_client::types::{LoginRequest, MfaCodeRequest, MfaConfirmRequest, ResetMfaRequest, ResetMfaResponse};
use latchkey_client::{Client, Error, Refusal, retrying, sign_in};
use totp_rs::{Builder, Secret};
use uuid::Uuid;

const ADMIN_SECRET: &str = "NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS";
const NOBODY: Uuid = Uuid::from_u128(0x770e_8400_e29b_41d4_a716_4466_5544_ffff);

fn code(secret: &str, seconds_ahead: u64) -> String {
    let secret = Secret::try_from_base32(secret).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Builder::new().with_secret(secret).build().unwrap().generate(now + seconds_ahead).to_string()
}

fn login(email: &str, password: &str) -> LoginRequest {
    LoginRequest {
        organization_slug: "juniper".parse().unwrap(),
        email: email.parse().unwrap(),
        password: password.parse().unwrap(),
    }
}

async fn reset(client: &Client, user: Uuid, key: Option<&str>) -> Result<ResetMfaResponse, Error> {
    let body = ResetMfaRequest {
        reason: Some("Lost phone".parse().unwrap()),
        ticket: Some("HD-4711".parse().unwrap()),
    };
    Ok(client.reset_mfa(&user, None, key, None, &body).await?.into_inner())
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> Box<Refusal> {
    match result.unwrap_err() {
        Error::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_device_is_lost_reset_and_replaced() {
    let url = std::env::var("LATCHKEY_URL").expect("run.sh sets it");
    let admin = login("amara.okafor@juniper.example", "sample-amara-0003");
    let dev = login("dev.raman@juniper.example", "sample-dev-0004");
    let (client, _) = sign_in(&url, admin, || code(ADMIN_SECRET, 0)).await.unwrap();
    println!("story: the admin logged in with TOTP");

    let listed = client.list_users(Some(0), Some(&"raman".parse().unwrap()), None).await.unwrap();
    assert_eq!(listed.headers()["x-total-count"], "1");
    let user = listed.into_inner().remove(0);
    assert!(user.mfa_enabled);

    for _ in 0..2 {
        let done = reset(&client, user.id, Some("the-key-of-this-story")).await.unwrap();
        assert_eq!(done.message, "MFA reset successfully");
    }
    println!("story: the reset was done once, however often it was sent with its key");

    let (limited, must_set_up) = sign_in(&url, dev.clone(), || panic!("no second factor is left")).await.unwrap();
    assert!(must_set_up);
    assert_eq!(refused(limited.list_sessions().await.map_err(Error::from)).status, 403);
    let secret = limited.set_up_mfa().await.unwrap().into_inner().secret;
    let confirmation = MfaConfirmRequest {
        secret: secret.parse().unwrap(),
        code: code(&secret, 0).parse().unwrap(),
        enrolment_code: None,
    };
    let codes = limited.confirm_mfa(&confirmation).await.unwrap().into_inner();
    assert_eq!(codes.recovery_codes.len(), 8);
    // The code that confirmed is used up; the next one is taken half a minute early.
    let (phone, must_set_up) = sign_in(&url, dev.clone(), || code(&secret, 30)).await.unwrap();
    assert!(!must_set_up);
    assert!(phone.list_sessions().await.unwrap().iter().any(|session| session.current));
    println!("story: the developer logged in with the password alone, set MFA up and logged in with the new code");

    let denied = refused(reset(&client, user.id, None).await);
    assert_eq!(denied.status, 403);
    let denial = denied.body.denial.expect("a policy denied");
    assert_eq!((denial.plugin.as_str(), denial.code.as_str()), ("reset-budget", "user-reset-budget"));
    assert!(denial.allowed_from.unwrap() > denied.body.timestamp);
    println!("story: a policy denied the next: {}", denied.body.message);

    let unknown = refused(reset(&client, NOBODY, None).await);
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.body.message, format!("User not found with id: {NOBODY}"));
    assert!(unknown.request_id.unwrap().parse::<Uuid>().is_ok());
    println!("story: 404 came as a typed error");

    let mut limited = None;
    for _ in 0..10 {
        let refusal = refused(retrying(1, async || reset(&client, NOBODY, None).await).await);
        if refusal.status == 429 {
            limited = refusal.retry_after;
            break;
        }
    }
    println!("story: 429 came with Retry-After: {}", limited.expect("the limit is five at once").as_secs());

    // What was done is answered with its key again, once the limit lets it: in one try more, so at the time that was told.
    let again = async || reset(&client, user.id, Some("the-key-of-this-story")).await;
    while again().await.is_ok() {}
    let began = Instant::now();
    assert_eq!(retrying(2, again).await.unwrap().message, "MFA reset successfully");
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_secs(10), "{waited:?}");
    println!("story: the client waited for {} s, as it was told, and succeeded", waited.as_secs());

    // 204 and 200, both without a body: what was done is no error.
    let ids = async || -> Vec<Uuid> {
        let sessions = phone.list_sessions().await.unwrap().into_inner();
        sessions.into_iter().map(|session| session.id).collect()
    };
    let before = ids().await;
    let (other, _) = sign_in(&url, dev.clone(), || codes.recovery_codes[0].clone()).await.unwrap();
    let there = ids().await.into_iter().find(|id| !before.contains(id)).unwrap();
    phone.end_session(&there).await.unwrap();
    assert_eq!(refused(other.list_sessions().await.map_err(Error::from)).status, 401);
    let last = MfaCodeRequest { code: codes.recovery_codes[1].parse().unwrap() };
    phone.disable_mfa(&last).await.unwrap();
    sign_in(&url, dev, || panic!("no second factor is left")).await.unwrap();
    println!("story: the developer ended the other session and switched MFA off");
}
