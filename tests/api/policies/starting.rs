//! A start without anything in the cache: whoever asks for nothing that has to be compiled is served at once.

use std::path::Path;

use latchkey::service::plugins::{reload, start};
use serde_json::json;

use crate::guests::{before, denying};
use crate::plugin_files::app_with_cache;
use crate::plugins::{assert_denied, bind, install, patient};
use crate::support::{DEVELOPER, TestApp};

/// Leaves nothing of any module in memory or in the cache, as another version of the program does.
async fn forget_machine_code(app: &TestApp, cache: &Path) {
    let bump = "UPDATE policy_revision SET revision = revision + 1";
    app.execute("UPDATE module SET disabled_at = 1").await;
    app.execute(bump).await;
    reload(&app.services).unwrap();
    for kept in cache.read_dir().unwrap() {
        std::fs::remove_file(kept.unwrap().path()).unwrap();
    }
    app.execute("UPDATE module SET disabled_at = NULL").await;
    app.execute(bump).await;
}

#[tokio::test]
async fn whoever_asks_for_nothing_that_is_to_be_compiled_is_served_at_once() {
    let cache = tempfile::tempdir().unwrap();
    let app = app_with_cache(cache.path()).await;
    app.bind_module(denying("1.0.0", "no")).await;
    let admin = app.admin().await;
    assert_denied(&admin.reset(DEVELOPER).await, "no");
    forget_machine_code(&app, cache.path()).await;

    let missing = start(&app.services).unwrap();
    assert!(!missing.is_empty());
    app.anonymous().get("/health/live").await.assert_ok();
    let elsewhere = app.admin_of_other_org().await;
    elsewhere.reset(app.other_developer.id).await.assert_ok();
    let failed = admin.reset(DEVELOPER).await;
    failed.assert_error(500, "A policy could not be evaluated");
    let entry = app.last_entry();
    let failure = &entry["details"]["policies"][0]["end"]["failure"];
    assert_eq!(failure["cause"], "instantiation", "{entry}");
    let detail = failure["detail"].as_str().unwrap();
    assert!(
        detail.contains("it has been compiling since the server started"),
        "{detail}"
    );
    // A change of the policies meanwhile does not wait for it, either.
    let further = install(&admin, before("(i32.const 512)")).await;
    bind(&admin, &further, patient(json!({}))).await;
    assert_eq!(
        cache.path().read_dir().unwrap().count(),
        1,
        "only what was installed now"
    );
    let failed = admin.reset(DEVELOPER).await;
    failed.assert_error(500, "A policy could not be evaluated");

    tokio::task::spawn_blocking(move || missing.compile())
        .await
        .unwrap();
    assert_denied(&admin.reset(DEVELOPER).await, "no");
    assert_eq!(cache.path().read_dir().unwrap().count(), 2);
    assert!(
        start(&app.services).unwrap().is_empty(),
        "the next start finds it"
    );
}

#[tokio::test]
async fn what_turns_out_to_be_beyond_use_fails_for_those_who_bound_it_alone() {
    let cache = tempfile::tempdir().unwrap();
    let app = app_with_cache(cache.path()).await;
    app.bind_module(denying("1.0.0", "no")).await;
    forget_machine_code(&app, cache.path()).await;
    app.execute("UPDATE module_file SET bytes = x'00'").await;

    let missing = start(&app.services).unwrap();
    tokio::task::spawn_blocking(move || missing.compile())
        .await
        .unwrap();
    let failed = app.admin().await.reset(DEVELOPER).await;
    failed.assert_error(500, "A policy could not be evaluated");
    let entry = app.last_entry();
    let failure = &entry["details"]["policies"][0]["end"]["failure"];
    assert_eq!(failure["cause"], "instantiation", "{entry}");
    let detail = failure["detail"].as_str().unwrap();
    assert!(!detail.contains("being compiled"), "{detail}");
    let elsewhere = app.admin_of_other_org().await;
    elsewhere.reset(app.other_developer.id).await.assert_ok();
}
