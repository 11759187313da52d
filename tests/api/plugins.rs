//! Policies as an organisation's admins manage them: installed, bound, switched, rolled back, removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use latchkey::limiter::Limits;
use latchkey::plugin_host::{Case, SignerKey, embed_cases};
use latchkey::service::Settings;
use latchkey::service::plugins::PluginSettings;
use serde_json::{Value, json};

use crate::guests::{Guest, Manifest, before, denying};
use crate::support::{Answer, Caller, DEVELOPER, SlowDisk, TestApp, per_minute};

pub const PLUGINS: &str = "/api/v1/plugins";
pub const BINDINGS: &str = "/api/v1/policy-bindings";

pub fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/plugins/{name}.wasm"));
    std::fs::read(path).unwrap()
}

pub fn digest(answer: &Answer) -> String {
    answer.body["digest"]
        .as_str()
        .unwrap_or_else(|| panic!("{}", answer.text))
        .to_owned()
}

pub async fn install(caller: &Caller<'_>, module: Vec<u8>) -> String {
    digest(&caller.upload(PLUGINS, module, &[]).await)
}

pub async fn bind(caller: &Caller<'_>, digest: &str, more: Value) -> Answer {
    let mut body = json!({ "pluginDigest": digest });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    caller.post(BINDINGS, body).await
}

/// Installs a module and binds it on these terms. The path of the binding.
pub async fn install_and_bind(caller: &Caller<'_>, module: Vec<u8>, terms: Value) -> String {
    let digest = install(caller, module).await;
    path(&bind(caller, &digest, terms).await)
}

/// These terms with as much time as a busy test machine may need: it must not look like a runaway.
pub fn patient(mut terms: Value) -> Value {
    terms["limits"] = json!({ "deadlineMs": 1000 });
    terms
}

pub async fn roll_back(caller: &Caller<'_>, binding: &str) -> Answer {
    caller.post(&format!("{binding}/rollback"), json!({})).await
}

pub async fn replay(caller: &Caller<'_>, digest: &str, body: Value) -> Answer {
    caller.post(&format!("{PLUGINS}/{digest}/replay"), body).await
}

/// A guest of this version whose `before-reset` has this body.
pub fn version(version: &'static str, before: &str) -> Vec<u8> {
    Guest {
        before: before.into(),
        manifest: Manifest::of(version),
        ..Guest::default()
    }
    .wasm()
}

pub fn path(binding: &Answer) -> String {
    let id = binding.body["id"].as_str();
    format!("{BINDINGS}/{}", id.unwrap_or_else(|| panic!("{}", binding.text)))
}

#[track_caller]
pub fn assert_denied(answer: &Answer, code: &str) {
    assert_eq!(answer.status.as_u16(), 403, "{}", answer.text);
    assert_eq!(answer.body["denial"]["code"], code, "{}", answer.text);
}

