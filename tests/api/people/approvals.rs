//! Contract B6: what a further admin has to agree to.

mod carried_out;
mod in_hand;
mod rule;

use jiff::SignedDuration;
use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, Role, User};
use latchkey::service::approvals::expire_approvals;
use latchkey::store::approvals::find_approval;
use serde_json::json;
use uuid::Uuid;

use super::{app_where, app_with_mail, user_path};
use crate::guests::Guest;
use crate::support::{Answer, Caller, DEVELOPER, TestApp, reset_path};

const AWAITS: &str = "MFA reset awaits approval";

/// A policy that wants so many further admins, for an hour.
fn wants_admins(n: u8) -> Vec<u8> {
    // result<verdict, string>, aligned to 8: ok; verdict 2 with reason, approvals, expires-secs.
    Guest {
        items: r#"(data (i32.const 8300) "Resets need further admins")"#.into(),
        before: format!(
            "(i32.store8 (i32.const 8200) (i32.const 2))
             (i32.store (i32.const 8208) (i32.const 8300))
             (i32.store (i32.const 8212) (i32.const 26))
             (i32.store8 (i32.const 8216) (i32.const {n}))
             (i32.store (i32.const 8220) (i32.const 3600))
             (i32.const 8192)"
        ),
        ..Guest::default()
    }
    .wasm()
}

async fn app_that_wants_admins(n: u8) -> TestApp {
    let app = TestApp::new().await;
    app.bind_module(wants_admins(n)).await;
    app
}

/// Asks for the developer's reset as the first admin, and gives the approval's id.
async fn asked(app: &TestApp) -> String {
    let admin = app.admin().await;
    let body = json!({ "reason": "Lost phone", "ticket": "HD-1" });
    let answer = admin.post(&reset_path(DEVELOPER), body).await;
    assert_eq!(answer.assert_status(202)["message"], AWAITS, "{}", answer.text);
    answer.body["approvalId"].as_str().unwrap().to_owned()
}

async fn approve(caller: &Caller<'_>, id: &str) -> Answer {
    caller.call(&format!("/api/v1/approvals/{id}/approve")).await
}

async fn reject(caller: &Caller<'_>, id: &str) -> Answer {
    caller.call(&format!("/api/v1/approvals/{id}/reject")).await
}

/// Where it stands, read without a call, which would be an entry of its own.
fn state(app: &TestApp, id: &str) -> &'static str {
    let (id, at) = (id.parse().unwrap(), app.services.clock.now());
    let find = |db: &_| find_approval(db, app.acme, id);
    app.services
        .store
        .read(find)
        .unwrap()
        .unwrap()
        .state_at(at)
        .as_str()
}

fn has_mfa(app: &TestApp, user: &User) -> bool {
    let hex = user.id.0.simple();
    app.count(&format!(
        "SELECT count(*) FROM factor WHERE suspended_at IS NULL AND user_id = x'{hex}'"
    )) > 0
}

