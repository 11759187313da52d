//! One test per documented answer of the reset, and what a reset means.

use jiff::SignedDuration;
use latchkey::domain::account::{AdminOnAdmin, OrganizationSettings, Role};
use latchkey::limiter::Limits;
use latchkey::service::refusals::record_floods;
use poem::http::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{ADMIN, DEVELOPER, PASSWORD, Setup, SlowDisk, TestApp, per_minute, reset_path};

#[tokio::test]
async fn a_reset_answers_200_with_exactly_the_documented_body() {
    let app = TestApp::new().await;
    let answer = app.admin().await.reset(DEVELOPER).await;
    answer.assert_ok();
    assert_eq!(answer.text, r#"{"message":"MFA reset successfully"}"#);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_reset_removes_every_factor_and_ends_every_session_and_challenge() {
    let app = TestApp::new().await;
    let login = json!({ "organizationSlug": "acme", "email": "dev@acme.example", "password": PASSWORD });
    let open = app.anonymous().post("/api/v1/auth/login", login.clone()).await;
    let challenge = open.assert_ok()["mfaChallengeToken"].as_str().unwrap().to_owned();
    let developer = app.caller(&app.developer).await;
    developer
        .get("/api/v1/users")
        .await
        .assert_error(403, "Role ORG_ADMIN is required");

    app.admin().await.reset(DEVELOPER).await.assert_ok();

    let of_developer = "user_id = x'770e8400e29b41d4a716446655440004'";
    for (table, rest) in [
        ("factor", "AND suspended_at IS NULL"),
        ("session", ""),
        ("challenge", ""),
        ("enrolment", ""),
    ] {
        let left = app.count(&format!(
            "SELECT count(*) FROM {table} WHERE {of_developer} {rest}"
        ));
        assert_eq!(left, 0, "{table}");
    }
    developer
        .get("/api/v1/users")
        .await
        .assert_error(401, "The access token has been revoked");
    let verify = json!({ "mfaChallengeToken": challenge, "code": app.developer_code() });
    let dead = app.anonymous().post("/api/v1/auth/verify-mfa", verify).await;
    assert_eq!(dead.status.as_u16(), 401, "{}", dead.text);
    let again = app.anonymous().post("/api/v1/auth/login", login).await;
    assert_eq!(again.assert_ok()["mfaRequired"], false);
    assert!(
        again.body["accessToken"].is_string(),
        "acme does not require MFA: {}",
        again.text
    );
}

#[tokio::test]
async fn a_reset_is_one_audit_entry_with_who_whom_and_from_where() {
    let app = TestApp::new().await;
    let body = json!({ "reason": "Lost phone", "ticket": "HD-4711" });
    let answer = app.admin().await.post(&reset_path(DEVELOPER), body).await;
    answer.assert_ok();
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "USER_MFA_RESET");
    assert_eq!(entry["result"], "SUCCESS");
    assert_eq!(entry["actor"]["id"], ADMIN);
    assert_eq!(entry["resource"]["id"], DEVELOPER);
    assert_eq!(entry["requestId"], answer.header("x-request-id"));
    assert_eq!(entry["details"]["reason"], "Lost phone");
    assert_eq!(entry["details"]["ticket"], "HD-4711");
    assert_eq!(entry["details"]["removedFactors"], json!(["totp"]));
}

#[tokio::test]
async fn a_user_without_mfa_is_400() {
    let app = TestApp::new().await;
    let answer = app.admin().await.reset(app.member.id).await;
    answer.assert_error(400, "MFA is not enabled for this user");
    assert!(answer.body.get("validationErrors").is_none());
    assert_eq!(app.last_entry()["result"], "DENIED");
}

#[tokio::test]
async fn a_second_reset_finds_nothing_to_reset() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    admin
        .reset(DEVELOPER)
        .await
        .assert_error(400, "MFA is not enabled for this user");
}

