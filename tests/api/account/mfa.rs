use jiff::SignedDuration;
use latchkey::limiter::{Limit, Limits};
use latchkey::service::{Settings, housekeeping};
use latchkey::store::expiry::UserRange;
use serde_json::{Value, json};

use super::app::{App, SECRET, entry, mfa_required};
use crate::support::Setup;

/// Confirms a set-up with this code, be it the one that an authenticator app shows or another.
async fn confirm(app: &App, token: &str, secret: &str, code: &str) -> super::app::Answer {
    app.post(
        "/mfa/setup/confirm",
        Some(token),
        json!({"secret": secret, "code": code}),
    )
    .await
}

#[tokio::test]
async fn a_user_sets_mfa_up_and_logs_in_with_it() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let answer = app.post("/mfa/setup", Some(&token), Value::Null).await.ok();
    let png = data_encoding::BASE64
        .decode(answer.text("qrCodeBase64").as_bytes())
        .expect("base 64");
    assert!(png.starts_with(b"\x89PNG"));
    let (secret, codes) = app.enrol(&token).await;
    assert_eq!(codes.len(), 8);
    assert!(
        codes
            .iter()
            .all(|code| code.len() == 19 && code.matches('-').count() == 3),
        "{codes:?}"
    );
    assert!(app.find("new@acme.example").mfa_enabled);
    assert_eq!(app.newest(), entry("USER_MFA_ENABLED", "SUCCESS", None));
    app.wait(30);
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, &app.code(&secret)).await.ok();
}

#[tokio::test]
async fn the_code_that_confirmed_is_used_up() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let (secret, _) = app.enrol(&token).await;
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, &app.code(&secret))
        .await
        .refused(401, "Invalid MFA code");
}

#[tokio::test]
async fn setting_up_twice_is_a_conflict() {
    let app = App::new().await;
    let token = app
        .log_in_with_code("phone@acme.example")
        .await
        .text("accessToken");
    app.post("/mfa/setup", Some(&token), Value::Null)
        .await
        .refused(409, "MFA is already enabled");
    confirm(&app, &token, SECRET, "123456")
        .await
        .refused(409, "MFA is already enabled");
}

#[tokio::test]
async fn only_the_newest_secret_that_was_shown_can_be_confirmed_in_time_and_with_its_code() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    confirm(&app, &token, SECRET, "123456")
        .await
        .refused(400, "There is no MFA set-up to confirm. Start it again");
    let first = app.set_up(&token).await;
    let second = app.set_up(&token).await;
    app.confirm(&token, &first).await.refused(
        400,
        "The secret is not the one that was shown. Start the set-up again",
    );
    confirm(&app, &token, &second, "000000")
        .await
        .refused(400, "Invalid MFA code");
    confirm(&app, &token, &second, "ABCD-EFGH")
        .await
        .refused(400, "Invalid MFA code");
    app.wait(15 * 60);
    let token = app.token("new@acme.example").await;
    app.confirm(&token, &second)
        .await
        .refused(400, "There is no MFA set-up to confirm. Start it again");
    assert!(!app.find("new@acme.example").mfa_enabled);
}

#[tokio::test]
async fn of_two_confirmations_at_the_same_time_one_enrols() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let secret = app.set_up(&token).await;
    let code = app.code(&secret);
    let (a, b) = tokio::join!(
        confirm(&app, &token, &secret, &code),
        confirm(&app, &token, &secret, &code)
    );
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
}

#[tokio::test]
async fn enrolling_ends_the_other_sessions() {
    let app = App::new().await;
    let other = app.login("new@acme.example").await.ok();
    let token = app.token("new@acme.example").await;
    app.enrol(&token).await;
    let answer = app
        .post("/mfa/setup", Some(&other.text("accessToken")), Value::Null)
        .await;
    answer.refused(401, "The access token has been revoked");
    assert_eq!(app.refresh(&other.text("refreshToken")).await.status, 401);
}

#[tokio::test]
async fn a_recovery_code_works_once_however_it_is_typed_and_each_use_is_an_entry() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let (_, codes) = app.enrol(&token).await;
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, &codes[3].to_lowercase().replace('-', " "))
        .await
        .ok();
    assert_eq!(app.newest(), entry("USER_RECOVERY_CODE_USED", "SUCCESS", None));
    assert_eq!(app.last_entry()["details"]["codesLeft"], 7);
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, &codes[3])
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, "ABCD-EFGH-JKMN-PQRS")
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, &codes[4]).await.ok();
    let trail = format!("{:?}", app.entries());
    assert!(!codes.iter().any(|code| trail.contains(code.as_str())));
}

