//! Reversible: "this was not me", factors given back, the window opened again (issue 4, points 2, 3 and 9).

mod restored;
mod window;

use latchkey::domain::account::OrganizationSettings;
use latchkey::service::housekeeping;
use poem::http::Method;
use serde_json::{Value, json};

use super::receivers::{MailServer, Received};
use super::{mails, users_app_with_mail};
use crate::account::app::{Answer, App, SECRET};

const LOCKED: &str = "The account is locked. Ask an administrator to unlock it";

/// An app that sends mail, where MFA is required.
async fn app(server: &MailServer, organization: OrganizationSettings) -> App {
    let required = OrganizationSettings {
        mfa_required: true,
        ..organization
    };
    users_app_with_mail(server, required).await
}

/// The token of the link in the newest of these mails to that address.
fn token(mails: &[Received], to: &str) -> String {
    let mail = mails.iter().rfind(|mail| mail.to == [to]).expect("a mail");
    let (_, rest) = mail
        .text
        .split_once("https://mfa.appliance.example/not-me#")
        .expect("a link");
    rest.split_whitespace().next().expect("a token").to_owned()
}

async fn report(app: &App, token: &str) -> Answer {
    app.post("/auth/not-me", None, json!({ "token": token })).await
}

/// Sets up a device as somebody who knows the password. Returns its secret.
async fn enrol(app: &App, email: &str) -> String {
    let token = app.token(email).await;
    app.enrol(&token).await.0
}

async fn restore(app: &App, admin: &str, email: &str) -> Answer {
    let path = format!("/users/{}/restore-factors", app.id(email));
    app.post(&path, Some(admin), Value::Null).await
}

async fn unlock(app: &App, admin: &str, email: &str) -> Answer {
    let path = format!("/users/{}", app.id(email));
    let body = Some(json!({ "locked": false }));
    app.call(Method::PATCH, &path, Some(admin), body).await
}

#[tokio::test]
async fn whatever_an_admin_does_to_an_account_its_user_can_say_not_me() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let phone = "phone@acme.example";
    let path = format!("/users/{}", app.id(phone));
    let acts = [
        (Method::POST, format!("{path}/reset-password"), None, phone),
        (
            Method::POST,
            "/api-keys".to_owned(),
            Some(json!({ "name": "SIEM", "scopes": ["audit:read"] })),
            "boss@acme.example",
        ),
        (
            Method::PATCH,
            path.clone(),
            Some(json!({ "isOrgAdmin": true })),
            phone,
        ),
    ];
    for (method, path, body, told) in acts {
        let answer = app.call(method, &path, Some(&admin), body).await;
        assert!(answer.status < 300, "{path}: {}", answer.body);
        let notices = mails(&app, &server).await;
        let mail = notices.iter().find(|mail| mail.to == [told]).expect("a notice");
        let when = format!("on {:.0} from ", app.services.clock.now());
        assert!(mail.text.contains(&when), "{}", mail.text);
        let token = token(&notices, told);
        if told == phone {
            report(&app, &token).await.ok();
            assert!(app.find(phone).locked.is_some(), "{path}");
            unlock(&app, &admin, phone).await.ok();
            assert!(app.find(phone).locked.is_none(), "{path}");
            mails(&app, &server).await;
        }
    }
}