#[tokio::test]
async fn a_malformed_id_is_400_and_recorded() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for id in [
        "nonsense",
        "770e8400e29b41d4a716446655440004",
        "00000000-0000-0000-0000-000000000000",
        "%20",
    ] {
        admin
            .reset(id)
            .await
            .assert_error(400, "The user id must be a UUID");
    }
    assert_eq!(app.last_entry()["errorMessage"], "The user id must be a UUID");
}

#[tokio::test]
async fn malformed_bodies_are_400_and_change_nothing() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = reset_path(DEVELOPER);
    for (body, field) in [
        (json!({ "reason": "x".repeat(501) }), Some("reason")),
        (json!({ "reason": 7 }), Some("reason")),
        (json!({ "ticket": null }), Some("ticket")),
        (json!({ "resaon": "typo" }), Some("resaon")),
        (json!([1]), None),
        (json!("text"), None),
    ] {
        let answer = admin.post(&path, body.clone()).await;
        assert_eq!(answer.status.as_u16(), 400, "{body}: {}", answer.text);
        answer.assert_envelope();
        match field {
            Some(field) => assert!(
                answer.body["validationErrors"][field].is_string(),
                "{body}: {}",
                answer.text
            ),
            None => assert!(
                answer.body.get("validationErrors").is_none(),
                "{body}: {}",
                answer.text
            ),
        }
    }
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 0);
    let still = admin.get(&format!("/api/v1/users/{DEVELOPER}")).await;
    assert_eq!(still.assert_ok()["mfaEnabled"], true);
}

#[tokio::test]
async fn without_a_token_it_is_401_with_a_challenge() {
    let app = TestApp::new().await;
    let answer = app.anonymous().reset(DEVELOPER).await;
    answer.assert_error(401, "Authentication is required");
    assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="latchkey""#);
    let basic = [("Authorization", "Basic YWRtaW46cGFzcw==")];
    let answer = app
        .anonymous()
        .send(Method::POST, &reset_path(DEVELOPER), None, &basic)
        .await;
    answer.assert_error(401, "Authentication is required");
}

#[tokio::test]
async fn an_expired_token_is_401() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.advance(SignedDuration::from_hours(13));
    let answer = admin.reset(DEVELOPER).await;
    answer.assert_error(401, "The access token has expired");
    assert!(
        answer
            .header("www-authenticate")
            .contains(r#"error="invalid_token""#)
    );
}

#[tokio::test]
async fn a_token_from_before_it_is_valid_is_401() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.advance(-SignedDuration::from_hours(1));
    admin
        .reset(DEVELOPER)
        .await
        .assert_error(401, "The access token is not valid yet");
}

#[tokio::test]
async fn a_member_is_403() {
    let app = TestApp::new().await;
    let member = app.member().await;
    member
        .reset(DEVELOPER)
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
    // 403 before 404 and before 400: a member learns nothing of who exists.
    member
        .reset(Uuid::max())
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
    member
        .reset("nonsense")
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
}

#[tokio::test]
async fn a_demoted_admin_is_403_although_the_token_says_otherwise() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.execute("UPDATE user SET role = 'member' WHERE email = 'admin@acme.example'")
        .await;
    admin
        .reset(DEVELOPER)
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
}

#[tokio::test]
async fn a_deactivated_admin_is_401() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.execute("UPDATE user SET active = 0 WHERE email = 'admin@acme.example'")
        .await;
    admin
        .reset(DEVELOPER)
        .await
        .assert_error(401, "The access token's subject is gone or inactive");
}

#[tokio::test]
async fn a_user_of_another_organisation_is_no_user() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let foreign = app.other_developer.id.to_string();
    let unknown = Uuid::max().to_string();
    for id in [&foreign, &unknown] {
        admin
            .reset(id)
            .await
            .assert_error(404, &format!("User not found with id: {id}"));
        let entry = app.last_entry();
        assert_eq!(
            entry["resource"],
            json!({ "type": "USER", "id": id, "name": null })
        );
        assert_eq!(entry["organizationId"], app.acme.to_string());
        assert_eq!(entry["result"], "DENIED");
    }
}

