//! Reversible: "this was not me", factors given back, the window opened again (issue 4, points 2, 3 and 9).

use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings};
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

/// Enrols a device as somebody who knows the password, uses it, and disables MFA with it. Returns its secret.
async fn enrol_and_disable(app: &App, email: &str) -> String {
    let theirs = enrol(app, email).await;
    app.wait(30);
    let challenge = app.challenge(email).await;
    let session = app.verify(&challenge, &app.code(&theirs)).await.ok();
    app.wait(30);
    let code = json!({ "code": app.code(&theirs) });
    app.post("/mfa/disable", Some(&session.text("accessToken")), code)
        .await
        .ok();
    theirs
}

async fn opens(app: &App, email: &str, secret: &str) -> bool {
    app.wait(30);
    let challenge = app.challenge(email).await;
    app.verify(&challenge, &app.code(secret)).await.status == 200
}

/// Otherwise somebody who had the user's factors reset would get their own restored in the user's name, for good.
#[tokio::test]
async fn what_a_thief_set_up_and_had_taken_is_not_restored_where_nobody_chose_it() {
    let server = MailServer::start();
    let app = users_app_with_mail(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let phone = "phone@acme.example";
    app.reset_of(&admin, phone).await.ok();
    let reset_at = format!("{:.3}", app.clock.now());
    let link = token(&mails(&app, &server).await, phone);
    let theirs = enrol_and_disable(&app, phone).await;
    let disabled_at = format!("{:.3}", app.clock.now());
    report(&app, &link).await.ok();

    let refusal = format!(
        "Factors were removed more than once: {reset_at}, {disabled_at}. Choose one of these times with takenBefore \
         or --taken-before. Those removed later were set up after the first were removed, perhaps by somebody else"
    );
    restore(&app, &admin, phone).await.refused(409, &refusal);
    app.login(phone).await.refused(403, LOCKED);
    assert!(!app.find(phone).mfa_enabled);
    assert_eq!(app.last_entry_of("USER_FACTORS_RESTORE")["result"], "DENIED");

    let path = format!("/users/{}/restore-factors?takenBefore={reset_at}", app.id(phone));
    app.post(&path, Some(&admin), Value::Null).await.ok();
    assert!(!opens(&app, phone, &theirs).await);
    assert!(opens(&app, phone, SECRET).await);
}

#[tokio::test]
async fn what_is_restored_by_agreement_is_what_was_there_when_it_was_asked_for() {
    let server = MailServer::start();
    let rule = OrganizationSettings {
        admin_on_admin: AdminOnAdmin::SecondAdmin,
        ..OrganizationSettings::default()
    };
    let app = users_app_with_mail(&server, rule).await;
    let admin = app.boss().await;
    let second = app.minted(app.id("second@acme.example")).await;
    let phone = "phone@acme.example";
    app.sql(&format!(
        "UPDATE user SET role = 'org-admin' WHERE email = '{phone}'"
    ));
    restore(&app, &admin, phone)
        .await
        .refused(400, "There are no factors to restore");
    let asked = app.reset_of(&admin, phone).await.text("approvalId");
    let approve = format!("/approvals/{asked}/approve");
    app.post(&approve, Some(&second), Value::Null).await.ok();
    let reset_at = format!("{:.3}", app.clock.now());
    mails(&app, &server).await;

    let asked = restore(&app, &admin, phone).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    let theirs = enrol_and_disable(&app, phone).await;
    let path = format!("/approvals/{}", asked.text("approvalId"));
    let shown = app.call(Method::GET, &path, Some(&second), None).await.ok();
    assert_eq!(shown.body["takenAt"], json!(reset_at));
    let told = mails(&app, &server).await;
    let told = told
        .iter()
        .find(|mail| mail.to == ["second@acme.example"])
        .expect("asked");
    let what = format!(
        "the second factor that was removed on {}Z, of phone",
        &reset_at[..19]
    );
    assert!(told.text.contains(&what), "{}", told.text);

    app.post(&format!("{path}/approve"), Some(&second), Value::Null)
        .await
        .ok();
    assert!(!opens(&app, phone, &theirs).await);
    assert!(opens(&app, phone, SECRET).await);
}

#[tokio::test]
async fn a_suspended_factor_and_its_recovery_codes_open_nothing_and_are_destroyed_after_the_window() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let new = "new@acme.example";
    let login = app.token(new).await;
    let (secret, codes) = app.enrol(&login).await;
    let old_code = codes[0].clone();
    app.wait(30);
    app.reset_of(&admin, new).await.ok();
    let theirs = enrol(&app, new).await;
    app.wait(30);
    let challenge = app.challenge(new).await;
    for code in [app.code(&secret), old_code.clone()] {
        app.verify(&challenge, &code)
            .await
            .refused(401, "Invalid MFA code");
    }
    let session = app
        .verify(&challenge, &app.code(&theirs))
        .await
        .ok()
        .text("accessToken");
    for code in [app.code(&secret), old_code] {
        let step_up = app
            .post("/auth/step-up", Some(&session), json!({ "code": code }))
            .await;
        step_up.refused(400, "Invalid MFA code");
    }
    // A second reset keeps what the first one took: the admin says which is meant.
    app.wait(60);
    app.reset_of(&admin, new).await.ok();
    let path = format!("/users/{}/suspended-factors", app.id(new));
    let listed = app.call(Method::GET, &path, Some(&admin), None).await.ok();
    let taken: Vec<_> = listed
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["takenAt"].clone())
        .collect();
    assert_eq!(taken.len(), 4);
    let first = taken.last().unwrap().as_str().unwrap();
    let path = format!("/users/{}/restore-factors?takenBefore={first}", app.id(new));
    app.post(&path, Some(&admin), Value::Null).await.ok();
    app.wait(30);
    let challenge = app.challenge(new).await;
    app.verify(&challenge, &app.code(&secret)).await.ok();

    // Past the window nothing is left to restore, whether it was tidied or not.
    app.reset_of(&admin, new).await.ok();
    app.wait(7 * 24 * 3600 + 1);
    let admin = app.boss().await;
    restore(&app, &admin, new)
        .await
        .refused(400, "There are no factors to restore");
    crate::keeping::tidy_by_a_settled_clock(&app).await;
    let left = format!(
        "SELECT count(*) FROM factor WHERE user_id = x'{}'",
        app.id(new).0.simple()
    );
    assert_eq!(app.count(&left), 0);
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
async fn who_may_restore_is_asked_and_a_second_admin_where_the_organisation_wants_one() {
    let server = MailServer::start();
    let rule = OrganizationSettings {
        admin_on_admin: AdminOnAdmin::SecondAdmin,
        ..OrganizationSettings::default()
    };
    let app = app(&server, rule).await;
    let admin = app.boss().await;
    let second = app.minted(app.id("admin@acme.example")).await;
    let target = "second@acme.example";
    let asked = app.reset_of(&admin, target).await;
    assert_eq!(asked.status, 202);
    let approve = format!("/approvals/{}/approve", asked.text("approvalId"));
    app.post(&approve, Some(&second), Value::Null).await.ok();
    let asked = restore(&app, &admin, target).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    assert!(!app.find(target).mfa_enabled);
    let path = format!("/approvals/{}", asked.text("approvalId"));
    let shown = app.call(Method::GET, &path, Some(&admin), None).await.ok();
    assert_eq!(shown.body["verb"], "restore-factors");
    let approve = format!("{path}/approve");
    let done = app.post(&approve, Some(&second), Value::Null).await.ok();
    assert_eq!(done.body["message"], "Factors restored successfully");
    assert!(app.find(target).mfa_enabled);

    let member = app.minted(app.id("member@acme.example")).await;
    restore(&app, &member, "phone@acme.example")
        .await
        .refused(403, "Role ORG_ADMIN is required");
    let own = restore(&app, &admin, "boss@acme.example").await;
    own.refused(
        403,
        "You cannot do this to your own account; another administrator can",
    );
    let stranger = app.id("dev@globex.example");
    let path = format!("/users/{stranger}/restore-factors");
    let answer = app.post(&path, Some(&admin), Value::Null).await;
    answer.refused(404, &format!("User not found with id: {stranger}"));
    let path = format!("/users/{stranger}/suspended-factors");
    let answer = app.call(Method::GET, &path, Some(&admin), None).await;
    answer.refused(404, &format!("User not found with id: {stranger}"));
}

