//! Contract B6: what a further admin has to agree to.

use jiff::SignedDuration;
use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, Role, User};
use latchkey::service::approvals::expire_approvals;
use latchkey::service::{housekeeping, not_me};
use latchkey::store::approvals::find_approval;
use latchkey::store::challenges::{self, Purpose};
use serde_json::json;
use uuid::Uuid;

use super::{app_where, app_with_mail, token_of, user_path};
use crate::guests::{Guest, before};
use crate::support::{Answer, Caller, DEVELOPER, TestApp, enrol, reset_path};

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

#[tokio::test]
async fn policies_are_asked_again_when_it_is_carried_out() {
    let app = TestApp::new().await; // Wednesday, 10:30 UTC
    let window = json!({ "timeZone": "UTC", "days": ["wed"], "from": "10:00", "to": "11:00" });
    app.bind("change-window", window).await;
    app.bind_module(wants_admins(1)).await;
    let id = asked(&app).await;
    app.advance(SignedDuration::from_mins(45));
    let denied = approve(&app.caller(&app.second_admin).await, &id).await;
    denied.assert_status(403);
    assert_eq!(
        denied.body["denial"]["plugin"], "change-window",
        "{}",
        denied.text
    );
    assert!(has_mfa(&app, &app.developer));
    assert_eq!(state(&app, &id), "denied");
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"]),
        (&json!("USER_MFA_RESET"), &json!("DENIED"))
    );
    assert_eq!(app.entries("APPROVAL_AGREE", "SUCCESS"), 1);
}

#[tokio::test]
async fn a_policy_that_fails_leaves_it_open_to_be_tried_again() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    app.bind_module(before("unreachable")).await;
    let second = app.caller(&app.second_admin).await;
    approve(&second, &id)
        .await
        .assert_error(500, "A policy could not be evaluated");
    assert_eq!(state(&app, &id), "open");
    assert_eq!(app.last_entry()["result"], "FAILURE");
    assert_eq!(app.entries("APPROVAL_AGREE", "SUCCESS"), 0);
    assert!(has_mfa(&app, &app.developer));
}

#[tokio::test]
async fn the_requester_must_still_be_an_active_admin() {
    for change in [json!({ "isOrgAdmin": false }), json!({ "isActive": false })] {
        let app = app_that_wants_admins(1).await;
        let id = asked(&app).await;
        let second = app.caller(&app.second_admin).await;
        second.patch(&user_path(&app.admin), change).await.assert_ok();
        let refused = approve(&second, &id).await;
        refused.assert_error(409, "The requester may no longer do this");
        assert!(has_mfa(&app, &app.developer));
        assert_eq!(app.last_entry()["details"]["closed"], true);
        let found = second.get(&format!("/api/v1/approvals/{id}")).await;
        assert_eq!(found.assert_ok()["state"], "denied");
    }
}

#[tokio::test]
async fn a_factor_enrolled_since_is_not_what_was_asked_for() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    app.advance(SignedDuration::from_secs(1));
    let hex = app.developer.id.0.simple();
    let sql = format!("DELETE FROM factor WHERE user_id = x'{hex}'");
    app.services
        .store
        .write(move |tx| Ok(tx.execute(&sql, [])?))
        .await
        .unwrap();
    enrol(&app.services, app.developer.id).await;
    let refused = approve(&app.caller(&app.second_admin).await, &id).await;
    refused.assert_error(409, "The user has enrolled a factor since this was asked for");
    assert!(has_mfa(&app, &app.developer));
}

