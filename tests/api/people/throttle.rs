//! Nobody locks anybody else out: what strangers try uses up what strangers have.

use jiff::SignedDuration;
use latchkey::domain::account::OrganizationSettings;
use latchkey::domain::second_factor::{TotpSecret, time_step};
use latchkey::limiter::{Limit, Limits};
use latchkey::service::Settings;
use poem::http::Method;
use serde_json::json;

use crate::support::{Answer, PASSWORD, Setup, TestApp};

const HOME: &str = "192.0.2.1";
const ELSEWHERE: &str = "198.51.100.77";
const THREE: Limit = Limit {
    requests: 3,
    window_secs: 300,
};

/// Three attempts each, and six by strangers together.
async fn app() -> TestApp {
    app_with(Settings::default()).await
}

async fn app_with(settings: Settings) -> TestApp {
    let limits = Limits {
        login_by_account: THREE,
        code_by_account: THREE,
        login_by_strangers: Limit {
            requests: 6,
            window_secs: 86_400,
        },
        ..Limits::off()
    };
    TestApp::with(Setup {
        limits,
        settings,
        ..Setup::default()
    })
    .await
}

/// From where, and with which cookie, somebody calls.
#[derive(Clone, Copy)]
struct Place<'a>(&'a str, &'a str);

async fn call(app: &TestApp, Place(ip, cookie): Place<'_>, path: &str, body: serde_json::Value) -> Answer {
    let headers = [("X-Forwarded-For", ip), ("Cookie", cookie)];
    let path = format!("/api/v1/auth/{path}");
    app.anonymous()
        .send(Method::POST, &path, Some(body), &headers)
        .await
}

async fn log_in(app: &TestApp, place: Place<'_>, email: &str, password: &str) -> Answer {
    let body = json!({ "organizationSlug": "acme", "email": email, "password": password });
    call(app, place, "login", body).await
}

async fn verify(app: &TestApp, place: Place<'_>, login: &Answer, code: &str) -> Answer {
    let body = json!({ "mfaChallengeToken": login.body["mfaChallengeToken"], "code": code });
    call(app, place, "verify-mfa", body).await
}

/// Wrong passwords, until one is not even tried; how many were.
async fn guess(app: &TestApp, place: Place<'_>, email: &str) -> usize {
    for tried in 0.. {
        let answer = log_in(app, place, email, "not the password").await;
        match answer.status.as_u16() {
            401 => {}
            429 => return tried,
            other => panic!("{other}: {}", answer.text),
        }
    }
    unreachable!("a limit is met")
}

fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie");
    set.split(';').next().unwrap_or_default().to_owned()
}

const MEMBER: &str = "member@acme.example";

#[tokio::test]
async fn a_stranger_uses_up_their_own_attempts_and_not_the_users() {
    let app = app().await;
    assert_eq!(guess(&app, Place(ELSEWHERE, ""), MEMBER).await, 3);
    log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await.assert_ok();
    let held_up = log_in(&app, Place(ELSEWHERE, ""), MEMBER, PASSWORD).await;
    assert_eq!(held_up.status, 429, "the right password from there, too");
    assert!(
        held_up
            .header("ratelimit-policy")
            .starts_with("\"login-by-account\"")
    );
}

/// Somebody who knows the password is not kept from logging in, only from ending what the user has begun.
#[tokio::test]
async fn a_stranger_with_the_password_does_not_end_the_set_up_that_the_user_is_at() {
    let app = TestApp::with(Setup {
        limits: Limits::off(),
        acme: OrganizationSettings {
            mfa_required: true,
            ..OrganizationSettings::default()
        },
        ..Setup::default()
    })
    .await;
    let login = log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await;
    let user = app.bearer(login.assert_ok()["accessToken"].as_str().expect("a token"));
    let set_up = user.send(Method::POST, "/api/v1/mfa/setup", None, &[]).await;
    let secret = set_up.assert_ok()["secret"].as_str().expect("text").to_owned();
    for _ in 0..=100 {
        app.advance(SignedDuration::from_millis(1));
        log_in(&app, Place(ELSEWHERE, ""), MEMBER, PASSWORD)
            .await
            .assert_ok();
    }
    let totp =
        TotpSecret::from_bytes(&data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap()).unwrap();
    let code = totp.code(time_step(app.services.clock.now()));
    let body = json!({ "secret": secret, "code": code });
    user.post("/api/v1/mfa/setup/confirm", body).await.assert_ok();
}