#[tokio::test]
async fn installed_bound_asked_switched_rolled_back_and_removed() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let installed = admin.upload(PLUGINS, denying("1.0.0", "one"), &[]).await;
    assert_eq!(installed.status.as_u16(), 201, "{}", installed.text);
    let first = digest(&installed);
    assert_eq!(installed.body["version"], "1.0.0");
    assert_eq!(installed.body["ofNode"], false);
    let entry = app.last_entry();
    assert_eq!(entry["eventType"], "POLICY_PLUGIN_INSTALL");
    assert_eq!(entry["actor"]["email"], "admin@acme.example");
    assert_eq!(entry["resource"]["id"], *first);

    let again = admin.upload(PLUGINS, denying("1.0.0", "one"), &[]).await;
    assert_eq!(again.status.as_u16(), 200, "the same file again changes nothing");
    assert_eq!(app.last_entry(), entry);

    admin.reset(DEVELOPER).await.assert_ok(); // installed is not bound
    let bound = bind(&admin, &first, json!({})).await;
    assert_eq!(bound.status.as_u16(), 201, "{}", bound.text);
    assert_eq!(app.last_entry()["eventType"], "POLICY_PLUGIN_BIND");
    let binding = path(&bound);
    assert_denied(&admin.reset(app.second_admin.id).await, "one");

    let second = install(&admin, denying("2.0.0", "two")).await;
    let switched = admin.patch(&binding, json!({ "pluginDigest": second })).await;
    assert_eq!(switched.assert_ok()["current"]["version"], "2.0.0");
    assert_eq!(switched.body["previous"]["digest"], *first);
    assert_denied(&admin.reset(app.second_admin.id).await, "two");

    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["version"], "1.0.0");
    assert_eq!(app.last_entry()["details"]["verb"], "rollback");
    assert_denied(&admin.reset(app.second_admin.id).await, "one");

    let used = admin.delete(&format!("{PLUGINS}/{second}")).await;
    assert_eq!(
        used.status.as_u16(),
        409,
        "the version before is still at hand: {}",
        used.text
    );

    let off = admin.patch(&binding, json!({ "disabled": true })).await;
    assert!(off.assert_ok()["disabledAt"].is_string());
    admin.reset(app.second_admin.id).await.assert_ok();

    assert_eq!(admin.delete(&binding).await.status.as_u16(), 204);
    assert_eq!(app.last_entry()["eventType"], "POLICY_PLUGIN_UNBIND");
    admin.get(&binding).await.assert_error(
        404,
        &format!(
            "Policy binding not found with id: {}",
            &binding[BINDINGS.len() + 1..]
        ),
    );
    assert_eq!(
        admin.delete(&format!("{PLUGINS}/{second}")).await.status.as_u16(),
        204
    );
    assert_eq!(app.last_entry()["eventType"], "POLICY_PLUGIN_REMOVE");
    let left = admin.get(PLUGINS).await;
    assert_eq!(left.assert_ok().as_array().unwrap().len(), 1);
    assert!(
        admin
            .get(BINDINGS)
            .await
            .assert_ok()
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_configuration_is_refused_with_path_and_reason_and_nothing_is_stored() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let budget = install(&admin, fixture("reset-budget")).await;
    let before = app.trail().len();
    let refused = bind(
        &admin,
        &budget,
        json!({ "config": { "perUser": { "max": 0, "days": 30 } } }),
    )
    .await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
    let problem = refused.body["validationErrors"]["config.perUser.max"].as_str();
    assert!(
        problem.is_some_and(|text| text.contains("minimum")),
        "{}",
        refused.text
    );
    for (body, field) in [
        (json!({ "mode": "canary" }), "canaryPercent"),
        (json!({ "mode": "canary", "canaryPercent": 100 }), "canaryPercent"),
        (json!({ "mode": "enforce", "canaryPercent": 5 }), "canaryPercent"),
        (json!({ "grants": ["lock-account"] }), "grants"),
        (json!({ "grants": ["open-the-door"] }), "grants"),
        (json!({ "limits": { "fuel": 1_000_000 } }), "limits.fuel"),
        (json!({ "limits": { "deadlineMs": 4 } }), "limits.deadlineMs"),
        (json!({ "hooks": [] }), "hooks"),
        (json!({ "mod": "enforce" }), "mod"),
    ] {
        let refused = bind(&admin, &budget, body.clone()).await;
        assert_eq!(refused.status.as_u16(), 400, "{body}: {}", refused.text);
        assert!(
            refused.body["validationErrors"][field].is_string(),
            "{body}: {}",
            refused.text
        );
    }
    let no_digest = bind(&admin, "nonsense", json!({})).await;
    no_digest.assert_error(400, "A plugin's digest is 64 hexadecimal digits");
    assert_eq!(app.count("SELECT count(*) FROM binding"), 0);
    assert_eq!(app.count("SELECT count(*) FROM plugin_configuration"), 0);
    assert_eq!(app.trail().len(), before);
    // A plugin that is not there is not written wrongly: that is on the record.
    let unknown = bind(&admin, &"0".repeat(64), json!({})).await;
    unknown.assert_error(404, &format!("Plugin not found with id: {}", "0".repeat(64)));
    assert_eq!(app.count("SELECT count(*) FROM binding"), 0);
    assert_eq!(app.trail().len(), before + 1);
    assert_eq!(app.last_entry()["result"], "DENIED");
}