#[tokio::test]
async fn nobody_resets_themselves() {
    let app = TestApp::new().await;
    let answer = app.admin().await.reset(ADMIN).await;
    answer.assert_error(
        403,
        "You cannot do this to your own account; another administrator can",
    );
}

#[tokio::test]
async fn admins_on_admins_is_the_organisations_choice() {
    let refused = OrganizationSettings {
        admin_on_admin: AdminOnAdmin::Refused,
        ..Default::default()
    };
    let app = TestApp::with(refused).await;
    let answer = app.admin().await.reset(app.second_admin.id).await;
    answer.assert_error(
        403,
        "This organisation does not let administrators reset administrators",
    );

    let second = OrganizationSettings {
        admin_on_admin: AdminOnAdmin::SecondAdmin,
        ..Default::default()
    };
    let app = TestApp::with(second).await;
    let answer = app.admin().await.reset(app.second_admin.id).await;
    assert_eq!(answer.status.as_u16(), 202, "{}", answer.text);
    assert_eq!(answer.body["message"], "MFA reset awaits approval");
    assert!(answer.body["approvalId"].is_string());
    assert_eq!(
        app.count("SELECT count(*) FROM reset_call"),
        0,
        "nothing has been reset"
    );
}

#[tokio::test]
async fn too_many_resets_are_429_with_headers_and_one_entry_with_a_count() {
    let limits = Limits {
        reset_by_caller: per_minute(2),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let admin = app.admin().await;
    admin.reset(DEVELOPER).await.assert_ok();
    admin
        .reset(DEVELOPER)
        .await
        .assert_error(400, "MFA is not enabled for this user");
    let entries = app.trail().len();
    for _ in 0..5 {
        let answer = admin.reset(DEVELOPER).await;
        assert_eq!(answer.status.as_u16(), 429, "{}", answer.text);
        answer.assert_envelope();
        assert_eq!(answer.header("retry-after"), "30");
        assert_eq!(answer.header("ratelimit-policy"), r#""reset-by-caller";q=2;w=60"#);
        assert_eq!(answer.header("ratelimit"), r#""reset-by-caller";r=0;t=30"#);
    }
    // 429 before 403, 404 and 400; 401 before 429.
    assert_eq!(admin.reset("nonsense").await.status.as_u16(), 429);
    app.anonymous()
        .reset(DEVELOPER)
        .await
        .assert_error(401, "Authentication is required");
    assert_eq!(app.trail().len(), entries, "a flood is not one entry per call");
    app.advance(SignedDuration::from_secs(61));
    assert_eq!(record_floods(&app.services, false).await.unwrap(), 1);
    assert_eq!(app.last_entry()["details"]["refused"], 6);
    assert_eq!(app.trail().len(), entries + 1);
}

#[tokio::test]
async fn an_idempotency_key_answers_the_first_outcome_and_changes_nothing() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let path = reset_path(DEVELOPER);
    let key = [("Idempotency-Key", "d3adb33f")];
    admin.send(Method::POST, &path, None, &key).await.assert_ok();
    let entries = app.trail().len();
    admin.send(Method::POST, &path, None, &key).await.assert_ok();
    assert_eq!(app.trail().len(), entries);
    let other = admin
        .send(Method::POST, &path, Some(json!({ "reason": "other" })), &key)
        .await;
    other.assert_error(422, "The Idempotency-Key was used with a different request");
    let long = "k".repeat(256);
    let bad = admin
        .send(Method::POST, &path, None, &[("Idempotency-Key", long.as_str())])
        .await;
    bad.assert_error(
        400,
        "The Idempotency-Key must have 1 to 255 visible ASCII characters",
    );
    app.advance(SignedDuration::from_hours(25));
    let admin = app.admin().await;
    let lapsed = admin.send(Method::POST, &path, None, &key).await;
    lapsed.assert_error(400, "MFA is not enabled for this user");
}

#[tokio::test]
async fn where_the_organisation_requires_mfa_the_next_login_opens_only_enrolment() {
    let app = TestApp::new().await;
    app.admin_of_other_org()
        .await
        .reset(app.other_developer.id)
        .await
        .assert_ok();
    let login = json!({ "organizationSlug": "globex", "email": "dev@globex.example", "password": PASSWORD });
    let answer = app.anonymous().post("/api/v1/auth/login", login).await;
    assert_eq!(answer.assert_ok()["mfaSetupRequired"], true, "{}", answer.text);
    let token = answer.body["accessToken"].as_str().unwrap();
    let limited = app.bearer(token);
    limited
        .reset(DEVELOPER)
        .await
        .assert_error(403, "Set up MFA before anything else");
    limited.post("/api/v1/mfa/setup", json!({})).await.assert_ok();
}

#[tokio::test]
async fn two_resets_at_once_are_one_reset() {
    let app = TestApp::new().await;
    let (one, two) = (app.admin().await, app.caller(&app.second_admin).await);
    let (first, second) = tokio::join!(one.reset(DEVELOPER), two.reset(DEVELOPER));
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "{} {}", first.text, second.text);
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 1);
}

