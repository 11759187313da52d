//! The window for enrolment, opened again by an admin.

use latchkey::domain::account::OrganizationSettings;

use super::super::mails;
use super::super::receivers::MailServer;
use super::{LOCKED, app, unlock};

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