#[tokio::test]
async fn a_file_has_its_own_size_limit_and_media_type_and_only_admins_are_read() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let large = vec![0; (32 << 20) + 1];
    for headers in [&[][..], &[("Transfer-Encoding", "chunked")]] {
        let refused = admin.upload(PLUGINS, large.clone(), headers).await;
        refused.assert_error(413, "The request body is larger than 33554432 bytes");
    }
    let json = admin
        .upload(PLUGINS, b"{}".to_vec(), &[("Content-Type", "application/json")])
        .await;
    json.assert_error(
        415,
        "The content type must be application/wasm or application/octet-stream",
    );
    let octets = [("Content-Type", "application/octet-stream")];
    assert_eq!(
        admin
            .upload(PLUGINS, before("(i32.const 512)"), &octets)
            .await
            .status
            .as_u16(),
        201
    );
    let member = app.member().await.upload(PLUGINS, large, &[]).await;
    member.assert_error(403, "Role ORG_ADMIN is required");
    let nobody = app.anonymous().upload(PLUGINS, Vec::new(), &[]).await;
    assert_eq!(nobody.status.as_u16(), 401);
}

#[tokio::test]
async fn where_keys_are_trusted_only_their_signatures_install() {
    let pair = || minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let (trusted, other) = (pair(), pair());
    let key = SignerKey::parse(&trusted.pk.to_base64()).unwrap();
    let (key_id, settings) = (
        key.id(),
        Settings {
            plugins: PluginSettings {
                trusted_keys: vec![key],
                ..Default::default()
            },
            ..Default::default()
        },
    );
    let app = TestApp::with(settings).await;
    let admin = app.admin().await;
    let module = before("(i32.const 512)");
    let sign = |pair: &minisign::KeyPair, bytes: &[u8]| {
        let signed = minisign::sign(None, &pair.sk, bytes, Some("guest 1.0.0"), None).unwrap();
        STANDARD.encode(signed.into_string())
    };
    let header = "X-Plugin-Signature";
    let (good, unknown, elsewhere) = (
        sign(&trusted, &module),
        sign(&other, &module),
        sign(&trusted, b"another file"),
    );
    for (headers, part) in [
        (vec![], "[signature-missing]"),
        (vec![(header, unknown.as_str())], "[signature-unknown-key]"),
        (vec![(header, elsewhere.as_str())], "[signature-mismatch]"),
        (vec![(header, "bm9uc2Vuc2U=")], "[signature-malformed]"),
        (vec![(header, "%%%")], "must be the .minisig file in base64"),
        (
            vec![(header, &good), (header, &good)],
            "Send one X-Plugin-Signature",
        ),
    ] {
        let refused = admin.upload(PLUGINS, module.clone(), &headers).await;
        assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(app.count("SELECT count(*) FROM module"), 0);
    let installed = admin.upload(PLUGINS, module.clone(), &[(header, &good)]).await;
    assert_eq!(installed.status.as_u16(), 201, "{}", installed.text);
    assert_eq!(installed.body["signedBy"], *key_id);
    assert_eq!(app.last_entry()["details"]["trustedComment"], "guest 1.0.0");

    let digest = installed.body["digest"].as_str().unwrap();
    let bound = bind(&admin, digest, json!({ "hooks": ["before-reset"] })).await;
    assert_eq!(bound.body["warning"], Value::Null, "{}", bound.text);
    // As if it had been installed before keys were trusted.
    app.execute("UPDATE plugin SET signed_by = NULL").await;
    let warned = admin.get(&path(&bound)).await;
    let warning = warned.body["warning"].as_str().unwrap_or_default();
    assert!(warning.contains("plugins.trusted_keys"), "{}", warned.text);
}

#[tokio::test]
async fn golden_cases_in_the_file_are_run_and_refuse_what_fails() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let case = |expect: Value| {
        let text = json!({ "description": "lets everybody in", "hook": "before-reset", "expect": expect });
        let case = Case::parse(&text.to_string()).unwrap();
        case.resolved(&latchkey::plugin_host::base_question()).unwrap()
    };
    let module = before("(i32.const 512)");
    let bad = embed_cases(
        &module,
        &[case(json!({ "deny": { "code": "no", "message": "no" } }))],
    )
    .unwrap();
    let refused = admin.upload(PLUGINS, bad, &[]).await;
    assert_eq!(refused.status.as_u16(), 400, "{}", refused.text);
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.contains("\"lets everybody in\" fails here: ") && message.contains("[golden-case-failed]"),
        "{message}"
    );
    let good = embed_cases(&module, &[case(json!({ "allow": [] }))]).unwrap();
    assert_eq!(admin.upload(PLUGINS, good, &[]).await.status.as_u16(), 201);
}