/// The last write of the transaction fails, as if the machine had stopped there: all or nothing.
#[tokio::test]
async fn a_crash_half_way_leaves_it_open_and_the_user_as_they_were() {
    let app = app_that_wants_admins(1).await;
    let id = asked(&app).await;
    let run = |sql: &'static str| app.services.store.write(move |tx| Ok(tx.execute_batch(sql)?));
    let entries = app.trail().len();
    for (break_at, name) in [
        (
            "CREATE TEMP TRIGGER fault BEFORE UPDATE ON approval BEGIN SELECT RAISE(ABORT, 'fault'); END",
            "state",
        ),
        (
            "CREATE TEMP TRIGGER fault BEFORE INSERT ON reset_call BEGIN SELECT RAISE(ABORT, 'fault'); END",
            "history",
        ),
        (
            "CREATE TEMP TRIGGER fault BEFORE INSERT ON question BEGIN SELECT RAISE(ABORT, 'fault'); END",
            "question",
        ),
    ] {
        run(break_at).await.unwrap();
        let failed = approve(&app.caller(&app.second_admin).await, &id).await;
        failed.assert_error(500, "Internal error");
        run("DROP TRIGGER fault").await.unwrap();
        assert!(has_mfa(&app, &app.developer), "{name}");
        assert_eq!(state(&app, &id), "open", "{name}");
        assert_eq!(app.count("SELECT count(*) FROM reset_call"), 0, "{name}");
        assert_eq!(app.entries("APPROVAL_AGREE", "SUCCESS"), 0, "{name}");
    }
    assert_eq!(app.entries("APPROVAL_AGREE", "FAILURE"), 3);
    assert!(app.trail().len() > entries);
    approve(&app.caller(&app.second_admin).await, &id)
        .await
        .assert_ok();
    assert!(!has_mfa(&app, &app.developer));
}

#[tokio::test]
async fn the_approvers_session_must_live_not_the_requesters() {
    let app = app_that_wants_admins(1).await;
    let admin = app.admin().await;
    let id = admin.reset(DEVELOPER).await.body["approvalId"]
        .as_str()
        .unwrap()
        .to_owned();
    admin.call("/api/v1/auth/logout").await.assert_ok();
    let second = app.caller(&app.second_admin).await;
    let ended = app.caller(&app.second_admin).await;
    ended.call("/api/v1/auth/logout").await.assert_ok();
    approve(&ended, &id)
        .await
        .assert_error(401, "The access token has been revoked");
    approve(&second, &id).await.assert_ok();
}