#[tokio::test]
async fn codes_of_eight_characters_are_a_setting() {
    let settings = Settings {
        recovery_code_characters: 8,
        ..Settings::default()
    };
    let app = App::with(settings).await;
    let token = app.token("new@acme.example").await;
    let (_, codes) = app.enrol(&token).await;
    assert!(
        codes.iter().all(|code| code.replace('-', "").len() == 8),
        "{codes:?}"
    );
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, &codes[0].replace('-', "")).await.ok();
}

#[tokio::test]
async fn new_recovery_codes_replace_the_old_ones() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let path = "/mfa/recovery-codes/regenerate";
    app.post(path, Some(&token), Value::Null)
        .await
        .refused(404, "MFA is not enabled");
    let (_, old) = app.enrol(&token).await;
    let answer = app.post(path, Some(&token), Value::Null).await.ok();
    assert_eq!(
        app.newest(),
        entry("USER_RECOVERY_CODES_REGENERATED", "SUCCESS", None)
    );
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, &old[0])
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, answer.body["recoveryCodes"][0].as_str().unwrap())
        .await
        .ok();
}

#[tokio::test]
async fn a_user_switches_mfa_off_with_a_code() {
    let app = App::new().await;
    let token = app
        .log_in_with_code("phone@acme.example")
        .await
        .text("accessToken");
    let disable = |code: String| app.post("/mfa/disable", Some(&token), json!({"code": code}));
    disable(app.code(SECRET)).await.refused(400, "Invalid MFA code");
    assert_eq!(
        app.newest(),
        entry("USER_MFA_DISABLED", "DENIED", Some("wrong-code"))
    );
    app.wait(30);
    let answer = disable(app.code(SECRET)).await;
    assert_eq!(
        (answer.status, answer.body),
        (200, Value::Null),
        "a 200 without a body"
    );
    assert_eq!(app.newest(), entry("USER_MFA_DISABLED", "SUCCESS", None));
    assert!(!app.find("phone@acme.example").mfa_enabled);
    disable(app.code(SECRET)).await.refused(404, "MFA is not enabled");
    assert_eq!(
        app.login("phone@acme.example").await.ok().body["mfaRequired"],
        false
    );
}

#[tokio::test]
async fn mfa_stays_on_while_the_organisation_requires_it() {
    let app = App::with(mfa_required()).await;
    let token = app
        .log_in_with_code("phone@acme.example")
        .await
        .text("accessToken");
    app.wait(30);
    let answer = app
        .post("/mfa/disable", Some(&token), json!({"code": app.code(SECRET)}))
        .await;
    answer.refused(400, "Your organization requires MFA");
    assert!(app.find("phone@acme.example").mfa_enabled);
}

#[tokio::test]
async fn suspended_factors_are_destroyed_after_their_time() {
    let app = App::new().await;
    let admin = app.token("boss@acme.example").await;
    app.reset_of(&admin, "phone@acme.example").await.ok();
    let count = || {
        let id = app.id("phone@acme.example");
        let after = app.clock.now() + SignedDuration::from_secs(1);
        let found = app
            .services
            .store
            .read(|db| latchkey::store::expiry::find_suspended(db, &UserRange::ALL, after));
        found.expect("read").iter().filter(|user| **user == id).count()
    };
    assert_eq!(count(), 1);
    app.wait(7 * 24 * 3600);
    housekeeping::sweep(&app.services).await.unwrap();
    assert_eq!(count(), 1);
    app.wait(1);
    assert!(housekeeping::sweep(&app.services).await.unwrap() > 0);
    assert_eq!(count(), 0);
}

