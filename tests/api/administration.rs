//! Contract B3 and B4.

use serde_json::json;

use crate::support::{DEVELOPER, TestApp};

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
