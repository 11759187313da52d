//! Contract B3: users made, changed, deleted.

use jiff::SignedDuration;
use latchkey::domain::account::{OrganizationSettings, Role};
use latchkey::limiter::Limits;
use latchkey::service::refusals::record_floods;
use poem::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{app_with_mail, user_path};
use crate::support::{ADMIN, DEVELOPER, PASSWORD, TestApp, per_minute};

#[tokio::test]
async fn a_user_is_made_without_a_password_and_the_admin_hands_over_the_link() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let body = json!({ "email": "Nora@Acme.example", "name": "Nora", "isOrgAdmin": true });
    let made = admin.post("/api/v1/users", body).await;
    let user = made.assert_status(201);
    assert_eq!(user["email"], "Nora@Acme.example");
    assert_eq!(
        (&user["isOrgAdmin"], &user["isActive"], &user["mfaEnabled"]),
        (&json!(true), &json!(true), &json!(false))
    );
    let link = user["invitationLink"].as_str().unwrap();
    assert!(
        link.starts_with("http://127.0.0.1:8080/invitation#lko_"),
        "{link}"
    );
    assert_eq!(user["invitationExpiresAt"], "2026-02-25T10:30:00.000Z");
    let entry = app.last_entry();
    assert_eq!(
        (
            &entry["eventType"],
            &entry["actor"]["id"],
            &entry["details"]["role"]
        ),
        (&json!("USER_CREATE"), &json!(ADMIN), &json!("org-admin"))
    );
    assert!(!entry.to_string().contains("lko_"), "{entry}");
    let taken = admin
        .post("/api/v1/users", json!({ "email": "nora@acme.example" }))
        .await;
    taken.assert_error(409, "A user with e-mail nora@acme.example exists already");
    assert_eq!(app.entries("USER_CREATE", "DENIED"), 1);
    // Elsewhere the same address is another person.
    let elsewhere = app.admin_of_other_org().await;
    let body = json!({ "email": "nora@acme.example" });
    elsewhere.post("/api/v1/users", body).await.assert_status(201);
}

#[tokio::test]
async fn where_mail_is_sent_the_link_goes_to_the_user_alone() {
    let app = app_with_mail().await;
    let made = app
        .admin()
        .await
        .post("/api/v1/users", json!({ "email": "nora@acme.example" }))
        .await;
    assert!(
        made.assert_status(201).get("invitationLink").is_none(),
        "{}",
        made.text
    );
    let [mail] = &app.owed_mail()[..] else {
        panic!("one mail")
    };
    assert_eq!(mail.to, "nora@acme.example");
    assert!(mail.body.contains("/invitation#lko_"), "{mail:?}");
    let kept = app.owed_payloads().concat();
    assert!(
        !kept.contains("lko_"),
        "a copy of the database opens nothing: {kept}"
    );
}