#[tokio::test]
async fn many_strangers_hold_up_strangers_alone() {
    let app = app().await;
    let known = cookie(&log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await);
    for email in [MEMBER, "nobody@acme.example"] {
        for (ip, tried) in [("198.51.100.1", 3), ("198.51.100.2", 3), ("198.51.100.3", 0)] {
            assert_eq!(
                guess(&app, Place(ip, ""), email).await,
                tried,
                "{email} from {ip}"
            );
        }
    }
    let held_up = log_in(&app, Place(ELSEWHERE, ""), MEMBER, PASSWORD).await;
    assert_eq!(held_up.status, 429, "{}", held_up.text);
    assert!(
        held_up
            .header("ratelimit-policy")
            .starts_with("\"login-by-strangers\"")
    );
    // A device that is known, wherever it is; an address that is known, with whatever device.
    let travelling = log_in(&app, Place(ELSEWHERE, &known), MEMBER, PASSWORD).await;
    travelling.assert_ok();
    log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await.assert_ok();
    // Another one's device is a stranger's.
    let other = cookie(&log_in(&app, Place("192.0.2.2", ""), "second@acme.example", PASSWORD).await);
    assert_eq!(other, "", "a login that waits for its code remembers no device");
    let further = app
        .further("further", latchkey::domain::account::Role::Member)
        .await;
    let other = cookie(&log_in(&app, Place("192.0.2.2", ""), &further.email, PASSWORD).await);
    assert_ne!(other, "");
    for shown in [other.as_str(), "latchkey-device=lkd_nonsense", "latchkey-device="] {
        let answer = log_in(&app, Place("198.51.100.4", shown), MEMBER, PASSWORD).await;
        assert_eq!(answer.status, 429, "{shown}");
    }
    // And one that was remembered more than a year ago.
    app.advance(SignedDuration::from_hours(365 * 24));
    for ip in ["198.51.100.5", "198.51.100.6"] {
        guess(&app, Place(ip, ""), MEMBER).await;
    }
    let lapsed = log_in(&app, Place("198.51.100.7", &known), MEMBER, PASSWORD).await;
    assert_eq!(lapsed.status, 429);
}

#[tokio::test]
async fn a_device_that_was_taken_has_no_more_attempts_than_others_and_uses_up_its_own() {
    let app = app().await;
    let known = cookie(&log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await);
    assert_eq!(guess(&app, Place(ELSEWHERE, &known), MEMBER).await, 3);
    let other_address = log_in(&app, Place("198.51.100.1", &known), MEMBER, PASSWORD).await;
    assert_eq!(other_address.status, 429, "counted by device, wherever it is");
    log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await.assert_ok();
}

#[tokio::test]
async fn the_right_password_gives_the_attempts_back() {
    let app = app().await;
    for _ in 0..5 {
        for _ in 0..2 {
            let wrong = log_in(&app, Place(HOME, ""), MEMBER, "wrong").await;
            wrong.assert_error(401, "Invalid credentials");
        }
        log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await.assert_ok();
    }
}

/// Whoever knows the password can guess codes, and must not keep the user from showing theirs.
#[tokio::test]
async fn who_knows_the_password_does_not_use_up_the_users_codes() {
    const DEV: &str = "dev@acme.example";
    let app = app().await;
    let login = log_in(&app, Place(HOME, ""), DEV, PASSWORD).await;
    assert_eq!(cookie(&login), "");
    let done = verify(&app, Place(HOME, ""), &login, &app.developer_code()).await;
    done.assert_ok();
    let known = cookie(&done);
    app.advance(SignedDuration::from_secs(60));
    let theirs = log_in(&app, Place(ELSEWHERE, ""), DEV, PASSWORD).await;
    for _ in 0..3 {
        let wrong = verify(&app, Place(ELSEWHERE, ""), &theirs, "000000").await;
        wrong.assert_error(401, "Invalid MFA code");
    }
    let held_up = verify(&app, Place(ELSEWHERE, ""), &theirs, &app.developer_code()).await;
    assert_eq!(held_up.status, 429);
    let own = log_in(&app, Place(HOME, &known), DEV, PASSWORD).await;
    verify(&app, Place(HOME, &known), &own, &app.developer_code())
        .await
        .assert_ok();
}

#[tokio::test]
async fn the_cookie_is_for_the_login_alone_and_no_script_reads_it() {
    let at = "https://mfa.example.org";
    for (public_url, name, end) in [
        (
            at,
            "__Secure-latchkey-device=lkd_",
            "; HttpOnly; SameSite=Strict; Secure",
        ),
        (
            "http://127.0.0.1:8080",
            "latchkey-device=lkd_",
            "; HttpOnly; SameSite=Strict",
        ),
    ] {
        let app = app_with(Settings {
            public_url: public_url.to_owned(),
            ..Settings::default()
        })
        .await;
        let login = log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await;
        let set = login.header("set-cookie");
        assert!(set.starts_with(name) && set.ends_with(end), "{set}");
        assert!(set.contains("; Path=/api/v1/auth; Max-Age=31536000;"), "{set}");
        // It opens nothing.
        let token = set.split(['=', ';']).nth(1).expect("a token");
        let answer = app.bearer(token).get("/api/v1/account/sessions").await;
        answer.assert_error(401, "The access token is invalid");
        let body = json!({ "refreshToken": token });
        assert_eq!(call(&app, Place(HOME, set), "refresh", body).await.status, 401);
        // A login that only opens enrolment completes nothing.
        let demanded = log_in(&app, Place(HOME, ""), MEMBER, "wrong").await;
        assert_eq!(cookie(&demanded), "");
    }
}

