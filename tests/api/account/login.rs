use latchkey::domain::account::OrganizationSettings;
use latchkey::limiter::{Limit, Limits};
use latchkey::service::housekeeping;
use serde_json::{Value, json};

use super::app::{App, PASSWORD, SECRET, entry};

#[tokio::test]
async fn a_password_alone_logs_in_where_no_more_is_demanded() {
    let app = App::new().await;
    let answer = app.login("new@acme.example").await.ok();
    let new = app.find("new@acme.example");
    assert_eq!(answer.body["tokenType"], "Bearer");
    assert_eq!(answer.body["expiresIn"], 900);
    for flag in ["mfaRequired", "mfaSetupRequired", "passwordExpired"] {
        assert_eq!(answer.body[flag], false, "{flag}");
    }
    for absent in [
        "mfaChallengeToken",
        "mfaChallengeExpiresIn",
        "passwordChangeToken",
    ] {
        assert_eq!(answer.body[absent], Value::Null, "{absent}");
        assert!(
            answer.body.as_object().unwrap().contains_key(absent),
            "{absent} is null, not absent"
        );
    }
    assert_eq!(
        answer.body["user"],
        json!({
            "id": new.id.to_string(), "email": "new@acme.example", "name": "new", "isOrgAdmin": false,
            "organizationId": new.organization_id.to_string(), "organizationName": "ACME",
            "organizationSlug": "acme", "mfaEnabled": false,
        })
    );
    assert_eq!(new.last_login_at, Some(app.clock.now()));
    assert_eq!(app.newest(), entry("USER_LOGIN", "SUCCESS", None));
    let token = answer.text("accessToken");
    assert_eq!(
        app.post("/mfa/setup", Some(&token), Value::Null).await.status,
        200
    );
}

#[tokio::test]
async fn an_address_is_found_however_it_is_written() {
    let app = App::new().await;
    let body = json!({"organizationSlug": "acme", "email": " NEW@Acme.example ", "password": PASSWORD});
    app.post("/auth/login", None, body).await.ok();
}

