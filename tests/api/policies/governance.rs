//! Who may loosen a policy: never one admin alone what binds them.

use latchkey::domain::account::{OrganizationSettings, PolicyChanges, Role};
use latchkey::service::plugins::{Manager, switch_plugin};
use serde_json::{Value, json};

use crate::guests::{before, denying};
use crate::plugins::{
    BINDINGS, PLUGINS, assert_denied, bind, fixture, install, install_and_bind, path, patient, roll_back,
};
use crate::support::{Answer, Caller, DEVELOPER, TestApp};

const SETTINGS: &str = "/api/v1/organization/settings";

async fn acme_where(policy_changes: PolicyChanges) -> TestApp {
    TestApp::with(OrganizationSettings {
        policy_changes,
        ..Default::default()
    })
    .await
}

/// Binds the policy that lets admins be reset only with a second admin, and lets it demand one.
async fn demanding(app: &TestApp, admin: &Caller<'_>) -> String {
    let binding = install_and_bind(admin, fixture("second-admin"), patient(json!({ "config": {} }))).await;
    admin.patch(&binding, json!({ "order": 7 })).await.assert_ok(); // nothing was demanded yet
    let asked = admin.reset(app.second_admin.id).await;
    assert_eq!(asked.status.as_u16(), 202, "{}", asked.text);
    binding
}

fn approval(answer: &Answer) -> String {
    assert_eq!(answer.status.as_u16(), 202, "{}", answer.text);
    let id = answer.body["approvalId"].as_str();
    format!(
        "/api/v1/approvals/{}",
        id.unwrap_or_else(|| panic!("{}", answer.text))
    )
}

async fn agree(caller: &Caller<'_>, approval: &str) -> Answer {
    caller.post(&format!("{approval}/approve"), json!({})).await
}

#[tokio::test]
async fn a_policy_that_demands_a_second_admin_is_not_loosened_by_one_alone() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = demanding(&app, &admin).await;
    let entries = app.trail().len();
    let bindings = admin.get(BINDINGS).await.assert_ok().clone();
    let mut waiting = Vec::new();
    for answer in [
        admin.delete(&binding).await,
        admin.patch(&binding, json!({ "disabled": true })).await,
        admin.patch(&binding, json!({ "mode": "monitor" })).await,
        admin
            .patch(&binding, json!({ "config": { "privileged": false } }))
            .await,
        admin
            .patch(&binding, json!({ "onFailure": { "otherwise": "skip" } }))
            .await,
        admin
            .patch(&binding, json!({ "limits": { "deadlineMs": 5 } }))
            .await,
        admin
            .patch(&binding, json!({ "hooks": ["before-reset"], "order": 1 }))
            .await,
    ] {
        if answer.status.as_u16() == 400 {
            continue; // this plugin has no such configuration or hook
        }
        waiting.push(approval(&answer));
    }
    assert!(waiting.len() >= 6, "{waiting:?}");
    let mut now = admin.get(BINDINGS).await.assert_ok().clone();
    now[0]["statistics"] = bindings[0]["statistics"].clone();
    assert_eq!(now, bindings, "nothing is changed");
    assert_eq!(app.trail().len(), entries + waiting.len());
    let asked = app.last_entry();
    assert_eq!(asked["eventType"], "APPROVAL_REQUEST");
    assert_eq!(asked["resource"]["name"], "second-admin");

    let own = agree(&admin, &waiting[0]).await;
    own.assert_error(
        403,
        "You asked for this yourself; another administrator has to agree",
    );
    let member = agree(&app.member().await, &waiting[0]).await;
    member.assert_error(403, "Role ORG_ADMIN is required");
    let elsewhere = app.admin_of_other_org().await;
    assert_eq!(agree(&elsewhere, &waiting[0]).await.status.as_u16(), 404);
    assert_eq!(
        admin.reset(app.second_admin.id).await.status.as_u16(),
        202,
        "it still demands one"
    );
}

