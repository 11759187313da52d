//! The operator as the way back in: the only administrator lost the device, or is locked out.

use std::fs;

use jiff::Timestamp;
use latchkey::domain::second_factor::{TotpSecret, time_step};
use serde_json::{Value, json};

use super::run;
use crate::cli_support::{Desk, Server, fixture};

const PASSWORD: &str = "a-long-enough-password";
const ADA: &str = "ada@acme.example";
const DATA: [&str; 2] = ["--data-dir", "data"];

/// The organisation acme, which requires MFA, and its only administrator.
fn with_ada() -> Desk {
    let desk = Desk::new();
    fs::write(desk.path("secret"), PASSWORD).unwrap();
    desk.ok(&[&DATA[..], &["org", "create", "acme", "--mfa-required"]].concat());
    desk.ok(&[&DATA[..], &["org", "create", "globex"]].concat());
    let create = ["user", "create", "--org", "acme", "--email", ADA, "--admin"];
    desk.ok(&[&DATA[..], &create, &["--password-file", "secret"]].concat());
    desk
}

fn serve(desk: &Desk) -> Server {
    desk.serve(&[&DATA[..], &["serve", "--listen", "127.0.0.1:0"]].concat())
}

fn log_in(server: &Server) -> Value {
    let body = json!({ "organizationSlug": "acme", "email": ADA, "password": PASSWORD });
    serde_json::from_str(&server.post("/api/v1/auth/login", &body)).unwrap()
}

fn post(server: &Server, path: &str, token: &str, body: &Value) -> Value {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let answer = server.exchange("POST", path, Some(token), &body).1;
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{path}: {answer}"))
}

/// Sets MFA up with the password alone, and gives the access token, which is a full one from then on.
fn set_up(server: &Server, enrolment_code: Option<&str>) -> String {
    let answer = log_in(server);
    assert_eq!(answer["mfaSetupRequired"], true, "{answer}");
    let token = answer["accessToken"].as_str().unwrap().to_owned();
    let shown = post(server, "/api/v1/mfa/setup", &token, &Value::Null);
    let secret = shown["secret"].as_str().unwrap();
    let bytes = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
    let code = TotpSecret::from_bytes(&bytes)
        .unwrap()
        .code(time_step(Timestamp::now()));
    let mut confirmation = json!({ "secret": secret, "code": code });
    if let Some(code) = enrolment_code {
        confirmation["enrolmentCode"] = code.into();
    }
    let done = post(server, "/api/v1/mfa/setup/confirm", &token, &confirmation);
    assert_eq!(done["recoveryCodes"].as_array().map(Vec::len), Some(8), "{done}");
    token
}

/// A data directory where ada has MFA, and no server runs.
fn with_mfa() -> Desk {
    let desk = with_ada();
    let server = serve(&desk);
    set_up(&server, None);
    server.stop();
    desk
}

fn user(desk: &Desk, args: &[&str]) -> (Option<i32>, String, String) {
    run(desk, &[&["user"], args].concat())
}

fn refused(desk: &Desk, args: &[&str], says: &str) {
    let (code, out, err) = user(desk, args);
    assert_eq!((code, out.as_str()), (Some(5), ""), "{args:?}: {err}");
    assert_eq!(err, format!("latchkey: {says}\n"), "{args:?}");
}

/// Type, result and message of the operator's entries about accounts, oldest first, and what the last one says.
fn trail(desk: &Desk) -> (Vec<String>, Value) {
    let text = desk.ok(&[&DATA[..], &["audit", "export"]].concat());
    let wanted = ["USER_MFA_RESET", "USER_UPDATE", "USER_FACTORS_RESTORE"];
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let entries: Vec<_> = lines
        .filter(|line| wanted.iter().any(|wanted| line["leaf"]["eventType"] == *wanted))
        .collect();
    let said = entries.iter().map(|entry| {
        let (leaf, subject) = (&entry["leaf"], &entry["subject"]);
        assert_eq!(
            leaf["actor"],
            json!({ "id": null, "type": "OPERATOR" }),
            "{entry}"
        );
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} {}",
            text(&leaf["eventType"]),
            text(&leaf["result"]),
            text(&subject["errorMessage"])
        )
    });
    let said = said.collect();
    (
        said,
        entries
            .last()
            .map(|entry| entry["subject"].clone())
            .unwrap_or_default(),
    )
}

