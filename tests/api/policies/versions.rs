//! Versions of a binding: what a switch, a canary, a rollback and a failure leave of each.

use serde_json::{Value, json};

use crate::guests::{Guest, Manifest, denier, denying};
use crate::plugins::{assert_denied, bind, install, install_and_bind, path, patient, roll_back};
use crate::support::{Answer, Caller, DEVELOPER, TestApp, enrol};

const BEFORE: &[u8] = &[0];
const AFTER: &[u8] = &[1];

/// A guest of this version with these hooks whose `before-reset` has this body.
fn guest(version: &'static str, before: &str, hooks: &'static [u8]) -> Vec<u8> {
    Guest {
        before: before.into(),
        manifest: Manifest {
            hooks,
            ..Manifest::of(version)
        },
        ..Guest::default()
    }
    .wasm()
}

const ALLOW: &str = "(i32.const 512)";
const TRAP: &str = "unreachable";

async fn switch(caller: &Caller<'_>, binding: &str, module: Vec<u8>, mut more: Value) -> Answer {
    more["pluginDigest"] = json!(install(caller, module).await);
    let answer = caller.patch(binding, more).await;
    answer.assert_ok();
    answer
}

/// Who was asked at the last reset: hook, version, and whether it answered.
fn asked(app: &TestApp) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let policies = app.last_entry()["details"]["policies"].clone();
    let policies = policies.as_array().cloned().unwrap_or_default();
    policies
        .iter()
        .map(|p| {
            (
                text(&p["hook"]),
                text(&p["version"]),
                p["end"]["answer"].is_object(),
            )
        })
        .collect()
}

fn call(hook: &str, version: &str, answered: bool) -> (String, String, bool) {
    (format!("{hook}-reset"), version.to_owned(), answered)
}

#[tokio::test]
async fn rolling_back_a_canary_ends_it_and_the_version_before_decides_everything() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), patient(json!({}))).await;
    let canary = json!({ "mode": "canary", "canaryPercent": 5 });
    switch(&admin, &binding, denying("2.0.0", "two"), canary).await;
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["version"], "1.0.0");
    assert_eq!(back.body["mode"], "enforce", "{}", back.text);
    assert_eq!(back.body["canaryPercent"], Value::Null);
    let changes = app.last_entry()["details"]["changes"]["mode"].clone();
    assert_eq!(changes, json!({ "from": { "canary": 5 }, "to": "enforce" }));
    for n in 0..20 {
        let target = app.employee(&format!("n{n}")).await;
        assert_denied(&admin.reset(target.id).await, "one");
    }
    // What only ever decided for a few is not one request away from deciding for all.
    assert_eq!(back.body["previous"], Value::Null, "{}", back.text);
    let again = roll_back(&admin, &binding).await;
    again.assert_error(409, "There is no version before this one to roll back to");
}

#[tokio::test]
async fn another_version_in_a_canary_replaces_the_one_that_is_tried_not_the_one_that_decides() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), patient(json!({}))).await;
    let canary = json!({ "mode": "canary", "canaryPercent": 5 });
    switch(&admin, &binding, denying("2.0.0", "two"), canary).await;
    let third = switch(&admin, &binding, denying("3.0.0", "three"), json!({})).await;
    assert_eq!(third.body["previous"]["version"], "1.0.0", "{}", third.text);
    assert_eq!(third.body["canaryPercent"], 5);
    let mut ones = 0;
    for n in 0..20 {
        let target = app.employee(&format!("n{n}")).await;
        let answer = admin.reset(target.id).await;
        let code = answer.body["denial"]["code"].as_str().unwrap();
        assert_ne!(code, "two", "it was never promoted");
        ones += u32::from(code == "one");
    }
    assert!(ones >= 10, "{ones} of 20");
    // Promoted in the same step, it replaces the one that decided, too.
    let fourth = json!({ "mode": "enforce" });
    let fourth = switch(&admin, &binding, denying("4.0.0", "four"), fourth).await;
    assert_eq!(fourth.body["previous"]["version"], "1.0.0", "{}", fourth.text);
}