#[tokio::test]
async fn a_second_admin_agrees_and_the_reset_is_done_once() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    assert!(has_mfa(&app, &app.developer), "nothing is changed yet");
    assert_eq!(app.last_entry()["details"]["approvalId"], id.as_str());
    let second = app.caller(&app.second_admin).await;

    let listed = second.get("/api/v1/approvals?state=open").await;
    let [approval] = &listed.assert_ok().as_array().unwrap()[..] else {
        panic!("{}", listed.text)
    };
    assert_eq!(listed.header("x-total-count"), "1");
    assert_eq!(approval["verb"], "reset-mfa");
    assert_eq!(approval["requester"]["email"], "admin@acme.example");
    assert_eq!(approval["target"]["email"], "dev@acme.example");
    assert_eq!(
        (&approval["reason"], &approval["ticket"]),
        (&json!("Lost phone"), &json!("HD-1"))
    );
    assert_eq!(approval["askedBecause"], "Resets need further admins");
    assert_eq!(
        (&approval["needed"], &approval["expiresAt"]),
        (&json!(1), &json!("2026-02-18T11:30:00.000Z"))
    );

    let done = approve(&second, &id).await;
    assert_eq!(done.assert_ok(), &json!({ "message": "MFA reset successfully" }));
    assert!(!has_mfa(&app, &app.developer));
    assert_eq!(state(&app, &id), "done");
    // In the trail: asked, agreed, done; the last two in one transaction, with one request id.
    let mut trail = app.trail();
    trail.retain(|entry| entry["eventType"] != "TOKEN_MINT");
    let [reset, agreed, asked] = &trail[..3] else {
        panic!("three entries")
    };
    assert_eq!(asked["eventType"], "APPROVAL_REQUEST");
    assert_eq!(asked["details"]["wanted"], json!({ "verb": "reset-mfa" }));
    assert_eq!(agreed["eventType"], "APPROVAL_AGREE");
    assert_eq!(agreed["actor"]["email"], "second@acme.example");
    assert_eq!(reset["eventType"], "USER_MFA_RESET");
    assert_eq!(reset["actor"]["email"], "admin@acme.example");
    assert_eq!(
        reset["details"]["approvedBy"],
        json!([app.second_admin.id.to_string()])
    );
    assert_eq!(
        (&reset["details"]["reason"], &reset["details"]["approvalId"]),
        (&json!("Lost phone"), &json!(id))
    );
    assert_eq!(reset["requestId"], agreed["requestId"]);

    let again = approve(&second, &id).await;
    again.assert_error(409, "This is closed already: done");
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 1);
}

#[tokio::test]
async fn neither_who_asked_nor_on_whom_agrees_and_on_whom_says_no_either() {
    let app = app_where(AdminOnAdmin::SecondAdmin).await;
    let admin = app.admin().await;
    let answer = admin.reset(app.second_admin.id).await;
    let id = answer.assert_status(202)["approvalId"]
        .as_str()
        .unwrap()
        .to_owned();
    let target = app.caller(&app.second_admin).await;
    let own = "You asked for this yourself; another administrator has to agree";
    let about = "This is about your own account; another administrator has to agree";
    approve(&admin, &id).await.assert_error(403, own);
    approve(&target, &id).await.assert_error(403, about);
    reject(&target, &id).await.assert_error(403, about);
    assert_eq!(app.entries("APPROVAL_AGREE", "DENIED"), 2);
    assert_eq!(app.entries("APPROVAL_REJECT", "DENIED"), 1);
    let member = app.member().await;
    approve(&member, &id)
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
    let stranger = app.admin_of_other_org().await;
    approve(&stranger, &id)
        .await
        .assert_error(404, &format!("Approval not found with id: {id}"));
    assert!(has_mfa(&app, &app.second_admin));
    let third = app.further("third", Role::OrgAdmin).await;
    // Made after it was asked for: one for the occasion.
    app.advance(SignedDuration::from_secs(1));
    let patch = json!({ "isOrgAdmin": true });
    let promoted = admin.patch(&user_path(&app.member), patch).await;
    promoted.assert_status(202);
    approve(&app.caller(&third).await, &id).await.assert_ok();
    assert!(!has_mfa(&app, &app.second_admin));
}

#[tokio::test]
async fn an_admin_made_for_the_occasion_does_not_count() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    app.advance(SignedDuration::from_secs(1));
    let body = json!({ "email": "puppet@acme.example", "isOrgAdmin": true });
    let made = app.admin().await.post("/api/v1/users", body).await;
    made.assert_status(201);
    let puppet = app
        .services
        .store
        .read(|db| latchkey::store::accounts::find_user_by_email(db, app.acme, "puppet@acme.example"))
        .unwrap()
        .unwrap();
    approve(&app.caller(&puppet).await, &id).await.assert_error(
        403,
        "You became an administrator after this was asked for; another one has to agree",
    );
    assert!(has_mfa(&app, &app.developer));
}

