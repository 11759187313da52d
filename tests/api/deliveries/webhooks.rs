//! Calls of webhooks: signed, to listed hosts alone.

use jiff::SignedDuration;
use latchkey::service::deliveries::{Channel, DeliveryState, WAITS_SECS};
use serde_json::json;
use standardwebhooks::Webhook;

use super::receivers::Receiver;
use super::{app_with_webhooks, owe, round, state, webhook};

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the receiver's own library looks at the real clock"
)]
async fn a_webhook_call_is_verified_by_its_receivers_own_library() {
    let receiver = Receiver::start();
    let app = app_with_webhooks(&["127.0.0.1"], &["127.0.0.0/8"]).await;
    let behind = jiff::Timestamp::now().duration_since(app.services.clock.now());
    app.advance(behind);
    owe(&app, webhook(&app, &receiver.url())).await;
    receiver.answer_next(&["503 Busy"]);
    round(&app, Channel::Webhook).await;
    assert_eq!(
        state(&app),
        (
            DeliveryState::Owed,
            1,
            Some("the receiver answered 503 Service Unavailable".into())
        )
    );
    app.advance(SignedDuration::from_secs(WAITS_SECS[0]));
    round(&app, Channel::Webhook).await;
    assert_eq!(state(&app), (DeliveryState::Sent, 2, None));
    let calls = receiver.calls();
    assert_eq!(calls.len(), 2);
    let secret = app.services.keys.webhook_secret(Some(app.acme));
    let library = Webhook::from_bytes(secret.to_vec()).unwrap();
    for call in &calls {
        println!("{}\n{:#?}\n{}", call.request, call.headers, call.body);
        assert_eq!(call.request, "POST /latchkey HTTP/1.1");
        library.verify(call.body.as_bytes(), &call.headers).unwrap();
        let tampered = call.body.replace("u-1", "u-2");
        assert!(library.verify(tampered.as_bytes(), &call.headers).is_err());
    }
    let id = |n: usize| calls[n].headers["webhook-id"].clone();
    assert_eq!(id(0), id(1), "the same message");
    let others = app.services.keys.webhook_secret(Some(app.globex));
    let others = Webhook::from_bytes(others.to_vec()).unwrap();
    assert!(
        others
            .verify(calls[0].body.as_bytes(), &calls[0].headers)
            .is_err()
    );
    let body: serde_json::Value = serde_json::from_str(&calls[0].body).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]),
        (&json!("user.mfa.reset"), &json!({"userId": "u-1"}))
    );
}

#[tokio::test]
async fn a_webhook_reaches_no_unlisted_host_no_private_address_and_follows_no_redirect() {
    let (receiver, inside) = (Receiver::start(), Receiver::start());
    let port = receiver.address.port();
    // Listed by name, but the addresses are not public.
    let app = app_with_webhooks(&["127.0.0.1", "localhost"], &[]).await;
    for (url, end, why) in [
        (receiver.url(), DeliveryState::Dead, "not public"),
        (
            format!("https://hooks.example.org:{port}/"),
            DeliveryState::Dead,
            "not listed",
        ),
        (
            format!("http://localhost:{port}/"),
            DeliveryState::Dead,
            "https://",
        ),
        (
            format!("https://localhost:{port}/"),
            DeliveryState::Owed,
            "which is not public",
        ),
    ] {
        owe(&app, webhook(&app, &url)).await;
        round(&app, Channel::Webhook).await;
        let (state, _, error) = state(&app);
        assert_eq!(state, end, "{url}");
        assert!(
            error.as_ref().is_some_and(|e| e.contains(why)),
            "{url}: {error:?}"
        );
    }
    assert_eq!(receiver.calls().len(), 0);

    let app = app_with_webhooks(&["127.0.0.1"], &["127.0.0.0/8"]).await;
    receiver.answer_next(&[&format!("302 Found\r\nlocation: {}", inside.url()), "410 Gone"]);
    owe(&app, webhook(&app, &receiver.url())).await;
    round(&app, Channel::Webhook).await;
    assert_eq!(
        state(&app),
        (
            DeliveryState::Owed,
            1,
            Some("the receiver answered 302 Found".into())
        )
    );
    assert_eq!(inside.calls().len(), 0);
    app.advance(SignedDuration::from_secs(WAITS_SECS[0]));
    round(&app, Channel::Webhook).await;
    assert_eq!(
        state(&app).0,
        DeliveryState::Dead,
        "who is gone is not called again"
    );
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the receiver's own library looks at the real clock"
)]
async fn an_organisations_webhook_is_called_at_a_listed_host_and_signed_with_its_secret() {
    let receiver = Receiver::start();
    let app = app_with_webhooks(&["127.0.0.1"], &["127.0.0.0/8"]).await;
    app.advance(jiff::Timestamp::now().duration_since(app.services.clock.now()));
    let (admin, settings) = (app.admin().await, "/api/v1/organization/settings");
    for (url, problem) in [
        (
            "https://elsewhere.example/",
            "names a host that the operator has not listed",
        ),
        ("ftp://127.0.0.1/", "must begin with https://"),
        (
            "nowhere",
            "is not a URL such as https://hooks.example.org/latchkey",
        ),
    ] {
        let answer = admin.patch(settings, json!({ "webhookUrl": url })).await;
        assert_eq!(answer.status.as_u16(), 400, "{}", answer.text);
        assert_eq!(answer.body["validationErrors"]["webhookUrl"], problem);
    }
    let url = format!("{}?token=s3cr3t", receiver.url());
    admin
        .patch(settings, json!({ "webhookUrl": url }))
        .await
        .assert_ok();
    let changed = app.last_entry()["details"]["changes"]["webhookUrl"].clone();
    let to = changed["to"].as_str().unwrap();
    assert!(
        to.contains("://127.0.0.1:") && !to.contains("s3cr3t"),
        "{changed}"
    );
    let shown = admin.get("/api/v1/organization/webhook-secret").await;
    let secret = shown.assert_ok()["secret"].as_str().unwrap();
    app.member()
        .await
        .get("/api/v1/organization/webhook-secret")
        .await
        .assert_error(403, "Role ORG_ADMIN is required");
    admin.reset(app.developer.id).await.assert_ok();
    assert_eq!(round(&app, Channel::Webhook).await, 1);
    let call = receiver.calls().remove(0);
    println!("{:#?}\n{}", call.headers, call.body);
    Webhook::new(secret)
        .unwrap()
        .verify(call.body.as_bytes(), &call.headers)
        .unwrap();
    let body: serde_json::Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!(body["type"], "user.mfa.reset");
    assert_eq!(body["data"]["userId"], app.developer.id.to_string());
    assert_eq!(body["data"]["actorId"], app.admin.id.to_string());
}