#[tokio::test]
async fn an_attacker_who_had_the_factor_reset_is_thrown_out_and_the_users_own_device_works_again() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let phone = "phone@acme.example";

    // The attacker knows the password and talks the help desk into a reset, then sets up a device.
    app.reset_of(&admin, phone).await.ok();
    let theirs = enrol(&app, phone).await;
    app.wait(30);
    let challenge = app.challenge(phone).await;
    let session = app.verify(&challenge, &app.code(&theirs)).await.ok();
    let mut notices = mails(&app, &server).await;
    notices.sort_by_key(|mail| std::cmp::Reverse(mail.header("Subject").to_owned())); // sent side by side
    let subjects: Vec<_> = notices.iter().map(|mail| mail.header("Subject")).collect();
    assert_eq!(
        subjects,
        [
            "Your second factor was reset (ACME)",
            "Your second factor was changed (ACME)"
        ]
    );
    for mail in &notices {
        assert_eq!(mail.to, [phone]);
        println!("Subject: {}\n\n{}\n", mail.header("Subject"), mail.text);
    }
    assert!(
        notices[0]
            .text
            .starts_with("boss (boss@acme.example) reset the second factor")
    );

    // Nothing in the database opens anything, and following the link does nothing.
    let token = token(&notices[..1], phone);
    let database = std::fs::read(app.services.store.path()).unwrap();
    assert!(!database.windows(token.len()).any(|part| part == token.as_bytes()));
    let page = app.anonymous().get("/not-me").await;
    assert_eq!(page.status.as_u16(), 200);
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
    app.anonymous()
        .get("/api/v1/auth/not-me")
        .await
        .assert_error(405, "The method is not allowed for this path");
    assert!(app.find(phone).locked.is_none());

    // The user presses the button.
    report(&app, &token).await.ok();
    assert!(app.find(phone).locked.is_some());
    assert_eq!(app.refresh(&session.text("refreshToken")).await.status, 401);
    let sessions = app
        .call(
            Method::GET,
            "/account/sessions",
            Some(&session.text("accessToken")),
            None,
        )
        .await;
    assert_eq!(sessions.status, 401);
    app.login(phone).await.refused(403, LOCKED);
    let alarms = mails(&app, &server).await;
    let mut told: Vec<_> = alarms.iter().map(|mail| mail.to[0].clone()).collect();
    told.sort();
    let admins = [
        "admin@acme.example",
        "boss@acme.example",
        "second@acme.example",
        "security@acme.example",
    ];
    assert_eq!(told, admins);
    println!("Subject: {}\n\n{}\n", alarms[0].header("Subject"), alarms[0].text);
    let entry = app.last_entry_of("USER_REPORT");
    assert_eq!(entry["result"], "SUCCESS");
    assert!(entry["details"]["about"].is_u64(), "{entry}");
    // Once; and whoever tries learns nothing of what it was.
    let dead = "The link is invalid or has expired";
    report(&app, &token).await.refused(401, dead);
    report(&app, "lko_nonsense").await.refused(401, dead);

    // An admin gives the user's own device back.
    let path = format!("/users/{}/suspended-factors", app.id(phone));
    let listed = app.call(Method::GET, &path, Some(&admin), None).await.ok();
    println!("{}", listed.body);
    let kinds: Vec<_> = listed
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["kind"].clone())
        .collect();
    assert_eq!(kinds.len(), 2);
    for kind in ["totp", "recovery-codes"] {
        assert!(kinds.contains(&json!(kind)), "{kinds:?}");
    }
    let restored = restore(&app, &admin, phone).await.ok();
    println!("{}", restored.body);
    assert_eq!(restored.body["message"], "Factors restored successfully");
    app.wait(30);
    let challenge = app.challenge(phone).await;
    app.verify(&challenge, &app.code(&theirs))
        .await
        .refused(401, "Invalid MFA code");
    app.verify(&challenge, &app.code(SECRET)).await.ok();
    let entry = app.last_entry_of("USER_FACTORS_RESTORE");
    println!("{entry}");
    for list in ["restoredFactors", "destroyedFactors"] {
        assert_eq!(entry["details"][list].as_array().unwrap().len(), 2, "{entry}");
    }
    assert_eq!(entry["details"]["unlocked"], true);
    restore(&app, &admin, phone)
        .await
        .refused(400, "There are no factors to restore");
    assert_eq!(
        mails(&app, &server).await[0].header("Subject"),
        "Your second factor was restored (ACME)"
    );
}