#[tokio::test]
async fn where_a_second_admin_is_the_rule_every_way_to_an_admins_account_asks_for_one() {
    let app = app_where(AdminOnAdmin::SecondAdmin).await;
    let third = app.further("third", Role::OrgAdmin).await;
    let (admin, third) = (app.admin().await, app.caller(&third).await);
    let path = user_path(&app.second_admin);

    let reset = admin.call(&format!("{path}/reset-password")).await;
    assert_eq!(
        reset.assert_status(202)["message"],
        "Password reset awaits approval"
    );
    let id = reset.body["approvalId"].as_str().unwrap().to_owned();
    assert_eq!(app.last_entry()["eventType"], "APPROVAL_REQUEST");
    let done = approve(&third, &id).await;
    assert_eq!(done.assert_ok()["message"], "Password reset successfully");
    token_of(done.body["invitationLink"].as_str().unwrap());

    let demoted = admin.patch(&path, json!({ "isOrgAdmin": false })).await;
    assert_eq!(demoted.assert_status(202)["isOrgAdmin"], true, "not yet");
    let id = demoted.body["approvalId"].as_str().unwrap().to_owned();
    let found = third.get(&format!("/api/v1/approvals/{id}")).await;
    assert_eq!(found.assert_ok()["change"], json!({ "role": "MEMBER" }));
    approve(&third, &id).await.assert_ok();
    let now = admin.get(&path).await;
    assert_eq!(now.assert_ok()["isOrgAdmin"], false);

    // A second admin for the quorum is one who was agreed to.
    let new = json!({ "email": "puppet@acme.example", "isOrgAdmin": true });
    assert_eq!(admin.post("/api/v1/users", new).await.status.as_u16(), 403);
    let promoted = admin
        .patch(&user_path(&app.member), json!({ "isOrgAdmin": true }))
        .await;
    promoted.assert_status(202);
    // What one does about a stolen account waits for nobody.
    admin
        .delete(&format!("{}/sessions", user_path(&app.second_admin)))
        .await
        .assert_ok();

    let deleted = admin.delete(&format!("/api/v1/users/{}", third_id(&app))).await;
    deleted.assert_status(202);
    let loosened = admin
        .patch(
            "/api/v1/organization/settings",
            json!({ "adminOnAdmin": "allowed" }),
        )
        .await;
    loosened.assert_error(
        403,
        "Only the operator can loosen the rule between administrators, at the command line",
    );
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
async fn an_agreed_deletion_deletes_and_takes_its_approval_with_it() {
    let app = app_where(AdminOnAdmin::SecondAdmin).await;
    let third = app.further("third", Role::OrgAdmin).await;
    let deleted = app.admin().await.delete(&user_path(&app.second_admin)).await;
    let id = deleted.assert_status(202)["approvalId"]
        .as_str()
        .unwrap()
        .to_owned();
    let third = app.caller(&third).await;
    approve(&third, &id).await.assert_ok();
    third.get(&user_path(&app.second_admin)).await.assert_status(404);
    assert_eq!(app.entries("USER_DELETE", "SUCCESS"), 1);
    approve(&third, &id).await.assert_status(404);
}

#[tokio::test]
async fn a_lone_admin_does_not_lock_themselves_into_the_rule() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let settings = "/api/v1/organization/settings";
    let rule = json!({ "adminOnAdmin": "second-admin" });
    admin
        .delete(&user_path(&app.second_admin))
        .await
        .assert_status(204);
    let refused = admin.patch(settings, rule).await;
    assert!(
        refused.body["validationErrors"]["adminOnAdmin"].is_string(),
        "{}",
        refused.text
    );
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

#[tokio::test]
async fn erasing_a_user_takes_a_second_admin_and_then_leaves_no_trace_of_who_they_were() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    let path = format!("{}?erase=true", user_path(&app.developer));
    let asked = admin.delete(&path).await;
    let id = asked.assert_status(202)["approvalId"]
        .as_str()
        .unwrap()
        .to_owned();
    housekeeping::tidy(&app.services).await;
    let before = serde_json::to_string(&app.trail()).unwrap();
    assert!(before.contains("dev@acme.example"), "nothing was changed yet");
    approve(&admin, &id).await.assert_status(403);
    let second = app.caller(&app.second_admin).await;
    let shown = second.get(&format!("/api/v1/approvals/{id}")).await;
    assert_eq!(shown.assert_ok()["verb"], "erase-user");
    approve(&second, &id).await.assert_ok();
    second.get(&user_path(&app.developer)).await.assert_status(404);
    housekeeping::tidy(&app.services).await;
    let after = serde_json::to_string(&app.trail()).unwrap();
    assert!(!after.contains("dev@acme.example"), "{after}");
    let erased = app.last_entry_of("AUDIT_ERASE");
    assert_eq!(erased["actor"]["email"], "admin@acme.example", "who wanted it");
    assert_eq!(erased["resource"]["id"], DEVELOPER);
    assert_eq!(app.entries("USER_DELETE", "SUCCESS"), 1);
}

#[tokio::test]
async fn a_lone_admin_erases_nobody_and_a_member_does_not_ask() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin
        .delete(&user_path(&app.second_admin))
        .await
        .assert_status(204);
    let path = format!("{}?erase=true", user_path(&app.developer));
    let refused = admin.delete(&path).await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("second administrator")
    );
    let member = app.member().await;
    member
        .delete(&path)
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
    let other = app.admin_of_other_org().await;
    other.delete(&path).await.assert_status(404);
    admin.get(&user_path(&app.developer)).await.assert_ok();
    assert_eq!(app.count("SELECT count(*) FROM erasure"), 0);
}