/// The story: with the server running, the only administrator comes back by password and a new device.
#[test]
fn the_only_admin_is_reset_by_the_operator_and_sets_mfa_up_again() {
    let desk = with_ada();
    let server = serve(&desk);
    let token = set_up(&server, None);
    let users = || server.exchange("GET", "/api/v1/users", Some(&token), "").0;
    assert!(users().starts_with("HTTP/1.1 200"), "{}", users());
    assert_eq!(log_in(&server)["mfaRequired"], true);

    let (code, out, err) = user(
        &desk,
        &["reset-mfa", ADA, "--org", "acme", "--reason", "Lost phone"],
    );
    assert_eq!(code, Some(0), "{err}");
    let told = format!(
        "MFA of {ADA} reset; all sessions of the account were ended\nThe next login only allows setting up MFA"
    );
    assert!(out.starts_with(&told), "{out}");
    assert!(users().starts_with("HTTP/1.1 401"), "sessions end: {}", users());

    let token = set_up(&server, None);
    let logs = server.get("/api/v1/audit-logs?eventType=USER_MFA_RESET", &token);
    let logs: Value = serde_json::from_str(&logs).unwrap();
    let entry = &logs["content"][0];
    assert_eq!(
        (&entry["actorType"], &entry["actorEmail"], &entry["result"]),
        (&json!("OPERATOR"), &Value::Null, &json!("SUCCESS")),
        "{logs}"
    );
    assert_eq!(entry["details"]["channel"], "cli");
    assert_eq!(entry["details"]["reason"], "Lost phone");
    assert_eq!(
        entry["details"]["removedFactors"],
        json!(["totp", "recovery-codes"])
    );
    assert_eq!(logs["totalElements"], 1);
    server.stop();
}

#[test]
fn what_the_operator_cannot_reset_is_refused_with_the_words_of_the_api_and_is_on_the_record() {
    let desk = with_mfa();
    let long = "x".repeat(501);
    refused(
        &desk,
        &["reset-mfa", ADA, "--org", "none"],
        "There is no organisation none; latchkey org list shows their slugs",
    );
    refused(
        &desk,
        &["reset-mfa", ADA, "--org", "globex"],
        &format!("User not found with id: {ADA}"),
    );
    refused(
        &desk,
        &["reset-mfa", "bo@acme.example", "--org", "acme"],
        "User not found with id: bo@acme.example",
    );
    refused(
        &desk,
        &["reset-mfa", ADA, "--org", "acme", "--reason", &long],
        "Validation failed\n  reason: must have at most 500 characters",
    );
    let done = desk.json(&[&DATA[..], &["user", "reset-mfa", ADA, "--org", "acme", "--json"]].concat());
    assert_eq!(
        (&done["email"], &done["mfaEnabled"], &done["enrolmentCode"]),
        (&json!(ADA), &json!(false), &Value::Null),
        "{done}"
    );
    assert!(
        done["auditId"].is_string() && done["enrolmentDueUntil"].is_string(),
        "{done}"
    );
    refused(
        &desk,
        &["reset-mfa", ADA, "--org", "acme"],
        "MFA is not enabled for this user",
    );
    refused(
        &desk,
        &["unlock", ADA, "--org", "globex"],
        &format!("User not found with id: {ADA}"),
    );
    let (said, last) = trail(&desk);
    assert_eq!(
        said,
        [
            "USER_MFA_RESET DENIED Organization not found with id: none".to_owned(),
            format!("USER_MFA_RESET DENIED User not found with id: {ADA}"),
            "USER_MFA_RESET DENIED User not found with id: bo@acme.example".to_owned(),
            "USER_MFA_RESET DENIED Validation failed".to_owned(),
            "USER_MFA_RESET SUCCESS -".to_owned(),
            "USER_MFA_RESET DENIED MFA is not enabled for this user".to_owned(),
            format!("USER_UPDATE DENIED User not found with id: {ADA}"),
        ]
    );
    assert_eq!(last["resourceName"], ADA);
    assert_eq!(
        desk.run(&[&DATA[..], &["user", "reset-mfa", ADA]].concat())
            .status
            .code(),
        Some(2)
    );
    assert!(
        desk.ok(&["help", "user", "reset-mfa"])
            .contains("Examples:\n  latchkey user reset-mfa ada@")
    );
}