#[tokio::test]
async fn a_link_lapses_and_the_next_change_does_not_take_it_away() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let phone = "phone@acme.example";
    app.reset_of(&admin, phone).await.ok();
    let first = token(&mails(&app, &server).await, phone);
    enrol(&app, phone).await;
    let second = token(&mails(&app, &server).await, phone);
    app.wait(7 * 24 * 3600 - 1);
    let admin = app.boss().await;
    report(&app, &first).await.ok();
    report(&app, &second)
        .await
        .refused(401, "The link is invalid or has expired");
    restore(&app, &admin, phone).await.ok();
    app.reset_of(&admin, phone).await.ok();
    let lapsed = token(&mails(&app, &server).await, phone);
    app.wait(7 * 24 * 3600);
    report(&app, &lapsed)
        .await
        .refused(401, "The link is invalid or has expired");
    assert!(app.find(phone).locked.is_none());
}

#[tokio::test]
async fn a_report_takes_no_other_lock_away() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let phone = "phone@acme.example";
    app.reset_of(&admin, phone).await.ok();
    let link = token(&mails(&app, &server).await, phone);
    let policy = "Locked by the organisation's policy at an MFA reset";
    app.sql(&format!(
        "UPDATE user SET locked_at = 1, locked_reason = '{}' WHERE email = '{phone}'",
        policy.replace('\'', "''")
    ));
    report(&app, &link).await.ok();
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["details"]["wasLocked"]),
        (&json!("USER_REPORT"), &json!(true))
    );
    restore(&app, &admin, phone).await.ok();
    let lock = app.find(phone).locked.expect("still locked");
    assert_eq!(lock.reason, policy);
}

/// "Reset, then admin access" is what the attackers are after.
#[tokio::test]
async fn an_admin_who_acts_soon_after_a_reset_raises_one_alarm() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let second = "second@acme.example";
    app.reset_of(&admin, "phone@acme.example").await.ok();
    app.reset_of(&admin, second).await.ok();
    enrol(&app, second).await;
    enrol(&app, "phone@acme.example").await;
    app.wait(3600);
    let [own, _other] = [app.minted(app.id(second)).await, app.minted(app.id(second)).await];
    let ended = app.call(Method::DELETE, "/account/sessions", Some(&own), None);
    ended.await.ok();
    assert_eq!(app.last_entry()["eventType"], "USER_SESSIONS_END");
    housekeeping::tidy(&app.services).await;
    let alarms = || app.count("SELECT count(*) FROM audit_entry WHERE event_type = 'USER_RESET_ALARM'");
    assert_eq!(alarms(), 0, "their own accounts are all that they touched");
    mails(&app, &server).await;

    // Even what is refused is told of: nobody resets themselves.
    let theirs = app.minted(app.id(second)).await;
    assert_eq!(app.reset_of(&theirs, second).await.status, 403);
    for _ in 0..2 {
        housekeeping::tidy(&app.services).await;
        app.reset_of(&theirs, "dev@acme.example").await;
    }
    assert_eq!(alarms(), 1);
    let entry = app.last_entry_of("USER_RESET_ALARM");
    assert_eq!(entry["resource"]["id"], app.id(second).to_string());
    assert_eq!(entry["details"]["did"], "USER_MFA_RESET");
    let told: Vec<_> = mails(&app, &server)
        .await
        .into_iter()
        .filter(|mail| mail.header("Subject").contains("soon after an MFA reset"))
        .map(|mail| mail.to[0].clone())
        .collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        !told.contains(&second.to_owned()),
        "whoever it is about is not asked"
    );

    // A further reset is watched anew, for a day.
    app.wait(24 * 3600);
    let admin = app.boss().await;
    app.reset_of(&admin, second).await.ok();
    enrol(&app, second).await;
    app.wait(24 * 3600 + 1);
    let theirs = app.minted(app.id(second)).await;
    app.reset_of(&theirs, "phone@acme.example").await.ok();
    housekeeping::tidy(&app.services).await;
    assert_eq!(alarms(), 1);
}