#[tokio::test]
async fn a_new_admin_is_announced_to_the_others() {
    let app = app_with_mail().await;
    let patch = json!({ "isOrgAdmin": true });
    app.admin()
        .await
        .patch(&user_path(&app.member), patch)
        .await
        .assert_ok();
    let mail = app.owed_mail();
    let to = |subject: &str| -> Vec<_> {
        let some = mail.iter().filter(|mail| mail.subject == subject);
        some.map(|mail| mail.to.as_str()).collect()
    };
    assert_eq!(
        to("ACME has a new administrator"),
        ["admin@acme.example", "second@acme.example"]
    );
    assert_eq!(to("Your account for ACME was changed"), ["member@acme.example"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_new_user_is_told_by_field() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for (body, field) in [
        (json!({ "email": "nobody" }), "email"),
        (json!({ "email": "a@b.example", "name": "x".repeat(321) }), "name"),
        (
            json!({ "email": "a@b.example", "password": "chosen by the admin" }),
            "password",
        ),
        (
            json!({ "email": "a@b.example", "role": "MEMBER", "isOrgAdmin": true }),
            "role",
        ),
        (json!({ "email": "a@b.example", "role": "HELP_DESK" }), "role"),
        (json!({ "email": "a@b.example", "role": "OPERATOR" }), "role"),
        (json!({}), "email"),
    ] {
        let answer = admin.post("/api/v1/users", body.clone()).await;
        answer.assert_status(400);
        let problem = &answer.assert_envelope().body["validationErrors"][field];
        assert!(problem.is_string(), "{body}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_a_role_ends_sessions_at_once() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = user_path(&app.second_admin);
    let second = app.caller(&app.second_admin).await;

    let renamed = admin.patch(&path, json!({ "name": "Sam Second" })).await;
    assert_eq!(renamed.assert_ok()["name"], "Sam Second");
    second.get("/api/v1/users").await.assert_ok();
    assert_eq!(
        app.last_entry()["details"]["changes"],
        json!({ "name": "changed" })
    );

    let demoted = admin.patch(&path, json!({ "isOrgAdmin": false })).await;
    assert_eq!(demoted.assert_ok()["isOrgAdmin"], false);
    second
        .get("/api/v1/users")
        .await
        .assert_error(401, "The access token has been revoked");
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "USER_UPDATE");
    assert_eq!(
        entry["details"]["changes"]["role"],
        json!({ "from": "org-admin", "to": "member" })
    );
    assert_eq!(entry["details"]["sessionsEnded"], 1);

    let unnamed = admin.patch(&path, json!({ "name": null })).await;
    assert_eq!(unnamed.assert_ok()["name"], Value::Null);
    let entries = app.trail().len();
    admin
        .patch(&path, json!({ "isOrgAdmin": false, "isActive": true }))
        .await
        .assert_ok();
    admin.patch(&path, json!({})).await.assert_ok();
    assert_eq!(app.trail().len(), entries, "nothing changed, no entry");
}

#[tokio::test]
async fn a_deactivated_user_is_out_at_once_and_comes_back_with_the_old_password() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = user_path(&app.member);
    let member = app.member().await;
    let patch = json!({ "isActive": false });
    assert_eq!(admin.patch(&path, patch).await.assert_ok()["isActive"], false);
    let sessions = "/api/v1/account/sessions";
    assert_eq!(member.get(sessions).await.status.as_u16(), 401);
    app.log_in("member@acme.example", PASSWORD)
        .await
        .assert_error(401, "Invalid credentials");
    admin.patch(&path, json!({ "isActive": true })).await.assert_ok();
    assert_eq!(
        member.get(sessions).await.status.as_u16(),
        401,
        "its old session stays ended"
    );
    app.log_in("member@acme.example", PASSWORD).await.assert_ok();
}

#[tokio::test]
async fn the_last_admin_stays() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let own = format!("/api/v1/users/{ADMIN}");
    admin
        .delete(&user_path(&app.second_admin))
        .await
        .assert_status(204);
    let demoted = admin.patch(&own, json!({ "isOrgAdmin": false })).await;
    demoted.assert_error(400, "Cannot demote the last organization admin");
    let off = admin.patch(&own, json!({ "isActive": false })).await;
    off.assert_error(400, "Cannot deactivate the last organization admin");
    let deleted = admin.delete(&own).await;
    deleted.assert_error(400, "Cannot delete the last organization admin");
    assert_eq!(app.last_entry()["result"], "DENIED");
    // An admin who can't act doesn't count.
    let further = app.further("locked", Role::OrgAdmin).await;
    let lock = "UPDATE user SET locked_at = 1, locked_reason = 'test' WHERE email = 'locked@acme.example'";
    app.execute(lock).await;
    let deleted = admin.delete(&own).await;
    deleted.assert_error(400, "Cannot delete the last organization admin");
    admin
        .patch(&user_path(&further), json!({ "locked": false }))
        .await
        .assert_ok();
    admin.delete(&own).await.assert_status(204);
}

#[tokio::test]
async fn two_admins_who_demote_each_other_at_once_leave_one() {
    let app = TestApp::new().await;
    let (one, two) = (app.admin().await, app.caller(&app.second_admin).await);
    let (paths, patch) = (
        [user_path(&app.second_admin), user_path(&app.admin)],
        json!({ "isOrgAdmin": false }),
    );
    let (first, second) = tokio::join!(one.patch(&paths[0], patch.clone()), two.patch(&paths[1], patch));
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses[0], 200, "{} {}", first.text, second.text);
    assert!(statuses[1] >= 400, "{} {}", first.text, second.text);
    assert_eq!(app.count("SELECT count(*) FROM user WHERE role = 'org-admin' AND organization_id = (SELECT id FROM organization WHERE slug = 'acme')"), 1);
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_the_trail_stays() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let developer = app.caller(&app.developer).await;
    let gone = admin.delete(&user_path(&app.developer)).await;
    gone.assert_status(204);
    assert!(gone.text.is_empty());
    let message = format!("User not found with id: {DEVELOPER}");
    admin
        .get(&user_path(&app.developer))
        .await
        .assert_error(404, &message);
    admin
        .delete(&user_path(&app.developer))
        .await
        .assert_error(404, &message);
    assert_eq!(
        developer.get("/api/v1/account/sessions").await.status.as_u16(),
        401
    );
    assert_eq!(app.entries("USER_DELETE", "SUCCESS"), 1);
    assert_eq!(app.entries("USER_DELETE", "DENIED"), 1);
    assert_eq!(
        app.count("SELECT count(*) FROM factor WHERE user_id = x'770e8400e29b41d4a716446655440004'"),
        0
    );
}