#[tokio::test]
async fn another_organisations_plugin_is_no_plugin_and_both_can_install_the_same() {
    let app = TestApp::new().await;
    let (acme, globex) = (app.admin().await, app.admin_of_other_org().await);
    let module = denying("1.0.0", "one");
    let digest = install(&acme, module.clone()).await;
    let plugin = format!("{PLUGINS}/{digest}");
    let unknown = format!("Plugin not found with id: {digest}");
    globex.get(&plugin).await.assert_error(404, &unknown);
    bind(&globex, &digest, json!({}))
        .await
        .assert_error(404, &unknown);
    globex.delete(&plugin).await.assert_error(404, &unknown);
    assert!(
        globex
            .get(PLUGINS)
            .await
            .assert_ok()
            .as_array()
            .unwrap()
            .is_empty()
    );

    let bound = bind(&acme, &digest, json!({})).await;
    let binding = path(&bound);
    for answer in [
        globex.get(&binding).await,
        globex.patch(&binding, json!({ "disabled": true })).await,
        globex.delete(&binding).await,
        roll_back(&globex, &binding).await,
    ] {
        assert_eq!(answer.status.as_u16(), 404, "{}", answer.text);
    }

    assert_eq!(install(&globex, module).await, digest);
    assert_eq!(app.count("SELECT count(*) FROM module"), 1, "kept once");
    let own = path(&bind(&globex, &digest, json!({})).await);
    assert_denied(&globex.reset(app.other_developer.id).await, "one");
    assert_eq!(globex.delete(&own).await.status.as_u16(), 204);
    globex.reset(app.other_developer.id).await.assert_ok(); // acme's policy is acme's alone
    assert_denied(&acme.reset(DEVELOPER).await, "one");

    acme.delete(&binding).await;
    assert_eq!(acme.delete(&plugin).await.status.as_u16(), 204);
    acme.get(&plugin).await.assert_error(404, &unknown);
    globex.get(&plugin).await.assert_ok();
}

#[tokio::test]
async fn what_is_the_nodes_is_shown_and_cannot_be_changed() {
    let app = TestApp::new().await;
    app.bind_for_node(denying("1.0.0", "node")).await;
    let admin = app.admin().await;
    let listed = admin.get(BINDINGS).await;
    let node = &listed.assert_ok()[0];
    assert_eq!(node["ofNode"], true);
    let binding = format!("{BINDINGS}/{}", node["id"].as_str().unwrap());
    let plugin = format!("{PLUGINS}/{}", node["current"]["digest"].as_str().unwrap());
    assert_eq!(admin.get(&plugin).await.assert_ok()["ofNode"], true);
    for answer in [
        admin.patch(&binding, json!({ "disabled": true })).await,
        admin.patch(&binding, json!({ "mode": "monitor" })).await,
        admin.delete(&binding).await,
        roll_back(&admin, &binding).await,
        admin.delete(&plugin).await,
    ] {
        answer.assert_error(403, "This belongs to the node: only its operator can change it");
    }
    assert_denied(&admin.reset(DEVELOPER).await, "node");
    let elsewhere = app.admin_of_other_org().await;
    assert_denied(&elsewhere.reset(app.other_developer.id).await, "node");

    // It is asked by every organisation: its figures would tell each how often the others reset.
    let own = bind(&admin, &install(&admin, denying("2.0.0", "own")).await, json!({})).await;
    assert_eq!(own.body["statistics"]["calls"], 0);
    for caller in [&admin, &elsewhere] {
        let listed = caller.get(BINDINGS).await;
        for shown in [&listed.assert_ok()[0], caller.get(&binding).await.assert_ok()] {
            assert_eq!(shown["ofNode"], true);
            assert_eq!(shown.get("statistics"), None, "{shown}");
        }
    }
}

