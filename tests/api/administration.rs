//! Contract B3 and B4.

use jiff::SignedDuration;
use latchkey::domain::account::OrganizationSettings;
use latchkey::service::Settings;
use poem::http::Method;
use serde_json::json;

use crate::support::{DEVELOPER, Setup, TestApp};

#[tokio::test]
async fn users_are_listed_by_address_and_only_their_own_organisations() {
    let app = TestApp::new().await;
    let answer = app.admin().await.get("/api/v1/users").await;
    let users = answer.assert_ok().as_array().unwrap();
    let emails: Vec<_> = users.iter().map(|u| u["email"].as_str().unwrap()).collect();
    assert_eq!(
        emails,
        [
            "admin@acme.example",
            "dev@acme.example",
            "member@acme.example",
            "second@acme.example"
        ]
    );
    assert_eq!(answer.header("x-total-count"), "4");
    assert_eq!(users[1]["id"], DEVELOPER);
    assert_eq!(users[1]["mfaEnabled"], true);
    assert_eq!(users[2]["mfaEnabled"], false);
}

#[tokio::test]
async fn users_are_found_and_paged() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let found = admin.get("/api/v1/users?query=DEV").await;
    assert_eq!(found.assert_ok().as_array().unwrap().len(), 1);
    let page = admin.get("/api/v1/users?page=1&size=3").await;
    assert_eq!(page.assert_ok().as_array().unwrap().len(), 1);
    assert_eq!(page.header("x-total-count"), "4");
    assert!(
        admin
            .get("/api/v1/users?query=%25")
            .await
            .assert_ok()
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert_eq!(admin.get("/api/v1/users?size=0").await.status.as_u16(), 400);
    assert_eq!(admin.get("/api/v1/users?page=-1").await.status.as_u16(), 400);
}

#[tokio::test]
async fn an_organisation_of_very_many_is_listed_in_pages_alone() {
    let app = TestApp::new().await;
    app.execute(
        "INSERT INTO user (id, organization_id, email, email_key, role, created_at, updated_at) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9996) \
         SELECT randomblob(16), (SELECT organization_id FROM user WHERE email_key = 'dev@acme.example'), \
         'n' || i || '@acme.example', 'n' || i || '@acme.example', 'member', 0, 0 FROM n",
    )
    .await;
    let admin = app.admin().await;
    let all = admin.get("/api/v1/users").await;
    assert_eq!(all.assert_ok().as_array().unwrap().len(), 10_000);
    app.employee("one-more").await;
    let refused = admin.get("/api/v1/users").await;
    refused.assert_error(400, "Validation failed");
    assert_eq!(
        refused.body["validationErrors"]["size"],
        "is needed with more than 10000 users (10001 match): ask for pages"
    );
    let few = admin.get("/api/v1/users?query=dev").await;
    assert_eq!(
        few.assert_ok().as_array().unwrap().len(),
        1,
        "what is found may be few"
    );
    let page = admin.get("/api/v1/users?page=10&size=1000").await;
    assert_eq!(page.assert_ok().as_array().unwrap().len(), 1);
    assert_eq!(page.header("x-total-count"), "10001");
}

#[tokio::test]
async fn settings_are_read_and_changed_and_the_change_is_recorded() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = "/api/v1/organization/settings";
    assert_eq!(admin.get(path).await.assert_ok()["mfaRequired"], false);
    let patch = json!({ "mfaRequired": true, "passwordExpirationDays": 90 });
    let changed = admin.patch(path, patch).await;
    assert_eq!(changed.assert_ok()["mfaRequired"], true);
    assert_eq!(changed.body["passwordExpirationDays"], 90);
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "ORGANIZATION_SETTINGS_UPDATE");
    assert_eq!(
        entry["details"]["changes"]["mfaRequired"],
        json!({ "from": false, "to": true })
    );
    assert_eq!(
        changed.body["enrolmentCodeMinutes"], 1440,
        "a day, where nobody says less"
    );
    for minutes in [10, 1440] {
        let changed = admin
            .patch(path, json!({ "enrolmentCodeMinutes": minutes }))
            .await;
        assert_eq!(changed.assert_ok()["enrolmentCodeMinutes"], minutes);
    }
    let off = admin.patch(path, json!({ "passwordExpirationDays": null })).await;
    assert_eq!(off.assert_ok()["passwordExpirationDays"], json!(null));
}