#[tokio::test]
async fn the_window_opens_again_by_an_admins_word_as_often_as_it_closes() {
    let server = MailServer::start();
    let code = OrganizationSettings {
        enrolment_code_required: true,
        enrolment_window_hours: 48,
        ..OrganizationSettings::default()
    };
    let app = app(&server, code).await;
    let phone = "phone@acme.example";
    let admin = app.boss().await;
    let unlock = || async { unlock(&app, &app.boss().await, phone).await.ok() };
    let first = app.reset_of(&admin, phone).await.ok().text("enrolmentCode");
    // Nobody came in time, and the first to try is locked out.
    app.wait(48 * 3600);
    app.login(phone).await.refused(403, LOCKED);
    let second = unlock().await.text("enrolmentCode");
    assert_ne!(first, second);
    // And again; this time nobody even tried.
    app.wait(48 * 3600);
    assert!(app.find(phone).locked.is_none());
    let third = unlock().await.text("enrolmentCode");
    // The code lapses a day before the window: without another one nobody gets in, and no reset helps.
    app.wait(24 * 3600);
    let token = app.token(phone).await;
    let secret = app.set_up(&token).await;
    let confirm = async |code: &str| app.confirm_with(&token, &secret, code).await;
    confirm(&third).await.refused(400, "Validation failed");
    let admin = app.boss().await;
    app.reset_of(&admin, phone)
        .await
        .refused(400, "MFA is not enabled for this user");
    let fourth = unlock().await.text("enrolmentCode");
    for old in [&first, &second, &third] {
        confirm(old).await.refused(400, "Validation failed");
    }
    confirm(&fourth).await.ok();
    assert!(app.find(phone).mfa_enabled);
    // Used up: unlocking an account that is open changes nothing and gives no code.
    let again = unlock().await;
    assert_eq!(again.body.get("enrolmentCode"), None);
    let trail = format!("{:?}", app.entries());
    for code in [first, second, third, fourth] {
        assert!(!trail.contains(&code));
    }
}