#[tokio::test]
async fn another_organisations_user_is_no_user_for_any_verb() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for user in [
        app.other_developer.id.to_string(),
        Uuid::from_u128(0xdead).to_string(),
    ] {
        for (method, verb, event_type) in VERBS {
            let path = format!("/api/v1/users/{user}{verb}");
            let body = (method == Method::PATCH).then(|| json!({ "isActive": false }));
            let entries = app.trail().len();
            let answer = admin.send(method.clone(), &path, body, &[]).await;
            answer.assert_error(404, &format!("User not found with id: {user}"));
            let Some(event_type) = event_type else {
                assert_eq!(app.trail().len(), entries, "{method} {path} is a read");
                continue;
            };
            assert_eq!(app.trail().len(), entries + 1, "{method} {path}");
            let entry = app.last_entry();
            assert_eq!(entry["eventType"], event_type, "{method} {path}");
            assert_eq!(entry["result"], "DENIED");
            assert_eq!(entry["errorMessage"], answer.body["message"]);
            let named = json!({ "type": "USER", "id": user, "name": null });
            assert_eq!(entry["resource"], named, "nothing but what the caller wrote");
            assert_eq!(entry["organizationId"], app.acme.to_string());
            assert!(
                entry["details"].as_object().is_none_or(serde_json::Map::is_empty),
                "{entry}"
            );
        }
    }
    let document = latchkey::http::document();
    let paths = document["paths"].as_object().unwrap().iter();
    let there: usize = paths
        .filter(|(path, _)| path.starts_with("/api/v1/users/{id}"))
        .map(|(_, item)| item.as_object().unwrap().len())
        .sum();
    assert_eq!(there, VERBS.len() - 1, "a verb on users is missing here: add it");
}

/// Every verb on a user, and the type of its entry; `erase` is one of `DELETE`.
const VERBS: [(Method, &str, Option<&str>); 9] = [
    (Method::GET, "", None),
    (Method::PATCH, "", Some("USER_UPDATE")),
    (Method::DELETE, "", Some("USER_DELETE")),
    (Method::DELETE, "?erase=true", Some("USER_DELETE")),
    (Method::DELETE, "/sessions", Some("USER_SESSIONS_END")),
    (Method::POST, "/reset-password", Some("USER_PASSWORD_RESET")),
    (Method::POST, "/reset-mfa", Some("USER_MFA_RESET")),
    (Method::POST, "/restore-factors", Some("USER_FACTORS_RESTORE")),
    (Method::GET, "/suspended-factors", None),
];

#[tokio::test]
async fn sessions_of_a_user_are_ended_by_an_admin() {
    let app = TestApp::new().await;
    let developer = app.caller(&app.developer).await;
    app.caller(&app.developer).await;
    let ended = app
        .admin()
        .await
        .delete(&format!("{}/sessions", user_path(&app.developer)))
        .await;
    assert_eq!(ended.assert_ok(), &json!({ "sessionsEnded": 2 }));
    assert_eq!(
        developer.get("/api/v1/account/sessions").await.status.as_u16(),
        401
    );
    assert_eq!(app.last_entry()["details"]["sessionsEnded"], 2);
}