#[tokio::test]
async fn settings_out_of_range_are_refused_by_field_and_nothing_changes() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = "/api/v1/organization/settings";
    for (patch, field) in [
        (json!({ "passwordMinLength": 7 }), "passwordMinLength"),
        (json!({ "passwordMinLength": "12" }), "passwordMinLength"),
        (json!({ "passwordExpirationDays": 366 }), "passwordExpirationDays"),
        (json!({ "timeZone": "Mars/Olympus" }), "timeZone"),
        (json!({ "securityContact": "nobody" }), "securityContact"),
        (json!({ "enrolmentCodeMinutes": 9 }), "enrolmentCodeMinutes"),
        (json!({ "enrolmentCodeMinutes": 1441 }), "enrolmentCodeMinutes"),
        (json!({ "mfaReqired": true }), "mfaReqired"),
    ] {
        let answer = admin.patch(path, patch.clone()).await;
        assert_eq!(answer.status.as_u16(), 400, "{patch}: {}", answer.text);
        assert!(
            answer.body["validationErrors"][field].is_string(),
            "{patch}: {}",
            answer.text
        );
    }
    assert_eq!(admin.get(path).await.assert_ok()["passwordMinLength"], 12);
    let member = app.member().await;
    member
        .patch(path, json!({ "mfaRequired": true }))
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
}

/// What is weakened differs from what the admins would be told of, however often it is looked at.
#[tokio::test]
async fn settings_that_are_changed_meanwhile_again_and_again_are_409() {
    let acme = OrganizationSettings {
        mfa_required: true,
        ..Default::default()
    };
    let app = TestApp::with(acme).await;
    let admin = app.admin().await;
    // Only the writer's connection has the view: it sees other settings than every reader before it.
    app.execute(
        "CREATE TEMP VIEW organization AS SELECT id, slug, name, revision, \
         json_set(settings, '$.mfaRequired', json('false')) AS settings FROM main.organization",
    )
    .await;
    let path = "/api/v1/organization/settings";
    let patch = json!({ "mfaRequired": false, "passwordMinLength": 13 });
    let refused = admin.patch(path, patch.clone()).await;
    refused.assert_error(409, "The settings were changed at the same time. Try again");
    assert_eq!(app.last_entry()["result"], "DENIED");
    assert_eq!(admin.get(path).await.assert_ok()["passwordMinLength"], 12);
    app.execute("DROP VIEW temp.organization").await;
    admin.patch(path, patch).await.assert_ok();
}

/// A client that checks values by the document sends all that are taken, and no other.
#[tokio::test]
async fn the_document_has_the_ranges_that_settings_are_checked_against() {
    let schemas = &latchkey::http::document()["components"]["schemas"];
    let fields = &schemas["OrganizationSettingsPatch"]["properties"];
    let mut checked = 0;
    for (field, schema) in fields.as_object().unwrap() {
        if schema["type"] != "integer" {
            continue;
        }
        let bounds = ["minimum", "maximum"].map(|bound| schema[bound].as_i64().unwrap());
        let answered = &schemas["OrganizationSettings"]["properties"][field];
        for (bound, value) in ["minimum", "maximum"].into_iter().zip(bounds) {
            assert_eq!(answered[bound], value, "{field}: {bound} of an answer");
        }
        let [minimum, maximum] = bounds;
        for (value, expected) in [
            (minimum - 1, 400),
            (minimum, 200),
            (maximum, 200),
            (maximum + 1, 400),
        ] {
            // Each in its own, since some settings have an effect on the next call.
            let app = TestApp::new().await;
            let patch = json!({ field: value });
            let answer = app
                .admin()
                .await
                .patch("/api/v1/organization/settings", patch)
                .await;
            assert_eq!(
                answer.status.as_u16(),
                expected,
                "{field}: {value}: {}",
                answer.text
            );
        }
        checked += 1;
    }
    assert_eq!(checked, 6);
}