#[tokio::test]
async fn a_second_admin_sees_what_is_to_change_and_agreeing_changes_it() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let second = app.caller(&app.second_admin).await;
    let binding = demanding(&app, &admin).await;
    let asked = admin.patch(&binding, json!({ "mode": "monitor" })).await;
    assert_eq!(
        asked.body["mode"], "enforce",
        "the binding as it is: {}",
        asked.text
    );
    let waiting = approval(&asked);
    let shown = second.get(&waiting).await;
    assert_eq!(shown.assert_ok()["verb"], "change-policy");
    assert_eq!(shown.body["requester"]["email"], "admin@acme.example");
    let policy = &shown.body["policy"];
    assert_eq!(policy["plugin"], "second-admin");
    assert_eq!(policy["verb"], "update");
    assert_eq!(policy["patch"], json!({ "mode": "monitor" }), "{policy}");
    assert_eq!(
        policy["changes"],
        json!({ "mode": { "from": "enforce", "to": "monitor" } })
    );
    let done = agree(&second, &waiting).await;
    assert_eq!(done.assert_ok()["message"], "Policy changed successfully");
    assert_eq!(second.get(&waiting).await.body["state"], "done");
    assert_eq!(admin.get(&binding).await.body["mode"], "monitor");
    let trail = app.trail();
    assert_eq!(trail[0]["eventType"], "POLICY_PLUGIN_UPDATE", "{}", trail[0]);
    assert_eq!(trail[0]["actor"]["email"], "admin@acme.example");
    assert_eq!(
        trail[0]["details"]["approvedBy"],
        json!([app.second_admin.id.to_string()])
    );
    assert_eq!(trail[1]["eventType"], "APPROVAL_AGREE");
    assert_eq!(trail[1]["actor"]["email"], "second@acme.example");
    let third = app.further("third", Role::OrgAdmin).await;
    admin.reset(app.second_admin.id).await.assert_ok();
    let second = app.caller(&app.second_admin).await; // the reset ended their sessions

    // It demanded one once; what it is now does not matter.
    let removed = approval(&admin.delete(&binding).await);
    let again = approval(&admin.patch(&binding, json!({ "disabled": true })).await);
    // Whoever reset the second admin may be the second admin: it takes a third.
    let puppet = agree(&second, &removed).await;
    assert_eq!(puppet.status.as_u16(), 403, "{}", puppet.text);
    let second = app.caller(&third).await;
    agree(&second, &removed).await.assert_ok();
    assert_eq!(admin.get(&binding).await.status.as_u16(), 404);
    let gone = agree(&second, &again).await;
    gone.assert_error(409, "The policy binding is gone");
    assert_eq!(second.get(&again).await.body["state"], "denied");
}

#[tokio::test]
async fn what_was_agreed_to_is_what_is_changed() {
    let app = acme_where(PolicyChanges::SecondAdmin).await;
    let admin = app.admin().await;
    let second = app.caller(&app.second_admin).await;
    let one = install(&admin, denying("1.0.0", "one")).await;
    let two = install(&admin, denying("2.0.0", "two")).await;
    // A further policy can only make resets harder: it waits for nobody.
    let bound = bind(&admin, &one, patient(json!({}))).await;
    assert_eq!(bound.status.as_u16(), 201, "{}", bound.text);
    let binding = path(&bound);
    let switch = approval(&admin.patch(&binding, json!({ "pluginDigest": two })).await);
    let order = approval(&admin.patch(&binding, json!({ "order": 9 })).await);
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    agree(&second, &switch).await.assert_ok();
    assert_denied(&admin.reset(DEVELOPER).await, "two");
    agree(&second, &order).await.assert_error(
        409,
        "The policy binding was changed since this was asked for; ask for it again",
    );
    let back = approval(&roll_back(&admin, &binding).await);
    assert_eq!(second.get(&back).await.body["policy"]["verb"], "roll-back");
    let no = second
        .post(&format!("{back}/reject"), json!({ "reason": "no" }))
        .await;
    no.assert_ok();
    assert_denied(&admin.reset(DEVELOPER).await, "two");
    let back = approval(&roll_back(&admin, &binding).await);
    agree(&second, &back).await.assert_ok();
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    // Who asked must still be an admin when it is carried out.
    let late = approval(&admin.delete(&binding).await);
    let demoted = json!({ "isOrgAdmin": false });
    let user = format!("/api/v1/users/{}", app.admin.id);
    second.patch(&user, demoted).await.assert_ok();
    let moot = agree(&second, &late).await;
    assert_eq!(moot.status.as_u16(), 409, "{}", moot.text);
    assert_denied(&second.reset(DEVELOPER).await, "one");
}