/// Policies never apply to the calls that manage policies: one that denies everything can be removed.
#[tokio::test]
async fn nobody_locks_themselves_out() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let endless = Guest {
        before: "(loop (br 0)) (unreachable)".into(),
        ..Guest::default()
    };
    let digest = install(&admin, endless.wasm()).await;
    let bound = bind(&admin, &digest, json!({})).await;
    assert_eq!(admin.reset(DEVELOPER).await.status.as_u16(), 500);
    assert_eq!(admin.delete(&path(&bound)).await.status.as_u16(), 204);
    admin.reset(DEVELOPER).await.assert_ok();
}

#[tokio::test]
async fn only_admins_with_a_fresh_second_factor_where_it_is_demanded_manage_policies() {
    let app = TestApp::with(latchkey::domain::account::OrganizationSettings {
        step_up_minutes: Some(5),
        ..Default::default()
    })
    .await;
    let admin = app.admin().await; // minted: no second factor was used
    admin.get(PLUGINS).await.assert_ok();
    let stale = admin.upload(PLUGINS, before("(i32.const 512)"), &[]).await;
    stale.assert_error(401, "A more recent authentication is required");
    let member = app.member().await;
    for answer in [
        member.get(PLUGINS).await,
        member.get(BINDINGS).await,
        member
            .post(BINDINGS, json!({ "pluginDigest": "0".repeat(64) }))
            .await,
    ] {
        answer.assert_error(403, "Role ORG_ADMIN is required");
    }
}

#[tokio::test]
async fn a_change_that_changes_nothing_leaves_no_entry_and_one_that_does_says_what() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, before("(i32.const 512)"), json!({})).await;
    let entries = app.trail().len();
    admin.patch(&binding, json!({})).await.assert_ok();
    admin
        .patch(&binding, json!({ "mode": "enforce", "disabled": false }))
        .await
        .assert_ok();
    assert_eq!(app.trail().len(), entries);
    let patch = json!({ "mode": "monitor", "onFailure": { "otherwise": "deny", "trap": "skip" } });
    let changed = admin.patch(&binding, patch).await;
    assert_eq!(
        changed.assert_ok()["onFailure"],
        json!({ "otherwise": "deny", "trap": "skip" })
    );
    let changes = app.last_entry()["details"]["changes"].clone();
    assert_eq!(changes["mode"], json!({ "from": "enforce", "to": "monitor" }));
    assert_eq!(changes.as_object().unwrap().len(), 2, "{changes}");
    let none = roll_back(&admin, &binding).await;
    none.assert_error(409, "There is no version before this one to roll back to");
    let other = install(&admin, fixture("change-window")).await;
    let wrong = admin.patch(&binding, json!({ "pluginDigest": other })).await;
    assert!(
        wrong.body["validationErrors"]["pluginDigest"]
            .as_str()
            .is_some_and(|text| text.contains("change-window")),
        "{}",
        wrong.text
    );
}

