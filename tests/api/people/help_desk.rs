//! The role `HELP_DESK`: it exists only where it is switched on, resets members, and does nothing else.

use latchkey::domain::account::{OrganizationSettings, Role};
use serde_json::json;

use super::user_path;
use crate::support::{TestApp, enrol};

async fn with_desk() -> TestApp {
    TestApp::with(OrganizationSettings {
        help_desk_enabled: true,
        ..Default::default()
    })
    .await
}

#[tokio::test]
async fn the_help_desk_resets_a_member_and_nobody_above() {
    let app = with_desk().await;
    let desk = app.further("desk", Role::HelpDesk).await;
    let colleague = app.further("colleague", Role::HelpDesk).await;
    for user in [&desk, &colleague] {
        enrol(&app.services, user.id).await;
    }
    let caller = app.caller(&desk).await;
    let above = "You cannot do this to an account with a higher role";
    caller.reset(app.admin.id).await.assert_error(403, above);
    caller.reset(colleague.id).await.assert_error(403, above);
    let own = "You cannot do this to your own account; another administrator can";
    caller.reset(desk.id).await.assert_error(403, own);
    let theirs = caller.reset(app.other_developer.id).await;
    assert_eq!(theirs.status, 404, "another organisation's user is none");
    assert_eq!(app.entries("USER_MFA_RESET", "DENIED"), 4, "each is an entry");
    let live = "SELECT count(*) FROM factor WHERE suspended_at IS NULL";
    let before = app.count(live);
    let done = caller.reset(app.developer.id).await;
    assert_eq!(done.assert_ok(), &json!({ "message": "MFA reset successfully" }));
    assert_eq!(app.count(live), before - 1);
    assert_eq!(app.last_entry()["actor"]["email"], "desk@acme.example");
}

#[tokio::test]
async fn where_it_is_switched_off_the_role_opens_nothing_and_cannot_be_given() {
    let app = with_desk().await;
    let desk = app.further("desk", Role::HelpDesk).await;
    let caller = app.caller(&desk).await;
    let admin = app.admin().await;
    let off = json!({ "helpDeskEnabled": false });
    admin
        .patch("/api/v1/organization/settings", off)
        .await
        .assert_ok();
    // At once, with the token from before (ASVS 8.3.2).
    let refused = caller.reset(app.developer.id).await;
    refused.assert_error(403, "Role ORG_ADMIN is required");
    let given = admin
        .patch(&user_path(&app.member), json!({ "role": "HELP_DESK" }))
        .await;
    given.assert_error(400, "Validation failed");
    assert_eq!(
        given.body["validationErrors"]["role"],
        "HELP_DESK is not enabled in this organisation"
    );
    let made = json!({ "email": "new@acme.example", "role": "HELP_DESK" });
    admin
        .post("/api/v1/users", made)
        .await
        .assert_error(400, "Validation failed");
}

#[tokio::test]
async fn a_deactivated_admin_comes_back_only_as_the_rule_between_admins_says() {
    use latchkey::domain::account::AdminOnAdmin::{Refused, SecondAdmin};
    for (rule, status) in [(SecondAdmin, 202), (Refused, 403)] {
        let app = super::app_where(rule).await;
        app.further("third", Role::OrgAdmin).await;
        let admin = app.admin().await;
        let path = user_path(&app.second_admin);
        admin.patch(&path, json!({ "isActive": false })).await.assert_ok();
        let back = admin.patch(&path, json!({ "isActive": true })).await;
        assert_eq!(back.status, status, "{}", back.text);
        let inactive = "SELECT count(*) FROM user WHERE active = 0";
        assert_eq!(app.count(inactive), 1, "nothing has been changed");
    }
}
