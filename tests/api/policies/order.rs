//! When policies are asked, and in which order.

use serde_json::json;

use crate::guests::denying;
use crate::plugins::{assert_denied, bind, install, install_and_bind, path, patient};
use crate::support::{DEVELOPER, TestApp};

#[tokio::test]
async fn a_policy_is_asked_at_the_hooks_for_which_it_is_bound_alone() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let terms = patient(json!({ "hooks": ["after-reset"] }));
    let binding = install_and_bind(&admin, denying("1.0.0", "one"), terms).await;
    admin.reset(DEVELOPER).await.assert_ok(); // it would deny before, and is not asked then
    let calls = app.last_entry()["details"]["policies"].clone();
    assert_eq!(calls.as_array().map(Vec::len), Some(1), "{calls}");
    assert_eq!(calls[0]["hook"], "after-reset", "{calls}");
    let both = json!({ "hooks": ["before-reset", "after-reset"] });
    admin.patch(&binding, both).await.assert_ok();
    assert_denied(&admin.reset(app.second_admin.id).await, "one");
}

#[tokio::test]
async fn of_two_that_deny_the_first_in_order_names_itself_and_the_nodes_comes_before_all() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let (one, two) = (
        install(&admin, denying("1.0.0", "one")).await,
        install(&admin, denying("1.0.1", "two")).await,
    );
    let terms = |order: i32| patient(json!({ "order": order }));
    let first = path(&bind(&admin, &one, terms(20)).await);
    bind(&admin, &two, terms(10)).await; // bound later, asked earlier
    assert_denied(&admin.reset(DEVELOPER).await, "two");
    let calls = app.last_entry()["details"]["policies"].clone();
    let before = |hook: &serde_json::Value| hook["hook"] == "before-reset";
    let asked = calls
        .as_array()
        .unwrap()
        .iter()
        .filter(|call| before(call))
        .count();
    assert_eq!(asked, 1, "the first denial ends it: {calls}");
    admin.patch(&first, json!({ "order": 5 })).await.assert_ok();
    assert_denied(&admin.reset(DEVELOPER).await, "one");

    // Whatever an organisation says of its own order.
    admin.patch(&first, json!({ "order": -1000 })).await.assert_ok();
    app.bind_for_node(denying("9.0.0", "node")).await;
    assert_denied(&admin.reset(DEVELOPER).await, "node");
}