const IN_HAND: &str = "You and an administrator who asked for this or agreed to it don't count as two: within the \
                       last 7 days one of you made the other's account, gave it its role, unlocked it or reset its \
                       credentials; another administrator has to agree";

/// One who makes an account and knows its password is not a second person once somebody else promotes it.
#[tokio::test]
async fn whom_the_one_who_asks_had_in_hand_does_not_count_for_a_week() {
    let app = app_that_wants_admins(1).await;
    let (admin, second) = (app.admin().await, app.caller(&app.second_admin).await);
    let made = admin
        .post("/api/v1/users", json!({ "email": "puppet@acme.example" }))
        .await;
    made.assert_status(201);
    let kept = token_of(made.body["invitationLink"].as_str().unwrap());
    let path = format!("/api/v1/users/{}", made.body["id"].as_str().unwrap());
    second
        .patch(&path, json!({ "isOrgAdmin": true }))
        .await
        .assert_ok();
    // The link of a member sets no admin's password.
    let accept = json!({ "token": kept, "password": "another horse battery staple" });
    let accepted = app
        .anonymous()
        .post("/api/v1/auth/accept-invitation", accept)
        .await;
    assert_eq!(accepted.status.as_u16(), 401, "{}", accepted.text);
    app.advance(SignedDuration::from_secs(1));
    let find = |email: &str| {
        let found = |db: &_| latchkey::store::accounts::find_user_by_email(db, app.acme, email);
        app.services.store.read(found).unwrap().unwrap()
    };
    let puppet = find("puppet@acme.example");
    let id = asked(&app).await;
    approve(&app.caller(&puppet).await, &id)
        .await
        .assert_error(403, IN_HAND);
    // Whom the one who asked reset is no other person, either.
    let third = app.further("third", Role::OrgAdmin).await;
    let reset = admin.call(&format!("{}/reset-password", user_path(&third))).await;
    reset.assert_ok();
    app.advance(SignedDuration::from_secs(1));
    approve(&app.caller(&third).await, &id)
        .await
        .assert_error(403, IN_HAND);
    assert!(has_mfa(&app, &app.developer));
    // Nor is who had the account in hand another person than who asks with it.
    let reversed = app.caller(&puppet).await.reset(DEVELOPER).await;
    let reversed = reversed.assert_status(202)["approvalId"]
        .as_str()
        .unwrap()
        .to_owned();
    approve(&admin, &reversed).await.assert_error(403, IN_HAND);
    app.advance(SignedDuration::from_hours(7 * 24));
    let (id, admin) = (asked(&app).await, app.admin().await);
    approve(&admin, &reversed)
        .await
        .assert_error(409, "This has expired; ask for it again");
    approve(&app.caller(&puppet).await, &id).await.assert_ok();
    assert!(!has_mfa(&app, &app.developer));
}

/// Where no mail is sent, the link or code is shown to the approver and not to the requester.
#[tokio::test]
async fn whom_the_one_who_asks_agreed_to_reset_does_not_count_either() {
    for verb in ["reset-password", "reset-mfa"] {
        let app = app_where(AdminOnAdmin::SecondAdmin).await;
        let third = app.further("third", Role::OrgAdmin).await;
        let fourth = app.further("fourth", Role::OrgAdmin).await;
        let (admin, rogue) = (app.admin().await, app.caller(&third).await);
        let ask = async |caller: &Caller<'_>, target: &User, verb: &str| {
            let answer = caller.call(&format!("{}/{verb}", user_path(target))).await;
            let id = answer.assert_status(202)["approvalId"].as_str().unwrap();
            id.to_owned()
        };
        let id = ask(&admin, &app.second_admin, verb).await;
        approve(&rogue, &id).await.assert_ok();
        app.advance(SignedDuration::from_secs(1));
        let second = app.caller(&app.second_admin).await;
        let id = ask(&rogue, &app.admin, "reset-password").await;
        approve(&second, &id).await.assert_error(403, IN_HAND);
        // The approver does not count for requests made with that account, either.
        let reversed = ask(&second, &app.admin, "reset-password").await;
        approve(&rogue, &reversed).await.assert_error(403, IN_HAND);
        approve(&app.caller(&fourth).await, &id).await.assert_ok();
    }
}