/// Each rollback undoes the one before, so that each is a change, and an entry that stays.
#[tokio::test]
async fn rolling_back_again_and_again_is_limited() {
    let limits = Limits {
        admin_by_caller: per_minute(8),
        ..Limits::off()
    };
    let app = TestApp::with(limits).await;
    let admin = app.admin().await;
    let first = install(&admin, denying("1.0.0", "one")).await;
    let second = install(&admin, denying("2.0.0", "two")).await;
    let binding = path(&bind(&admin, &first, patient(json!({}))).await);
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    let switched = admin.patch(&binding, json!({ "pluginDigest": second })).await;
    switched.assert_ok();
    assert_denied(&admin.reset(DEVELOPER).await, "two");
    for version in ["1.0.0", "2.0.0", "1.0.0", "2.0.0"] {
        let rolled_back = roll_back(&admin, &binding).await;
        assert_eq!(rolled_back.assert_ok()["current"]["version"], version);
    }
    let entries = app.trail().len();
    let plugin = format!("{PLUGINS}/{first}");
    for limited in [
        roll_back(&admin, &binding).await,
        admin.delete(&binding).await,
        admin.delete(&plugin).await,
        admin.get(PLUGINS).await,
        admin.get(&plugin).await,
        admin.get(BINDINGS).await,
        admin.get(&binding).await,
        replay(&admin, &first, json!({})).await,
    ] {
        assert_eq!(limited.status.as_u16(), 429, "{}", limited.text);
        assert!(!limited.header("retry-after").is_empty());
        assert!(limited.header("ratelimit-policy").contains("\"admin-by-caller\""));
    }
    assert_eq!(app.trail().len(), entries);
    // Others have their own, and everybody has it again in time.
    let second_admin = app.caller(&app.second_admin).await;
    second_admin.get(&binding).await.assert_ok();
    app.advance(SignedDuration::from_secs(61));
    roll_back(&admin, &binding).await.assert_ok();
}

/// While versions are switched under load, each reset is decided by one of the two, none is turned
/// away, and from the answer to the switch on by the new one alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_switched_under_load_without_a_gap() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let first = install(&admin, denying("1.0.0", "one")).await;
    let second = install(&admin, denying("2.0.0", "two")).await;
    let binding = path(&bind(&admin, &first, patient(json!({}))).await);
    let done = Arc::new(AtomicBool::new(false));
    let load = async {
        let mut codes = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let answer = admin.reset(DEVELOPER).await;
            assert_eq!(answer.status.as_u16(), 403, "{}", answer.text);
            codes.push(answer.body["denial"]["code"].as_str().unwrap().to_owned());
        }
        codes
    };
    let switches = async {
        for _ in 0..10 {
            for (digest, code) in [(&second, "two"), (&first, "one")] {
                admin
                    .patch(&binding, json!({ "pluginDigest": digest }))
                    .await
                    .assert_ok();
                assert_denied(&admin.reset(app.second_admin.id).await, code);
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let (codes, ()) = tokio::join!(load, switches);
    assert!(
        codes.iter().any(|code| code == "one") && codes.iter().any(|code| code == "two"),
        "{codes:?}"
    );
}

/// What is removed while its binding is judged is not bound: nobody could change that binding or clear the file away.
#[tokio::test]
async fn a_plugin_that_is_removed_meanwhile_is_not_bound() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), json!({})).await;
    for switches in [false, true] {
        let second = install(&admin, denying("2.0.0", "two")).await;
        let plugin = format!("{PLUGINS}/{second}");
        // Its file is kept when it is removed, since it was bound once.
        let once = path(&bind(&admin, &second, json!({})).await);
        assert_eq!(admin.delete(&once).await.status.as_u16(), 204);
        let bound = async {
            tokio::time::sleep(Duration::from_millis(100)).await; // the removal waits for the disk
            if switches {
                admin.patch(&binding, json!({ "pluginDigest": second })).await
            } else {
                bind(&admin, &second, json!({})).await
            }
        };
        let disk = SlowDisk::new(&app).await;
        let (removed, bound, ()) = tokio::join!(admin.delete(&plugin), bound, disk.go_on_soon());
        assert_eq!(removed.status.as_u16(), 204, "{switches}: {}", removed.text);
        bound.assert_error(404, &format!("Plugin not found with id: {second}"));
    }
    assert_eq!(app.count("SELECT count(*) FROM binding"), 1);
    assert_denied(&admin.reset(DEVELOPER).await, "one");
}