#[tokio::test]
async fn a_change_that_nobody_could_agree_to_is_refused_with_the_way_out() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = demanding(&app, &admin).await;
    let user = format!("/api/v1/users/{}", app.second_admin.id);
    admin
        .patch(&user, json!({ "isOrgAdmin": false }))
        .await
        .assert_ok();
    admin.delete(&binding).await.assert_error(
        409,
        "Another administrator would have to agree, and there is none; the operator can change it at the \
         command line",
    );
}

#[tokio::test]
async fn where_the_operator_alone_changes_policies_admins_change_none() {
    let app = acme_where(PolicyChanges::OperatorOnly).await;
    app.bind_module(denying("1.0.0", "no")).await;
    let admin = app.admin().await;
    let bound = admin.get(BINDINGS).await;
    let binding = format!("{BINDINGS}/{}", bound.assert_ok()[0]["id"].as_str().unwrap());
    let digest = install(&admin, before("(i32.const 512)")).await; // installed decides nothing
    let only = "Policies of this organisation are changed by the operator alone, at the command line";
    for answer in [
        admin.delete(&binding).await,
        admin.patch(&binding, json!({ "disabled": true })).await,
        bind(&admin, &digest, json!({})).await,
    ] {
        answer.assert_error(403, only);
    }
    assert_denied(&admin.reset(DEVELOPER).await, "no");
}

#[tokio::test]
async fn the_rules_about_policies_are_only_made_stricter_by_admins() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let set = async |settings: Value| admin.patch(SETTINGS, settings).await;
    set(json!({ "cleanReplayRequired": true, "policyChanges": "second-admin" }))
        .await
        .assert_ok();
    let only = "Only the operator can loosen the rules about policies, at the command line";
    for looser in [
        json!({ "cleanReplayRequired": false }),
        json!({ "policyChanges": "allowed" }),
    ] {
        set(looser).await.assert_error(403, only);
    }
    set(json!({ "policyChanges": "operator-only" })).await.assert_ok();
    set(json!({ "policyChanges": "second-admin" }))
        .await
        .assert_error(403, only);
    let now = admin.get(SETTINGS).await;
    assert_eq!(now.assert_ok()["policyChanges"], "operator-only");
    assert_eq!(now.body["cleanReplayRequired"], true);

    let lone = app.admin_of_other_org().await;
    let refused = lone
        .patch(SETTINGS, json!({ "policyChanges": "second-admin" }))
        .await;
    assert!(
        refused.body["validationErrors"]["policyChanges"].is_string(),
        "{}",
        refused.text
    );
}

/// What the operator has switched off stays off, whether it was ever bound, and whoever removes it.
#[tokio::test]
async fn a_file_that_the_operator_switched_off_is_off_when_it_is_installed_again() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let file = denying("1.0.0", "no");
    let digest = install(&admin, file.clone()).await;
    let operator = Manager::operator(&app.services);
    let switched = switch_plugin(&app.services, &operator, &digest, true).await;
    assert_eq!(switched, Ok(true));
    let removed = admin.delete(&format!("{PLUGINS}/{digest}")).await;
    assert_eq!(removed.status.as_u16(), 204, "{}", removed.text);
    assert_eq!(
        app.count("SELECT count(*) FROM module_file"),
        0,
        "only that it is off is kept"
    );

    assert_eq!(install(&admin, file).await, digest);
    let terms = patient(json!({}));
    bind(&admin, &digest, terms).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let on = switch_plugin(&app.services, &operator, &digest, false).await;
    assert_eq!(on, Ok(true));
    assert_denied(&admin.reset(app.second_admin.id).await, "no");
}