/// Unlocking opens the enrolment window again, and shows a new code where one is required.
#[tokio::test]
async fn whom_the_one_who_asks_unlocked_does_not_count_either() {
    for (left_behind, change) in [
        ("locked_at = 1, locked_reason = 'a test'", "locked"),
        ("enrolment_due_until = 1", "enrolmentWindow"),
        (
            "enrolment_due_until = 4102444800000, enrolment_code_hash = x'00', \
             enrolment_code_expires_at = 4102444800000",
            "enrolmentCode",
        ),
    ] {
        let app = app_that_wants_admins(1).await;
        let third = app.further("third", Role::OrgAdmin).await;
        let admin = app.admin().await;
        let sql = format!("UPDATE user SET {left_behind} WHERE email = 'third@acme.example'");
        let change_it = move |tx: &latchkey::store::Transaction<'_>| Ok(tx.execute(&sql, [])?);
        assert_eq!(app.services.store.write(change_it).await.unwrap(), 1);
        let unlocked = admin.patch(&user_path(&third), json!({ "locked": false })).await;
        unlocked.assert_ok();
        assert!(app.last_entry()["details"]["changes"][change].is_string() || change == "locked");
        app.advance(SignedDuration::from_secs(1));
        let id = asked(&app).await;
        approve(&app.caller(&third).await, &id)
            .await
            .assert_error(403, IN_HAND);
        app.advance(SignedDuration::from_hours(7 * 24));
        let id = asked(&app).await;
        approve(&app.caller(&third).await, &id).await.assert_ok();
    }
}

#[tokio::test]
async fn who_agreed_before_is_no_other_person_than_whom_they_had_in_hand() {
    let app = app_that_wants_admins(2).await;
    let id = asked(&app).await;
    let second = app.caller(&app.second_admin).await;
    let third = app.further("third", Role::OrgAdmin).await;
    second
        .call(&format!("{}/reset-password", user_path(&third)))
        .await
        .assert_ok();
    app.advance(SignedDuration::from_secs(1));
    approve(&second, &id).await.assert_status(202);
    approve(&app.caller(&third).await, &id)
        .await
        .assert_error(403, IN_HAND);
    let fourth = app.further("fourth", Role::OrgAdmin).await;
    approve(&app.caller(&fourth).await, &id).await.assert_error(
        403,
        "You became an administrator after this was asked for; another one has to agree",
    );
    assert!(has_mfa(&app, &app.developer));
    // It takes no two to say no.
    reject(&app.caller(&third).await, &id).await.assert_ok();
}

/// Recovering a stolen account also voids the requests that were made with it.
#[tokio::test]
async fn what_was_asked_for_with_an_account_does_not_outlive_its_recovery() {
    for recovery in ["reset-mfa", "reset-password", "sessions", "isActive", "not-me"] {
        let app = app_that_wants_admins(1).await;
        let id = asked(&app).await;
        app.advance(SignedDuration::from_secs(1));
        recover(&app, recovery).await;
        let second = app.caller(&app.second_admin).await;
        let refused = approve(&second, &id).await;
        refused.assert_error(
            409,
            "The account that asked for this was reset, deactivated, signed out or reported since; ask for it again",
        );
        assert_eq!(state(&app, &id), "denied", "{recovery}");
        assert_eq!(app.last_entry()["details"]["closed"], true, "{recovery}");
        assert!(has_mfa(&app, &app.developer), "{recovery}");
        // Requests made after the recovery count.
        app.advance(SignedDuration::from_secs(1));
        let id = asked(&app).await;
        let again = approve(&second, &id).await;
        if let "sessions" | "isActive" = recovery {
            again.assert_ok();
        } else {
            again.assert_error(403, IN_HAND);
        }
    }
}