/// A binding whose plugin is gone all the same can be switched off, and clearing up passes over its file.
#[tokio::test]
async fn a_binding_without_its_plugin_is_switched_off_and_keeps_its_file() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), json!({})).await;
    app.execute("DELETE FROM plugin").await;
    let other = install(&admin, denying("2.0.0", "two")).await;
    let removed = admin.delete(&format!("{PLUGINS}/{other}")).await;
    assert_eq!(removed.status.as_u16(), 204, "{}", removed.text);
    assert_eq!(app.count("SELECT count(*) FROM module_file"), 1);
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    admin
        .patch(&binding, json!({ "disabled": true }))
        .await
        .assert_ok();
    admin.reset(DEVELOPER).await.assert_ok();
}

/// Compiling a file may take minutes: what ends meanwhile ends at once.
#[tokio::test]
async fn whoever_is_signed_out_meanwhile_installs_and_removes_nothing() {
    let app = TestApp::new().await;
    let installed = install(&app.admin().await, denying("1.0.0", "one")).await;
    let kept = app.count("SELECT count(*) FROM plugin WHERE removed_at IS NULL");
    for removes in [false, true] {
        let admin = app.admin().await;
        let disk = SlowDisk::writing(&app, "DELETE FROM session").await;
        let change = async {
            if removes {
                admin.delete(&format!("{PLUGINS}/{installed}")).await
            } else {
                admin.upload(PLUGINS, denying("2.0.0", "two"), &[]).await
            }
        };
        let (answer, ()) = tokio::join!(change, disk.go_on_soon());
        answer.assert_error(401, "The access token has been revoked");
        let now = app.count("SELECT count(*) FROM plugin WHERE removed_at IS NULL");
        assert_eq!(now, kept, "removes: {removes}");
    }
    assert_eq!(app.count("SELECT count(*) FROM module_file"), 1);
}

#[tokio::test]
async fn what_was_installed_meanwhile_counts_towards_the_limit() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let full = "WITH RECURSIVE nth (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM nth WHERE n < 64) \
                INSERT INTO module (digest, manifest, size_bytes) \
                SELECT CAST(printf('%032d', n) AS BLOB), '{}', 1 FROM nth; \
                INSERT INTO plugin (digest, organization_id, installed_at) \
                SELECT m.digest, o.id, 0 FROM module m, organization o WHERE o.slug = 'acme';";
    let disk = SlowDisk::writing(&app, full).await;
    let uploading = admin.upload(PLUGINS, denying("1.0.0", "one"), &[]);
    let (answer, ()) = tokio::join!(uploading, disk.go_on_soon());
    assert_eq!(answer.status.as_u16(), 409, "{}", answer.text);
    assert!(answer.text.contains("at most 64 plugins"), "{}", answer.text);
}

#[tokio::test]
async fn limits_that_a_request_leaves_out_are_the_usual_ones() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let digest = install(&admin, denying("1.0.0", "one")).await;
    let usual = bind(&admin, &digest, json!({})).await;
    let binding = path(&usual);
    let mut expected = usual.body["limits"].clone();
    // As the descriptions of the request's fields say.
    assert_eq!(
        expected,
        json!({
            "deadlineMs": 50, "memoryBytes": 64 << 20, "tableElements": 100_000, "fuel": 0,
            "answerBytes": 256 << 10, "logLines": 50, "logBytes": 8 << 10,
        })
    );
    expected["deadlineMs"] = json!(20);
    let limits = json!({ "limits": { "deadlineMs": 20 } });
    let changed = admin.patch(&binding, limits).await;
    assert_eq!(changed.assert_ok()["limits"], expected);
    // As a whole: what was set before is the usual again.
    let limits = json!({ "limits": { "logLines": 5 } });
    let changed = admin.patch(&binding, limits).await;
    expected["deadlineMs"] = usual.body["limits"]["deadlineMs"].clone();
    expected["logLines"] = json!(5);
    assert_eq!(changed.assert_ok()["limits"], expected);
    let null = admin
        .patch(&binding, json!({ "limits": { "logLines": null } }))
        .await;
    null.assert_error(400, "Validation failed");
    assert_eq!(
        null.body["validationErrors"]["limits.logLines"],
        "must not be null; leave it out"
    );
}