/// Whoever took over an admin's account loosens first. The contact that there was is told, not only the new one.
#[tokio::test]
async fn the_admins_and_the_old_contact_are_told_of_weaker_settings() {
    let app = TestApp::with(Setup {
        settings: Settings {
            mail: true,
            ..Settings::default()
        },
        acme: OrganizationSettings {
            mfa_required: true,
            enrolment_code_required: true,
            enrolment_code_minutes: 30,
            step_up_minutes: Some(720),
            password_require_uppercase: true,
            password_require_lowercase: true,
            password_require_digit: true,
            password_require_special_char: true,
            password_expiration_days: Some(90),
            security_contact: Some("security@acme.example".into()),
            ..OrganizationSettings::default()
        },
        ..Setup::default()
    })
    .await;
    let admin = app.admin().await;
    app.execute("UPDATE session SET second_factor_at = created_at, second_factor_kind = 'totp'")
        .await;
    let settings = "/api/v1/organization/settings";
    let told = |to: &str| {
        app.count(&format!(
            "SELECT count(*) FROM delivery WHERE payload ->> '$.to' = '{to}' \
             AND payload ->> '$.subject' LIKE '% is protected less than before'"
        ))
    };
    admin
        .patch(settings, json!({ "passwordMinLength": 14 }))
        .await
        .assert_ok();
    assert_eq!(told("second@acme.example"), 0, "nothing became weaker");
    for (patch, n) in [
        json!({ "securityContact": "thief@elsewhere.example" }),
        json!({ "mfaRequired": false }),
        json!({ "enrolmentCodeMinutes": 60 }),
        json!({ "enrolmentCodeRequired": false }),
        json!({ "stepUpMinutes": 1440 }),
        json!({ "stepUpMinutes": null }),
        json!({ "enrolmentWindowHours": 48 }),
        json!({ "helpDeskEnabled": true }),
        json!({ "passwordMinLength": 13 }),
        json!({ "passwordRequireUppercase": false }),
        json!({ "passwordRequireLowercase": false }),
        json!({ "passwordRequireDigit": false }),
        json!({ "passwordRequireSpecialChar": false }),
        json!({ "passwordExpirationDays": 180 }),
        json!({ "passwordExpirationDays": null }),
    ]
    .into_iter()
    .zip(0_i64..)
    {
        admin.patch(settings, patch).await.assert_ok();
        for to in ["admin@acme.example", "second@acme.example"] {
            assert_eq!(told(to), n + 1, "{to}");
        }
        assert_eq!(told("security@acme.example"), 1);
        assert_eq!(told("thief@elsewhere.example"), n);
    }
}

#[tokio::test]
async fn requiring_mfa_leaves_sessions_without_it_nothing_but_enrolment() {
    let app = TestApp::new().await;
    let login = app.log_in("member@acme.example", crate::support::PASSWORD).await;
    let token = login.assert_ok()["accessToken"].as_str().unwrap().to_owned();
    let member = app.bearer(&token);
    member.get("/api/v1/account/sessions").await.assert_ok();
    let settings = "/api/v1/organization/settings";
    let admin = app.admin().await;
    admin
        .patch(settings, json!({ "mfaRequired": true }))
        .await
        .assert_ok();
    assert_eq!(app.last_entry()["details"]["sessionsConfined"], 1);
    member
        .get("/api/v1/account/sessions")
        .await
        .assert_error(403, "Set up MFA before anything else");
    member
        .send(Method::POST, "/api/v1/mfa/setup", None, &[])
        .await
        .assert_ok();
    // An hour is enough to set it up, and then the session is over.
    app.advance(SignedDuration::from_secs(3600));
    let refresh = json!({ "refreshToken": login.body["refreshToken"] });
    let ended = app.anonymous().post("/api/v1/auth/refresh", refresh).await;
    assert_eq!(ended.status, 401);
    admin.get(settings).await.assert_ok();
}