#[tokio::test]
async fn what_an_attacker_made_ends_when_the_factors_are_restored() {
    let server = MailServer::start();
    let app = app(&server, OrganizationSettings::default()).await;
    let admin = app.boss().await;
    let second = "second@acme.example";
    app.reset_of(&admin, second).await.ok();
    enrol(&app, second).await;
    let theirs = app.minted(app.id(second)).await;
    let key = app
        .post(
            "/api-keys",
            Some(&theirs),
            json!({ "name": "SIEM", "scopes": ["audit:read"] }),
        )
        .await
        .text("key");
    let read = async || {
        app.anonymous()
            .send(Method::GET, "/api/v1/audit-logs", None, &[("X-API-Key", &key)])
            .await
            .status
            .as_u16()
    };
    assert_eq!(read().await, 200);
    restore(&app, &admin, second).await.ok();
    assert_eq!(read().await, 401);
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "USER_FACTORS_RESTORE");
    assert_eq!(entry["details"]["apiKeysRevoked"], 1);
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

#[tokio::test]
async fn an_admin_whose_answer_was_lost_asks_for_another_enrolment_code() {
    let server = MailServer::start();
    let code = OrganizationSettings {
        enrolment_code_required: true,
        ..OrganizationSettings::default()
    };
    let app = app(&server, code).await;
    let phone = "phone@acme.example";
    let admin = app.boss().await;
    let lost = app.reset_of(&admin, phone).await.ok().text("enrolmentCode");
    let until = app.find(phone).enrolment_due.expect("due").until;
    mails(&app, &server).await;
    app.wait(3600);
    let answer = unlock(&app, &admin, phone).await.ok();
    let code = answer.text("enrolmentCode");
    assert_ne!(code, lost);
    let due = app.find(phone).enrolment_due.expect("due");
    assert_eq!(due.until, until, "the window is as long as it was");
    assert_eq!(due.code_until, Some(until));
    assert!(mails(&app, &server).await[0].text.contains("There is a new code"));
    let entry = app.last_entry();
    assert_eq!(entry["details"]["changes"]["enrolmentCode"], "issued anew");
    let token = app.token(phone).await;
    let secret = app.set_up(&token).await;
    let confirm = async |code: &str| app.confirm_with(&token, &secret, code).await;
    confirm(&lost).await.refused(400, "Validation failed");
    confirm(&code).await.ok();
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