async fn set_up(app: &TestApp, login: &Answer) -> String {
    let token = login.body["accessToken"].as_str().expect("a token");
    let answer = app
        .bearer(token)
        .send(Method::POST, "/api/v1/mfa/setup", None, &[])
        .await;
    let secret = answer.assert_ok()["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    let body = json!({ "secret": secret, "code": code_of(app, &secret) });
    app.bearer(token)
        .post("/api/v1/mfa/setup/confirm", body)
        .await
        .assert_ok();
    secret
}

fn code_of(app: &TestApp, secret: &str) -> String {
    let bytes = data_encoding::BASE32_NOPAD
        .decode(secret.as_bytes())
        .expect("base 32");
    let secret = TotpSecret::from_bytes(&bytes).expect("20 bytes");
    secret.code(time_step(app.services.clock.now()))
}

/// Whoever knew the password while it was enough has as many devices as they like: none of them is known once there is
/// a second factor.
#[tokio::test]
async fn devices_gathered_before_an_enrolment_have_no_attempts_of_their_own_after_it() {
    let app = app().await;
    let mut gathered = Vec::new();
    for n in 1..5 {
        let ip = format!("198.51.100.{n}");
        let login = log_in(&app, Place(&ip, ""), MEMBER, PASSWORD).await;
        gathered.push(cookie(&login));
    }
    let secret = set_up(&app, &log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await).await;
    app.advance(SignedDuration::from_secs(30));
    let mut tried = 0;
    for device in &gathered {
        let place = Place(ELSEWHERE, device);
        let login = log_in(&app, place, MEMBER, PASSWORD).await;
        for _ in 0..3 {
            let answer = verify(&app, place, &login, "000000").await;
            tried += usize::from(answer.status == 401);
        }
    }
    assert_eq!(tried, 3, "all of them are one stranger");
    // The user waits for the strangers' window once, and is known from then on.
    app.advance(SignedDuration::from_secs(300));
    let login = log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await;
    let done = verify(&app, Place(HOME, ""), &login, &code_of(&app, &secret)).await;
    done.assert_ok();
    let known = cookie(&done);
    for _ in 0..3 {
        verify(&app, Place(ELSEWHERE, ""), &login, "000000").await;
    }
    let login = log_in(&app, Place(HOME, &known), MEMBER, PASSWORD).await;
    app.advance(SignedDuration::from_secs(30));
    verify(&app, Place(HOME, &known), &login, &code_of(&app, &secret))
        .await
        .assert_ok();
}

/// A new password, a reset, "this was not me", an admin's act: each makes strangers of the devices.
#[tokio::test]
async fn a_changed_account_knows_none_of_its_devices() {
    let app = app().await;
    let known = cookie(&log_in(&app, Place(HOME, ""), MEMBER, PASSWORD).await);
    for (ip, tried) in [("198.51.100.1", 3), ("198.51.100.2", 3)] {
        assert_eq!(guess(&app, Place(ip, ""), MEMBER).await, tried);
    }
    log_in(&app, Place(ELSEWHERE, &known), MEMBER, PASSWORD)
        .await
        .assert_ok();
    let member = app.member.id;
    let hash = crate::support::password_hash();
    let at = app.services.clock.now();
    app.services
        .store
        .write(move |tx| latchkey::store::passwords::update_password(tx, member, &hash, at))
        .await
        .expect("changed");
    let stranger = log_in(&app, Place("198.51.100.3", &known), MEMBER, PASSWORD).await;
    assert_eq!(stranger.status, 429, "{}", stranger.text);
}

#[tokio::test]
async fn all_known_devices_together_have_a_ceiling_that_a_right_code_does_not_lift() {
    const DEV: &str = "dev@acme.example";
    let limits = Limits {
        code_by_account: THREE,
        code_by_devices: Limit {
            requests: 5,
            window_secs: 300,
        },
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let mut devices = Vec::new();
    for _ in 0..3 {
        let login = log_in(&app, Place(HOME, ""), DEV, PASSWORD).await;
        let done = verify(&app, Place(HOME, ""), &login, &app.developer_code()).await;
        done.assert_ok();
        devices.push(cookie(&done));
        app.advance(SignedDuration::from_secs(30));
    }
    let mut tried = 0;
    for device in &devices {
        let place = Place(ELSEWHERE, device);
        let login = log_in(&app, place, DEV, PASSWORD).await;
        for _ in 0..2 {
            tried += usize::from(verify(&app, place, &login, "000000").await.status == 401);
        }
    }
    assert_eq!(tried, 5);
    let place = Place(ELSEWHERE, &devices[2]);
    let login = log_in(&app, place, DEV, PASSWORD).await;
    let held_up = verify(&app, place, &login, &app.developer_code()).await;
    assert_eq!(held_up.status, 429);
    assert!(
        held_up
            .header("ratelimit-policy")
            .starts_with("\"code-by-devices\"")
    );
    // Strangers have their own, and so a user without cookies is let in.
    let login = log_in(&app, Place(HOME, ""), DEV, PASSWORD).await;
    verify(&app, Place(HOME, ""), &login, &app.developer_code())
        .await
        .assert_ok();
}