/// An `after-reset` hook may be a forced re-enrolment: a version without it must not take it along.
#[tokio::test]
async fn a_rollback_gives_back_the_hooks_that_the_version_had() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, guest("1.0.0", ALLOW, &[0, 1]), patient(json!({}))).await;
    let second = switch(&admin, &binding, guest("2.0.0", ALLOW, BEFORE), json!({})).await;
    assert_eq!(second.body["hooks"], json!(["before-reset"]));
    admin.reset(DEVELOPER).await.assert_ok();
    assert_eq!(asked(&app), [call("before", "2.0.0", true)]);

    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["hooks"], json!(["before-reset", "after-reset"]));
    enrol(&app.services, app.developer.id).await;
    admin.reset(DEVELOPER).await.assert_ok();
    assert_eq!(
        asked(&app),
        [call("before", "1.0.0", true), call("after", "1.0.0", true)]
    );

    // What the operator left out of a version stays left out of it.
    let left_out = json!({ "hooks": ["after-reset"] });
    admin.patch(&binding, left_out).await.assert_ok();
    enrol(&app.services, app.developer.id).await;
    admin.reset(DEVELOPER).await.assert_ok();
    switch(
        &admin,
        &binding,
        guest("3.0.0", ALLOW, BEFORE),
        json!({ "hooks": ["before-reset"] }),
    )
    .await;
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["hooks"], json!(["after-reset"]), "{}", back.text);
}

#[tokio::test]
async fn a_canarys_other_share_is_asked_at_the_hooks_of_the_version_before() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, guest("1.0.0", ALLOW, &[0, 1]), patient(json!({}))).await;
    let canary = json!({ "mode": "canary", "canaryPercent": 30 });
    switch(&admin, &binding, guest("2.0.0", ALLOW, BEFORE), canary).await;
    let (mut tried, mut others) = (0, 0);
    while tried == 0 || others == 0 {
        assert!(tried + others < 100, "{tried} {others}");
        let target = app.employee(&format!("n{}", tried + others)).await;
        admin.reset(target.id).await.assert_ok();
        let asked = asked(&app);
        if asked == [call("before", "2.0.0", true)] {
            tried += 1;
        } else {
            assert_eq!(
                asked,
                [call("before", "1.0.0", true), call("after", "1.0.0", true)]
            );
            others += 1;
        }
    }
}

/// Once the version before answers for one that failed, it does so to the end of that reset.
#[tokio::test]
async fn a_fallback_is_asked_at_the_hooks_of_the_version_before() {
    for first in [&[0, 1], AFTER] {
        let app = TestApp::new().await;
        let admin = app.admin().await;
        let first = install(&admin, guest("1.0.0", ALLOW, first)).await;
        let terms = patient(json!({ "onFailure": { "otherwise": "last-good-version" } }));
        let bound = bind(&admin, &first, terms).await;
        let binding = path(&bound);
        admin.reset(app.second_admin.id).await.assert_ok(); // one that never answered is no good version
        switch(&admin, &binding, guest("2.0.0", TRAP, BEFORE), json!({})).await;
        admin.reset(DEVELOPER).await.assert_ok();
        let mut expected = vec![call("before", "2.0.0", false), call("after", "1.0.0", true)];
        if bound.body["hooks"] == json!(["before-reset", "after-reset"]) {
            expected.insert(1, call("before", "1.0.0", true));
        }
        assert_eq!(asked(&app), expected);
    }
}