/// ASVS 7.5.1: recovery codes are a second factor, and who has a new one registers whatever they like.
#[tokio::test]
async fn a_stolen_session_gets_no_new_recovery_codes() {
    let app = App::new().await;
    let login = app.log_in_with_code("phone@acme.example").await;
    let (access, path) = (login.text("accessToken"), "/mfa/recovery-codes/regenerate");
    app.wait(10 * 60 + 1);
    let minted = app.minted(app.id("phone@acme.example")).await;
    for stolen in [&access, &minted] {
        let answer = app.post(path, Some(stolen), Value::Null).await;
        assert_eq!(answer.status, 401, "{}", answer.body);
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(
            challenge.contains("insufficient_user_authentication"),
            "{challenge}"
        );
    }
    let tokens = app.refresh(&login.text("refreshToken")).await.ok();
    let refreshed = tokens.text("accessToken");
    assert_eq!(app.post(path, Some(&refreshed), Value::Null).await.status, 401);

    // With the second factor it goes, and whoever else is logged in is not any more.
    let code = json!({"code": app.code(SECRET)});
    let stepped_up = app.post("/auth/step-up", Some(&refreshed), code).await.ok();
    app.post(path, Some(&stepped_up.text("accessToken")), Value::Null)
        .await
        .ok();
    assert_eq!(app.last_entry()["details"]["sessionsEnded"], 1);
    app.post("/mfa/setup", Some(&minted), Value::Null)
        .await
        .refused(401, "The access token has been revoked");
}

#[tokio::test]
async fn a_recovery_code_that_logs_somebody_in_is_told_to_its_owner() {
    let app = App::with_mail().await;
    let token = app.token("new@acme.example").await;
    let (_, codes) = app.enrol(&token).await;
    let owed = || app.count("SELECT count(*) FROM delivery WHERE payload LIKE '%A recovery code was used%'");
    let challenge = app.challenge("new@acme.example").await;
    app.verify(&challenge, "ABCD-EFGH-JKMN-PQRS")
        .await
        .refused(401, "Invalid MFA code");
    assert_eq!(owed(), 0);
    app.verify(&challenge, &codes[0]).await.ok();
    assert_eq!(owed(), 1);
}

#[tokio::test]
async fn a_recovery_code_that_steps_a_session_up_is_told_to_its_owner() {
    let app = App::with_mail().await;
    let token = app.token("new@acme.example").await;
    let (_, codes) = app.enrol(&token).await;
    let step_up = async |code: &str| {
        app.post("/auth/step-up", Some(&token), json!({ "code": code }))
            .await
    };
    let owed = || app.count("SELECT count(*) FROM delivery WHERE payload LIKE '%A recovery code was used%'");
    step_up("ABCD-EFGH-JKMN-PQRS")
        .await
        .refused(400, "Invalid MFA code");
    assert_eq!(owed(), 0);
    step_up(&codes[0]).await.ok();
    assert_eq!(owed(), 1);
}

/// Who knows the password has sessions for enrolment, too. What they do in theirs leaves the user's alone.
#[tokio::test]
async fn another_session_neither_takes_a_set_up_away_nor_uses_up_its_attempts() {
    let limits = Limits {
        enrolment_by_account: Limit {
            requests: 3,
            window_secs: 600,
        },
        ..Limits::off()
    };
    let app = App::with(Setup {
        limits,
        acme: mfa_required(),
        ..Setup::default()
    })
    .await;
    let (user, other) = (
        app.token("new@acme.example").await,
        app.token("new@acme.example").await,
    );
    let secret = app.set_up(&user).await;
    let theirs = app.set_up(&other).await;
    for _ in 0..2 {
        app.set_up(&other).await;
    }
    let held_up = app.post("/mfa/setup", Some(&other), Value::Null).await;
    assert_eq!(held_up.status, 429, "{}", held_up.body);
    app.confirm(&user, &theirs).await.refused(
        400,
        "The secret is not the one that was shown. Start the set-up again",
    );
    app.confirm(&user, &secret).await.ok();
    assert!(app.find("new@acme.example").mfa_enabled);
    let gone = app.post("/mfa/setup", Some(&other), Value::Null).await;
    gone.refused(401, "The access token has been revoked");
}

#[tokio::test]
async fn a_wrong_first_code_is_an_entry() {
    let app = App::new().await;
    let token = app.token("new@acme.example").await;
    let secret = app.set_up(&token).await;
    confirm(&app, &token, &secret, "000000")
        .await
        .refused(400, "Invalid MFA code");
    assert_eq!(
        app.newest(),
        entry("USER_MFA_ENABLED", "DENIED", Some("wrong-code"))
    );
    app.confirm(&token, &secret).await.ok();
}