/// Recovering a stolen account also voids the approvals that were given with it.
#[tokio::test]
async fn what_was_agreed_to_with_an_account_does_not_outlive_its_recovery() {
    let app = app_that_wants_admins(2).await;
    let third = app.further("third", Role::OrgAdmin).await;
    let admin = app.admin().await;
    let id = asked(&app).await;
    approve(&app.caller(&app.second_admin).await, &id)
        .await
        .assert_status(202);
    app.advance(SignedDuration::from_secs(1));
    let path = format!("{}/sessions", user_path(&app.second_admin));
    admin.delete(&path).await.assert_ok();
    approve(&app.caller(&third).await, &id).await.assert_error(
        409,
        "An administrator who agreed before no longer counts; ask for it again",
    );
    assert!(has_mfa(&app, &app.developer));
}

/// Recovers the first admin's account in the given way, as the second admin or by the user's own report, and
/// makes it usable again.
async fn recover(app: &TestApp, how: &str) {
    let (second, path) = (app.caller(&app.second_admin).await, user_path(&app.admin));
    match how {
        "sessions" => {
            second.delete(&format!("{path}/sessions")).await.assert_ok();
        }
        "isActive" => {
            for active in [false, true] {
                let patch = json!({ "isActive": active });
                second.patch(&path, patch).await.assert_ok();
            }
        }
        "not-me" => {
            let at = app.services.clock.now();
            let (link, kept) = not_me::new_link(&app.services, &app.admin, at);
            let keep = move |tx: &latchkey::store::Transaction<'_>| {
                let until = kept.expires_at;
                challenges::insert_challenge(tx, kept.user, &kept.hash, Purpose::NotMe, None, at, until)
            };
            app.services.store.write(keep).await.unwrap();
            let token = link.split_once('#').unwrap().1;
            let report = json!({ "token": token });
            let reported = app.anonymous().post("/api/v1/auth/not-me", report).await;
            assert!(reported.status.is_success(), "{}", reported.text);
            second.patch(&path, json!({ "locked": false })).await.assert_ok();
        }
        "reset-mfa" => {
            let awaits = second.call(&format!("{path}/{how}")).await;
            let id = awaits.assert_status(202)["approvalId"].as_str().unwrap();
            let third = app.further("third", Role::OrgAdmin).await;
            app.execute("UPDATE user SET role_since = 0").await;
            approve(&app.caller(&third).await, id).await.assert_ok();
        }
        verb => {
            second.call(&format!("{path}/{verb}")).await.assert_ok();
        }
    }
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

#[tokio::test]
async fn what_is_so_already_is_closed_with_an_entry() {
    let app = app_where(AdminOnAdmin::SecondAdmin).await;
    let admin = app.admin().await;
    let second = app.caller(&app.second_admin).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let asked = admin
            .patch(&user_path(&app.member), json!({ "isOrgAdmin": true }))
            .await;
        asked.assert_status(202);
        ids.push(asked.body["approvalId"].as_str().unwrap().to_owned());
    }
    approve(&second, &ids[0]).await.assert_ok();
    let again = approve(&second, &ids[1]).await;
    again.assert_error(409, "What was asked for is so already");
    assert_eq!(state(&app, &ids[1]), "denied");
    let entry = app.last_entry();
    assert_eq!(
        (&entry["eventType"], &entry["result"], &entry["details"]["closed"]),
        (&json!("APPROVAL_AGREE"), &json!("DENIED"), &json!(true))
    );
    // What was asked for long ago does not come back after a demotion.
    approve(&second, &ids[1])
        .await
        .assert_error(409, "This is closed already: denied");
}
