//! Where the organisation wants a second admin for whatever is done to an admin.

use latchkey::domain::account::{AdminOnAdmin, Role};
use latchkey::service::housekeeping;
use serde_json::json;

use super::super::{app_where, token_of, user_path};
use super::{approve, third_id};
use crate::support::{DEVELOPER, TestApp};

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