#[tokio::test]
async fn what_never_answered_is_nothing_to_fall_back_on() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = patient(json!({ "onFailure": { "otherwise": "last-good-version" } }));
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), terms).await;
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    for version in ["2.0.0", "3.0.0", "4.0.0"] {
        let broken = switch(&admin, &binding, guest(version, TRAP, BEFORE), json!({})).await;
        assert_eq!(broken.body["previous"]["version"], "1.0.0", "{}", broken.text);
        assert_denied(&admin.reset(DEVELOPER).await, "one");
        assert_eq!(app.last_entry()["details"]["policies"][0]["version"], version);
    }
    // Switched back to itself, it leaves the other to go back to.
    let again = switch(&admin, &binding, denying("1.0.0", "one"), json!({})).await;
    assert_eq!(again.body["previous"]["version"], "4.0.0", "{}", again.text);
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    // One that answers takes the place of the last that did.
    switch(&admin, &binding, denying("5.0.0", "five"), json!({})).await;
    assert_denied(&admin.reset(DEVELOPER).await, "five");
    let sixth = switch(&admin, &binding, guest("6.0.0", TRAP, BEFORE), json!({})).await;
    assert_eq!(sixth.body["previous"]["version"], "5.0.0", "{}", sixth.text);
    assert_denied(&admin.reset(DEVELOPER).await, "five");
    let back = roll_back(&admin, &binding).await;
    assert_eq!(back.assert_ok()["current"]["version"], "5.0.0");
}

/// An answer that was only watched is no proof: a monitored version that denies everything answers, too.
#[tokio::test]
async fn an_answer_that_did_not_count_makes_no_version_good() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = patient(json!({ "onFailure": { "otherwise": "last-good-version" } }));
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), terms).await;
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    let watched = denier("2.0.0", "two").wasm();
    switch(&admin, &binding, watched, json!({ "mode": "monitor" })).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let broken = json!({ "mode": "enforce" });
    let broken = switch(&admin, &binding, guest("3.0.0", TRAP, BEFORE), broken).await;
    assert_eq!(broken.body["previous"]["version"], "1.0.0", "{}", broken.text);
    assert_denied(&admin.reset(app.second_admin.id).await, "one");
}

/// Where nothing better is known, it stays at hand for rollback; but it never decided anything and does not begin to
/// by another's failure.
#[tokio::test]
async fn a_version_that_was_only_watched_is_nothing_to_fall_back_on() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = patient(json!({ "mode": "monitor", "onFailure": { "otherwise": "last-good-version" } }));
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), terms).await;
    admin.reset(DEVELOPER).await.assert_ok();
    let enforced = json!({ "mode": "enforce" });
    let broken = switch(&admin, &binding, guest("2.0.0", TRAP, BEFORE), enforced).await;
    assert_eq!(broken.body["previous"]["version"], "1.0.0", "{}", broken.text);
    let failed = admin.reset(app.second_admin.id).await;
    failed.assert_error(500, "A policy could not be evaluated");
    assert_eq!(asked(&app), [call("before", "2.0.0", false)]);
    roll_back(&admin, &binding).await.assert_ok();
    assert_denied(&admin.reset(app.second_admin.id).await, "one");
}

/// For some plugins the configuration is the whole of the policy: a slip in it is taken back like a bad file.
#[tokio::test]
async fn another_configuration_alone_is_a_version_to_go_back_from() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), patient(json!({}))).await;
    assert_denied(&admin.reset(DEVELOPER).await, "one");
    let same = admin.patch(&binding, json!({ "config": {}, "order": 3 })).await;
    assert_eq!(same.assert_ok()["previous"], Value::Null, "the same is no other");

    let changed = admin.patch(&binding, json!({ "config": { "n": 2 } })).await;
    let of = |answer: &Answer, which: &str| answer.body[which]["config"].clone();
    changed.assert_ok();
    assert_eq!(of(&changed, "previous"), json!({}), "{}", changed.text);
    // It never answered: what did is kept, however many are tried.
    let again = admin.patch(&binding, json!({ "config": { "n": 3 } })).await;
    again.assert_ok();
    assert_eq!(of(&again, "previous"), json!({}), "{}", again.text);

    let back = roll_back(&admin, &binding).await;
    back.assert_ok();
    assert_eq!(
        (of(&back, "current"), of(&back, "previous")),
        (json!({}), json!({ "n": 3 }))
    );
    let entry = app.last_entry();
    assert_eq!(entry["details"]["verb"], "rollback", "{entry}");
    assert!(entry["details"]["changes"]["configDigest"].is_object(), "{entry}");
    let forth = roll_back(&admin, &binding).await;
    assert_eq!(forth.assert_ok()["current"]["config"], json!({ "n": 3 }));
    assert_denied(&admin.reset(DEVELOPER).await, "one");
}