#[tokio::test]
async fn whatever_is_wrong_the_answer_is_the_same_and_the_trail_knows_better() {
    let app = App::new().await;
    app.sql("UPDATE user SET active = 0 WHERE email = 'new@acme.example'");
    app.sql("UPDATE user SET password_hash = NULL WHERE email = 'boss@acme.example'");
    let mut bodies = Vec::new();
    for (slug, email, password, reason) in [
        ("nowhere", "phone@acme.example", PASSWORD, None),
        ("globex", "phone@acme.example", PASSWORD, None),
        ("acme", "nobody@acme.example", PASSWORD, Some("unknown-account")),
        ("acme", "phone@acme.example", "wrong", Some("wrong-password")),
        ("acme", "phone@acme.example", "", Some("wrong-password")),
        ("acme", "new@acme.example", PASSWORD, Some("inactive")),
        ("acme", "new@acme.example", "wrong", Some("wrong-password")),
        ("acme", "boss@acme.example", PASSWORD, Some("no-password")),
    ] {
        let before = app.entries().len();
        let body = json!({"organizationSlug": slug, "email": email, "password": password});
        let answer = app.post("/auth/login", None, body).await;
        answer.refused(401, "Invalid credentials");
        assert!(answer.headers.contains_key("www-authenticate"));
        let mut body = answer.body;
        body.as_object_mut().unwrap().remove("timestamp");
        bodies.push(body);
        if let Some(reason) = reason {
            assert_eq!(app.entries().len(), before + 1);
            assert_eq!(app.newest(), entry("USER_LOGIN", "DENIED", Some(reason)));
            let newest = app.last_entry();
            assert_eq!(
                newest["actor"]["type"], "ANONYMOUS",
                "nobody proved to be the user"
            );
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[tokio::test]
async fn a_password_typed_as_an_address_is_not_kept() {
    let app = App::new().await;
    for typed in [PASSWORD, "hunter2@", "@hunter2", "my secret@home.example"] {
        let body = json!({"organizationSlug": "acme", "email": typed, "password": PASSWORD});
        app.post("/auth/login", None, body)
            .await
            .refused(401, "Invalid credentials");
        let newest = app.last_entry();
        assert_eq!(newest["actor"]["email"], Value::Null, "{typed}");
    }
    let trail = format!("{:?}", app.entries());
    assert!(
        !trail.contains("hunter2") && !trail.contains("battery"),
        "{trail}"
    );
}

#[tokio::test]
async fn only_who_knows_the_password_is_told_that_the_account_is_locked() {
    let app = App::new().await;
    app.sql("UPDATE user SET locked_at = 1, locked_reason = 'x' WHERE email = 'new@acme.example'");
    app.login_as("new@acme.example", "wrong")
        .await
        .refused(401, "Invalid credentials");
    let answer = app.login("new@acme.example").await;
    answer.refused(403, "The account is locked. Ask an administrator to unlock it");
    assert_eq!(app.newest(), entry("USER_LOGIN", "DENIED", Some("locked")));
}

#[tokio::test]
async fn with_mfa_a_password_opens_a_challenge_and_nothing_else() {
    let app = App::new().await;
    let answer = app.login("phone@acme.example").await.ok();
    assert_eq!(answer.body["mfaRequired"], true);
    assert_eq!(answer.body["mfaChallengeExpiresIn"], 300);
    for absent in ["accessToken", "refreshToken", "expiresIn", "tokenType", "user"] {
        assert_eq!(answer.body[absent], Value::Null, "{absent}");
    }
    let challenge = answer.text("mfaChallengeToken");
    let tokens = app.verify(&challenge, &app.code(SECRET)).await.ok();
    assert_eq!(tokens.body["tokenType"], "Bearer");
    assert_eq!(tokens.body["expiresIn"], 900);
    assert_eq!(tokens.body.as_object().unwrap().len(), 4, "{}", tokens.body);
    assert_eq!(app.newest(), entry("USER_LOGIN", "SUCCESS", None));
    assert_eq!(
        app.find("phone@acme.example").last_login_at,
        Some(app.clock.now())
    );
}

#[tokio::test]
async fn a_challenge_works_once_and_a_code_works_once() {
    let app = App::new().await;
    let challenge = app.challenge("phone@acme.example").await;
    let code = app.code(SECRET);
    app.verify(&challenge, &code).await.ok();
    app.verify(&challenge, &code)
        .await
        .refused(401, "The MFA challenge is invalid or has expired");
    let second = app.challenge("phone@acme.example").await;
    app.verify(&second, &code).await.refused(401, "Invalid MFA code");
    assert_eq!(app.newest(), entry("USER_LOGIN", "DENIED", Some("wrong-code")));
    app.wait(30);
    app.verify(&second, &code).await.refused(401, "Invalid MFA code");
    app.verify(&second, &app.code(SECRET)).await.ok();
}

#[tokio::test]
async fn of_two_requests_with_the_same_code_at_the_same_time_one_gets_in() {
    let app = App::new().await;
    let (first, second) = (
        app.challenge("phone@acme.example").await,
        app.challenge("phone@acme.example").await,
    );
    let code = app.code(SECRET);
    let (a, b) = tokio::join!(app.verify(&first, &code), app.verify(&second, &code));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[tokio::test]
async fn a_challenge_dies_after_five_minutes_or_five_wrong_codes() {
    let app = App::new().await;
    let late = app.challenge("phone@acme.example").await;
    app.wait(299);
    let tried = app.challenge("phone@acme.example").await;
    app.wait(1);
    let dead = "The MFA challenge is invalid or has expired";
    app.verify(&late, &app.code(SECRET)).await.refused(401, dead);
    for _ in 0..5 {
        app.verify(&tried, "000000")
            .await
            .refused(401, "Invalid MFA code");
    }
    app.verify(&tried, &app.code(SECRET)).await.refused(401, dead);
}

#[tokio::test]
async fn what_is_no_challenge_or_no_code_is_refused() {
    let app = App::new().await;
    let dead = "The MFA challenge is invalid or has expired";
    for nonsense in ["", "x", "lko_", &format!("lko_{}", "A".repeat(64))] {
        app.verify(nonsense, "123456").await.refused(401, dead);
    }
    let challenge = app.challenge("phone@acme.example").await;
    for nonsense in ["", "12345", "abcdefgh", "１２３４５６"] {
        app.verify(&challenge, nonsense)
            .await
            .refused(401, "Invalid MFA code");
    }
    // A token for something else is no challenge.
    let expired = OrganizationSettings {
        password_expiration_days: Some(1),
        ..Default::default()
    };
    let app = App::with(expired).await;
    app.wait(24 * 3600);
    let token = app
        .login("new@acme.example")
        .await
        .ok()
        .text("passwordChangeToken");
    app.verify(&token, &app.code(SECRET)).await.refused(401, dead);
}

#[tokio::test]
async fn who_was_locked_or_deactivated_meanwhile_does_not_get_in() {
    for sql in [
        "UPDATE user SET active = 0",
        "UPDATE user SET locked_at = 1, locked_reason = 'x'",
    ] {
        let app = App::new().await;
        let challenge = app.challenge("phone@acme.example").await;
        app.sql(sql);
        let answer = app.verify(&challenge, &app.code(SECRET)).await;
        answer.refused(401, "The MFA challenge is invalid or has expired");
    }
}

#[tokio::test]
async fn an_expired_password_is_replaced_before_anything_else() {
    let organization = OrganizationSettings {
        password_expiration_days: Some(30),
        ..Default::default()
    };
    let app = App::with(organization).await;
    let old_session = app.token("new@acme.example").await;
    app.wait(30 * 24 * 3600 - 1);
    assert_eq!(
        app.login("new@acme.example").await.ok().body["passwordExpired"],
        false
    );
    app.wait(1);
    let answer = app.login("new@acme.example").await.ok();
    assert_eq!(answer.body["passwordExpired"], true);
    assert_eq!(
        (&answer.body["accessToken"], &answer.body["user"]),
        (&Value::Null, &Value::Null)
    );
    let token = answer.text("passwordChangeToken");
    let change = |token: String, new: &'static str| {
        let app = &app;
        async move {
            let body = json!({"passwordChangeToken": token, "newPassword": new});
            app.post("/auth/change-expired-password", None, body).await
        }
    };
    let short = change(token.clone(), "short").await;
    short.refused(400, "Validation failed");
    assert_eq!(
        short.body["validationErrors"]["newPassword"],
        "must have at least 12 characters"
    );
    let same = change(token.clone(), PASSWORD).await;
    assert_eq!(
        same.body["validationErrors"]["newPassword"],
        "must differ from the expired password"
    );
    change(token.clone(), "another good password").await.ok();
    assert_eq!(
        app.newest(),
        entry("USER_PASSWORD_CHANGE", "SUCCESS", Some("expired"))
    );
    let again = change(token, "yet another password").await;
    again.refused(401, "The password change token is invalid or has expired");
    app.login("new@acme.example")
        .await
        .refused(401, "Invalid credentials");
    let answer = app
        .login_as("new@acme.example", "another good password")
        .await
        .ok();
    assert_eq!(answer.body["passwordExpired"], false);
    let old = app.post("/mfa/setup", Some(&old_session), Value::Null).await;
    assert_eq!(old.status, 401, "old sessions ended");
}

/// Otherwise somebody with an old password from a leak could set a new one, and end the user's sessions.
#[tokio::test]
async fn an_expired_password_is_replaced_after_the_second_factor_alone() {
    let organization = OrganizationSettings {
        password_expiration_days: Some(1),
        ..Default::default()
    };
    let app = App::with(organization).await;
    let phone = "phone@acme.example";
    let change = async |token: &str, new: &str| {
        let body = json!({ "passwordChangeToken": token, "newPassword": new });
        app.post("/auth/change-expired-password", None, body).await
    };
    let session = app.log_in_with_code(phone).await.text("refreshToken");
    app.wait(24 * 3600);
    let answer = app.login(phone).await.ok();
    for flag in ["mfaRequired", "passwordExpired"] {
        assert_eq!(answer.body[flag], true, "{flag}");
    }
    let token = answer.text("passwordChangeToken");
    let first = "Verify the second factor first: POST /auth/verify-mfa";
    change(&token, "another good password").await.refused(400, first);
    app.verify(&token, "ABCD-EFGH-JKMN-PQRS")
        .await
        .refused(401, "Invalid MFA code");
    change(&token, "another good password").await.refused(400, first);
    let session = app.refresh(&session).await.ok().text("refreshToken");
    assert_eq!(app.login(phone).await.ok().body["mfaRequired"], true);

    let sessions = app.count("SELECT count(*) FROM session");
    app.verify(&token, &app.code(SECRET))
        .await
        .refused(403, "The password has expired. Replace it, then log in again");
    assert_eq!(app.count("SELECT count(*) FROM session"), sessions);
    app.wait(30);
    app.verify(&token, &app.code(SECRET))
        .await
        .refused(401, "The MFA challenge is invalid or has expired");
    change(&token, "another good password").await.ok();
    let dead = "The password change token is invalid or has expired";
    change(&token, "yet another password").await.refused(401, dead);
    assert_eq!(app.refresh(&session).await.status, 401);
    let answer = app.login_as(phone, "another good password").await.ok();
    assert_eq!(answer.body["passwordExpired"], false);
    app.verify(&answer.text("mfaChallengeToken"), &app.code(SECRET))
        .await
        .ok();
}

#[tokio::test]
async fn an_old_hash_is_renewed_when_its_password_is_shown() {
    let app = App::new().await;
    // "x" under m=8, t=1, p=1 (argon2 0.5).
    let weak = argon2_of("x");
    app.sql(&format!(
        "UPDATE user SET password_hash = '{weak}' WHERE email = 'new@acme.example'"
    ));
    app.login_as("new@acme.example", "y")
        .await
        .refused(401, "Invalid credentials");
    app.login_as("new@acme.example", "x").await.ok();
    let id = app.id("new@acme.example");
    let hash = app
        .services
        .store
        .read(|db| latchkey::store::passwords::find_password_hash(db, id));
    let hash = hash.unwrap().unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    app.login_as("new@acme.example", "x").await.ok();
}

fn argon2_of(password: &str) -> String {
    use argon2::password_hash::{PasswordHasher as _, Salt};
    let params = argon2::Params::new(8, 1, 1, None).expect("in range");
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt = Salt::from_b64("c29tZSBzYWx0").expect("a salt");
    argon2
        .hash_password(password.as_bytes(), salt)
        .expect("in range")
        .to_string()
}

#[tokio::test]
async fn passwords_and_codes_are_limited_per_account_and_address() {
    let limit = Limit {
        requests: 3,
        window_secs: 300,
    };
    let limits = Limits {
        login_by_account: limit,
        code_by_account: limit,
        ..Limits::off()
    };
    let app = App::with(limits).await;
    for email in ["phone@acme.example", "nobody@acme.example"] {
        for _ in 0..3 {
            app.login_as(email, "wrong")
                .await
                .refused(401, "Invalid credentials");
        }
        let before = app.entries().len();
        let answer = app.login(email).await;
        assert_eq!(answer.status, 429, "the same for accounts that don't exist");
        assert_eq!(answer.headers["retry-after"], "100");
        assert!(
            answer.headers["ratelimit-policy"]
                .to_str()
                .unwrap()
                .contains("q=3;w=300")
        );
        assert_eq!(app.entries().len(), before, "a flood does not fill the trail");
    }
    app.login("boss@acme.example").await.ok();
    app.wait(100);
    let challenge = app.challenge("phone@acme.example").await;
    for _ in 0..3 {
        app.verify(&challenge, "000000")
            .await
            .refused(401, "Invalid MFA code");
    }
    assert_eq!(app.verify(&challenge, &app.code(SECRET)).await.status, 429);
}

#[tokio::test]
async fn a_body_that_breaks_the_rules_is_refused() {
    let app = App::new().await;
    let good = json!({"organizationSlug": "acme", "email": "phone@acme.example", "password": PASSWORD});
    for (name, value) in [
        ("password", json!(7)),
        ("password", json!("x".repeat(1025))),
        ("email", json!("x".repeat(255))),
        ("organizationSlug", Value::Null),
        ("unknown", json!("x")),
    ] {
        let mut body = good.clone();
        body[name] = value;
        let answer = app.post("/auth/login", None, body).await;
        answer.refused(400, "Validation failed");
        assert!(
            answer.body["validationErrors"]
                .as_object()
                .unwrap()
                .contains_key(name),
            "{}",
            answer.body
        );
    }
}

/// People type passwords into that field, and `P@ssw0rd.1` looks like an address.
#[tokio::test]
async fn an_unknown_address_is_kept_where_somebody_has_one_of_its_domain() {
    let app = App::new().await;
    for (typed, kept) in [
        ("P@ssw0rd.1", Value::Null),
        ("nobody@elsewhere.example", Value::Null),
        ("nobody@acme.example.org", Value::Null),
        ("nobody@globex.example", Value::Null),
        ("Nobody@ACME.example", json!("Nobody@ACME.example")),
    ] {
        let body = json!({"organizationSlug": "acme", "email": typed, "password": PASSWORD});
        app.post("/auth/login", None, body)
            .await
            .refused(401, "Invalid credentials");
        let newest = app.last_entry();
        assert_eq!(newest["details"]["reason"], "unknown-account");
        assert_eq!(newest["actor"]["email"], kept, "{typed}");
    }
    assert!(!format!("{:?}", app.entries()).contains("ssw0rd"));
}

#[tokio::test]
async fn a_stranger_who_invents_addresses_fills_no_disk() {
    let app = App::new().await;
    let before = app.entries().len();
    let invent = async |n: usize| {
        app.login_as(&format!("invented-{n}@acme.example"), "wrong")
            .await
            .refused(401, "Invalid credentials");
    };
    for n in 0..12 {
        invent(n).await;
    }
    assert_eq!(app.entries().len(), before + 5, "the first ones are told apart");
    // A real account's failures are, all of them.
    app.login_as("phone@acme.example", "wrong")
        .await
        .refused(401, "Invalid credentials");
    assert_eq!(app.entries().len(), before + 6);
    housekeeping::tidy(&app.services).await;
    assert_eq!(app.entries().len(), before + 6, "the window is not over");
    app.wait(60);
    housekeeping::tidy(&app.services).await;
    let counted = app.last_entry();
    assert_eq!(counted["details"]["reason"], "unknown-account");
    assert_eq!(counted["details"]["refused"], 7);
    assert_eq!(counted["details"]["windowSecs"], 60);
    assert_eq!(counted["actor"]["email"], Value::Null);
    assert_eq!(app.entries().len(), before + 7);
    // A new window, and the end of the process.
    for n in 0..6 {
        invent(n).await;
    }
    housekeeping::wind_up(&app.services).await;
    assert_eq!(app.entries().len(), before + 13);
    assert_eq!(app.last_entry()["details"]["refused"], 1);
}

/// An entry is written for some failures and not for others; the answer waits for the disk all the same.
#[tokio::test]
async fn whoever_guesses_organisations_waits_for_the_disk_like_everybody_else() {
    let app = App::new().await;
    let commits = || {
        let file = std::fs::metadata(app.services.store.path().with_extension("db-wal"));
        file.map_or(0, |wal| wal.len())
    };
    for (slug, email) in [("nowhere", "phone@acme.example"), ("acme", "nobody@acme.example")] {
        let before = commits();
        let body = json!({"organizationSlug": slug, "email": email, "password": PASSWORD});
        app.post("/auth/login", None, body)
            .await
            .refused(401, "Invalid credentials");
        assert!(commits() > before, "{slug}: something was written");
    }
}