#[tokio::test]
async fn several_admins_have_to_agree_each_once() {
    let app = app_that_wants_admins(2).await;
    let third = app.further("third", Role::OrgAdmin).await;
    let id = asked(&app).await;
    let (second, third) = (app.caller(&app.second_admin).await, app.caller(&third).await);
    let first = approve(&second, &id).await;
    assert_eq!(
        first.assert_status(202),
        &json!({ "message": AWAITS, "approvalId": id })
    );
    assert!(has_mfa(&app, &app.developer));
    assert_eq!(
        app.last_entry()["details"]["agreed"],
        json!(1),
        "{}",
        app.last_entry()
    );
    approve(&second, &id)
        .await
        .assert_error(409, "You agreed to this already");
    approve(&third, &id).await.assert_ok();
    assert!(!has_mfa(&app, &app.developer));
    let both = app.last_entry()["details"]["approvedBy"].clone();
    assert_eq!(both.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn two_agreements_at_once_both_count() {
    let app = app_that_wants_admins(2).await;
    let third = app.further("third", Role::OrgAdmin).await;
    let id = asked(&app).await;
    let (second, third) = (app.caller(&app.second_admin).await, app.caller(&third).await);
    let (one, two) = tokio::join!(approve(&second, &id), approve(&third, &id));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 202], "{} {}", one.text, two.text);
    assert!(!has_mfa(&app, &app.developer));
    assert_eq!(app.entries("APPROVAL_AGREE", "SUCCESS"), 2);
}

#[tokio::test]
async fn an_earlier_agreement_counts_only_while_its_admin_is_one() {
    let app = app_that_wants_admins(2).await;
    let third = app.further("third", Role::OrgAdmin).await;
    let id = asked(&app).await;
    approve(&app.caller(&app.second_admin).await, &id)
        .await
        .assert_status(202);
    let demote = json!({ "isOrgAdmin": false });
    app.admin()
        .await
        .patch(&user_path(&app.second_admin), demote)
        .await
        .assert_ok();
    let refused = approve(&app.caller(&third).await, &id).await;
    refused.assert_error(
        409,
        "An administrator who agreed before no longer counts; ask for it again",
    );
    assert!(has_mfa(&app, &app.developer));
    assert_eq!(state(&app, &id), "denied");
}

#[tokio::test]
async fn a_rejection_ends_it() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    let second = app.caller(&app.second_admin).await;
    let path = format!("/api/v1/approvals/{id}/reject");
    let answer = second.post(&path, json!({ "reason": "Nobody called us" })).await;
    assert_eq!(answer.assert_ok(), &json!({ "message": "Rejected" }));
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "APPROVAL_REJECT");
    assert_eq!(entry["details"]["reason"], "Nobody called us");
    approve(&second, &id)
        .await
        .assert_error(409, "This is closed already: rejected");
    assert!(has_mfa(&app, &app.developer));
    assert_eq!(state(&app, &id), "rejected");
}

#[tokio::test]
async fn who_asked_takes_it_back_and_nobody_agrees_afterwards() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    let admin = app.admin().await;
    approve(&admin, &id).await.assert_error(
        403,
        "You asked for this yourself; another administrator has to agree",
    );
    let path = format!("/api/v1/approvals/{id}/reject");
    let answer = admin
        .post(&path, json!({ "reason": "The phone turned up" }))
        .await;
    assert_eq!(answer.assert_ok(), &json!({ "message": "Withdrawn" }));
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"]),
        (&json!("APPROVAL_REJECT"), &json!("SUCCESS"))
    );
    assert_eq!(entry["actor"]["email"], "admin@acme.example");
    assert_eq!(entry["details"]["withdrawn"], true);
    assert_eq!(entry["details"]["reason"], "The phone turned up");
    assert_eq!(state(&app, &id), "rejected");
    let second = app.caller(&app.second_admin).await;
    approve(&second, &id)
        .await
        .assert_error(409, "This is closed already: rejected");
    reject(&admin, &id)
        .await
        .assert_error(409, "This is closed already: rejected");
    assert!(has_mfa(&app, &app.developer));
}

#[tokio::test]
async fn the_help_desk_takes_back_what_it_asked_for_and_nothing_else() {
    let app = TestApp::with(OrganizationSettings {
        help_desk_enabled: true,
        ..Default::default()
    })
    .await;
    app.bind_module(wants_admins(1)).await;
    let desk = app.further("desk", Role::HelpDesk).await;
    let caller = app.caller(&desk).await;
    let role = "Role ORG_ADMIN is required";
    let others = asked(&app).await;
    reject(&caller, &others).await.assert_error(403, role);
    let answer = caller.reset(app.developer.id).await;
    let id = answer.assert_status(202)["approvalId"].as_str().unwrap();
    approve(&caller, id).await.assert_error(403, role);
    let answer = reject(&caller, id).await;
    assert_eq!(answer.assert_ok(), &json!({ "message": "Withdrawn" }));
    assert_eq!((state(&app, id), state(&app, &others)), ("rejected", "open"));
}