#[tokio::test]
async fn who_may_not_reset_uses_up_nothing_of_what_the_admins_have() {
    let limits = Limits {
        reset_by_target: Limits::default().reset_by_target,
        ..Limits::off()
    };
    let app = TestApp::with(Setup {
        limits,
        acme: OrganizationSettings {
            help_desk_enabled: true,
            ..Default::default()
        },
        ..Default::default()
    })
    .await;
    let (member, admin) = (app.member().await, app.admin().await);
    for _ in 0..6 {
        let refused = member.reset(DEVELOPER).await;
        refused.assert_error(403, "Role ORG_ADMIN is required");
    }
    admin.reset(DEVELOPER).await.assert_ok();
    for _ in 0..4 {
        let refused = admin.reset(DEVELOPER).await;
        refused.assert_error(400, "MFA is not enabled for this user");
    }
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 429);
    // Neither do the help desk's attempts on an admin, nor an admin's attempts on themselves.
    let desk = app.further("desk", Role::HelpDesk).await;
    let (desk, target) = (app.caller(&desk).await, app.caller(&app.second_admin).await);
    for _ in 0..5 {
        let above = "You cannot do this to an account with a higher role";
        desk.reset(app.second_admin.id).await.assert_error(403, above);
    }
    assert_eq!(desk.reset(app.second_admin.id).await.status.as_u16(), 429);
    for _ in 0..6 {
        let own = "You cannot do this to your own account; another administrator can";
        target.reset(app.second_admin.id).await.assert_error(403, own);
    }
    admin.reset(app.second_admin.id).await.assert_ok();
}

#[tokio::test]
async fn whose_body_or_key_is_malformed_is_told_so_after_404_and_403() {
    let settings = OrganizationSettings {
        admin_on_admin: AdminOnAdmin::Refused,
        ..Default::default()
    };
    let app = TestApp::with(settings).await;
    let admin = app.admin().await;
    let unknown = Uuid::max().to_string();
    let (other, second) = (
        app.other_developer.id.to_string(),
        app.second_admin.id.to_string(),
    );
    for (target, status, message) in [
        (
            unknown.as_str(),
            404,
            format!("User not found with id: {unknown}"),
        ),
        (&other, 404, format!("User not found with id: {other}")),
        (
            &second,
            403,
            "This organisation does not let administrators reset administrators".to_owned(),
        ),
        ("nonsense", 400, "The user id must be a UUID".to_owned()),
    ] {
        let body = admin.post(&reset_path(target), json!([1])).await;
        body.assert_error(status, &message);
        let key = [("Idempotency-Key", "")];
        let key = admin.send(Method::POST, &reset_path(target), None, &key).await;
        key.assert_error(status, &message);
    }
    // Where there is nothing else, it is that.
    for target in [app.developer.id, app.member.id] {
        let answer = admin.post(&reset_path(target), json!([1])).await;
        assert_eq!(answer.status.as_u16(), 400, "{}", answer.text);
        assert_ne!(answer.body["message"], "MFA is not enabled for this user");
    }
    app.member()
        .await
        .post(&reset_path(&unknown), json!([1]))
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
}