#[tokio::test]
async fn unlocking_opens_the_window_for_enrolment_again() {
    let app = TestApp::with(OrganizationSettings {
        mfa_required: true,
        enrolment_code_required: true,
        enrolment_window_hours: 24,
        ..Default::default()
    })
    .await;
    let reset = app.admin().await.reset(DEVELOPER).await;
    let first = reset.assert_ok()["enrolmentCode"].as_str().unwrap().to_owned();
    app.advance(SignedDuration::from_hours(25));
    let email = "dev@acme.example";
    let locked = "The account is locked. Ask an administrator to unlock it";
    app.log_in(email, PASSWORD).await.assert_error(403, locked);
    let admin = app.admin().await;
    let shown = admin.get(&user_path(&app.developer)).await;
    assert_eq!(
        shown.assert_ok()["lockedReason"],
        "MFA was not set up in time after a reset"
    );
    let unlocked = admin
        .patch(&user_path(&app.developer), json!({ "locked": false }))
        .await;
    let second = unlocked.assert_ok()["enrolmentCode"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert!(unlocked.body.get("lockedReason").is_none(), "{}", unlocked.text);
    assert!(!app.last_entry().to_string().contains(&second));
    let login = app.log_in(email, PASSWORD).await;
    assert_eq!(login.assert_ok()["mfaSetupRequired"], true);
    let locked = admin
        .patch(&user_path(&app.developer), json!({ "locked": true }))
        .await;
    assert!(
        locked.body["validationErrors"]["locked"].is_string(),
        "{}",
        locked.text
    );
}

#[tokio::test]
async fn where_the_organisation_asks_for_it_every_verb_needs_a_step_up() {
    let app = TestApp::with(OrganizationSettings {
        step_up_minutes: Some(10),
        ..Default::default()
    })
    .await;
    let admin = app.admin().await; // minted: no second factor was used
    let path = user_path(&app.member);
    let answers = [
        admin.patch(&path, json!({ "isActive": false })).await,
        admin.delete(&path).await,
        admin.call(&format!("{path}/reset-password")).await,
        admin.delete(&format!("{path}/sessions")).await,
        admin
            .post("/api/v1/users", json!({ "email": "n@acme.example" }))
            .await,
        admin
            .patch("/api/v1/organization/settings", json!({ "stepUpMinutes": null }))
            .await,
        admin
            .call(&format!("/api/v1/approvals/{}/approve", Uuid::nil()))
            .await,
    ];
    for answer in answers {
        answer.assert_error(401, "A more recent authentication is required");
        let challenge = answer.header("www-authenticate");
        assert!(
            challenge.contains("insufficient_user_authentication"),
            "{challenge}"
        );
    }
    admin.get("/api/v1/users").await.assert_ok();
}

#[tokio::test]
async fn a_flood_of_verbs_is_429_and_one_entry_per_verb() {
    let limits = Limits {
        admin_by_caller: per_minute(2),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let admin = app.admin().await;
    admin.get("/api/v1/users").await.assert_ok();
    admin.get("/api/v1/approvals").await.assert_ok();
    let entries = app.trail().len();
    for _ in 0..5 {
        let refused = admin.delete(&user_path(&app.member)).await;
        refused.assert_status(429);
        assert!(!refused.header("retry-after").is_empty());
        let refused = admin
            .patch(&user_path(&app.member), json!({ "isActive": false }))
            .await;
        refused.assert_status(429);
    }
    assert_eq!(app.trail().len(), entries);
    app.advance(SignedDuration::from_secs(61));
    assert_eq!(record_floods(&app.services, false).await.unwrap(), 2);
    assert_eq!(app.last_entry()["details"]["refused"], 5);
}

#[tokio::test]
async fn members_and_the_help_desk_change_nobody() {
    let app = TestApp::with(OrganizationSettings {
        help_desk_enabled: true,
        ..Default::default()
    })
    .await;
    let desk = app.further("desk", Role::HelpDesk).await;
    for user in [&app.member, &desk] {
        let caller = app.caller(user).await;
        let path = user_path(&app.developer);
        let role = "Role ORG_ADMIN is required";
        caller
            .patch(&path, json!({ "isActive": false }))
            .await
            .assert_error(403, role);
        caller.delete(&path).await.assert_error(403, role);
        caller
            .call(&format!("{path}/reset-password"))
            .await
            .assert_error(403, role);
        caller
            .delete(&format!("{path}/sessions"))
            .await
            .assert_error(403, role);
        let new = json!({ "email": "n@acme.example", "isOrgAdmin": true });
        caller.post("/api/v1/users", new).await.assert_error(403, role);
        caller.get("/api/v1/users").await.assert_error(403, role);
        caller
            .patch(&user_path(user), json!({ "isOrgAdmin": true }))
            .await
            .assert_error(403, role);
    }
    assert!(app.entries("USER_UPDATE", "DENIED") == 4);
}

#[tokio::test]
async fn a_name_has_no_control_characters_however_it_is_given() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = user_path(&app.member);
    for name in ["two\nlines", "\u{1b}[31mred", &"x".repeat(321)] {
        let refused = admin.patch(&path, json!({ "name": name })).await;
        refused.assert_error(400, "Validation failed");
        assert!(refused.body["validationErrors"]["name"].is_string());
    }
    admin
        .patch(&path, json!({ "name": "Ada Lovelace" }))
        .await
        .assert_ok();
}