#[tokio::test]
async fn what_nobody_agrees_to_lapses_with_an_entry() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    app.advance(SignedDuration::from_secs(3600));
    let second = app.caller(&app.second_admin).await;
    approve(&second, &id)
        .await
        .assert_error(409, "This has expired; ask for it again");
    assert_eq!(state(&app, &id), "expired", "even before anybody noted it");
    let open = second.get("/api/v1/approvals?state=open").await;
    assert_eq!(open.assert_ok(), &json!([]));
    assert_eq!(expire_approvals(&app.services).await.unwrap(), 1);
    assert_eq!(expire_approvals(&app.services).await.unwrap(), 0);
    assert_eq!(app.last_entry()["eventType"], "APPROVAL_EXPIRE");
    assert_eq!(app.last_entry()["actor"]["type"], "SYSTEM");
}

fn third_id(app: &TestApp) -> Uuid {
    let found = app
        .services
        .store
        .read(|db| latchkey::store::accounts::find_user_by_email(db, app.acme, "third@acme.example"))
        .unwrap();
    found.unwrap().id.0
}

#[tokio::test]
async fn those_who_can_agree_are_told() {
    let app = app_with_mail().await;
    app.bind_module(wants_admins(1)).await;
    asked(&app).await;
    let mail = app.owed_mail();
    let to: Vec<_> = mail.iter().map(|mail| mail.to.as_str()).collect();
    assert_eq!(to, ["second@acme.example"], "{mail:?}");
    assert!(mail[0].body.contains("Resets need further admins"));
}

#[tokio::test]
async fn a_malformed_id_is_400_and_an_unknown_one_404() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    approve(&admin, "nonsense")
        .await
        .assert_error(400, "The approval id must be a UUID");
    let unknown = Uuid::from_u128(7);
    let message = format!("Approval not found with id: {unknown}");
    approve(&admin, &unknown.to_string())
        .await
        .assert_error(404, &message);
    admin
        .get(&format!("/api/v1/approvals/{unknown}"))
        .await
        .assert_error(404, &message);
    admin
        .get("/api/v1/approvals?state=maybe")
        .await
        .assert_status(400);
}

/// Every other admin is notified of each request: a stolen session must not bury them in mail.
#[tokio::test]
async fn who_has_asked_for_much_that_is_open_asks_for_no_more() {
    let app = app_with_mail().await;
    app.bind_module(wants_admins(1)).await;
    let admin = app.admin().await;
    let path = format!("{}?erase=true", user_path(&app.member));
    let mut ids = Vec::new();
    for _ in 0..20 {
        let asked = admin.delete(&path).await;
        ids.push(
            asked.assert_status(202)["approvalId"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let (approvals, told) = (app.count("SELECT count(*) FROM approval"), app.owed_mail().len());
    assert_eq!((approvals, told), (20, 20));
    let full = "You have 20 open approval requests, the most allowed; withdraw some, or have another administrator \
                decide them";
    admin.delete(&path).await.assert_error(409, full);
    admin.reset(DEVELOPER).await.assert_error(409, full);
    assert_eq!(app.count("SELECT count(*) FROM approval"), approvals);
    assert_eq!(app.owed_mail().len(), told);
    assert_eq!(app.entries("USER_DELETE", "DENIED"), 1);
    // Another admin's requests do not count, nor do those that have ended.
    let second = app.caller(&app.second_admin).await;
    second.reset(DEVELOPER).await.assert_status(202);
    reject(&admin, &ids[0]).await.assert_ok();
    admin.reset(DEVELOPER).await.assert_status(202);
    app.advance(SignedDuration::from_hours(24));
    app.admin().await.delete(&path).await.assert_status(202);
}