/// The caller is judged before the request, and so is the user; what remains is an entry, and counts.
#[tokio::test]
async fn whatever_is_malformed_about_a_reset_is_an_entry_and_counts() {
    const ROLE: &str = "Role ORG_ADMIN is required";
    const TYPE: &str = "The content type must be application/json";
    let long = "x".repeat(1001);
    let text: &[(&str, &str)] = &[("Content-Type", "text/plain")];
    let cut_short: &[(&str, &str)] = &[("Content-Type", "application/json"), ("Content-Length", "20")];
    let preferences: &[(&str, &str)] = &[("Prefer", &long)];
    let keys: &[(&str, &str)] = &[("Idempotency-Key", "one"), ("Idempotency-Key", "two")];
    let json: &[(&str, &str)] = &[("Content-Type", "application/json")];
    let cases = [
        ("?receipt=yes", json, 400, "The parameter 'receipt' is malformed"),
        (
            "",
            preferences,
            400,
            "The Prefer header must have at most 1000 characters",
        ),
        ("", keys, 400, "Send one Idempotency-Key"),
        ("", text, 415, TYPE),
        ("", cut_short, 400, "The request could not be read"),
    ];
    let limits = Limits {
        reset_by_caller: per_minute(u32::try_from(cases.len() * 2).unwrap()),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let (admin, member) = (app.admin().await, app.member().await);
    let unknown = Uuid::max();
    let no_user = format!("User not found with id: {unknown}");
    for (query, headers, status, message) in cases {
        for (caller, user, status, message) in [
            (&member, DEVELOPER.to_owned(), 403, ROLE),
            (&admin, unknown.to_string(), 404, &no_user),
            (&admin, DEVELOPER.to_owned(), status, message),
        ] {
            let path = reset_path(user) + query;
            let answer = match headers {
                _ if headers == cut_short => caller.upload(&path, cut_off(), headers).await,
                _ if headers == text => caller.upload(&path, "a reason", headers).await,
                _ => caller.send(Method::POST, &path, None, headers).await,
            };
            answer.assert_error(status, message);
            let entry = app.last_entry();
            assert_eq!(entry["requestId"], answer.header("x-request-id"));
            assert_eq!(entry["eventType"], "USER_MFA_RESET");
            assert_eq!(entry["result"], "DENIED");
            assert_eq!(entry["errorMessage"], message);
        }
    }
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 429);
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 0);
}

/// A body that breaks off.
fn cut_off() -> poem::Body {
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    poem::Body::from_bytes_stream(futures_util::stream::iter([
        Ok(Vec::from(&b"{\"reason\":"[..])),
        Err(broken),
    ]))
}

#[tokio::test]
#[should_panic(expected = "0 entries for an authenticated reset call")]
async fn a_reset_without_an_entry_is_found() {
    let app = TestApp::new().await;
    let mut refused = app.admin().await.reset(app.member.id).await;
    let other = Uuid::max().to_string().parse().unwrap();
    refused.headers.insert("x-request-id", other);
    app.assert_recorded(&refused, false);
}

/// A reset is judged by the organisation as it is when it is committed, the step-up included.
#[tokio::test]
async fn a_step_up_that_is_demanded_meanwhile_is_demanded() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let demand = "UPDATE organization SET settings = json_set(settings, '$.stepUpMinutes', 5), \
                  revision = revision + 1 WHERE slug = 'acme'";
    let disk = SlowDisk::writing(&app, demand).await;
    let (reset, ()) = tokio::join!(admin.reset(DEVELOPER), disk.go_on_soon());
    reset.assert_error(401, "A more recent authentication is required");
    assert_eq!(app.count("SELECT count(*) FROM reset_call"), 0);
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let disk = SlowDisk::writing(&app, demand).await;
    let path = format!("/api/v1/users/{DEVELOPER}");
    let (deleted, ()) = tokio::join!(admin.delete(&path), disk.go_on_soon());
    deleted.assert_error(401, "A more recent authentication is required");
}