/// With the server running and stopped alike.
#[test]
fn policies_bind_the_operator_who_is_told_which_one_said_no() {
    let desk = with_mfa();
    let plugin = |args: &[&str]| desk.json(&[&DATA[..], &["plugin"], args, &["--json"]].concat());
    let bind = |name: &str, config: &str| {
        plugin(&["install", &fixture(name)]);
        let bound = plugin(&["bind", name, "--org", "acme", "--config", config]);
        bound["binding"].as_str().unwrap().to_owned()
    };
    let ticket = bind("ticket-required", r#"{"prefixes":["HD-"]}"#);
    let second = bind("second-admin", r#"{"privileged":true}"#);
    let reset = |args: &[&str]| user(&desk, &[&["reset-mfa", ADA, "--org", "acme"], args].concat());
    let no_ticket = |(code, out, err): (Option<i32>, String, String)| {
        assert_eq!((code, out.as_str()), (Some(5), ""), "{err}");
        assert!(
            err.starts_with("latchkey: the policy ticket-required says no: A reset needs a ticket"),
            "{err}"
        );
    };
    no_ticket(reset(&[]));
    let (code, _, err) = reset(&["--ticket", "HD-1", "--json"]);
    assert_eq!(code, Some(5), "{err}");
    let why = "latchkey: the policy second-admin says no: This needs the approval of one administrator: \
               ada@acme.example is an administrator, so a second admin has to agree. The operator can't ask for approval: let";
    assert!(err.starts_with(why), "{err}");

    let server = serve(&desk);
    no_ticket(reset(&[]));
    let (_, _, again) = reset(&["--ticket", "HD-1"]);
    assert_eq!(again, err, "the same from the server");
    plugin(&["disable", &second]);
    let (code, _, err) = reset(&["--ticket", "HD-1"]);
    assert_eq!(code, Some(0), "{err}");
    plugin(&["enable", &second]);
    server.stop();
    let (said, last) = trail(&desk);
    assert_eq!(said.len(), 5, "{said:?}");
    assert_eq!(last["details"]["ticket"], "HD-1");
    assert_eq!(
        last["details"]["policies"][0]["name"], "ticket-required",
        "{last}"
    );
    assert_eq!(plugin(&["list"])["bindings"][0]["id"], ticket.as_str());
}

#[test]
fn the_operator_unlocks_and_gives_factors_back() {
    let desk = with_mfa();
    let reset = desk.json(&[&DATA[..], &["user", "reset-mfa", ADA, "--org", "acme", "--json"]].concat());
    assert_eq!(reset["locked"], false);
    // Nobody set MFA up in time.
    let database = rusqlite::Connection::open(desk.path("data/latchkey.db")).unwrap();
    database
        .execute("UPDATE user SET enrolment_due_until = 1", [])
        .unwrap();
    drop(database);
    let server = serve(&desk);
    assert_eq!(
        log_in(&server)["message"],
        "The account is locked. Ask an administrator to unlock it"
    );
    let (code, out, err) = user(&desk, &["unlock", ADA, "--org", "acme"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.starts_with(&format!(
            "{ADA} unlocked\nThe next login only allows setting up MFA"
        )),
        "{out}"
    );
    assert_eq!(log_in(&server)["mfaSetupRequired"], true);
    server.stop();

    let before = [
        "restore-factors",
        ADA,
        "--org",
        "acme",
        "--taken-before",
        "2026-01-01T00:00:00Z",
    ];
    refused(&desk, &before, "There are no factors to restore");
    let (code, out, err) = user(&desk, &["restore-factors", ADA, "--org", "acme"]);
    assert_eq!(code, Some(0), "{err}");
    let told = format!("Second factors of {ADA} restored; all sessions of the account were ended\n");
    assert_eq!(out, told);
    let (code, out, _) = user(&desk, &["unlock", ADA, "--org", "acme"]);
    assert_eq!(
        (code, out),
        (Some(0), format!("{ADA} is not locked; nothing was changed\n"))
    );
    refused(
        &desk,
        &["restore-factors", ADA, "--org", "acme"],
        "There are no factors to restore",
    );
    let server = serve(&desk);
    assert_eq!(log_in(&server)["mfaRequired"], true);
    server.stop();
    let (said, _) = trail(&desk);
    assert_eq!(
        said,
        [
            "USER_MFA_RESET SUCCESS -",
            "USER_UPDATE SUCCESS -",
            "USER_FACTORS_RESTORE DENIED There are no factors to restore",
            "USER_FACTORS_RESTORE SUCCESS -",
            "USER_FACTORS_RESTORE DENIED There are no factors to restore",
        ]
    );
}

/// A policy that fails keeps everybody out until it is switched off: whoever has to do that is told which it is.
#[test]
fn an_operator_is_told_which_policy_failed_and_how_to_go_on() {
    let desk = with_mfa();
    fs::write(desk.path("guest.wasm"), crate::guests::before("unreachable")).unwrap();
    let plugin = |args: &[&str]| desk.ok(&[&DATA[..], &["plugin"], args].concat());
    plugin(&["install", "guest.wasm"]);
    let bound = plugin(&["bind", "guest", "--org", "acme", "--json"]);
    let bound: Value = serde_json::from_str(&bound).unwrap();
    let id = bound["binding"].as_str().unwrap();
    let check = |running: &str| {
        let (code, out, err) = user(&desk, &["reset-mfa", ADA, "--org", "acme", "--json"]);
        assert_eq!(code, Some(1), "{running}: {err}");
        let out: Value = serde_json::from_str(&out).unwrap();
        for said in [&err, out["error"].as_str().unwrap()] {
            for part in [
                "A policy could not be evaluated",
                "plugin guest 1.0.0",
                "failed, trap",
                &format!("binding {id}"),
                "latchkey plugin disable",
            ] {
                assert!(said.contains(part), "{running}: {part} in {said}");
            }
        }
    };
    check("while none runs");
    let server = serve(&desk);
    check("while a server runs");
    server.stop();
}
